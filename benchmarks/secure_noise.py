"""Secure noise beside numpy's, and the private mean beside the plain: ``python benchmarks/secure_noise.py``.

`SecureRandom.grid_normal` against ``np.random.normal`` of the same size, and `PrivateMean` against `Mean` on the same
contributions. Both take turns in one process, ratios are taken within a repetition, and figures are CPU seconds of a
call. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from environments import HERE
from simulation import Findings, Gate, interleaved, machine, paired_ratios, print_table, progress, spread, values, write
from updates import updates

from wardround.contribution import Contribution
from wardround.orders import SiteId
from wardround.strategies.privacy.noise_source import FreshNoise
from wardround.strategies.privacy.private_mean import PrivateMean
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.rules.mean import Mean
from wardround.strategies.rules.rule import RoundContext
from wardround.tally import Tally
from wardround.vector import MemoryVector

SIZES = (1_000, 100_000, 1_000_000)
GATED = 1_000_000
NOISE_GATE = 2.0  # times np.random.normal
PROBLEMS = ("50x1000000", "1000x1000")
MEAN_GATE = 2.5  # times the plain mean, which takes its norms in float32 and adds no noise


def noises(size: int) -> dict[str, Callable[[], object]]:
    secure = SecureRandom()
    return {"np.random.normal": lambda: np.random.normal(size=size), "grid_normal": lambda: secure.grid_normal(size)}


def means(problem: str) -> dict[str, Callable[[], object]]:
    n, size = (int(number) for number in problem.split("x"))
    contributions = [
        Contribution(members=(SiteId(str(i)),), weight=1, vector=MemoryVector(row), tally=Tally.of_means(1, {}))
        for i, row in enumerate(updates(n, size))
    ]
    plain, context, clip_norm = Mean(), RoundContext(size=size), size**0.5  # about half of the updates are clipped
    private = PrivateMean(clip_norm=clip_norm, noise_std=clip_norm, denominator=n, noise=FreshNoise())
    return {
        "mean": lambda: plain.apply(contributions, context),
        "private mean": lambda: private.apply(contributions, context),
    }


def measure(
    name: str, calls: Mapping[str, Callable[[], object]], args: argparse.Namespace, findings: Findings
) -> tuple[float, list[tuple[str, ...]]]:
    """CPU seconds of both, in turns: the median ratio of the second to the first, and rows for people."""
    for call in calls.values():
        call()
    runs = []
    for repetition, party in interleaved(tuple(calls), args.repetitions):
        each = []
        for _ in range(args.calls):
            begin = time.process_time()
            calls[party]()
            each.append(time.process_time() - begin)
        runs.append({"case": name, "party": party, "repetition": repetition, "cpu_s": statistics.median(each)})
    findings.runs += runs
    theirs, ours = ([run for run in runs if run["party"] == party] for party in calls)
    ratios = paired_ratios(ours, theirs, "cpu_s")
    rows = [
        (name, party, spread([1e3 * s for s in values(of, "cpu_s")], 3))
        for party, of in zip(calls, (theirs, ours), strict=True)
    ]
    return statistics.median(ratios), [(*rows[0], ""), (*rows[1], spread(ratios, 2))]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="of the noise")
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), help="vectors x length, of the means")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--calls", type=int, default=3, help="a repetition; their median counts")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "secure_noise.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    table: list[tuple[str, ...]] = [("case", "party", "CPU ms", "ratio")]
    for size in args.sizes:
        ratio, rows = measure(f"noise of {size}", noises(size), args, findings)
        table += rows
        if size == GATED:
            name = f"grid_normal over np.random.normal, {size} values"
            findings.gates.append(Gate(name=name, measured=ratio, bound=NOISE_GATE, at_least=False))
    for problem in args.problems:
        ratio, rows = measure(f"mean of {problem}", means(problem), args, findings)
        table += rows
        name = f"private mean over mean, {problem}"
        findings.gates.append(Gate(name=name, measured=ratio, bound=MEAN_GATE, at_least=False))
    print_table(table)
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
