"""Robust aggregation beside flwr's and byzfl's: ``python benchmarks/robust.py [--problems 50x1000000 ...]``.

A party aggregates the vectors of ``updates.py`` in a process and an environment of its own; parties take turns (A B C,
B C A, ...), ratios are taken within a repetition, and figures are CPU seconds of a call. Ours are calls of
``Robust.aggregate``: checks of every vector, and evidence for every vector, are in them; peers have neither. flwr's
are calls of ``aggregate_train``, with replies in memory. All run on one thread, and without the settings by which a
machine tunes OpenBLAS for something else. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from environments import HERE, ensure
from simulation import Findings, Gate, interleaved, machine, paired_ratios, print_table, progress, spread, values, write
from updates import CASES, num_byzantine

OURS = "wardround"
PARTIES = {  # party: interpreter, program, cases
    OURS: ("", "ours_robust.py", CASES),
    "flwr": ("flwr", "peers/flwr_robust.py", ("median", "trimmed_mean", "krum", "multi_krum", "bulyan")),
    "byzfl-numpy": (
        "byzfl",
        "peers/byzfl_robust.py",
        ("median", "trimmed_mean", "geometric_median", "centered_clipping", "centered_clipping_once"),
    ),
    "byzfl-torch": ("byzfl", "peers/byzfl_robust.py", ("krum", "multi_krum", "nnm_trimmed_mean")),
}
SLOW = {("byzfl-torch", "nnm_trimmed_mean"), ("byzfl-numpy", "centered_clipping")}  # 5 to 30 s a call
GATES = {
    ("median", "flwr"): 5.0,
    ("trimmed_mean", "flwr"): 5.0,
    ("median", "byzfl-numpy"): 1.0,
    ("trimmed_mean", "byzfl-numpy"): 1.0,
    ("krum", "flwr"): 2.0,
    ("multi_krum", "flwr"): 2.0,
    ("krum", "byzfl-torch"): 5.0,
    ("multi_krum", "byzfl-torch"): 5.0,
    ("bulyan", "flwr"): 3.0,
    ("geometric_median", "byzfl-numpy"): 3.0,
    ("centered_clipping", "byzfl-numpy"): 5.0,
    ("nnm_trimmed_mean", "byzfl-torch"): 10.0,
}
PROBLEMS = ("50x1000000", "100x1000000", "20x10000000")
SAME = 1e-4  # relative, between the norms of parties' results
OTHERWISE = ("geometric_median", "bulyan")  # byzfl's stops after 3 steps; flwr's selects once, not again and again
TUNING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_VERBOSE")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def fits(party: str, case: str, problem: str) -> bool:
    """Whether the machine can hold what the case takes: byzfl's mixing gathers n - f vectors for each of n."""
    if (party, case) != ("byzfl-torch", "nnm_trimmed_mean"):
        return True
    n, size = (int(number) for number in problem.split("x"))
    needed = 4 * n * (n - num_byzantine(case, n)) * size
    return needed < 0.4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def run_cases(party: str, problem: str, cases: Sequence[str], calls: int) -> dict[str, dict[str, Any]]:
    """One run of a party's program: what it measured of each case."""
    peer, program, _ = PARTIES[party]
    n, _, size = problem.partition("x")
    command = [str(ensure(peer)) if peer else sys.executable, str(HERE / program), "--n", n, "--size", size]
    environment = {name: value for name, value in os.environ.items() if name not in TUNING}
    environment |= dict.fromkeys(THREADS, "1") | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, "--calls", str(calls), "--cases", *cases],
        env=environment,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise SystemExit(f"{party} {problem} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    found: dict[str, dict[str, Any]] = json.loads(lines[-1])["cases"]
    return found


def measure(problem: str, args: argparse.Namespace, findings: Findings) -> None:
    """All parties on one problem; their figures and gates go to `findings`."""
    runs = []
    for party in args.parties:
        for case in PARTIES[party][2]:
            if case in args.cases and not fits(party, case, problem):
                progress(f"{problem} {party}: {case} is left out, it would not fit into memory")
    for repetition, party in interleaved(args.parties, args.repetitions):
        wanted = [case for case in PARTIES[party][2] if case in args.cases and fits(party, case, problem)]
        slow = [case for case in wanted if (party, case) in SLOW]
        found: dict[str, dict[str, Any]] = {}
        if quick := [case for case in wanted if case not in slow]:
            found |= run_cases(party, problem, quick, args.calls)
        if slow and repetition < args.slow_repetitions:
            found |= run_cases(party, problem, slow, 1)
        for case, figures in found.items():
            runs.append({"problem": problem, "party": party, "case": case, "repetition": repetition, **figures})
        progress(f"{problem} {party}: repetition {repetition + 1} of {args.repetitions} is done")
    findings.runs += runs

    rows = [(problem, "party", "CPU s", "wall s", "CPU, times ours", "gate")]
    for case in args.cases:
        of_case = [run for run in runs if run["case"] == case]
        ours = [run for run in of_case if run["party"] == OURS]
        for party in args.parties:
            theirs = [run for run in of_case if run["party"] == party]
            if not theirs:
                continue
            ratios = paired_ratios(theirs, ours, "cpu_s")
            bound = GATES.get((case, party))
            rows.append(
                (
                    case,
                    party,
                    spread(values(theirs, "cpu_s")),
                    spread(values(theirs, "wall_s")),
                    "" if party == OURS else spread(ratios, 2),
                    "" if bound is None else f"{bound:g}",
                )
            )
            if bound is not None and ratios:
                name = f"{problem} {case}: CPU of {party} over ours"
                findings.gates.append(Gate(name=name, measured=statistics.median(ratios), bound=bound, at_least=True))
            if party != OURS and ratios and case not in OTHERWISE:
                off = max(abs(ratio - 1) for ratio in paired_ratios(theirs, ours, "norm"))
                name = f"{problem} {case}: norm of {party}'s result beside ours"
                findings.gates.append(Gate(name=name, measured=off, bound=SAME, at_least=False))
    print_table(rows)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), help="vectors x length")
    parser.add_argument("--parties", nargs="+", choices=PARTIES, default=list(PARTIES))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--slow-repetitions", type=int, default=2, help="of what takes a peer many seconds a call")
    parser.add_argument("--calls", type=int, default=3, help="a repetition; their median counts")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "robust.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    for peer in sorted({PARTIES[party][0] for party in args.parties} - {""}):
        ensure(peer)  # installs what is missing before anything is timed
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    for problem in args.problems:
        measure(problem, args, findings)
        write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    print(f"wrote {args.output}")
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
