"""Arithmetic modulo a prime and X^N + 1, beside multiplication by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.simulations.redteam.negacyclic import Integers, Ring

RING = Ring(8, 97)
polynomials = st.lists(st.integers(-200, 200), min_size=8, max_size=8).map(lambda one: np.array(one, dtype=object))


def product(left: Integers, right: Integers) -> list[int]:
    """By hand: X^8 is -1."""
    found = [0] * 8
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            found[(i + j) % 8] += a * b if i + j < 8 else -a * b
    return found


@given(polynomials, polynomials)
def test_a_product_of_values_is_the_polynomials_product(left: Integers, right: Integers) -> None:
    found = RING.coefficients(RING.points(left) * RING.points(right) % 97)
    assert all(abs(one) <= 48 for one in found)
    assert [one % 97 for one in found] == [one % 97 for one in product(left, right)]


@given(polynomials)
def test_the_conjugate_is_the_polynomial_at_the_inverse(one: Integers) -> None:
    found = RING.coefficients(RING.conjugate(RING.points(one)))
    assert [a % 97 for a in found] == [a % 97 for a in [one[0], *(-one[8 - k] for k in range(1, 8))]]  # 1/X = -X^7


def test_a_quotient_gives_the_numerator_back_and_refuses_zero() -> None:
    numerator = RING.points(np.array([3, 1, 4, 1, 5, 9, 2, 6], dtype=object))
    denominator = RING.points(np.array([2, 0, 0, 0, 0, 0, 0, 0], dtype=object))
    assert list(RING.quotient(numerator, denominator) * denominator % 97) == list(numerator)
    with pytest.raises(ValueError, match="not invertible"):
        RING.quotient(numerator, 0 * denominator)
