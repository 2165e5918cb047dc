"""A released model for tests, really signed; it can be made to lie before it is."""

import hashlib
import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from wardround.evidence_identity import authority_pem, issue_server_certificate, read_authority
from wardround.identity import Authority, issue_certificate, make_authority
from wardround.link.signing_inputs import approval_bytes, participation_bytes
from wardround.plan import Plan, parse_plan
from wardround.release_manifest import (
    Approval,
    CoSignature,
    Evaluation,
    Manifest,
    Parent,
    PrivacyClaim,
    SiteEvidence,
    time_text,
)
from wardround.released_model import ReleaseHead
from wardround.server.runs.model_file import ModelFile, encode_model
from wardround.signing_key import SigningKey
from wardround.vector import F32, Layout, TensorSpec

__all__ = ["LAYOUT", "MODEL", "NOW", "PLAN", "RUN", "Signers"]

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
RUN = "0123456789abcdef0123456789abcdef"
PLAN = """
name = "hearts"
rounds = 3
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "rows.csv"
standardize = "none"
target = { name = "ill", classes = ["no", "yes"] }
columns = [
  { name = "pressure", range = [30, 250] },
  { name = "smoker", type = "category", categories = ["never", "now"] },
]
[simulation]
sites = 2
"""
LAYOUT = Layout((TensorSpec(name="output.weight", shape=(2, 3)), TensorSpec(name="output.bias", shape=(2,))))
MODEL: F32 = np.array([0.01, -1.0, 0.25, -0.01, 1.0, 2.0, 0.1, -0.2], dtype=np.float32)


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def same(manifest: Manifest) -> Manifest:
    return manifest


@dataclass
class Signers:
    """The keys of a server, of its authority, and of two hospitals, all certified."""

    random: Callable[[int], bytes] = os.urandom
    names: tuple[str, ...] = ("Hospital A", "Hospital B")
    server: SigningKey = field(init=False)
    root: SigningKey = field(init=False)
    sites: dict[str, SigningKey] = field(init=False)
    authority_der: bytes = field(init=False)
    server_certificate: bytes = field(init=False)
    certificates: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.server, self.root = SigningKey.make(self.random), SigningKey.make(self.random)
        span = {"not_before": NOW - timedelta(days=1), "not_after": NOW + timedelta(days=30)}
        years = {"not_before": NOW - timedelta(days=1), "not_after": NOW + timedelta(days=3650)}
        self.authority_der = make_authority(self.root, "authority of hearts", **years, random=self.random)
        self.server_certificate = issue_server_certificate(
            self.authority_der, self.root, self.server.public, random=self.random
        )
        self.sites = {name: SigningKey.make(self.random) for name in self.names}
        self.certificates = {
            name: issue_certificate(
                self.authority_der, self.root, name=name, public=key.public, **span, random=self.random
            )
            for name, key in self.sites.items()
        }

    @property
    def authority(self) -> Authority:
        return read_authority(self.pem, "ca.pem")

    @property
    def pem(self) -> bytes:
        return authority_pem(self.authority_der)

    def approval(self, name: str, plan_digest: str, run: str = RUN) -> Approval:
        signature = self.sites[name].sign(approval_bytes(run, plan_digest, "approved"))
        return Approval(certificate=b64(self.certificates[name]), signature=b64(signature), at=time_text(NOW))

    def cosignature(self, name: str, plan_digest: str, model: bytes, rounds: int | None = 3) -> CoSignature:
        at = time_text(NOW + timedelta(hours=1))
        signature = self.sites[name].sign(participation_bytes(RUN, plan_digest, model, rounds, at))
        return CoSignature(certificate=b64(self.certificates[name]), signature=b64(signature), at=at, rounds=rounds)

    def parts(
        self,
        toml: str = PLAN,
        change: Callable[[Manifest], Manifest] = same,
        model: bytes | None = None,
        folder: Path | None = None,
        plan: bytes | None = None,
    ) -> tuple[ReleaseHead, bytes]:
        """What a server of these keys writes: the head, and the model. `change` is made before it signs."""
        parsed = parse_plan(toml, folder=folder)
        data = model_of(parsed) if model is None else model
        manifest = change(self.manifest(parsed, data))
        head = ReleaseHead(
            at=NOW + timedelta(hours=2),
            certificate=self.server_certificate,
            manifest=manifest.to_bytes(),
            plan=parsed.canonical() if plan is None else plan,
            model_bytes=len(data),
            signature=bytes(64),
        )
        return replace(head, signature=self.server.sign(head.signed())), data

    def manifest(self, plan: Plan, model: bytes) -> Manifest:
        """Hospital A has co-signed, nobody else."""
        sha256 = hashlib.sha256(model).digest()
        first = sorted(self.names)[0]
        rounds = None if plan.privacy.hides_participation else plan.rounds
        return Manifest(
            name=plan.name,
            version=2,
            parents=(Parent(name=plan.name, version=1, sha256="5" * 64),),
            run=RUN,
            run_number=4,
            plan_digest=plan.digest,
            model_sha256=sha256.hex(),
            round=3,
            rounds=3,
            void=0,
            sites=tuple(
                SiteEvidence(
                    name=name,
                    approval=self.approval(name, plan.digest),
                    cosignature=self.cosignature(name, plan.digest, sha256, rounds) if name == first else None,
                )
                for name in sorted(self.names)
            ),
            privacy=PrivacyClaim(headline="epsilon 3 at delta 1e-6 for every row", epsilon=3.0, delta=1e-6)
            if plan.privacy.on
            else None,
            evaluation=Evaluation(split="test", rows=120, metrics={"auc": 0.9123, "loss": 0.31}),
            software={"python": "3.12", "wardround": "0.1.0"},
            made=time_text(NOW + timedelta(hours=1)),
            released_by="owner",
        )

    def write(self, path: Path, **options: Any) -> Path:
        """The file at `path`."""
        head, model = self.parts(**options)
        path.write_bytes(head.encode() + model)
        return path


def model_of(plan: Plan, run: str = RUN, round: int = 3) -> bytes:
    return encode_model(ModelFile(layout=LAYOUT, model=MODEL, round=round, run_id=run, plan_digest=plan.digest))
