"""Primitives of secure aggregation on this machine: ``python benchmarks/secagg_primitives.py``.

Masks: `add_masks` of one thread beside AES-256-GCM itself, which encrypts as many bytes by `update_into` in blocks of
64 KiB and adds nothing; both take turns in one process, and ratios are taken within a repetition. Then the gain of a
second thread in wall time, and the CPU time of sharing, of a pair's keys and of a hash tree. Figures are CPU seconds
of a call where nothing else is said. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from environments import HERE
from simulation import Findings, Gate, interleaved, machine, paired_ratios, print_table, progress, spread, values, write

from wardround.strategies.secagg.commitments import ShareTree, share_root
from wardround.strategies.secagg.key_agreement import generate, pair_key, pair_seed, share_key
from wardround.strategies.secagg.keystream import add_masks
from wardround.strategies.secagg.shamir import combine, split

SIZES = (100_000, 1_000_000, 10_000_000)
MASKS = 10
MORE_MASKS = ((100, 1_000_000), (2_100, 100_000))  # a client's in a group of 100; a server's that lost 30 of them
BLOCK = 1 << 16
RATE_GATE = 0.6  # of the rate of AES-256-GCM
GATED = (1_000_000, 10_000_000)
SHARINGS = ((51, 1), (101, 1), (200, 1), (100, 99), (200, 199))  # holders, other members of the group
SHAMIR_GATE_S = 0.020
SHAMIR_GATED = "split 6400 bytes, 134 of 200"


def bare_gcm(size: int) -> Callable[[], object]:
    """As many blocks as the masks of `size` values take, from one cipher for each mask."""
    zeros, room = memoryview(bytes(BLOCK)), memoryview(bytearray(BLOCK + 16))
    blocks = [min(BLOCK, 4 * size - start) for start in range(0, 4 * size, BLOCK)]

    def call() -> None:
        for _ in range(MASKS):
            cipher = Cipher(algorithms.AES(bytes(32)), modes.GCM(bytes(12))).encryptor()
            for length in blocks:
                cipher.update_into(zeros[:length], room)

    return call


def masks(size: int, threads: int, number: int = MASKS) -> Callable[[], object]:
    total = np.zeros(size, dtype=np.uint32)
    seeds = [(os.urandom(32), 1 if k % 2 else -1) for k in range(number)]
    return lambda: add_masks(total, seeds, threads=threads)


def others() -> dict[str, Callable[[], object]]:
    """The rest of the primitives, by what is measured."""
    calls: dict[str, Callable[[], object]] = {}
    for holders, peers in SHARINGS:
        threshold, secrets = 2 * holders // 3 + 1, os.urandom(32 * (1 + peers))
        shares = split(secrets, threshold, holders, os.urandom)
        opened = {holder: shares[holder] for holder in range(holders - threshold, holders)}
        assert combine(opened, threshold) == secrets
        name = f"{len(secrets)} bytes, {threshold} of {holders}"
        calls[f"split {name}"] = lambda s=secrets, t=threshold, h=holders: split(s, t, h, os.urandom)  # type: ignore[misc]
        calls[f"combine {name}"] = lambda o=opened, t=threshold: combine(o, t)  # type: ignore[misc]
    pair, h, shares = generate(os.urandom), bytes(32), [os.urandom(32) for _ in range(100)]
    prk = pair_key(pair.private, pair.public, h)
    calls["pair_key"] = lambda: pair_key(pair.private, pair.public, h)
    calls["pair_seed and share_key"] = lambda: (pair_seed(prk, h, 1, 2), share_key(prk, h, 1, 2))
    calls["share_root of 100"] = lambda: share_root(h, 1, 2, shares)
    calls["share_proofs of 30 in 100"] = lambda: ShareTree(shares).proofs(range(30))
    return calls


def measure(
    name: str,
    calls: Mapping[str, Callable[[], object]],
    args: argparse.Namespace,
    findings: Findings,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[dict[str, object]]]:
    """Seconds of a call of each party, in turns; a repetition's is the median of its calls."""
    for call in calls.values():
        call()
    runs: dict[str, list[dict[str, object]]] = {party: [] for party in calls}
    for repetition, party in interleaved(tuple(calls), args.repetitions):
        each = []
        for _ in range(args.calls):
            begin = clock()
            calls[party]()
            each.append(clock() - begin)
        runs[party].append({"case": name, "party": party, "repetition": repetition, "seconds": statistics.median(each)})
    findings.runs += [run for of in runs.values() for run in of]
    return runs


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="values of the masked vector")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--calls", type=int, default=3, help="a repetition; their median counts")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "secagg_primitives.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    table: list[tuple[str, ...]] = [("case", "party", "figure", "of the rate of GCM, or gain in wall time")]
    for size in args.sizes:
        case, each = f"{MASKS} masks of {size}", 1e9 / size / MASKS
        runs = measure(case, {"bare GCM": bare_gcm(size), "add_masks": masks(size, 1)}, args, findings)
        ratios = paired_ratios(runs["bare GCM"], runs["add_masks"], "seconds")
        for party, of in runs.items():
            figure = f"{spread([each * s for s in values(of, 'seconds')], 3)} ns/value/mask"
            table.append((case, party, figure, spread(ratios, 2) if party == "add_masks" else ""))
        if size in GATED:
            name = f"rate of {case} over that of bare GCM"
            findings.gates.append(Gate(name=name, measured=statistics.median(ratios), bound=RATE_GATE, at_least=True))
    for number, size in (*((MASKS, size) for size in args.sizes), *MORE_MASKS):
        case, threads = f"{number} masks of {size}, wall time", {n: masks(size, n, number) for n in (1, 2)}
        wall = measure(case, {f"{n} threads": call for n, call in threads.items()}, args, findings, time.perf_counter)
        gain = paired_ratios(wall["1 threads"], wall["2 threads"], "seconds")
        figure = f"{spread([1e3 * s for s in values(wall['2 threads'], 'seconds')], 2)} ms"
        table.append((case, "2 threads", figure, spread(gain, 2)))
    for name, call in others().items():
        seconds = values(measure(name, {"ours": call}, args, findings)["ours"], "seconds")
        table.append((name, "ours", f"{spread([1e3 * s for s in seconds], 3)} ms", ""))
        if name == SHAMIR_GATED:
            median = statistics.median(seconds)
            findings.gates.append(Gate(name=f"seconds, {name}", measured=median, bound=SHAMIR_GATE_S, at_least=False))
    print_table(table)
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
