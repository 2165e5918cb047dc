"""What the worker of a run is given, from what the server keeps."""

import hashlib
from collections.abc import Callable

from wardround.errors import LocalError
from wardround.server.runs.worker_messages import RunPart, Start
from wardround.server.state.database import Database
from wardround.server.state.first_models import FirstModels
from wardround.server.state.folder import StateFolder
from wardround.server.state.keyring import Keyring
from wardround.server.state.plans import Plans
from wardround.server.state.run_sites import RunSites
from wardround.server.state.runs import Run
from wardround.server.state.sites import Sites

__all__ = ["WorkerStarts", "code_files"]


def code_files(plans: Plans, plan_digest: str) -> tuple[tuple[str, str], ...]:
    """The files of a plan's code with their SHA-256, by path."""
    files = plans.files(plan_digest)
    return tuple((path, hashlib.sha256(data).hexdigest()) for path, data in sorted(files.items()))


class WorkerStarts:
    """Makes the first message to a worker; `revocations` gives the newest revocation list, DER.

    A worker shows every `pulse_s` that it is not stuck.
    """

    def __init__(
        self,
        folder: StateFolder,
        keyring: Keyring,
        database: Database,
        plans: Plans,
        *,
        revocations: Callable[[], bytes],
        pulse_s: float,
    ) -> None:
        self._folder, self._keyring, self._plans = folder, keyring, plans
        self._revocations, self._pulse_s = revocations, pulse_s
        self._run_sites, self._sites, self._first = RunSites(database), Sites(database), FirstModels(database)

    def of(self, run: Run) -> Start:
        """What a worker of this run is given. Raises LocalError where something of it is not there."""
        plan, first = self._plans.get(run.plan_digest), self._first.get(run.plan_digest)
        if plan is None or first is None:
            raise LocalError(f"run {run.number}: expected its plan and a first model, got none")
        parts = []
        for one in self._run_sites.list(run.id):
            site = self._sites.get(one.site)
            if site is None:
                raise LocalError(f"run {run.number}: expected {one.site} to be known, got no such site")
            parts.append(RunPart(name=one.site, public=site.signing_public, units=one.units))
        return Start(
            run_id=run.id,
            plan_toml=plan.toml,
            code_files=code_files(self._plans, run.plan_digest),
            plan_digest=run.plan_digest,
            created=run.created.isoformat(timespec="seconds"),
            folder=str(self._folder.runs / run.id),
            models=str(self._folder.models),
            first_blob=first.blob,
            layout=first.layout,
            spec=first.spec,
            sites=tuple(parts),
            identity_authority=self._folder.identity_authority(),
            revocations=self._revocations(),
            known_round=run.round,
            pulse_s=self._pulse_s,
            signing_secret=self._keyring.signing._secret,
            data_key=self._keyring.data_key,
        )
