"""`wardround client service`: what the agent's unit says, and that it leaves a job what its confinement is made of."""

import json
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.systemd_units import sections, words
from wardround.cli import app
from wardround.client.service_unit import agent_unit

DOCS = Path(__file__).resolve().parents[2] / "docs"
BREAKS_JOBS = (
    "DynamicUser",
    "MemoryDenyWriteExecute",
    "PrivateNetwork",
    "PrivateUsers",
    "ProcSubset",
    "ProtectHostname",
    "ProtectKernelTunables",
    "ProtectProc",
    "RestrictNamespaces",
    "RootDirectory",
)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a site, as far as a unit asks; of nobody where root would be its owner."""
    monkeypatch.setattr("wardround.systemd_unit._OF_THE_UNIT_ALONE", ())  # where tests have their folders
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "state"
    (folder / "data").mkdir(parents=True)
    (folder / "site.json").write_text("{}")
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    return folder


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["client", "service", *map(str, arguments)], prog_name="wardround")
    return done.exit_code, done.stdout + done.stderr


def service(*arguments: str | Path) -> dict[str, list[str]]:
    code, text = run("show", *arguments)
    assert code == 0, text
    return sections(text)["Service"]


def test_the_unit_of_the_system(state: Path) -> None:
    found = service("--state", state, "--", "--job-memory-gib", "8")
    command = words(found["ExecStart"][0].removeprefix(":"))
    assert Path(command[0]).name == "wardround"
    assert command[1:] == ["client", "start", "--state", str(state), "--job-memory-gib", "8"]
    assert found["User"] == [pwd.getpwuid(state.stat().st_uid).pw_name]
    assert words(found["ReadWritePaths"][0]) == [str(state)]
    expected = {
        "KillMode": "mixed",
        "OOMPolicy": "continue",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "UMask": "0077",
        "LimitCORE": "0",
    }
    assert {name: found[name] for name in expected} == {name: [value] for name, value in expected.items()}


def test_what_breaks_the_confinement_of_jobs_is_left_out_and_the_page_says_why(state: Path) -> None:
    page = (DOCS / "install.md").read_text()
    for found in (service("--state", state), service("--state", state, "--user")):
        assert not found.keys() & set(BREAKS_JOBS)
        [calls] = found["SystemCallFilter"]
        denied = set(calls.removeprefix("~").split())
        assert calls.startswith("~")
        # of what a launcher calls: mount, pivot_root, mount_setattr; sethostname, capset; unshare; seccomp
        assert not denied & {"@mount", "@privileged", "@process", "@sandbox", "@setuid", "@system-service"}
        assert "AF_UNIX" in found["RestrictAddressFamilies"][0].split()
    assert [name for name in BREAKS_JOBS if f"`{name}=`" not in page] == []


def test_every_setting_has_its_reason(state: Path) -> None:
    code, text = run("show", "--state", state)
    assert code == 0
    lines = text.partition("[Service]")[2].partition("[Install]")[0].strip().splitlines()
    assert all(line.startswith("#") or "=" in line for line in lines)
    first = next(at for at, line in enumerate(lines) if line.startswith("Restart="))
    assert lines[first - 1].startswith("# ")
    assert sum(line.startswith("# ") for line in lines) >= 14


def test_anchors_and_other_folders_may_be_written(state: Path) -> None:
    for name, anchor in (("ehr", "/mnt/anchors/ehr"), ("labs", "/mnt/anchors/labs"), ("mri", None)):
        (state / "data" / f"{name}.json").write_text(json.dumps({"name": name, "anchor": anchor}))
    (state / "data" / "broken.json").write_text("[")
    (state / "data" / "deep.json").write_text("[" * 100_000)
    (state / "data" / "relative.json").write_text('{"anchor": "anchors/x"}')
    (state / "data" / "link.json").symlink_to("/dev/zero")
    os.mkfifo(state / "data" / "pipe.json")
    found = service("--state", state, "--writable", "/srv/more")
    assert words(found["ReadWritePaths"][0]) == [str(state), "/srv/more", "/mnt/anchors"]


def test_a_unit_of_ones_own_has_only_what_needs_no_mounts(state: Path, tmp_path: Path) -> None:
    found = service("--state", state, "--user")
    assert not [name for name in found if name.startswith(("Protect", "Private", "ReadWrite", "Capab", "User"))]
    assert found["NoNewPrivileges"] == ["yes"] and found["EnvironmentFile"] == ["-%h/.config/wardround/client.env"]


def test_install_and_uninstall_of_ones_own(state: Path, tmp_path: Path) -> None:
    code, text = run("install", "--state", state, "--user")
    path = tmp_path / "config" / "systemd" / "user" / "wardround-client.service"
    assert code == 0 and text.splitlines() == [
        f"wrote {path}; start it now and at every boot with:",
        "  systemctl --user daemon-reload",
        "  systemctl --user enable --now wardround-client.service",
        "and to let it run when you are not logged in: loginctl enable-linger",
    ]
    assert path.read_text() == run("show", "--state", state, "--user")[1]
    assert run("uninstall", "--user") == (0, f"removed {path}; next: systemctl --user daemon-reload\n")
    code, text = run("uninstall", "--user")
    assert code == 1 and text == f"error: {path}: is not there\n"


def test_what_cannot_be_started_is_refused(state: Path, tmp_path: Path) -> None:
    code, text = run("show", "--state", tmp_path)
    assert code == 1 and "expected a site that has joined" in text and text.count("\n") == 1
    code, text = run("show", "--state", state, "--", "--job-memory", "8")
    assert code == 2 and "No such option" in text
    if os.geteuid() == 0:
        os.chown(state, 0, 0)
        code, text = run("install", "--state", state)
        assert code == 1 and "belongs to root" in text and text.count("\n") == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
@pytest.mark.parametrize("user", [False, True])
def test_systemd_reads_it_without_complaint(state: Path, tmp_path: Path, user: bool) -> None:
    """Read alone: nothing is started, nor is any systemd."""
    unit = agent_unit(state, ("--job-processes", "512"), user=user, writable=(Path("/srv/a 'b' %n $HOME"),))
    path = tmp_path / unit.file_name
    path.write_text(unit.text())
    scope = ["--user"] if user else []
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", *scope, "verify", "--man=no", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = [line for line in done.stderr.splitlines() if path.name in line and "Special user" not in line]
    assert (done.returncode, said) == (0, [])
