"""The vectors that every party aggregates, the cases, and how a case is timed; numpy only, read by the peers too.

Timed is the aggregation of a round that is in memory, in the form the party takes it: nothing is received, decoded
from a network or written. What a party consumes is made anew before each call, outside the clock. A party runs in a
process of its own on one thread; CPU seconds are the process's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

SEED = 20260402
CASES = (
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "bulyan",
    "geometric_median",
    "centered_clipping",
    "centered_clipping_once",
    "nnm_trimmed_mean",
)
CLIPPING_RADIUS = 500.0
CLIPPING_STEPS = 20  # our default; byzfl's is one, which is a case of its own


def updates(n: int, size: int) -> np.ndarray:
    """n float32 vectors, shape (n, size): one direction and noise; the last ones, as many as are bad, point back."""
    generator = np.random.Generator(np.random.Philox(key=SEED))
    common = generator.standard_normal(size, dtype=np.float32)
    rows = np.empty((n, size), dtype=np.float32)
    for row in rows:
        generator.standard_normal(dtype=np.float32, out=row)
        row *= np.float32(0.5)
        row += common
    for row in rows[n - num_byzantine("krum", n) :]:
        row *= np.float32(-1.0)
    return rows


def num_byzantine(case: str, n: int) -> int:
    """How many bad vectors the case's rule is told: a fifth, or what Bulyan tolerates."""
    return (n - 3) // 4 if case == "bulyan" else n // 5


def arguments(cases: tuple[str, ...]) -> argparse.Namespace:
    """What a party's program is asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    return parser.parse_args()


def time_cases(
    party: str,
    args: argparse.Namespace,
    prepare: Callable[[np.ndarray], Any],
    steps: Mapping[str, Callable[[Any], Any]],
) -> None:
    """Print a line of JSON: per case the CPU and wall seconds of a call (the median), and the norm of what came of it.

    `prepare` makes of the vectors what a step takes. A first call on 64 columns imports what is imported late.
    """
    rows = updates(args.n, args.size)
    found = {}
    for case in args.cases:
        step = steps[case]
        step(prepare(rows[:, :64]))
        cpu, wall = [], []
        for _ in range(args.calls):
            given = prepare(rows)
            began = time.process_time(), time.perf_counter()
            result = step(given)
            cpu.append(time.process_time() - began[0])
            wall.append(time.perf_counter() - began[1])
            del given
        values = np.asarray(result).ravel().astype(np.float64)
        found[case] = {
            "cpu_s": statistics.median(cpu),
            "wall_s": statistics.median(wall),
            "cpu_s_each": cpu,
            "norm": float(np.linalg.norm(values)),
        }
    print(json.dumps({"party": party, "n": args.n, "size": args.size, "numpy": np.__version__, "cases": found}))
