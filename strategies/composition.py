"""What may stand together in a plan. One table; each row says when it applies, and why it is refused.

What computes (rules, and numpy with them) is imported only for plans that ask for it: checking others stays quick.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.plan_privacy import (
    Disclosure,
    Mechanism,
    PrivateStatistics,
    Relation,
    Sampling,
    Unit,
    UnitClipping,
)
from wardround.plan_robust import AUTO, OFF
from wardround.plan_sections import Select, Standardize, Weighting
from wardround.registry import load

if TYPE_CHECKING:
    from wardround.strategies.rules.robust import Robust

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


def _sampled(plan: Plan) -> bool:
    return plan.privacy.per_client and plan.privacy.claimed_sampling is not Sampling.FULL


REFUSED_UNDER_PRIVACY = (
    # -- what would leak beside the mechanism
    Refused(
        key="data.standardize",
        when=lambda plan: (
            plan.data.standardize is Standardize.FEDERATED and plan.privacy.statistics is PrivateStatistics.OFF
        ),
        expected='"plan", "range" or "none" (or privacy.statistics = "dp"), since sums would be sent in clear',
    ),
    Refused(
        key="privacy.statistics",
        when=lambda plan: plan.privacy.statistics is PrivateStatistics.DP and plan.privacy.per_client,
        expected='"off", since a whole site moves such sums without bound; take data.standardize = "plan" or "range"',
    ),
    Refused(
        key="privacy.statistics",
        when=lambda plan: (
            plan.privacy.statistics is PrivateStatistics.DP and plan.data.standardize is not Standardize.FEDERATED
        ),
        expected='"off", since only data.standardize = "federated" asks for statistics',
    ),
    Refused(
        key="training.class_weights",
        when=lambda plan: plan.training.class_weights == "balanced",
        expected="numbers, since weights by a site's own counts depend on its rows",
    ),
    Refused(
        key="privacy.public_sizes",
        when=lambda plan: plan.privacy.per_example and not plan.privacy.public_sizes,
        expected="true, since batches, steps, noise and the claim itself tell how many rows a site trains on",
    ),
    Refused(
        key="evaluation.patience",
        when=lambda plan: plan.evaluation.patience is not None and plan.privacy.evaluation is Disclosure.OFF,
        expected='no key, since no loss leaves a site (or privacy.evaluation = "clear", outside the claim)',
    ),
    Refused(
        key="evaluation.select",
        when=lambda plan: plan.evaluation.select is Select.BEST and plan.privacy.evaluation is Disclosure.OFF,
        expected='"last", since no loss leaves a site (or privacy.evaluation = "clear", outside the claim)',
    ),
    Refused(
        key="robust.rule",
        when=lambda plan: plan.robust.rule == AUTO,
        expected="a rule by name, since every trial on the sites' rows would be a charge of its own",
    ),
    # -- what the accounting does not hold for
    Refused(
        key="privacy.sampling",
        when=lambda plan: plan.privacy.claimed_sampling is Sampling.SHUFFLE,
        expected='"poisson", since shuffled batches are no Poisson samples (or "full", which claims no amplification)',
    ),
    Refused(
        key="privacy.sampling",
        when=lambda plan: plan.privacy.per_example and plan.privacy.claimed_sampling is Sampling.FIXED_SIZE,
        expected='"poisson" or "full" for rows and patients',
    ),
    Refused(
        key="cohort.size",
        when=lambda plan: _sampled(plan) and plan.cohort_size >= plan.simulation.sites - len(plan.cohort.without),
        expected="fewer than all sites, since privacy.sampling draws from them",
    ),
    Refused(
        key="privacy.relation",
        when=lambda plan: (
            plan.privacy.claimed_sampling is Sampling.FIXED_SIZE
            and plan.privacy.claimed_relation is not Relation.REPLACE_ONE
        ),
        expected='"replace-one", since a sample of fixed size changes with every client that comes or goes',
    ),
    Refused(
        key="cohort.min_replies",
        when=lambda plan: _sampled(plan) and plan.cohort.min_replies is not None,
        expected="no key, since which rounds have too few clients would tell who took part",
    ),
    # -- example-level training
    Refused(
        key="task.flower_app",
        when=lambda plan: plan.privacy.per_example and plan.task.flower_app is not None,
        expected='a task, since a Flower app trains with steps of its own that nobody clips (or unit = "client")',
    ),
    Refused(
        key="data.patient",
        when=lambda plan: plan.privacy.unit is Unit.PATIENT and plan.data.patient is None,
        expected='the column that says whose a row is, since unit = "patient" (or unit = "row")',
    ),
    Refused(
        key="training.gradient_clip_norm",
        when=lambda plan: plan.privacy.per_example and plan.training.gradient_clip_norm is not None,
        expected="no key, since privacy.clip_norm bounds every row's gradient",
    ),
    Refused(
        key="privacy.clipping",
        when=lambda plan: plan.privacy.per_example and plan.privacy.clipping is UnitClipping.ADAPTIVE,
        expected='"flat" or "per-layer" for rows and patients',
    ),
    Refused(
        key="privacy.mechanism",
        when=lambda plan: plan.privacy.per_example and plan.privacy.mechanism is Mechanism.BANDED_MF,
        expected='"gaussian" for rows and patients',
    ),
    Refused(
        key="robust.rule",
        when=lambda plan: plan.privacy.per_example and plan.robust.rule == "fltrust",
        expected="another rule, since the server's own rows (robust.root_examples) have no noise",
    ),
    # -- central noise: nothing that one client's update steers may come before it
    Refused(
        key="robust.rule",
        when=lambda plan: plan.privacy.per_client and plan.robust.rule != OFF,
        expected='"off": central noise fits the clipped mean only, and with a robust rule or detectors one client '
        'steers which others count (unit = "row" or "patient" leaves every rule free)',
    ),
    Refused(
        key="cohort.weighting",
        when=lambda plan: plan.privacy.per_client and plan.weighting is not Weighting.UNIFORM,
        expected='"uniform", since unequal weights break the bound on what one client adds',
    ),
    Refused(
        key="clipping.clip_norm",
        when=lambda plan: plan.privacy.per_client and plan.clipping.clip_norm is not None,
        expected="no key, since privacy.clip_norm clips every update",
    ),
    # -- banded matrix factorisation
    Refused(
        key="privacy.clipping",
        when=lambda plan: (
            plan.privacy.mechanism is Mechanism.BANDED_MF and plan.privacy.clipping is UnitClipping.ADAPTIVE
        ),
        expected='"flat" or "per-layer" beside banded-mf: no accountant exists for noise that spans changing clips',
    ),
    Refused(
        key="privacy.sampling",
        when=lambda plan: (
            plan.privacy.mechanism is Mechanism.BANDED_MF and plan.privacy.claimed_sampling is not Sampling.FULL
        ),
        expected='"full" beside banded-mf: no accountant exists for its samples',
    ),
    Refused(
        key="privacy.noise_multiplier",
        when=lambda plan: (
            plan.privacy.mechanism is Mechanism.BANDED_MF
            and plan.privacy.epsilon is not None
            and plan.privacy.noise_multiplier is not None
        ),
        expected="no key beside epsilon: banded-mf is charged whole at its start, so that no round can be left out",
    ),
    Refused(
        key="cohort.size",
        when=lambda plan: (
            plan.privacy.bands is not None
            and plan.cohort_size * plan.privacy.bands > plan.simulation.sites - len(plan.cohort.without)
        ),
        expected="at most the number of sites / privacy.bands, so that a site takes part in one of so many rounds",
    ),
)


def check(plan: Plan) -> tuple[str, ...]:
    """What a person should know of the plan's rule, in sentences.

    Raises PlanError for the first combination that is refused, and for a rule that too few sites feed.
    """
    for row in (*REFUSED, *(REFUSED_UNDER_PRIVACY if plan.privacy.on else ())):
        if row.when(plan):
            raise PlanError(row.key, row.expected)
    return (*_private(plan), *_robust(plan))


def _private(plan: Plan) -> tuple[str, ...]:
    """What is claimed. Where clients are hidden all is known; where rows are, only a site knows how many it has."""
    if not plan.privacy.per_client:
        return ()
    from wardround.strategies.privacy.build import private_mean
    from wardround.strategies.privacy.claim import claims_of, noise_warning
    from wardround.strategies.privacy.noise_source import FreshNoise
    from wardround.strategies.privacy.terms import client_terms

    terms = client_terms(plan)
    private_mean(plan, terms, (1,), FreshNoise())
    (claim,), warning = claims_of(plan), noise_warning(plan, terms)
    return (claim.headline(), *((warning,) if warning else ()))


def _robust(plan: Plan) -> tuple[str, ...]:
    if plan.robust.rule in (OFF, AUTO):
        return ()
    obstacle = _rule(plan).obstacle
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
    """How many updates a round needs to count.

    The plan's `cohort.min_replies`. Without it none where clients are hidden: full noise stands for whatever is
    missing, and a round that one client could void would tell of it. Else every drawn site's, less `num_byzantine`
    under a robust rule (else one attacker could void every round by keeping silent), but never fewer than the rule
    works for.
    """
    if given and plan.cohort.min_replies is not None:
        return plan.cohort.min_replies
    most = plan.cohort_size
    if plan.privacy.per_client:
        return 0
    if plan.robust.rule in (OFF, AUTO):
        return most
    obstacle = _rule(plan).obstacle
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


def _rule(plan: Plan) -> "Robust":
    from wardround.strategies.rules.build import build_robust

    return build_robust(plan.robust)
