"""What may stand together in a plan. One table; each row says when it applies, and why it is refused.

What computes (rules, and numpy with them) is imported only for plans that ask for it: checking others stays quick.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.plan_robust import AUTO, OFF
from wardround.plan_sections import Weighting
from wardround.registry import load

__all__ = ["REFUSED", "Refused", "check", "least_replies", "quarantine_threshold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A combination that is refused: the key to change, when it applies, what is expected and why."""

    key: str
    when: Callable[[Plan], bool]
    expected: str


_NUMBERLESS = frozenset({OFF, "mean", "fltrust"})
_OFTEN_WRONG = frozenset({"flame", "foolsgold"})

REFUSED = (
    Refused(
        key="cohort.weighting",
        when=lambda plan: plan.robust.rule != OFF and plan.cohort.weighting is Weighting.CAPPED,
        expected='"uniform" (or no key), since robust rules do not believe the numbers of examples that sites claim',
    ),
    Refused(
        key="robust.num_byzantine",
        when=lambda plan: plan.robust.rule not in _NUMBERLESS and plan.robust.num_byzantine == 0,
        expected="at least 1: how many bad contributions of a round the rule is to reckon with",
    ),
    Refused(
        key="robust.num_byzantine",
        when=lambda plan: plan.robust.rule == "mean" and plan.robust.num_byzantine > 0,
        expected="0, since a mean tolerates no bad contribution",
    ),
    Refused(
        key="robust.num_byzantine",
        when=lambda plan: plan.robust.rule == AUTO and 2 * plan.robust.num_byzantine >= plan.cohort_size,
        expected="fewer than half of a cohort, since no rule that is chosen from tolerates more",
    ),
    Refused(
        key="robust.detectors",
        when=lambda plan: (
            plan.robust.rule == "fltrust"
            and 2 * plan.robust.num_byzantine >= plan.cohort_size
            and bool(plan.robust.detectors)
        ),
        expected="none, since detectors take the majority for honest, and this plan reckons with a bad one",
    ),
    Refused(
        key="robust.rule",
        when=lambda plan: plan.robust.rule in (AUTO, "fltrust") and plan.task.flower_app is not None,
        expected="another rule, since a Flower app's training cannot be run on other rows than its own",
    ),
    Refused(
        key="robust.quarantine.enabled",
        when=lambda plan: plan.robust.quarantine.enabled and bool(_OFTEN_WRONG & set(plan.robust.detectors)),
        expected="false beside flame and foolsgold: they flag honest sites in up to 45 % of their rounds (measured), "
        "so that the error rate of quarantine would not hold",
    ),
    Refused(
        key="simulation.attack.name",
        when=lambda plan: (
            plan.simulation.attack.attackers > 0
            and plan.task.flower_app is not None
            and load("wardround.attacks", plan.simulation.attack.name).poisons
        ),
        expected="an attack on updates, since a Flower app's data cannot be poisoned from outside",
    ),
)


def check(plan: Plan) -> tuple[str, ...]:
    """What a person should know of the plan's rule, in sentences.

    Raises PlanError for the first combination that is refused, and for a rule that too few sites feed.
    """
    for row in REFUSED:
        if row.when(plan):
            raise PlanError(row.key, row.expected)
    if plan.robust.rule in (OFF, AUTO):
        return ()
    obstacle = _obstacles(plan)
    if reason := obstacle(plan.cohort_size):
        raise PlanError("robust.num_byzantine", f"a rule that works for a cohort of {plan.cohort_size} ({reason})")
    if plan.cohort.min_replies is not None and (reason := obstacle(plan.cohort.min_replies)):
        least = f"at least {least_replies(plan, given=False)}, which the rule needs ({reason})"
        raise PlanError("cohort.min_replies", least, plan.cohort.min_replies)
    return tuple(_told(plan))


def _told(plan: Plan) -> Iterator[str]:
    """Only where a rule is named."""
    from wardround.strategies.reputation import delay

    settings = plan.robust
    rule = "+".join((*settings.pre, settings.rule))
    yield f"{rule} reckons with {settings.num_byzantine} bad contributions of {plan.cohort_size} in a round, no more"
    yield f"a round needs {least_replies(plan)} updates"
    limit = quarantine_threshold(plan)
    if not settings.quarantine.enabled:
        yield "no site is quarantined (robust.quarantine.enabled)"
    elif not settings.num_byzantine:
        yield "no site is ever quarantined, since at most num_byzantine = 0 are"
    elif limit is None:
        yield f"no site is ever quarantined: {plan.rounds} rounds are too few to tell an attacker from bad luck"
    else:
        rounds = delay(settings.quarantine, limit)
        yield (
            f"a site is quarantined at suspicion {limit:.2f}, at most {settings.num_byzantine} at a time: one that is "
            f"always flagged, in its {rounds}th round"
        )


def least_replies(plan: Plan, *, given: bool = True) -> int:
    """How many updates a round needs to count.

    The plan's `cohort.min_replies`. Without it every drawn site's, less `num_byzantine` under a robust rule (else one
    attacker could void every round by keeping silent), but never fewer than the rule works for.
    """
    if given and plan.cohort.min_replies is not None:
        return plan.cohort.min_replies
    most = plan.cohort_size
    if plan.robust.rule in (OFF, AUTO):
        return most
    obstacle = _obstacles(plan)
    fewest = max(1, most - plan.robust.num_byzantine)
    return next((n for n in range(fewest, most) if not obstacle(n)), most)


def quarantine_threshold(plan: Plan) -> float | None:
    """The suspicion at which a site of this plan is quarantined, if quarantine is on.

    None where its rounds are too few to tell an attacker from bad luck.
    """
    from wardround.strategies.reputation import threshold

    settings = plan.robust.quarantine
    if plan.robust.rule in (OFF, AUTO):
        return None
    try:
        return threshold(settings, sites=plan.simulation.sites, rounds=plan.rounds)
    except ValueError:
        return None


def _obstacles(plan: Plan) -> Callable[[int], str]:
    """Why the plan's rule does not work for so many contributions; empty when it does."""
    from wardround.strategies.rules.build import build_robust

    rule = build_robust(plan.robust)

    def obstacle(n: int) -> str:
        try:
            rule.check(n)
        except ValueError as error:
            return str(error)
        return ""

    return obstacle
