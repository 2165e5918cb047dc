"""What may stand together in a plan, what a person should know of it, and how many contributions a round needs.

What computes (rules, and numpy with them) is imported only for plans that ask for it: checking others stays quick.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.plan_privacy import Mechanism
from wardround.plan_protection import TableChoice
from wardround.plan_robust import AUTO, OFF
from wardround.plan_simulation import Cryptography
from wardround.strategies.refusals import refusals_of

if TYPE_CHECKING:
    from wardround.strategies.rules.robust import Robust

__all__ = ["check", "least_replies", "quarantine_threshold"]


def check(plan: Plan) -> tuple[str, ...]:
    """What a person should know of the plan's rule, in sentences.

    Raises PlanError for the first combination that is refused, and for a rule that too few sites feed.
    """
    for row in refusals_of(plan):
        if row.when(plan):
            raise PlanError(row.key, row.expected)
    return (*_masked(plan), *_private(plan), *_robust(plan))


def _masked(plan: Plan) -> tuple[str, ...]:
    """What the server learns. Whatever depends on the model's size is checked when that is known."""
    if not plan.protection.on:
        return ()
    from wardround.strategies.secagg.plan_terms import exact_terms, parameters_of

    parameters = parameters_of(plan)
    if plan.protection.homomorphic:
        from wardround.strategies.secagg.plan_terms import he_plan_of

        he_plan_of(plan)
    if plan.privacy.mechanism is not Mechanism.SKELLAM:
        exact_terms(plan)
    of_each = "the sum" if parameters.groups == 1 else f"{parameters.groups} sums"
    learns = f"the server learns {of_each} of at least {parameters.min_survivors} updates in a round, no single one"
    if plan.protection.homomorphic:
        two = "from a sum of two each of the two learns the other's update"
        return (f"{learns}, as long as no site gives it the key", *([two] * (parameters.min_survivors == 2)))
    accounting = "no cryptography runs in this simulation (simulation.cryptography): it hides nothing"
    return (learns, *([accounting] * (plan.simulation.cryptography is not Cryptography.REAL)))


def _private(plan: Plan) -> tuple[str, ...]:
    """What is claimed. Where clients are hidden all is known; where rows are, only a site knows how many it has."""
    if not plan.privacy.per_client:
        return ()
    from wardround.strategies.privacy.build import private_mean
    from wardround.strategies.privacy.claim import claims_of, noise_warning
    from wardround.strategies.privacy.noise_source import FreshNoise
    from wardround.strategies.privacy.terms import client_terms

    terms = client_terms(plan)
    if plan.privacy.mechanism is not Mechanism.SKELLAM:
        private_mean(plan, terms, (1,), FreshNoise())
    (claim,), warning = claims_of(plan), noise_warning(plan, terms)
    return (claim.headline(), *((warning,) if warning else ()))


def _robust(plan: Plan) -> tuple[str, ...]:
    if plan.robust.rule in (OFF, AUTO):
        return ()
    obstacle = _rule(plan).obstacle
    if reason := obstacle(plan.contributions):
        what = f"{plan.contributions} groups" if plan.protection.on else f"a cohort of {plan.cohort_size}"
        raise PlanError("robust.num_byzantine", f"a rule that works for {what} ({reason})")
    if plan.cohort.min_replies is not None and (reason := obstacle(plan.cohort.min_replies)):
        least = f"at least {least_replies(plan, given=False)}, which the rule needs ({reason})"
        raise PlanError("cohort.min_replies", least, plan.cohort.min_replies)
    return tuple(_told(plan))


def _told(plan: Plan) -> Iterator[str]:
    """Only where a rule is named."""
    from wardround.strategies.reputation import delay

    settings = plan.robust
    rule = "+".join((*settings.pre, settings.rule))
    masked = plan.protection.on
    what = "group means" if masked else "contributions"
    yield f"{rule} reckons with {settings.num_byzantine} bad {what} of {plan.contributions} in a round, no more"
    if masked:
        yield "one bad site makes the mean of its group bad, however many honest ones are in it"
    yield f"a round needs {least_replies(plan)} {'groups' if masked else 'updates'}"
    if not settings.quarantine.enabled:
        yield "no site is quarantined (robust.quarantine.enabled)"
    elif not settings.num_byzantine:
        yield "no site is ever quarantined, since at most num_byzantine = 0 are"
    elif (limit := quarantine_threshold(plan)) is None:
        yield f"no site is ever quarantined: {plan.rounds} rounds are too few to tell an attacker from bad luck"
    else:
        rounds = delay(settings.quarantine, limit)
        yield (
            f"a site is quarantined at suspicion {limit:.2f}, at most {settings.num_byzantine} at a time: one that is "
            f"always flagged, in its {rounds}th round"
        )


def least_replies(plan: Plan, *, given: bool = True) -> int:
    """How many contributions a round needs to count: updates, or sums of groups under masking.

    The plan's `cohort.min_replies`. Without it none where central noise hides clients: full noise stands for whatever
    is missing, and a round that one client could void would tell of it. Else every one, less `num_byzantine` under a
    robust rule (else one attacker could void every round by keeping silent), but never fewer than the rule works for.
    """
    if given and plan.cohort.min_replies is not None:
        return plan.cohort.min_replies
    most = plan.contributions
    if plan.privacy.per_client and plan.privacy.mechanism is not Mechanism.SKELLAM:
        return 0
    if plan.robust.rule in (OFF, AUTO):
        return most
    obstacle = _rule(plan).obstacle
    fewest = max(1, most - plan.robust.num_byzantine)
    return next((n for n in range(fewest, most) if not obstacle(n)), most)


def quarantine_threshold(plan: Plan) -> float | None:
    """The suspicion at which a site of this plan is quarantined, if quarantine is on.

    None where its rounds are too few to tell an attacker from bad luck, and where sites stay in one group of which only
    the sum is seen.
    """
    from wardround.strategies.reputation import threshold

    settings = plan.robust.quarantine
    if plan.robust.rule in (OFF, AUTO):
        return None
    smallest = largest = 1
    if plan.protection.on:
        from wardround.strategies.secagg.plan_terms import parameters_of

        if plan.protection.tables is TableChoice.ONCE:
            return None
        parameters = parameters_of(plan)
        smallest, largest = parameters.smallest_group, parameters.group_size
    try:
        return threshold(
            settings,
            sites=plan.simulation.sites,
            rounds=plan.rounds,
            num_byzantine=plan.robust.num_byzantine if plan.protection.on else 0,
            group_size=smallest,
            largest_group=largest,
        )
    except ValueError:
        return None


def _rule(plan: Plan) -> "Robust":
    from wardround.strategies.rules.build import build_robust

    return build_robust(plan.robust)
