"""A federation whose processes are killed all the time: ``python benchmarks/soak.py --minutes 30 --seed 1``.

A server and three hospitals, as people start them, do one run after another; every few seconds one of the server, a
run's worker, an agent or a job gets SIGKILL, and what a person would start again is started again. Every run hides
single rows, so that the hospitals' ledgers show each round that was begun; every second one is under secure aggregation
too. A round that is missing in the end, or is there twice, money that was spent twice or not at all, or a process that
is left over is an error: exit code 1. The seed decides who is killed and when; how far everybody is then, it does not.

What is compared:

    after each kill of an agent   its ledger with the admission that is durable: what was admitted is charged once, or,
                                  where the kill came between the two, not yet
    after each run                the server's rounds, each number once; the model; each hospital's ledger: closed,
                                  within its cap, no more beginnings than the plan has rounds, and one for every round
                                  to which the server says it contributed; without secure aggregation never two for one
    at the end                    no job and no worker is alive, of all that were seen
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import HERE
from federation import WORKER, QuietStage, command_of, descendants, programs_in
from simulation import machine, progress

sys.path.insert(0, str(HERE.parent / "examples" / "federation"))
from data import deal
from stage import PATIENCE_S, SERVER

HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
JOB = "wardround.client.job"
CAP_EPSILON, CAP_DELTA = 1000.0, 1e-3
PRIVATE = HERE.parent / "simulations" / "plans" / "breast-cancer-private.toml"
BASE = (
    'data.source="csv"',
    'data.path="patients.csv"',
    "data.validation=0.0",
    "data.test=0.0",
    "evaluation.every=0",
    "simulation.sites=3",
    "cohort.deadline_s=20",
)
VARIANTS = {
    "clear": ("cohort.min_replies=2",),
    "masked": (
        'protection.mode="masking"',
        'cohort.weighting="uniform"',
        "clipping.clip_norm=4.0",
        "protection.colluding=0",
        "protection.dropout=0.33",
    ),
}


class SoakError(Exception):
    """What must not be."""


def check(holds: bool, text: str) -> None:
    if not holds:
        raise SoakError(text)


@dataclass(slots=True)
class Tally:
    """What was done so far."""

    kills: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    void: int = 0
    begun: int = 0
    contributed: int = 0
    compared: int = 0
    pending: int = 0
    runs: list[dict[str, Any]] = field(default_factory=list)


class Soak:
    """A federation in `folder`, and who kills it. `chance` decides who and when."""

    def __init__(self, stage: QuietStage, chance: random.Random, *, every_s: tuple[float, float]) -> None:
        self.stage, self._chance, self._every_s, self.tally = stage, chance, every_s, Tally()
        self._seen: dict[int, str] = {}
        self._worker_killed_at, self._advanced_from = -1, 0
        self._due: list[tuple[float, str]] = []

    def prepare(self) -> None:
        stage = self.stage
        stage.make_server("soak")
        stage.start_server()
        stage.log_in()
        deal(stage.folder / "data", HOSPITALS)
        for hospital in HOSPITALS:
            stage.join(hospital)
            stage.run(
                hospital, "client", "data", "add", str(stage.folder / "data" / f"{hospital}.csv"), "--name", "ehr",
                "--unit", "row", "--max-epsilon", str(CAP_EPSILON), "--delta", str(CAP_DELTA),
            )  # fmt: skip
            stage.start_client(hospital)

    def run(self, variant: str, rounds: int) -> None:
        """One run from the offer to its books, with kills from its first round on."""
        stage, begin = self.stage, time.monotonic()
        settings = [f"rounds={rounds}", *BASE, *VARIANTS[variant]]
        options = [word for one in settings for word in ("--set", one)]
        made = json.loads(stage.run(SERVER, "run", "start", str(PRIVATE), *options, "--json"))
        for hospital in HOSPITALS:
            offered = stage.wait_for_offer(hospital)
            check(offered == made["id"], f"{hospital}: expected the offer of run {made['id']}, got {offered}")
            stage.run(hospital, "client", "members", "accept", "--all")
            stage.run(hospital, "client", "plan", "approve", offered, "--data", "ehr")
        before = sum(self.tally.kills.values())
        run = self._until_over(made["number"], made["id"], rounds)
        self._heal()
        check(run["state"] == "finished", f"run {run['number']} has {run['state']}: {run['reason']}")
        self._audit(run, variant, rounds)
        self.tally.runs.append(
            {
                "variant": variant,
                "rounds": run["round"],
                "reason": run["reason"],
                "kills": sum(self.tally.kills.values()) - before,
                "seconds": time.monotonic() - begin,
            }
        )
        progress(f"run {run['number']} ({variant}): {self.tally.runs[-1]}")

    # -- killing ----------------------------------------------------------------------------------

    def _until_over(self, number: int, run_id: str, rounds: int) -> dict[str, Any]:
        """Kill somebody every few seconds; the run once it has ended."""
        deadline = time.monotonic() + PATIENCE_S + 30 * rounds
        self._worker_killed_at, self._advanced_from = -1, 0
        next_kill = at_last = time.monotonic() + self._chance.uniform(*self._every_s)
        while time.monotonic() < deadline:
            self._note_processes()
            self._restart_due()
            found = self._asked(number)
            if found is not None and found["state"] in ("finished", "failed", "stopped", "paused"):
                return found
            now = time.monotonic()
            # mostly after a round, since a run that is always hit before it has recovered gets nowhere
            if found is None or not found["round"] or now < next_kill:
                pass
            elif found["round"] > self._advanced_from or now > at_last:
                self._kill(found["round"], run_id)
                self._advanced_from = found["round"]
                next_kill = now + self._chance.uniform(*self._every_s)
                at_last = next_kill + (0.0 if self._chance.random() < 0.25 else 20.0)
            time.sleep(0.2)
        raise SoakError(f"run {number}: did not end in time")

    def _kill(self, at_round: int, run_id: str) -> None:
        """SIGKILL for one of those that are there."""
        server = self.stage.pid(SERVER)
        targets: dict[str, Callable[[], None]] = {}
        if server:
            targets["server"] = lambda: self._kill_party(SERVER)
            # a run fails with its fifth crash in a row: without a round in between, that is what it is for
            if at_round > self._worker_killed_at and (workers := programs_in(server, WORKER)):
                targets["worker"] = lambda: os.kill(workers[0], 9)
        agents = [one for one in HOSPITALS if self.stage.pid(one)]
        if agents:
            hospital = self._chance.choice(agents)
            targets["agent"] = lambda: self._kill_party(hospital)
            if jobs := programs_in(self.stage.pid(hospital), JOB):
                targets["job"] = lambda: os.kill(jobs[-1], 9)
        victim = self._chance.choice(sorted(targets))
        try:
            targets[victim]()
        except ProcessLookupError:
            return
        if victim == "worker":
            self._worker_killed_at = at_round
        if victim == "agent":
            self._compare(hospital, run_id)
        self.tally.kills[victim] = self.tally.kills.get(victim, 0) + 1

    def _kill_party(self, party: str) -> None:
        self.stage.kill(party)
        self._due.append((time.monotonic() + self._chance.uniform(0.0, 6.0), party))

    def _restart_due(self) -> None:
        due = [one for one in self._due if one[0] <= time.monotonic()]
        self._due = [one for one in self._due if one not in due]
        for _, party in due:
            if party == SERVER:
                self.stage.start_server()
            else:
                self.stage.start_client(party)

    def _heal(self) -> None:
        """Everybody is there again."""
        self._due = [(0.0, party) for _, party in self._due]
        self._restart_due()

    def _note_processes(self) -> None:
        for party, program in ((SERVER, WORKER), *((hospital, JOB) for hospital in HOSPITALS)):
            pid = self.stage.pid(party)
            for one in descendants(pid)[1:] if pid else ():
                if program in command_of(one):
                    self._seen[one] = _started(one)

    def _asked(self, number: int) -> dict[str, Any] | None:
        """How the run stands; None while the server is away."""
        from wardround.errors import WardroundError

        if not self.stage.pid(SERVER):
            return None
        try:
            found: dict[str, Any] = self.stage.client().ask("GET", f"/runs/{number}")
        except (WardroundError, OSError):
            return None
        return found

    # -- books ------------------------------------------------------------------------------------

    def _ledger(self, hospital: str) -> Any:
        from wardround.client.agent.data_registry import DataRegistry
        from wardround.client.agent.site_folder import SiteFolder

        return DataRegistry(SiteFolder(self.stage.folder / hospital / "state")).ledger("ehr")

    def _compare(self, hospital: str, run_id: str) -> None:
        """An agent's durable admission with its ledger; the agent is dead."""
        from wardround.file_store import FileStore

        state = self.stage.folder / hospital / "state" / "runs" / run_id / "state"
        if not state.exists():  # the run has ended here
            return
        with FileStore(state) as store:
            kept = store.get("agent/admission")
        if kept is None:
            return
        table, job = json.loads(kept), self._ledger(hospital).account().jobs.get(run_id)
        started = () if job is None else job.started
        last = table["counters"].get(f"{run_id}/round", 0) >> 16
        charge = table["charge"]
        if charge is not None and len(started) == charge[2]:
            self.tally.pending += 1
            started = (*started, charge[0])  # the next process charges it before it trains
        check(
            not started or started[-1] == last,
            f"{hospital}: round {last} was admitted last, but {list(started)[-3:]} were charged last",
        )
        self.tally.compared += 1

    def _audit(self, run: dict[str, Any], variant: str, rounds: int) -> None:
        """The books of a run that has finished."""
        folder = self.stage.folder / SERVER / "state" / "runs" / run["id"]
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        numbers = [line["round"] for line in lines]
        check(
            numbers == list(range(1, run["round"] + 1)), f"expected rounds 1 to {run['round']} once each, got {numbers}"
        )
        # a round that is begun again under secure aggregation is charged again, and the charges run out sooner
        spent = variant == "masked" and "begun all that it reserved" in run["reason"]
        check(run["round"] == rounds or spent, f"only {run['round']} rounds: {run['reason']}")
        told = self._told_rounds(run["number"])
        check(told == numbers, f"the timeline tells of rounds {told}, and not of {numbers}")
        models = json.loads(f"[{','.join(self.stage.run(SERVER, 'model', 'list', '--json').splitlines())}]")
        made = [one for one in models if one["run"] == run["number"]]
        check(len(made) == 1, f"expected one model of run {run['number']}, got {made}")
        name = f"{made[0]['name']}@{made[0]['version']}"
        out = self.stage.folder / f"model-{run['number']}.safetensors"
        self.stage.run(SERVER, "model", "export", name, "--out", str(out))  # it checks the digest
        self.tally.rounds += len(lines)
        self.tally.void += sum(line["void"] for line in lines)
        most = 0
        for hospital in HOSPITALS:
            job, account = self._closed(hospital, run["id"])
            away = [{one["site"] for one in line["absences"]} for line in lines]
            there = [
                line["round"]
                for line, absent in zip(lines, away, strict=True)
                if not line["void"] and hospital in line["cohort"] and hospital not in absent
            ]
            begun = list(job.started)
            check(0 not in begun and job.begun == len(begun), f"{hospital}: statistics were never asked for: {begun}")
            check(len(begun) <= rounds, f"{hospital}: {len(begun)} rounds were begun of {rounds}")
            check(set(there) <= set(begun), f"{hospital}: rounds {set(there) - set(begun)} were never charged")
            check(begun == sorted(begun), f"{hospital}: rounds were charged out of order: {begun}")
            if variant == "clear":
                check(len(set(begun)) == len(begun), f"{hospital}: a round was charged twice: {begun}")
            check(account.spending.epsilon <= CAP_EPSILON, f"{hospital}: epsilon {account.spending.epsilon}")
            self.tally.begun, most = self.tally.begun + len(begun), max(most, len(begun))
            self.tally.contributed += len(there)
        check(most == rounds or not spent, f"the run ended for want of rounds, and {most} of {rounds} were begun")

    def _told_rounds(self, number: int) -> list[int]:
        told, after = list[int](), 0
        client = self.stage.client()
        while found := client.ask("GET", f"/runs/{number}/events", after=after)["events"]:
            told += [one["detail"]["round"] for one in found if one["kind"] == "round.done"]
            after = found[-1]["id"]
        return told

    def _closed(self, hospital: str, run_id: str) -> Any:
        """The run's account at a hospital, once the agent has heard of the end."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            account = self._ledger(hospital).account()
            job = account.jobs.get(run_id)
            if job is not None and job.closed and not (self.stage.folder / hospital / "state/runs" / run_id).exists():
                return job, account
            time.sleep(0.2)
        raise SoakError(f"{hospital}: the account of run {run_id} was not closed")

    def left_over(self) -> list[int]:
        """Workers and jobs that were seen and are still alive."""
        return [pid for pid, started in self._seen.items() if started and _started(pid) == started]


def _started(pid: int) -> str:
    """When a process was started; empty where there is none, or only a dead one whose parent has not looked."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def soak(
    folder: Path, *, minutes: float, seed: int, rounds: int = 30, every_s: tuple[float, float] = (2.0, 7.0)
) -> Tally:
    """Runs of all variants in turn, until `minutes` are over and each was done once. Raises SoakError."""
    stage = QuietStage(folder, None)
    chance = random.Random(seed)  # noqa: S311 - no secret: who is killed when
    soaked = Soak(stage, chance, every_s=every_s)
    begin = time.monotonic()
    try:
        soaked.prepare()
        number = 0
        while number < len(VARIANTS) or time.monotonic() - begin < 60 * minutes:
            soaked.run(list(VARIANTS)[number % len(VARIANTS)], rounds)
            number += 1
        deadline = time.monotonic() + 30
        while soaked.left_over() and time.monotonic() < deadline:
            time.sleep(0.2)
        check(not soaked.left_over(), f"left over: {[command_of(pid) for pid in soaked.left_over()]}")
    finally:
        stage.stop_all()
    return soaked.tally


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="then no further run is started")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30, help="of each run")
    parser.add_argument("--folder", type=Path, help="a new folder, which is kept  [default: a temporary one]")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "soak.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args, begin = parse(), machine()
    with tempfile.TemporaryDirectory(prefix="wardround-") as temporary:
        folder = Path(temporary) / "soak" if args.folder is None else args.folder.resolve()
        folder.mkdir(parents=True)
        try:
            tally = soak(folder, minutes=args.minutes, seed=args.seed, rounds=args.rounds)
        except SoakError as error:
            print(f"MISS  {error}")
            return 1
    found = {
        "seed": args.seed,
        "runs": tally.runs,
        "kills": tally.kills,
        "rounds": tally.rounds,
        "void": tally.void,
        "begun_at_hospitals": tally.begun,
        "contributed": tally.contributed,
        "compared_after_a_kill": tally.compared,
        "of_them_not_charged_yet": tally.pending,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"machine": begin, **found}, indent=1) + "\n")
    print(f"pass  {json.dumps({name: value for name, value in found.items() if name != 'runs'})}")
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
