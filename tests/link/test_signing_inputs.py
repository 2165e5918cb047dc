"""What is signed: no two domains, fields or runs share an input."""

import hashlib
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.link.messages import Fault
from wardround.link.signing_inputs import (
    approval_bytes,
    call_bytes,
    call_digest,
    participation_bytes,
    release_bytes,
    reply_bytes,
)

DIGEST = bytes(range(32))


def test_a_call_is_signed_field_by_field() -> None:
    made = call_bytes("r1", "train", b"order", b"", b"spec", DIGEST)
    expected = b"wardround link 1\0\x04call"
    for field in (
        b"r1",
        b"train",
        hashlib.sha256(b"order").digest(),
        hashlib.sha256(b"").digest(),
        hashlib.sha256(b"spec").digest(),
        DIGEST,
    ):
        expected += len(field).to_bytes(4, "little") + field
    assert made == expected
    assert call_digest("r1", "train", b"order", b"", b"spec", DIGEST) == hashlib.sha256(expected).digest()


def test_every_field_changes_what_is_signed() -> None:
    inputs = [
        call_bytes("r1", "train", b"order", b"protocol", b"spec", DIGEST),
        call_bytes("r2", "train", b"order", b"protocol", b"spec", DIGEST),
        call_bytes("r1", "evaluate", b"order", b"protocol", b"spec", DIGEST),
        call_bytes("r1", "train", b"x", b"protocol", b"spec", DIGEST),
        call_bytes("r1", "train", b"order", b"x", b"spec", DIGEST),
        call_bytes("r1", "train", b"order", b"protocol", b"x", DIGEST),
        call_bytes("r1", "train", b"order", b"protocol", b"spec", None),
    ]
    inputs += [reply_bytes(DIGEST, fault, DIGEST) for fault in Fault]
    inputs += [reply_bytes(DIGEST, Fault.NONE, bytes(32)), reply_bytes(bytes(32), Fault.NONE, DIGEST)]
    inputs += [approval_bytes("r1", "d", "approved"), approval_bytes("r1", "d", "denied")]
    about = [("r1", "d", DIGEST, 3, "t"), ("r2", "d", DIGEST, 3, "t"), ("r1", "e", DIGEST, 3, "t")]
    about += [("r1", "d", bytes(32), 3, "t"), ("r1", "d", DIGEST, 0, "t"), ("r1", "d", DIGEST, 3, "u")]
    inputs += [participation_bytes(*one) for one in about]
    inputs += [participation_bytes("r1", "d", DIGEST, None, "t")]
    inputs += [release_bytes(DIGEST, DIGEST, "t"), release_bytes(DIGEST, DIGEST, "u")]
    inputs += [release_bytes(bytes(32), DIGEST, "t"), release_bytes(DIGEST, bytes(32), "t")]
    assert all(one != other for one, other in combinations(inputs, 2))


@given(st.tuples(*[st.text(max_size=4)] * 3), st.tuples(*[st.text(max_size=4)] * 3))
def test_fields_cannot_be_moved_into_one_another(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (approval_bytes(*one) == approval_bytes(*other)) == (one == other)


@pytest.mark.parametrize("wrong", [b"", b"short", bytes(33)])
def test_a_digest_has_its_size(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        reply_bytes(wrong, Fault.NONE, DIGEST)
    with pytest.raises(ValueError, match="SHA-256"):
        reply_bytes(DIGEST, Fault.NONE, wrong)
    with pytest.raises(ValueError, match="SHA-256"):
        participation_bytes("r1", "d", wrong, 3, "t")
    with pytest.raises(ValueError, match="SHA-256"):
        release_bytes(DIGEST, wrong, "t")
