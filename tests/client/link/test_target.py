"""Addresses to attach to."""

import pytest

from wardround.client.link.target import split_target
from wardround.errors import LocalError


@pytest.mark.parametrize("target", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "fd00::7:1", "[]:1"])
def test_an_address_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(LocalError, match="expected an address like"):
        split_target(target)


def test_addresses_are_taken_apart() -> None:
    assert split_target("fl.example.org:8444") == ("fl.example.org", 8444)
    assert split_target("[fd00::7]:1") == ("fd00::7", 1)
