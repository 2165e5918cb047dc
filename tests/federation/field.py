"""A federation of real processes for tests: its runs, what is known of them, and what may befall its parties.

It stands on the stage of examples/federation. As root each party has a network of its own, and the folders of the
server and of the last hospital are disks of limited size; elsewhere they share the loopback and the disk.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.server.runs.run_directory import read_lines

FOLDER = Path(__file__).parent.parent.parent / "examples" / "federation"
sys.path.insert(0, str(FOLDER))  # as `python examples/federation/play.py` does

from data import deal  # type: ignore[import-not-found]  # noqa: E402
from network import Network  # type: ignore[import-not-found]  # noqa: E402
from stage import SERVER, Stage  # type: ignore[import-not-found]  # noqa: E402

__all__ = [
    "FOLDER",
    "HOSPITALS",
    "SERVER",
    "Field",
    "Network",
    "StartedRun",
    "build_field",
    "until",
    "why_no_network",
]

HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
A, B, C = HOSPITALS
PATIENCE_S = 120.0
"""On a loaded machine; nothing waits so long where all is well."""
_DISK = "192m"
_ENDED = ("finished", "stopped", "failed")


def why_no_network() -> str:
    """Why the parties cannot have networks of their own here; empty where they can."""
    if os.geteuid() != 0:
        return "networks of their own need root"
    missing = [name for name in ("ip", "nft", "mount") if shutil.which(name) is None]
    if missing:
        return f"networks of their own need {', '.join(missing)}"
    try:
        with Network("probe", ()):
            return ""
    except RuntimeError as error:
        return f"no network of its own can be made here ({error})"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A run of the server: its number for people, and its id."""

    number: int
    id: str


class Field:
    """A server and three hospitals that have joined, with the data `ehr` each."""

    def __init__(self, stage: Any, network: Any, disks: bool) -> None:
        self.stage, self.network, self.disks = stage, network, disks

    # -- runs -----------------------------------------------------------------------------------------

    def offer(self, *settings: str, rounds: int, sites: tuple[str, ...] = HOSPITALS) -> StartedRun:
        """A new run of the example's plan without protection, with so many small rounds, offered to `sites`."""
        wanted = ["cohort.deadline_s=300", f"rounds={rounds}", f"simulation.sites={len(sites)}", *settings]
        chosen = [part for setting in wanted for part in ("--set", setting)]
        named = [part for site in sites for part in ("--site", site)]
        made = self.stage.run(SERVER, "run", "start", str(self.stage.folder / "plan.toml"), *chosen, *named, "--json")
        found = json.loads(made)
        return StartedRun(number=found["number"], id=found["id"])

    def approve(self, run: StartedRun, *sites: str, data: str = "ehr") -> None:
        """Let the sites approve it, as soon as it was offered to them."""

        def one(site: str) -> None:
            def approved() -> bool:
                done = self.stage.try_run(site, "client", "plan", "approve", run.id, "--data", data)
                said.append(done.stdout)
                return bool(done.returncode == 0)

            said: list[str] = []
            until(approved, lambda: f"{site} could not approve: {said[-1]}", every_s=0.5)

        with ThreadPoolExecutor(len(sites)) as pool:
            list(pool.map(one, sites))

    def acquaint(self, run: StartedRun) -> None:
        """Let every hospital accept the keys of the others, as the run that is offered names them."""
        for site in HOSPITALS:
            self._wait_offered(run, site)
            self.stage.run(site, "client", "members", "accept", "--all")

    def _wait_offered(self, run: StartedRun, site: str) -> None:
        def offered() -> bool:
            return run.id in self.stage.run(site, "client", "plan", "list", "--json", show=False)

        until(offered, lambda: f"{site} was offered no run", every_s=0.2)

    def begin(self, *settings: str, rounds: int, sites: tuple[str, ...] = HOSPITALS, data: str = "ehr") -> StartedRun:
        """A new run that all of its sites have approved."""
        run = self.offer(*settings, rounds=rounds, sites=sites)
        self.approve(run, *sites, data=data)
        return run

    def begin_held(self, *settings: str, rounds: int, by: str, data: str = "ehr", count: int = 1) -> list[StartedRun]:
        """`count` runs that are in the middle of their first round, since `by`, who has approved them, is frozen."""
        runs = [self.offer(*settings, rounds=rounds) for _ in range(count)]
        last = next(site for site in HOSPITALS if site != by)
        for run in runs:
            self.approve(run, *(site for site in HOSPITALS if site != last), data=data)
        for run in runs:
            self.wait(run, lambda found: _verdicts(found)[by] == "approved")
        self.stage.freeze(by)
        for run in runs:
            self.approve(run, last, data=data)
        for run in runs:
            self.wait_answered(run, but=by)
        return runs

    def hold(self, run: StartedRun, *, by: str, after: int) -> None:
        """Freeze `by` once round `after` is durable, and wait until everybody else has answered what comes then."""
        self.wait_rounds(run, after)
        self.stage.freeze(by)
        self.wait_answered(run, but=by)

    def show(self, run: StartedRun) -> dict[str, Any]:
        """What `run show` says; empty while the server does not answer."""
        done = self.stage.try_run(SERVER, "run", "show", str(run.number), "--json")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def wait(self, run: StartedRun, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What `run show` says once `holds` of it."""
        seen: list[dict[str, Any]] = [{}]

        def there() -> bool:
            seen.append(self.show(run))
            return bool(seen[-1]) and holds(seen[-1])

        until(there, lambda: f"run {run.number} stood still: {seen[-1]}", every_s=0.2)
        return seen[-1]

    def wait_answered(self, run: StartedRun, *, but: str) -> None:
        """Wait until everybody but `but` has answered what all are asked now."""

        def held(found: dict[str, Any]) -> bool:
            assert found["state"] not in _ENDED, found
            progress = found["progress"] or {"asked": [], "answered": []}
            return but in progress["asked"] and set(progress["asked"]) - set(progress["answered"]) == {but}

        self.wait(run, held)

    def wait_ended(self, run: StartedRun, state: str = "finished") -> dict[str, Any]:
        """What `run show` says of the run that has ended, in this state."""
        found = self.wait(run, lambda found: found["state"] in _ENDED)
        assert found["state"] == state, found
        return found

    def wait_rounds(self, run: StartedRun, count: int) -> None:
        """Wait until so many rounds are durable."""
        until(lambda: len(self.rounds(run)) >= count, lambda: f"round {count} did not come", every_s=0.02)

    def wait_present(self, hospital: str) -> None:
        """Wait until the hospital's link is up."""

        def there() -> bool:
            listed = self.stage.run(SERVER, "server", "clients", "--json", show=False).splitlines()
            return any(one["name"] == hospital and one["present"] for one in map(json.loads, listed))

        until(there, lambda: f"{hospital} did not come back", every_s=0.5)

    def rounds(self, run: StartedRun) -> list[dict[str, Any]]:
        """The lines of the run's metrics.jsonl."""
        folder = self.stage.folder / SERVER / "state" / "runs" / run.id
        return list(read_lines(folder)) if (folder / "metrics.jsonl").exists() else []

    def check_numbers(self, run: StartedRun, found: dict[str, Any], rounds: int) -> None:
        """No two rounds with one number, and none is missing: in the run's files and in the timeline."""
        numbers = list(range(1, rounds + 1))
        assert [line["round"] for line in self.rounds(run)] == numbers
        assert [event["detail"]["round"] for event in found["events"] if event["kind"] == "round.done"] == numbers

    def model(self, run: StartedRun) -> dict[str, bytes]:
        """The tensors of the run's released model, bit by bit."""
        from safetensors.numpy import load_file

        path = self.stage.folder / f"model-of-run-{run.number}.safetensors"
        if not path.exists():
            made = self.show(run)["model"]
            self.stage.run(SERVER, "model", "export", f"{made['name']}@{made['version']}", "--out", str(path))
        return {name: tensor.tobytes() for name, tensor in load_file(path).items()}

    # -- what befalls them ----------------------------------------------------------------------------

    def thaw_all(self) -> None:
        """What a test that failed has left frozen goes on."""
        for party in (SERVER, *HOSPITALS):
            self.stage.thaw(party)

    def restart(self, party: str) -> None:
        """SIGKILL, and start it again."""
        self.stage.kill(party)
        self.start(party)

    def start(self, party: str) -> None:
        if party == SERVER:
            self.stage.start_server()
        else:
            self.stage.start_client(party)

    def log(self, party: str) -> str:
        """What the party's program has logged."""
        return str(self.stage.log(party).read_text(encoding="utf-8"))

    def descendants(self, party: str, words: str) -> list[int]:
        """The processes below the party's program with `words` in their command line, oldest first."""
        parents = dict(_parents())
        found = []
        for pid in sorted(parents):
            above = pid
            while (above := parents.get(above, 0)) not in (0, self.stage.pid(party)):
                pass
            if above and words in _command_line(pid):
                found.append(pid)
        return found

    def budget(self, hospital: str, run: StartedRun) -> int:
        """How many rounds of the run the hospital's ledgers have as begun."""
        ledgers = json.loads(self.stage.run(hospital, "client", "budget", "--json", show=False))
        return sum(one["runs"][run.id]["begun"] for one in ledgers if run.id in one["runs"])

    @contextmanager
    def full_disk(self, party: str) -> Iterator[None]:
        """The disk with the party's folder has no byte left."""
        path = self.stage.folder / party / "ballast"
        with path.open("wb", buffering=0) as file:
            size = 1 << 20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2
        try:
            yield
        finally:
            path.unlink()


def until(holds: Callable[[], bool], otherwise: Callable[[], str], *, every_s: float) -> None:
    """Return once `holds`; fail with what `otherwise` says after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise())
        time.sleep(every_s)


@contextmanager
def build_field(folder: Path) -> Iterator[Field]:
    """A new federation in `folder`, all of whose programs run; they end, and what was mounted goes, at the end."""
    own = not why_no_network()
    with ExitStack() as stack:
        network = stack.enter_context(Network(SERVER, HOSPITALS)) if own else None
        for party in (SERVER, C) if own else ():
            stack.enter_context(_disk(folder / party))
        stage = Stage(folder, network)
        stack.callback(stage.stop_all)
        stage.make_server("faults")
        stage.start_server()
        stage.log_in()
        (folder / "plan.toml").write_text(_plan_in_clear(), encoding="utf-8")
        deal(folder / "data", HOSPITALS)
        for hospital in HOSPITALS:
            stage.join(hospital)

        def settle(hospital: str) -> None:
            table = str(folder / "data" / f"{hospital}.csv")
            stage.run(hospital, "client", "data", "add", table, "--name", "ehr", show=False)
            stage.start_client(hospital)

        with ThreadPoolExecutor(len(HOSPITALS)) as pool:
            list(pool.map(settle, HOSPITALS))
        yield Field(stage, network, own)


def _plan_in_clear() -> str:
    """The example's plan, in steps so small that a round takes a blink, and without secure aggregation.

    Columns are scaled by their ranges, so that nothing is asked before the first round.
    """
    text = (FOLDER / "plan.toml").read_text(encoding="utf-8")
    whole, protection = text.split("[protection]")
    for old, new in (("epochs = 1", "steps = 1"), ('standardize = "federated"', 'standardize = "range"')):
        assert old in whole
        whole = whole.replace(old, new)
    return whole + "[simulation]" + protection.split("[simulation]")[1]


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=700", "wardround-test", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {one["site"]: one["verdict"] for one in found["sites"]}


def _parents() -> Iterator[tuple[int, int]]:
    """(process, its parent) of all."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                text = Path("/proc", name, "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # has ended
            yield int(name), int(text.rpartition(")")[2].split()[1])


def _command_line(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")
    except OSError:
        return ""
