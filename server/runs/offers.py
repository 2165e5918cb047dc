"""What sites are asked before a run, and what they decide: the offer of a plan, and signed approvals of it."""

import json
import tomllib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from math import prod
from typing import Self

from wardround.errors import LocalError, RemoteError
from wardround.link.messages import MAX_NOTICE_BYTES, Notice
from wardround.link.signing_inputs import approval_bytes
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.server.runs.telling import Notices, Telling
from wardround.server.runs.worker_messages import unb64
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.first_models import FirstModels
from wardround.server.state.plans import Plans
from wardround.server.state.run_sites import RunSites, Verdict
from wardround.server.state.runs import Run, Runs
from wardround.server.state.sites import Sites
from wardround.signing_key import check_signature

__all__ = ["Approval", "Offers"]

_OFFER, _OFFERED = "offer", "run.offered"
_MOST_REASON = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What a site has decided about a run, as it says: nothing of it is checked against the run."""

    run_id: str
    plan_digest: str
    verdict: Verdict
    reason: str
    units: int | None
    signature: bytes

    @classmethod
    def decode(cls, notice: Notice) -> Self:
        """From an `approval` notice. Raises RemoteError for anything else."""
        try:
            table = json.loads(notice.body)
            run_id, plan_digest, reason, units = (table[name] for name in ("run", "plan_digest", "reason", "units"))
            if notice.kind != "approval" or not all(isinstance(one, str) for one in (run_id, plan_digest, reason)):
                raise ValueError
            if units is not None and (not isinstance(units, int) or isinstance(units, bool) or not 0 < units < 1 << 40):
                raise ValueError
            verdict = Verdict(table["verdict"])
            if verdict is Verdict.WAITING or len(run_id) > 64:
                raise ValueError
            return cls(
                run_id=run_id,
                plan_digest=plan_digest,
                verdict=verdict,
                reason=plain_text(reason, _MOST_REASON),
                units=units,
                signature=unb64(table["signature"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RemoteError("approval: expected a run, the digest of its plan, a verdict, and a signature") from None


class Offers:
    """The offers of a server, whose signing key has the fingerprint `server`; what is decided is in the database."""

    def __init__(
        self,
        database: Database,
        plans: Plans,
        hub: Notices,
        telling: Telling,
        *,
        server: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._database, self._plans, self._hub, self._telling = database, plans, hub, telling
        self._server, self._clock = server, clock
        self._runs, self._run_sites, self._sites = Runs(database), RunSites(database), Sites(database)
        self._first, self._events = FirstModels(database), Events(database)

    def notice(self, run: Run) -> Notice:
        """What a site is asked to approve. Raises LocalError where that is too large to be sent."""
        plan, first = self._plans.get(run.plan_digest), self._first.get(run.plan_digest)
        if plan is None or first is None:
            raise LocalError(f"run {run.number}: expected its plan and a first model, got none")
        members = []
        for one in self._run_sites.list(run.id):
            site = self._sites.get(one.site)
            members.append({"name": one.site, "fingerprint": "" if site is None else site.fingerprint})
        code = {path: b64encode(data).decode() for path, data in self._plans.files(run.plan_digest).items()}
        table = {
            "run": run.id,
            "plan_digest": run.plan_digest,
            "plan": plan.toml,
            "code_folder": tomllib.loads(plan.toml)["task"].get("code"),
            "code": code,
            "size": first.size,
            "tensors": [prod(shape) for _, shape in first.layout],
            "sites": members,
            "server": self._server,
        }
        body = json.dumps(table, ensure_ascii=False).encode()
        if len(body) > MAX_NOTICE_BYTES:
            raise LocalError(
                f"run {run.number}: expected a plan and code of at most {MAX_NOTICE_BYTES} bytes as a message, got "
                f"{len(body)}; leave out of the code bundle what training does not need"
            )
        return Notice(kind=_OFFER, body=body)

    def made(self, run_id: str) -> bool:
        """Whether a run was offered to its sites."""
        return any(one.kind == _OFFERED for one in self._events.list(run_id=run_id, most=100))

    def make(self, run: Run) -> None:
        """Keep that a run is offered to its sites."""
        sites = [one.site for one in self._run_sites.list(run.id)]
        self._events.add(_OFFERED, now=self._clock(), subject=run.id, run_id=run.id, detail={"sites": sites})

    def ask(self, run: Run) -> None:
        """Send the offer to every site that has not decided; it waits for those that are away."""
        notice = self.notice(run)
        for one in self._run_sites.list(run.id):
            if one.verdict is Verdict.WAITING:
                self._telling.begin((_OFFER, run.id, one.site), self._hub.notify(one.site, notice))

    def withdraw(self, run_id: str, *site: SiteId) -> None:
        """Wait no more for `site`, or for any, to take the offer."""
        self._telling.withdraw(_OFFER, run_id, *site)

    def checked(self, site: SiteId, notice: Notice) -> tuple[Run, Approval]:
        """The run that a site has decided about, and what. RemoteError for what is malformed or not signed by it."""
        body = Approval.decode(notice)
        run, known, asked = self._runs.get(body.run_id), self._sites.get(site), self._run_sites.get(body.run_id, site)
        if run is None or known is None or asked is None:
            raise RemoteError(f"{site}: expected a decision about a run that it was asked about, got one of another")
        if body.plan_digest != run.plan_digest:
            raise RemoteError(
                f"{site}: expected a decision about run {run.number} and its plan, got one of another plan"
            )
        signed = approval_bytes(body.run_id, run.plan_digest, body.verdict.value)
        check_signature(known.signing_public, body.signature, signed, site)
        return run, body

    def decide(self, site: SiteId, body: Approval) -> None:
        """Keep what a site has decided, with a line in the timeline; nothing where it has decided before."""
        now = self._clock()
        with self._database.transaction():
            new = self._run_sites.decide(
                body.run_id,
                site,
                body.verdict,
                reason=body.reason,
                units=body.units,
                signature=body.signature,
                now=now,
            )
            if new:
                kind, detail = f"site.{body.verdict}", {"reason": body.reason, "units": body.units}
                self._events.add(kind, now=now, subject=site, run_id=body.run_id, who=site, detail=detail)
