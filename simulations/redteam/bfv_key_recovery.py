"""The key recovery of `ckks_key_recovery`, tried on BFV sums; and what a lying server gets from BFV.

A member that opens a BFV sum publishes m = round(t/q · (c0 + c1·s)) mod t. While the noise stays below q / (2t), this
is the sum of the plaintexts and nothing else: whoever knows that sum can write it down without the key. So it tells the
server nothing else, and ciphertexts are as safe as before it (where decryption is always right, IND-CPA security gives
IND-CPA^D security: Li and Micciancio, eprint 2020/1533). What is left to try is to solve (q/t)·m = c0 + c1·s for s, as
if there were no noise: a sample of ring-LWE with its error left out.

Two limits. Where decryption can fail, a failure tells of the noise, and the key follows (Cheon et al., eprint 2024/127;
Checri et al., eprint 2024/116). And a server that does not follow the protocol needs no failure: it may pass off a
ciphertext of its own as the sum, and what is opened then is the key itself (`crafted_sum`). The tags of
`wardround.strategies.he.tags` are there for that: members tell nothing of what is not the sum of their updates.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wardround.simulations.redteam.negacyclic import Integers, Ring, residues

__all__ = [
    "OpenedPolynomial",
    "Parameters",
    "coefficients",
    "crafted_sum",
    "guess_key",
    "key_of_opened",
    "nearest_key",
    "scaled",
    "vote",
]

I8 = NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What everybody knows: the ring with the first prime q of the ciphertexts, and the plain modulus t."""

    ring: Ring
    plain_modulus: int

    @classmethod
    def read(cls, context: Any) -> Self:
        """From a context of `tenseal.sealapi`. Ciphertexts must have one prime, as with [54, 55] bits."""
        parameters = context.first_context_data().parms()
        (prime,) = [modulus.value() for modulus in parameters.coeff_modulus()]
        ring = Ring(parameters.poly_modulus_degree(), prime)
        return cls(ring=ring, plain_modulus=parameters.plain_modulus().value())


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPolynomial:
    """A ciphertext that the server holds, and the polynomial modulo t that a member decrypted and published."""

    c0: Integers = field(repr=False)
    c1: Integers = field(repr=False)
    opened: Integers = field(repr=False)

    @classmethod
    def read(cls, ciphertext: Any, plaintext: Any, degree: int) -> Self:
        """From SEAL's ciphertext and plaintext, both in coefficients. Published slots are encoded first, exactly."""
        return cls(c0=residues(ciphertext, 0), c1=residues(ciphertext, 1), opened=coefficients(plaintext, degree))


def coefficients(plaintext: Any, degree: int) -> Integers:
    """All coefficients of SEAL's plaintext, which leaves out zeros at the end."""
    found = [plaintext.data(i) for i in range(plaintext.coeff_count())]
    return np.array(found + [0] * (degree - len(found)), dtype=object)


def scaled(parameters: Parameters, opened: Integers) -> Integers:
    """round(q/t · m): what c0 + c1·s is, but for the noise."""
    prime, plain = parameters.ring.prime, parameters.plain_modulus
    found: Integers = (2 * prime * opened + plain) // (2 * plain)
    return found


def guess_key(ring: Ring, opened: OpenedPolynomial, phase: Integers) -> Integers:
    """s of c0 + c1·s = `phase`, in (-q/2, q/2): the key where `phase` has the noise in it, as CKKS would show it.

    Raises ValueError where c1 has no inverse (about once in q/N).
    """
    return ring.coefficients(ring.quotient(ring.points(phase - opened.c0), ring.points(opened.c1)))


def nearest_key(guess: Integers) -> I8:
    """The possible key that is nearest to a guess."""
    return np.clip(guess, -1, 1).astype(np.int8)


def vote(keys: Sequence[I8]) -> I8:
    """What most keys say, coefficient by coefficient: errors that do not lean one way would cancel out."""
    return np.sign(np.sum(keys, axis=0, dtype=np.int64)).astype(np.int8)


# -- a server that does not follow the protocol -----------------------------------------------------

_MAGIC, _HEADER_BYTES, _UNCOMPRESSED = 0xA15E, 16, 0


def crafted_sum(context: Any, like: bytes) -> bytes:
    """A "sum" (0, round(q/t)) in SEAL's format, made without any key: it decrypts to the key's polynomial.

    `like` is any ciphertext of the context, for the version of the format. The noise budget is more than a sum's, so
    that a check for enough of it finds nothing; and a count in another ciphertext is as it was.
    """
    parameters = Parameters.read(context)
    degree, prime, plain = parameters.ring.degree, parameters.ring.prime, parameters.plain_modulus
    words = np.zeros(2 * degree, dtype="<u8")
    words[degree] = (2 * prime + plain) // (2 * plain)

    def framed(body: bytes) -> bytes:
        size = _HEADER_BYTES + len(body)
        return struct.pack("<HBBBBHQ", _MAGIC, _HEADER_BYTES, like[3], like[4], _UNCOMPRESSED, 0, size) + body

    form = struct.pack("<4Q?3QdQ", *context.first_parms_id(), False, 2, degree, 1, 1.0, 1)
    return framed(form + framed(struct.pack("<Q", len(words)) + words.tobytes()))


def key_of_opened(parameters: Parameters, opened: Integers) -> I8 | None:
    """The key, where a crafted sum was opened; None where this is no key."""
    plain = parameters.plain_modulus
    found = np.where(opened > plain // 2, opened - plain, opened)
    return found.astype(np.int8) if np.all(np.abs(found) <= 1) else None
