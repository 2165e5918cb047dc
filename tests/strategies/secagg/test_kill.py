"""Both roles on files, killed anywhere: no second mask, no other signature or answer, and the rounds come to an end."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: a kill does not care, and thousands of fsyncs are quick."""
    memory = "/dev/shm"  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def play(folder: Path, *call: object) -> Counter[str]:
    command = [sys.executable, "-m", "tests.strategies.secagg.kill_schedules", *map(str, call), str(folder)]
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # it forks
    done = subprocess.run(command, capture_output=True, text=True, env=alone, cwd=ROOT, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return Counter(json.loads(done.stdout))


def check(found: Counter[str], schedules: int) -> None:
    """Nothing was sent twice but in the same bytes, and every sum was exact; and some was sent twice."""
    assert (found["different"], found["wrong"]) == (0, 0)
    assert found["sums"] >= 2 * schedules
    assert found["again"] > schedules


def test_killed_before_every_thirteenth_write_in_turn_nobody_sends_anything_else_the_second_time(folder: Path) -> None:
    found = play(folder, "points", 13, "whole")
    check(found, found["points"])
    assert found["points"] >= 11


@pytest.mark.slow
def test_killed_before_each_write_in_turn_nobody_sends_anything_else_the_second_time(folder: Path) -> None:
    found = play(folder, "points", 1, "whole")
    check(found, found["points"])
    assert found["points"] >= 150


@pytest.mark.slow
def test_killed_at_random_times_nobody_sends_anything_else_the_second_time(folder: Path) -> None:
    found = play(folder, "kill", 100, 1, "whole")
    assert (found["different"], found["wrong"]) == (0, 0)
    assert found["sums"] >= 2 * found["schedules"]
    assert found["kills"] >= 100
    assert found["again"] > 0


def test_where_what_is_kept_of_a_round_is_lost_its_counter_alone_prevents_a_second_mask(folder: Path) -> None:
    found = play(folder, "points", 9, "record")
    assert (found["different"], found["wrong"]) == (0, 0)
    assert found["sums"] >= 2 * found["points"]


def test_where_the_counter_is_lost_too_members_mask_and_sign_twice(folder: Path) -> None:
    assert play(folder, "points", 9, "all")["different"] > 0
