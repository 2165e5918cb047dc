"""The sum of a group as a contribution: the mean of its survivors' updates, their weight, and what they counted."""

import numpy as np

from wardround.contribution import Contribution
from wardround.errors import RemoteError
from wardround.orders import OrderKind, SiteId
from wardround.plan import Plan
from wardround.plan_sections import Weighting
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.lane import read_lane
from wardround.tally import MeansSpec, Tally, TallySpec
from wardround.vector import F32, MemoryVector

__all__ = ["group_mean"]

_UNCOUNTED = Tally.empty(MeansSpec())
_NOTHING: F32 = np.empty(0, dtype=np.float32)


def group_mean(
    plan: Plan,
    kind: OrderKind,
    spec: TallySpec,
    encoding: Encoding | None,
    survivors: tuple[SiteId, ...],
    words: U32 | None,
    scalars: U64,
) -> Contribution:
    """From the sums of a group's `words`, shape (d,), and lane. There are words where there is an `encoding`.

    Raises RemoteError for counts that no honest members send.
    """
    number = len(survivors)
    weight, tally = number, _UNCOUNTED
    if scalars.size:
        weight, tally = read_lane(scalars, spec)
        if fault := tally.fault() if kind is not OrderKind.STATISTICS else "":
            raise RemoteError(fault)
    if encoding is None or words is None:
        return Contribution(members=survivors, weight=max(weight, 0), vector=MemoryVector(_NOTHING), tally=tally)
    if plan.weighting is Weighting.UNIFORM:
        weight = number  # what sites claim is not asked for
    elif not number <= weight <= number * encoding.max_weight:
        most = number * encoding.max_weight
        raise RemoteError(f"expected weights of {number} to {most} together, got {weight}")
    return Contribution(
        members=survivors, weight=weight, vector=MemoryVector(encoding.decode(words, weight)), tally=tally
    )
