"""A site for tests: its folder with real keys and certificates, a plan that is offered, a table, and a server's key."""

import base64
import hashlib
import json
import os
import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from wardround.client.agent.data_registry import DataRegistry, DataSet
from wardround.client.agent.member_pins import MemberPins
from wardround.client.agent.offer import decode_offer
from wardround.client.agent.plan_store import Decision, PlanStore, Verdict
from wardround.client.agent.site_folder import SiteFacts, SiteFolder
from wardround.client.agent.site_job import JobFacts
from wardround.errors import LocalError
from wardround.identity import issue_certificate, issue_revocations, make_authority
from wardround.link.messages import Call
from wardround.link.signing_inputs import call_bytes, call_digest
from wardround.orders import EvalJob, FitJob, LocalResult, Order, OrderKind
from wardround.plan import Plan, parse_plan
from wardround.plan_privacy import Unit
from wardround.signing_key import SigningKey, fingerprint_of
from wardround.tally import MeansSpec, Tally
from wardround.vector import F32

__all__ = ["NOW", "PLAN", "RUN", "FakeJob", "World", "plan_text", "write_table"]

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
RUN = "0123456789abcdef0123456789abcdef"
SIZE = 6
"""Parameters: a logistic regression on two columns, two classes."""

PLAN = """
name = "tiny"
rounds = 3
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "patients.csv"
target = { name = "sick", classes = ["no", "yes"] }
standardize = "none"
columns = [{ name = "age", range = [0, 100] }, { name = "dose", range = [0, 10] }]
[training]
batch_size = 8
[simulation]
sites = 2
"""


def plan_text(*settings: str) -> str:
    return parse_plan(PLAN).override(settings).to_toml()


def write_table(path: Path, rows: int = 60, seed: int = 1) -> Path:
    """A table that fits the plan."""
    made = random.Random(seed)  # noqa: S311 - a table
    lines = ["id,age,dose,sick"]
    for number in range(rows):
        age, dose = made.randint(20, 90), round(made.uniform(0, 10), 2)
        lines.append(f"{number},{age},{dose},{'yes' if age + 5 * dose > 75 else 'no'}")
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class FakeJob:
    """A job in this process: it moves the model half way to ones; `noise` as a private trainer would draw it."""

    facts: JobFacts = field(default_factory=lambda: JobFacts(rows=60, train=48))
    noise: bool = False
    fails: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    kept: bytes = b""
    closed: bool = False

    @property
    def trainer(self) -> "FakeJob":
        return self

    def _note(self, what: str) -> None:
        self.asked.append(what)
        if what in self.fails:
            self.fails.remove(what)
            raise LocalError("row 17 of column age: a secret")

    def describe(self) -> JobFacts:
        self._note("describe")
        return self.facts

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        self._note("fit")
        update = (np.ones_like(model) - model) / np.float32(2)
        if self.noise:
            update = update + np.frombuffer(os.urandom(model.size), dtype=np.uint8).astype(np.float32) / 256
        self.kept += b"."
        return LocalResult(update=update, num_examples=self.facts.train, tally=Tally.of_means(48, {"loss": 1.0}))

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        self._note("evaluate")
        return Tally.of_means(self.facts.train, {"loss": float(model.sum())})

    def statistics(self) -> Tally:
        self._note("statistics")
        return Tally.empty(MeansSpec())

    def state(self) -> bytes:
        return self.kept

    def restore(self, state: bytes) -> None:
        self.kept = state

    def close(self) -> None:
        self.closed = True


@dataclass
class World:
    """One site called `name`, and what it needs of others."""

    path: Path
    folder: SiteFolder
    server: SigningKey
    root: SigningKey
    authority: bytes
    others: dict[str, SigningKey]

    @classmethod
    def make(
        cls,
        path: Path,
        name: str = "Hospital A",
        others: Sequence[str] = ("Hospital B",),
        *,
        beside: "World | None" = None,
    ) -> "World":
        """A site with new keys; `beside` another one it is of the same federation, and one of its others."""
        server, root, own = (SigningKey.make(os.urandom) for _ in range(3))
        span = {"not_before": NOW - timedelta(days=1), "not_after": NOW + timedelta(days=30)}
        authority = make_authority(root, "authority", **span, random=os.urandom)
        keys = {one: SigningKey.make(os.urandom) for one in others}
        if beside is not None:
            server, root, authority, own = beside.server, beside.root, beside.authority, beside.others[name]
            keys = {one: key for one, key in beside.others.items() if one != name}
            keys[beside.folder.name] = beside.folder.signing_key
        path.mkdir(exist_ok=True)
        certificate = issue_certificate(authority, root, name=name, public=own.public, **span, random=os.urandom)
        files = {
            "tls-identity.pem": b"",
            "tls-authority.pem": b"",
            "identity.der": certificate,
            "identity-authority.der": authority,
            "revocations.der": cls.crl(authority, root, 1),
        }
        facts = SiteFacts(
            name=name, url="https://server.test:8443", target="server.test:8444", server=server.public.hex()
        )
        folder = SiteFolder.make(path / "site", facts, files, own, os.urandom)
        return cls(path, folder, server, root, authority, keys)

    @staticmethod
    def crl(authority: bytes, root: SigningKey, number: int) -> bytes:
        return issue_revocations(
            authority, root, serials=(), number=number, now=NOW - timedelta(hours=1), valid_for=timedelta(days=30)
        )

    def offer_table(self, text: str = PLAN, *, run: str = RUN, code: dict[str, bytes] | None = None) -> dict[str, Any]:
        folder = self.path / f"coordinator-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        for name, data in (code or {}).items():
            place = folder / "code" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        keys = dict(sorted({self.folder.name: self.folder.signing_key, **self.others}.items()))
        return {
            "run": run,
            "plan_digest": parse_plan(text, folder=folder).digest,
            "plan": text,
            "code_folder": tomllib.loads(text)["task"].get("code"),
            "code": {name: base64.b64encode(data).decode() for name, data in (code or {}).items()},
            "size": SIZE,
            "tensors": [4, 2],
            "sites": [{"name": name, "fingerprint": fingerprint_of(key.public)} for name, key in keys.items()],
            "server": fingerprint_of(self.server.public),
        }

    def offer(self, text: str = PLAN, *, run: str = RUN) -> Plan:
        """Keep an offer, as the agent would."""
        plans = PlanStore(self.folder)
        plans.put(decode_offer(json.dumps(self.offer_table(text, run=run)).encode()), NOW)
        return plans.plan(run)

    def data(self, *, epsilon: float | None = None, unit: Unit = Unit.ROW) -> DataSet:
        registry = DataRegistry(self.folder)
        found = registry.add(write_table(self.path / "ehr.csv"), "ehr", NOW)
        if epsilon is not None:
            registry.make_ledger(found, epsilon=epsilon, delta=1e-5, unit=unit, by="IT", disjoint=None)
        return found

    def approve(self, data: DataSet, *, run: str = RUN, unprotected: bool = False) -> None:
        """As the command does, without its checks."""
        plans = PlanStore(self.folder)
        decision = Decision(
            verdict=Verdict.APPROVED,
            plan_digest=plans.offer(run).plan_digest,
            by="IT",
            at=NOW.isoformat(),
            data=data.name,
            data_digest=data.binding,
            unprotected=unprotected,
        )
        plans.decide(run, decision)

    def pin_all(self) -> None:
        for name, key in self.others.items():
            MemberPins(self.folder).accept(name, fingerprint_of(key.public), by="IT", now=NOW)

    def call(
        self,
        kind: str,
        *,
        order: Order | None = None,
        model: bytes | None = None,
        protocol: bytes = b"",
        run: str = RUN,
        key: SigningKey | None = None,
    ) -> tuple[Call, bytes]:
        """A call that the server has signed, and its digest."""
        data = b"" if order is None else order.encode()
        about = (run, kind, data, protocol, b"", None if model is None else hashlib.sha256(model).digest())
        call = Call(
            run=run,
            kind=kind,
            order=data,
            protocol=protocol,
            model=None if model is None else memoryview(model),
            signature=(key or self.server).sign(call_bytes(*about)),
        )
        return call, call_digest(*about)

    def train(self, plan: Plan, round: int = 1, attempt: int = 0, *, run: str = RUN) -> tuple[Call, bytes]:
        model = np.full(SIZE, round, dtype="<f4").tobytes()
        order = Order(
            run_id=run,
            plan_digest=plan.digest,
            kind=OrderKind.FIT,
            round=round,
            attempt=attempt,
            model_digest=hashlib.sha256(model).hexdigest(),
        )
        return self.call("train", order=order, model=model, run=run)
