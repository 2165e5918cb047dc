"""The co-signatures of sites on the models that runs have made: taken, checked, kept."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from wardround.errors import RemoteError
from wardround.identity import Authority
from wardround.link.messages import Notice
from wardround.link.signing_inputs import participation_bytes
from wardround.orders import SiteId
from wardround.plan import parse_plan
from wardround.release_manifest import time_in
from wardround.server.runs.identity_certificates import certificate_of
from wardround.server.runs.worker_messages import unb64
from wardround.server.runs.worker_start import code_files
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.models import Models
from wardround.server.state.participations import Participation, Participations
from wardround.server.state.plans import Plans
from wardround.server.state.run_sites import RunSites, Verdict
from wardround.server.state.runs import Runs

__all__ = ["CoSigning"]


class CoSigning:
    """Takes `participation` notices. `authority` is the certificate of the identity authority, DER."""

    def __init__(self, database: Database, plans: Plans, *, authority: bytes, clock: Callable[[], datetime]) -> None:
        self._database, self._plans, self._authority, self._clock = database, plans, Authority(authority), clock
        self._runs, self._run_sites, self._models = Runs(database), RunSites(database), Models(database)
        self._certificates, self._participations = Certificates(database), Participations(database)
        self._events = Events(database)

    def take(self, site: SiteId, notice: Notice) -> bool:
        """Keep what a site has signed; False for what is here already.

        Raises RemoteError for what is malformed, not signed by the site, about another model, or other than before.
        """
        run_id, plan_digest, one = _decoded(site, notice)
        run, asked, model = self._runs.get(run_id), self._run_sites.get(run_id, site), self._models.of_run(run_id)
        if run is None or asked is None or asked.verdict is not Verdict.APPROVED or model is None:
            raise RemoteError(f"{site}: expected a word on a model of a run that it approved, got one on another")
        if (plan_digest, one.model_sha256) != (run.plan_digest, model.sha256):
            raise RemoteError(
                f"{site}: expected a word on the model {model.name}@{model.version} of run {run.number}, got one on "
                f"{one.model_sha256.hex()[:12]}; was the server restored from a backup?"
            )
        self._check_rounds(site, one, run.plan_digest)
        signed = participation_bytes(run_id, plan_digest, one.model_sha256, one.rounds, one.at.isoformat())
        issued = self._certificates.of_site(site, CertificateKind.IDENTITY)
        if certificate_of(site, issued, self._authority, at=one.at, signature=one.signature, data=signed) is None:
            raise RemoteError(f"{site}: expected a valid signature under a key that was certified when it signed")
        with self._database.transaction():
            if not self._participations.add(one):
                if self._participations.get(run_id, site) != one:
                    raise RemoteError(f"{site}: expected its word on run {run.number} as it came first, got another")
                return False
            detail = {"model": f"{model.name}@{model.version}", "sha256": model.sha256.hex()}
            self._events.add(
                "model.cosigned", now=self._clock(), subject=model.name, run_id=run_id, who=site, detail=detail
            )
        return True

    def _check_rounds(self, site: SiteId, one: Participation, plan_digest: str) -> None:
        stored = self._plans.get(plan_digest)
        if stored is None:
            raise RemoteError(f"{site}: expected a word on a run whose plan is known")
        plan = parse_plan(stored.toml, folder=Path(), code_files=code_files(self._plans, plan_digest))
        if (one.rounds is None) != plan.privacy.hides_participation or (one.rounds or 0) > plan.rounds:
            expected = "no number" if plan.privacy.hides_participation else f"a number of at most {plan.rounds}"
            raise RemoteError(f"{site}: expected {expected} as rounds that it answered, got another")


def _decoded(site: SiteId, notice: Notice) -> tuple[str, str, Participation]:
    """Run, digest of the plan, and what was signed."""
    try:
        table = json.loads(notice.body)
        run_id, plan_digest, model, at = (table[name] for name in ("run", "plan_digest", "model", "at"))
        rounds: Any = table["rounds"]
        if not all(isinstance(text, str) and len(text) <= 64 for text in (run_id, plan_digest, model, at)):
            raise ValueError
        if rounds is not None and (type(rounds) is not int or not 0 <= rounds < 1 << 31):
            raise ValueError
        sha256 = bytes.fromhex(model)
        if len(sha256) != 32:
            raise ValueError
        return (
            run_id,
            plan_digest,
            Participation(
                run_id=run_id,
                site=site,
                model_sha256=sha256,
                rounds=rounds,
                at=time_in(at),
                signature=unb64(table["signature"]),
            ),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RemoteError(
            f"{site}: expected a run, the digest of its plan, a model, a number of rounds, a time, and a signature"
        ) from None
