"""One run at a site: what the server asks in it is checked, done, kept and signed here."""

import logging
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from wardround.audit.log import AuditLog
from wardround.client.agent.admission import Admission, OnceGuard, answered_rounds, order_name
from wardround.client.agent.archive_keys import keep_archive
from wardround.client.agent.data_registry import DataRegistry, DataSet
from wardround.client.agent.job_errors import JobErrors
from wardround.client.agent.kept_state import KeepingTrainer
from wardround.client.agent.member_pins import MemberPins
from wardround.client.agent.outbox import Outbox
from wardround.client.agent.participation import keep_participation
from wardround.client.agent.plan_store import Decision, Outcome, PlanStore, RunState, Verdict
from wardround.client.agent.revocation_list import RevocationList
from wardround.client.agent.run_budget import close_account, run_budget, units_of
from wardround.client.agent.run_policy import RunPolicy
from wardround.client.agent.signed_call import error_reply, signed_reply
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_job import JobMaker, SiteJob
from wardround.client.guard.answering import answer_order
from wardround.client.guard.encrypting_member import member_of
from wardround.client.guard.guard import SiteGuard
from wardround.client.guard.member import Member
from wardround.client.guard.violation import NotNowError, PolicyError
from wardround.clock import utc_now
from wardround.errors import BudgetError, LocalError, RemoteError, WardroundError
from wardround.file_store import FileStore
from wardround.link.messages import Call, Fault, Reply
from wardround.orders import Order, OrderKind, SiteId
from wardround.plan import Plan
from wardround.strategies.he.key_ceremony import check_machine, forget_key
from wardround.strategies.he.sealed_model import ArchiveKey
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.plan_terms import he_plan_of, parameters_of
from wardround.strategies.secagg.sealed_state import SealedState

__all__ = ["SiteRun", "finish_run"]

_PROTOCOL = "query.secagg"
_KINDS = {"train": OrderKind.FIT, "evaluate": OrderKind.EVALUATE, "query.statistics": OrderKind.STATISTICS}
_AGAIN_S = 0.5
_STATE = "state"
_log = logging.getLogger("wardround")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """What a run has open: closed together, opened again from what is durable."""

    store: FileStore
    guard: OnceGuard
    admission: Admission
    trainer: KeepingTrainer
    size: int
    """Parameters of the model, as were offered."""
    outbox: Outbox | None
    """None under secure aggregation: what a member has sent, it keeps and sends again itself."""


class SiteRun:
    """The approved run `run` at the site of `folder`. Threads may share it: it does one thing after another.

    What it charges to a budget is written to `audit`, the site's audit log.

    Whatever it answers is durable before, so that the process may be killed at any time and the next one goes on.
    """

    def __init__(
        self,
        folder: SiteFolder,
        run: str,
        jobs: JobMaker,
        *,
        audit: AuditLog | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._folder, self._run, self._jobs, self._now = folder, run, jobs, now
        self._plans, self._registry, self._policy = PlanStore(folder), DataRegistry(folder), RunPolicy(folder)
        self._key, self._audit = folder.signing_key, audit
        self._lock = threading.RLock()
        self._plan: Plan | None = None
        self._job: SiteJob | None = None
        self._units: int | None = None
        self._rows: int | None = None
        self._withdrawn: object = None
        """What the job knows of withdrawals: `Withdrawals.stamp`."""
        self._open: _Open | None = None
        self._closed = self._stale = False

    # -- before the first order -----------------------------------------------------------------------

    def prepare(self) -> int | None:
        """Read the data with the plan, and open the run; how many rows or patients it hides, where it hides those.

        Raises WardroundError where plan, data and budget do not go together, PolicyError where the site's policy does
        not allow it, and NotNowError outside the site's hours.
        """
        with self._lock:
            if self._closed:
                raise LocalError(f"run {self._run}: has ended at this site")
            plan, decision, data = self._approved()
            self._check_policy(plan, data)
            if plan.protection.homomorphic:
                check_machine(he_plan_of(plan))
            if self._job is None:
                self._policy.check_hours(self._now())
                data.check_unchanged()
                self._withdrawn = self._registry.withdrawals.stamp(data.population)
                self._job = self._jobs(self._run, plan, data)
                try:
                    facts = self._job.describe()
                    self._units, self._rows = units_of(plan, facts), facts.rows
                    self._check_policy(plan, data)  # again, with what only the data tell
                except BaseException:
                    self._job.close()
                    self._job = None
                    raise
            if self._open is None:
                self._open = self._opened(plan, decision, data, self._job)
            return self._units

    def check(self) -> None:
        """Raise PolicyError where the site's policy does not allow this run any more. Waits for nothing."""
        if self._policy.changed:
            plan, _, data = self._approved()
            self._check_policy(plan, data)

    def _check_policy(self, plan: Plan, data: DataSet) -> None:
        units = self._units
        if units is None and (known := self._plans.outcome(self._run)) is not None:
            units = known.units
        self._policy.check(plan, self._plans.offer(self._run), data, units=units, rows=self._rows)

    def _approved(self) -> tuple[Plan, Decision, DataSet]:
        """The plan, the decision on it, and the data that it is bound to, all as they were approved."""
        decision = self._plans.decision(self._run)
        if decision is None or decision.verdict is not Verdict.APPROVED:
            raise LocalError(f"run {self._run}: expected an approval of this site, got none")
        if self._plan is None:
            self._plan = self._plans.plan(self._run)
        if self._plan.digest != decision.plan_digest:
            raise LocalError(
                f"run {self._run}: plan digest differs from the approved one: needs a new approval (approved "
                f"{decision.plan_digest[:12]}, offered {self._plan.digest[:12]})"
            )
        data = self._registry.find(decision.data)
        if data.binding != decision.data_digest:
            raise LocalError(f"data {data.name}: have changed since the run was approved: needs a new approval")
        return self._plan, decision, data

    def _opened(self, plan: Plan, decision: Decision, data: DataSet, job: SiteJob) -> _Open:
        offer, folder = self._plans.offer(self._run), self._folder
        budget = run_budget(
            plan,
            self._run,
            self._registry.ledger(data.name, data),
            units=self._units,
            size=offer.size,
            unprotected=decision.unprotected,
        )
        store = FileStore(folder.folder("runs", self._run) / _STATE)
        try:
            admission = Admission(store, budget, charged=self._note_charge)
            guard = SiteGuard(
                plan,
                SiteId(folder.name),
                admission,
                tensors=offer.tensors,
                budget=admission.budget,
                member=self._member(plan, store) if plan.protection.on else None,
            )
            outbox = None
            if not plan.protection.on:
                outbox = Outbox(folder.folder("runs", self._run, "outbox"), folder.state_key)
        except BaseException:
            store.close()
            raise
        return _Open(
            store=store,
            guard=OnceGuard(plan, guard, admission, self._note),
            admission=admission,
            trainer=KeepingTrainer(job, SealedState(store, folder.state_key, os.urandom)),
            size=offer.size,
            outbox=outbox,
        )

    def _member(self, plan: Plan, store: FileStore) -> Member:
        folder = self._folder
        membership = Membership(
            run=self._run,
            plan=bytes.fromhex(plan.digest),
            parameters=parameters_of(plan),
            name=folder.name,
            signing_key=self._key,
            certificate=folder.read("identity.der"),
            authority=folder.authority,
            revocations=RevocationList(folder).current(self._now()),
            accepted=MemberPins(folder),
            server=folder.server,
            state=SealedState(store, folder.state_key, os.urandom),
            random=os.urandom,
            noised=plan.privacy.on,
        )
        archive = self._keep_archive if plan.protection.sealed_model else None
        return member_of(plan, membership, now=self._now, note=self._note_key, archive=archive)

    # -- orders ---------------------------------------------------------------------------------------

    def answer(self, call: Call, digest: bytes) -> Reply:
        """The signed reply to a call with this digest, whose signature was checked."""
        with self._lock:
            try:
                return signed_reply(self._key, digest, self._frame(call, digest))
            except WardroundError as error:
                _log.warning("%s: %s", call.kind, error, extra={"run": self._run})
                if not isinstance(error, BudgetError | RemoteError | PolicyError | NotNowError):
                    self._forget()  # as after a restart: what is open may be half changed, what is stored is not
                fault = Fault.NOT_READY if isinstance(error, NotNowError) else None
                return error_reply(self._key, digest, self._told(error), fault)
            except BaseException:
                self._forget()
                raise

    def _note_charge(self, round: int, attempt: int) -> None:
        if self._audit is not None:
            self._audit.add("budget.charged", self._run, round=round, attempt=attempt)

    def _note_key(self, kind: str, **detail: object) -> None:
        if self._audit is not None:
            self._audit.add(kind, self._run, **detail)

    def _keep_archive(self, key: ArchiveKey) -> None:
        keep_archive(self._folder, key)

    def _note(self, text: str) -> None:
        JobErrors(self._folder.folder("jobs") / f"{self._run}.errors").note(text, self._now())

    def _told(self, error: WardroundError) -> WardroundError:
        """What the server is told: nothing of this machine, and nothing of the data."""
        if isinstance(error, PolicyError):
            return LocalError(f"{self._folder.name}: {error.told}")
        if str(self._folder.path) not in str(error):
            return error
        return LocalError(f"{self._folder.name}: the site failed; its own log says why")

    def _frame(self, call: Call, digest: bytes) -> bytes:
        if self._closed:
            raise LocalError(f"run {self._run}: has ended at this site")
        if self._stale:
            self._stale = False
            self._forget()
        if call.kind in _KINDS:
            self._notice_changes()
        if self._open is None or self._policy.changed:
            try:
                self.prepare()
            except (PolicyError, NotNowError):
                raise
            except WardroundError as error:  # its text may tell of the data
                _log.warning("%s", error, extra={"run": self._run})
                raise LocalError(
                    f"{self._folder.name}: the run cannot be prepared; the site's own log says why"
                ) from None
        opened, plan = self._open, self._plan
        if opened is None or plan is None:
            raise RuntimeError("a run is prepared before it answers")
        if call.kind == _PROTOCOL:
            return opened.guard.answer(call.protocol)
        if call.kind not in _KINDS:
            raise RemoteError(f"expected a call of {', '.join((*_KINDS, _PROTOCOL))}, got another kind")
        kept = None if opened.outbox is None else opened.outbox.get(digest)
        order = Order.decode(call.order)
        trained = order.round if order.kind is OrderKind.FIT else None
        if kept is not None:
            if opened.admission.admitted == order_name(order, digest):  # a kill came between
                opened.admission.answered(trained)
            return kept
        if order.run_id != self._run or order.kind is not _KINDS[call.kind]:
            raise RemoteError(f"expected an order of run {self._run} and of the kind of its call, got another")
        size = opened.size
        if call.model is not None and len(call.model) != 4 * size:
            raise RemoteError(f"model: expected {size} parameters, as were offered, got {len(call.model) / 4:g}")
        if opened.outbox is not None:  # under secure aggregation the member knows what it has sent
            opened.guard.asked_by(digest)
        self._policy.check_order(plan, order.kind)
        self._policy.check_hours(self._now())
        frame = answer_order(opened.guard, opened.trainer, call.order, call.protocol, call.spec, call.model)
        if opened.outbox is not None:
            opened.outbox.put(digest, frame)
        opened.admission.answered(trained)
        return frame

    # -- the end --------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Go by the newest revocation list and certificate from the next message on. Does not wait for this one."""
        self._stale = True

    def _notice_changes(self) -> None:
        """End a job that has read what may be used no more.

        Raises LocalError where the data are not those of the approval any more. Where somebody has withdrawn, the next
        job reads without those rows.
        """
        if self._job is None:
            return
        try:
            _, _, data = self._approved()
        except WardroundError as error:
            _log.warning("%s", error, extra={"run": self._run})
            self._drop_job()
            raise LocalError(
                f"{self._folder.name}: what was approved has changed since: needs a new approval; the site's own log "
                "says more"
            ) from None
        if self._registry.withdrawals.stamp(data.population) != self._withdrawn:
            _log.info("somebody has withdrawn; the data are read again, without these rows", extra={"run": self._run})
            self._drop_job()

    def _drop_job(self) -> None:
        if self._job is not None:
            self._job.close()
            self._job = None
        self._forget()

    def _forget(self) -> None:
        if self._open is not None:
            self._open.store.close()
            self._open = None

    def close(self) -> None:
        """End the job's process and close the run's files; it can be gone on with later."""
        self._closed = True
        while True:
            job = self._job
            if job is not None:
                job.close()  # what is under way holds the lock, for an hour maybe
            if self._lock.acquire(timeout=_AGAIN_S):
                break
        try:
            self._forget()
        finally:
            self._lock.release()


def finish_run(
    folder: SiteFolder,
    run: str,
    reason: str,
    *,
    audit: AuditLog | None = None,
    now: Callable[[], datetime] = utc_now,
) -> None:
    """End a run at the site: its account is closed, its keys and replies are deleted. Twice is once.

    What is to be signed of the model that came of it is kept before, and what a sealed one is opened with stays. That a
    homomorphic key is erased is written to `audit`.

    A SiteRun of it must be closed before.
    """
    plans = PlanStore(folder)
    known = plans.outcome(run)
    if known is None or known.state is not RunState.ENDED:
        plans.note(run, Outcome(state=RunState.ENDED, reason=reason, units=None if known is None else known.units))
    for ledger in DataRegistry(folder).ledgers().values():  # the data set may be forgotten
        close_account(ledger, run)
    if known is not None and known.model:
        _keep_participation(folder, run, known.model, now)
    _erase_key(folder, run, reason, audit)
    shutil.rmtree(folder.path / "runs" / run, ignore_errors=True)


def _erase_key(folder: SiteFolder, run: str, reason: str, audit: AuditLog | None) -> None:
    """Forget the key of homomorphic aggregation, where the run has one; a state that does not open goes as a whole."""
    path = folder.path / "runs" / run / _STATE
    if not path.exists():
        return
    with suppress(LocalError):
        store = FileStore(path)
        try:
            erased = forget_key(store, run)
        finally:
            store.close()
        if erased and audit is not None:
            audit.add("key.erased", run, reason=f"the run has ended: {reason}")


def _keep_participation(folder: SiteFolder, run: str, model: str, now: Callable[[], datetime]) -> None:
    """Note what the site signs of the run's model; nothing for a run that it was never ready for."""
    if not (folder.path / "runs" / run / _STATE).exists():
        return
    rounds = None
    if not PlanStore(folder).plan(run).privacy.hides_participation:
        store = FileStore(folder.path / "runs" / run / _STATE)
        try:
            rounds = answered_rounds(store)
        finally:
            store.close()
    keep_participation(folder, run, model, rounds, now())
