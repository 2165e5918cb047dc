"""A federation for tests of runs: a server's state, and real guards and trainers behind a hub without a network."""

import asyncio
import hashlib
import json
import os
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wardround.client.guard.answering import answer_order
from wardround.client.guard.encrypting_member import member_of
from wardround.client.guard.guard import SiteGuard
from wardround.errors import BudgetError, WardroundError
from wardround.identity import Authority, issue_certificate, issue_revocations, make_authority
from wardround.link.messages import Call, Fault, Notice, Reply
from wardround.link.signing_inputs import approval_bytes, call_bytes, call_digest, reply_bytes
from wardround.orders import SiteId
from wardround.pins import ApprovedKeys
from wardround.plan import Plan
from wardround.server.runs.supervisor import Supervisor
from wardround.server.runs.tensor_file import encode_tensors
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.database import Database
from wardround.server.state.events import Event, Events
from wardround.server.state.first_models import FirstModels
from wardround.server.state.folder import StateFolder, StateSettings
from wardround.server.state.keyring import Keyring, make_keyring
from wardround.server.state.models import Models
from wardround.server.state.plans import Plans
from wardround.server.state.runs import Run, Runs
from wardround.server.state.sites import Sites
from wardround.server.state.vault import Vault
from wardround.signing_key import SigningKey, check_signature, fingerprint_of
from wardround.simulations.federation import build_federation
from wardround.simulations.participants import Participants, gather_task
from wardround.state_store import MemoryStore
from wardround.strategies.he.sealed_model import ArchiveKey
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.plan_terms import parameters_of
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.tally import encode_spec

__all__ = ["Hospitals", "ServerState", "Tamper"]

_KINDS = {"query.secagg"}

Tamper = Callable[[SiteId, Call], Awaitable[Reply | None]]
"""Instead of a site: its reply, or None for the honest one."""


@dataclass
class ServerState:
    """A state folder and a database with members, all made for one test."""

    path: Path
    folder: StateFolder
    keyring: Keyring
    database: Database
    authority: bytes
    revocations: bytes
    keys: Mapping[SiteId, SigningKey]
    certificates: Mapping[SiteId, bytes]

    @classmethod
    def make(cls, path: Path, sites: list[SiteId]) -> "ServerState":
        keyring, now = make_keyring(), datetime.now(UTC)
        span = {"not_before": now - timedelta(hours=1), "not_after": now + timedelta(days=30)}
        authority = make_authority(keyring.identity_authority, "authority", **span, random=os.urandom)
        keys = {site: SigningKey.make(os.urandom) for site in sites}
        certificates = {
            site: issue_certificate(
                authority, keyring.identity_authority, name=site, public=key.public, **span, random=os.urandom
            )
            for site, key in keys.items()
        }
        revocations = issue_revocations(
            authority,
            keyring.identity_authority,
            serials=(),
            number=1,
            now=span["not_before"],
            valid_for=timedelta(days=30),
        )
        folder = StateFolder.make(
            path,
            StateSettings(name="test", host="localhost"),
            keyring=b"",
            tls_authority=b"",
            identity_authority=authority,
        )
        database = Database.open(folder.database_url)
        database.migrate()
        for site, key in keys.items():
            Sites(database).add(site, key.public, now=now)
        return cls(path, folder, keyring, database, authority, revocations, keys, certificates)

    def add_run(self, plan: Plan, participants: Participants, run_id: str | None = None) -> Run:
        """A waiting run of `plan`, uploaded with its first model."""
        vault, now = Vault(self.keyring.data_key), datetime.now(UTC)
        plans, first, digest = Plans(self.database, vault), FirstModels(self.database), plan.digest
        files = {name: (plan.folder / str(plan.task.code) / name).read_bytes() for name, _ in plan.code_files}
        plans.add(digest=digest, name=plan.name, toml=plan.to_toml(), files=files, created_by="owner", now=now)
        if first.get(digest) is None:
            layout, task = participants.layout, participants.task
            assert task is not None
            data = encode_tensors(layout.split(participants.initial), {"plan_digest": digest})
            first.add(
                digest,
                blob=BlobStore(self.folder.models, vault).put(data),
                size=layout.size,
                layout=[(one.name, one.shape) for one in layout.tensors],
                spec=encode_spec(task.tally_spec).decode(),
            )
        return Runs(self.database).create(
            plan_digest=digest, name=plan.name, sites=list(self.keys), created_by="owner", now=now, run_id=run_id
        )

    def supervisor(self, hub: Any, **options: Any) -> Supervisor:
        return Supervisor(
            hub, self.folder, self.keyring, self.database, revocations=lambda: self.revocations, **options
        )

    def run(self, run_id: str) -> Run:
        found = Runs(self.database).get(run_id)
        assert found is not None
        return found

    def events(self, run_id: str) -> list[Event]:
        return Events(self.database).list(run_id=run_id)

    def model(self, run_id: str) -> bytes:
        """The file of the run's released model."""
        stored = Models(self.database).of_run(run_id)
        assert stored is not None
        data = BlobStore(self.folder.models, Vault(self.keyring.data_key)).get(stored.blob)
        assert hashlib.sha256(data).digest() == stored.sha256
        return data


@dataclass
class Hospitals:
    """The sites of one run, and the hub that reaches them. It outlives the server, as hospitals do.

    `tamper` may answer in a site's place. What a site answered to a call in clear it answers again, as its agent does.
    """

    state: ServerState
    plan: Plan
    participants: Participants
    run_id: str
    tamper: Tamper | None = None
    approve: bool = True
    verdicts: dict[SiteId, str] = field(default_factory=dict)
    away: dict[SiteId, float] = field(default_factory=dict)
    """For how long, s, sites have not been attached."""
    looks: Counter[SiteId] = field(default_factory=Counter)
    supervisor: Supervisor | None = None
    notices: list[tuple[SiteId, Notice]] = field(default_factory=list)
    calls: Counter[tuple[SiteId, str]] = field(default_factory=Counter)
    trained: Counter[tuple[SiteId, int, int]] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        plan, state = self.plan, self.state
        accepted = ApprovedKeys({site: fingerprint_of(key.public) for site, key in state.keys.items()})
        self.archives = {site: list[ArchiveKey]() for site in state.keys}
        """What each site opens sealed models with."""
        self._guards: dict[SiteId, SiteGuard] = {}
        self._locks = {site: threading.Lock() for site in state.keys}
        self._sent: dict[tuple[SiteId, bytes], bytes] = {}
        tensors = [one.size for one in self.participants.layout.tensors]
        for site, key in state.keys.items():
            member = None
            if plan.protection.on:
                authority = Authority(state.authority)
                membership = Membership(
                    run=self.run_id,
                    plan=bytes.fromhex(plan.digest),
                    parameters=parameters_of(plan),
                    name=site,
                    signing_key=key,
                    certificate=state.certificates[site],
                    authority=authority,
                    revocations=authority.revocations(state.revocations, datetime.now(UTC)),
                    accepted=accepted,
                    server=state.keyring.signing.public,
                    state=SealedState(MemoryStore(), os.urandom(32), os.urandom),
                    random=os.urandom,
                    noised=plan.privacy.on,
                )
                member = member_of(plan, membership, archive=self.archives[site].append)
            self._guards[site] = SiteGuard(plan, site, MemoryStore(), tensors=tensors, member=member)

    @classmethod
    def of(cls, path: Path, plan: Plan, run_id: str | None = None, **options: Any) -> "Hospitals":
        """A server in `path`, and the hospitals of a new run of `plan`."""
        participants = gather_task(plan, build_federation(plan))
        state = ServerState.make(path, list(participants.trainers))
        run = state.add_run(plan, participants, run_id)
        return cls(state, plan, participants, run.id, **options)

    def connect(self, **options: Any) -> Supervisor:
        """A new server process, as it were."""
        self.supervisor = self.state.supervisor(self, **options)
        return self.supervisor

    async def until(self, *states: str, timeout_s: float = 60.0) -> Run:
        """The run, once it is in one of `states`."""
        async with asyncio.timeout(timeout_s):
            while (run := self.state.run(self.run_id)).state not in states:
                await asyncio.sleep(0.02)
        return run

    async def until_event(self, kind: str, count: int = 1, timeout_s: float = 60.0) -> list[Event]:
        async with asyncio.timeout(timeout_s):
            while sum(one.kind == kind for one in self.state.events(self.run_id)) < count:
                await asyncio.sleep(0.01)
        return [one for one in self.state.events(self.run_id) if one.kind == kind]

    # -- the hub ----------------------------------------------------------------------------------

    def away_s(self, site: SiteId) -> float:
        self.looks[site] += 1
        return self.away.get(site, 0.0)

    async def notify(self, site: SiteId, notice: Notice) -> None:
        self.notices.append((site, notice))
        verdict = self.verdicts.get(site, "approved" if self.approve else "")
        if notice.kind == "offer" and verdict:
            assert self.supervisor is not None
            units = len(self.participants.data[list(self.state.keys).index(site)].train)
            self._later = asyncio.create_task(self.supervisor.noticed(site, self.approval(site, verdict, units=units)))
            await asyncio.shield(self._later)

    def approval(self, site: SiteId, verdict: str, key: SigningKey | None = None, **changes: Any) -> Notice:
        """A site's signed decision."""
        signed = approval_bytes(self.run_id, self.plan.digest, verdict)
        body = {
            "run": self.run_id,
            "plan_digest": self.plan.digest,
            "verdict": verdict,
            "reason": "",
            "units": None,
            "signature": b64encode((key or self.state.keys[site]).sign(signed)).decode(),
        }
        return Notice(kind="approval", body=json.dumps(body | changes).encode())

    async def call(
        self,
        site: SiteId,
        call: Call,
        *,
        timeout_s: float | None,
        allocate: Callable[[int], memoryview],
        most_bytes: int,
    ) -> Reply:
        self.calls[site, call.kind] += 1
        async with asyncio.timeout(timeout_s):
            if self.tamper is not None and (given := await self.tamper(site, call)) is not None:
                reply = given
            else:
                reply = await asyncio.to_thread(self.answer, site, call)
        size = reply.frame.nbytes
        assert size <= most_bytes
        frame = allocate(size)
        frame[:] = reply.frame
        return Reply(fault=reply.fault, reason=reply.reason, frame=frame, signature=reply.signature)

    def answer(self, site: SiteId, call: Call) -> Reply:
        """What an honest site answers."""
        model = None if call.model is None else bytes(call.model)
        model_digest = None if model is None else hashlib.sha256(model).digest()
        fields = (call.run, call.kind, call.order, call.protocol, call.spec, model_digest)
        check_signature(self.state.keyring.signing.public, call.signature, call_bytes(*fields), "the server")
        digest = call_digest(*fields)
        fault, reason, frame = Fault.NONE, "", b""
        with self._locks[site]:
            try:
                frame = self._frame(site, call, digest, model)
            except WardroundError as error:
                fault = Fault.SPENT if isinstance(error, BudgetError) else Fault.REFUSED
                reason = str(error)
        return self.signed(site, digest, fault, reason, frame)

    def signed(self, site: SiteId, digest: bytes, fault: Fault, reason: str, frame: bytes) -> Reply:
        signed = reply_bytes(digest, fault, hashlib.sha256(frame).digest())
        signature = self.state.keys[site].sign(signed)
        return Reply(fault=fault, reason=reason, frame=memoryview(frame), signature=signature)

    def _frame(self, site: SiteId, call: Call, digest: bytes, model: bytes | None) -> bytes:
        guard = self._guards[site]
        if call.kind in _KINDS:
            return guard.answer(call.protocol)
        if not self.plan.protection.on and (site, digest) in self._sent:
            return self._sent[site, digest]
        trainer = self.participants.trainers[site]
        with _TRAINING:  # trainers share a workspace
            if call.kind == "train":
                order = json.loads(call.order)
                self.trained[site, order["round"], order["attempt"]] += 1
            frame = answer_order(guard, trainer, call.order, call.protocol, call.spec, model)
        self._sent[site, digest] = frame
        return frame


_TRAINING = threading.Lock()
