"""CPU and wall seconds of a process and all its descendants, between round boundaries.

Used by every party, in its own environment: standard library only, Linux only (/proc).
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, so that none leaves the count."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _stat(pid: int) -> list[str] | None:
    """/proc/PID/stat from its third field on; None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree_pids() -> list[int]:
    """This process and its descendants."""
    pids, found = [os.getpid()], 0
    while found < len(pids):
        for tasks in Path(f"/proc/{pids[found]}/task").glob("*/children"):
            try:
                pids += [int(pid) for pid in tasks.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
        found += 1
    return pids


def tree_cpu_s() -> float:
    """User and system seconds of the tree so far, ended and waited-for children included."""
    own = time.process_time()  # finer than the ticks of /proc
    ticks = 0
    for pid in tree_pids():
        fields = _stat(pid)
        if fields is not None:
            user, system, children_user, children_system = (int(value) for value in fields[11:15])
            ticks += children_user + children_system + (0 if pid == os.getpid() else user + system)
    return own + ticks * _TICK_S


def tree_peak_rss_bytes() -> int:
    """The sum of the peak resident sizes of the tree's live processes."""
    total = 0
    for pid in tree_pids():
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


def process_age_s() -> float:
    """Seconds since this process was started (to 10 ms): interpreter start and imports included."""
    fields = _stat(os.getpid())
    assert fields is not None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) * _TICK_S


@dataclass(slots=True)
class Rounds:
    """Call ``boundary()`` when training starts and at the end of every round."""

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    first_round_age_s: float | None = None

    def boundary(self) -> None:
        if len(self.cpu_s) == 1:
            self.first_round_age_s = process_age_s()
        self.cpu_s.append(tree_cpu_s())
        self.wall_s.append(time.perf_counter())

    def report(self, party: str, model: str, warmup: int, **more: object) -> dict[str, object]:
        """Figures a round, without the first ``warmup`` rounds."""
        if len(self.cpu_s) < warmup + 2:
            raise SystemExit(f"{party}: {len(self.cpu_s) - 1} rounds came, {warmup + 1} are needed")
        cpu, wall = self.cpu_s[warmup:], self.wall_s[warmup:]
        rounds = len(cpu) - 1
        cpu_each = [after - before for before, after in itertools.pairwise(cpu)]
        wall_each = [after - before for before, after in itertools.pairwise(wall)]
        return {
            "party": party,
            "model": model,
            "rounds": rounds,
            "cpu_s_per_round": (cpu[-1] - cpu[0]) / rounds,
            "wall_s_per_round": (wall[-1] - wall[0]) / rounds,
            "cpu_s_each_median": statistics.median(cpu_each),
            "cpu_s_each": cpu_each,
            "wall_s_each": wall_each,
            "first_round_age_s": self.first_round_age_s,
            "peak_rss_bytes": tree_peak_rss_bytes(),
            **more,
        }


def show(report: dict[str, object], *, as_json: bool) -> None:
    """Print one party's report: JSON on one line, or a sentence."""
    if as_json:
        print(json.dumps(report), flush=True)
        return
    print(
        f"{report['party']} {report['model']}: {report['cpu_s_per_round']:.4f} CPU s and"
        f" {report['wall_s_per_round']:.4f} wall s a round over {report['rounds']} rounds,"
        f" round 1 ended {report['first_round_age_s']:.1f} s after start, final loss {report['loss']:.4f}"
    )
