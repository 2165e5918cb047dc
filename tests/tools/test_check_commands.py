"""tools/check_commands.py reads console blocks and knows which commands can be typed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(path: Path, *lines: str, language: str = "console") -> tuple[int, str]:
    """Exit code and output of the tool for a document with one block of `lines`; without lines, as `path` is."""
    if lines:
        path.write_text("\n".join(["Text with make nonsense.", "", f"```{language}", *lines, "```", ""]))
    run = subprocess.run([sys.executable, ROOT / "tools" / "check_commands.py", path], capture_output=True, text=True)
    return run.returncode, run.stdout


@pytest.mark.parametrize(
    "line",
    [
        "make test PYTHON=python3.12",
        "make lint && make test | tail -n 1 > out.txt",
        "LEVEL=1 python tools/check_wheel.py",
        "git clone somewhere && cd somewhere",
        "flwr run \\\n    directory",
    ],
)
def test_commands_that_exist(tmp_path: Path, line: str) -> None:
    assert check(tmp_path / "a.md", *line.splitlines())[0] == 0


@pytest.mark.parametrize(
    "line",
    [
        "make nonsense",
        "make test && make nonsense",
        "python tools/nothing.py",
        "wardround nonsense",
        "wardround --nonsense",
        ".venv/bin/wardround nonsense",
    ],
)
def test_commands_that_do_not_exist(tmp_path: Path, line: str) -> None:
    code, output = check(tmp_path / "a.md", line)
    assert code == 1
    assert "a.md:4: " in output


def test_output_in_a_console_block_is_not_a_command(tmp_path: Path) -> None:
    assert check(tmp_path / "a.md", "$ make test", "make nonsense")[0] == 0
    assert check(tmp_path / "a.md", "$ make nonsense", "some output")[0] == 1


def test_other_blocks_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("```toml\nmake nonsense\n```\n\n```sh\nmake test\n```\n")
    assert check(tmp_path / "b.md")[0] == 0


def test_documents_without_any_command_are_refused(tmp_path: Path) -> None:
    code, output = check(tmp_path / "a.md", "make test", language="toml")
    assert (code, "got none" in output) == (1, True)
