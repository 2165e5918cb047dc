"""A server's services on a new database, with runs and sites that do what a test says."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
from starlette.types import ASGIApp

from tests.server.state.state_folders import keyring
from wardround.evidence_identity import issue_server_certificate
from wardround.identity import make_authority
from wardround.orders import SiteId
from wardround.plan import parse_plan
from wardround.server.api.app import make_api
from wardround.server.api.json_log import json_log
from wardround.server.api.login import LIFETIME, hash_of_token
from wardround.server.api.passwords import Passwords
from wardround.server.api.permissions import ROLES, Permission
from wardround.server.api.services import Services
from wardround.server.pki.enrolment import Enrolment, ServerAddress
from wardround.server.pki.tls_authority import make_tls_authority
from wardround.server.runs.supervisor import Progress
from wardround.server.runs.tensor_file import encode_tensors
from wardround.server.state.database import Database, sqlite_url
from wardround.server.state.vault import Vault
from wardround.signing_key import SigningKey
from wardround.tally import ClassificationSpec, encode_spec

__all__ = ["PASSWORD", "PLAN", "START", "FakeRuns", "World", "first_model", "make_world"]

PASSWORD = "correct horse battery"  # noqa: S105
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PLAN = """
name = "cardio"
rounds = 3
[task]
name = "tabular-classifier"
[data]
source = "csv"
path = "example.csv"
target = { name = "diagnosis", classes = ["no", "yes"] }
columns = [{ name = "age", unit = "years", range = [0, 120] }]
[simulation]
sites = 2
"""


def first_model(digest: str, *, layout: Any = None, **changes: Any) -> bytes:
    """A first model of three parameters, as the coordinator's machine makes it."""
    tensors = {"weight": np.arange(2, dtype="<f4").reshape(1, 2), "bias": np.zeros(1, "<f4")}
    layout = [[name, list(array.shape)] for name, array in tensors.items()] if layout is None else layout
    spec = json.loads(encode_spec(ClassificationSpec(classes=2)))
    return encode_tensors(tensors, {"layout": layout, "evaluate_spec": spec, "plan_digest": digest} | changes)


@dataclass
class FakeRuns:
    """What a supervisor was asked."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    now: dict[str, Progress] = field(default_factory=dict)
    failure: Exception | None = None

    async def start(self, run_id: str) -> None:
        self._note("start", run_id)

    async def pause(self, run_id: str) -> None:
        self._note("pause", run_id)

    async def resume(self, run_id: str) -> None:
        self._note("resume", run_id)

    async def stop(self, run_id: str) -> None:
        self._note("stop", run_id)

    def progress(self, run_id: str) -> Progress | None:
        return self.now.get(run_id)

    def _note(self, what: str, run_id: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.asked.append((what, run_id))


@dataclass
class FakePresence:
    sites: set[str] = field(default_factory=set)

    def present(self) -> frozenset[SiteId]:
        return frozenset(map(SiteId, self.sites))


@dataclass
class World:
    services: Services
    app: ASGIApp
    database: Database
    runs: FakeRuns
    presence: FakePresence
    log: StringIO
    clock: list[datetime]
    token: str = ""

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        address: str = "127.0.0.1",
        **extra: Any,
    ) -> httpx.Response:
        """One request, with the owner's session unless `token` is another's (or empty: nobody's)."""
        token = self.token if token is None else token
        headers = extra.pop("headers", {}) | ({"authorization": f"Bearer {token}"} if token else {})

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="https://server") as client:
                return await client.request(method, f"/api/v1{path}", json=body, headers=headers, **extra)

        return asyncio.run(send())

    def log_in(self, name: str = "ada", password: str = PASSWORD) -> str:
        answer = self.ask("POST", "/session", {"name": name, "password": password}, token="")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def add_account(self, name: str, role: str = "owner") -> None:
        self.services.accounts.add(name=name, password_hash=password_hash(), role=role, now=self.clock[0])

    def pass_time(self, time: timedelta) -> None:
        self.clock[0] += time

    def lines(self) -> list[dict[str, Any]]:
        """The log."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def join_sites(self, *names: str) -> None:
        for number, name in enumerate(names):
            public = SigningKey(hashlib.sha256(f"{name} {number}".encode()).digest()).public
            self.services.sites.add(SiteId(name), public, now=self.clock[0], software="0.1.0")

    def add_plan(self, toml: str = PLAN, *, model: bool = True) -> str:
        answer = self.ask("POST", "/plans", {"toml": toml})
        assert answer.status_code == 201, answer.text
        digest: str = answer.json()["digest"]
        assert digest == parse_plan(toml).digest
        if model:
            put = self.ask("PUT", f"/plans/{digest}/first-model", content=first_model(digest))
            assert put.status_code == 201, put.text
        return digest

    def start_run(self) -> dict[str, Any]:
        """A run of two sites, A and B."""
        self.join_sites("A", "B")
        answer = self.ask("POST", "/runs", {"plan": self.add_plan()})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found


@cache
def empty_database() -> bytes:
    """A file with the tables, made once."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "server.db"
        database = Database.open(sqlite_url(path))
        database.migrate()
        database.close()  # the last connection writes everything into the one file
        return path.read_bytes()


@cache
def password_hash() -> str:
    return Passwords().hash(PASSWORD)


def make_world(
    folder: Path,
    *,
    roles: Mapping[str, frozenset[Permission]] = ROLES,
    address: ServerAddress | None = None,
    start: datetime = START,
) -> World:
    """A server with the owner `ada`, logged in, at the time `start`. Close its database at the end."""
    (folder / "server.db").write_bytes(empty_database())
    database = Database.open(sqlite_url(folder / "server.db"))
    for name in ("runs", "models"):
        (folder / name).mkdir(mode=0o700)
    clock = [start]

    def random(size: int) -> bytes:
        return bytes(np.random.default_rng().bytes(size))

    keys = keyring()
    first, last = start - timedelta(days=1), start + timedelta(days=3650)
    identity = make_authority(keys.identity_authority, "cardio", not_before=first, not_after=last, random=random)
    enrolment = Enrolment(
        database,
        keys,
        address or ServerAddress.at("fl.example.org", https_port=8443, grpc_port=8444),
        authority=make_tls_authority(keys.tls_authority, "cardio", now=start, random=random),
        identity_authority=identity,
        now=lambda: clock[0],
    )
    runs, presence, log = FakeRuns(), FakePresence(), StringIO()
    services = Services.of(
        database,
        Vault(keys.data_key),
        name="cardio",
        runs_folder=folder / "runs",
        models_folder=folder / "models",
        enrolment=enrolment,
        control=runs,
        presence=presence,
        signing=keys.signing,
        signing_certificate=issue_server_certificate(
            identity, keys.identity_authority, keys.signing.public, random=random
        ),
        identity_authority=identity,
        clock=lambda: clock[0],
    )
    app = make_api(services, log=json_log(log), roles=roles)
    world = World(services=services, app=app, database=database, runs=runs, presence=presence, log=log, clock=clock)
    world.add_account("ada")
    world.token = "token-of-tests"  # noqa: S105
    services.sessions.add(
        hash_of_token(world.token),
        account_id=services.accounts.list()[0].id,
        now=clock[0],
        expires=clock[0] + LIFETIME,
    )
    return world
