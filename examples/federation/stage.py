"""The parties of a federation on this machine: a folder, a network and processes for each, and what they say."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from network import Network

__all__ = ["AUDITOR", "PATIENCE_S", "SERVER", "Stage", "Watched"]

SERVER, AUDITOR = "server", "auditor"
PATIENCE_S = 300.0
"""Whatever takes longer is taken for broken."""


class Stage:
    """Where the parties act: their folders, their networks, and what they say."""

    def __init__(self, folder: Path, network: Network | None) -> None:
        self.folder, self._network = folder, network
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._watched: list[Watched] = []
        self._talking = threading.Lock()
        self._login = ""

    def host(self) -> str:
        return "localhost" if self._network is None else self._network.address(SERVER)

    def say(self, text: str) -> None:
        with self._talking:
            print(text, flush=True)

    def run(self, party: str, *arguments: str, show: bool = True) -> str:
        """Run a command of `party`; what it prints. A command that fails ends the play."""
        if show:
            self.say(f"{party} $ wardround {shlex.join(arguments)}")
        done = self.try_run(party, *arguments)
        if show or done.returncode:
            self.say("".join(f"    {line}\n" for line in done.stdout.splitlines()))
        if done.returncode:
            raise SystemExit(f"{party}: `wardround {shlex.join(arguments)}` failed with code {done.returncode}")
        return done.stdout

    def tell(self, party: str, *arguments: str) -> None:
        """Run a command of `party` and show what it says, whatever becomes of it."""
        self.say(f"{party} $ wardround {shlex.join(arguments)}")
        self.say("".join(f"    {line}\n" for line in self.try_run(party, *arguments).stdout.splitlines()))

    def try_run(self, party: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of `party`, whatever becomes of it."""
        return subprocess.run(
            self._command(party, arguments),
            env=self._environment(party),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def start(self, party: str, *arguments: str) -> None:
        """Start a program of `party`; what it logs goes to a file of its own."""
        self.say(f"{party} $ wardround {shlex.join(arguments)} &\n")
        with self.log(party).open("a", encoding="utf-8") as log:
            self._processes[party] = subprocess.Popen(
                self._command(party, arguments), env=self._environment(party), stdout=log, stderr=log, text=True
            )

    def log(self, party: str) -> Path:
        """The file that the party's program logs to: beside its folder, whose disk may be full."""
        return self.folder / f"{party}.log.jsonl"

    def pid(self, party: str) -> int:
        """The process id of the party's program."""
        return self._processes[party].pid

    def kill(self, party: str) -> None:
        """SIGKILL, as a power cut would; returns when it is gone."""
        process = self._processes.pop(party)
        process.kill()
        process.wait()

    def freeze(self, party: str) -> None:
        """Let the party's program do nothing, and not know of it, until `thaw`."""
        self._processes[party].send_signal(signal.SIGSTOP)

    def thaw(self, party: str) -> None:
        """Let it go on."""
        self._processes[party].send_signal(signal.SIGCONT)

    def stop(self, party: str) -> int:
        """Ask the party's program to end; its exit code, that of SIGKILL where it took too long."""
        process = self._processes.pop(party)
        process.send_signal(signal.SIGCONT)  # one that is frozen hears nothing
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            self.say(f"{party} did not stop in time")
            return process.wait()

    def make_server(self, name: str) -> None:
        """A new federation, with secrets that were drawn for it."""
        own = self.folder / SERVER
        own.mkdir(mode=0o700, exist_ok=True)
        for secret in ("passphrase", "password"):
            path = own / secret
            path.touch(mode=0o600)
            path.write_text(os.urandom(16).hex(), encoding="ascii")
        https, grpc = _free_ports(2)
        made = self.run(
            SERVER, "server", "init", name, "--host", self.host(), "--bind", self.host(),
            "--https-port", str(https), "--grpc-port", str(grpc),
            "--password-file", str(own / "password"), "--passphrase-file", str(own / "passphrase"),
        )  # fmt: skip
        self._login = next(word for word in made.split() if word.startswith("https://"))

    def start_server(self) -> None:
        """Start it, and return when it answers."""
        self.start(SERVER, "server", "start", "--passphrase-file", str(self.folder / SERVER / "passphrase"))
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if time.monotonic() > deadline or self._processes[SERVER].poll() is not None:
                raise SystemExit(f"the server did not start; see {self.log(SERVER)}")
            time.sleep(0.2)

    def log_in(self) -> None:
        """The coordinator, on the machine of the server."""
        self.run(SERVER, "login", "--password-file", str(self.folder / SERVER / "password"))

    def _answers(self) -> bool:
        port = int(self._login.partition("#")[0].rpartition(":")[2])
        probe = f"import socket; socket.create_connection(({self.host()!r}, {port}), 5)"
        command = [sys.executable, "-c", probe]
        if self._network is not None:
            command = self._network.command(SERVER, command)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def join(self, hospital: str) -> None:
        """Invite it, and let it join with what the invitation says."""
        invited = json.loads(self.run(SERVER, "server", "invite", hospital, "--json"))
        self.run(hospital, "client", "join", invited["invitation"])

    def start_client(self, hospital: str) -> None:
        self.start(hospital, "client", "start")

    def wait_for_offer(self, hospital: str) -> str:
        """The id of the run that waits for the hospital's decision."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            listed = json.loads(self.run(hospital, "client", "plan", "list", "--json", show=False))
            for run, about in listed.items():
                if about["standing"] == "waits for a decision":
                    return str(run)
            time.sleep(0.2)
        raise SystemExit(f"{hospital} was offered no plan")

    def stop_all(self) -> None:
        """Ask every program to end, the last that was started first."""
        for party in reversed(list(self._processes)):
            self.stop(party)
        for watched in self._watched:
            watched.end()

    def watch(self, party: str, *arguments: str) -> "Watched":
        """A command that goes on, whose lines are shown as they come."""
        self.say(f"{party} $ wardround {shlex.join(arguments)}")
        process = subprocess.Popen(
            self._command(party, arguments),
            env=self._environment(party),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._watched.append(Watched(process, self.say))
        return self._watched[-1]

    def _command(self, party: str, arguments: Sequence[str]) -> list[str]:
        command = [sys.executable, "-m", "wardround.cli", *arguments]
        if self._network is None or party == AUDITOR:  # who needs no network
            return command
        return self._network.command(party, command)

    def _environment(self, party: str) -> dict[str, str]:
        own = self.folder / party
        own.mkdir(exist_ok=True, mode=0o700)
        return {
            **os.environ,
            "WARDROUND_SERVER_STATE": str(own / "state"),
            "WARDROUND_CLIENT_STATE": str(own / "state"),
            "WARDROUND_LOGIN": str(own / "login.json"),
            "COLUMNS": "110",
        }


class Watched:
    """A command at work: its lines, and that a line with some words came."""

    def __init__(self, process: "subprocess.Popen[str]", say: Callable[[str], None]) -> None:
        self._process, self._lines = process, list[str]()
        self._came = threading.Condition()
        self._say = say
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._say(f"    {line.rstrip()}")
                with self._came:
                    self._lines.append(line)
                    self._came.notify_all()

    def wait_for(self, words: str) -> None:
        """Return once a line contains `words`; the end of the play when it does not come."""

        def there() -> bool:
            return any(words in line for line in self._lines) or self._process.poll() is not None

        with self._came:
            if not self._came.wait_for(there, PATIENCE_S) or not any(words in line for line in self._lines):
                self._process.kill()
                raise SystemExit(f"expected a line with {words!r} within {PATIENCE_S:.0f} s")

    def end(self) -> None:
        """End the command, where it still goes on."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> None:
        code = self._process.wait(PATIENCE_S)
        self._reader.join()
        self._say("")
        if code:
            raise SystemExit(f"the run ended with code {code}")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
