"""Sharing against arithmetic bit by bit, any threshold of holders, and the exact distribution of fewer shares."""

import hashlib
from collections.abc import Callable
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.secagg.shamir import MAX_HOLDERS, combine, split


def stream(number: int) -> Callable[[int], bytes]:
    """Random bytes that are the same in every test run."""
    return hashlib.shake_256(number.to_bytes(8, "big")).digest


@cache
def times(a: int, b: int) -> int:
    """The product in the field of AES, FIPS 197 section 4.2, bit by bit."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


@cache
def inverse(a: int) -> int:
    return next(b for b in range(1, 256) if times(a, b) == 1)


def interpolated(values: dict[int, int], at: int) -> int:
    """The value at `at` of the polynomial of least degree through `values`, point → value."""
    result = 0
    for x, value in values.items():
        weight = 1
        for other in values:
            if other != x:
                weight = times(weight, times(at ^ other, inverse(x ^ other)))
        result ^= times(weight, value)
    return result


def test_the_oracle_multiplies_as_fips_197_does() -> None:
    assert times(0x57, 0x83) == 0xC1 and times(0x57, 0x13) == 0xFE


@st.composite
def sharings(draw: st.DrawFn) -> tuple[bytes, int, int, list[int], int]:
    """Secrets, threshold, holders, threshold of the holders in any order, and the number of a random stream."""
    holders = draw(st.integers(1, 40) | st.integers(1, MAX_HOLDERS))
    threshold = draw(st.integers(1, holders))
    chosen = draw(st.permutations(range(holders)))[:threshold]
    secrets = draw(st.binary(min_size=1, max_size=40) | st.binary(min_size=1020, max_size=1030))
    return secrets, threshold, holders, chosen, draw(st.integers(0, 2**32))


@given(sharings())
def test_any_threshold_of_shares_gives_the_secrets(sharing: tuple[bytes, int, int, list[int], int]) -> None:
    secrets, threshold, holders, chosen, number = sharing
    shares = split(secrets, threshold, holders, stream(number))
    assert len(shares) == holders and {len(share) for share in shares} == {len(secrets)}
    assert combine({holder: shares[holder] for holder in chosen}, threshold) == secrets


@pytest.mark.parametrize(("threshold", "holders"), [(1, 1), (1, 4), (2, 3), (3, 3), (5, 9), (7, 16), (20, 33)])
def test_shares_are_values_of_a_polynomial_of_that_degree(threshold: int, holders: int) -> None:
    secrets = b"\x00\x01\xff\x53"
    shares = split(secrets, threshold, holders, stream(holders))
    for at, secret in enumerate(secrets):
        values = {holder + 1: share[at] for holder, share in enumerate(shares)}
        through = dict(list(values.items())[:threshold])
        assert interpolated(through, 0) == secret
        assert all(interpolated(through, x) == value for x, value in values.items())


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_every_subset_that_is_large_enough_gives_the_secrets(threshold: int) -> None:
    shares = split(b"five holders", threshold, 5, stream(0))
    for size in range(threshold, 6):
        for chosen in combinations(range(5), size):
            assert combine({holder: shares[holder] for holder in chosen}, threshold) == b"five holders"


def every_draw(threshold: int) -> tuple[int, Callable[[int], bytes]]:
    """How many draws there are of threshold - 1 random bytes, and a stream that gives each to one secret."""
    number = 256 ** (threshold - 1)
    draws = np.indices((256,) * (threshold - 1), dtype=np.uint8).reshape(threshold - 1, number).tobytes()

    def random(size: int) -> bytes:
        assert size == len(draws)
        return draws

    return number, random


@pytest.mark.parametrize("secret", [0, 1, 0x8E, 255])
def test_one_share_of_two_is_every_byte_equally_often_whatever_the_secret(secret: int) -> None:
    number, random = every_draw(2)
    for share in split(bytes([secret]) * number, 2, MAX_HOLDERS, random):
        assert sorted(share) == list(range(256))


@pytest.mark.parametrize("secret", [0, 0xC3])
def test_two_shares_of_three_are_every_pair_equally_often_whatever_the_secret(secret: int) -> None:
    number, random = every_draw(3)
    shares = [np.frombuffer(share, np.uint8) for share in split(bytes([secret]) * number, 3, 6, random)]
    for one, other in combinations(shares, 2):
        pairs = one.astype(np.uint16) << 8 | other
        assert np.array_equal(np.bincount(pairs, minlength=number), np.ones(number))


def test_one_share_too_few_fits_every_secret() -> None:
    shares = split(b"\x2a", 4, 7, stream(1))
    known = {holder: shares[holder] for holder in (1, 4, 6)}
    fitting = {combine({**known, 2: bytes([guess])}, 4) for guess in range(256)}
    assert fitting == {bytes([secret]) for secret in range(256)}


def test_surplus_shares_are_left_alone() -> None:
    shares = split(bytes(32), 2, 4, stream(2))
    assert combine({0: shares[0], 1: shares[1], 3: b"\x01" * 32}, 2) == bytes(32)
    assert combine({0: shares[0], 1: b"\x01" * 32, 3: shares[3]}, 2) != bytes(32)


def test_randomness_is_asked_for_once_and_used_in_full() -> None:
    asked: list[int] = []

    def random(size: int) -> bytes:
        asked.append(size)
        return stream(3)(size)

    split(bytes(70), 5, 9, random)
    assert asked == [4 * 70]
    before = split(b"a", 3, 3, lambda size: b"\x00\x00")
    assert before == [b"a"] * 3
    for drawn in (b"\x01\x00", b"\x00\x01"):
        shares = split(b"a", 3, 3, lambda size, drawn=drawn: drawn)  # type: ignore[misc]
        assert shares != before and combine(dict(enumerate(shares)), 3) == b"a"


def test_known_answers_for_another_decoder() -> None:
    """32 bytes 00 01 ... 1f among 5 holders, 3 enough, random bytes 80 81 ... bf."""
    shares = split(bytes(range(32)), 3, 5, lambda size: bytes(range(128, 128 + size)))
    assert [share[:4].hex() for share in shares] == ["80808080", "bbb9bfbd", "3b383d3e", "dbd8ddde", "5b595f5d"]
    assert (
        hashlib.sha256(b"".join(shares)).hexdigest()
        == "4ae791f5551dbcd14b5a086c954337e80c07f3689837e3672d20df459cda4138"
    )


@pytest.mark.parametrize(("threshold", "holders"), [(0, 3), (-1, 3), (4, 3), (1, 0), (2, 256), (256, 256)])
def test_impossible_thresholds_are_refused(threshold: int, holders: int) -> None:
    with pytest.raises(ValueError, match="expected 1 <= threshold <= holders <= 255"):
        split(b"s", threshold, holders, stream(0))


def test_no_secrets_and_short_randomness_are_refused() -> None:
    with pytest.raises(ValueError, match="secrets of at least one byte"):
        split(b"", 2, 3, stream(0))
    for size in (0, 3, 5):
        with pytest.raises(ValueError, match=f"expected 4 random bytes, got {size}"):
            split(bytes(4), 2, 3, lambda _, size=size: bytes(size))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("shares", "threshold", "text"),
    [
        ({}, 1, "shares of at least 1 holders, got 0"),
        ({0: b"a", 4: b"b"}, 3, "shares of at least 3 holders, got 2"),
        ({0: b"a", 1: b"bc"}, 2, r"one length above 0, got lengths \[1, 2\]"),
        ({0: b"a", 1: b"b", 2: b""}, 2, r"one length above 0, got lengths \[0, 1\]"),
        ({0: b"", 1: b""}, 2, r"one length above 0, got lengths \[0\]"),
        ({0: b"a", 255: b"b"}, 2, "holders of 0 to 254, got 255"),
        ({-1: b"a", 1: b"b"}, 2, "holders of 0 to 254, got -1"),
        ({0: b"a"}, 0, "a threshold of 1 to 255, got 0"),
        ({0: b"a"}, 256, "a threshold of 1 to 255, got 256"),
    ],
)
def test_shares_that_do_not_fit_are_refused(shares: dict[int, bytes], threshold: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        combine(shares, threshold)
