"""Jobs on one ledger that are killed anywhere, or run at once; what was released is added up here, by other means.

    ledger_schedules.py kill SCHEDULES JOBS SEED FOLDER     schedules of JOBS processes each, killed with SIGKILL
    ledger_schedules.py race JOBS SEED FOLDER               JOBS processes that spend until nothing is left
    ledger_schedules.py points FOLDER                       one schedule, killed before each of its system calls in turn

A program of its own, since it forks: pytest's process has threads. It prints one JSON object.
"""

import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from wardround.client.guard.ledger import BudgetError, Ledger
from wardround.client.guard.ledger_anchor import FileAnchor
from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.books import JobCharge
from wardround.strategies.privacy.events import Gaussian

EPSILON, DELTA = 2.0, 1e-5
_PIECE = 40
_WRITE = os.write


def charge(job: str, noise: float, rounds: int) -> JobCharge:
    event = Gaussian(noise_std=noise, sensitivity=1.0, relation=Relation.ADD_REMOVE)
    return JobCharge(
        job=job, plan_digest="", unit=Unit.PATIENT, once=(), per_round=(event,), rounds=rounds, whole=False, delta=1e-7
    )


def write_in_pieces(descriptor: int, data: bytes | memoryview) -> int:
    """As a slow disk may, so that a kill falls between two parts of a line."""
    if len(data) > _PIECE:
        time.sleep(2e-4)
    return _WRITE(descriptor, data[:_PIECE])


def release(folder: Path, job: str, noise: float) -> None:
    """What the ledger is for: this must never be more than the caps allow."""
    descriptor = os.open(folder / "releases", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        _WRITE(descriptor, f"{job} {noise!r}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def work(folder: Path, who: int, seed: int) -> int:
    """One process: goes on with its open jobs, begins others, releases, closes; how many refusals it met."""
    rng, refusals = random.Random(seed), 0  # noqa: S311
    os.write = write_in_pieces  # type: ignore[assignment]
    ledger = Ledger.open(folder / "one.ledger", anchor=FileAnchor(folder / "away" / "anchor"))
    mine = [job.charge for job in ledger.account().jobs.values() if job.charge.job[0] == str(who) and not job.closed]
    while refusals < 8:
        if not mine or rng.random() < 0.2:
            noise, rounds = rng.choice([4.0, 6.0, 10.0, 16.0, 40.0]), rng.randint(1, 12)
            new = charge(f"{who}-{seed}-{rng.getrandbits(40)}", noise, rounds)
            try:
                ledger.reserve(new)
            except BudgetError:
                refusals += 1
            else:
                mine.append(new)
            continue
        job = rng.choice(mine)
        if rng.random() < 0.1:
            ledger.close(job.job)
            mine.remove(job)
            continue
        try:
            ledger.start_round(job.job, rng.randint(1, 12))
        except BudgetError:
            refusals += 1
            ledger.close(job.job)
            mine.remove(job)
            continue
        event = job.per_round[0]
        assert isinstance(event, Gaussian)
        release(folder, job.job, event.noise_std)
    return refusals


def fork(folder: Path, who: int, seed: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        status = 0 if work(folder, who, seed) else 2
    finally:
        os._exit(status)


def true_delta(mu: float) -> float:
    """Of the Gaussian mechanism at the cap's epsilon (Balle & Wang 2018, Theorem 8), by erfc."""
    if mu == 0:
        return 0.0
    a, b = EPSILON / mu - mu / 2, EPSILON / mu + mu / 2
    return 0.5 * math.erfc(a / math.sqrt(2)) - 0.5 * math.exp(EPSILON) * math.erfc(b / math.sqrt(2))


def judge(folder: Path) -> dict[str, float]:
    """What was released, whether any of it was not begun before, and its delta at the cap's epsilon."""
    path = folder / "releases"
    released = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    ledger = Ledger.open(folder / "one.ledger", anchor=FileAnchor(folder / "away" / "anchor"))
    ledger.verify()
    account = ledger.account()
    counts = Counter(job for job, _ in released)
    unknown = sum(job not in account.jobs or len(account.jobs[job].started) < n for job, n in counts.items())
    mu = math.sqrt(math.fsum(float(noise) ** -2 for _, noise in released))
    repairs = (folder / "one.ledger").read_text().count('"entry":"repair"')
    return {"releases": len(released), "unknown": unknown, "delta": true_delta(mu), "repairs": repairs}


def prepare(folder: Path) -> None:
    (folder / "away").mkdir(parents=True, exist_ok=True)
    Ledger.create(
        folder / "one.ledger",
        name="clinic",
        unit=Unit.PATIENT,
        relation=Relation.ADD_REMOVE,
        epsilon=EPSILON,
        delta=DELTA,
        digest="data",
        anchor=FileAnchor(folder / "away" / "anchor"),
    )


def kill(schedules: int, jobs: int, seed: int, base: Path) -> dict[str, float]:
    """Several generations of processes are killed; the last is left alone, and must come to its end."""
    rng, total = random.Random(seed), Counter[str]()  # noqa: S311
    for number in range(schedules):
        folder = base / str(number)
        prepare(folder)
        for _ in range(rng.randint(1, 4)):
            children = [fork(folder, who, rng.getrandbits(40)) for who in range(jobs)]
            time.sleep(rng.uniform(0, 0.04))
            for child in rng.sample(children, len(children)):
                os.kill(child, signal.SIGKILL)
            ends = [os.waitpid(child, 0)[1] for child in children]
            total["kills"] += sum(os.WIFSIGNALED(end) for end in ends)
            total["failures"] += sum(os.WIFEXITED(end) and os.WEXITSTATUS(end) != 0 for end in ends)
        last = [fork(folder, who, rng.getrandbits(40)) for who in range(jobs)]
        total["failures"] += sum(os.waitpid(child, 0)[1] != 0 for child in last)
        total["ends"] += len(last)
        found = judge(folder)
        total["releases"] += int(found["releases"])
        total["unknown"] += int(found["unknown"])
        total["repairs"] += int(found["repairs"])
        total["over"] += found["delta"] > DELTA
        total["near"] += found["delta"] > DELTA / 30
        total["schedules"] += 1
    return dict(total)


def race(jobs: int, seed: int, base: Path) -> dict[str, float]:
    prepare(base)
    children = [fork(base, who, seed + who) for who in range(jobs)]
    failures = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    return {**judge(base), "failures": failures}


POINTS = ("write", "fsync", "ftruncate", "link", "unlink", "replace", "close")


def play_until(folder: Path, point: int) -> None:
    """One job, begun or gone on with, killed before system call number `point`, if there are as many."""
    calls = 0

    def counted(name: str) -> None:
        call = getattr(os, name)

        def counting(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        setattr(os, name, counting)

    os.write = write_in_pieces  # type: ignore[assignment]
    for name in POINTS:
        counted(name)
    if not (folder / "one.ledger").exists():
        prepare(folder)
    ledger = Ledger.open(folder / "one.ledger", anchor=FileAnchor(folder / "away" / "anchor"))
    job = charge("0-job", 4.0, 3)
    known = ledger.account().jobs.get(job.job)
    if known is not None and known.closed:
        return
    ledger.reserve(job)
    while ledger.account().jobs[job.job].left:
        ledger.start_round(job.job, 1)
        release(folder, job.job, 4.0)
    ledger.close(job.job)


def end_of(folder: Path, point: int) -> int:
    """How a process ended that was killed there."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        play_until(folder, point)
        status = 0
    finally:
        os._exit(status)


def points(base: Path) -> dict[str, float]:
    """Every point of a schedule, each in a folder of its own, and then the rest of it."""
    total, point, killed = Counter[str](), 0, True
    while killed:
        point += 1
        folder = base / str(point)
        killed = os.WIFSIGNALED(end_of(folder, point))
        total["failures"] += end_of(folder, 0) != 0
        found = judge(folder)
        total["unknown"] += int(found["unknown"])
        total["over"] += found["delta"] > DELTA or found["releases"] > 3
        total["points"] += killed
    return dict(total)


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        print(json.dumps(kill(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))))
    elif sys.argv[1] == "points":
        print(json.dumps(points(Path(sys.argv[2]))))
    else:
        print(json.dumps(race(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
