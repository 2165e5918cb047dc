"""How a run stands at a site, in words."""

from datetime import datetime

from wardround.client.agent.plan_store import PlanStore, RunState, Verdict
from wardround.client.agent.policy_file import PolicyFile
from wardround.client.agent.site_folder import SiteFolder
from wardround.errors import LocalError

__all__ = ["standing"]


def standing(folder: SiteFolder, run: str, now: datetime) -> str:
    """One line, also for a run of which something is damaged."""
    plans = PlanStore(folder)
    try:
        decision, outcome = plans.decision(run), plans.outcome(run)
    except LocalError as error:
        return f"cannot go on: {error}"
    if outcome is not None and outcome.state is RunState.ENDED:
        return f"ended ({outcome.reason})"
    if decision is None:
        return "waits for a decision"
    if decision.verdict is Verdict.DENIED:
        return f"denied by {decision.by} on {decision.at[:10]}"
    if outcome is not None and outcome.state is RunState.UNFIT:
        return f"approved, but cannot be run here: {outcome.reason}"
    ready = "ready" if outcome is not None else _waits(folder, now)
    return f"approved by {decision.by} on {decision.at[:10]} with data {decision.data}, {ready}"


def _waits(folder: SiteFolder, now: datetime) -> str:
    try:
        return "being prepared" if PolicyFile(folder).read().open_at(now) else "waits for the site's hours (policy)"
    except LocalError as error:
        return f"waits: {error}"
