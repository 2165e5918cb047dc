"""The release of a model: its manifest is put together from what the server keeps, and signed.

Nobody is waited for: a site whose co-signature has not come is listed without one, and another release can follow.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wardround.errors import LocalError
from wardround.identity import Authority
from wardround.link.signing_inputs import approval_bytes, participation_bytes
from wardround.plain_text import plain_text
from wardround.plan import Plan, parse_plan
from wardround.release_manifest import (
    MAX_MANIFEST_BYTES,
    Approval,
    CoSignature,
    Evaluation,
    Manifest,
    Parent,
    PrivacyClaim,
    SiteEvidence,
    time_text,
)
from wardround.released_model import MAX_PLAN_BYTES, ReleaseHead, model_facts
from wardround.server.report.privacy import claimed
from wardround.server.runs.identity_certificates import certificate_of
from wardround.server.runs.model_card import software_versions
from wardround.server.runs.run_directory import read_lines
from wardround.server.runs.worker_start import code_files
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.models import Models, StoredModel
from wardround.server.state.participations import Participation, Participations
from wardround.server.state.plans import Plans
from wardround.server.state.releases import Release, Releases
from wardround.server.state.run_sites import RunSite, RunSites, Verdict
from wardround.server.state.runs import Run, Runs
from wardround.signing_key import SigningKey

__all__ = ["MAX_REDTEAM_BYTES", "Releasing"]

MAX_REDTEAM_BYTES = 1 << 18
_TEST = "test.json"
_MOST_UNTESTED = 1000
Json = dict[str, Any]


class Releasing:
    """Releases models, signed by `key`, whose `certificate` (DER) the identity authority has issued.

    `authority` is that authority's certificate, DER.
    """

    def __init__(
        self,
        database: Database,
        plans: Plans,
        blobs: BlobStore,
        *,
        key: SigningKey,
        certificate: bytes,
        authority: bytes,
        runs_folder: Path,
        clock: Callable[[], datetime],
    ) -> None:
        self._database, self._plans, self._blobs = database, plans, blobs
        self._key, self._certificate, self._authority = key, certificate, Authority(authority)
        self._runs_folder, self._clock = runs_folder, clock
        self._runs, self._run_sites, self._models = Runs(database), RunSites(database), Models(database)
        self._certificates, self._participations = Certificates(database), Participations(database)
        self._releases, self._events = Releases(database), Events(database)

    def release(self, model: StoredModel, *, by: str, redteam: str | None = None) -> Release:
        """The release of a model as it can be signed now; the last one again where that says the same.

        `redteam` is the JSON of a simulated red team's results; without it, that of the last release stays. Raises
        LocalError where something that belongs into it cannot be had, and for a model that is sealed to members: of
        one that the server cannot read it can vouch for nothing.
        """
        run, plan = self._runs.get(model.run_id), self._plan(model)
        if plan.protection.sealed_model:
            raise LocalError(
                f"{model.name}@{model.version}: expected a model that the server can read, got one that is sealed to "
                f"the members of its run (protection.sealed_model); fetch it with wardround model export "
                f"{model.name}@{model.version}, and a member opens it with wardround client model open"
            )
        if run is None:
            raise LocalError(f"{model.name}@{model.version}: expected its run, got none")
        last = self._releases.newest(model.name, model.version)
        said = None if last is None else Manifest.from_bytes(last.manifest)
        manifest = self._manifest(model, run, plan, by)
        kept = None if said is None else said.redteam
        manifest = replace(manifest, redteam=kept if redteam is None else _canonical(redteam))
        if last is not None and said is not None and replace(manifest, released_by=said.released_by) == said:
            return last
        data, canonical = manifest.to_bytes(), plan.canonical()
        if len(data) > MAX_MANIFEST_BYTES or len(canonical) > MAX_PLAN_BYTES:
            raise LocalError(f"{manifest.model}: what is to be signed of it is too large for a released model")
        head = ReleaseHead(
            at=self._clock().astimezone(UTC).replace(microsecond=0),
            certificate=self._certificate,
            manifest=data,
            plan=canonical,
            model_bytes=self._blobs.size(model.blob),
            signature=bytes(64),
        )
        head = replace(head, signature=self._key.sign(head.signed()))
        return self._kept(model, head, manifest, by, 1 if last is None else last.number + 1)

    def file(self, release: Release) -> tuple[int, Iterator[bytes]]:
        """The size of a release's file, and its bytes, piece by piece."""
        model = self._models.get(release.name, release.version)
        if model is None:
            raise LocalError(f"{release.name}@{release.version}: expected its model, got none")
        head = ReleaseHead(
            at=release.at,
            certificate=release.certificate,
            manifest=release.manifest,
            plan=release.plan,
            model_bytes=self._blobs.size(model.blob),
            signature=release.signature,
        )
        return len(head.encode()) + head.model_bytes, self._parts(head, model.blob)

    def _parts(self, head: ReleaseHead, blob: str) -> Iterator[bytes]:
        yield head.encode()
        yield from self._blobs.parts(blob)

    def _kept(self, model: StoredModel, head: ReleaseHead, manifest: Manifest, by: str, number: int) -> Release:
        digest = hashlib.sha256()
        for part in self._parts(head, model.blob):
            digest.update(part)
        release = Release(
            name=model.name,
            version=model.version,
            number=number,
            at=head.at,
            manifest=head.manifest,
            plan=head.plan,
            certificate=head.certificate,
            signature=head.signature,
            sha256=digest.digest(),
        )
        missing = [site.name for site in manifest.sites if site.cosignature is None]
        detail = {"version": model.version, "number": number, "sha256": release.sha256.hex(), "missing": missing}
        with self._database.transaction():
            self._releases.add(release)
            self._events.add(
                "model.released", now=head.at, subject=model.name, run_id=model.run_id, who=by, detail=detail
            )
        return release

    # -- the manifest -----------------------------------------------------------------------------

    def _plan(self, model: StoredModel) -> Plan:
        stored, where = self._plans.get(model.plan_digest), f"{model.name}@{model.version}"
        if stored is None:
            raise LocalError(f"{where}: expected its plan, got none")
        plan = parse_plan(stored.toml, folder=Path(), code_files=code_files(self._plans, model.plan_digest))
        if plan.digest != model.plan_digest:
            raise LocalError(f"{where}: this version of wardround reads its plan otherwise than the one that ran it")
        return plan

    def _manifest(self, model: StoredModel, run: Run, plan: Plan, by: str) -> Manifest:
        lines, made = read_lines(self._runs_folder / run.id)[: run.round], self._facts(model)["round"]
        if not made <= len(lines) == run.round:  # of fewer rounds it would claim less privacy loss than there was
            raise LocalError(
                f"{model.name}@{model.version}: expected what is known of all {max(made, run.round)} rounds of run "
                f"{run.number}, got {len(lines)}; restore its folder from a backup"
            )
        before = self._models.get(model.name, model.version - 1) if model.version > 1 else None
        return Manifest(
            name=model.name,
            version=model.version,
            parents=()
            if before is None
            else (Parent(name=before.name, version=before.version, sha256=before.sha256.hex()),),
            run=run.id,
            run_number=run.number,
            plan_digest=model.plan_digest,
            model_sha256=model.sha256.hex(),
            round=made,
            rounds=len(lines),
            void=sum(bool(line["void"]) for line in lines),
            stopped=run.reason,
            sites=self._sites(model, run),
            privacy=_privacy(plan, lines),
            evaluation=_evaluation(plan, self._runs_folder / run.id, lines),
            software=software_versions(),
            made=time_text(model.created),
            released_by=by,
        )

    def _facts(self, model: StoredModel) -> Json:
        """What the model's file says of itself; no more of it is read than its header."""
        start = bytearray()
        for part in self._blobs.parts(model.blob):
            start += part
            if len(start) >= 8 + int.from_bytes(start[:8], "little"):
                break
        return model_facts(lambda at, size: bytes(start[at : at + size]), self._blobs.size(model.blob))

    def _sites(self, model: StoredModel, run: Run) -> tuple[SiteEvidence, ...]:
        signed = self._participations.of_run(run.id)
        return tuple(
            self._evidence(model, run, one, signed.get(one.site))
            for one in sorted(self._run_sites.list(run.id), key=lambda one: one.site)
        )

    def _evidence(self, model: StoredModel, run: Run, one: RunSite, signed: Participation | None) -> SiteEvidence:
        if one.verdict is not Verdict.APPROVED or one.signature is None or one.decided is None:
            raise LocalError(f"{model.name}@{model.version}: expected the approval of {one.site}, got none")
        approval = Approval(
            certificate=self._certified(
                one, one.decided, one.signature, approval_bytes(run.id, run.plan_digest, one.verdict.value)
            ),
            signature=_b64(one.signature),
            at=time_text(one.decided),
        )
        if signed is None or signed.model_sha256 != model.sha256:
            return SiteEvidence(name=one.site, approval=approval)
        at = time_text(signed.at)
        data = participation_bytes(run.id, run.plan_digest, signed.model_sha256, signed.rounds, at)
        return SiteEvidence(
            name=one.site,
            approval=approval,
            cosignature=CoSignature(
                certificate=self._certified(one, signed.at, signed.signature, data),
                signature=_b64(signed.signature),
                at=at,
                rounds=signed.rounds,
            ),
        )

    def _certified(self, one: RunSite, at: datetime, signature: bytes, data: bytes) -> str:
        at = at.replace(microsecond=0)
        issued = self._certificates.of_site(one.site, CertificateKind.IDENTITY)
        found = certificate_of(one.site, issued, self._authority, at=at, signature=signature, data=data)
        if found is None:
            raise LocalError(f"{one.site}: expected the certificate by which its signature can be checked, got none")
        return _b64(found)


def _privacy(plan: Plan, lines: list[Json]) -> PrivacyClaim | None:
    claim = claimed(plan, lines)
    if claim is None:
        return None
    return PrivacyClaim(
        headline=claim.headline(),
        epsilon=claim.epsilon,
        delta=claim.delta,
        facts=tuple(f"{what}: {said}" for what, said in claim.facts()),
        assumptions=claim.assumptions,
        not_covered=claim.not_covered,
        warnings=claim.warnings,
    )


def _evaluation(plan: Plan, folder: Path, lines: list[Json]) -> Evaluation | None:
    """What the sites counted on test rows, or else on validation rows last."""
    path = folder / _TEST
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        untested = () if plan.privacy.hides_participation else found["untested"][:_MOST_UNTESTED]
        return _figures("test", found, untested)
    judged = [line["validation"] for line in lines if line["validation"]]
    return _figures("validation", judged[-1], ()) if judged else None


def _figures(split: str, found: Json, untested: tuple[str, ...] | list[str]) -> Evaluation:
    return Evaluation(
        split=split,
        rows=found["n"],
        metrics={name: float(value) for name, value in found["metrics"].items() if value is not None},
        untested=tuple(plain_text(one) for one in untested),
    )


def _canonical(text: str) -> str:
    """The one form of JSON that a person gave."""
    try:
        made = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (ValueError, RecursionError):
        raise LocalError("red-team results: expected JSON, as `wardround redteam` writes into redteam.json") from None
    if len(made) > MAX_REDTEAM_BYTES:
        raise LocalError(f"red-team results: expected at most {MAX_REDTEAM_BYTES} bytes, got {len(made)}")
    return made


def _b64(data: bytes) -> str:
    return b64encode(data).decode()
