"""A short soak: a federation whose processes are killed again and again ends with its models and exact books."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_kills_leave_exact_books_and_the_model(tmp_path: Path) -> None:
    found, rounds = tmp_path / "soak.json", 80  # so many that nobody is through before anybody was killed
    command = [sys.executable, str(SOAK), "--minutes", "0", "--seed", "5", "--rounds", str(rounds)]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path / "soak"), "--output", str(found)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    soaked = json.loads(found.read_text())
    assert [run["variant"] for run in soaked["runs"]] == ["clear", "masked"]
    assert soaked["runs"][0]["rounds"] == rounds
    assert sum(soaked["kills"].values()) >= 2
    assert soaked["begun_at_hospitals"] >= soaked["contributed"] > 0
