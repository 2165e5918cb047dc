"""`wardround server service`: what the server's unit says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.systemd_units import sections, words
from wardround.cli import app
from wardround.server.open_files import WANTED
from wardround.server.service_unit import server_unit
from wardround.server.state.folder import StateSettings, encode_settings


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a server, as far as a unit asks; of nobody where root would be its owner."""
    monkeypatch.setattr("wardround.systemd_unit._OF_THE_UNIT_ALONE", ())  # where tests have their folders
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "state"
    folder.mkdir()
    settle(folder)
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    return folder


def settle(state: Path, *, https_port: int = 8443, database: str | None = None) -> None:
    settings = StateSettings(name="cardio", host="fl.example.org", https_port=https_port, database=database)
    (state / "state.json").write_bytes(encode_settings(settings))


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["server", "service", *map(str, arguments)], prog_name="wardround")
    return done.exit_code, done.stdout + done.stderr


def unit(*arguments: str | Path) -> dict[str, dict[str, list[str]]]:
    code, text = run("show", *arguments)
    assert code == 0, text
    return sections(text)


def test_the_unit_of_the_system(state: Path) -> None:
    found = unit("--state", state, "--key-file", "/etc/wardround/server.key")["Service"]
    command = words(found["ExecStart"][0].removeprefix(":"))
    assert command[1:] == ["server", "start", "--state", str(state), "--key-file", "/etc/wardround/server.key"]
    assert words(found["ReadWritePaths"][0]) == [str(state)]
    expected = {
        "CapabilityBoundingSet": "",
        "KillMode": "mixed",
        "LimitNOFILE": str(WANTED),
        "NoNewPrivileges": "yes",
        "OOMPolicy": "continue",
        "ProtectHostname": "yes",
        "ProtectSystem": "strict",
        "RestrictNamespaces": "yes",
        "UMask": "0077",
    }
    assert {name: found[name] for name in expected} == {name: [value] for name, value in expected.items()}
    assert "AmbientCapabilities" not in found and "MemoryDenyWriteExecute" not in found


def test_a_port_below_1024_needs_one_capability_and_no_more(state: Path) -> None:
    settle(state, https_port=443)
    found = unit("--state", state, "--key-file", "/etc/key")["Service"]
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]


def test_homes_are_hidden_unless_something_lies_there(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.server.service_unit.program", lambda: ("/opt/wardround/bin/wardround",))
    assert unit("--state", state, "--key-file", "/etc/key")["Service"]["ProtectHome"] == ["yes"]
    assert unit("--state", state, "--key-file", "/home/fl/key")["Service"]["ProtectHome"] == ["read-only"]
    monkeypatch.setattr("wardround.server.service_unit.program", lambda: ("/home/fl/venv/bin/wardround",))
    assert unit("--state", state, "--key-file", "/etc/key")["Service"]["ProtectHome"] == ["read-only"]


def test_it_comes_after_its_database(state: Path) -> None:
    arguments = ("--state", state, "--passphrase-file", "/etc/phrase")
    assert unit(*arguments)["Unit"]["After"] == ["network-online.target"]
    settle(state, database="postgresql://localhost/wardround")
    assert unit(*arguments)["Unit"]["After"] == ["network-online.target postgresql.service"]


def test_install_and_uninstall_of_ones_own(state: Path, tmp_path: Path) -> None:
    arguments = ("--state", state, "--key-file", "/etc/key", "--user")
    code, text = run("install", *arguments)
    path = tmp_path / "config" / "systemd" / "user" / "wardround-server.service"
    assert code == 0 and text.splitlines()[:3] == [
        f"wrote {path}; start it now and at every boot with:",
        "  systemctl --user daemon-reload",
        "  systemctl --user enable --now wardround-server.service",
    ]
    assert path.read_text() == run("show", *arguments)[1]
    assert run("uninstall", "--user") == (0, f"removed {path}; next: systemctl --user daemon-reload\n")


def test_what_cannot_be_started_is_refused(state: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (("--state", state), "expected --key-file FILE or --passphrase-file FILE"),
        (("--state", state, "--key-file", "/a", "--passphrase-file", "/b"), "expected --key-file FILE or"),
        (("--state", tmp_path, "--key-file", "/a"), "expected the state of a server"),
    ):
        code, text = run("show", *arguments)
        assert code == 1 and said in text and text.count("\n") == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
@pytest.mark.parametrize("user", [False, True])
def test_systemd_reads_it_without_complaint(state: Path, tmp_path: Path, user: bool) -> None:
    """Read alone: nothing is started, nor is any systemd."""
    settle(state, https_port=443, database="postgresql://localhost/wardround")
    made = server_unit(state, ("--key-file", Path("/etc/a 'b' %n $HOME")), user=user)
    path = tmp_path / made.file_name
    path.write_text(made.text())
    scope = ["--user"] if user else []
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", *scope, "verify", "--man=no", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = [line for line in done.stderr.splitlines() if path.name in line and "Special user" not in line]
    assert (done.returncode, said) == (0, [])
