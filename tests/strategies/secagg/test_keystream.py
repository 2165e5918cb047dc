"""Masks against known answers and counter mode; slices, threads and lanes; and that masks of pairs cancel."""

import hashlib
import threading
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.strategies.secagg import keystream
from wardround.strategies.secagg.keystream import SEGMENT_BYTES, U32, add_masks, mask, scalar_mask

SEED = bytes(range(32))
SEGMENT = SEGMENT_BYTES // 4
SIZES = [0, 1, 3, 4, 16_383, 16_384, 16_385, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 16_389]


def seed(number: int) -> bytes:
    return number.to_bytes(32, "big")


def counter_mode(key: bytes, nonce: str, size: int) -> bytes:
    """AES-CTR from nonce ‖ 00000002, of `cryptography`'s counter mode and not of its GCM."""
    start = bytes.fromhex(nonce) + (2).to_bytes(4, "big")
    return Cipher(algorithms.AES(key), modes.CTR(start)).encryptor().update(bytes(size))


def test_the_first_words_are_a_known_answer_of_nist() -> None:
    # GCM test case 14 (McGrew and Viega; CAVP): key, nonce and plaintext of zeros
    assert mask(bytes(32), 4).astype("<u4").tobytes().hex() == "cea7403d4d606b6e074ec5d3baf39d18"


def test_known_answers_for_another_decoder() -> None:
    """Of the seed 00 01 ... 1f."""
    assert mask(SEED, 4).tolist() == [3736452110, 3179490485, 900311048, 2576428056]
    assert scalar_mask(SEED, 2).tolist() == [12174454703140976196, 9238498746590116959]
    whole = mask(SEED, 600_000).astype("<u4").tobytes()
    assert hashlib.sha256(whole).hexdigest() == "30a451748101042ad24c0fa8307909aeb81c42ed47d55f374f061f00c76f41e1"


@pytest.mark.parametrize("size", SIZES)
def test_words_are_those_of_counter_mode_in_each_segment(size: int) -> None:
    expected = b"".join(
        counter_mode(SEED, f"00000000{segment:016x}", SEGMENT_BYTES) for segment in range(-(-size // SEGMENT))
    )
    words = mask(SEED, size)
    assert words.dtype == np.uint32 and words.shape == (size,)
    np.testing.assert_array_equal(words, np.frombuffer(expected, "<u4")[:size])


@pytest.mark.parametrize("size", [0, 1, 5, SEGMENT // 2, SEGMENT // 2 + 3])
def test_scalars_are_those_of_counter_mode_in_a_lane_of_their_own(size: int) -> None:
    expected = b"".join(counter_mode(SEED, f"00000001{segment:016x}", SEGMENT_BYTES) for segment in range(2))
    words = scalar_mask(SEED, size)
    assert words.dtype == np.uint64 and words.shape == (size,)
    np.testing.assert_array_equal(words, np.frombuffer(expected, "<u8")[:size])


def test_no_block_of_keystream_comes_twice_in_lanes_and_segments() -> None:
    vector = mask(SEED, 2 * SEGMENT).view("V16")
    scalars = scalar_mask(SEED, SEGMENT).view("V16")
    blocks = {block.tobytes() for lane in (vector, scalars) for block in lane}
    assert len(blocks) == len(vector) + len(scalars) == 4 * SEGMENT_BYTES // 16


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_change_nothing(threads: int) -> None:
    size = 4 * SEGMENT + 77
    total: U32 = np.arange(size, dtype=np.uint32)
    add_masks(total, [(seed(i), 1 if i % 3 else -1) for i in range(9)], threads=threads)
    expected: U32 = np.arange(size, dtype=np.uint32)
    for i in range(9):
        words = mask(seed(i), size)
        expected += words if i % 3 else np.negative(words)
    np.testing.assert_array_equal(total, expected)


def test_two_threads_work_at_the_same_time_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    both, make_cipher, seen = threading.Barrier(2, timeout=60), keystream._cipher, set[int]()

    def cipher(*arguments: Any) -> Any:
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            both.wait()  # raises when no other thread comes
        return make_cipher(*arguments)

    monkeypatch.setattr(keystream, "_cipher", cipher)
    add_masks(np.zeros(4 * SEGMENT, dtype=np.uint32), [(seed(k), 1) for k in range(4)])
    assert len(seen) == 2


def test_an_error_of_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def cipher(*arguments: Any) -> Any:
        raise MemoryError("no room for a cipher")

    monkeypatch.setattr(keystream, "_cipher", cipher)
    with pytest.raises(MemoryError, match="no room for a cipher"):
        add_masks(np.zeros(4 * SEGMENT, dtype=np.uint32), [(seed(k), 1) for k in range(4)])


def test_more_seeds_than_ciphers_are_held_at_a_time() -> None:
    total = np.zeros(100, dtype=np.uint32)
    add_masks(total, [(seed(i), 1) for i in range(200)])
    np.testing.assert_array_equal(total, sum((mask(seed(i), 100) for i in range(200)), np.zeros(100, np.uint32)))


@given(st.integers(0, 40_000), st.integers(0, 40_000))
def test_a_shorter_mask_is_the_start_of_a_longer_one(one: int, other: int) -> None:
    shorter, longer = sorted((one, other))
    np.testing.assert_array_equal(mask(SEED, shorter), mask(SEED, longer)[:shorter])
    np.testing.assert_array_equal(scalar_mask(SEED, shorter), scalar_mask(SEED, longer)[:shorter])


@given(st.integers(1, 7), st.integers(0, 50), st.randoms(use_true_random=False), st.integers(0, 2**32 - 1))
def test_masks_of_pairs_cancel_in_any_group_and_any_order(n: int, size: int, order: Random, word: int) -> None:
    pairs = {pair: seed(k + 1) for k, pair in enumerate(combinations(range(n), 2))}
    sent = []
    for i in range(n):
        seeds = [(s, 1 if i == lo else -1) for (lo, hi), s in pairs.items() if i in (lo, hi)]
        order.shuffle(seeds)
        total = np.full(size, (word + i) % 2**32, dtype=np.uint32)
        add_masks(total, seeds)
        sent.append(total)
    order.shuffle(sent)
    expected = sum(word + i for i in range(n)) % 2**32
    assert sum(sent, np.zeros(size, np.uint32)).tolist() == [expected] * size
    if n > 1 and size >= 8:  # and no one of them is what it was made from
        assert not any(np.all(total == total[0]) for total in sent)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, -1])), max_size=6), st.integers(0, 70_000))
def test_what_is_added_is_taken_off_again(chosen: list[tuple[int, int]], size: int) -> None:
    total: U32 = np.arange(size, dtype=np.uint32)
    add_masks(total, [(seed(k), sign) for k, sign in chosen])
    add_masks(total, [(seed(k), -sign) for k, sign in reversed(chosen)])
    np.testing.assert_array_equal(total, np.arange(size, dtype=np.uint32))


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([(SEED, 1), (bytes(16), 1)], "a seed of 32 bytes, got 16"),
        ([(SEED, 1), (bytes(24), 1)], "a seed of 32 bytes, got 24"),
        ([(SEED, 1), (b"", 1)], "a seed of 32 bytes, got 0"),
        ([(SEED, 1), (SEED, 0)], "a sign of 1 or -1, got 0"),
        ([(SEED, 1), (SEED, 2)], "a sign of 1 or -1, got 2"),
    ],
)
def test_bad_seeds_and_signs_are_refused_before_anything_changes(seeds: list[tuple[bytes, int]], text: str) -> None:
    total = np.zeros(10, dtype=np.uint32)
    with pytest.raises(ValueError, match=text):
        add_masks(total, seeds)
    assert not total.any()


def test_arrays_that_are_no_writeable_vector_of_uint32_are_refused() -> None:
    locked = np.zeros(4, dtype=np.uint32)
    locked.flags.writeable = False
    wrong: list[Any] = [np.zeros(4), np.zeros(4, ">u4"), np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2]]
    for total in (*wrong, locked):
        with pytest.raises(ValueError, match="expected a contiguous, writeable vector of uint32"):
            add_masks(total, [(SEED, 1)])


def test_a_negative_size_no_thread_and_a_short_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="a size of at least 0, got -1"):
        mask(SEED, -1)
    with pytest.raises(ValueError, match="a size of at least 0, got -1"):
        scalar_mask(SEED, -1)
    with pytest.raises(ValueError, match="a seed of 32 bytes, got 31"):
        scalar_mask(SEED[1:], 3)
    with pytest.raises(ValueError, match="at least 1 thread, got 0"):
        add_masks(np.zeros(1, dtype=np.uint32), [], threads=0)
