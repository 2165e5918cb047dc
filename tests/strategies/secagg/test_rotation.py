import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard as dense_hadamard

from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.secagg import rotation
from wardround.strategies.secagg.rotation import Rotation, hadamard, padded_size
from wardround.vector import F32

SEED = bytes(range(32))


def normals(size: int) -> F32:
    return np.random.default_rng(size).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("power", range(12))
def test_the_transform_is_the_normalised_hadamard_matrix(power: int) -> None:
    values = normals(1 << power)
    expected = dense_hadamard(1 << power) @ values.astype(np.float64) / 2 ** (power / 2)
    hadamard(values)
    assert values == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("power", [13, 14, 15, 18, 19])
def test_larger_transforms_are_kronecker_products_of_smaller_ones(power: int) -> None:
    far, near = normals(1 << (power - 8)), normals(1 << 8)
    together = np.outer(far, near).astype(np.float32).reshape(-1)
    hadamard(together)
    hadamard(far)
    hadamard(near)
    assert together.reshape(far.size, near.size) == pytest.approx(np.outer(far, near), abs=2e-5)


@pytest.mark.parametrize("row", [16, 64, 256])
def test_the_blocks_change_nothing(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = normals(1 << 12)
    blocked = values.copy()
    hadamard(values)
    monkeypatch.setattr(rotation, "_ROW", row)
    hadamard(blocked)
    assert blocked == pytest.approx(values, abs=2e-6)


@given(st.integers(1, 3000))
def test_inverse_gives_the_vector_back_and_lengths_are_kept(size: int) -> None:
    turn, vector = Rotation(size, SEED), normals(size)
    rotated = turn.apply(vector)
    assert rotated.shape == (turn.padded,) == (padded_size(size),)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(vector), rel=1e-5)
    assert turn.invert(rotated) == pytest.approx(vector, abs=1e-5)


def test_the_signs_are_the_seeds_bits_in_order() -> None:
    size = 40_000  # more than two blocks
    words = SecureRandom(SEED).words(size // 64 + 1)
    bits = (words[np.arange(size) // 64] >> (np.arange(size) % 64).astype(np.uint64)) & np.uint64(1)
    turn = Rotation(size, SEED)
    signed = np.zeros(turn.padded, dtype=np.float32)
    signed[:size] = np.where(bits == 1, -1, 1)
    hadamard(signed)
    assert turn.apply(np.ones(size, dtype=np.float32)) == pytest.approx(signed, abs=1e-5)


def test_a_single_large_value_is_spread_evenly_and_another_seed_spreads_another_way() -> None:
    vector = np.ones(1 << 12, dtype=np.float32)  # without signs all of its length would end up in one value
    rotated = Rotation(vector.size, SEED).apply(vector)
    assert np.abs(rotated).max() < 8  # subgaussian of variance 1: beyond 8 with probability 4096 · 2 exp(−32) = 1e-10
    assert not np.array_equal(rotated, Rotation(vector.size, bytes(32)).apply(vector))


def test_the_vector_is_left_as_it_was() -> None:
    vector = normals(64)
    before = vector.copy()
    Rotation(64, SEED).apply(vector)
    assert np.array_equal(vector, before)


def test_what_is_no_row_of_a_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="a power of two"):
        hadamard(np.zeros(12, dtype=np.float32))
    with pytest.raises(ValueError, match="float32 values in one row"):
        hadamard(np.zeros(16).astype(np.float64))
    with pytest.raises(ValueError, match="float32 values in one row"):
        hadamard(np.zeros(32, dtype=np.float32)[::2])
    with pytest.raises(ValueError, match="at least one value"):
        Rotation(0, SEED)
    with pytest.raises(ValueError, match="32 bytes"):
        Rotation(3, bytes(31))
    with pytest.raises(ValueError, match="expected 3 values"):
        Rotation(3, SEED).apply(normals(4))
    with pytest.raises(ValueError, match="expected 4 values"):
        Rotation(3, SEED).invert(normals(3))
