"""What sites count in answer to each kind of order, as the server of secure aggregation has to know."""

from wardround.orders import OrderKind
from wardround.plan import Plan
from wardround.standardization import statistics_spec
from wardround.strategies.privacy.statistics_noise import statistics_noise_std
from wardround.tally import MeansSpec, TallySpec

__all__ = ["counted_specs"]


def counted_specs(plan: Plan, task: TallySpec | None) -> dict[OrderKind, TallySpec]:
    """By kind of order; `task` is what the plan's task counts, None for a Flower app: of its metrics, the plan's."""
    loss = ("loss",) if task is not None and not plan.privacy.on else ()
    noisy = statistics_noise_std(plan.data, plan.privacy) > 0
    return {
        OrderKind.FIT: MeansSpec(names=loss),
        OrderKind.EVALUATE: MeansSpec(names=plan.protection.metrics) if task is None else task,
        OrderKind.STATISTICS: statistics_spec(plan.data, noisy=noisy),
    }
