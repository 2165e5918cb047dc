"""Agreement against RFC 7748 and an independent HKDF; what is refused; and a cloned key that is of no use."""

import hashlib
import hmac
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.secagg.key_agreement import (
    KeyPair,
    check_public_key,
    encode_index,
    generate,
    pair_key,
    pair_seed,
    share_key,
)

PRIME = 2**255 - 19
ROSTER, H = bytes(range(32)), bytes(range(32, 64))
# RFC 7748, section 6.1
ALICE = KeyPair(
    private=bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"),
    public=bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"),
)
BOB = KeyPair(
    private=bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"),
    public=bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"),
)
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
SMALL_ORDER = [  # all canonical ones: 0 of order 2, 1 and p - 1 of order 4, two of order 8
    bytes(32),
    bytes([1, *bytes(31)]),
    (PRIME - 1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


def hkdf_sha256(prk: bytes, info: bytes) -> bytes:
    """One block of HKDF-Expand, RFC 5869 section 2.3."""
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def test_a_pair_is_the_one_of_its_random_bytes() -> None:
    for pair in (ALICE, BOB):
        assert generate(lambda size, pair=pair: pair.private[:size]) == pair  # type: ignore[misc]


def test_the_private_key_is_not_shown() -> None:
    assert ALICE.private.hex() not in repr(ALICE) and str(ALICE.private) not in repr(ALICE)


def test_the_agreement_is_that_of_rfc_7748_under_the_roster() -> None:
    expected = hmac.new(ROSTER, SHARED, hashlib.sha256).digest()
    assert pair_key(ALICE.private, BOB.public, ROSTER) == pair_key(BOB.private, ALICE.public, ROSTER) == expected
    assert pair_key(ALICE.private, BOB.public, H) != expected


def test_known_answers_for_another_decoder() -> None:
    prk = pair_key(ALICE.private, BOB.public, ROSTER)
    assert prk.hex() == "b0ef915c48b15e3292a474783a59ffbd7a8f06b05e1a6efe90e23b46ffeaef91"
    assert pair_seed(prk, H, 1, 258).hex() == "83fdf474c527676140a49e845b29a8bb6fee326815c72c2a467623e65fbd7fbc"
    assert share_key(prk, H, 258, 1).hex() == "529d0261f96451c672ffd5617f7bab7ef29d34c0db42db3fab8550f7105a7362"


def test_the_infos_are_those_that_are_written_down() -> None:
    prk = bytes(range(64, 96))
    assert pair_seed(prk, H, 3, 260) == hkdf_sha256(prk, b"pair" + H + b"\x00\x03\x01\x04")
    assert share_key(prk, H, 260, 3) == hkdf_sha256(prk, b"share" + H + b"\x01\x04\x00\x03")


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([H, ROSTER]))
def test_seeds_and_keys_differ_by_purpose_round_pair_and_direction(i: int, j: int, h: bytes) -> None:
    prk, made = bytes(32), set[bytes]()
    if i == j:
        j += 1
    lo, hi = sorted((i, j))
    made.update((pair_seed(prk, h, lo, hi), pair_seed(prk, h, lo, hi + 1), pair_seed(prk, bytes(32), lo, hi)))
    made.update((share_key(prk, h, i, j), share_key(prk, h, j, i), share_key(prk, bytes(32), i, j)))
    assert len(made) == 6


def test_a_cloned_key_agrees_on_the_same_secret_but_has_other_seeds() -> None:
    """A key that differs by the point of order 2 passes every check of a single key; only the names keep it apart."""
    clone = pow(int.from_bytes(ALICE.public, "little"), -1, PRIME).to_bytes(32, "little")
    check_public_key(clone)
    assert clone != ALICE.public
    prk = pair_key(BOB.private, clone, ROSTER)
    assert prk == pair_key(BOB.private, ALICE.public, ROSTER)  # the attack is real
    assert pair_seed(prk, H, 1, 2) != pair_seed(prk, H, 0, 2)
    assert share_key(prk, H, 2, 1) != share_key(prk, H, 2, 0)


@pytest.mark.parametrize("public", SMALL_ORDER, ids=["0", "1", "-1", "order 8 a", "order 8 b"])
def test_keys_of_small_order_are_refused(public: bytes) -> None:
    check_public_key(public)
    with pytest.raises(ValueError, match="large order, got one that agrees on zero"):
        pair_key(ALICE.private, public, ROSTER)


@pytest.mark.parametrize("coordinate", [PRIME, PRIME + 1, PRIME + 9, 2**255 - 1, 2**255, 2**255 + 9, 2**256 - 1])
def test_encodings_that_are_not_canonical_are_refused(coordinate: int) -> None:
    public = coordinate.to_bytes(32, "little")
    for refused in (check_public_key, lambda key: pair_key(ALICE.private, key, ROSTER)):
        with pytest.raises(ValueError, match="canonical form, below 2\\^255 - 19"):
            refused(public)


def test_the_highest_bit_of_an_honest_key_is_refused_though_x25519_would_ignore_it() -> None:
    flipped = BOB.public[:31] + bytes([BOB.public[31] | 0x80])
    with pytest.raises(ValueError, match="canonical form"):
        pair_key(ALICE.private, flipped, ROSTER)


@given(st.binary(min_size=32, max_size=32))
def test_made_keys_are_canonical_and_agree(private: bytes) -> None:
    pair = generate(lambda _: private)
    check_public_key(pair.public)
    assert pair_key(pair.private, BOB.public, ROSTER) == pair_key(BOB.private, pair.public, ROSTER)


def test_lengths_other_than_32_are_refused() -> None:
    for size in (0, 16, 31, 33, 64):
        wrong = os.urandom(size)
        with pytest.raises(ValueError, match=f"private key of 32 bytes, got {size}"):
            generate(lambda _, wrong=wrong: wrong)  # type: ignore[misc]
        with pytest.raises(ValueError, match=f"private key of 32 bytes, got {size}"):
            pair_key(wrong, BOB.public, ROSTER)
        with pytest.raises(ValueError, match=f"public key of 32 bytes, got {size}"):
            pair_key(ALICE.private, wrong, ROSTER)
        with pytest.raises(ValueError, match=f"digest of 32 bytes, got {size}"):
            pair_key(ALICE.private, BOB.public, wrong)
        for derive in (pair_seed, share_key):
            with pytest.raises(ValueError, match=f"key of 32 bytes, got {size}"):
                derive(wrong, H, 1, 2)
            with pytest.raises(ValueError, match=f"digest of 32 bytes, got {size}"):
                derive(bytes(32), wrong, 1, 2)


def test_indices_out_of_order_or_of_range_are_refused() -> None:
    for lo, hi in ((2, 1), (1, 1)):
        with pytest.raises(ValueError, match=f"lower index first, got {lo} and {hi}"):
            pair_seed(bytes(32), H, lo, hi)
    with pytest.raises(ValueError, match="two members, got 5 twice"):
        share_key(bytes(32), H, 5, 5)
    for index in (-1, 65_536):
        with pytest.raises(ValueError, match=f"roster index of 0 to 65535, got {index}"):
            share_key(bytes(32), H, index, 1)
    assert encode_index(65_535) == b"\xff\xff"
