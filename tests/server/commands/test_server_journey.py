"""A coordinator's commands against a real server process: from `server init` to a backup that is checked."""

import hashlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wardround.plain_text import in_groups
from wardround.server.commands.api_client import fetch_authority

PASSWORD = "a long word of the owner"  # noqa: S105
DEADLINE_S = 120.0
PLAN = """
name = "small"
rounds = 2
[task]
name = "tabular-classifier"
[data]
source = "csv"
path = "example.csv"
target = { name = "diagnosis", classes = ["no", "yes"] }
columns = [{ name = "age", unit = "years", range = [0, 120] }]
[simulation]
sites = 2
"""


@dataclass
class Coordinator:
    """A home of its own, and a server in it."""

    home: Path
    port: int = 0
    secrets: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WARDROUND_", "XDG_"))}
        state = {"WARDROUND_SERVER_STATE": str(self.home / "state"), "WARDROUND_LOGIN": str(self.home / "login.json")}
        return kept | state | {"HOME": str(self.home)}

    def do(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "wardround.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self.home,
            timeout=DEADLINE_S,
        )

    def say(self, *arguments: str) -> str:
        done = self.do(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        done = self.do(*arguments)
        assert done.returncode == 1, (done.stdout, done.stderr)
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """With a server that runs."""
    found = Coordinator(home=tmp_path_factory.mktemp("home"))
    password = found.home / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    (found.home / "small.toml").write_text(PLAN)
    said = found.say(
        *("server", "init", "cardio", "--host", "localhost", "--bind", "127.0.0.1"),
        *("--https-port", str(free_port()), "--grpc-port", str(free_port())),
        *("--key-file", "key", "--password-file", "password"),
    )
    assert f"authority  {in_groups(authority_fingerprint(found))}" in said
    log = found.home / "log"
    with log.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "wardround.cli", "server", "start", "--key-file", "key"],
            env=found.environment,
            stderr=err,
            stdin=subprocess.DEVNULL,
            cwd=found.home,
        )
    try:
        found.port = listening_port(process, log)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0, log.read_text()
    assert not [one for one in (PASSWORD, *found.secrets) if one in log.read_text()]


def free_port() -> int:
    """One that nobody has now; state.json needs a number before the server listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def authority_fingerprint(found: Coordinator) -> str:
    return hashlib.sha256((found.home / "state" / "tls-authority.der").read_bytes()).hexdigest()


def listening_port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """The HTTPS port, once the server has said it."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and (said := json.loads(line))["event"] == "listening":
                return int(said["https_port"])
        select.select([], [], [], 0.05)
    raise AssertionError(f"the server does not listen: {log.read_text()}")


@pytest.fixture(scope="module")
def logged_in(coordinator: Coordinator) -> Coordinator:
    url = f"https://localhost:{coordinator.port}#{authority_fingerprint(coordinator)}"
    said = coordinator.say("login", url, "--password-file", "password")
    assert said.startswith(f"logged in to https://localhost:{coordinator.port} as owner until ")
    coordinator.secrets.append(json.loads((coordinator.home / "login.json").read_text())["token"])
    return coordinator


def test_what_init_makes_is_the_owners_alone(coordinator: Coordinator) -> None:
    for path in [coordinator.home / "key", *(coordinator.home / "state").rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_second_init_is_refused(coordinator: Coordinator) -> None:
    said = coordinator.refused(
        *("server", "init", "cardio", "--host", "localhost", "--key-file", "key", "--password-file", "password")
    )
    assert "is the state of a server already" in said


def test_a_second_server_is_refused(coordinator: Coordinator) -> None:
    assert "a server is running on it" in coordinator.refused("server", "start", "--key-file", "key")


def test_login_refuses_another_authority_and_a_wrong_password(coordinator: Coordinator) -> None:
    url, wrong = f"https://localhost:{coordinator.port}", coordinator.home / "wrong"
    wrong.write_text("another word of somebody")
    wrong.chmod(0o600)
    fingerprint = authority_fingerprint(coordinator)
    assert "expected the authority 0000" in coordinator.refused(
        "login", f"{url}#{'0' * 64}", "--password-file", "password"
    )
    assert "here nobody can be asked" in coordinator.refused("login", url, "--password-file", "password")
    assert "expected a name and its password" in coordinator.refused(
        "login", f"{url}#{fingerprint}", "--password-file", "wrong"
    )
    wrong.chmod(0o644)
    assert "others may read" in coordinator.refused("login", f"{url}#{fingerprint}", "--password-file", "wrong")
    assert "expected a terminal" in coordinator.refused("login", f"{url}#{fingerprint}")
    assert "expected https://" in coordinator.refused("login", "http://localhost:1", "--password-file", "password")


def test_the_login_is_kept_for_its_owner_alone(logged_in: Coordinator) -> None:
    path = logged_in.home / "login.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSWORD not in path.read_text()
    path.chmod(0o644)
    assert "others may read or write it" in logged_in.refused("server", "status")
    path.chmod(0o600)


def test_a_hospital_is_invited_and_the_invitation_withdrawn(logged_in: Coordinator) -> None:
    line = logged_in.say("server", "invite", "Hospital A").strip()
    assert line.startswith("wardround client join 'https://localhost:")
    logged_in.secrets.append(line.partition("#")[2].strip("'"))
    (row,) = map(json.loads, logged_in.say("server", "invitations", "--json").splitlines())
    assert (row["site"], row["state"]) == ("Hospital A", "open")
    assert logged_in.say("server", "withdraw", row["id"]) == "withdrawn\n"
    assert "withdrawn" in logged_in.say("server", "invitations")
    assert "got one that is withdrawn" in logged_in.refused("server", "withdraw", row["id"])


def test_what_is_not_there_is_said(logged_in: Coordinator) -> None:
    assert logged_in.say("server", "clients").startswith("name  state")
    assert "there is no site 'X'" in logged_in.refused("server", "revoke", "X")
    assert "there is no run 9" in logged_in.refused("run", "show", "9")
    assert "there is no run 9" in logged_in.refused("run", "pause", "9")
    assert "there is no model x" in logged_in.refused("model", "export", "x@1")
    assert logged_in.say("run", "list", "--json") == ""
    assert logged_in.say("server", "status").splitlines()[2:] == ["sites  0 of 0 attached", "runs   none"]


def test_a_plan_goes_to_the_server_with_its_first_model(logged_in: Coordinator) -> None:
    """No site has joined, so that the run itself is refused."""
    said = logged_in.refused("run", "start", "small.toml")
    assert "expected the 2 sites that the plan is for" in said
    said = logged_in.refused("run", "start", "small.toml", "--site", "A", "--site", "B")
    assert "expected sites that take part, got 'A'" in said
    settings = ("--set", "simulation.dropout=0.2", "--set", "cohort.min_replies=1")
    assert "drop-outs are real here" in logged_in.refused("run", "start", "small.toml", *settings)


def test_the_metrics_token_opens_the_metrics(logged_in: Coordinator) -> None:
    from wardround.server.commands.login_file import LoginFile

    token = logged_in.say("server", "metrics-token").strip()
    logged_in.secrets.append(token)
    login = LoginFile(**json.loads((logged_in.home / "login.json").read_text()))
    out = logged_in.home / "metrics.txt"
    from wardround.server.commands.api_client import ApiClient

    ApiClient(login.url, login.authority, token).download("/metrics", out)
    assert "wardround_sites 0.0" in out.read_text()


def test_a_backup_of_a_server_that_runs_is_whole_and_a_changed_one_is_refused(logged_in: Coordinator) -> None:
    assert logged_in.say("server", "backup", "backup.bin", "--key-file", "key").startswith("backup.bin: ")
    said = logged_in.say("server", "restore", "backup.bin", "--verify", "--key-file", "key")
    assert said.startswith("backup.bin: a whole backup of cardio of ")
    assert PASSWORD.encode() not in (logged_in.home / "backup.bin").read_bytes()
    data = bytearray((logged_in.home / "backup.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (logged_in.home / "changed.bin").write_bytes(data)
    logged_in.refused("server", "restore", "changed.bin", "--verify", "--key-file", "key")
    assert "a server is running on it" in logged_in.refused("server", "restore", "backup.bin", "--key-file", "key")
    elsewhere = str(logged_in.home / "elsewhere")
    said = logged_in.say("server", "restore", "backup.bin", "--key-file", "key", "--state", elsewhere)
    assert said.startswith("cardio: restored as it was ")


def test_the_password_is_set_on_the_servers_machine_and_sessions_end(logged_in: Coordinator) -> None:
    new = logged_in.home / "new"
    new.write_text("another long word of the owner")
    new.chmod(0o600)
    logged_in.say("login", "--password-file", "password")
    assert logged_in.say("server", "password", "--password-file", "new") == "owner: has a new password\n"
    assert "log in" in logged_in.refused("server", "status")
    assert "expected a name and its password" in logged_in.refused("login", "--password-file", "password")
    logged_in.say("login", "--password-file", "new")
    assert logged_in.say("logout") == "logged out\n"
    assert "expected a login" in logged_in.refused("server", "status")
    assert "logged out already" in logged_in.refused("logout")


def test_the_authority_that_a_stranger_is_told_is_the_servers(coordinator: Coordinator) -> None:
    der = fetch_authority(f"https://localhost:{coordinator.port}")
    assert hashlib.sha256(der).hexdigest() == authority_fingerprint(coordinator)
