"""The command, on a real site and before there is one."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.client.doctor.served_site import ServedSite
from wardround.cli import app
from wardround.client.doctor.examine import CHECKS, examine
from wardround.client.doctor.finding import Finding, Level, fine
from wardround.errors import LocalError


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what has tests of its own and takes seconds."""
    for name in ("confinement", "advisories"):
        monkeypatch.setitem(CHECKS, name, lambda situation: [])


def doctor(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["client", "doctor", *map(str, arguments)], prog_name="wardround")
    return done.exit_code, done.stdout + done.stderr


def test_a_site_in_order_but_without_an_agent(served: ServedSite) -> None:
    code, text = doctor("--state", served.site.folder)
    lines = text.splitlines()
    assert code == 0, text
    assert lines[-1].startswith("problems: 0, warnings: ")
    checks = [line[9:21].strip() for line in lines[:-1]]
    expected = ("versions", "machine", "folder", "disk", "site", "certificate", "revocations", "agent", "https", "link")
    assert [one for one in expected if one not in checks] == []
    assert [line for line in lines if line.startswith("warning  agent")]
    page = (Path(__file__).parents[3] / "docs" / "install.md").read_text()
    assert [one for one in checks if f"`{one}`" not in page] == []
    assert not [line for line in lines if "://" in line and "#" in line]


@pytest.mark.usefixtures("quick")
def test_as_json_and_with_a_problem(served: ServedSite) -> None:
    os.chmod(served.site.folder / "identity.der", 0o644)
    code, text = doctor("--state", served.site.folder, "--json")
    table = json.loads(text)
    assert (code, table["ok"]) == (1, False)
    [bad] = [one for one in table["findings"] if one["level"] == "problem" and one["check"] == "folder"]
    assert "identity.der" in bad["text"] and "chmod" in bad["fix"]
    assert all(one.keys() == {"check", "level", "text", "fix"} for one in table["findings"])


@pytest.mark.usefixtures("quick")
def test_before_joining(served: ServedSite, tmp_path: Path) -> None:
    way = ("--server", f"https://localhost:{served.https}", "--link", f"localhost:{served.link}")
    code, text = doctor("--state", tmp_path / "none", *way)
    assert code == 0, text
    assert "the authority that it names" in text and not (tmp_path / "none").exists()
    code, text = doctor("--state", tmp_path / "none")
    assert code == 1 and "no site has joined here" in text and "--server URL" in text


@pytest.mark.usefixtures("quick")
def test_a_folder_that_is_damaged_is_said_and_the_rest_is_looked_at(served: ServedSite) -> None:
    (served.site.folder / "site.json").write_text("{}")
    findings = list(examine(served.site.folder, {}))
    bad = [one for one in findings if one.level is Level.PROBLEM]
    assert [one.check for one in bad] == ["site"] and "site.json" in bad[0].text
    assert {"versions", "machine", "folder", "disk", "network"} <= {one.check for one in findings}


def test_a_check_that_fails_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> Callable[[object], list[Finding]]:
        def check(situation: object) -> list[Finding]:
            raise error

        return check

    for name in CHECKS:
        monkeypatch.setitem(CHECKS, name, lambda situation: [fine("other", "in order")])
    monkeypatch.setitem(CHECKS, "disk", failing(OSError(5, "Input/output error")))
    monkeypatch.setitem(CHECKS, "ledger", failing(LocalError("ehr.ledger: line 3 was changed")))
    found = list(examine(tmp_path / "none", {}, server="https://localhost:1"))
    assert [one.check for one in found if one.level is Level.PROBLEM] == ["disk", "ledger"]
    assert len(found) == len(CHECKS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--server", "http://localhost:1"),
        ("--server", "https://localhost:8443#c2VjcmV0LXRva2Vu"),
        ("--server", "https://localhost:1", "--link", "localhost"),
    ],
)
def test_addresses_that_are_none_and_an_invitation_is_not_repeated(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, text = doctor("--state", tmp_path, *arguments)
    assert code == 1 and text.startswith("error: server: ") and text.count("\n") == 1
    assert "c2VjcmV0" not in text
