"""`wardround server audit` and `server authority`, on the server's own machine, without its secret."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.server.audit.worlds import World
from wardround.audit.log import LOG_FILE
from wardround.cli import app


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, "Hospital A")
    world.happen(7)
    world.shown()
    yield world
    world.close()


def run(world: World, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["server", *arguments, "--state", str(world.folder.path)])
    assert result.exit_code == code, result.output
    return result.output


def test_the_log_is_shown_verified_and_exported_while_the_server_runs(world: World, tmp_path: Path) -> None:
    with world.folder.lock():
        assert '"kind":"log.sealed"' in run(world, "audit", "tail", "-n", "1")
        assert "co-signed   by Hospital A: the first 10 records" in run(world, "audit", "verify")
        assert "1 co-signed heads" in run(world, "audit", "export", str(tmp_path / "out.zip"))
        assert "SHA-256" in run(world, "authority", "--out", str(tmp_path / "ca.pem"))
    run(world, "authority", "--out", str(tmp_path / "ca.pem"), code=1)
    said = CliRunner().invoke(app, ["verify", "audit", str(tmp_path / "out.zip"), "--root", str(tmp_path / "ca.pem")])
    assert said.exit_code == 0 and "co-signed   by Hospital A: the first 10 records" in said.output


def test_a_log_that_was_cut_below_a_co_signed_head_is_found(world: World) -> None:
    path = world.folder.audit / LOG_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    assert "record 4: is missing" in run(world, "audit", "verify", code=1)


def test_a_server_that_was_never_started_has_no_log(tmp_path: Path) -> None:
    world = World(tmp_path)
    (world.folder.audit / LOG_FILE).unlink()
    assert "cannot be read" in run(world, "audit", "verify", code=1)
    assert "nothing was logged here yet" in run(world, "audit", "tail", code=1)
    world.close()
