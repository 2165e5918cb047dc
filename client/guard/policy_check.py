"""Whether a plan keeps to a site's policy: decided from the plan, the run and what is known of the data; no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wardround.client.guard.policy import (
    CodeLeave,
    EvaluationLeave,
    PinLeave,
    Requirement,
    SitePolicy,
)
from wardround.client.guard.violation import PolicyError, Violation
from wardround.orders import OrderKind
from wardround.plan import Plan
from wardround.plan_privacy import Disclosure, Unit

if TYPE_CHECKING:
    from wardround.strategies.privacy.claim import Claim

__all__ = [
    "DataFacts",
    "RunFacts",
    "check_order",
    "evaluates",
    "smallest_sum",
    "undecided",
    "violations",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run as it was offered: `members` maps the other sites to their keys' fingerprints, `pinned` those accepted."""

    members: Mapping[str, str]
    pinned: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What the run is bound to; limits hold for `name` and for `population`, the people in it.

    `claim` is the plan's on these data; None where there is none, or not yet known.
    """

    name: str
    rows: int
    has_schema: bool
    claim: "Claim | None" = None
    population: str = ""


def violations(policy: SitePolicy, plan: Plan, run: RunFacts, data: DataFacts) -> list[Violation]:
    """Every rule that `plan` breaks with these data, in the policy's order; hours apart, since they pass.

    A limit on a claim that is not yet known is not broken: see `undecided`.
    """
    found = [*_privacy(policy, plan, data), *_protections(policy, plan, data), *_sites(policy, plan, run)]
    found += _code(policy, plan)
    if policy.min_rows is not None and data.rows < policy.min_rows:
        found.append(
            Violation(
                rule="min_rows",
                expected="a data set as large as the site requires",
                got=f"{data.rows} rows of at least {policy.min_rows}",
            )
        )
    if policy.require_schema and not data.has_schema:
        found.append(Violation(rule="require_schema", expected="a data set that the site has registered with a schema"))
    if policy.max_rounds is not None and plan.rounds > policy.max_rounds:
        found.append(Violation(rule="max_rounds", expected=f"at most {policy.max_rounds} rounds", got=str(plan.rounds)))
    if not _may_evaluate(policy, plan) and evaluates(plan):
        found.append(_evaluation(policy))
    return found


def undecided(policy: SitePolicy, plan: Plan, data: DataFacts) -> list[str]:
    """The rules that wait for the claim, which is known once the data were read."""
    if not plan.privacy.on or data.claim is not None:
        return []
    whose = (data.name, data.population)
    limits = {"max_epsilon": policy.max_epsilon_of(*whose), "max_delta": policy.max_delta_of(*whose)}
    return [name for name, limit in limits.items() if limit is not None]


def check_order(policy: SitePolicy, plan: Plan, kind: OrderKind) -> None:
    """Raises PolicyError for an order that the policy does not allow, though it allows the plan."""
    if kind is OrderKind.EVALUATE and not _may_evaluate(policy, plan):
        raise PolicyError([_evaluation(policy)])


def smallest_sum(plan: Plan) -> int:
    """Updates at the least in what the server learns: in a group's sum under secure aggregation, else in a round."""
    if plan.protection.on:
        from wardround.strategies.secagg.plan_terms import parameters_of

        return parameters_of(plan).min_survivors
    from wardround.strategies.composition import least_replies

    return least_replies(plan)


def evaluates(plan: Plan) -> bool:
    """Whether counts and scores of held-out rows leave a site, while it trains or at the end."""
    if plan.privacy.on and plan.privacy.evaluation is Disclosure.OFF:
        return False
    return plan.data.test > 0 or (plan.evaluation.every > 0 and plan.data.validation > 0)


def _privacy(policy: SitePolicy, plan: Plan, data: DataFacts) -> list[Violation]:
    from wardround.strategies.privacy.claim import rounded_up

    found, whose = [], (data.name, data.population)
    for name, limit in (("epsilon", policy.max_epsilon_of(*whose)), ("delta", policy.max_delta_of(*whose))):
        if limit is None:
            continue
        rule, expected = f"max_{name}", f"differential privacy with {name} of at most {limit:g}"
        if not plan.privacy.on:
            found.append(Violation(rule=rule, expected=expected, got="none"))
        elif data.claim is not None:
            claimed = data.claim.epsilon if name == "epsilon" else data.claim.delta
            if not claimed <= limit:
                found.append(Violation(rule=rule, expected=expected, got=rounded_up(claimed)))
    return found


def _protections(policy: SitePolicy, plan: Plan, data: DataFacts) -> list[Violation]:
    unit = plan.privacy.unit
    kept = {
        Requirement.SECURE_AGGREGATION: plan.protection.on,
        Requirement.DP: plan.privacy.on,
        Requirement.EXAMPLE_LEVEL_DP: plan.privacy.per_example,
        Requirement.PATIENT_LEVEL_DP: unit is Unit.PATIENT,
    }
    found = [
        Violation(rule="require", expected=f"{one.value}, {_SAID[one]}", got=_got(plan, one))
        for one in policy.require
        if not kept[one]
    ]
    if Requirement.PATIENT_LEVEL_DP in policy.require and unit is Unit.PATIENT and not data.has_schema:
        expected = "patient-level-dp, on a data set that the site has registered with a schema: it says whose a row is"
        found.append(Violation(rule="require", expected=expected))
    return found


_SAID = {
    Requirement.SECURE_AGGREGATION: 'protection.mode = "masking" or "bfv"',
    Requirement.DP: "a privacy.unit",
    Requirement.EXAMPLE_LEVEL_DP: 'privacy.unit = "row" or "patient"',
    Requirement.PATIENT_LEVEL_DP: 'privacy.unit = "patient"',
}


def _got(plan: Plan, one: Requirement) -> str:
    return f'"{plan.protection.mode if one is Requirement.SECURE_AGGREGATION else plan.privacy.unit}"'


def _sites(policy: SitePolicy, plan: Plan, run: RunFacts) -> list[Violation]:
    found = []
    if policy.min_sites is not None and (least := smallest_sum(plan)) < policy.min_sites:
        what = "in every sum that the server learns" if plan.protection.on else "in a round that counts"
        keys = "protection.min_survivors" if plan.protection.on else "cohort.min_replies"
        expected = f"at least {policy.min_sites} updates {what}, {keys}"
        found.append(Violation(rule="min_sites", expected=expected, got=str(least)))
    everyone = policy.pins is PinLeave.ALL
    unpinned = [
        name
        for name, fingerprint in run.members.items()
        if (everyone or name in policy.pins) and run.pinned.get(name) != fingerprint
    ]
    if unpinned:
        expected = "members whose keys the site has accepted"
        found.append(Violation(rule="pins", expected=expected, got=f"none or another of {', '.join(unpinned)}"))
    return found


def _code(policy: SitePolicy, plan: Plan) -> list[Violation]:
    found = []
    task = plan.task.name or plan.task.entry or plan.task.flower_app or ""
    if policy.tasks is not None and task not in policy.tasks:
        found.append(Violation(rule="tasks", expected=f"one of {', '.join(policy.tasks)}", got=task))
    if plan.task.code is None or policy.code is CodeLeave.ANY:
        return found
    if policy.code is CodeLeave.NONE:
        found.append(Violation(rule="code", expected="no code bundle", got=f"{len(plan.code_files)} files"))
    elif (digest := plan.code_digest) not in policy.code:
        found.append(Violation(rule="code", expected="a code bundle that the site allows by its digest", got=digest))
    return found


def _may_evaluate(policy: SitePolicy, plan: Plan) -> bool:
    if policy.evaluation is EvaluationLeave.SUMMED:
        return plan.protection.on
    return policy.evaluation is EvaluationLeave.ANY


def _evaluation(policy: SitePolicy) -> Violation:
    if policy.evaluation is EvaluationLeave.SUMMED:
        return Violation(rule="evaluation", expected="counts of held-out rows only within sums of secure aggregation")
    return Violation(
        rule="evaluation",
        expected='that nothing of held-out rows leaves: data.test and evaluation.every 0, or privacy.evaluation "off"',
    )
