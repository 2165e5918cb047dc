import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.simulations.attacked_federation import plan
from wardround.errors import LocalError
from wardround.server.runs.evidence import evidence_of_site, evidence_of_sites, evidence_table
from wardround.server.runs.run_directory import RunDirectory


def one(site: str, verdict: str = "accepted", *flags: str, norm: float | None = 1.5) -> dict[str, Any]:
    return {
        "members": [site],
        "weight": 1.0,
        "norm": norm,
        "cosine": None,
        "score": 0.25,
        "verdict": verdict,
        "reason": "not [/b] finite" if verdict == "refused" else "",
        "flags": list(flags),
    }


def line(number: int, *evidence: dict[str, Any], quarantined: tuple[str, ...] = (), **suspicion: float) -> str:
    cohort = [site for item in evidence for site in item["members"]]
    found = {"evidence": evidence, "reputation": suspicion, "quarantined": quarantined}
    return json.dumps({"round": number, "cohort": cohort, **found}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    RunDirectory.create(tmp_path / "run", plan(), {}).close()
    lines = (
        line(1, one("a"), one("b", "refused", norm=None), one("[red]c", "rejected", "norm", "cosine")),
        line(2, one("a", "down-weighted"), one("b", "refused", norm=None), b=0.5, quarantined=("b",)),
        line(3, one("a"), one("[red]c"), b=0.75, quarantined=("b",)),
    )
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines))
    return tmp_path / "run"


def test_a_row_for_each_site(folder: Path) -> None:
    rows = {row["site"]: row for row in evidence_of_sites(folder)}
    assert list(rows) == ["[red]c", "a", "b"]
    assert rows["a"] == {
        "site": "a",
        "contributions": 3,
        "refused": 0,
        "rejected": 0,
        "down-weighted": 1,
        "flagged": 0,
        "suspicion": 0.0,
        "quarantined in rounds": "",
    }
    assert (rows["b"]["refused"], rows["b"]["suspicion"], rows["b"]["quarantined in rounds"]) == (2, 0.75, "2 to 3")
    assert (rows["[red]c"]["rejected"], rows["[red]c"]["flagged"], rows["[red]c"]["contributions"]) == (1, 1, 2)


def test_a_row_for_each_contribution_of_a_site(folder: Path) -> None:
    first, second = evidence_of_site(folder, "[red]c")
    assert first == {
        "round": 1,
        "verdict": "rejected",
        "weight": 1.0,
        "norm": 1.5,
        "cosine": None,
        "score": 0.25,
        "flags": ["norm", "cosine"],
        "reason": "",
    }
    assert (second["round"], second["flags"]) == (3, [])


def test_a_site_that_was_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(LocalError, match="expected a site of this run with noted contributions, got 'red'"):
        evidence_of_site(folder, "red")


def test_what_is_no_run_and_a_run_without_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="expected a run directory"):
        evidence_of_sites(tmp_path)
    RunDirectory.create(tmp_path / "new", plan(), {}).close()
    with pytest.raises(LocalError, match="expected a run with finished rounds"):
        evidence_of_sites(tmp_path / "new")


def test_the_table_shows_names_as_they_are(folder: Path) -> None:
    shown = StringIO()
    console = Console(width=200, file=shown)
    console.print(evidence_table(evidence_of_sites(folder)))
    console.print(evidence_table(evidence_of_site(folder, "b")))
    console.print(evidence_table([]))
    text = shown.getvalue()
    assert "[red]c" in text and "not [/b] finite" in text and "2 to 3" in text
    assert " - " in text  # a norm that was not measured
