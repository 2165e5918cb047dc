"""What encryption changes in a run: ``python benchmarks/he_simulation.py``.

The shipped plan `breast-cancer-encrypted`, three simulated hospitals, with its updates in the clear, under masks and
encrypted (BFV), interleaved. For each: the AUC on test rows, the largest difference of a model parameter from the
run in the clear, bytes that the server sent and received in a round, and CPU seconds of a round, in which one machine
plays everybody. Exit code 1 where the AUC differs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environments import HERE
from simulation import Findings, Gate, machine, print_table, progress, spread, write

from wardround.plan_source import find_plan
from wardround.simulations.simulate import simulate

WAYS = {"in the clear": "off", "masking": "masking", "bfv": "bfv"}


def one_run(mode: str, place: Path) -> tuple[float, np.ndarray, Mapping[str, float]]:
    """The AUC on all test rows, the model's parameters, and the costs of a round."""
    settings = ["protection.mode=off"] if mode == "off" else [f"protection.mode={mode}"]
    result = simulate(find_plan("breast-cancer-encrypted").override(settings), out=place, report=False)
    model = np.concatenate([tensor.numpy().ravel() for tensor in result.state_dict().values()])
    lines = result.rounds
    costs = [line["protection"]["costs"] for line in lines if line["protection"]]
    of = [{key: sum(cost[key] for cost in each.values()) for key in ("sent_bytes", "received_bytes")} for each in costs]
    plain = 3 * 4 * model.size
    return (
        result.metrics["auc"],
        model,
        {
            "cpu_s": statistics.median(line["cpu_seconds"] for line in lines),
            "sent": statistics.median(one["sent_bytes"] for one in of) if of else plain,
            "received": statistics.median(one["received_bytes"] for one in of) if of else plain,
        },
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "he_simulation.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    findings, begin = Findings(), machine()
    found: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory(dir=HERE) as place:
        for repetition in range(args.repetitions):
            progress(f"repetition {repetition + 1} of {args.repetitions}")
            for name, mode in WAYS.items():
                found.setdefault(name, []).append(one_run(mode, Path(place) / f"{mode}-{repetition}"))
    clear = found["in the clear"][0][1]
    rows = [("updates", "auc", "largest difference", "sent a round", "received a round", "CPU s a round")]
    for name, runs in found.items():
        aucs = {auc for auc, _, _ in runs}
        apart = max(float(np.max(np.abs(model - clear))) for _, model, _ in runs)
        costs = runs[-1][2]
        seconds = spread([costs["cpu_s"] for _, _, costs in runs], 3)
        told = ", ".join(f"{auc:.4f}" for auc in sorted(aucs))
        rows.append((name, told, f"{apart:.1e}", f"{costs['sent']:,.0f} B", f"{costs['received']:,.0f} B", seconds))
        findings.runs.append({"way": name, "aucs": sorted(aucs), "largest_difference": apart, **costs})
        most = max(abs(auc - found["in the clear"][0][0]) for auc in aucs)
        findings.gates.append(Gate(name=f"difference in AUC, {name}", measured=most, bound=0.0005, at_least=False))
    print_table(rows)
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
