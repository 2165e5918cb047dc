"""tools/check_acceptance.py finds a promise without evidence, evidence that did not run, and unlisted skips."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUTCOMES = {
    "tests/test_a.py::test_one": "passed",
    "tests/test_a.py::test_many[1]": "passed",
    "tests/test_a.py::test_many[2]": "passed",
    "tests/test_b.py::test_broken": "failed",
}


def check(folder: Path, document: str, outcomes: dict[str, str]) -> tuple[int, str]:
    """Exit code and complaints of the tool for a document and a test run."""
    (folder / "acceptance.md").write_text(document)
    (folder / "outcomes.json").write_text(json.dumps(outcomes))
    command: list[str | Path] = [sys.executable, ROOT / "tools" / "check_acceptance.py"]
    command += ["--document", folder / "acceptance.md", "--outcomes", folder / "outcomes.json"]
    run = subprocess.run(command, capture_output=True, text=True)
    return run.returncode, run.stderr


def document(*evidence: str, rest: str = "") -> str:
    return "## 2 A work\n\n### 2.1 An item\n\n" + "".join(f"- `{e}` shows it\n" for e in evidence) + rest


@pytest.mark.parametrize(
    "evidence",
    [
        "tests/test_a.py::test_one",
        "tests/test_a.py::test_many",
        "tests/test_a.py::test_many[2]",
        "tests/test_a.py",
        "make test",
        "python tools/check_wheel.py",
    ],
)
def test_evidence_that_exists_is_accepted(tmp_path: Path, evidence: str) -> None:
    assert check(tmp_path, document(evidence), OUTCOMES) == (0, "")


@pytest.mark.parametrize(
    ("evidence", "complaint"),
    [
        ("tests/test_a.py::test_on", "did not run"),
        ("tests/test_a.py::test_many[3]", "did not run"),
        ("tests/test_c.py", "did not run"),
        ("tests/test_b.py::test_broken", "failed"),
        ("make tset", "no target 'tset'"),
        ("python tools/nothing.py", "there is no tools/nothing.py"),
        ("see the code", "expected a test id or a command"),
    ],
)
def test_evidence_that_does_not_show_it_is_refused(tmp_path: Path, evidence: str, complaint: str) -> None:
    code, complaints = check(tmp_path, document(evidence), OUTCOMES)
    assert code == 1
    assert complaint in complaints


def test_an_item_without_evidence_is_refused(tmp_path: Path) -> None:
    code, complaints = check(tmp_path, document(), OUTCOMES)
    assert (code, "item 2.1 has no evidence" in complaints) == (1, True)


def test_a_gap_in_the_numbering_is_refused(tmp_path: Path) -> None:
    text = document("make test", rest="\n### 2.3 Another\n\n- `make test`\n")
    code, complaints = check(tmp_path, text, OUTCOMES)
    assert (code, "without a gap" in complaints) == (1, True)


def test_a_document_without_items_is_refused(tmp_path: Path) -> None:
    assert check(tmp_path, "# Acceptance\n", OUTCOMES)[0] == 1


@pytest.mark.parametrize("outcome", ["skipped", "xfailed"])
def test_a_skip_has_to_be_listed_with_its_reason(tmp_path: Path, outcome: str) -> None:
    outcomes = OUTCOMES | {"tests/test_c.py::test_gpu": outcome}
    code, complaints = check(tmp_path, document("make test"), outcomes)
    assert (code, "not listed under Skips" in complaints) == (1, True)
    listed = document("make test", rest="\n## Skips\n\n- `tests/test_c.py::test_gpu`")
    assert check(tmp_path, f"{listed}\n", outcomes)[0] == 1
    assert check(tmp_path, f"{listed}: needs a GPU\n", outcomes) == (0, "")


def test_a_listed_skip_that_did_not_appear_is_refused(tmp_path: Path) -> None:
    text = document("make test", rest="\n## Skips\n\n- `tests/test_gone.py`: needs a GPU\n")
    assert check(tmp_path, text, OUTCOMES)[0] == 1
