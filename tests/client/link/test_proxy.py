"""Which proxy is taken, from the variables that a hospital's IT sets."""

import pytest

from wardround.client.link.proxy import proxy_for, split_target
from wardround.errors import LocalError

TARGET = "fl.example.org:8444"
PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY}, PROXY),
        ({"https_proxy": "http://small:1", "HTTPS_PROXY": PROXY}, "http://small:1"),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": "proxy:3128"}, PROXY),
        ({"HTTPS_PROXY": "http://user:p%40ss@proxy:3128/"}, "http://user:p%40ss@proxy:3128"),
        ({"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "other.org,fl.example.org"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": " .example.org "}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "example.org"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "*.example.org"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "fl.example.org:8444"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "fl.example.org:443"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "ample.org,example.com"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "no_proxy": ""}, PROXY),
    ],
)
def test_the_proxy_of_an_environment(environment: dict[str, str], expected: str | None) -> None:
    assert proxy_for(TARGET, environment) == expected


@pytest.mark.parametrize(
    ("target", "exceptions", "excepted"),
    [
        ("10.1.2.3:8444", "10.0.0.0/8", True),
        ("11.1.2.3:8444", "10.0.0.0/8", False),
        ("10.1.2.3:8444", "10.1.2.3", True),
        ("[fd00::7]:8444", "fd00::/8", True),
        ("[fd00::7]:8444", "[fd00::7]", True),
        ("FL.Example.ORG:8444", "fl.example.org", True),
        ("fl.example.org:8444", "nonsense/99", False),
    ],
)
def test_exceptions_by_address(target: str, exceptions: str, excepted: bool) -> None:
    assert (proxy_for(target, {"HTTPS_PROXY": PROXY, "NO_PROXY": exceptions}) is None) == excepted


@pytest.mark.parametrize("value", ["https://proxy:3128", "socks5://proxy:1", "http://proxy", "http://u:SECRET@proxy:x"])
def test_what_is_no_http_proxy_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(LocalError, match=r"^HTTPS_PROXY: expected http://HOST:PORT") as found:
        proxy_for(TARGET, {"HTTPS_PROXY": value})
    assert "SECRET" not in str(found.value)


@pytest.mark.parametrize("target", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "fd00::7:1", "[]:1"])
def test_an_address_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(LocalError, match="expected an address like"):
        split_target(target)


def test_addresses_are_taken_apart() -> None:
    assert split_target("fl.example.org:8444") == ("fl.example.org", 8444)
    assert split_target("[fd00::7]:1") == ("fd00::7", 1)
