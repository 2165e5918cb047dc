"""A run that is killed anywhere and continued ends as one that was left alone, bit for bit."""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("tiny_run.py")


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: a kill does not care, and hundreds of fsyncs are quick."""
    memory = "/dev/shm"  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def play(folder: Path, *kills: str, run: str = "loop") -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), run, str(folder), *kills], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def content(run: Path) -> dict[str, object]:
    """The digest of every file of a run; metrics without the times, which no two runs share and the report tells."""
    files: dict[str, object] = {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.name != "report.html"
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    files["metrics.jsonl"] = [{key: line[key] for key in line if "seconds" not in key} for line in lines]
    return files


def test_an_undisturbed_run_has_all_its_lines_and_the_checkpoints_that_are_kept(folder: Path) -> None:
    play(folder, "none")
    files = content(folder / "none")
    lines = files["metrics.jsonl"]
    assert isinstance(lines, list)
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    kept = sorted(name for name in files if name.startswith("checkpoints/"))
    assert kept == [f"checkpoints/round-00000{r}.safetensors" for r in (1, 3, 4, 5)]
    assert {"model.safetensors", "model-card.md", "plan.toml", "run.json"} < set(files)


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_random_byte_positions_of_writes(folder: Path, seed: int) -> None:
    total = int(play(folder, "none").split()[0])
    kills = [f"byte-{at}" for at in random.Random(seed).sample(range(total), 10)]  # noqa: S311
    play(folder, *kills)
    for kill in kills:
        assert content(folder / kill) == content(folder / "none"), kill


def test_before_every_call_that_changes_the_disk(folder: Path) -> None:
    total = int(play(folder, "none").split()[1])
    kills = [f"call-{at}" for at in range(total)]
    play(folder, *kills)
    assert total >= 40
    for kill in kills:
        assert content(folder / kill) == content(folder / "none"), kill


@pytest.mark.slow
def test_ten_random_points_of_a_simulation(folder: Path) -> None:
    """The whole of `simulate`: training, BatchNorm statistics that stay at the sites, results and model card."""
    total_bytes, total_calls = map(int, play(folder, "none", run="simulate").split())
    generator = random.Random(3)  # noqa: S311
    before_report = total_bytes - (folder / "none" / "report.html").stat().st_size  # the report is written last
    kills = [f"byte-{at}" for at in (*generator.sample(range(before_report), 5), total_bytes - 1000)]
    kills += [f"call-{at}" for at in generator.sample(range(total_calls), 5)]
    play(folder, *kills, run="simulate")
    assert {"model.safetensors", "model-card.md", "results.json"} < set(content(folder / "none"))
    for kill in kills:
        assert content(folder / kill) == content(folder / "none"), kill
        assert (folder / kill / "report.html").stat().st_size > 1 << 20
