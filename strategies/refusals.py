"""The combinations in a plan that are refused. One table; each row says when it applies, and why it is refused."""

from collections.abc import Callable
from dataclasses import dataclass

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
from wardround.plan_protection import ProtectionMode, TableChoice
from wardround.plan_robust import AUTO, OFF
from wardround.plan_sections import Select, Standardize, Weighting
from wardround.plan_simulation import Cryptography
from wardround.registry import load
from wardround.strategies.secagg.parameters import MAX_COMMITTEE

__all__ = ["REFUSED", "REFUSED_UNDER_BFV", "REFUSED_UNDER_MASKING", "REFUSED_UNDER_PRIVACY", "Refused", "refusals_of"]


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
        when=lambda plan: plan.robust.rule == AUTO and 2 * plan.robust.num_byzantine >= plan.contributions,
        expected="fewer than half of a cohort, since no rule that is chosen from tolerates more",
    ),
    Refused(
        key="robust.detectors",
        when=lambda plan: (
            plan.robust.rule == "fltrust"
            and 2 * plan.robust.num_byzantine >= plan.contributions
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
    Refused(
        key="simulation.cryptography",
        when=lambda plan: (
            plan.simulation.cryptography is not Cryptography.REAL and plan.protection.mode is not ProtectionMode.MASKING
        ),
        expected='no key unless protection.mode = "masking"',
    ),
    Refused(
        key="protection.sealed_model",
        when=lambda plan: plan.protection.sealed_model and not plan.protection.homomorphic,
        expected='false unless protection.mode = "bfv": a model is sealed to the key of an epoch, and members have one '
        "only there",
    ),
    Refused(
        key="simulation.late_dropout",
        when=lambda plan: plan.simulation.late_dropout > 0 and not plan.protection.on,
        expected='0 unless protection.mode is "masking" or "bfv", since without them an update that was sent is used',
    ),
)

_FOLLOWING = frozenset({"foolsgold", "fldetector"})
"""Detectors that keep a history of each contribution's members."""

REFUSED_UNDER_MASKING = (
    # -- who takes part, with which weight
    Refused(
        key="cohort.size",
        when=lambda plan: plan.cohort.size is not None,
        expected="no key where updates are hidden: keys and groups are agreed on by all sites that are left "
        "(cohort.without)",
    ),
    Refused(
        key="evaluation.sites",
        when=lambda plan: plan.evaluation.sites is not None,
        expected="no key where updates are hidden: an evaluation is a sum over the same groups as an update",
    ),
    Refused(
        key="cohort.min_replies",
        when=lambda plan: plan.cohort.min_replies is not None,
        expected="no key where updates are hidden: groups reply, each with at least protection.min_survivors sites",
    ),
    Refused(
        key="cohort.weighting",
        when=lambda plan: plan.weighting is Weighting.EXAMPLES,
        expected='"uniform" or "capped" where updates are hidden: nobody sees a weight, so that it must be bounded',
    ),
    Refused(
        key="clipping.clip_norm",
        when=lambda plan: plan.clipping.clip_norm is None and not plan.privacy.per_client,
        expected="a number where updates are hidden: nobody sees an update's length, and it fixes how values become "
        "integers",
    ),
    Refused(
        key="protection.metrics",
        when=lambda plan: bool(plan.protection.metrics) and plan.task.flower_app is None,
        expected="none without task.flower_app: a task's own metrics are sums already",
    ),
    Refused(
        key="protection.metrics",
        when=lambda plan: (
            bool(plan.protection.metrics) and plan.privacy.on and plan.privacy.evaluation is Disclosure.OFF
        ),
        expected='none, since no metric leaves a site (or privacy.evaluation = "clear", outside the claim)',
    ),
    # -- what a server could solve for
    Refused(
        key="protection.tables",
        when=lambda plan: plan.protection.tables is TableChoice.EACH_ROUND and plan.protection.groups == 1,
        expected='"once", since one group is the same in each round',
    ),
    Refused(
        key="protection.tables",
        when=lambda plan: plan.protection.tables is TableChoice.EACH_ROUND and not plan.privacy.on,
        expected='"once" without differential privacy: models of successive rounds are nearly equal, and from sums of '
        "ever other groups over them a server solves for single sites",
    ),
    Refused(
        key="privacy.evaluation",
        when=lambda plan: (
            plan.protection.tables is TableChoice.EACH_ROUND and plan.privacy.evaluation is Disclosure.CLEAR
        ),
        expected='"off" with protection.tables = "each-round": counts that no model changes (rows, labels) would be '
        "summed over ever other groups, and after some rounds a server solves for each site's",
    ),
    # -- rules see the means of groups, and nothing of a site
    Refused(
        key="robust.rule",
        when=lambda plan: plan.robust.rule == AUTO,
        expected="a rule by name where updates are hidden: the trials of auto draw groups of their own, not those of "
        "the run",
    ),
    Refused(
        key="robust.rule",
        when=lambda plan: plan.protection.groups == 1 and plan.robust.rule not in (OFF, "mean"),
        expected='"off" or "mean" with one group, since a rule over a single sum has nothing to compare '
        "(or protection.groups = 3 at least)",
    ),
    Refused(
        key="robust.detectors",
        when=lambda plan: plan.robust.rule != OFF and bool(_FOLLOWING & set(plan.robust.detectors)),
        expected="none of foolsgold and fldetector where updates are hidden: they follow who sends over the rounds, "
        "and a group that loses a member is somebody new to them",
    ),
    Refused(
        key="robust.quarantine.enabled",
        when=lambda plan: plan.robust.quarantine.enabled and plan.protection.tables is TableChoice.ONCE,
        expected="false while groups are the same in all rounds: evidence against a group says nothing of which of its "
        'sites is bad (protection.tables = "each-round", with differential privacy, tells them apart)',
    ),
    Refused(
        key="protection.min_roster",
        when=lambda plan: (
            plan.robust.quarantine.enabled
            and (plan.protection.min_roster or _left(plan)) > _left(plan) - plan.robust.num_byzantine
        ),
        expected="at most the number of sites less robust.num_byzantine, since so many may be in quarantine",
    ),
    Refused(
        key="data.standardize",
        when=lambda plan: plan.data.standardize is Standardize.FEDERATED and plan.robust.rule != OFF,
        expected='"plan", "range" or "none": beside a rule medians over sites are needed, which sums do not give',
    ),
    # -- noise
    Refused(
        key="privacy.mechanism",
        when=lambda plan: plan.privacy.per_client and plan.privacy.mechanism is not Mechanism.SKELLAM,
        expected='"skellam" where updates are hidden: a server that adds the noise must clip each update, and it '
        "sees none",
    ),
    Refused(
        key="protection.value_bits",
        when=lambda plan: plan.privacy.mechanism is Mechanism.SKELLAM and plan.protection.value_bits is not None,
        expected="no key beside skellam, whose noise fixes how values are encoded",
    ),
)


REFUSED_UNDER_BFV = (
    Refused(
        key="robust.rule",
        when=lambda plan: plan.robust.rule not in (OFF, "mean"),
        expected='"off" or "mean" with bfv: the server reads no update and members open one sum of all, so that a rule '
        'has nothing to compare (protection.mode = "masking" with groups = 3 at least shows it the means of groups)',
    ),
    Refused(
        key="protection.groups",
        when=lambda plan: plan.protection.groups != 1,
        expected="1 with bfv: there is one key, and whoever has it could open every group's sum",
    ),
    Refused(
        key="protection.tables",
        when=lambda plan: plan.protection.tables is not TableChoice.ONCE,
        expected='"once" with bfv, where no groups are drawn',
    ),
    Refused(
        key="protection.colluding",
        when=lambda plan: bool(plan.protection.colluding),
        expected="0 with bfv: a site that helps the server gives it the key to every update; masking tolerates some",
    ),
    Refused(
        key="simulation.sites",
        when=lambda plan: _left(plan) > MAX_COMMITTEE,
        expected=f"at most {MAX_COMMITTEE} with bfv: sums of more are not proven exact",
    ),
)


def _left(plan: Plan) -> int:
    return plan.simulation.sites - len(plan.cohort.without)


def _sampled(plan: Plan) -> bool:
    return plan.privacy.per_client and plan.privacy.claimed_sampling is not Sampling.FULL


REFUSED_UNDER_PRIVACY = (
    # -- mechanisms
    Refused(
        key="privacy.mechanism",
        when=lambda plan: plan.privacy.per_example and plan.privacy.mechanism is not Mechanism.GAUSSIAN,
        expected='"gaussian" for rows and patients',
    ),
    # -- noise of the clients' own, in the sums of groups
    Refused(
        key="privacy.mechanism",
        when=lambda plan: plan.privacy.mechanism is Mechanism.SKELLAM and not plan.protection.on,
        expected='"gaussian" or "banded-mf" unless protection.mode is "masking" or "bfv": a client adds only its '
        "share of the noise, which hides nothing where the server sees each update",
    ),
    Refused(
        key="privacy.relation",
        when=lambda plan: (
            plan.privacy.mechanism is Mechanism.SKELLAM and plan.privacy.claimed_relation is Relation.ADD_REMOVE
        ),
        expected='"zero-out" or "replace-one" beside skellam, since it is public who takes part',
    ),
    Refused(
        key="privacy.sampling",
        when=lambda plan: (
            plan.privacy.mechanism is Mechanism.SKELLAM and plan.privacy.claimed_sampling is not Sampling.FULL
        ),
        expected='"full" beside skellam: the server asks the clients, so that it knows who takes part',
    ),
    Refused(
        key="privacy.clipping",
        when=lambda plan: (
            plan.privacy.mechanism is Mechanism.SKELLAM and plan.privacy.clipping is not UnitClipping.FLAT
        ),
        expected='"flat" beside skellam: a rotation mixes all tensors, and the bound on integers is one norm of all',
    ),
    # -- what would leak beside the mechanism
    Refused(
        key="data.standardize",
        when=lambda plan: (
            plan.data.standardize is Standardize.FEDERATED and plan.privacy.statistics is PrivateStatistics.OFF
        ),
        expected='"plan", "range" or "none" (or privacy.statistics = "dp"), since sums would be sent without noise',
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
        key="robust.rule",
        when=lambda plan: plan.privacy.per_example and plan.robust.rule == "fltrust",
        expected="another rule, since the server's own rows (robust.root_examples) have no noise",
    ),
    # -- central noise: nothing that one client's update steers may come before it
    Refused(
        key="robust.rule",
        when=lambda plan: (
            plan.privacy.per_client and plan.privacy.mechanism is not Mechanism.SKELLAM and plan.robust.rule != OFF
        ),
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


def refusals_of(plan: Plan) -> tuple[Refused, ...]:
    """The rows that `plan` is held to, in the order in which they are tried."""
    hidden, privacy = plan.protection.on, plan.privacy.on
    return (
        *REFUSED,
        *REFUSED_UNDER_BFV * plan.protection.homomorphic,
        *REFUSED_UNDER_MASKING * hidden,
        *REFUSED_UNDER_PRIVACY * privacy,
    )
