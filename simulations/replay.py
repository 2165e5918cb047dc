"""Retraining without a site: a new run from the last checkpoint before the site was first suspicious.

What the site did before that is still in the model and in the statistics of round 0; this is not certified unlearning.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan, PlanError
from wardround.plan_sections import Standardize
from wardround.server.runs.run_directory import GROUPS_FILE, RunDirectory
from wardround.strategies.composition import check
from wardround.strategies.reputation import Reputation

__all__ = ["Replay", "prepare_replay", "release_site"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A prepared run: where it is, its plan, the first round that it trains, and what a person should know."""

    folder: Path
    plan: Plan
    first_round: int
    notes: tuple[str, ...] = ()


def prepare_replay(run: Path, without: Sequence[str], out: Path, from_round: int | None = None) -> Replay:
    """Make `out`, a run directory that continues as `run` did before `from_round`, without the sites `without`.

    `from_round` is by default the first in which one of them was refused or flagged. Rounds are repeated from the last
    checkpoint that was kept before it. `simulate(out=out, resume=True)` then trains. Raises LocalError for sites or
    rounds that the run does not have; `run` stays as it is.
    """
    without = tuple(dict.fromkeys(without))
    with RunDirectory.open(run) as source:
        lines = source.lines()
        known = {site for line in lines for site in line["cohort"]} - set(source.plan.cohort.without)
        for site in without:
            if site not in known:
                raise LocalError(f"{run}: expected a site that took part in this run, got {site!r}")
        if not without:
            raise LocalError("expected at least one site to do without")
        if from_round is None:
            suspicious = [source.suspicions[site] for site in without if site in source.suspicions]
            if not suspicious:
                raise LocalError(
                    f"{run}: {', '.join(without)} was never suspicious; say from which round: --from ROUND"
                )
            from_round = min(suspicious)
        if not 1 <= from_round <= source.rounds:
            raise LocalError(f"{run}: expected a round from 1 to {source.rounds}, got {from_round}")
        if source.plan.privacy.on and (from_round != 1 or "ledgers" not in source.info.engine):
            raise LocalError(
                f"{run}: a replay releases more about the same patients, a job of its own that the sites' ledgers are "
                "charged with: expected --from 1, and a run that was started with --ledgers DIR"
            )
        base = max((kept for kept in source.kept() if kept < from_round), default=0)
        plan = _plan_without(source.plan, without)
        check(plan)
        origin = {"run_id": source.info.run_id, "without": list(without), "from_round": base + 1}
        with RunDirectory.create(out, plan, source.info.engine, origin=origin) as target:
            if base:
                checkpoint = source.checkpoint(base)
                reputation = checkpoint.state.reputation
                for site in source.audit.out_of_quarantine(base):
                    reputation = reputation.release(site)
                state = replace(
                    checkpoint.state,
                    reputation=_without(reputation, without),
                    stopped="",
                    best_round=0,  # which round was best is judged anew, without the site's word
                    best_loss=None,
                    best_model=None,
                    evaluations_without_gain=0,
                )
                target.adopt(lines[:base], replace(checkpoint, state=state))
                if (groups := source.path / GROUPS_FILE).exists():  # over nearly equal models nobody changes group
                    target.write_bytes(GROUPS_FILE, groups.read_bytes())
            return Replay(
                folder=target.path, plan=target.plan, first_round=base + 1, notes=tuple(_notes(plan, base, from_round))
            )


def _plan_without(plan: Plan, sites: Sequence[str]) -> Plan:
    """The plan without `sites`; cohort, quorum and num_byzantine are as much smaller as they must be."""
    cohort = plan.cohort
    without = (*cohort.without, *sites)
    left = plan.simulation.sites - len(without)
    size = None if cohort.size is None else max(1, min(cohort.size, left))
    least = None if cohort.min_replies is None else max(1, min(cohort.min_replies, left))
    smaller = replace(plan, cohort=replace(cohort, without=without, size=size, min_replies=least))
    for fewer in range(len(sites) + 1):  # those that are left out may be of the num_byzantine
        bad = max(min(1, plan.robust.num_byzantine), plan.robust.num_byzantine - fewer)
        tried = replace(smaller, robust=replace(plan.robust, num_byzantine=bad))
        with suppress(PlanError):
            check(tried)
            return tried
    return smaller


def _without(reputation: Reputation, sites: Sequence[str]) -> Reputation:
    standings = {site: one for site, one in reputation.standings.items() if site not in sites}
    quarantined = {site: since for site, since in reputation.quarantined.items() if site not in sites}
    return Reputation(standings=standings, quarantined=quarantined)


def _notes(plan: Plan, base: int, from_round: int) -> list[str]:
    notes = []
    if base + 1 < from_round:
        notes.append(f"rounds {base + 1} to {from_round - 1} are trained again too: no later checkpoint was kept")
    if base:
        notes.append(f"what was learned with the site in rounds 1 to {base} is still in the model")
        if plan.data.standardize is Standardize.FEDERATED:
            notes.append("so are its sums in the standardisation; --from 1 trains without them")
    return notes


def release_site(run: Path, site: str, by: str, reason: str) -> int:
    """Let a quarantined site take part again when `run` is continued; the round after which it was released.

    The decision, who took it and why stand in the run's audit log. Raises LocalError when the site is not in
    quarantine or the run is over.
    """
    with RunDirectory.open(run) as directory:
        latest = directory.latest()
        if latest is None or latest.state.round >= directory.plan.rounds or latest.state.stopped:
            raise LocalError(f"{run}: expected a run with rounds to come, in which a release changes something")
        quarantined = set(latest.state.reputation.quarantined) - set(
            directory.audit.out_of_quarantine(latest.state.round)
        )
        if site not in quarantined:
            held = ", ".join(sorted(quarantined)) or "none"
            raise LocalError(f"{run}: expected a site in quarantine ({held}), got {site!r}")
        if not reason.strip():
            raise LocalError("expected a reason, which the audit log keeps")
        directory.audit.released(SiteId(site), latest.state.round, by, reason)
        return latest.state.round
