"""The check of a released model, offline: what its signatures prove, and what is the server's word alone.

What it rests on is the identity authority, which says whose key is whose. The server has the authority's key, so a
lying server could have certified keys of its own as a site's: whoever wants to exclude that compares the fingerprints
with what the sites themselves say.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from wardround.errors import RemoteError
from wardround.evidence_identity import signer
from wardround.identity import Authority
from wardround.link.signing_inputs import approval_bytes, participation_bytes
from wardround.plain_text import plain_text
from wardround.plan import Plan, parse_plan
from wardround.plan_robust import OFF
from wardround.release_manifest import Approval, CoSignature, Manifest, SiteEvidence, bytes_in, time_in
from wardround.released_model import ReleasedModel
from wardround.signing_key import check_signature, fingerprint_of

__all__ = ["CheckedRelease", "CheckedSite", "check_release", "unsigned_plan"]

_CLOCKS = timedelta(days=1)
"""By how much a site's clock may be ahead of the server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSite:
    """A site whose approval was checked. `cosigned` is when it signed the model, None where it has not."""

    name: str
    fingerprint: str
    approved: datetime
    cosigned: datetime | None = None
    rounds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRelease:
    """A released model that is whole and signed. `server` and `authority` are fingerprints."""

    manifest: Manifest
    plan: Plan
    at: datetime
    server: str
    authority: str
    model_bytes: int
    sites: tuple[CheckedSite, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The sites that have not co-signed the model."""
        return tuple(site.name for site in self.sites if site.cosigned is None)

    def proven(self) -> Iterator[str]:
        """What the signatures prove, as far as the authority says whose keys they are."""
        code = len(self.plan.code_files)
        yield f"the server (key {self.server}) signed this file; no byte of it was changed since"
        files = f", with the digests of {_count(code, 'code file')}" if code else ""
        yield f"the plan in it is the one with the digest {self.manifest.plan_digest}{files}"
        yield from (f"the approved plan says: {said}" for said in _of_plan(self.plan))
        for site in self.sites:
            name = repr(plain_text(site.name))
            yield f"{name} (key {site.fingerprint}) approved this plan for this run"
            if site.cosigned is not None:
                told = "" if site.rounds is None else f", and says that it answered {_count(site.rounds, 'round')}"
                yield f"{name} has co-signed: at the end it was told that this very model came of the run{told}"

    def claimed(self) -> Iterator[str]:
        """What is the server's word alone."""
        manifest, evaluation = self.manifest, self.manifest.evaluation
        stopped = f"; it ended early: {plain_text(manifest.stopped)}" if manifest.stopped else ""
        yield (
            f"that the model is what run {manifest.run_number} came to after round {manifest.round}: "
            f"{_count(manifest.rounds, 'round')} done, {manifest.void} of them void{stopped}"
        )
        if manifest.privacy is not None:
            yield f"differential privacy: {plain_text(manifest.privacy.headline)}"
        elif self.plan.privacy.on:
            yield "no differential privacy: the plan wants it, and nothing bounds what was spent"
        if evaluation is None:
            yield "nothing of how good the model is: it was not evaluated"
        else:
            shown = ", ".join(f"{plain_text(name, 40)} {value:.4g}" for name, value in evaluation.metrics.items())
            yield f"on {evaluation.rows} {plain_text(evaluation.split, 20)} rows of the sites: {shown or 'no figures'}"
        if manifest.redteam is None:
            yield "nothing of red-team results: there are none in the file"
        else:
            yield "the red-team results in the file, which were simulated"
        for parent in manifest.parents:
            yield f"that it follows {plain_text(parent.name)}@{parent.version}"
        software = ", ".join(f"{plain_text(name, 40)} {plain_text(one, 40)}" for name, one in manifest.software.items())
        yield f"software at the server: {software}"
        yield f"that it was made at {manifest.made}, and signed on {_day(self.at)}; when sites approved"
        yield (
            f"who is behind a key: its authority ({self.authority}) is kept by the server, so compare the keys above "
            "with what the sites say themselves"
        )

    def to_json(self) -> dict[str, Any]:
        """All of it for a program."""
        return {
            "ok": True,
            "model": self.manifest.model,
            "signed": self.at.isoformat(),
            "server": self.server,
            "authority": self.authority,
            "model_bytes": self.model_bytes,
            "sites": [
                {
                    "name": site.name,
                    "key": site.fingerprint,
                    "approved": site.approved.isoformat(),
                    "cosigned": None if site.cosigned is None else site.cosigned.isoformat(),
                    "rounds": site.rounds,
                }
                for site in self.sites
            ],
            "proven": list(self.proven()),
            "claimed": list(self.claimed()),
            "manifest": json.loads(self.manifest.to_bytes()),
        }


def check_release(released: ReleasedModel, authority: Authority) -> CheckedRelease:
    """What is in a file that is whole, and signed as it says, by keys that `authority` certified.

    Raises RemoteError, which names the file and the first thing in it that is wrong. The model is read once, piece by
    piece.
    """
    try:
        return _checked(released, authority)
    except RemoteError as error:
        raise RemoteError(f"{released.path}: {error}") from None


def unsigned_plan(released: ReleasedModel) -> tuple[Manifest, Plan]:
    """The manifest and the plan of a file that is whole, whoever made it: no signature is checked.

    Raises RemoteError as `check_release` does.
    """
    try:
        manifest = released.manifest()
        released.check_contents(manifest)
        return manifest, _checked_plan(released.head.plan, manifest)
    except RemoteError as error:
        raise RemoteError(f"{released.path}: {error}") from None


def _checked(released: ReleasedModel, authority: Authority) -> CheckedRelease:
    server = released.check_server(authority)
    manifest = released.manifest()
    released.check_contents(manifest)
    plan = _checked_plan(released.head.plan, manifest)
    facts = released.facts()
    if (facts.get("run_id"), facts.get("plan_digest")) != (manifest.run, manifest.plan_digest):
        raise RemoteError("model.safetensors: expected a model of the manifest's run and plan, got one of another")
    if facts.get("round") != manifest.round:
        raise RemoteError("model.safetensors: expected the model of the manifest's round, got another's")
    _check_account(manifest, plan)
    sites = tuple(_checked_site(site, manifest, plan, authority) for site in manifest.sites)
    _check_keys(fingerprint_of(server), sites)
    _check_times(released.head.at, manifest)
    return CheckedRelease(
        manifest=manifest,
        plan=plan,
        at=released.head.at,
        server=fingerprint_of(server),
        authority=authority.fingerprint.hex(),
        model_bytes=released.head.model_bytes,
        sites=sites,
    )


def _checked_plan(data: bytes, manifest: Manifest) -> Plan:
    """The plan, whose bytes are those of its digest."""
    try:
        table = json.loads(data)
        files = tuple((str(path), str(sha256)) for path, sha256 in table.pop("code_files"))
        plan = parse_plan(table, folder=Path(), code_files=files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # PlanError is a ValueError
        raise RemoteError(
            f"plan: expected one that this version of wardround reads ({plain_text(str(error))})"
        ) from None
    if plan.name != manifest.name:
        raise RemoteError("manifest.name: expected the plan's name, got another")
    if len(manifest.sites) != plan.simulation.sites:
        raise RemoteError(
            f"manifest.sites: expected the approvals of all {plan.simulation.sites} sites of the plan, got "
            f"{len(manifest.sites)}"
        )
    return plan


def _check_account(manifest: Manifest, plan: Plan) -> None:
    """RemoteError where the server's account of the run cannot be one of the plan that the sites approved."""
    if manifest.privacy is not None and not plan.privacy.on:
        raise RemoteError("manifest.privacy: expected no claim, since the approved plan has no differential privacy")
    if not max(manifest.round, manifest.void) <= manifest.rounds <= plan.rounds:
        raise RemoteError(
            f"manifest.rounds: expected at most the {plan.rounds} rounds of the plan, no later model, no more void, "
            f"got {manifest.rounds} ({manifest.void} void, the model after {manifest.round})"
        )


def _check_keys(server: str, sites: Iterable[CheckedSite]) -> None:
    """RemoteError where one key is behind two names."""
    owners = {server: "the server"}
    for site in sites:
        owner = owners.setdefault(site.fingerprint, repr(plain_text(site.name)))
        if owner != repr(plain_text(site.name)):
            raise RemoteError(f"{plain_text(site.name)!r}: expected a key of its own, got that of {owner}")


def _check_times(at: datetime, manifest: Manifest) -> None:
    """RemoteError where the file says that it was signed before there was something to sign."""
    times = [("the model was made", manifest.made, timedelta(0))]
    for site in manifest.sites:
        name = repr(plain_text(site.name))
        times.append((f"the approval of {name}", site.approval.at, timedelta(0)))
        if site.cosignature is not None:
            times.append((f"the co-signature of {name}", site.cosignature.at, _CLOCKS))
    for what, before, ahead in times:
        if time_in(before) - at > ahead:
            raise RemoteError(f"head: expected a time after {what}, {before}, got {at.isoformat()}")


def _checked_site(site: SiteEvidence, manifest: Manifest, plan: Plan, authority: Authority) -> CheckedSite:
    public, name = _approved(site.name, site.approval, manifest, authority), plain_text(site.name)
    signed = site.cosignature
    if signed is not None:
        if (signed.rounds is None) != plan.privacy.hides_participation:
            told = "no number of rounds, which the plan hides" if signed.rounds is not None else "a number of rounds"
            raise RemoteError(f"{name}, co-signature: expected {told}")
        if signed.rounds is not None and signed.rounds > plan.rounds:
            raise RemoteError(f"{name}, co-signature: expected at most {plan.rounds} rounds, got {signed.rounds}")
        _check_cosigned(site.name, signed, public, manifest, authority)
    return CheckedSite(
        name=site.name,
        fingerprint=fingerprint_of(public),
        approved=time_in(site.approval.at),
        cosigned=None if signed is None else time_in(signed.at),
        rounds=None if signed is None else signed.rounds,
    )


def _approved(name: str, approval: Approval, manifest: Manifest, authority: Authority) -> bytes:
    """The key with which the site of this name approved."""
    what = f"{plain_text(name)}, approval"
    public = signer(authority, bytes_in(approval.certificate, what), name, time_in(approval.at))
    signature = bytes_in(approval.signature, what)
    check_signature(public, signature, approval_bytes(manifest.run, manifest.plan_digest, "approved"), what)
    return public


def _check_cosigned(name: str, signed: CoSignature, public: bytes, manifest: Manifest, authority: Authority) -> None:
    what = f"{plain_text(name)}, co-signature"
    if signer(authority, bytes_in(signed.certificate, what), name, time_in(signed.at)) != public:
        raise RemoteError(f"{what}: expected the key that approved, got another")
    model = bytes.fromhex(manifest.model_sha256)
    data = participation_bytes(manifest.run, manifest.plan_digest, model, signed.rounds, signed.at)
    check_signature(public, bytes_in(signed.signature, what), data, what)


def _of_plan(plan: Plan) -> Iterator[str]:
    robust = plan.robust
    yield f"{_count(plan.rounds, 'round')} at {_count(plan.simulation.sites, 'site')}"
    yield f"protection of updates from the server: {plan.protection.mode.value}"
    against = "" if robust.rule == OFF else f", against {robust.num_byzantine} a round"
    yield f"rule against bad updates: {'+'.join((*robust.pre, robust.rule))}{against}"
    if plan.privacy.on:
        target = "" if plan.privacy.epsilon is None else f", epsilon at most {plan.privacy.epsilon:g}"
        yield f"differential privacy for every {plan.privacy.unit.value}{target}"
    else:
        yield "no differential privacy: the model may tell who was in the training rows"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
