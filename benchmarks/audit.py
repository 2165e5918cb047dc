"""Audit logs on this machine: ``python benchmarks/audit.py``.

CPU seconds of one process for: appending in batches as an agent and a server do, with a seal and a sync for each batch;
appending one record at a time, without waiting for the disk; verifying the whole log; and verifying a bundle of it.
Figures are records a CPU second; the wall time is shown beside, since disks differ. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from environments import HERE
from simulation import Findings, Gate, machine, print_table, progress, spread, write

from wardround.audit.bundle import verify_bundle, write_bundle
from wardround.audit.log import LOG_FILE, AuditLog
from wardround.audit.record import Entry
from wardround.audit.verify import verify_file
from wardround.evidence_identity import RESERVED_SERVER_NAME
from wardround.identity import Authority, issue_certificate, make_authority
from wardround.signing_key import SigningKey

APPEND_GATE, VERIFY_GATE = 30_000, 50_000
BATCH = 500


class Owner:
    """A log of a server in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        now = datetime.now(UTC)
        span = {"not_before": now - timedelta(days=1), "not_after": now + timedelta(days=1)}
        root, self.key = SigningKey.make(os.urandom), SigningKey.make(os.urandom)
        der = make_authority(root, "cardio", **span, random=os.urandom)
        self.certificate = issue_certificate(
            der, root, name=RESERVED_SERVER_NAME, public=self.key.public, **span, random=os.urandom
        )
        self.authority, self.folder = Authority(der), folder
        self.path = folder / LOG_FILE

    def open(self) -> AuditLog:
        return AuditLog.open(self.folder, name=RESERVED_SERVER_NAME, key=self.key, certificate=self.certificate)


def records(count: int) -> list[Entry]:
    """Answered rounds, as sites write them."""
    digest = "5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592"
    detail = {"kind": "train", "call": digest, "reply": digest, "order": digest, "attempt": 0}
    return [
        Entry(kind="round.answered", subject="0123456789abcdef0123456789abcdef", detail={"round": number, **detail})
        for number in range(count)
    ]


def in_batches(log: AuditLog, entries: Sequence[Entry]) -> None:
    for start in range(0, len(entries), BATCH):
        log.append(entries[start : start + BATCH])
        log.seal()


def one_by_one(log: AuditLog, entries: Sequence[Entry]) -> None:
    for entry in entries:
        log.append([entry])


def bundled(out: Path, authority: Authority) -> None:
    with out.open("rb") as file:
        verify_bundle(file, authority)


def measure(place: Path, count: int) -> dict[str, tuple[int, float, float]]:
    """Records, CPU and wall seconds of each case, on a new log."""
    owner, out = Owner(place / "audit"), place / "bundle.zip"
    log, entries = owner.open(), records(count)
    found: dict[str, tuple[int, float, float]] = {}

    def timed(name: str, call: Callable[[], object], number: int) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        found[name] = number, time.process_time() - cpu, time.perf_counter() - wall

    few = entries[: count // 10]
    timed(f"append, {BATCH} at a time, sealed and synced", partial(in_batches, log, entries), len(entries))
    timed("append, one at a time", partial(one_by_one, log, few), len(few))
    head = log.seal()
    timed("verify the log", partial(verify_file, owner.path, owner.authority), head.seq + 1)
    write_bundle(out, owner.path, head=head, name=RESERVED_SERVER_NAME, now=datetime.now(UTC))
    timed("verify a bundle", partial(bundled, out, owner.authority), head.seq + 1)
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "audit.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    rates: dict[str, list[float]] = {}
    walls: dict[str, list[float]] = {}
    for repetition in range(args.repetitions):
        with tempfile.TemporaryDirectory(dir=HERE) as place:
            for name, (count, cpu, wall) in measure(Path(place), args.records).items():
                rates.setdefault(name, []).append(count / cpu)
                walls.setdefault(name, []).append(wall)
                about = {"case": name, "repetition": repetition, "records": count, "cpu_s": cpu, "wall_s": wall}
                findings.runs.append(about)
    rows = [("case", "records a CPU second", "wall s")]
    for name, rate in rates.items():
        rows.append((name, spread(rate, 0), spread(walls[name], 2)))
        bound = APPEND_GATE if name.startswith("append") else VERIFY_GATE
        median = statistics.median(rate)
        findings.gates.append(Gate(name=f"records/s, {name}", measured=median, bound=bound, at_least=True))
    print_table(rows)
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
