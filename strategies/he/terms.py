"""What a plan's [protection] comes to under BFV: the scheme's parameters, and how an update is packed."""

from wardround.plan import Plan
from wardround.strategies.he.packing import Packing
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.plan_terms import encoding_of, he_plan_of

__all__ = ["packing_for", "packing_of"]

_WRAPS = 2.0**-20
"""So many values of a sum with noise may wrap around in a round, expected at most."""


def packing_of(plan: Plan, size: int, scalars: int) -> Packing:
    """How an encoded update of `size` words, 0 for none, and `scalars` counts are packed under `plan`."""
    return packing_for(plan, encoding_of(plan, size, seed=bytes(32)) if size else None, scalars)


def packing_for(plan: Plan, encoding: Encoding | None, scalars: int) -> Packing:
    """The same, of an `encoding`; None where there is no update.

    With distributed noise a word is as wide as the sum with its noise needs, and is reduced to that.
    """
    he = he_plan_of(plan)
    if encoding is None:
        return Packing(plan=he, bits=min(32, he.most_bits(2)), size=0, scalars=scalars)
    if encoding.mechanism is None:
        return Packing(plan=he, bits=encoding.value_bits, size=encoding.length, scalars=scalars)
    bits = next(
        bits for bits in range(2, 33) if bits == 32 or encoding.mechanism.expected_wraps(he.members, bits) <= _WRAPS
    )
    return Packing(plan=he, bits=bits, size=encoding.length, scalars=scalars, ring=True)
