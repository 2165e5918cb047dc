"""The folders of secure aggregation: what is refused, and what a federation on one machine has in them."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wardround.client.guard.enrolment_folder import EnrolmentFolder
from wardround.client.guard.federation_folder import make_federation
from wardround.client.secagg_commands import app
from wardround.errors import LocalError
from wardround.file_store import FileStore
from wardround.identity import issue_revocations
from wardround.pins import Pins
from wardround.plan import Plan, parse_plan
from wardround.strategies.secagg.identity_folder import IdentityFolder

NAMES = ["st-anna", "st-josef", "st-maria"]


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def plan_of(clip_norm: float = 1.0) -> Plan:
    return parse_plan(
        {
            "name": "wards",
            "rounds": 2,
            "task": {"flower_app": "app:client", "flower_initial": "app:initial"},
            "data": {"source": "app"},
            "cohort": {"weighting": "uniform"},
            "clipping": {"clip_norm": clip_norm},
            "simulation": {"sites": 3},
            "protection": {"mode": "masking"},
        }
    )


def test_everybody_pins_everybody_and_nobody_else_may_read(tmp_path: Path) -> None:
    server, sites = make_federation(tmp_path / "wards", NAMES, plan_of())
    for site in sites:
        with site.guard() as (plan, guard):
            assert (guard.site, plan.digest) == (site.site, plan_of().digest) == (site.site, server.plan.digest)
        with FileStore(site.folder.path / "state") as store:
            assert Pins(store).pinned() == {one.site: one.folder.fingerprint for one in sites}
    assert len({site.folder.fingerprint for site in sites} | {server.fingerprint}) == 4
    for path in (tmp_path / "wards").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    with pytest.raises(LocalError, match="expected a new folder; keys are never overwritten"):
        make_federation(tmp_path / "wards", NAMES, plan_of())
    with pytest.raises(LocalError, match="expected a new folder; keys are never overwritten"):
        EnrolmentFolder.make(tmp_path / "wards" / "st-anna", "st-anna")


@pytest.mark.parametrize("name", ["identity", "state-key", "signing-key", "plan.toml", "certificate.der"])
def test_a_file_that_others_may_write_or_that_is_missing_is_refused(tmp_path: Path, name: str) -> None:
    _, [site, *_] = make_federation(tmp_path / "wards", NAMES, plan_of())
    path = site.folder.path / name
    path.chmod(0o620)
    with pytest.raises(LocalError, match=rf"{name}: (others may|expected a file that others)"):
        with EnrolmentFolder(site.folder.path).guard():
            pass
    path.unlink()
    with pytest.raises(LocalError, match=rf"{name}: cannot be read \(No such file or directory\)"):
        with EnrolmentFolder(site.folder.path).guard():
            pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    _, [site, other, _] = make_federation(tmp_path / "wards", NAMES, plan_of())
    (site.folder.path / "plan.toml").unlink()
    (site.folder.path / "plan.toml").symlink_to(other.folder.path / "plan.toml")
    with pytest.raises(LocalError, match=r"plan\.toml: cannot be read"):
        with site.guard():
            pass


def test_a_site_that_has_not_joined_answers_nothing(tmp_path: Path) -> None:
    site = EnrolmentFolder.make(tmp_path / "alone", "alone")
    site.approve(plan_of())
    with pytest.raises(LocalError, match=r"cannot be read"):
        with site.guard():
            pass
    with pytest.raises(LocalError, match="expected a site that has joined a federation"):
        _ = site.folder.server


def test_a_plan_without_secure_aggregation_is_not_approved(tmp_path: Path) -> None:
    site = EnrolmentFolder.make(tmp_path / "alone", "alone")
    with pytest.raises(LocalError, match=r"expected a plan with protection\.mode"):
        site.approve(plan_of().override(["protection.mode=off"]))
    assert not (tmp_path / "alone" / "plan.toml").exists()


def test_an_old_revocation_list_is_refused_once_a_newer_one_was_seen(tmp_path: Path) -> None:
    _, [site, *_] = make_federation(tmp_path / "wards", NAMES, plan_of())
    root = IdentityFolder(tmp_path / "wards" / "authority")
    old = site.folder.read("revocations.der")
    newer = issue_revocations(
        root.read("authority.der"),
        root.signing_key,
        serials=(),
        number=2,
        now=datetime.now(UTC) - timedelta(minutes=1),
        valid_for=timedelta(days=1),
    )
    site.folder.write("revocations.der", newer)
    with site.guard():
        pass
    site.folder.write("revocations.der", old)
    with pytest.raises(LocalError, match=r"revocations\.der: .*expected number 2 or above, got 1"):
        with site.guard():
            pass


def test_the_commands_make_show_and_approve(tmp_path: Path) -> None:
    runner, folder = CliRunner(), tmp_path / "wards"
    arguments = ["enrol", str(folder), "--sites", "3", "--rounds", "2", "--clip-norm", "1.0"]
    made = runner.invoke(app, [*arguments, "--set", "cohort.deadline_s=60.0"])
    assert made.exit_code == 0, made.output
    digest = IdentityFolder(folder / "server").plan.digest
    assert f"plan {digest}" in made.output
    assert "compares the others' fingerprints by telephone" in " ".join(made.output.split())
    shown = runner.invoke(app, ["show", str(folder / "site-2")]).output
    assert shown.split() == [
        "name",
        "site-2",
        "key",
        EnrolmentFolder(folder / "site-2").folder.fingerprint,
        "plan",
        digest,
    ]
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_of(2.0).to_toml(), encoding="utf-8")
    assert plan_of(2.0).digest in runner.invoke(app, ["approve", str(folder / "site-2"), str(plan)]).output
    assert EnrolmentFolder(folder / "site-2").folder.plan.digest == plan_of(2.0).digest != digest
