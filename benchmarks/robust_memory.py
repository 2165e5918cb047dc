"""Peak memory of nearest-neighbour mixing and trimmed mean on vectors in files: ``python benchmarks/robust_memory.py``.

The vectors are written to files first. A child process imports everything, notes its peak resident size, aggregates
``FileVector`` sources, and notes it again: what was added, the aggregate included, is compared to the n d floats that
the vectors are. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from environments import HERE
from simulation import Findings, Gate, machine, print_table, write
from updates import SEED, num_byzantine

PROBLEMS = ((50, 1_000_000), (20, 10_000_000))
MOST, GOAL = 0.25, 0.14  # of n d floats


def write_vectors(folder: Path, n: int, size: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=SEED))
    for index in range(n):
        generator.standard_normal(size, dtype=np.float32).astype("<f4").tofile(folder / f"{index:03d}")


def child(folder: Path, n: int, size: int) -> None:
    """Aggregate the vectors in `folder` and print the peak before and after."""
    from measure import tree_peak_rss_bytes

    from wardround.contribution import Contribution
    from wardround.orders import SiteId
    from wardround.strategies.rules.preaggregators.nnm import Nnm
    from wardround.strategies.rules.robust import chain
    from wardround.strategies.rules.rule import RoundContext
    from wardround.strategies.rules.trimmed_mean import TrimmedMean
    from wardround.tally import Tally
    from wardround.vector import FileVector

    f = num_byzantine("nnm_trimmed_mean", n)
    rule = chain(Nnm(f), TrimmedMean(f))
    rule.aggregate(np.eye(2 * f + 1, 64, dtype=np.float32))  # what is imported or allocated once
    contributions = [
        Contribution(members=(SiteId(path.name),), weight=1, vector=FileVector(path, size), tally=Tally.of_means(0, {}))
        for path in sorted(folder.iterdir())
    ]
    before = tree_peak_rss_bytes()
    made = rule.apply(contributions, RoundContext(size=size))
    after = tree_peak_rss_bytes()
    if made.vector is None or len(made.report.lines) != n:
        raise SystemExit(made.reason)
    print(json.dumps({"before_bytes": before, "after_bytes": after}))


def measure(n: int, size: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        write_vectors(Path(folder), n, size)
        command = [sys.executable, __file__, "--child", folder, str(n), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, int] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "N", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "robust_memory.json", help="JSON")
    args = parser.parse_args()
    if args.child:
        child(Path(args.child[0]), int(args.child[1]), int(args.child[2]))
        return 0
    findings, begin = Findings(), machine()
    rows = [("vectors", "length", "n d floats, MiB", "added, MiB", "share")]
    for n, size in PROBLEMS:
        peaks = measure(n, size)
        added = peaks["after_bytes"] - peaks["before_bytes"]
        share = added / (4 * n * size)
        findings.runs.append({"n": n, "size": size, "added_bytes": added, "share": share, **peaks})
        findings.gates.append(
            Gate(name=f"{n} x {size}: memory added over n d floats", measured=share, bound=MOST, at_least=False)
        )
        rows.append((str(n), str(size), f"{4 * n * size / 2**20:.0f}", f"{added / 2**20:.1f}", f"{share:.3f}"))
    print_table(rows)
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate, f"(goal {GOAL:g})")
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
