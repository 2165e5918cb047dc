"""What a server signs of the model of a real run, checked as an auditor does, and the co-signatures that it takes."""

import asyncio
import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.runs.hospitals import Hospitals
from tests.server.runs.test_supervisor import PLAN, play, to_the_end
from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import issue_server_certificate
from wardround.identity import Authority, issue_certificate
from wardround.link.messages import Notice
from wardround.link.signing_inputs import participation_bytes
from wardround.orders import SiteId
from wardround.plan import parse_plan
from wardround.release_check import CheckedRelease, check_release
from wardround.release_manifest import time_text
from wardround.released_model import ReleasedModel
from wardround.server.runs.cosigning import CoSigning
from wardround.server.runs.releasing import Releasing
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.current_models import CurrentModels
from wardround.server.state.models import Models, StoredModel
from wardround.server.state.plans import Plans
from wardround.server.state.releases import Release
from wardround.server.state.vault import Vault
from wardround.signing_key import SigningKey

ONE, TWO, THREE = (SiteId(f"site-0{number}") for number in (1, 2, 3))


@dataclass
class Server:
    """A server with the model of a finished run, and what releases it."""

    hospitals: Hospitals
    folder: Path
    clock: list[datetime]
    certified: bool = True

    def __post_init__(self) -> None:
        state = self.hospitals.state
        self.vault = Vault(state.keyring.data_key)
        self.plans, self.blobs = Plans(state.database, self.vault), BlobStore(state.folder.models, self.vault)
        certificate = issue_server_certificate(
            state.authority, state.keyring.identity_authority, state.keyring.signing.public, random=os.urandom
        )
        self.releasing = Releasing(
            state.database,
            self.plans,
            self.blobs,
            key=state.keyring.signing,
            certificate=certificate,
            authority=state.authority,
            runs_folder=state.folder.runs,
            clock=lambda: self.clock[0],
        )
        self.cosigning = CoSigning(state.database, self.plans, authority=state.authority, clock=lambda: self.clock[0])
        for serial, (site, der) in enumerate(state.certificates.items()) if self.certified else ():
            Certificates(state.database).add(
                CertificateKind.IDENTITY, serial + 1, site=site, der=der, not_after=self.clock[0] + timedelta(days=30)
            )

    @property
    def model(self) -> StoredModel:
        found = Models(self.hospitals.state.database).of_run(self.hospitals.run_id)
        assert found is not None
        return found

    def word(self, site: SiteId, *, key: SigningKey | None = None, **changes: Any) -> dict[str, Any]:
        """The body of a participation notice, signed after the changes."""
        body: dict[str, Any] = {
            "run": self.hospitals.run_id,
            "plan_digest": self.hospitals.plan.digest,
            "model": self.model.sha256.hex(),
            "rounds": 2,
            "at": time_text(self.clock[0]),
        } | changes
        signed = participation_bytes(
            body["run"], body["plan_digest"], bytes.fromhex(body["model"]), body["rounds"], body["at"]
        )
        signature = (key or self.hospitals.state.keys[site]).sign(signed)
        return body | {"signature": base64.b64encode(signature).decode()}

    def take(self, site: SiteId, body: dict[str, Any]) -> bool:
        return self.cosigning.take(site, Notice(kind="participation", body=json.dumps(body).encode()))

    def file(self, release: Release) -> Path:
        size, parts = self.releasing.file(release)
        path = self.folder / f"{release.name}-{release.version}-{release.number}.wardmodel"
        path.write_bytes(b"".join(parts))
        assert path.stat().st_size == size
        return path

    def checked(self, release: Release) -> CheckedRelease:
        with ReleasedModel(self.file(release)) as released:
            return check_release(released, Authority(self.hospitals.state.authority))

    def kinds(self) -> list[str]:
        return [one.kind for one in self.hospitals.state.events(self.hospitals.run_id)]


def finished(path: Path, *settings: str, certified: bool = True) -> Server:
    plan = parse_plan(PLAN).override(["rounds=2", 'data.standardize="range"', *settings])
    hospitals = Hospitals.of(path / "state", plan)
    play(to_the_end(hospitals))
    return Server(hospitals, path, [datetime.now(UTC)], certified)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """For tests that change nothing in it."""
    return finished(tmp_path_factory.mktemp("kept"))


def test_a_run_is_released_checked_and_released_again_with_further_co_signatures(tmp_path: Path) -> None:
    server = finished(tmp_path)
    first = server.releasing.release(server.model, by="ada")
    found = server.checked(first)
    manifest, plan = found.manifest, server.hospitals.plan
    assert (manifest.model, manifest.rounds, manifest.round, manifest.void) == ("tumours@1", 2, 2, 0)
    assert (manifest.plan_digest, manifest.released_by) == (plan.digest, "ada")
    assert manifest.parents == ()
    assert manifest.evaluation is not None and manifest.evaluation.split == "test"
    assert manifest.privacy is None and manifest.redteam is None
    assert found.missing == (ONE, TWO, THREE)
    assert server.releasing.release(server.model, by="bob") == first  # it says the same

    for site in (ONE, THREE):
        assert server.take(site, server.word(site))
    assert not server.take(ONE, server.word(ONE))  # told again, after a restart
    server.clock[0] += timedelta(hours=1)
    second = server.releasing.release(server.model, by="bob")
    assert (first.number, second.number) == (1, 2)
    found = server.checked(second)
    assert found.missing == (TWO,)
    assert [one.rounds for one in found.sites] == [2, None, 2]
    assert found.manifest.released_by == "bob"
    assert server.checked(first).missing == (ONE, TWO, THREE)  # what was signed stays as it was
    assert server.kinds().count("model.released") == 2
    assert server.kinds().count("model.cosigned") == 2


def test_red_team_results_go_along_and_stay(tmp_path: Path) -> None:
    server = finished(tmp_path)
    server.releasing.release(server.model, by="ada")
    with_results = server.releasing.release(server.model, by="ada", redteam='{"cells": [1, 2.50], "metric":"auc"}')
    assert with_results.number == 2
    assert server.checked(with_results).manifest.redteam == '{"cells":[1,2.5],"metric":"auc"}'
    assert "red-team results in the file" in "\n".join(server.checked(with_results).claimed())
    assert server.releasing.release(server.model, by="ada") == with_results
    for wrong in ("{", "NaN", "[" * 100_000, json.dumps("x" * (1 << 18))):
        with pytest.raises(LocalError, match="red-team results"):
            server.releasing.release(server.model, by="ada", redteam=wrong)


def test_a_claim_of_privacy_goes_along(tmp_path: Path) -> None:
    private = ('privacy.unit="row"', "privacy.noise_multiplier=4.0", "privacy.clip_norm=1.0", "training.steps=2")
    server = finished(tmp_path, *private, "privacy.public_sizes=true", 'privacy.evaluation="off"', "evaluation.every=0")
    found = server.checked(server.releasing.release(server.model, by="ada"))
    claim = found.manifest.privacy
    assert claim is not None and claim.headline.startswith("epsilon ")
    assert claim.facts and claim.assumptions
    assert claim.headline in "\n".join(found.claimed())


def test_a_run_of_which_rounds_are_not_known_any_more_is_not_released(tmp_path: Path) -> None:
    """Privacy loss is that of the last line: of fewer lines a release would claim less of it than there was."""
    server = finished(tmp_path)
    (lines,) = server.hospitals.state.folder.runs.rglob("metrics.jsonl")
    whole = lines.read_bytes()
    for damaged in (whole[: whole.find(b"\n") + 1], whole[:-1], b""):
        lines.write_bytes(damaged)
        with pytest.raises(LocalError, match=r"expected what is known of all 2 rounds of run 1, got [01]; restore"):
            server.releasing.release(server.model, by="ada")
    lines.write_bytes(whole)
    assert server.checked(server.releasing.release(server.model, by="ada")).manifest.rounds == 2


def test_a_site_whose_certificate_is_not_to_be_had_cannot_be_vouched_for(tmp_path: Path) -> None:
    server = finished(tmp_path, certified=False)
    with pytest.raises(LocalError, match="site-01: expected the certificate"):
        server.releasing.release(server.model, by="ada")


WRONG: dict[str, tuple[Callable[[Server], dict[str, Any]], str]] = {
    "another run": (lambda one: one.word(ONE, run="f" * 32), "of a run that it approved"),
    "another plan": (lambda one: one.word(ONE, plan_digest="f" * 64), "model tumours@1"),
    "another model": (lambda one: one.word(ONE, model="f" * 64), "restored from a backup"),
    "another site's key": (lambda one: one.word(ONE, key=one.hospitals.state.keys[TWO]), "valid signature"),
    "a time without a certificate": (lambda one: one.word(ONE, at="2020-01-01T00:00:00+00:00"), "valid signature"),
    "a time of another form": (lambda one: one.word(ONE, at="2020-01-01"), "expected a run"),
    "more rounds than there are": (lambda one: one.word(ONE, rounds=3), "at most 2"),
    "no rounds": (lambda one: one.word(ONE, rounds=None), "at most 2"),
    "rounds that are no number": (lambda one: one.word(ONE) | {"rounds": True}, "expected a run"),
    "fewer rounds than were signed": (lambda one: one.word(ONE) | {"rounds": 1}, "valid signature"),
    "no signature": (lambda one: one.word(ONE) | {"signature": ""}, "valid signature"),
    "a model that is no digest": (lambda one: one.word(ONE) | {"model": "ff"}, "expected a run"),
}


@pytest.mark.parametrize(("made", "named"), WRONG.values(), ids=list(WRONG))
def test_a_word_that_is_not_the_sites_own_on_this_model_is_refused(
    kept: Server, made: Callable[[Server], dict[str, Any]], named: str
) -> None:
    with pytest.raises(RemoteError, match=named):
        kept.take(ONE, made(kept))


@given(st.one_of(st.binary(max_size=100), st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr)))
def test_anything_else_is_refused(kept: Server, body: bytes | str) -> None:
    data = body if isinstance(body, bytes) else body.encode(errors="replace")
    with pytest.raises(RemoteError):
        kept.cosigning.take(ONE, Notice(kind="participation", body=data))


def test_a_site_signs_one_thing_of_a_run(tmp_path: Path) -> None:
    server = finished(tmp_path)
    assert server.take(ONE, server.word(ONE))
    with pytest.raises(RemoteError, match="as it came first"):
        server.take(ONE, server.word(ONE, rounds=1))
    with pytest.raises(RemoteError, match="that it approved"):
        server.take(SiteId("stranger"), server.word(ONE))


def test_a_renewed_certificate_vouches_for_what_was_signed_under_it(tmp_path: Path) -> None:
    server = finished(tmp_path)
    state, start = server.hospitals.state, server.clock[0] + timedelta(days=10)
    renewed = issue_certificate(
        state.authority,
        state.keyring.identity_authority,
        name=ONE,
        public=state.keys[ONE].public,
        not_before=start,
        not_after=start + timedelta(days=15),
        random=os.urandom,
    )
    Certificates(state.database).add(
        CertificateKind.IDENTITY, 99, site=ONE, der=renewed, not_after=start + timedelta(days=15)
    )
    server.clock[0] = start + timedelta(hours=1)
    assert server.take(ONE, server.word(ONE))
    found = server.checked(server.releasing.release(server.model, by="ada"))
    assert found.sites[0].cosigned == server.clock[0].replace(microsecond=0)


def test_sites_are_told_of_the_model_with_the_end(kept: Server) -> None:
    ends = [json.loads(one.body) for _, one in kept.hospitals.notices if one.kind == "ended"]
    assert {end["model"] for end in ends} == {kept.model.sha256.hex()}


def test_a_stopped_run_has_no_model_to_be_told_of(tmp_path: Path) -> None:
    plan = parse_plan(PLAN).override(["rounds=2"])
    hospitals = Hospitals.of(tmp_path / "state", plan, approve=False)

    async def scenario() -> None:
        supervisor = hospitals.connect()
        await supervisor.open()
        await supervisor.start(hospitals.run_id)
        await supervisor.stop(hospitals.run_id)
        while sum(one.kind == "ended" for _, one in hospitals.notices) < 3:
            await asyncio.sleep(0)
        await supervisor.close()

    play(scenario())
    assert {json.loads(one.body)["model"] for _, one in hospitals.notices if one.kind == "ended"} == {None}


def test_the_current_version_is_the_newest_until_somebody_says_another(kept: Server) -> None:
    database, first = kept.hospitals.state.database, kept.model
    current = CurrentModels(database)
    assert current.get("tumours") == first
    assert current.get("nothing") is None
    current.set(first)
    assert current.get("tumours") == first
