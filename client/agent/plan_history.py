"""What a site has approved before of the same kind: what a new plan and its code are compared with."""

from wardround.client.agent.plan_store import PlanStore, Verdict
from wardround.errors import WardroundError
from wardround.plan import Plan

__all__ = ["bundle_of", "last_approved"]


def last_approved(plans: PlanStore, run: str, plan: Plan) -> str | None:
    """The run approved last, other than `run`, of a plan of the same name, else with the same code folder.

    What is damaged, or is no longer what was approved, does not count.
    """
    named: list[tuple[bool, str, str]] = []
    for other in plans.names():
        if other == run:
            continue
        try:
            decision = plans.decision(other)
            if decision is None or decision.verdict is not Verdict.APPROVED:
                continue
            known = plans.plan(other)
        except WardroundError:
            continue
        same_code = plan.task.code is not None and known.task.code == plan.task.code
        if known.digest == decision.plan_digest and (known.name == plan.name or same_code):
            named.append((known.name == plan.name, decision.at, other))
    return max(named)[2] if named else None


def bundle_of(plan: Plan) -> dict[str, bytes]:
    """The files of the plan's code by their path. Raises LocalError where one is not what the plan digested."""
    from wardround.client.trainer.bundle import read_bundle

    return read_bundle(plan) if plan.task.code is not None else {}
