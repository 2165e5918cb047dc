"""The agent of a site: takes what the server sends, and does what the site's administrator has approved of it.

It stands between the link, which carries bytes, and the runs, which decide. Of what the server says nothing is done but
what an approval covers. Runs that were approved go on where they were after a restart.
"""

import base64
import binascii
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Protocol

from wardround.audit.log import AuditLog
from wardround.client.agent.call_records import CallRecords
from wardround.client.agent.offer import Offer, check_run_name, decode_offer
from wardround.client.agent.participation import participation_notice
from wardround.client.agent.plan_store import DamagedError, Decision, Outcome, PlanStore, RunState, Verdict
from wardround.client.agent.policy_file import PolicyFile
from wardround.client.agent.server_heads import ServerHeads
from wardround.client.agent.signed_call import check_call, error_reply
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_log import open_log
from wardround.client.guard.violation import NotNowError, PolicyError
from wardround.clock import utc_now
from wardround.errors import LocalError, RemoteError, WardroundError
from wardround.link.limits import ciphertext_bytes
from wardround.link.messages import Call, Fault, Notice, Reply
from wardround.link.signing_inputs import approval_bytes
from wardround.plain_text import plain_text

__all__ = ["Agent", "Renewal", "Run"]

_log = logging.getLogger("wardround")
_ASK_AGAIN = timedelta(hours=1)
"""How long an answer to a renewal is waited for."""
_JOIN_S = 5.0
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIFFERS = "the server's history differs from what this site has seen; its administrator has to accept that first"
_MOST_SMALL_BYTES = 1 << 26
"""Of all that comes with a call but its model."""


class Run(Protocol):
    """One approved run."""

    def prepare(self) -> int | None: ...

    def check(self) -> None:
        """Raise PolicyError where the site's policy does not allow it any more; at once, whatever is under way."""
        ...

    def answer(self, call: Call, digest: bytes) -> Reply: ...

    def refresh(self) -> None: ...

    def close(self) -> None: ...


class Renewal(Protocol):
    """The renewal of the site's certificates; see `client/enrolment/renewal.py`."""

    def is_due(self, now: datetime) -> bool:
        """Whether to ask for certificates now."""
        ...

    def request(self) -> bytes:
        """The body of a `renew` notice."""
        ...

    def accept(self, body: bytes, now: datetime) -> bool:
        """Take what a `certificate` notice brought; False where it is there. RemoteError for another site's."""
        ...


class Agent:
    """The handler of the site's link. `run_of` makes an approved run, `finish` ends one for good.

    `notify` sends a notice to the server; it is given by `attach`, since the link needs the handler first. What is done
    is written to the site's audit log, `audit`; LocalError where somebody else has changed that.
    """

    def __init__(
        self,
        folder: SiteFolder,
        *,
        run_of: Callable[[str], Run],
        finish: Callable[[str, str], None],
        renewal: Renewal | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._folder, self._plans, self._key = folder, PlanStore(folder), folder.signing_key
        self._server, self._heads = folder.server, ServerHeads(folder)
        self.audit: AuditLog = open_log(folder)
        self._records = CallRecords(self.audit)
        self._run_of, self._finish, self._renewal, self._now = run_of, finish, renewal, now
        self._notify: Callable[[Notice], None] = lambda notice: None
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._preparing: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._told: dict[str, str] = {}
        self._policy, self._allowed = PolicyFile(folder), dict[str, tuple[int, ...]]()
        self._later: set[str] = set()
        self._ended: set[str] = set()
        self._left: list[tuple[str, Run | None, str]] = []
        """Runs that have ended, and why, of which something could not be taken away yet."""
        self._sizes: dict[str, int] = {}
        self._sums: dict[str, int] = {}
        self._stopping = False
        self._asked: datetime | None = None

    def attach(self, notify: Callable[[Notice], None]) -> None:
        """Send notices this way from now on."""
        self._notify = notify

    # -- the link's handler ---------------------------------------------------------------------------

    def call(self, call: Call) -> Reply:
        """The reply to a call, signed. A call that the server has not signed reaches no run."""
        try:
            digest = check_call(call, self._server)
        except RemoteError as error:
            _log.warning("a call was refused: %s", error)
            reply = Reply(fault=Fault.REFUSED, reason=plain_text(str(error)))
            with suppress(LocalError):  # the disk is full; nothing leaves
                self._records.refused(call, reply)
            return reply
        reply = self._answered(call, digest)
        try:
            self._records.answered(call, digest, reply)
        except LocalError as error:  # what cannot be written down does not leave
            _log.error("%s", error, extra={"run": call.run})
            return error_reply(self._key, digest, LocalError(f"{self._folder.name}: its audit log cannot be written"))
        if reply.fault is Fault.NONE and self._heads.are_missing(self._now()):
            _log.warning("the server has shown no head of its audit log for a day; ask the coordinator why")
        return reply

    def _answered(self, call: Call, digest: bytes) -> Reply:
        refusal = self._refusal(call.run)
        if refusal is not None:
            return error_reply(self._key, digest, LocalError(refusal[1]), refusal[0])
        try:
            run = self._made(call.run)
        except LocalError as error:  # in this moment
            return error_reply(self._key, digest, error, Fault.NOT_READY if self._stopping else Fault.REFUSED)
        try:
            return run.answer(call, digest)
        except Exception:
            _log.exception("a call failed; this is a bug", extra={"run": call.run})
            return error_reply(self._key, digest, LocalError("the site failed; its own log says why"))

    def room(self, run: str, small_bytes: int, model_bytes: int) -> Reply | None:
        """The reply to a call of which nothing is even received; None where there is room for it.

        Its signature can be checked once it is whole, so until then it has what an approval gives it, and no more: a
        model of the size that was offered. Such a reply is not signed, since it does not know what it would belong to.
        """
        refusal = self._refusal(run)
        if refusal is None:
            try:
                size = self._model_bytes(run)
            except LocalError as error:
                return Reply(fault=Fault.NOT_READY, reason=self._unreadable(run, error))
            if small_bytes <= _MOST_SMALL_BYTES + self.sum_bytes(run) and model_bytes in (0, size):
                return None
            refusal = Fault.REFUSED, f"expected a model of {size} bytes, as was offered, got {model_bytes}"
        _log.warning("a call was not received: %s", refusal[1], extra={"run": plain_text(run, 80)})
        return Reply(fault=refusal[0], reason=refusal[1])

    def sum_bytes(self, run: str) -> int:
        """How large a sum may be that the run's members are asked to open; 0 for a run that is not approved here."""
        if self._refusal(run) is not None:
            return 0
        try:
            if run not in self._sums:
                opened = self._plans.plan(run).protection.homomorphic
                self._sums[run] = ciphertext_bytes(self._model_bytes(run)) if opened else 0
        except LocalError as error:
            self._unreadable(run, error)
            return 0
        return self._sums[run]

    def notice(self, notice: Notice) -> None:
        """Take a notice; what it asks for is durable on return. What is malformed is logged, and done with.

        Raises LocalError for what could not be kept, as on a full disk: the notice is to come again.
        """
        take = {
            "offer": self._take_offer,
            "ended": self._take_end,
            "revocations": self._take_revocations,
            "certificate": self._take_certificate,
            "head": self._take_head,
        }.get(notice.kind)
        if take is None:
            _log.info("a notice of kind %s was ignored: this version does not know it", plain_text(notice.kind, 80))
            return
        try:
            take(notice.body)
        except RemoteError as error:
            _log.warning("a notice of kind %s was refused: %s", notice.kind, error)
        except DamagedError as error:  # it would fail as often as it comes
            _log.error("a notice of kind %s was not taken: %s", notice.kind, error)

    def state(self, attached: bool, reason: str) -> None:
        """Note whether the link is up."""
        _log.info(
            "%s", f"attached to {self._folder.facts.target}" if attached else f"not attached: {plain_text(reason)}"
        )

    # -- notices --------------------------------------------------------------------------------------

    def _take_offer(self, body: bytes) -> None:
        offer = decode_offer(body)
        with self._lock:
            if offer.run in self._ended:
                return
        if self._plans.put(offer, self._now()):
            self.audit.add("plan.offered", offer.run, plan=offer.plan_digest, members=[one.name for one in offer.sites])
            _log.info(
                "a plan was offered; see it with: wardround client plan show %s", offer.run, extra={"run": offer.run}
            )
            self._warn_of_keys(offer)

    def _warn_of_keys(self, offer: Offer) -> None:
        """Say loudly where the server names another key than the one that was accepted of a member."""
        from wardround.client.agent.member_pins import MemberPins

        try:
            pinned = MemberPins(self._folder).pinned()
        except LocalError as error:  # the offer is kept all the same: nothing is done by it
            _log.error("%s", error)
            return
        for one in offer.sites:
            known = pinned.get(one.name)
            if known is not None and known != one.fingerprint:
                self.audit.add("member.key_changed", one.name, run=offer.run, named=one.fingerprint, accepted=known)
                _log.warning(
                    "KEY CHANGED of %s: the server names %s, accepted is %s; take it for an attack until that hospital "
                    "confirms it (wardround client members)",
                    one.name,
                    one.fingerprint,
                    known,
                    extra={"run": offer.run},
                )

    def _take_end(self, body: bytes) -> None:
        table = _table(body)
        run, state = check_run_name(_text(table, "run")), _text(table, "state")
        model = _text(table, "model") if table.get("model") is not None else ""
        if model and not _DIGEST.fullmatch(model):
            raise RemoteError("notice: expected a SHA-256 as model")
        if self._plans.knows(run):
            self._end(run, f"the server says: {plain_text(state, 80)}", model)

    def _end(self, run: str, reason: str, model: str = "") -> None:
        """End a run: durable on return, done in a thread, since its job may be in the middle of something."""
        with self._lock:
            if run in self._ended:
                return
            try:
                known = self._plans.outcome(run)
            except DamagedError:
                known = None
            units = None if known is None else known.units
            self.audit.add("run.ended", run, reason=reason, model=model)
            self._plans.note(run, Outcome(state=RunState.ENDED, reason=reason, units=units, model=model))
            self._ended.add(run)
            open_run = self._runs.pop(run, None)
        _log.info("the run has ended (%s)", reason, extra={"run": run})
        self._in_thread(f"end {run}", lambda: self._finish_run(run, open_run, reason))

    def _finish_run(self, run: str, open_run: Run | None, reason: str) -> None:
        try:
            if open_run is not None:
                open_run.close()
            self._finish(run, reason)
            self._tell_participation(run)
        except WardroundError as error:
            _log.error("what the run kept cannot be taken away (yet): %s", error, extra={"run": run})
            with self._lock:
                self._left.append((run, open_run, reason))

    def _tell_participation(self, run: str) -> None:
        """Send what the site signs of a run that has ended with a model, once in the life of this process."""
        notice = participation_notice(self._folder, run, self._now())
        if notice is not None and not self._stopping:
            self._notify(notice)

    def _take_revocations(self, body: bytes) -> None:
        from wardround.client.agent.revocation_list import RevocationList

        if RevocationList(self._folder).replace(_bytes(_table(body), "crl"), self._now()):
            digest = hashlib.sha256(self._folder.read("revocations.der")).hexdigest()
            self.audit.add("revocations.replaced", sha256=digest)
            _log.info("a newer revocation list came")
            self._refresh()

    def _take_certificate(self, body: bytes) -> None:
        if self._renewal is not None and self._renewal.accept(body, self._now()):
            self.audit.signed_with(self._folder.read("identity.der"))
            _log.info("the certificates were renewed")
            self._refresh()

    def _take_head(self, body: bytes) -> None:
        """Sign the head of the server's audit log, where it follows from what this site has seen of it."""
        answer, wrong = self._heads.take(body, self.audit, self._now())
        if wrong:
            _log.error(
                "%s; this site takes no further part until its administrator has asked the coordinator and given: "
                "wardround client audit accept-restore",
                wrong,
            )
        if not self._stopping:
            self._notify(answer)

    def _refresh(self) -> None:
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.refresh()

    # -- decisions ------------------------------------------------------------------------------------

    def look(self) -> None:
        """See what the administrator has decided since, and do it; and what could not be done before."""
        with self._lock:
            left, self._left = self._left, []
        for run, open_run, reason in left:
            self._finish_run(run, open_run, reason)
        with self._lock:
            names = self._plans.names()
            self._ended.intersection_update(names)  # what the store has deleted is to fill no memory
        for run in names:
            with self._lock:
                known = run in self._ended or run in self._preparing
            if not known:
                try:
                    self._look_at(run)
                except WardroundError as error:
                    _log.warning("%s", error, extra={"run": run})
                except Exception:  # one run must not keep the others off
                    _log.exception("the run cannot be looked at; this is a bug", extra={"run": run})

    def _look_at(self, run: str) -> None:
        decision, outcome = self._plans.decision(run), self._plans.outcome(run)
        if outcome is not None and outcome.state is RunState.ENDED:
            self._ended.add(run)
            if (self._folder.path / "runs" / run).exists():  # a crash came between
                self._finish_run(run, None, outcome.reason)
            else:
                self._tell_participation(run)
            return
        if decision is None:
            return
        if decision.verdict is Verdict.DENIED:
            self._tell(run, decision.plan_digest, Verdict.DENIED, decision.reason, None)
            if outcome is not None or run in self._runs:
                self._end(run, "denied here")
        elif outcome is None:
            with self._lock:
                self._preparing.add(run)
            self._in_thread(f"prepare {run}", lambda: self._prepare(run))
        elif outcome.state is RunState.UNFIT:
            self._tell(run, decision.plan_digest, Verdict.DENIED, outcome.told or _UNFIT, None)
        elif self._is_allowed(run, decision):
            self._tell(run, decision.plan_digest, Verdict.APPROVED, "", outcome.units)

    def _is_allowed(self, run: str, decision: Decision) -> bool:
        """Whether the policy, which may have changed, still allows a run that was ready; if not, it ends here."""
        stamp = self._policy.stamp()
        with self._lock:
            made = self._runs.get(run)
        if made is None and (not stamp or self._allowed.get(run) == stamp):
            return True
        try:
            (made or self._made(run)).check()
        except PolicyError as error:
            self._tell(run, decision.plan_digest, Verdict.DENIED, error.told, None)
            self._end(run, plain_text(str(error), 1000))
            return False
        self._allowed[run] = stamp
        return True

    def _prepare(self, run: str) -> None:
        """Read the data for an approved run; then the server is told that it may begin, or that it cannot here."""
        try:
            try:
                units = self._made(run).prepare()
                self._note(run, Outcome(state=RunState.READY, units=units))
                _log.info("the data were read", extra={"run": run})
            except NotNowError as error:
                self._discard(run)
                if run not in self._later:
                    _log.info("the run waits: %s", error, extra={"run": run})
                self._later.add(run)
                return
            except WardroundError as error:
                self._discard(run)
                told = error.told if isinstance(error, PolicyError) else ""
                self._note(run, Outcome(state=RunState.UNFIT, reason=plain_text(str(error), 1000), told=told))
                _log.error("the run cannot be run here: %s", error, extra={"run": run})
            with self._lock:
                self._preparing.discard(run)
            if not self._stopping:
                self._look_at(run)
        except WardroundError as error:  # it is looked at again in a minute
            _log.error("%s", error, extra={"run": run})
        except Exception:
            _log.exception("the run could not be prepared; this is a bug", extra={"run": run})
            self._discard(run)
        finally:
            with self._lock:
                self._preparing.discard(run)

    def _note(self, run: str, outcome: Outcome) -> None:
        """Keep what became of a run, unless it has ended meanwhile, or failed since the process stops."""
        with self._lock:
            if run not in self._ended and not self._stopping:
                self.audit.add(f"run.{outcome.state.value}", run)
                self._plans.note(run, outcome)

    def _discard(self, run: str) -> None:
        with self._lock:
            made = self._runs.pop(run, None)
        if made is not None:
            made.close()

    def _tell(self, run: str, plan_digest: str, verdict: Verdict, reason: str, units: int | None) -> None:
        """Send the decision; once in the life of this process, since the link sends it until it is acknowledged."""
        if self._told.get(run) == verdict:
            return
        signature = self._key.sign(approval_bytes(run, plan_digest, verdict.value))
        table = {
            "run": run,
            "plan_digest": plan_digest,
            "verdict": verdict.value,
            "reason": plain_text(reason),
            "units": units,
            "signature": base64.b64encode(signature).decode(),
        }
        self._notify(Notice(kind="approval", body=json.dumps(table).encode()))
        self._told[run] = verdict

    # -- runs -----------------------------------------------------------------------------------------

    def _refusal(self, name: str) -> tuple[Fault, str] | None:
        """Why nothing is done in a run of this name; None for one that was approved and is ready.

        By what is on the disk now: a denial counts as soon as the command has returned.
        """
        try:
            run = check_run_name(name)
            decision, outcome = self._plans.decision(run), self._plans.outcome(run)
        except RemoteError as error:
            return Fault.REFUSED, str(error)
        except LocalError as error:
            return Fault.NOT_READY, self._unreadable(run, error)
        if outcome is not None and outcome.state is RunState.ENDED:
            return Fault.REFUSED, f"run {run}: has ended here"
        if decision is not None and decision.verdict is Verdict.DENIED:
            return Fault.REFUSED, f"run {run}: is denied here"
        if decision is None or outcome is None or outcome.state is not RunState.READY:
            return Fault.NOT_READY, f"run {run}: is not approved here (yet)"
        if self._heads.differs:
            return Fault.NOT_READY, _DIFFERS
        return None

    def _unreadable(self, run: str, error: LocalError) -> str:
        """What the server is told where the site's own log says why: nothing of this machine."""
        _log.error("%s", error, extra={"run": run})
        return "the site cannot read what it has of this run; its own log says why"

    def _model_bytes(self, run: str) -> int:
        """Of the run's model, as was offered."""
        if run not in self._sizes:
            self._sizes[run] = 4 * self._plans.offer(run).size
        return self._sizes[run]

    def _made(self, run: str) -> Run:
        with self._lock:
            if run in self._ended or self._stopping:
                raise LocalError(f"run {run}: {'the agent stops' if self._stopping else 'has ended here'}")
            if run not in self._runs:
                self._runs[run] = self._run_of(run)
            return self._runs[run]

    # -- the process ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """What is due from time to time: renewal."""
        now = self._now()
        if self._renewal is None or not self._renewal.is_due(now):
            return
        if self._asked is not None and now - self._asked < _ASK_AGAIN:
            return
        try:
            self._notify(Notice(kind="renew", body=self._renewal.request()))
        except WardroundError as error:
            _log.warning("the certificates cannot be renewed: %s", error)
            return
        self._asked = now
        _log.info("new certificates were asked for")

    def seal(self) -> None:
        """Sign what was written to the audit log since the last time, and have it on the disk."""
        if self.audit.has_unsealed:
            try:
                self.audit.seal()
            except LocalError as error:  # the next look tries again, and until then no reply leaves
                _log.error("%s", error)

    def close(self) -> None:
        """Stop every job; runs go on with the next process."""
        with self._lock:
            self._stopping = True
            threads, runs = list(self._threads), list(self._runs.values())
            self._runs = {}
        for run in runs:
            run.close()
        for thread in threads:
            thread.join(_JOIN_S)

    def _in_thread(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        with self._lock:
            self._threads = [one for one in self._threads if one.is_alive()]
            self._threads.append(thread)
            thread.start()


_UNFIT = "the site's data, budget or members do not fit the plan; its own log says why"


def _table(body: bytes) -> dict[str, Any]:
    try:
        table = json.loads(body)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise RemoteError("notice: expected a JSON object")
    return table


def _text(table: dict[str, Any], name: str) -> str:
    found = table.get(name)
    if not isinstance(found, str):
        raise RemoteError(f"notice: expected text as {name}")
    return found


def _bytes(table: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(_text(table, name), validate=True)
    except (binascii.Error, ValueError):
        raise RemoteError(f"notice: expected base64 as {name}") from None
