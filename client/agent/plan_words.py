"""A plan in the words of those who decide on it: what would run, on which columns, and how it stands to the policy."""

from collections.abc import Collection, Iterator
from datetime import datetime

from wardround.client.guard.policy import SitePolicy
from wardround.client.guard.policy_check import DataFacts, RunFacts, undecided, violations
from wardround.plan import Plan
from wardround.plan_sections import Column, ColumnType, Missing, Standardize

__all__ = ["BREAKS", "KEEPS", "LATER", "Judgement", "columns_of", "judged", "rows_of", "what_runs"]

KEEPS, BREAKS, LATER = "keeps", "BREAKS", "later"
Judgement = tuple[str, str, str]
"""Mark, rule with its value, and in words why, where there is more to say."""
_NOT_OF_PLANS = ("time_zone", "allow_unconfined_jobs")


def what_runs(plan: Plan) -> str:
    """What a site does in the run, in a sentence."""
    task, training = plan.task, plan.training
    if task.name:
        what = f"{task.name}{f' ({task.model})' * bool(task.model)}"
    elif task.entry is not None:
        what = f"the task {task.entry} of the plan's own code"
    else:
        what = f"the Flower app {task.flower_app} of the plan's own code"
    length = f"{training.steps} steps" if training.steps is not None else f"{training.epochs or 1} passes over the rows"
    everyone = "all of them" if plan.cohort_size == plan.simulation.sites else f"{plan.cohort_size} of them"
    return (
        f"{plan.rounds} rounds of {plan.simulation.sites} sites, {everyone} in each; a site trains {what} "
        f"for {length}, {training.batch_size} at a time"
    )


def columns_of(plan: Plan, there: Collection[str] | None) -> Iterator[tuple[str, str]]:
    """(column, in words) of everything that is read; `there` are the columns of the table it would be bound to."""
    data = plan.data
    if data.image is not None:
        yield "images", f"{' x '.join(map(str, data.image.shape))} values of {_span(data.image.range)}"
    for column in data.columns:
        yield column.name, f"{_column(column)}{_missing(column.name, there)}"
    if (target := data.target) is not None:
        values = (
            f"one of {', '.join(target.classes)}" if target.classes else f"{_unit(target.unit)}{_span(target.range)}"
        )
        yield target.name, f"what is predicted: {values}{_missing(target.name, there)}"
    if data.patient is not None:
        yield data.patient, f"whose a row is; it stays at the site{_missing(data.patient, there)}"
    if not data.columns and data.image is None:
        yield "(any)", "the plan names no columns: its own code chooses what it reads"


def rows_of(plan: Plan) -> str:
    """What becomes of the rows."""
    data = plan.data
    missing = "a row without one of the values is left out" if data.missing is Missing.DROP_ROW else "no value may miss"
    used = f"{data.validation:.0%} are held out to steer the training, {data.test:.0%} to test the model"
    scaled = {
        Standardize.NONE: "",
        Standardize.PLAN: "; numbers are scaled by figures of the plan",
        Standardize.RANGE: "; numbers are scaled by their range",
        Standardize.FEDERATED: "; numbers are scaled by sums over all sites",
    }[data.standardize]
    return f"{missing}; {used}{scaled}"


def judged(policy: SitePolicy, plan: Plan, run: RunFacts, data: DataFacts | None, now: datetime) -> Iterator[Judgement]:
    """How the plan stands to every rule that is set. Without `data` what depends on them is told as later."""
    facts = data or DataFacts(name="", rows=policy.min_rows or 0, has_schema=True)
    broken: dict[str, list[str]] = {}
    for one in violations(policy, plan, run, facts):
        broken.setdefault(one.rule, []).append(f"expected {one.expected}{f', got {one.got}' * bool(one.got)}")
    later = {*undecided(policy, plan, facts), *(("min_rows", "require_schema") if data is None else ())}
    for rule, value in policy.stated():
        if rule in _NOT_OF_PLANS:
            continue
        name = rule
        if rule.startswith("data."):
            about, _, name = rule.removeprefix("data.").rpartition(".")
            if about != facts.name:
                continue
        if rule == "hours" and not policy.open_at(now):
            yield LATER, f"{rule} {value}", "it waits for these hours"
        elif name in broken:
            yield BREAKS, f"{rule} {value}", "; ".join(broken[name])
        elif name in later:
            yield LATER, f"{rule} {value}", "known once the data were chosen and read"
        else:
            yield KEEPS, f"{rule} {value}", ""


def _column(column: Column) -> str:
    if column.type is ColumnType.CATEGORY:
        return f"one of {', '.join(column.categories)}"
    return (
        f"a number{f' in {column.unit}' * bool(column.unit)}{f', {_span(column.range)}' * (column.range is not None)}"
    )


def _unit(unit: str) -> str:
    return f"a number in {unit}, " if unit else "a number, "


def _span(span: tuple[float, float] | None) -> str:
    return "" if span is None else f"{span[0]:g} to {span[1]:g}"


def _missing(name: str, there: Collection[str] | None) -> str:
    return "; MISSING in this table" if there is not None and name not in there else ""
