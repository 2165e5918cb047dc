"""The folder, its disk, certificates, revocations, the agent and ledgers."""

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.client.agent.site_world import World, write_table
from wardround.client.agent.data_registry import DataRegistry
from wardround.client.doctor.finding import Finding, Level
from wardround.client.doctor.site_state import (
    check_agent,
    check_disk,
    check_folder,
    check_ledgers,
    check_site,
    folder_of,
    judge_certificate_time,
    judge_room,
)
from wardround.client.doctor.situation import Situation
from wardround.plan_privacy import Unit

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
DAY, MIB = timedelta(days=1), 1 << 20


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path / "site")


def situation(world: World) -> Situation:
    return Situation(
        path=world.folder.path,
        folder=world.folder,
        server=None,
        link=None,
        authority=None,
        python="python",
        environment={},
        now=lambda: NOW,
    )


def levels(findings: Iterable[Finding]) -> list[Level]:
    return [one.level for one in findings]


# -- the folder ----------------------------------------------------------------------------------


def test_a_folder_as_join_makes_it(world: World) -> None:
    [found] = check_folder(situation(world))
    assert found.level is Level.OK and "this user's alone" in found.text


@pytest.mark.parametrize(
    ("name", "mode"), [("signing-key", 0o640), ("plans", 0o755), ("", 0o701), ("site.json", 0o602)]
)
def test_what_others_may_read_or_write_is_named(world: World, name: str, mode: int) -> None:
    os.chmod(world.folder.path / name, mode)
    [found] = check_folder(situation(world))
    assert found.level is Level.PROBLEM
    assert found.text.startswith(f"{world.folder.path / name}: ")
    assert found.fix is not None and "chmod -R go=" in found.fix
    subprocess.run(["chmod", "-R", "go=", str(world.folder.path)], check=True)
    assert levels(check_folder(situation(world))) == [Level.OK]


def test_a_link_in_the_folder_is_named(world: World) -> None:
    (world.folder.path / "data" / "more").symlink_to("/etc")
    [found] = check_folder(situation(world))
    assert found.level is Level.PROBLEM and str(world.folder.path / "data" / "more") in found.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_files_and_another_users_folder(world: World) -> None:
    path = world.folder.path
    os.chown(path / "state-key", 4711, 4711)
    [found] = check_folder(situation(world))
    assert found.level is Level.PROBLEM and str(path / "state-key") in found.text
    os.chown(path, 4711, 4711)
    before = sorted(os.listdir(path))
    os.rmdir(path / "pins")
    [found] = check_folder(situation(world))
    assert found.text == f"{path}: belongs to user 4711, not to root" and found.fix == "run this as user 4711"
    assert folder_of(path) is None  # so nothing is made in it that would be root's
    assert sorted(os.listdir(path)) == [name for name in before if name != "pins"]


def test_a_folder_that_is_not_there(world: World, tmp_path: Path) -> None:
    [found] = check_folder(replace(situation(world), path=tmp_path / "none"))
    assert found.level is Level.SKIPPED
    assert folder_of(tmp_path / "none") is None
    [disk] = check_disk(replace(situation(world), path=tmp_path / "none" / "at" / "all"))
    assert disk.text.startswith(f"{tmp_path}: ")


# -- its disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "inodes", "read_only", "level"),
    [
        (10_000 * MIB, 10**6, False, Level.OK),
        (10_000 * MIB, None, False, Level.OK),
        (2047 * MIB, 10**6, False, Level.WARNING),
        (255 * MIB, 10**6, False, Level.PROBLEM),
        (10_000 * MIB, 12, False, Level.PROBLEM),
        (10_000 * MIB, 10**6, True, Level.PROBLEM),
    ],
)
def test_room(free: int, inodes: int | None, read_only: bool, level: Level) -> None:
    found = judge_room(Path("/srv"), free, inodes, read_only=read_only)
    assert found.level is level
    assert (found.fix is None) == (level is Level.OK)


@pytest.mark.parametrize(
    ("blocks", "files", "flags", "said"),
    [
        (16, 10**6, 0, "0 MiB free"),
        (1 << 20, 40, 0, "room for 40 more files"),
        (1 << 20, 10**6, os.ST_RDONLY, "may only be read"),
    ],
)
def test_what_the_system_says_of_a_disk(
    world: World, monkeypatch: pytest.MonkeyPatch, blocks: int, files: int, flags: int, said: str
) -> None:
    """Blocks and files are those that this user may have, as the file system counts them."""
    answer = os.statvfs_result((1024, 4096, 1 << 30, 1 << 30, blocks, 1 << 30, 1 << 30, files, flags, 255))
    asked = list[object]()

    def statvfs(path: object) -> os.statvfs_result:
        asked.append(path)
        return answer

    monkeypatch.setattr(os, "statvfs", statvfs)
    [found] = check_disk(situation(world))
    assert found.level is Level.PROBLEM and said in found.text
    assert asked == [world.folder.path]


# -- what it has ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "level"),
    [
        (-0.5, Level.PROBLEM),
        (1, Level.OK),
        (22, Level.OK),
        (25, Level.WARNING),
        (29, Level.WARNING),
        (30.1, Level.PROBLEM),
    ],
)
def test_how_long_a_certificate_is_good(days: float, level: Level) -> None:
    found = judge_certificate_time("for connections", NOW, NOW + 30 * DAY, NOW + days * DAY)
    assert found.level is level
    if level is Level.OK:
        assert f"{30 - days:.0f} days more" in found.text


def test_certificates_and_revocations_of_a_site(world: World) -> None:
    from tests.client.agent.test_process import Server

    Server(world)  # gives the site a certificate for connections, of the true time
    at = replace(situation(world), now=lambda: datetime.now(UTC))
    found = {one.check: one for one in check_site(at)}
    assert found["site"].text.startswith("Hospital A, of https://")
    certificates = [one for one in check_site(at) if one.check == "certificate"]
    assert [one.text.partition(":")[0] for one in certificates] == ["for connections", "of the signing key"]
    assert certificates[0].level is Level.OK
    in_time = {one.check: one for one in check_site(situation(world))}
    assert in_time["revocations"].level is Level.OK and "is good for" in in_time["revocations"].text
    late = {one.check: one for one in check_site(replace(at, now=lambda: NOW + 300 * DAY))}
    assert late["revocations"].level is late["certificate"].level is Level.PROBLEM
    assert "revoke this site and invite it again" in str(late["certificate"].fix)
    world.folder.write("tls-identity.pem", b"nothing")
    world.folder.write("revocations.der", b"nothing")
    broken = [one for one in check_site(situation(world)) if one.level is Level.PROBLEM]
    assert [one.check for one in broken] == ["certificate", "revocations"]


def test_whether_the_agent_runs(world: World) -> None:
    [found] = check_agent(situation(world))
    assert found.level is Level.WARNING and "wardround client start" in str(found.fix)
    with world.folder.lock():
        [found] = check_agent(situation(world))
    assert (found.level, found.text) == (Level.OK, "runs")


def test_ledgers_and_their_anchors(world: World, tmp_path: Path) -> None:
    assert list(check_ledgers(situation(world))) == []
    other_disk = tmp_path / "other"
    other_disk.mkdir()
    registry = DataRegistry(world.folder)
    data = registry.add(write_table(tmp_path / "ehr.csv"), "ehr", NOW, anchor=other_disk / "ehr.anchor")
    registry.make_ledger(data, epsilon=3.0, delta=1e-6, unit=Unit.ROW, by="anna", disjoint=None)
    [found] = check_ledgers(situation(world))
    assert found.level is Level.OK and found.text == f"ehr: whole, anchored in {other_disk / 'ehr.anchor'}"
    ledger = registry.ledger_path("ehr")
    whole = ledger.read_bytes()
    ledger.write_bytes(whole.replace(b"ehr", b"her"))
    [broken] = check_ledgers(situation(world))
    assert broken.level is Level.PROBLEM and "ehr.ledger" in broken.text
    ledger.write_bytes(whole)
    # it belongs to the people, whatever their data sets are called
    labs = {"version": 1, **asdict(replace(data, name="labs", named_population="ehr"))}
    world.folder.write("data/labs.json", json.dumps(labs).encode())
    registry.remove("ehr")
    assert [one.text for one in check_ledgers(situation(world))] == [found.text]
    (other_disk / "ehr.anchor").unlink()
    other_disk.rmdir()
    [found] = check_ledgers(situation(world))
    assert found.level is Level.PROBLEM and "its folder is not there" in found.text
    registry.remove("labs")
    [found] = check_ledgers(situation(world))
    assert (found.level, found.text) == (Level.OK, "ehr: whole, without an anchor on another disk")
