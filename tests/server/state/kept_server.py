"""A server that has something to lose: rows in every table, sealed files, a run directory."""

import hashlib
from pathlib import Path

import numpy as np

from tests.server.state.rows import NOW, add_account, later, public_key
from tests.server.state.state_folders import keyring, make_folder
from wardround.orders import SiteId
from wardround.server.runs.checkpoint import Checkpoint, encode_checkpoint
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.first_models import FirstModels
from wardround.server.state.invitations import Invitations
from wardround.server.state.models import Models
from wardround.server.state.plans import Plans
from wardround.server.state.run_sites import RunSites, Verdict
from wardround.server.state.runs import Run, Runs
from wardround.server.state.sessions import Sessions
from wardround.server.state.settings import CRL_NUMBER, Settings
from wardround.server.state.sites import Sites
from wardround.server.state.vault import Vault
from wardround.strategies.records import RunState

__all__ = ["CODE", "A", "B", "KeptServer"]

A, B = SiteId("Hospital A"), SiteId("Hospital B")
CODE = {"task.py": b"print('a task')\n"}


class KeptServer:
    """Run 1 is finished and has a model, run 2 is at round 2, run 3 waits."""

    def __init__(self, path: Path, *, database: str | None = None) -> None:
        self.folder = make_folder(path, database=database)
        self.vault = Vault(keyring().data_key)
        self.blobs = BlobStore(self.folder.models, self.vault)
        self.database = Database.open(self.folder.database_url)
        self._fill()

    def close(self) -> None:
        self.database.close()

    def _fill(self) -> None:
        database = self.database
        ada = add_account(database)
        Sessions(database).add(b"t" * 32, account_id=ada.id, now=NOW, expires=later(12))
        invitations = Invitations(database)
        for number, site in enumerate((A, B)):
            row = invitations.add(
                site=site, token_hash=bytes([number]) * 32, expires=later(72), created_by="ada", now=NOW
            )
            invitations.use(row.id, fingerprint="key", now=later())
            Sites(database).add(site, public_key(number), now=NOW, software="0.1")
            for kind in CertificateKind:
                Certificates(database).add(kind, number + 1, site=site, der=b"der", not_after=later(720))
        invitations.add(site=SiteId("C"), token_hash=b"c" * 32, expires=later(72), created_by="ada", now=NOW)
        Plans(database, self.vault).add(
            digest="d1", name="cardio", toml="x = 1\n", files=CODE, created_by="ada", now=NOW
        )
        first = self.blobs.put(b"first model" * 1000)
        FirstModels(database).add("d1", blob=first, size=4, layout=[("w", [2, 2])], spec="{}")
        Settings(database).advance(CRL_NUMBER, to=7)
        self.runs = [self._run(number) for number in (1, 2, 3)]
        model = b"a model" * 1000
        Models(database).add(
            name="cardio",
            run_id=self.runs[0].id,
            plan_digest="d1",
            blob=self.blobs.put(model),
            sha256=hashlib.sha256(model).digest(),
            now=NOW,
        )
        for number in range(3):
            Events(database).add("round", now=later(number), subject="cardio", detail={"round": number})

    def _run(self, number: int) -> Run:
        runs = Runs(self.database)
        run = runs.create(plan_digest="d1", name="cardio", sites=[A, B], created_by="ada", now=NOW)
        if number == 3:
            return run
        for site in (A, B):
            RunSites(self.database).decide(
                run.id, site, Verdict.APPROVED, reason="", units=100, signature=b"s", now=later()
            )
        runs.move(run.id, {"waiting"}, "running", reason="", now=later())
        self.add_round(run, 1)
        self.add_round(run, 2)
        if number == 1:
            runs.move(run.id, {"running"}, "finished", reason="all rounds", now=later(2))
        return run

    def add_round(self, run: Run, number: int) -> None:
        """Make a round durable as a run directory does: its line, its checkpoint, then the row."""
        folder = self.folder.runs / run.id
        (folder / "checkpoints").mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "metrics.jsonl").open("ab") as lines:
            lines.write(b'{"round": %d}\n' % number)
        state = RunState(round=number, model=np.full(4, number, np.float32))
        path = self.checkpoint(run, number)
        self.vault.seal_file(
            path.relative_to(self.folder.path).as_posix(),
            encode_checkpoint(Checkpoint(run_id=run.id, plan_digest="d1", state=state)),
            path,
        )
        (folder / ".wardround-lock").touch()
        (folder / "checkpoints" / ".tmp-half").touch()
        Runs(self.database).set_round(run.id, number)

    def checkpoint(self, run: Run, number: int) -> Path:
        return self.folder.runs / run.id / "checkpoints" / f"round-{number:06d}.safetensors"
