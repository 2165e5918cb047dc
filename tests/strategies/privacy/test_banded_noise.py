"""The noise against the dense C^-1 z, through crashes and aborted rounds."""

import copy
import hmac
import os
import pickle
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import LocalError
from wardround.file_store import FileStore
from wardround.state_store import MemoryStore, StateStore
from wardround.strategies.privacy.banded_matrix import banded_matrix
from wardround.strategies.privacy.banded_noise import BandedNoise
from wardround.strategies.privacy.noise_source import NoiseSource
from wardround.strategies.privacy.secure_random import GRID, SecureRandom
from wardround.vector import F64, I64

ROUNDS, BANDS, SIZE = 8, 3, 5
STATE = "privacy/banded-noise"


@pytest.fixture(autouse=True, scope="module")
def same_key() -> Iterator[None]:
    """One key for all tests: where dense algebra rounds another way is then found once, not some day."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(secrets, "token_bytes", lambda n: bytes(range(n)))
        yield


def source(store: StateStore, rounds: int = ROUNDS, bands: int = BANDS) -> BandedNoise:
    return BandedNoise(rounds=rounds, bands=bands, store=store)


def released(noise: BandedNoise, index: int, size: int = SIZE) -> I64:
    noise.begin(index)
    return noise.draw(size)


def key_in(store: StateStore) -> bytes:
    state = store.get(STATE)
    assert state is not None
    return state[24:56]


def independent(store: StateStore, size: int = SIZE, rounds: int = ROUNDS) -> F64:
    """z, shape (rounds, size), from the stored key."""
    keys = [hmac.digest(key_in(store), t.to_bytes(8, "big"), "sha256") for t in range(rounds)]
    return np.stack([SecureRandom(key).normal(size) for key in keys])


def expected(store: StateStore, size: int = SIZE, rounds: int = ROUNDS, bands: int = BANDS) -> I64:
    """C^-1 z by dense algebra, in steps of the grid."""
    solved = np.linalg.solve(banded_matrix(rounds, bands).dense(), independent(store, size, rounds))
    steps: I64 = np.rint(solved / GRID).astype(np.int64)
    return steps


def test_it_is_a_noise_source() -> None:
    noise: NoiseSource = source(MemoryStore())
    assert repr(noise) == "<BandedNoise of 8 rounds, 3 bands>"


@given(
    rounds=st.lists(st.sampled_from(["draw", "abort", "crash before", "crash after begin", "crash after draw"]),
                    min_size=ROUNDS, max_size=ROUNDS),
)  # fmt: skip
def test_it_is_the_dense_product_through_every_order_of_crashes_and_aborted_rounds(rounds: list[str]) -> None:
    store = MemoryStore()
    noise = source(store)
    for index, fate in enumerate(rounds):
        if fate == "crash before":
            noise = source(store)
        noise.begin(index)
        if fate in ("abort", "crash after begin"):
            noise = source(store) if fate != "abort" else noise
            continue
        drawn = noise.draw(SIZE)
        assert drawn.dtype == np.int64
        assert np.array_equal(drawn, expected(store)[index])
        if fate == "crash after draw":
            noise = source(store)


@pytest.mark.parametrize("restart", range(ROUNDS))
@pytest.mark.parametrize("aborted", [None, 0, 3, 6])
def test_a_restart_at_any_index_changes_nothing_that_follows(restart: int, aborted: int | None, tmp_path: Path) -> None:
    with FileStore(tmp_path / "state") as store:
        before = source(store)
        for index in range(restart):
            before.begin(index)
            if index != aborted:
                assert np.array_equal(before.draw(SIZE), expected(store)[index])
    with FileStore(tmp_path / "state") as store:
        after = source(store)
        for index in range(restart, ROUNDS):
            after.begin(index)
            if index != aborted:
                assert np.array_equal(after.draw(SIZE), expected(store)[index])


@pytest.mark.parametrize(("rounds", "bands"), [(4, 1), (1, 3), (6, 6), (6, 9)])
def test_it_is_the_dense_product_for_other_shapes(rounds: int, bands: int) -> None:
    store = MemoryStore()
    noise = source(store, rounds, bands)
    drawn = np.stack([released(noise, index) for index in range(rounds)])
    assert np.array_equal(drawn, expected(store, rounds=rounds, bands=bands))


def test_its_independent_parts_and_its_sums_have_the_variance_of_the_matrix() -> None:
    size = 40_000
    noise = source(MemoryStore())
    drawn = np.stack([released(noise, index, size) for index in range(ROUNDS)]) * GRID
    matrix = banded_matrix(ROUNDS, BANDS)
    parts = matrix.dense() @ drawn
    covariance = parts @ parts.T / size
    assert np.abs(covariance - np.eye(ROUNDS)).max() < 6 * (2 / size) ** 0.5
    neighbours = (parts[:, 1:] * parts[:, :-1]).mean(axis=1)
    assert np.abs(neighbours).max() < 6 / size**0.5
    spread = (drawn**2).mean(axis=1) / matrix.deviations() ** 2
    assert np.abs(spread - 1).max() < 6 * (2 / size) ** 0.5
    sums = (np.cumsum(drawn, axis=0) ** 2).mean(axis=1)
    of_sums = (np.cumsum(np.linalg.inv(matrix.dense()), axis=0) ** 2).sum(axis=1)
    assert np.abs(sums / of_sums - 1).max() < 6 * (2 / size) ** 0.5
    assert sums[-1] < 0.6 * ROUNDS  # fresh noise would have added up to ROUNDS


def test_rounding_the_noise_is_rounding_the_release() -> None:
    store = MemoryStore()
    drawn = released(source(store), 0)
    exact = np.linalg.solve(banded_matrix(ROUNDS, BANDS).dense(), independent(store))[0]
    on_grid = np.array([0, 3, -7, 1 << 30, -(1 << 25)])
    assert np.array_equal(on_grid + drawn, np.rint(on_grid + exact / GRID))


def test_an_index_is_used_once_even_if_nothing_was_released_with_it() -> None:
    store = MemoryStore()
    noise = source(store)
    noise.begin(0)
    with pytest.raises(LocalError, match="expected a value above 0, got 0"):
        noise.begin(0)
    again = source(store)  # the process was killed after `begin`
    with pytest.raises(LocalError, match="expected a value above 0, got 0"):
        again.begin(0)
    again.begin(1)


def test_a_begun_index_gives_one_draw() -> None:
    noise = source(MemoryStore())
    with pytest.raises(LocalError, match="expected an index"):
        noise.draw(SIZE)
    released(noise, 0)
    with pytest.raises(LocalError, match="one draw of each"):
        noise.draw(SIZE)


def test_two_sources_on_one_store_share_the_indices_and_the_sequence() -> None:
    store = MemoryStore()
    one, two = source(store), source(store)
    assert np.array_equal(released(one, 0), expected(store)[0])
    assert np.array_equal(released(two, 1), expected(store)[1])
    with pytest.raises(LocalError):
        one.begin(1)
    assert np.array_equal(released(one, 2), expected(store)[2])


def test_the_index_is_durable_before_its_noise_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(MemoryStore):
        def advance(self, key: str, to: int) -> None:
            raise LocalError("disk full")

    made: list[int] = []
    monkeypatch.setattr(SecureRandom, "normal", lambda self, n: made.append(n))
    noise = source(Full())
    with pytest.raises(LocalError, match="disk full"):
        noise.begin(0)
    with pytest.raises(LocalError, match="expected an index"):
        noise.draw(SIZE)
    assert made == []


@pytest.mark.parametrize("index", [-1, ROUNDS, ROUNDS + 5])
def test_no_more_releases_than_were_charged(index: int) -> None:
    noise = source(MemoryStore())
    with pytest.raises(ValueError, match=r"index 0 to 7.* aborted ones count too"):
        noise.begin(index)
    noise.begin(0)


def test_the_size_cannot_change_within_a_sequence() -> None:
    store = MemoryStore()
    released(source(store), 0)
    again = source(store)
    again.begin(1)
    with pytest.raises(ValueError, match="noise for 5 values, as in the draws before, got 6"):
        again.draw(6)
    assert np.array_equal(again.draw(SIZE), expected(store)[1])


@pytest.mark.parametrize(("rounds", "bands"), [(9, 3), (8, 2), (24, 1)])
def test_a_state_of_other_rounds_or_bands_is_refused(rounds: int, bands: int) -> None:
    store = MemoryStore()
    source(store)
    with pytest.raises(LocalError, match=r"got one of 8 and 3; .*start a new run"):
        source(store, rounds, bands)


def test_a_lost_state_is_not_replaced_in_the_middle_of_a_run() -> None:
    with pytest.raises(LocalError, match="noise of 3 earlier releases in the store, which has none"):
        source(MemoryStore()).begin(3)


def test_a_crash_between_the_charge_and_the_first_index_stops_no_run() -> None:
    store = MemoryStore()
    source(store)
    assert np.array_equal(released(source(store), 1), expected(store)[1])


@pytest.mark.parametrize("damage", [lambda s: s[:-1], lambda s: b"x" + s[1:], lambda s: b"", lambda s: s + b"0"])
def test_a_damaged_state_is_refused(damage: Callable[[bytes], bytes]) -> None:
    store = MemoryStore()
    source(store)
    store.put(STATE, damage(store.get(STATE) or b""))
    with pytest.raises(LocalError, match="damaged or of another version"):
        source(store)


def test_a_matrix_that_breaks_the_sensitivity_is_not_read_back() -> None:
    store = MemoryStore()
    source(store)
    state = store.get(STATE)
    assert state is not None
    store.put(STATE, state[:56] + np.float64(1.5).tobytes() + state[64:])
    with pytest.raises(LocalError, match="damaged"):
        source(store)


def test_the_key_is_drawn_for_each_run_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_bytes", os.urandom)
    one, two = MemoryStore(), MemoryStore()
    first, second = source(one), source(two)
    assert key_in(one) != key_in(two)
    assert not np.array_equal(released(first, 0), released(second, 0))
    shown = repr(first) + str(first)
    assert key_in(one).hex() not in shown and repr(key_in(one)) not in shown


def test_it_is_neither_copied_nor_pickled() -> None:
    noise = source(MemoryStore())
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="would repeat"):
            attempt(noise)


def test_a_forked_process_gets_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = source(MemoryStore())
    noise.begin(0)
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(RuntimeError, match="forked"):
        noise.draw(SIZE)
    with pytest.raises(RuntimeError, match="forked"):
        noise.begin(1)
