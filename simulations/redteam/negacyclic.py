"""Arithmetic modulo a prime and X^N + 1, in the order of points that SEAL's ciphertexts have."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Integers", "Ring", "residues"]

Integers = NDArray[np.object_]
"""Python's integers, since a product of two residues of 60 bits fits in no machine word."""


@lru_cache(maxsize=8)
def _tables(degree: int, prime: int) -> Any:
    import tenseal.sealapi as sealapi
    from tenseal.sealapi import util

    return util.NTTTables(degree.bit_length() - 1, sealapi.Modulus(prime))


@dataclass(frozen=True, slots=True)
class Ring:
    """Z_prime[X] / (X^degree + 1).

    An element is an array of its `degree` coefficients, or of its values at the odd powers of a root of unity in bit-
    reversed order (Longa and Naehrig 2016, algorithm 1). A product is the product of values, point by point.
    """

    degree: int
    prime: int

    def points(self, coefficients: Integers) -> Integers:
        """Values of the polynomial at the ring's points."""
        from tenseal.sealapi import util

        reduced = (coefficients % self.prime).tolist()
        return np.array(util.ntt_negacyclic_harvey(reduced, _tables(self.degree, self.prime)), dtype=object)

    def coefficients(self, points: Integers) -> Integers:
        """Coefficients in (-prime/2, prime/2) of the polynomial with these values."""
        from tenseal.sealapi import util

        found = util.inverse_ntt_negacyclic_harvey(points.tolist(), _tables(self.degree, self.prime))
        array = np.array(found, dtype=object)
        centred: Integers = np.where(array > self.prime // 2, array - self.prime, array)
        return centred

    def quotient(self, numerator: Integers, denominator: Integers) -> Integers:
        """The quotient at every point. Raises ValueError where the denominator is 0 at one of them."""
        inverses = [pow(int(one), -1, self.prime) for one in denominator]
        found: Integers = numerator * np.array(inverses, dtype=object) % self.prime
        return found

    @staticmethod
    def conjugate(points: Integers) -> Integers:
        """Values of a(1/X): the point at i and the one at degree - 1 - i are each other's inverse."""
        return points[::-1]


def residues(ciphertext: Any, part: int) -> Integers:
    """Polynomial `part` (0 or 1) of a SEAL ciphertext modulo its first prime, in the form that it has there."""
    degree = ciphertext.poly_modulus_degree()
    start = part * ciphertext.coeff_modulus_size() * degree
    return np.array([ciphertext[start + i] for i in range(degree)], dtype=object)
