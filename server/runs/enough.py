"""How many of the sites that are asked have to answer before those that are away are not waited for."""

from wardround import _flower
from wardround.plan import Plan
from wardround.strategies.composition import least_replies
from wardround.strategies.secagg.parameters import lost
from wardround.strategies.secagg.plan_terms import parameters_of
from wardround.strategies.secagg.round_evidence import Stage

__all__ = ["enough"]


def enough(plan: Plan, kind: str, group: str, asked: int) -> int:
    """Of `asked` sites, for messages of Flower's type `kind` in `group`: more than half, and what the round needs.

    All of them for statistics; where keys are agreed on, as many as the plan wants that with. Homomorphic aggregation
    needs more than half and `min_survivors`, whoever they are: nothing of those who are away has to be made up for.
    """
    if kind == _flower.STATISTICS:
        return asked
    if plan.protection.on:
        ours = parameters_of(plan)
        if plan.protection.homomorphic:
            least = min(asked, ours.min_survivors)
        else:
            least = asked - lost(min(asked, ours.smallest_group), ours.dropout)
        if (kind, group) == (_flower.PROTOCOL, Stage.EPOCH.value):
            least = max(least, min(asked, ours.min_roster))
    else:
        least = min(asked, least_replies(plan))
    return max(least, asked // 2 + 1)
