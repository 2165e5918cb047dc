"""The speed of privacy, and how much noise it adds: ``python benchmarks/privacy.py [--parts ...]``.

Parts: ``accounting`` (the reference epsilons), ``noise`` (secure normals beside numpy's), ``multiplier`` (noise for one
claim, beside flwr's accountant), ``training`` (a step of DP-SGD beside one of plain SGD) and ``example`` (what
``examples/private-flower-app`` learns; no gate). Each runs in a process of its own, on one thread, without the settings
by which a machine tunes OpenBLAS for something else; what is compared takes turns in it, and figures are CPU seconds.
Prints tables and which gates are met; exit code 0 unless a part could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from environments import HERE
from ours_privacy import CHOSEN, NUMPY, PARTS, PLAIN
from simulation import Findings, Gate, machine, print_table, progress, spread, write

Figures: TypeAlias = dict[str, Any]

QUERY_S = 1.0
CLOSED_MS = 1.0
BELOW, ABOVE = 1e-4, 5e-3  # of a reference, which has four or five digits
NOISE = 2.0
TIMES_PLAIN = 4.0
TIMES_BEST = 1.1
LESS_NOISE = 0.09
NAMED = (280, 1e-3, 50, 1.0)  # the setting that the gate is about; what others give is printed
TUNING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_VERBOSE")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_part(part: str) -> Figures:
    """What ``ours_privacy.py`` measured of a part."""
    environment = {name: value for name, value in os.environ.items() if name not in TUNING}
    environment |= dict.fromkeys(THREADS, "1") | {"PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(HERE / "ours_privacy.py"), part]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise SystemExit(f"{part} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    found: Figures = json.loads(lines[-1])
    return found


def accounting(found: Figures) -> list[Gate]:
    rows, gates = [("epsilon of", "accountant", "ours", "reference", "CPU s", "wall s")], []
    for name, query in found["queries"].items():
        rows.append(
            (
                name,
                query["accountant"],
                f"{query['epsilon']:.5f}",
                f"{query['reference']:g}",
                f"{query['cpu_s']:.5f}",
                f"{query['wall_s']:.5f}",
            )
        )
        gates.append(Gate(name=f"{name}: CPU s", measured=query["cpu_s"], bound=QUERY_S, at_least=False))
        off = query["epsilon"] / query["reference"] - 1
        fits = -BELOW <= off <= ABOVE
        gates.append(Gate(name=f"{name}: is the reference", measured=float(fits), bound=1.0, at_least=True))
    for name, closed in found["closed"].items():
        gates.append(
            Gate(name=f"{name}: closed form, CPU ms", measured=1e3 * closed["cpu_s"], bound=CLOSED_MS, at_least=False)
        )
    print_table(rows)
    print(f"importing dp-accounting, once in a process: {found['import_cpu_s']:.2f} CPU s\n")
    return gates


def noise(found: Figures) -> list[Gate]:
    rows, gates = [("standard normals", "values", "CPU ms", f"times {NUMPY}")], []
    for name, costs in found["cpu_s"].items():
        for size, cost in costs.items():
            ratio = cost / found["cpu_s"][NUMPY][size]
            rows.append((name, size, f"{1e3 * cost:.2f}", f"{ratio:.2f}"))
            if name != NUMPY:
                gates.append(
                    Gate(name=f"{name} of {size}: CPU over numpy's", measured=ratio, bound=NOISE, at_least=False)
                )
    print_table(rows)
    return gates


def multiplier(found: Figures) -> list[Gate]:
    rows, gates = [("clients", "delta", "rounds", "epsilon", "ours", "flwr's RDP", "less noise")], []
    for setting in found["settings"]:
        named = tuple(setting[key] for key in ("clients", "delta", "rounds", "epsilon"))
        less = 1 - setting["ours"] / setting["flwr"]
        figures = (f"{setting['ours']:.2f}", f"{setting['flwr']:.2f}", f"{100 * less:.1f} %")
        rows.append((*(f"{value:g}" for value in named), *figures))
        if named == NAMED:
            gates.append(Gate(name="noise below flwr's, as a share", measured=less, bound=LESS_NOISE, at_least=True))
    print_table(rows)
    return gates


def training(found: Figures) -> list[Gate]:
    rows, gates = [("model", "parameters", "batch", "way", "CPU ms a step", "times plain SGD")], []
    for name, figures in found.items():
        costs = figures["cpu_s_a_step"]
        best = min(cost for way, cost in costs.items() if way not in (PLAIN, CHOSEN))
        for way, cost in costs.items():
            told = f"{way} ({figures['mode']})" if way == CHOSEN else way
            size = (name, str(figures["parameters"]), str(figures["batch"]))
            rows.append((*size, told, f"{1e3 * cost:.2f}", spread(figures["ratios"][way], 2)))
        times = costs[CHOSEN] / costs[PLAIN]
        gates.append(
            Gate(name=f"{name}: chosen mode over plain SGD", measured=times, bound=TIMES_PLAIN, at_least=False)
        )
        over = costs[CHOSEN] / best
        gates.append(Gate(name=f"{name}: chosen mode over the best", measured=over, bound=TIMES_BEST, at_least=False))
    print_table(rows)
    return gates


def example(found: Figures) -> list[Gate]:
    rows = [("private-flower-app, epsilon", "runs", "accuracy: mean", "range")]
    for epsilon, each in found["accuracy"].items():
        rows.append((epsilon, str(len(each)), f"{statistics.mean(each):.3f}", f"{min(each):.3f}-{max(each):.3f}"))
    print_table(rows)
    return []


SHOWN: dict[str, Callable[[Figures], list[Gate]]] = {
    "accounting": accounting,
    "noise": noise,
    "multiplier": multiplier,
    "training": training,
    "example": example,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "privacy.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    for part in args.parts:
        found = run_part(part)
        findings.runs.append({"part": part, **found})
        findings.gates += SHOWN[part](found)
        write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    met = sum(gate.passed for gate in findings.gates)
    print(f"{met} of {len(findings.gates)} gates are met; wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
