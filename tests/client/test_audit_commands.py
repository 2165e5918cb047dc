"""`wardround client audit`, as an administrator uses it."""

import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.client.agent.site_world import World
from tests.client.agent.test_agent import Site
from tests.client.agent.test_audit_records import shown
from wardround.audit.log import LOG_FILE
from wardround.audit.tail import show_tail
from wardround.cli import app
from wardround.client.agent.site_log import audit_folder, note
from wardround.errors import LocalError


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World.make(tmp_path)
    for number in range(30):
        note(world.folder, "data.added", f"table {number}")
    return world


def run(world: World, *arguments: str, fails: str = "") -> str:
    """What `client audit` prints; with `fails`, the error that it must end with."""
    told = {"WARDROUND_CLIENT_STATE": str(world.folder.path)}
    result = CliRunner().invoke(app, ["client", "audit", *arguments], env=told)
    if fails:
        assert result.exit_code == 1 and re.search(fails, result.output), result.output
    else:
        assert result.exit_code == 0, result.output
    return result.output


def test_tail_shows_the_last_records_as_they_stand_there(world: World) -> None:
    lines = (audit_folder(world.folder) / LOG_FILE).read_text().splitlines()
    assert run(world, "tail", "-n", "3").splitlines() == lines[-3:]
    assert len(run(world, "tail").splitlines()) == 20
    assert len(run(world, "tail", "-n", "1000").splitlines()) == len(lines)
    assert json.loads(run(world, "tail", "-n", "2").splitlines()[0])["subject"] == "table 29"


def test_tail_goes_on_with_what_is_added(world: World) -> None:
    class Enough(Exception):
        pass

    looks = 0

    def look(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise Enough
        note(world.folder, "data.added", f"later {looks}")

    out = io.StringIO()
    with pytest.raises(Enough):
        show_tail(audit_folder(world.folder) / LOG_FILE, 1, out, follow=True, sleep=look)
    assert [json.loads(line)["subject"] for line in out.getvalue().splitlines()] == ["", "later 1", "", "later 2", ""]


def test_tail_writes_nothing_to_the_terminal_but_text(world: World) -> None:
    path = audit_folder(world.folder) / LOG_FILE
    path.write_bytes(path.read_bytes() + b"\x1b[31mred\xff\n")
    assert "\x1b" not in run(world, "tail", "-n", "1")


def test_a_site_without_a_log_says_so(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="nothing was logged here yet"):
        show_tail(tmp_path / LOG_FILE, 1, io.StringIO())


def test_verify_says_what_there_is_and_names_the_first_bad_record(world: World) -> None:
    said = run(world, "verify")
    assert "log         of Hospital A" in said and "none changed, missing or moved" in said
    path = audit_folder(world.folder) / LOG_FILE
    path.write_bytes(path.read_bytes().replace(b"table 7", b"table 8"))
    run(world, "verify", fails="record 18: was changed after it was written")


def test_a_server_whose_history_differs_is_told_until_it_is_accepted(world: World) -> None:
    site = Site(world)
    site.agent.notice(shown(world, 5, 9))
    site.agent.seal()
    assert "the first 9 records of its log, signed here" in run(world, "verify")
    run(world, "accept-restore", fails="nothing is to be accepted")
    site.agent.notice(shown(world, 2, 6))
    run(world, "verify", fails="the server's history differs from what this site has seen")
    assert "this site takes part again" in run(world, "accept-restore", "--by", "IT")
    run(world, "verify")


def test_export_and_verify_by_an_auditor(world: World, tmp_path: Path) -> None:
    bundle, root = tmp_path / "a.zip", world.folder.path / "identity-authority.der"
    assert "check it: wardround verify audit" in run(world, "export", str(bundle))
    result = CliRunner().invoke(app, ["verify", "audit", str(bundle), "--root", str(root)])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "verified" and "of Hospital A" in result.output
    run(world, "export", str(bundle), fails="is there already")
    with zipfile.ZipFile(bundle) as archive:
        assert sorted(archive.namelist()) == ["cosigned.jsonl", "log.jsonl", "manifest.json"]
