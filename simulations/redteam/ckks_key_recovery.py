"""Key recovery from shared CKKS sums: ``python -m wardround.simulations.redteam.ckks_key_recovery``.

In CKKS the noise of a ciphertext stays in what decryption gives (Cheon et al. 2017), so that a published sum is one
linear equation in the secret key for every coefficient (Li and Micciancio 2021, eprint 2020/1533). Federated averaging
as the tutorials show it has all that is needed: the server holds the ciphertexts (c0, c1) and learns the sum.

A member publishes the real parts of the slots only. They are the slots of (m + m*) / 2, where m = c0 + c1·s is the
decrypted polynomial, noise included, and m*(X) = m(1/X). So one full ciphertext gives

    c1·s + c1*·s* = (m + m*) - (c0 + c0*)

at every point, one equation for two unknowns: the values of s at the point and at its inverse. Two full ciphertexts
under one key, of one round or of two, give both. The key's coefficients are -1, 0 and 1, so that one prime of the
ciphertext modulus is enough, and a right key is seen without knowing it.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wardround.extras import require
from wardround.simulations.redteam.negacyclic import Integers, Ring, residues

__all__ = ["Ciphertext", "OpenedSum", "Outcome", "Tutorial", "attack", "decrypt", "recover_key"]

F64 = NDArray[np.float64]
I8 = NDArray[np.int8]


# -- the attack: what a server can compute ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ciphertext:
    """A CKKS ciphertext modulo its first prime: values of c0 and c1 at the ring's points."""

    c0: Integers = field(repr=False)
    c1: Integers = field(repr=False)
    scale: float

    @classmethod
    def read(cls, ciphertext: Any) -> Self:
        """From SEAL's ciphertext."""
        return cls(c0=residues(ciphertext, 0), c1=residues(ciphertext, 1), scale=ciphertext.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSum:
    """A ciphertext that the server holds, and the values that a member decrypted and published: one for each slot."""

    ciphertext: Ciphertext
    values: F64 = field(repr=False)


def recover_key(ring: Ring, sums: Sequence[OpenedSum]) -> I8 | None:
    """The coefficients of the secret key, from any two neighbours among full `sums`; None where no pair gives a key.

    Li and Micciancio 2021: re-encode what was published, and divide. It works where re-encoding gives the very
    polynomial that was decrypted, which it does unless the published values were rounded by more than the scale allows.
    """
    for one, two in itertools.pairwise(one for one in sums if len(one.values) == ring.degree // 2):
        (a, a_conjugate, right), (b, b_conjugate, other) = _equation(ring, one), _equation(ring, two)
        determinant = (a * b_conjugate - b * a_conjugate) % ring.prime
        try:
            points = ring.quotient(right * b_conjugate - other * a_conjugate, determinant)
        except ValueError:  # the two do not determine the key, as for one ciphertext twice
            continue
        found = ring.coefficients(points)
        if np.all(np.abs(found) <= 1):
            return found.astype(np.int8)
    return None


def _equation(ring: Ring, opened: OpenedSum) -> tuple[Integers, Integers, Integers]:
    """(a, b, right) of a·s + b·s* = right at every point."""
    c0, c1 = opened.ciphertext.c0, opened.ciphertext.c1
    both = ring.points(_encode_twice(opened.values, opened.ciphertext.scale))
    return c1, ring.conjugate(c1), (both - c0 - ring.conjugate(c0)) % ring.prime


def decrypt(ring: Ring, key: I8, ciphertext: Ciphertext) -> F64:
    """The values of all slots, with a key's coefficients."""
    points = ring.points(key.astype(object))
    polynomial = ring.coefficients((ciphertext.c0 + ciphertext.c1 * points) % ring.prime)
    at = np.fft.ifft(polynomial.astype(np.float64) * _twist(ring.degree)) * ring.degree
    return at.real[(_exponents(ring.degree) - 1) // 2] / ciphertext.scale


def _encode_twice(values: F64, scale: float) -> Integers:
    """m + m* for the polynomial m whose slots have these real parts, times `scale`: integers, since m has integers.

    The canonical embedding (Cheon et al. 2017) with SEAL's order of slots: slot i is the value at the root
    of unity to the power 3^i, its conjugate that at the inverse.
    """
    degree = 2 * len(values)
    exponents, at = _exponents(degree), np.empty(degree)
    at[(exponents - 1) // 2] = values
    at[(2 * degree - exponents - 1) // 2] = values
    both = 2 * scale * (np.fft.fft(at) / _twist(degree)).real / degree
    return np.array([int(one) for one in np.rint(both)], dtype=object)


def _exponents(degree: int) -> NDArray[np.int64]:
    return np.array([pow(3, slot, 2 * degree) for slot in range(degree // 2)])


def _twist(degree: int) -> NDArray[np.complex128]:
    """Turns a transform at the powers of a root of unity into one at its odd half-powers."""
    twist: NDArray[np.complex128] = np.exp(1j * np.pi * np.arange(degree) / degree)
    return twist


# -- what it is tried on: federated averaging as the tutorials show it -------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tutorial:
    """Members with one secret context, and a server with the public one. Updates travel as TenSEAL's CKKS vectors."""

    members: Any = field(repr=False)
    server: Any = field(repr=False)
    ring: Ring

    @classmethod
    def start(cls, *, degree: int, coeff_bits: Sequence[int], scale_bits: int = 40, symmetric: bool = False) -> Self:
        """Make the keys. Raises MissingExtraError without wardround[he]."""
        require("he")
        import tenseal
        import tenseal.sealapi  # registers the types that parameters are read in

        encryption = tenseal.ENCRYPTION_TYPE.SYMMETRIC if symmetric else tenseal.ENCRYPTION_TYPE.ASYMMETRIC
        members = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=list(coeff_bits), encryption_type=encryption
        )
        members.global_scale = 2.0**scale_bits
        server = tenseal.context_from(members.serialize(save_secret_key=False))
        prime = server.seal_context().data.first_context_data().parms().coeff_modulus()[0].value()
        return cls(members=members, server=server, ring=Ring(degree, prime))

    @property
    def slots(self) -> int:
        return self.ring.degree // 2

    def encrypt(self, update: F64) -> list[bytes]:
        """What one client sends: a vector for each ciphertext's worth of values."""
        import tenseal

        parts = [update[start : start + self.slots] for start in range(0, len(update), self.slots)]
        return [tenseal.ckks_vector(self.members, part.tolist()).serialize() for part in parts]

    def add(self, uploads: Sequence[Sequence[bytes]], *, mean: bool = False) -> list[Any]:
        """The server's encrypted sum, or mean, of what clients sent."""
        import tenseal

        totals = [tenseal.ckks_vector_from(self.server, part) for part in uploads[0]]
        for upload in uploads[1:]:
            for total, part in zip(totals, upload, strict=True):
                total.add_(tenseal.ckks_vector_from(self.server, part))
        if mean:
            totals = [total * (1 / len(uploads)) for total in totals]
        return totals

    def publish(self, totals: Sequence[Any]) -> list[F64]:
        """What a member decrypts and hands out."""
        import tenseal

        opened = [tenseal.ckks_vector_from(self.members, total.serialize()).decrypt() for total in totals]
        return [np.array(one) for one in opened]

    def received(self, part: bytes) -> Ciphertext:
        """One client's ciphertext as the server loads it."""
        import tenseal

        (only,) = tenseal.ckks_vector_from(self.server, part).ciphertext()
        return Ciphertext.read(only)

    def key(self) -> I8:
        """The members' key, to compare with."""
        polynomial = self.members.secret_key().data.data()
        points = np.array([polynomial.data(i) for i in range(self.ring.degree)], dtype=object)
        return self.ring.coefficients(points).astype(np.int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the server found."""

    key_share: float
    """Of the key's coefficients, how many it has right: 0 where it found no key."""
    update_error: float | None
    """The largest difference between one client's update and what the server reads of it; None without a key."""
    seconds: float
    """Of one core, from ciphertexts and published values to the key."""


def attack(federation: Tutorial, updates: Sequence[F64], *, mean: bool = False, single: bool = False) -> Outcome:
    """One round with these `updates` (one of each client, all of one length), and the attack on it.

    `mean`: the server divides the sum too. `single`: published values are rounded to float32.
    """
    uploads = [federation.encrypt(update) for update in updates]
    totals = federation.add(uploads, mean=mean)
    published = federation.publish(totals)
    if single:
        published = [values.astype(np.float32).astype(np.float64) for values in published]
    start = time.process_time()
    sums = [
        OpenedSum(ciphertext=Ciphertext.read(total.ciphertext()[0]), values=values)
        for total, values in zip(totals, published, strict=True)
    ]
    key = recover_key(federation.ring, sums)
    seconds = time.process_time() - start
    if key is None:
        return Outcome(key_share=0.0, update_error=None, seconds=seconds)
    read = [decrypt(federation.ring, key, federation.received(part)) for part in uploads[0]]
    error = np.max(np.abs(np.concatenate(read)[: len(updates[0])] - updates[0]))
    return Outcome(key_share=float(np.mean(key == federation.key())), update_error=float(error), seconds=seconds)


_DEFAULT: dict[str, Any] = {"degree": 8192, "coeff_bits": (60, 40, 40, 60)}
_SETTINGS: tuple[tuple[str, float, dict[str, Any], dict[str, Any]], ...] = (
    ("8192 [60,40,40,60], the sum", 1.0, _DEFAULT, {}),
    ("8192 [60,40,40,60], the mean", 1.0, _DEFAULT, {"mean": True}),
    ("8192 [60,40,40], symmetric", 1.0, {"degree": 8192, "coeff_bits": (60, 40, 40), "symmetric": True}, {}),
    ("4096 [54,55], the sum", 1.0, {"degree": 4096, "coeff_bits": (54, 55)}, {}),
    ("8192 [60,40,40,60], as float32", 1.0, _DEFAULT, {"single": True}),
    ("the same, updates a hundredth", 0.01, _DEFAULT, {"single": True}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the attack on what the tutorials do, and print what it finds."""
    parser = argparse.ArgumentParser(prog="ckks_key_recovery", description="Key recovery from shared CKKS sums.")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--size", type=float, default=0.01, help="standard deviation of the updates' values")
    parser.add_argument("--seed", type=int, default=1, help="of the updates; keys and noise are always fresh")
    args = parser.parse_args(arguments)
    random = np.random.default_rng(args.seed)
    print(f"{'parameters':<32}  {'key':>6}  {'largest error':>14}  {'CPU s':>6}")
    for name, factor, parameters, options in _SETTINGS:
        federation = Tutorial.start(**parameters)
        updates = [factor * args.size * random.standard_normal(2 * federation.slots) for _ in range(args.clients)]
        outcome = attack(federation, updates, **options)
        error = "-" if outcome.update_error is None else f"{outcome.update_error:.1e}"
        print(f"{name:<32}  {outcome.key_share:>6.1%}  {error:>14}  {outcome.seconds:>6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
