"""Exact Skellam noise beside numpy's Poisson difference, and an encoded update: ``python benchmarks/skellam.py``.

`SkellamNoise.draw` against ``poisson(µ/2) - poisson(µ/2)`` of a numpy generator, which is neither exact nor secret, and
`Encoding.encode` of one float32 vector: plain, and clipped, rotated, rounded within its bound and noised. Both take
turns in one process, ratios are taken within a repetition, and figures are CPU nanoseconds of a value. Exit code 1
when a gate is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from environments import HERE
from secure_noise import measure
from simulation import Findings, Gate, machine, print_table, progress, values, write
from updates import updates

from wardround.plan_privacy import Relation
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.skellam import SkellamMechanism, squared_l2_bound
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.rotation import Rotation
from wardround.strategies.secagg.skellam_noise import SkellamNoise

VARIANCES = (1.0, 1e3, 3e4, 3e6)
NOISE_GATE = 0.33  # times numpy's
MEMBERS = 50


def noises(variance: float, size: int) -> dict[str, Callable[[], object]]:
    ours, secure, numpy = SkellamNoise.of(variance), SecureRandom(), np.random.default_rng()
    half = variance / 2
    return {
        "numpy": lambda: numpy.poisson(half, size) - numpy.poisson(half, size),
        "draw": lambda: ours.draw(size, secure),
    }


def encodings(size: int) -> dict[str, Callable[[], object]]:
    """Of a vector of √d in length, clipped to half of it, in steps of half its typical value."""
    update, secure, clip_norm = next(iter(updates(1, size))), SecureRandom(), size**0.5 / 2
    rotation = Rotation(size, bytes(32))
    square = squared_l2_bound(clip_norm, 2.0, rotation.padded)
    mechanism = SkellamMechanism(
        clip_norm=clip_norm,
        scale=2.0,
        size=rotation.padded,
        honest=MEMBERS // 2,
        client_variance=square / (MEMBERS // 2),
        relation=Relation.ZERO_OUT,
    )
    plain = Encoding(size=size, scale=2.0**16, value_bits=24, members=MEMBERS)
    noised = Encoding(
        size=size,
        scale=2.0,
        value_bits=24,
        members=MEMBERS,
        clip_norm=clip_norm,
        rotation=rotation,
        mechanism=mechanism,
    )
    return {"plain": lambda: plain.encode(update, secure), "noised": lambda: noised.encode(update, secure)}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--size", type=int, default=1 << 20, help="values of a call")
    parser.add_argument("--variances", type=float, nargs="+", default=list(VARIANCES), help="of one client's noise")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--calls", type=int, default=3, help="a repetition; their median counts")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "skellam.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    table: list[tuple[str, ...]] = [("case", "party", "CPU ms", "ratio")]
    for variance in args.variances:
        ratio, rows = measure(f"variance {variance:g}", noises(variance, args.size), args, findings)
        table += rows
        name = f"draw over numpy's Poisson difference, variance {variance:g}"
        findings.gates.append(Gate(name=name, measured=ratio, bound=NOISE_GATE, at_least=False))
    _, rows = measure("encode", encodings(args.size), args, findings)
    print_table(table + rows)
    for case, party in dict.fromkeys((run["case"], run["party"]) for run in findings.runs):
        runs = [run for run in findings.runs if (run["case"], run["party"]) == (case, party)]
        print(f"{case}, {party}: {1e9 * statistics.median(values(runs, 'cpu_s')) / args.size:.2f} ns a value")
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
