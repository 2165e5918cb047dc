"""The code generated from link.proto is what is checked in; tools/check_generated.py says so, and notices."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def check(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "tools" / "check_generated.py"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    return run.returncode, run.stdout


def test_the_generated_code_is_that_of_the_source() -> None:
    assert check() == (0, "")


def test_stale_and_missing_code_is_found_and_written(tmp_path: Path) -> None:
    folder = tmp_path / "wardround" / "link"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "wardround" / "link" / "link_pb2.py", folder)
    with (folder / "link_pb2.py").open("a") as file:
        file.write("# edited\n")
    code, text = check("--root", str(tmp_path))
    assert code == 1
    assert "wardround/link/link_pb2.py: is stale" in text and "wardround/link/link_pb2.pyi: is stale" in text
    assert check("--root", str(tmp_path), "--write")[0] == 0
    assert check("--root", str(tmp_path)) == (0, "")
