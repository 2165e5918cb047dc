"""Which BFV parameters a federation of so many members uses, and the proof that no sum of theirs can go wrong.

BFV decrypts exactly as long as two things hold, and both are proven here for the largest number of members, before any
data is read; else the plan is refused.

Capacity: a slot holds `fields` numbers side by side. Each is below 2^bits, so that a sum of n of them is at most
n (2^bits − 1), which fits its field; the whole slot stays below the plain modulus t, so that nothing wraps.

Noise: c₀ + c₁ s = (q/t) Σ mᵢ + ε (mod q), where |ε| is at most the sum of what each ciphertext brings, and decryption
rounds to Σ mᵢ exactly where |ε| < q / 2t. Of one ciphertext that is, in the worst case,

    seeded   21 + 1/2           an error of the centred binomial distribution, and the rounding of (q/t) m
    public   1 + N/2 + 1/2      u and s are ternary: encrypted modulo q p, what is divided by p leaves its rounding,
                                1/2 (1 + ‖s‖₁), and of (2N + 1) 21 / p less than 1/2; then the rounding of (q/t) m

SEAL draws errors from a centred binomial distribution within ±21 (its alternative, a clipped normal one, within ±19.2).
A quarter of the room is left, for the rounding of SEAL's own decryption, which scales by a second modulus of 61 bits.

A degree of 4096 with moduli of 54 and 52 bits, 106 together, has 128 bits of security for a ternary secret by the
estimates of 2024, which the standard of 2018 allowed for 109. The second modulus is there for SEAL, which divides by it
what is encrypted with a public key; ciphertexts are modulo the first.

Sources: Fan and Vercauteren 2012, "Somewhat Practical Fully Homomorphic Encryption" (eprint 2012/144), section 4, Lemma
1 (the noise bound of decryption); Bajard et al. 2016, "A Full RNS Variant of FV like Somewhat Homomorphic Encryption
Schemes" (eprint 2016/510), section 3 (decryption by a second modulus); Albrecht et al. 2018, "Homomorphic Encryption
Security Standard", table 1 (128 bits: at most 109 bits for a degree of 4096); Bossuat et al. 2024, "Security Guidelines
for Implementing Homomorphic Encryption" (eprint 2024/463), table 5.2 (at most 106).
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from wardround.strategies.secagg.parameters import MAX_COMMITTEE

__all__ = ["COEFF_BITS", "DEGREE", "Form", "HEPlan", "Q", "batching_prime"]

DEGREE = 4096
"""N: the degree of the ring, and the number of slots of a plaintext."""
COEFF_BITS = (54, 52)
Q = 18014398509309953
"""q: the modulus of ciphertexts, the largest prime of 54 bits that is 1 modulo 2N."""

_ERROR, _MOST_PLAIN_BITS, _LEAST_PLAIN_BITS, _MOST_FIELDS = 21, 44, 33, 4
_TAG_BITS = 64
_FALLBACK_MEMBERS = 8
"""Up to so many members the proof holds for public encryption as well, at the price of two bits."""


class Form(IntEnum):
    """How a member encrypts."""

    SEEDED = 1
    """Symmetric; one of the two polynomials travels as the seed that it is expanded from."""
    PUBLIC = 2
    """By a public key, through TenSEAL's own interface: twice the bytes, and a writer needs no decryption key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HEPlan:
    """The parameters for sums of up to `members`. Raises ValueError for a number that no proof is known for."""

    members: int

    def __post_init__(self) -> None:
        if not 1 <= self.members <= MAX_COMMITTEE:
            raise ValueError(f"expected sums of 1 to {MAX_COMMITTEE} members, got {self.members}")

    @property
    def forms(self) -> tuple[Form, ...]:
        """The ways of encryption that the proof holds for, the preferred one first."""
        return (Form.SEEDED, Form.PUBLIC) if self.members <= _FALLBACK_MEMBERS else (Form.SEEDED,)

    @property
    def plain_modulus(self) -> int:
        """t: the largest batching prime of at most 44 bits that the noise of all members' ciphertexts leaves room for.

        The larger it is, the more a slot holds.
        """
        return next(
            t
            for t in map(batching_prime, range(_MOST_PLAIN_BITS, _LEAST_PLAIN_BITS - 1, -1))
            if all(_room(t, self.members, form) for form in self.forms)
        )

    @property
    def tags(self) -> int:
        """Slots of each ciphertext that hold tags: a forged sum passes with a chance below 2^-64 (see `tags`)."""
        return -(-_TAG_BITS // (self.plain_modulus.bit_length() - 1))

    @property
    def slots(self) -> int:
        """Slots of each ciphertext that hold data."""
        return DEGREE - self.tags

    def field_bits(self, bits: int) -> int:
        """The width of a field for numbers of `bits` bits: room for the sum of all members."""
        return bits + (self.members - 1).bit_length()

    def fields(self, bits: int) -> int:
        """How many numbers of `bits` bits a slot holds, so that the sum of all members stays below t.

        Raises ValueError where not even one fits.
        """
        for fields in range(_MOST_FIELDS, 0, -1):
            if self._fits(bits, fields):
                return fields
        raise ValueError(
            f"expected numbers of at most {self.most_bits(1)} bits in sums of {self.members} members, got {bits}"
        )

    def most_bits(self, fields: int) -> int:
        """The widest numbers of which a slot holds so many."""
        room = self.plain_modulus.bit_length() // fields - (self.members - 1).bit_length()
        for bits in range(room, 0, -1):
            if self._fits(bits, fields):
                return bits
        raise ValueError(f"expected fields that hold a number of 1 bit, got {fields} of them in a slot")

    def _fits(self, bits: int, fields: int) -> bool:
        width, largest = self.field_bits(bits), self.members * ((1 << bits) - 1)
        return sum(largest << (width * field) for field in range(fields)) < self.plain_modulus

    def noise_budget(self, form: Form) -> int:
        """The whole bits of noise budget, in SEAL's sense, that are left after the sum of all members at the worst."""
        return (Q // (2 * self.plain_modulus * _noise(self.members, form))).bit_length() - 1


def _noise(members: int, form: Form) -> int:
    """The largest |ε| of a sum, rounded up."""
    twice = 2 * _ERROR + 1 if form is Form.SEEDED else DEGREE + 3
    return -(-members * twice // 2)


def _room(t: int, members: int, form: Form) -> bool:
    """Whether four fifths of q / 2t are enough for the noise."""
    return 5 * 2 * t * _noise(members, form) <= 4 * Q


@cache
def batching_prime(bits: int) -> int:
    """The largest prime below 2^bits that is 1 modulo 2N, by which a plaintext has N slots."""
    candidate = ((1 << bits) - 1) // (2 * DEGREE) * 2 * DEGREE + 1
    while candidate >= 1 << bits or not _is_prime(candidate):
        candidate -= 2 * DEGREE
    return candidate


def _is_prime(n: int) -> bool:
    """Miller and Rabin's test with the first twelve primes, which decides for all numbers below 2^64.

    Source: Sorenson and Webster 2015, "Strong Pseudoprimes to Twelve Prime Bases" (arXiv 1509.00864).
    """
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        x = pow(base, d, n)
        if x in (1, n - 1):
            continue
        for _ in range(s - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True
