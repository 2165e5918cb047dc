"""What is looked up to judge an offered run: the table it would be bound to, the claim on it, the policy."""

from collections.abc import Iterator
from datetime import datetime

from wardround.client.agent.data_registry import DataRegistry, DataSet
from wardround.client.agent.plan_store import PlanStore, RunState, Verdict
from wardround.client.agent.plan_words import BREAKS, Judgement, judged
from wardround.client.agent.policy_file import PolicyFile
from wardround.client.agent.run_policy import data_facts, run_facts
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.guard.policy import Requirement, SitePolicy
from wardround.errors import WardroundError

__all__ = ["broken_by", "judgements", "notes_on", "table_for"]


def table_for(folder: SiteFolder, run: str, name: str | None) -> DataSet | None:
    """The table called `name`; without, the one that the run was approved with, else the only one there is."""
    registry = DataRegistry(folder)
    if name is not None:
        return registry.find(name)
    decision = PlanStore(folder).decision(run)
    if decision is not None and decision.data:
        return registry.get(decision.data)
    known = registry.all()
    return known[0] if len(known) == 1 else None


def judgements(folder: SiteFolder, run: str, data: str | None, now: datetime) -> Iterator[Judgement]:
    """How an offered run stands to every rule that is set."""
    plans, policy = PlanStore(folder), PolicyFile(folder).read()
    plan, offer, table, outcome = plans.plan(run), plans.offer(run), table_for(folder, run, data), plans.outcome(run)
    facts = None
    if table is not None:
        units = None if outcome is None else outcome.units
        facts = data_facts(policy, table, plan, offer, units=units, rows=None)
    return judged(policy, plan, run_facts(folder, offer), facts, now)


def broken_by(folder: SiteFolder, now: datetime) -> Iterator[str]:
    """The approved runs that go on, and do not keep to the policy as it is."""
    plans = PlanStore(folder)
    for run in plans.names():
        try:
            decision, outcome = plans.decision(run), plans.outcome(run)
            ended = outcome is not None and outcome.state is not RunState.READY
            if decision is None or decision.verdict is not Verdict.APPROVED or ended:
                continue
            rules = [rule for mark, rule, _ in judgements(folder, run, None, now) if mark == BREAKS]
        except WardroundError as error:
            yield f"run {run[:12]}: {error}"
            continue
        if rules:
            yield f"run {run[:12]} is approved and does not keep to this ({', '.join(rules)}): it ends here"


def notes_on(policy: SitePolicy, folder: SiteFolder) -> Iterator[str]:
    """What is possible but may not be what was meant."""
    from wardround.registry import names

    masked = Requirement.SECURE_AGGREGATION in policy.require
    if policy.min_sites is not None and policy.min_sites > 1 and not masked:
        yield (
            "min_sites without secure-aggregation in require: of a plan without it the server sees every update, and "
            "counts them itself"
        )
    for task in policy.tasks or ():
        if ":" not in task and task not in names("wardround.tasks"):
            yield f"tasks: no task called {task!r} is installed here"
    tables = DataRegistry(folder).all()
    if policy.min_rows is not None and tables and all(one.rows < policy.min_rows for one in tables):
        yield f"min_rows {policy.min_rows}: no registered data set has so many"
    for name in policy.data:
        if all(one.name != name for one in tables):
            yield f"data.{name}: no data set of this name is registered"
