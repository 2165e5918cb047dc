"""Processes that are killed anywhere, or run at once: never a release over the caps, and none that was not charged."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ledger_schedules.py")
DELTA = 1e-5


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: a kill does not care, and thousands of fsyncs are quick."""
    memory = "/dev/shm"  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def play(folder: Path, *calls: tuple[object, ...]) -> Counter[str]:
    """Runs the program once for each of `calls`, all at the same time; the sum of what they print."""
    running = []
    for number, call in enumerate(calls):
        command = [sys.executable, str(SCRIPT), *map(str, call), str(folder / str(number))]
        alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # it forks
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=alone))
    total = Counter[str]()
    for process in running:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        assert not errors
        total.update(json.loads(out))
    return total


def check(found: Counter[str]) -> None:
    """Nothing over the caps, nothing uncharged, nobody locked out; and the schedules were hard enough to tell."""
    assert (found["over"], found["unknown"], found["failures"]) == (0, 0, 0)
    assert found["kills"] > found["schedules"]
    assert found["near"] > found["schedules"] / 10
    assert found["releases"] > 10 * found["schedules"]
    assert found["repairs"] > found["schedules"] / 10


def test_a_few_schedules_of_a_job_that_is_killed_anywhere_release_nothing_over_the_caps(folder: Path) -> None:
    check(play(folder, ("kill", 15, 1, 1), ("kill", 15, 1, 2)))


def test_a_job_that_is_killed_before_each_system_call_in_turn_releases_nothing_over_what_it_reserved(
    folder: Path,
) -> None:
    found = play(folder, ("points",))
    assert (found["over"], found["unknown"], found["failures"]) == (0, 0, 0)
    assert found["points"] > 90


@pytest.mark.slow
def test_a_thousand_schedules_of_a_job_that_is_killed_anywhere_release_nothing_over_the_caps(folder: Path) -> None:
    found = play(folder, *(("kill", 250, 1, seed) for seed in (11, 12, 13, 14)))
    assert found["schedules"] == 1000
    check(found)


@pytest.mark.slow
def test_eight_jobs_at_once_that_are_killed_anywhere_release_nothing_over_the_caps(folder: Path) -> None:
    check(play(folder, *(("kill", 15, 8, seed) for seed in (21, 22))))


@pytest.mark.parametrize("jobs", [2, 8])
def test_jobs_at_once_release_nothing_over_the_caps(folder: Path, jobs: int) -> None:
    found = play(folder, ("race", jobs, 31))
    assert (found["unknown"], found["failures"]) == (0, 0)
    assert found["releases"] > 2 * jobs  # how many depends on who comes first
    assert 0 < found["delta"] <= DELTA
