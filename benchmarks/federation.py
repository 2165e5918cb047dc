"""A federation at work: ``python benchmarks/federation.py [--sections noop clients idle]``.

The server, its run workers, the agents and their jobs are the processes that people start, over TLS on the loopback
interface; they are measured from outside, by /proc and by the times in the server's timeline.

    noop      two agents, a model of 4 KB, one training step a round, no evaluation: milliseconds a round, and what of
              them is CPU of whom
    clients   so many connections, each enrolled as a site, held by one process, to the server: a round of models and
              updates of so many parameters. The process sends updates that are ready, and signs them
    idle      an agent that is attached and has nothing to do

Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import base64
import csv
import json
import os
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from environments import HERE
from simulation import Findings, Gate, machine, print_table, progress, spread, write

sys.path.insert(0, str(HERE.parent / "examples" / "federation"))
from stage import PATIENCE_S, SERVER, Stage

ROUND_GATE_MS, WIRE_GATE, CPU_GATE, RSS_GATE_MB = 100.0, 1.02, 0.01, 60.0
TICKS = os.sysconf("SC_CLK_TCK")
COLUMNS, ROWS = 500, 12
WORKER, JOB = "wardround.server.runs.worker", "wardround.client.job"

NOOP_PLAN = """
name = "noop"
rounds = {rounds}
task = {{ name = "tabular-classifier", model = "logistic" }}
training = {{ optimizer = "sgd", lr = 0.1, steps = 1, batch_size = 8 }}
evaluation = {{ every = 0 }}
simulation = {{ sites = 2 }}

[data]
source = "csv"
path = "rows.csv"
target = {{ name = "y", classes = ["no", "yes"] }}
validation = 0.0
test = 0.0
columns = [{columns}]
"""
CLIENTS_PLAN = """
name = "wide"
rounds = {rounds}
task = {{ name = "tabular-classifier", model = "mlp", hidden = [{hidden}, {hidden}] }}
training = {{ optimizer = "sgd", lr = 0.1, steps = 1 }}
evaluation = {{ every = 0 }}
cohort = {{ weighting = "uniform" }}
simulation = {{ sites = {sites} }}

[data]
source = "csv"
path = "rows.csv"
target = {{ name = "y", classes = ["no", "yes"] }}
validation = 0.0
test = 0.0
columns = [{{ name = "x0" }}]
"""


# -- processes -----------------------------------------------------------------------------------


class QuietStage(Stage):
    """Parties that say nothing, and can be looked at from outside."""

    def say(self, text: str) -> None:
        pass

    def run(self, party: str, *arguments: str, show: bool = True) -> str:
        done = self.try_run(party, *arguments)
        if done.returncode:
            raise SystemExit(f"{party}: `wardround {' '.join(arguments)}`: {done.stdout.strip()}")
        return done.stdout

    def kill(self, party: str) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self._processes.pop(party)
        process.kill()
        process.wait()

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.host(), self._https), 5).close()
        except OSError:
            return False
        return True

    @property
    def _https(self) -> int:
        return int(self._login.partition("#")[0].rpartition(":")[2])

    def pid(self, party: str) -> int:
        """The process of `party`; 0 where it has none."""
        found = self._processes.get(party)
        return 0 if found is None or found.poll() is not None else found.pid

    def client(self) -> Any:
        """The server's HTTPS interface, as the coordinator is logged in to it."""
        from wardround.server.commands.api_client import ApiClient

        found = json.loads((self.folder / SERVER / "login.json").read_text())
        return ApiClient(found["url"], found["authority"], found["token"])


@contextmanager
def playing(name: str) -> Iterator[QuietStage]:
    """A stage with a running server, in a folder that is deleted in the end."""
    with tempfile.TemporaryDirectory(prefix="wardround-") as folder:
        stage = QuietStage(Path(folder), None)
        try:
            stage.make_server(name)
            stage.start_server()
            stage.log_in()
            yield stage
        finally:
            stage.stop_all()


def descendants(pid: int) -> list[int]:
    """The process and all that it and its children have started."""
    found = [pid]
    for one in found:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def programs_in(pid: int, program: str) -> list[int]:
    """The descendants of `pid` that run the module `program`."""
    return [one for one in descendants(pid)[1:] if program in command_of(one)]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, without its children's; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def status_mib(pid: int, field: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


class Watcher(threading.Thread):
    """Looks at processes ten times a second, since a worker that has ended can be asked no more.

    `pids` names them. Of memory only what is private counts: what is shared between processes is counted apart.
    """

    def __init__(self, pids: Callable[[], dict[str, list[int]]]) -> None:
        super().__init__(daemon=True)
        self._pids, self._over = pids, threading.Event()
        self.cpu_s: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self.shared_mib: dict[str, float] = {}

    def run(self) -> None:
        while not self._over.wait(0.1):
            for name, pids in self._pids().items():
                shared = sum(status_mib(pid, "RssShmem") for pid in pids)
                private = sum(status_mib(pid, "VmRSS") for pid in pids) - shared
                most(self.cpu_s, name, sum(map(cpu_s, pids)))
                most(self.peak_mib, name, private)
                most(self.shared_mib, name, shared)

    def end(self) -> None:
        self._over.set()
        self.join()


def most(table: dict[str, float], name: str, value: float) -> None:
    table[name] = max(table.get(name, 0.0), value)


def wait_for_end(client: Any, number: int, timeout_s: float, look_s: float = 1.0) -> dict[str, Any]:
    """The run, once it has ended well."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        run: dict[str, Any] = client.ask("GET", f"/runs/{number}")
        if run["state"] == "finished":
            return run
        if run["state"] in ("failed", "stopped"):
            raise SystemExit(f"the run has {run['state']}: {run['reason']}")
        time.sleep(look_s)
    raise SystemExit(f"the run did not end within {timeout_s:.0f} s")


def round_seconds(client: Any, number: int) -> list[float]:
    """From each round's line in the timeline to the next one's."""
    times: list[float] = []
    after = 0
    while found := client.ask("GET", f"/runs/{number}/events", after=after)["events"]:
        times += [datetime.fromisoformat(one["at"]).timestamp() for one in found if one["kind"] == "round.done"]
        after = found[-1]["id"]
    return [later - sooner for sooner, later in pairwise(times)]


# -- sections ------------------------------------------------------------------------------------


def write_rows(path: Path, columns: int) -> None:
    """A few rows of small numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{number}" for number in range(columns)), "y"])
        for row in range(ROWS):
            writer.writerow(
                [*(((row * 31 + number * 17) % 19) / 19 for number in range(columns)), ("no", "yes")[row % 2]]
            )


def noop(findings: Findings, args: argparse.Namespace) -> None:
    """Rounds in which nearly nothing is trained."""
    sites = ("a", "b")
    with playing("noop") as stage:
        write_rows(stage.folder / "rows.csv", COLUMNS)
        columns = ", ".join(f'{{ name = "x{number}" }}' for number in range(COLUMNS))
        plan = stage.folder / "plan.toml"
        plan.write_text(NOOP_PLAN.format(rounds=args.rounds, columns=columns), encoding="utf-8")
        for site in sites:
            stage.join(site)
            stage.run(site, "client", "data", "add", str(stage.folder / "rows.csv"), "--name", "rows")
            stage.start_client(site)
        number = json.loads(stage.run(SERVER, "run", "start", str(plan), "--json"))["number"]
        server = stage.pid(SERVER)

        def pids() -> dict[str, list[int]]:
            agents = {f"agent {site}": [stage.pid(site)] for site in sites}
            jobs = {f"job {site}": descendants(stage.pid(site))[1:] for site in sites}
            return {"server": [server], "worker": programs_in(server, WORKER), **agents, **jobs}

        for site in sites:
            run = stage.wait_for_offer(site)
            stage.run(site, "client", "plan", "approve", run, "--data", "rows")
        watcher, client = Watcher(pids), stage.client()
        while (done := client.ask("GET", f"/runs/{number}")["round"]) == 0:
            time.sleep(0.2)  # what a job does once, as it starts, is no part of a round
        before = {name: sum(map(cpu_s, found)) for name, found in pids().items()}
        watcher.start()
        wait_for_end(client, number, 10 + args.rounds * 5, look_s=2.0)
        watcher.end()
        took = [1000 * one for one in round_seconds(client, number)]
    cpu = {name: 1000 * (watcher.cpu_s[name] - was) / (args.rounds - done) for name, was in before.items()}
    findings.runs.append(
        {
            "case": "noop",
            "rounds": args.rounds,
            "round_ms": took,
            "cpu_ms_a_round": cpu,
            "load_average": os.getloadavg()[0],
        }
    )
    name = f"a round of two agents that do nearly nothing, median of {len(took)} (ms)"
    findings.gates.append(Gate(name=name, measured=statistics.median(took), bound=ROUND_GATE_MS, at_least=False))
    print_table([("", "ms a round"), ("wall", spread(took, 1)), *((who, f"{ms:.1f} CPU") for who, ms in cpu.items())])


class Sender:
    """One site of many: approves what it is offered, and answers every order with the same update."""

    def __init__(self, folder: Path, update: Any, ended: threading.Semaphore) -> None:
        from wardround import __version__
        from wardround.client.agent.site_folder import SiteFolder
        from wardround.client.enrolment.site_files import SiteFiles
        from wardround.client.link.connection import Connection
        from wardround.link.tls import ClientTls

        self._site, files = SiteFolder(folder), SiteFiles(folder)
        self._key, self._server, self._update, self._ended = self._site.signing_key, self._site.server, update, ended
        found = files.tls()
        tls = ClientTls(private_key=found.key, certificate_chain=found.certificate, authority=found.authority)
        self.attached, self.port = threading.Event(), int(self._site.facts.target.rpartition(":")[2])
        self.connection = Connection(self._site.facts.target, lambda: tls, self, software=f"wardround {__version__}")

    def call(self, call: Any) -> Any:
        from wardround.client.agent.signed_call import check_call, signed_reply
        from wardround.frames import Frame, encode_frame
        from wardround.orders import Order, SiteId
        from wardround.tally import MeansSpec, Tally

        answered = check_call(call, self._server)
        order = Order.decode(call.order)
        frame = Frame(
            round=order.round,
            attempt=order.attempt,
            site=SiteId(self._site.name),
            weight=1,
            vector=self._update,
            tally=Tally.empty(MeansSpec()),
        )
        return signed_reply(self._key, answered, encode_frame(frame))

    def notice(self, notice: Any) -> None:
        from wardround.client.agent.offer import decode_offer
        from wardround.link.messages import Notice
        from wardround.link.signing_inputs import approval_bytes

        if notice.kind == "ended":
            self._ended.release()
        if notice.kind != "offer":
            return
        offer = decode_offer(notice.body)
        signature = self._key.sign(approval_bytes(offer.run, offer.plan_digest, "approved"))
        table = {
            "run": offer.run,
            "plan_digest": offer.plan_digest,
            "verdict": "approved",
            "reason": "",
            "units": None,
            "signature": base64.b64encode(signature).decode(),
        }
        self.connection.notify(Notice(kind="approval", body=json.dumps(table).encode()))

    def state(self, attached: bool, reason: str) -> None:
        if attached:
            self.attached.set()


def wire_bytes(port: int) -> int:
    """Bytes that this process has sent to and received from `port`, by the kernel's count: TLS and gRPC included."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.type == socket.SOCK_STREAM and one.getpeername()[1] == port:
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
                    total += sum(struct.unpack_from("Q", info, at)[0] for at in (128, 200))
        except (OSError, IndexError):
            continue
    return total


def _joined(invitation: str, folder: Path) -> bool:
    """Join; False where the server lets nobody join for a while."""
    from wardround.client.enrolment.exit_codes import JoinError
    from wardround.client.enrolment.join import join

    try:
        join(invitation, folder)
    except JoinError as error:
        if "HTTP 429" in str(error):
            return False
        raise
    return True


def clients(findings: Findings, args: argparse.Namespace) -> None:
    """Many sites at once, whose updates are ready."""
    import numpy as np

    from wardround.plan import load_plan

    with playing("clients") as stage:
        hidden = round((args.parameters + 4) ** 0.5 - 2)  # h² + 5 h + 2 parameters, about
        plan_file = stage.folder / "plan.toml"
        plan_file.write_text(CLIENTS_PLAN.format(rounds=args.wide_rounds, hidden=hidden, sites=args.sites))
        size = hidden * hidden + 5 * hidden + 2
        assert load_plan(plan_file).simulation.sites == args.sites
        client = stage.client()
        server = stage.pid(SERVER)
        update = (np.random.Generator(np.random.Philox(1)).standard_normal(size) * 1e-3).astype("<f4")
        ended, stop = threading.Semaphore(0), threading.Event()
        senders, threads = list[Sender](), list[threading.Thread]()
        for index in range(args.sites):
            name = f"site {index:03}"
            folder = stage.folder / name / "state"
            invitation = client.ask("POST", "/invitations", {"site": name})["invitation"]
            while not _joined(invitation, folder):
                time.sleep(60)  # a server lets so many join in a minute from one network
            senders.append(Sender(folder, update, ended))
        progress(f"{args.sites} sites have joined")
        unattached_mib = status_mib(server, "VmRSS")
        for one in senders:
            threads.append(threading.Thread(target=one.connection.run, args=(stop,), daemon=True))
            threads[-1].start()
        for one in senders:
            if not one.attached.wait(PATIENCE_S):
                raise SystemExit("a site could not attach")
        port = int(
            json.loads((stage.folder / "site 000" / "state" / "site.json").read_text())["target"].rpartition(":")[2]
        )
        watcher = Watcher(lambda: {"server": [server], "worker": programs_in(server, WORKER)})
        idle_mib, wire = status_mib(server, "VmRSS"), wire_bytes(port)
        number = json.loads(stage.run(SERVER, "run", "start", str(plan_file), "--json"))["number"]
        begin, cpu, own = time.monotonic(), cpu_s(server), time.process_time()
        watcher.start()
        wait_for_end(client, number, 120 + 60 * args.wide_rounds)
        for _ in senders:
            ended.acquire(timeout=PATIENCE_S)
        seconds, moved = time.monotonic() - begin, wire_bytes(port) - wire
        own = time.process_time() - own
        watcher.end()
        took = round_seconds(client, number)
        stop.set()
        for thread in threads:
            thread.join()
    payload = args.wide_rounds * args.sites * 2 * 4 * size
    found = {
        "case": "clients",
        "sites": args.sites,
        "parameters": size,
        "rounds": args.wide_rounds,
        "round_s": took,
        "seconds": seconds,
        "server_cpu_s_a_round": (watcher.cpu_s["server"] - cpu) / args.wide_rounds,
        "worker_cpu_s_a_round": watcher.cpu_s.get("worker", 0.0) / args.wide_rounds,
        "senders_cpu_s_a_round": own / args.wide_rounds,
        "server_unattached_mib": unattached_mib,
        "server_idle_mib": idle_mib,
        "server_over_idle_mib": watcher.peak_mib["server"] - idle_mib,
        "server_shared_mib": watcher.shared_mib["server"],
        "worker_peak_mib": watcher.peak_mib.get("worker", 0.0),
        "worker_shared_mib": watcher.shared_mib.get("worker", 0.0),
        "wire_over_payload": moved / payload,
        "load_average": os.getloadavg()[0],
    }
    findings.runs.append(found)
    name = f"{args.sites} sites, {size} parameters: bytes on the wire over payload"
    findings.gates.append(Gate(name=name, measured=moved / payload, bound=WIRE_GATE, at_least=False))
    rows = [(what, f"{value:.4g}") for what, value in found.items() if isinstance(value, float)]
    print_table([("a round, s", spread(took, 2)), *rows])


def idle(findings: Findings, args: argparse.Namespace) -> None:
    """An agent without a run."""
    with playing("idle") as stage:
        stage.join("a")
        stage.start_client("a")
        client, deadline = stage.client(), time.monotonic() + PATIENCE_S
        while not client.ask("GET", "/status")["present"]:
            if time.monotonic() > deadline:
                raise SystemExit("the agent did not attach")
            time.sleep(0.2)
        time.sleep(2.0)  # what it does once, as it attaches, is not idling
        pid = stage.pid("a")
        before, begin = scheduled_s(pid), time.monotonic()
        time.sleep(args.idle_s)
        share = (scheduled_s(pid) - before) / (time.monotonic() - begin)
        rss = status_mib(pid, "VmRSS") * (1 << 20) / 1e6
    findings.runs.append({"case": "idle", "seconds": args.idle_s, "cpu_share": share, "rss_mb": rss})
    findings.gates.append(
        Gate(name="an idle agent: percent of a core", measured=100 * share, bound=100 * CPU_GATE, at_least=False)
    )
    findings.gates.append(
        Gate(name="an idle agent: resident memory, MB", measured=rss, bound=RSS_GATE_MB, at_least=False)
    )
    print_table([("idle agent", ""), ("CPU", f"{100 * share:.3f} %"), ("resident", f"{rss:.1f} MB")])


def scheduled_s(pid: int) -> float:
    """CPU seconds of all threads of a process, to the nanosecond."""
    return sum(
        int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0]) / 1e9
        for task in os.listdir(f"/proc/{pid}/task")
    )


SECTIONS: dict[str, Callable[[Findings, argparse.Namespace], None]] = {"noop": noop, "clients": clients, "idle": idle}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=120, help="of noop")
    parser.add_argument("--sites", type=int, default=100, help="of clients")
    parser.add_argument("--parameters", type=int, default=1_000_000, help="of clients, about")
    parser.add_argument("--wide-rounds", type=int, default=6, help="of clients")
    parser.add_argument("--idle-s", type=float, default=30.0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "federation.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    for name in args.sections:
        progress(name)
        SECTIONS[name](findings, args)
        write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    print(f"wrote {args.output}")
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
