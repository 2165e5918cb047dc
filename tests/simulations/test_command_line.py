"""The program as a person runs it: real processes, real training, real interruptions."""

import csv
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(sys.executable).parent / "wardround"
PLAN = """
name = "two measurements"
rounds = 3
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "patients.csv"
target = { name = "ill", classes = ["no", "yes"] }
columns = [{ name = "a", range = [-9, 9] }, { name = "b", range = [-9, 9] }]
[training]
lr = 1.0
epochs = 3
[simulation]
sites = 3
executor = "flat"
workers = 1
bootstrap = 100
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plan and 240 patients whose illness the two measurements nearly tell."""
    (tmp_path / "plan.toml").write_text(PLAN)
    generator = np.random.Generator(np.random.Philox(key=1))
    x = generator.normal(size=(240, 2))
    ill = x @ [2.0, -1.0] + 0.3 * generator.normal(size=240) > 0
    with (tmp_path / "patients.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "ill"])
        writer.writerows([*row, "yes" if sick else "no"] for row, sick in zip(x.round(4).tolist(), ill, strict=True))
    return tmp_path


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([PROGRAM, *arguments], cwd=folder, capture_output=True, text=True)


def refused(folder: Path, *arguments: str) -> str:
    """The one line with which a command is refused."""
    done = run(folder, *arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    return done.stderr


@pytest.mark.slow
def test_from_a_plan_to_predictions(folder: Path) -> None:
    done = run(folder, "simulate", "plan.toml")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("round ")] == [f"round {n}/3" for n in (1, 2, 3)]
    assert lines[-1] == "report  runs/two-measurements-1/report.html"
    assert "site-03" in done.stdout
    assert (folder / "runs/two-measurements-1/report.html").stat().st_size > 10_000

    again = run(folder, "simulate", "plan.toml", "--json", "--no-report", "--set", "training.lr=0.5")
    assert (again.returncode, again.stderr) == (0, "")
    records = [json.loads(line) for line in again.stdout.splitlines()]
    assert [record["round"] for record in records[:-1]] == [1, 2, 3]
    assert records[-1]["run"] == "runs/two-measurements-2"
    assert records[-1]["metrics"]["auc"] > 0.9

    compared = run(folder, "compare", "runs/two-measurements-1", "runs/two-measurements-2")
    assert compared.returncode == 0
    assert "training.lr" in compared.stdout

    predicted = run(folder, "predict", "runs/two-measurements-1", "patients.csv")
    rows = list(csv.DictReader(predicted.stdout.splitlines()))
    truth = [row["ill"] for row in csv.DictReader((folder / "patients.csv").read_text().splitlines())]
    assert [row["row"] for row in rows] == [str(number) for number in range(2, 242)]
    assert np.mean([row["prediction"] == ill for row, ill in zip(rows, truth, strict=True)]) > 0.9

    page = folder / "runs/two-measurements-1/report.html"
    page.unlink()
    assert run(folder, "report", "runs/two-measurements-1").returncode == 0
    assert page.exists()


@pytest.mark.slow
def test_ctrl_c_keeps_the_rounds_and_says_how_to_continue(folder: Path) -> None:
    arguments = ["simulate", "plan.toml", "--set", "rounds=100000", "--out", "r"]
    process = subprocess.Popen(
        [PROGRAM, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round 3/"):
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.count("\n") == 1
    assert error.startswith("interrupted: rounds 1 to ")
    assert error.endswith("are kept; continue with: wardround simulate --resume r\n")
    kept = int(error.split()[4])
    assert kept >= 3
    assert len((folder / "r" / "metrics.jsonl").read_text().splitlines()) == kept


@pytest.mark.slow
def test_a_terminal_shows_a_bar(folder: Path) -> None:
    terminal, program_side = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "simulate", "plan.toml", "--out", "r"],
        cwd=folder,
        stdout=program_side,
        stderr=program_side,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(program_side)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # the other side is closed
        pass
    os.close(terminal)
    assert process.wait() == 0
    assert b"3/3" in shown
    assert b"\x1b[?25h" in shown
    assert shown.decode().splitlines()[-1] == "report  r/report.html"


@pytest.mark.slow
def test_what_cannot_be_done_is_refused_in_one_line(folder: Path) -> None:
    (folder / "used").mkdir()
    (folder / "used" / "thesis.txt").write_text("precious")
    assert "used: exists" in refused(folder, "simulate", "plan.toml", "--out", "used")
    assert [path.name for path in (folder / "used").iterdir()] == ["thesis.txt"]
    assert "plan.toml" in refused(folder, "simulate", "plan.toml", "--out", "plan.toml/below")
    assert "'weight'" in refused(folder, "simulate", "plan.toml", "--set", 'data.columns=[{ name = "weight" }]')
    (folder / "patients.csv").write_text((folder / "patients.csv").read_text().replace("yes", "maybe", 1))
    line = refused(folder, "simulate", "plan.toml")
    assert "'ill'" in line
    assert "first in row " in line
    assert "used: expected a run directory" in refused(folder, "compare", "used", "used")
