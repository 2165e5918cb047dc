"""The runs of the server: who is asked, who has approved, and the worker process of each run.

What is decided is in the database before anything is done about it, so that a server that was killed goes on with
`open`: it asks again who has not decided, starts the workers of what was running, and tells sites of ends that they
do not know.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from wardround.clock import utc_now
from wardround.errors import LocalError, WardroundError
from wardround.link.messages import Call, Notice, Reply
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.plan import Plan, parse_plan
from wardround.server.runs.deployable import check_deployable, check_sites
from wardround.server.runs.ends import Ends
from wardround.server.runs.offers import Offers
from wardround.server.runs.run_state import ENDED, RunEvent, RunState, after
from wardround.server.runs.telling import Telling
from wardround.server.runs.worker_messages import Ended
from wardround.server.runs.worker_process import WorkerProcess
from wardround.server.runs.worker_start import WorkerStarts, code_files
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.first_models import FirstModels
from wardround.server.state.folder import StateFolder
from wardround.server.state.keyring import Keyring
from wardround.server.state.models import Models
from wardround.server.state.plans import Plans
from wardround.server.state.run_sites import RunSites, Verdict
from wardround.server.state.runs import Run, Runs
from wardround.server.state.sites import Sites, SiteState
from wardround.server.state.vault import Vault
from wardround.signing_key import fingerprint_of

__all__ = ["Progress", "SiteCalls", "Supervisor"]

_MOST_CRASHES = 5
"""In a row, without a round between them: then a run has failed."""
_FIRST_RETRY_S, _MOST_RETRY_S = 0.5, 30.0
_PULSES = 30
"""Signs of life within the time after which a worker counts as stuck."""
_LOOKS = 60
"""At sites within the time after which one counts as away."""
_MOST_REASON = 500
_log = logging.getLogger("wardround")


class SiteCalls(Protocol):
    """What of the Hub a run needs."""

    async def call(
        self,
        site: SiteId,
        call: Call,
        *,
        timeout_s: float | None,
        allocate: Callable[[int], memoryview],
        most_bytes: int,
    ) -> Reply: ...

    async def notify(self, site: SiteId, notice: Notice) -> None: ...

    def away_s(self, site: SiteId) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a run is doing now. `doing` is what its sites were asked last ("" where nobody is asked).

    `asked` and `answered` are empty where the claim of a plan rests on nobody knowing who takes part in a round.
    `pid` is that of its worker, 0 where it is about to be started; `restarts` how often one has crashed in a row.
    """

    run_id: str
    round: int
    rounds: int
    doing: str = ""
    asked: tuple[SiteId, ...] = ()
    answered: tuple[SiteId, ...] = ()
    since: datetime | None = None
    restarts: int = 0
    pid: int = 0


@dataclass(slots=True)
class _Work:
    """A run at work."""

    task: asyncio.Task[None]
    plan: Plan
    round: int
    worker: WorkerProcess | None = None
    crashes: int = 0


class Supervisor:
    """Everything is called in the server's loop. `open` goes on with what was running when the server ended.

    `revocations` gives the newest revocation list of the identity authority, DER. `python` runs the workers. One
    that neither waits for sites nor computes for `stuck_s` is killed, which is as a crash. A site that has not been
    attached for `away_s` is not waited for once enough others have answered: a cable that was cut for ten minutes is no
    such case, with what both ends need to see that it is cut (50 s) and the agent to try again (60 s).
    """

    def __init__(
        self,
        hub: SiteCalls,
        folder: StateFolder,
        keyring: Keyring,
        database: Database,
        *,
        revocations: Callable[[], bytes],
        clock: Callable[[], datetime] = utc_now,
        python: str = sys.executable,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        stuck_s: float = 300.0,
        away_s: float = 720.0,
    ) -> None:
        self._hub, self._database = hub, database
        self._clock, self._python, self._sleep, self._stuck_s = clock, python, sleep, stuck_s
        self._runs, self._run_sites, self._sites = Runs(database), RunSites(database), Sites(database)
        self._plans = Plans(database, Vault(keyring.data_key))
        self._first, self._models, self._events = FirstModels(database), Models(database), Events(database)
        self._telling, server = Telling(), fingerprint_of(keyring.signing.public)
        self._offers = Offers(database, self._plans, hub, self._telling, server=server, clock=clock)
        self._ends = Ends(database, hub, self._telling)
        self._away_s = away_s
        self._starts = WorkerStarts(
            folder, keyring, database, self._plans, revocations=revocations, pulse_s=stuck_s / _PULSES
        )
        self._work: dict[str, _Work] = {}
        self._newest = b""
        """The revocation list that came last."""
        self._settling = asyncio.Lock()
        self._closing = False

    # -- the server's life ------------------------------------------------------------------------

    async def open(self) -> None:
        """Go on with the runs that were at work, ask again who has not decided, and tell who was not told."""
        for run in self._runs.list({RunState.WAITING, RunState.READY, RunState.RUNNING, RunState.STOPPING}):
            try:
                await self._go_on(run)
            except WardroundError as error:
                _log.error("run %d: cannot go on: %s", run.number, error)
        self._ends.tell_all()

    async def _go_on(self, run: Run) -> None:
        if run.state == RunState.WAITING:
            if self._offers.made(run.id):
                self._offers.ask(run)
                await self._settle(run.id)
        elif run.state == RunState.STOPPING:
            await self._end(run.id, RunEvent.HALTED, "stopped by a person")
        else:
            await self._begin(run.id)

    async def close(self) -> None:
        """End every worker; their runs stay as they are and go on with the next `open`."""
        self._closing = True
        works = list(self._work.values())
        for work in works:
            if work.worker is not None:
                work.worker.cut()
            else:
                work.task.cancel()
        await asyncio.gather(*(work.task for work in works), self._telling.close(), return_exceptions=True)
        self._work.clear()

    # -- what people want -------------------------------------------------------------------------

    async def start(self, run_id: str) -> None:
        """Offer a waiting run to its sites; it starts once all of them have approved.

        Raises LocalError for a plan that hospitals cannot run, another number of sites than the plan is for, a site
        that is not a member any more, and a plan without a first model.
        """
        run = self._waiting(run_id)
        plan, sites = self._plan(run), [one.site for one in self._run_sites.list(run_id)]
        check_deployable(plan)
        check_sites(plan, len(sites))
        for site in sites:
            if refused := self._refused(site):
                raise LocalError(f"run {run.number}: {site} {refused}; name other sites")
        if self._first.get(run.plan_digest) is None:
            raise LocalError(f"run {run.number}: expected a first model of its plan, got none; upload it with the plan")
        self._offers.notice(run)  # raises for one that is too large
        if not self._offers.made(run_id):
            await asyncio.to_thread(self._offers.make, run)
        self._offers.ask(self._waiting(run_id))  # a person may have stopped it meanwhile

    async def pause(self, run_id: str) -> None:
        """Pause a run after the round at work. Raises LocalError for one that is not running."""
        await self._move(run_id, RunEvent.PAUSED, "by a person; a round at work is finished")
        if (work := self._work.get(run_id)) is not None and work.worker is not None:
            await work.worker.pause(on=True)

    async def resume(self, run_id: str) -> None:
        """Go on with a run that is paused. Raises LocalError for another."""
        await self._move(run_id, RunEvent.RESUMED, "")
        work = self._work.get(run_id)
        if work is None:
            await self._begin(run_id)
        elif work.worker is not None:
            await work.worker.pause(on=False)

    async def stop(self, run_id: str) -> None:
        """End a run for good, in the middle of a round. Raises LocalError for one that has ended."""
        reason = "stopped by a person"
        if self._run(run_id).state in (RunState.WAITING, RunState.READY):
            await self._end(run_id, RunEvent.STOP, reason)
            return
        await self._move(run_id, RunEvent.STOP, reason)
        work = self._work.get(run_id)
        if work is None or work.worker is None:
            await self._end(run_id, RunEvent.HALTED, reason)
        else:
            await work.worker.stop()

    def progress(self, run_id: str) -> Progress | None:
        """What a run is doing; None for one that is not at work."""
        work = self._work.get(run_id)
        if work is None:
            return None
        worker = work.worker
        told = None if work.plan.privacy.hides_participation else worker
        return Progress(
            run_id=run_id,
            round=work.round,
            rounds=work.plan.rounds,
            doing="" if worker is None else worker.doing,
            asked=() if told is None else tuple(sorted(told.asked)),
            answered=() if told is None else tuple(sorted(told.answered)),
            since=None if worker is None else worker.since,
            restarts=work.crashes,
            pid=0 if worker is None else worker.pid,
        )

    # -- what sites say ---------------------------------------------------------------------------

    async def noticed(self, site: SiteId, notice: Notice) -> None:
        """Take an `approval` notice of a site. Raises RemoteError for one that is malformed or not signed by it.

        A site decides once about a run: the same again, and anything later, changes nothing. One that takes a run for
        open which has ended is told so again.
        """
        run, approval = self._offers.checked(site, notice)
        if run.state in ENDED:
            self._ends.repeat(site, run)
        if run.state != RunState.WAITING:
            return
        await asyncio.to_thread(self._offers.decide, site, approval)
        self._offers.withdraw(run.id, site)
        await self._settle(run.id)

    async def renewed(self, revocations: bytes) -> None:
        """Hand a newer revocation list, DER, to the workers."""
        self._newest = revocations
        for work in list(self._work.values()):
            if work.worker is not None:
                await work.worker.renew(revocations)

    async def _settle(self, run_id: str) -> None:
        """Start a run that all have approved; end one that somebody has denied."""
        async with self._settling:
            if self._run(run_id).state == RunState.WAITING:
                await self._settle_waiting(run_id)

    async def _settle_waiting(self, run_id: str) -> None:
        decisions = self._run_sites.list(run_id)
        denied = [one for one in decisions if one.verdict is Verdict.DENIED]
        if denied:
            why = f": {denied[0].reason}" if denied[0].reason else ""
            await self._end(run_id, RunEvent.DENIED, f"denied by {denied[0].site}{why}")
        elif decisions and all(one.verdict is Verdict.APPROVED for one in decisions):
            await self._move(run_id, RunEvent.APPROVED, "")
            await self._begin(run_id)

    # -- a run at work ----------------------------------------------------------------------------

    async def _begin(self, run_id: str) -> None:
        """Put a run to work."""
        run = self._run(run_id)
        if self._closing or run_id in self._work:
            return
        if run.state == RunState.READY:
            await self._move(run_id, RunEvent.STARTED, "")
        try:
            plan = self._plan(run)
        except WardroundError as error:
            await self._end(run_id, RunEvent.FAILED, str(error))
            return
        task = asyncio.create_task(self._tend(run_id), name=f"run {run.number}")
        self._work[run_id] = _Work(task, plan, run.round)

    async def _tend(self, run_id: str) -> None:
        """One worker after another, until the run is paused or has ended."""
        work, wait_s = self._work[run_id], _FIRST_RETRY_S
        try:
            while not self._closing:
                try:
                    if not await self._tended(run_id, work):
                        return
                    wait_s = _FIRST_RETRY_S
                except WardroundError as error:  # of the database: its disk is full, say, and somebody makes room
                    wait_s = min(_MOST_RETRY_S, 2 * wait_s)
                    _log.error("run %s: %s; it is tried again in %g s", run_id, error, wait_s)
                    await self._sleep(wait_s)
        except Exception:  # one run must not take the others along
            _log.exception("run %s: it goes on when the server is started again", run_id)
        finally:
            self._work.pop(run_id, None)

    async def _tended(self, run_id: str, work: _Work) -> bool:
        """Do what the state of the run asks for; whether more may have to be done."""
        state = self._run(run_id).state
        if state == RunState.RUNNING:
            return await self._worked(run_id, work)
        if state == RunState.STOPPING:
            await self._end(run_id, RunEvent.HALTED, "stopped by a person")
        return False

    async def _worked(self, run_id: str, work: _Work) -> bool:
        """Run one worker; whether another may have to follow."""
        known = self._newest
        try:
            start = await asyncio.to_thread(self._starts.of, self._run(run_id))
        except WardroundError as error:
            await self._end(run_id, RunEvent.FAILED, str(error))
            return False

        if self._run(run_id).state != RunState.RUNNING:  # a person was faster
            return True

        async def durable(event: Mapping[str, Any]) -> None:
            work.round, work.crashes = event["round"], 0
            await asyncio.to_thread(self._keep_round, run_id, event)

        work.worker = WorkerProcess(
            start,
            python=self._python,
            call=self._hub.call,
            refused=self._refused,
            rounds=durable,
            clock=self._clock,
            stuck_s=self._stuck_s,
            away=lambda site: self._hub.away_s(site) >= self._away_s,
            look_s=self._away_s / _LOOKS,
        )
        worker = work.worker
        if self._newest is not known:  # it came while the start was made, with the one before perhaps
            await worker.renew(self._newest)
        try:
            ended = await worker.run()
        finally:
            work.worker = None
        if self._closing:
            return False
        if ended is not None:
            return await self._ended(run_id, ended)
        return await self._crashed(run_id, work, stuck=worker.was_stuck)

    async def _ended(self, run_id: str, ended: Ended) -> bool:
        if ended.reason:
            _log.warning("run %s: %s after round %d: %s", run_id, ended.state, ended.round, ended.reason)
        if ended.state == "paused":
            if ended.reason and self._run(run_id).state == RunState.RUNNING:
                await self._move(run_id, RunEvent.PAUSED, ended.reason)
            return True  # a person may have resumed it in the meantime
        if ended.state == "finished" and ended.blob is not None and ended.sha256 is not None:
            await asyncio.to_thread(self._keep_model, run_id, ended)
        event = {"finished": RunEvent.FINISHED, "stopped": RunEvent.HALTED}.get(ended.state, RunEvent.FAILED)
        await self._end(run_id, event, ended.reason)
        return False

    async def _crashed(self, run_id: str, work: _Work, *, stuck: bool) -> bool:
        state = self._run(run_id).state
        if state == RunState.STOPPING:
            await self._end(run_id, RunEvent.HALTED, "stopped by a person")
            return False
        work.crashes += 1
        now, detail = self._clock(), {"crashes": work.crashes, "round": work.round, "stuck": stuck}
        await asyncio.to_thread(
            lambda: self._events.add("worker.crashed", now=now, subject=run_id, run_id=run_id, detail=detail)
        )
        _log.warning("run %s: its worker ended after round %d, %d in a row", run_id, work.round, work.crashes)
        if state == RunState.RUNNING and work.crashes >= _MOST_CRASHES:
            reason = f"its worker crashed {work.crashes} times in a row after round {work.round}; see the server's log"
            await self._end(run_id, RunEvent.FAILED, reason)
            return False
        await self._sleep(min(_MOST_RETRY_S, _FIRST_RETRY_S * 2.0 ** (work.crashes - 1)))
        return True

    def _keep_round(self, run_id: str, event: Mapping[str, Any]) -> None:
        """Note a durable round; a failing database ends no run, since the next worker tells of it again."""
        try:
            with self._database.transaction():
                if self._runs.set_round(run_id, event["round"]):
                    self._events.add("round.done", now=self._clock(), subject=run_id, run_id=run_id, detail=event)
        except WardroundError as error:
            _log.warning("run %s: round %d is not noted yet: %s", run_id, event["round"], error)

    def _keep_model(self, run_id: str, ended: Ended) -> None:
        run = self._run(run_id)
        if ended.blob is None or ended.sha256 is None:
            return
        with self._database.transaction():
            model = self._models.add(
                name=run.name,
                run_id=run_id,
                plan_digest=run.plan_digest,
                blob=ended.blob,
                sha256=ended.sha256,
                now=self._clock(),
            )
            detail = {"version": model.version, "round": ended.released_round, "metrics": dict(ended.metrics)}
            self._events.add("model.made", now=self._clock(), subject=model.name, run_id=run_id, detail=detail)

    # -- the database -----------------------------------------------------------------------------

    def _run(self, run_id: str) -> Run:
        run = self._runs.get(run_id)
        if run is None:
            raise LocalError(f"expected a run that exists, got {plain_text(run_id)!r}")
        return run

    def _waiting(self, run_id: str) -> Run:
        run = self._run(run_id)
        if run.state != RunState.WAITING:
            raise LocalError(f"run {run.number}: expected one that is waiting, got one that is {run.state}")
        return run

    def _plan(self, run: Run) -> Plan:
        stored = self._plans.get(run.plan_digest)
        if stored is None:
            raise LocalError(f"run {run.number}: expected its plan, got none")
        return parse_plan(stored.toml, folder=Path(), code_files=code_files(self._plans, run.plan_digest))

    def _refused(self, site: SiteId) -> str:
        """Why a site is not called; empty where it is."""
        known = self._sites.get(site)
        if known is None:
            return "is not known"
        return "is revoked" if known.state is SiteState.REVOKED else ""

    async def _move(self, run_id: str, event: RunEvent, reason: str) -> None:
        """Let `event` happen to a run. Raises LocalError where it cannot."""
        await asyncio.to_thread(self._moved, run_id, event, reason)

    async def _end(self, run_id: str, event: RunEvent, reason: str) -> None:
        """Let a run end, if it has not, and tell its sites."""
        await self._move(run_id, event, reason)
        self._offers.withdraw(run_id)
        self._ends.tell(one.site for one in self._run_sites.list(run_id))

    def _moved(self, run_id: str, event: RunEvent, reason: str) -> None:
        """The state after `event`, in the database, with the line in the timeline by which sites are told of an end."""
        now, reason = self._clock(), plain_text(reason, _MOST_REASON)
        with self._database.transaction():
            run = self._run(run_id)
            state = after(RunState(run.state), event)
            if not self._runs.move(run_id, {run.state}, state, reason=reason, now=now):
                raise LocalError(f"run {run.number}: was changed by somebody else at the same time; look at it again")
            detail = {"state": state.value, "reason": reason}
            self._events.add(f"run.{event}", now=now, subject=run_id, run_id=run_id, detail=detail)
