"""Simulation speed beside other frameworks': ``make bench``, or ``python benchmarks/simulation.py --help``.

Every party trains the workload of ``workload.py`` in a process and an environment of its own; the runs are
interleaved (A B C, B C A, ...), and a ratio is taken within one repetition, so that a machine that slows down
slows all parties down. CPU seconds are those of the process and all its descendants, between round boundaries,
after warm-up; torch has one thread a process, so that CPU seconds compare.

Sections: ``speed`` (a round of the MLP, the logistic regression and the CNN), ``cores`` (the CNN on one core and
on two), ``memory`` (cohort 10 against cohort 10,000 of 10,000 clients), ``startup`` (from the command to the end
of round 1). Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from environments import HERE, ensure

Run: TypeAlias = dict[str, Any]  # what a party printed, plus its repetition

OURS = "wardround"
PARTIES = (OURS, "pfl", "flwr")
SCRIPTS = {OURS: "ours_simulation.py", "pfl": "peers/pfl_simulation.py", "flwr": "peers/flwr_simulation.py"}
WARMUP = 3
# Rounds measured: about ten seconds each. All parties pass round 8, whose loss is compared.
ROUNDS = {
    "mlp": {OURS: 60, "pfl": 15, "flwr": 6},
    "logistic": {OURS: 100, "pfl": 20, "flwr": 6},
    "cnn": {OURS: 6, "pfl": 6, "flwr": 5},
}
MODELS = tuple(ROUNDS)
GATES = {("mlp", "pfl"): 8.0, ("mlp", "flwr"): 40.0, ("logistic", "pfl"): 8.0, ("logistic", "flwr"): 80.0}
CNN_PER_CORE = 1.0
CORES_GAIN = 1.7
MEMORY_RATIO = 1.3
COHORTS = (10, 1_000, 10_000)  # from 1,000 on, a block of clients is as large as it gets
STARTUP_S = 8.0
LOSS_TOLERANCE = 0.05  # relative; the parties draw other cohorts and shuffle otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One promise and what was measured."""

    name: str
    measured: float
    bound: float
    at_least: bool

    @property
    def passed(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'pass' if self.passed else 'MISS'}  {self.name}: {self.measured:.2f} ({sign} {self.bound:g})"


@dataclass(slots=True)
class Findings:
    """What all sections found."""

    runs: list[Run] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)


# -- running a party -----------------------------------------------------------------------------


def interpreter(party: str) -> str:
    """This interpreter for us, an environment of its own for a peer."""
    return sys.executable if party == OURS else str(ensure(party))


def run_party(party: str, model: str, *arguments: str, timeout_s: float = 900) -> Run:
    """One run of a party's program; the JSON that it printed last."""
    command = [interpreter(party), str(HERE / SCRIPTS[party]), "--model", model, "--json", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise SystemExit(f"{party} {model} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    result: Run = json.loads(lines[-1])
    return result


def interleaved(parties: Sequence[str], repetitions: int) -> Iterable[tuple[int, str]]:
    """Repetition and party: A B C, B C A, C A B, ..."""
    for repetition in range(repetitions):
        turn = repetition % len(parties)
        for party in (*parties[turn:], *parties[:turn]):
            yield repetition, party


def values(runs: Iterable[Run], key: str) -> list[float]:
    return [float(run[key]) for run in runs]


def spread(numbers: Sequence[float], digits: int = 4) -> str:
    """Median [smallest – largest]."""
    if not numbers:
        return "-"
    return f"{statistics.median(numbers):.{digits}f} [{min(numbers):.{digits}f}-{max(numbers):.{digits}f}]"


def paired_ratios(over: Iterable[Run], under: Iterable[Run], key: str) -> list[float]:
    """over / under, repetition by repetition."""
    bottom = {run["repetition"]: float(run[key]) for run in under}
    return [float(run[key]) / bottom[run["repetition"]] for run in over if run["repetition"] in bottom]


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(flush=True)


# -- sections ------------------------------------------------------------------------------------


def speed(findings: Findings, args: argparse.Namespace) -> None:
    """CPU seconds a round of each model."""
    runs: list[Run] = []
    for model in args.models:
        for repetition, party in interleaved(args.parties, args.repetitions):
            rounds = max(5, round(ROUNDS[model][party] * args.scale))
            run = run_party(
                party,
                model,
                "--rounds",
                str(rounds),
                "--warmup",
                str(WARMUP),
                "--workers",
                "2" if party == "flwr" else "1",
            )
            runs.append({**run, "section": "speed", "repetition": repetition})
            progress(f"{model} {party} {run['cpu_s_per_round']:.4f} CPU s")
    findings.runs += runs

    rows = [("model", "party", "CPU s a round", "wall s a round", "CPU, times ours", "loss after round 8")]
    for model in args.models:
        ours = [run for run in runs if (run["party"], run["model"]) == (OURS, model)]
        for party in args.parties:
            theirs = [run for run in runs if (run["party"], run["model"]) == (party, model)]
            ratios = paired_ratios(theirs, ours, "cpu_s_per_round")
            rows.append(
                (
                    model,
                    party,
                    spread(values(theirs, "cpu_s_per_round")),
                    spread(values(theirs, "wall_s_per_round")),
                    spread(ratios, 1),
                    spread(values(theirs, "loss")),
                )
            )
            if party == OURS or not ratios:
                continue
            if (model, party) in GATES:
                name, bound = f"{model}: CPU of {party} over ours", GATES[model, party]
                findings.gates.append(Gate(name=name, measured=statistics.median(ratios), bound=bound, at_least=True))
            elif (model, party) == ("cnn", "pfl"):
                name = "cnn: CPU of pfl over ours (one core each)"
                findings.gates.append(
                    Gate(name=name, measured=statistics.median(ratios), bound=CNN_PER_CORE, at_least=True)
                )
            loss = statistics.median(paired_ratios(ours, theirs, "loss"))
            name = f"{model}: loss of ours over {party}'s"
            findings.gates.append(Gate(name=name, measured=loss, bound=1 + LOSS_TOLERANCE, at_least=False))
    print_table(rows)


def cores(findings: Findings, args: argparse.Namespace) -> None:
    """The CNN's wall seconds on one core and on two, for those whose processes or threads can be chosen."""
    parties = [party for party in args.parties if party != "flwr"]
    runs: list[Run] = []
    for repetition, party in interleaved(parties, args.repetitions):
        for workers in (1, 2):
            rounds = max(5, round(ROUNDS["cnn"][party] * args.scale))
            run = run_party(party, "cnn", "--rounds", str(rounds), "--warmup", "2", "--workers", str(workers))
            runs.append({**run, "section": "cores", "repetition": repetition})
            progress(f"cnn {party} on {workers}: {run['wall_s_per_round']:.3f} wall s")
    findings.runs += runs
    rows = [("cnn", "one core, wall s a round", "two cores, wall s a round", "gain")]
    for party in parties:
        one = [run for run in runs if run["party"] == party and run["workers"] == 1]
        two = [run for run in runs if run["party"] == party and run["workers"] == 2]
        gain = paired_ratios(one, two, "wall_s_per_round")
        rows.append((party, *(spread(values(which, "wall_s_per_round"), 3) for which in (one, two)), spread(gain, 2)))
        if party == OURS:
            name = "cnn: gain of two cores over one (wall)"
            findings.gates.append(Gate(name=name, measured=statistics.median(gain), bound=CORES_GAIN, at_least=True))
    print_table(rows)


def memory(findings: Findings, args: argparse.Namespace) -> None:
    """Peak resident memory of cohorts of 10 to 10,000 in a federation of 10,000, nothing needing their rows."""
    if OURS not in args.parties:
        return
    rows = [("10,000 clients", "cohort", "peak MiB", "bytes a client more")]
    for model in ("many", "wide"):
        peaks: dict[int, float] = {}
        for cohort in COHORTS:
            run = run_party(OURS, model, "--rounds", "2", "--warmup", "0", "--cohort", str(cohort), "--workers", "2")
            findings.runs.append({**run, "section": "memory", "repetition": 0})
            smaller = max(peaks, default=0)
            peaks[cohort] = float(run["peak_rss_bytes"])
            growth = f"{(peaks[cohort] - peaks[smaller]) / (cohort - smaller):.0f}" if smaller else ""
            rows.append((model, str(cohort), f"{peaks[cohort] / 2**20:.0f}", growth))
            progress(f"memory, {model}, cohort {cohort}: {peaks[cohort] / 2**20:.0f} MiB")
        if model == "many":
            name = "memory: peak of the MLP's cohort of 10,000 over its cohort of 10"
            ratio = peaks[COHORTS[-1]] / peaks[COHORTS[0]]
            findings.gates.append(Gate(name=name, measured=ratio, bound=MEMORY_RATIO, at_least=False))
    print_table(rows)


def startup(findings: Findings, args: argparse.Namespace) -> None:
    """Seconds from the command to the end of round 1, ten clients."""
    parties = [party for party in args.parties if party != "pfl"]
    runs: list[Run] = []
    for repetition, party in interleaved(parties, args.repetitions):
        seconds = _startup_ours() if party == OURS else _startup_flwr()
        runs.append({"section": "startup", "party": party, "startup_s": seconds, "repetition": repetition})
        progress(f"startup {party}: {seconds:.1f} s")
    findings.runs += runs
    rows = [("startup, 10 clients", "s to the end of round 1")]
    for party in parties:
        found = values([run for run in runs if run["party"] == party], "startup_s")
        rows.append((party, spread(found, 1)))
        if party == OURS:
            name = "startup: wardround simulate to the end of round 1 (s)"
            findings.gates.append(Gate(name=name, measured=statistics.median(found), bound=STARTUP_S, at_least=False))
    print_table(rows)


def _startup_ours() -> float:
    """`wardround simulate` on the breast-cancer plan, as a person calls it, until it says that round 1 is over."""
    command = [str(Path(sys.executable).with_name("wardround")), "simulate", "breast-cancer", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with subprocess.Popen([*command, "--out", f"{folder}/run"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - begin
            process.kill()
        if json.loads(line or "{}").get("round") != 1:
            raise SystemExit(f"startup: expected the record of round 1, got {line!r}")
    return seconds


def _startup_flwr() -> float:
    run = run_party("flwr", "mlp", "--rounds", "1", "--warmup", "0", "--clients", "10", "--cohort", "10")
    return float(run["first_round_age_s"])


SECTIONS: dict[str, Callable[[Findings, argparse.Namespace], None]] = {
    "speed": speed,
    "cores": cores,
    "memory": memory,
    "startup": startup,
}


# -- the command ---------------------------------------------------------------------------------


def progress(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def write(findings: Findings, begin: dict[str, Any], output: Path) -> None:
    """Everything found so far, as JSON."""
    output.parent.mkdir(parents=True, exist_ok=True)
    gates = [{**asdict(gate), "passed": gate.passed} for gate in findings.gates]
    output.write_text(json.dumps({"machine": begin, "gates": gates, "runs": findings.runs}, indent=1) + "\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="for the section speed")
    parser.add_argument("--parties", nargs="+", choices=PARTIES, default=list(PARTIES))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times the rounds of a run; 0.5: twice as quick")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "simulation.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    for party in args.parties:
        interpreter(party)  # installs what is missing before anything is timed
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    for name in args.sections:
        SECTIONS[name](findings, args)
        write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    print(f"wrote {args.output}")
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
