"""The keystream against known answers, its numbers against their distributions, and no repetition by fork or thread."""

import copy
import math
import os
import pickle
import subprocess
import sys
import threading
from itertools import combinations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wardround.strategies.privacy.secure_random import GRID, GRID_PER_UNIT, U64, SecureRandom

KEY = bytes(range(32))
FALSE_ALARM = 1e-9
MANY = 400_000


def fixed(purpose: int = 0) -> SecureRandom:
    return SecureRandom(bytes([purpose]) * 32)


@pytest.mark.parametrize(
    ("key", "block"),
    [  # NIST AESAVS: KeySbox of 256 bits, first entry; and a key of zeros
        ("c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558", "46f2fb342d6f0ab477476fc501242c5f"),
        ("00" * 32, "dc95c078a2408989ad48a21492842087"),
    ],
)
def test_the_first_words_are_the_known_answers_of_nist(key: str, block: str) -> None:
    assert SecureRandom(bytes.fromhex(key)).words(2).astype("<u8").tobytes().hex() == block


def test_words_are_the_encrypted_counters() -> None:
    blocks = b"".join(counter.to_bytes(16, "big") for counter in range(600))
    encrypted = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor().update(blocks)  # noqa: S305 (an oracle)
    np.testing.assert_array_equal(SecureRandom(KEY).words(1200), np.frombuffer(encrypted, "<u8"))


@given(st.lists(st.integers(0, 70), max_size=8))
def test_words_in_pieces_are_the_same_words(sizes: list[int]) -> None:
    whole, pieces = SecureRandom(KEY).words(sum(sizes)), SecureRandom(KEY)
    assert [word for size in sizes for word in pieces.words(size).tolist()] == whole.tolist()


def test_two_streams_of_the_operating_system_differ() -> None:
    assert not np.array_equal(SecureRandom().words(4), SecureRandom().words(4))


def test_uniform_is_the_upper_53_bits_of_a_word() -> None:
    expected = [(word >> 11) * 2.0**-53 for word in SecureRandom(KEY).words(1000).tolist()]
    assert SecureRandom(KEY).uniform(1000).tolist() == expected
    assert stats.kstest(fixed().uniform(MANY), "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize(("word", "size"), [(2**64 - 1, math.sqrt(212 * math.log(2))), (0, 0.0)])
def test_the_ends_of_the_words_give_finite_normals(monkeypatch: pytest.MonkeyPatch, word: int, size: float) -> None:
    def words(self: SecureRandom, n: int) -> U64:
        return np.full(n, word, dtype=np.uint64)

    monkeypatch.setattr(SecureRandom, "words", words)
    normals = fixed().normal(2)
    assert float(np.hypot(*normals)) == pytest.approx(size, abs=1e-12)
    assert np.abs(fixed().grid_normal(2)).max() == round(size * GRID_PER_UNIT)


def test_the_tail_is_as_fine_as_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps of 2^-53 the radii beyond 7 lie further apart than the grid: a sum could be told from its neighbour."""
    real = SecureRandom.words
    first = True

    def words(self: SecureRandom, n: int) -> U64:
        nonlocal first
        found = real(self, n)
        if first:
            found[::2] = np.uint64(2**64 - 1) - (found[::2] >> np.uint64(50))  # radii of 2^-53 to 8 x 2^-53
        first = False
        return found

    monkeypatch.setattr(SecureRandom, "words", words)
    radii = np.hypot(*fixed().normal(16_000).reshape(-1, 2).T)  # made at once
    assert radii.min() > 8 and len(np.unique(radii)) > 7_990
    survival = np.exp(-(radii**2) / 2) / (8 * 2.0**-53)
    assert stats.kstest(survival, "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize("n", [0, 1, 2, 5, 16_384, 16_385, 40_001])
def test_grid_normals_are_the_normals_to_the_nearest_step(n: int) -> None:
    normals, steps = SecureRandom(KEY).normal(n), SecureRandom(KEY).grid_normal(n)
    assert normals.shape == steps.shape == (n,) and steps.dtype == np.int64
    np.testing.assert_array_equal(steps, np.round(normals / GRID).astype(np.int64))


def test_normals_are_those_of_box_and_muller() -> None:
    n = 40_000
    uniform = SecureRandom(KEY).uniform(n).reshape(-1, 2)
    radius, angle = np.sqrt(-2 * np.log(1 - uniform[:, 0])), 2 * np.pi * (uniform[:, 1] - 0.5)
    expected = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)
    np.testing.assert_allclose(SecureRandom(KEY).normal(n), expected, rtol=0, atol=1e-14)


def test_normals_in_even_pieces_are_the_same_normals() -> None:
    pieces = SecureRandom(KEY)
    joined = np.concatenate([pieces.grid_normal(size) for size in (2, 16_384, 100, 3)])
    np.testing.assert_array_equal(joined, SecureRandom(KEY).grid_normal(16_489))


def test_normals_are_normal_to_their_tails() -> None:
    normals = fixed(1).grid_normal(10 * MANY) * GRID
    assert stats.kstest(normals, "norm").pvalue > FALSE_ALARM
    squares = float(np.sum(normals**2))  # chi-square: half a per cent of deviation would show
    assert min(stats.chi2.cdf(squares, normals.size), stats.chi2.sf(squares, normals.size)) > FALSE_ALARM
    for limit in (2.0, 3.0, 4.0, 4.8):
        for outside in (normals > limit, normals < -limit):
            beyond = stats.binomtest(int(outside.sum()), normals.size, stats.norm.sf(limit))
            assert beyond.pvalue > FALSE_ALARM, limit


def test_normals_are_independent_of_their_neighbours() -> None:
    normals = fixed(2).normal(MANY)
    for lag in (1, 2, 3, 16_384):
        for values in (normals, normals**2, np.abs(normals) - normals):
            found = stats.pearsonr(values[:-lag], values[lag:])
            assert found.pvalue > FALSE_ALARM, lag


def test_a_poisson_sample_takes_each_unit_at_its_rate_and_alone() -> None:
    n, rounds, rate = 50, 20_000, 0.13
    random, taken = fixed(3), np.zeros((rounds, n), dtype=bool)
    for row in taken:
        chosen = random.chosen(n, rate)
        assert (np.diff(chosen) > 0).all()
        row[chosen] = True
    for count in taken.sum(axis=0):
        assert stats.binomtest(int(count), rounds, rate).pvalue > FALSE_ALARM / n
    sizes = np.bincount(taken.sum(axis=1), minlength=n + 1)[:15]
    expected = rounds * stats.binom.pmf(np.arange(15), n, rate)  # sizes vary as they should: no fixed-size sample
    assert stats.chisquare(sizes, expected * sizes.sum() / expected.sum()).pvalue > FALSE_ALARM
    together = np.sum(taken[:, :-1] & taken[:, 1:])
    assert stats.binomtest(int(together), rounds * (n - 1), rate**2).pvalue > 1e-6


def test_poisson_samples_of_the_rates_at_the_ends() -> None:
    assert fixed().chosen(100, 0.0).size == 0
    np.testing.assert_array_equal(fixed().chosen(100, 1.0), np.arange(100))
    assert fixed().chosen(100_000, 1 - 2.0**-53).size == 100_000
    assert fixed().chosen(0, 0.5).size == 0
    assert fixed().chosen(5, 0.5).dtype == fixed().chosen(5, 1.0).dtype == np.int64
    for rate in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected a rate of 0 to 1"):
            fixed().chosen(10, rate)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_every_set_of_a_draw_is_equally_likely(k: int) -> None:
    random, rounds = fixed(4), 20_000
    counts = dict.fromkeys(combinations(range(6), k), 0)
    for _ in range(rounds):
        counts[tuple(random.draw(6, k).tolist())] += 1
    assert stats.chisquare(list(counts.values())).pvalue > FALSE_ALARM


def test_draws_of_none_of_all_and_of_many() -> None:
    assert fixed().draw(7, 0).size == fixed().draw(0, 0).size == 0
    np.testing.assert_array_equal(fixed().draw(7, 7), np.arange(7))
    drawn = fixed().draw(100_000, 1000)
    assert len(set(drawn.tolist())) == 1000 and (np.diff(drawn) > 0).all() and drawn.dtype == np.int64
    with pytest.raises(ValueError, match="expected k of at most n = 3, got 4"):
        fixed().draw(3, 4)


def test_a_draw_with_a_tie_at_its_border_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [np.array([5, 5, 9], dtype=np.uint64), np.array([5, 4, 4], dtype=np.uint64)]
    monkeypatch.setattr(SecureRandom, "words", lambda self, n: given.pop(0))
    np.testing.assert_array_equal(fixed().draw(3, 2), [0, 1])  # no tie at the border: both fives are in
    given[:] = [np.array([5, 5, 9], dtype=np.uint64), np.array([7, 4, 8], dtype=np.uint64)]
    np.testing.assert_array_equal(fixed().draw(3, 1), [1])
    assert not given


@pytest.mark.parametrize("call", ["words", "uniform", "normal", "grid_normal"])
def test_numbers_below_0_are_refused(call: str) -> None:
    with pytest.raises(ValueError, match="expected n of at least 0, got -1"):
        getattr(fixed(), call)(-1)
    assert getattr(fixed(), call)(0).shape == (0,)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"expected a key of 32 bytes, got {size}"):
        SecureRandom(bytes(size))


FORK = """
import os, sys
from wardround.strategies.privacy.secure_random import SecureRandom
free, keyed = SecureRandom(), SecureRandom(bytes(32))
free.words(3), keyed.words(3)
reader, writer = os.pipe()
with free._lock, keyed._lock:  # as if another thread were drawing in this moment
    child = os.fork()
if child == 0:
    try:
        keyed.words(1)
        answer = "drawn"
    except RuntimeError as error:
        answer = str(error)
    os.write(writer, free.words(4).tobytes() + answer.encode())
    os._exit(0)
os.waitpid(child, 0)
data = os.read(reader, 1000)
print(data[:32] != free.words(4).tobytes(), data[32:].decode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_a_stream_of_its_own_and_no_copy_of_a_given_key() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("True this stream of a given key was carried into a forked process")


def test_threads_share_a_stream_without_sharing_words() -> None:
    random, per_thread, drawn = SecureRandom(KEY), 400, []

    def draw() -> None:
        for _ in range(per_thread):
            drawn.append(random.words(5).tolist())

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words = sorted(word for piece in drawn for word in piece)
    assert words == sorted(SecureRandom(KEY).words(8 * per_thread * 5).tolist())


def test_words_wait_for_another_thread_that_draws() -> None:
    random, done = SecureRandom(KEY), threading.Event()

    def draw() -> None:
        random.words(1)
        done.set()

    thread = threading.Thread(target=draw)
    with random._lock:
        thread.start()
        assert not done.wait(0.2)
    thread.join(timeout=60)
    assert done.is_set()


def test_a_stream_tells_no_key_and_is_not_copied() -> None:
    assert repr(SecureRandom(KEY)) == "<SecureRandom, of a given key>"
    assert repr(SecureRandom()) == "<SecureRandom, keyed by the operating system>"
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="its stream would repeat"):
            duplicate(SecureRandom())
