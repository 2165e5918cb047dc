"""Clipping against exact rational arithmetic."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wardround.strategies.privacy.unit_clip import BLOCK, clip_update, factor, layer_pieces, wide_square
from wardround.vector import F32

LARGEST = float(np.finfo(np.float32).max)
CLIPS = st.floats(1e-12, 1e12)
UPDATES = arrays(np.float32, st.integers(0, 30), elements=st.floats(-LARGEST, LARGEST, width=32))


def exact_square(values: F32) -> Fraction:
    return sum((Fraction(value) ** 2 for value in values.tolist()), start=Fraction(0))


@given(UPDATES, CLIPS)
@example(np.full(3, 1.0, np.float32), math.sqrt(3))
@example(np.array([3, 4], np.float32), 5.0)
@example(np.full(20, LARGEST, np.float32), 1e-12)
def test_no_norm_is_above_the_bound_as_a_real_number(update: F32, clip_norm: float) -> None:
    clipped = clip_update(update, clip_norm)
    assert clipped.dtype == np.float32 and clipped.shape == update.shape
    square, bound = exact_square(update), Fraction(clip_norm) ** 2
    assert exact_square(clipped) <= bound
    if square <= bound * Fraction(1 - 2.0**-22):
        assert clipped is update
    else:  # as long as can be, and in the same direction
        assert exact_square(clipped) >= bound * Fraction(1 - 2.0**-20)
        scale = clip_norm / math.sqrt(square)
        np.testing.assert_allclose(clipped, update.astype(np.float64) * scale, rtol=1e-6, atol=1e-44)
    assert clip_update(clipped, clip_norm) is clipped


@given(UPDATES, st.floats(1e-11, 1e12), st.lists(st.integers(0, 10), max_size=4))
def test_layers_are_clipped_one_by_one(update: F32, clip_norm: float, cuts: list[int]) -> None:
    sizes = np.diff([0, *sorted(min(cut, update.size) for cut in cuts), update.size]).tolist()
    clipped = clip_update(update, clip_norm, sizes)
    assert exact_square(clipped) <= Fraction(clip_norm) ** 2
    bounds = np.cumsum([0, *sizes])
    for start, end in pairwise(bounds.tolist()):
        alone = clip_update(update[start:end], clip_norm / math.sqrt(len(sizes)))
        np.testing.assert_array_equal(clipped[start:end], alone)


def test_a_long_layer_costs_a_short_one_nothing() -> None:
    update = np.array([1000, 1000, 0.25, 0.5], np.float32)
    np.testing.assert_allclose(clip_update(update, 2.0, (2, 2)), [1, 1, 0.25, 0.5], rtol=1e-6)
    assert clip_update(update, 2.0)[2] < 0.001


@pytest.mark.parametrize("sizes", [(2, 1), (2, 3), (), (4, 1)])
def test_layers_that_do_not_add_up_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"expected {sum(sizes)} values, got"):
        clip_update(np.ones(4, np.float32), 1.0, sizes)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_non_finite_update_is_refused(bad: float, clip_norm: float | None) -> None:
    update = np.array([1, bad, bad], np.float32)
    with pytest.raises(ValueError, match="expected a finite update, got 2 non-finite values of 3"):
        clip_update(update, clip_norm)


def test_without_a_bound_and_without_length_an_update_stays() -> None:
    update, zero = np.full(3, 1e30, np.float32), np.zeros(3, np.float32)
    assert clip_update(update, None) is update
    assert clip_update(zero, 1e-12) is zero


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, math.inf, 1e-13, 1e13])
def test_a_bound_that_is_none_is_refused(clip_norm: float) -> None:
    with pytest.raises(ValueError, match="expected a clip norm of 1e-12 to 1e"):
        clip_update(np.ones(2, np.float32), clip_norm)


def test_small_and_large_values_keep_their_squares() -> None:
    tiny, huge = np.float32(2.0**-149), np.float32(2.0**127)
    assert wide_square(np.array([tiny, tiny], np.float32)) == 2.0**-297
    assert wide_square(np.array([huge, huge], np.float32)) == 2.0**255
    many = np.full(1 << 20, 1 / 3, np.float32)
    assert wide_square(many) == pytest.approx(many.size * float(many[0]) ** 2, rel=1e-13)


def test_a_norm_that_is_no_number_has_no_factor() -> None:
    for square in (math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a finite norm"):
            factor(square, 1.0)


@given(st.lists(st.integers(1, 2 * BLOCK), min_size=1, max_size=4), st.integers(100, 3 * BLOCK))
def test_pieces_are_the_vector_layer_by_layer(sizes: list[int], chunk: int) -> None:
    vector = np.arange(sum(sizes), dtype=np.float32)
    chunks = [vector[start : start + chunk] for start in range(0, vector.size, chunk)]
    at = 0
    for layer, start, piece in layer_pieces(chunks, sizes):
        assert start == at and 0 < piece.size <= BLOCK
        assert sum(sizes[:layer]) <= start and start + piece.size <= sum(sizes[: layer + 1])
        np.testing.assert_array_equal(piece, vector[start : start + piece.size])
        at += piece.size
    assert at == vector.size


def test_other_types_than_float32_are_refused() -> None:
    with pytest.raises(ValueError, match="expected float32 values in one row, got float64"):
        list(layer_pieces([np.ones(2)], (2,)))  # type: ignore[list-item]
