"""What the report says of secure aggregation."""

from typing import Any

import pytest

from tests.simulations.report.parsed_page import Page
from tests.simulations.report.runs import lines_of, names_of, plan_of
from wardround.simulations.report import ReportedRun, page, render
from wardround.simulations.report.protection import protection

MASKING = {
    "clipping": {"clip_norm": 1.0},
    "cohort": {"weighting": "uniform"},
    "protection": {"mode": "masking", "groups": 2, "colluding": 0, "dropout": 0.25, "min_survivors": 3},
}


@pytest.fixture(autouse=True)
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_plotly", lambda: "")


def record(*survivors: int, accounted: bool = False, **more: Any) -> dict[str, Any]:
    groups = [{"number": number, "members": 4, "survivors": n} for number, n in enumerate(survivors)]
    costs = {
        "update": {"seconds": 1.5, "sent_bytes": 2_000_000, "received_bytes": 4_100_000},
        "signature": {"seconds": 0.25, "sent_bytes": 900, "received_bytes": 10},
    }
    found = {"epoch": 0, "round": 0, "groups": groups, "lost": {}, "aborts": [], "costs": costs}
    return found | {"accounted": accounted} | more


def run_of(*records: dict[str, Any], **sections: Any) -> ReportedRun:
    plan = plan_of("binary", 8, max(1, len(records)), **MASKING, **sections)
    lines = lines_of(names_of(8), len(records), {})
    return ReportedRun(plan=plan, lines=[line | {"protection": one} for line, one in zip(lines, records, strict=True)])


def told(run: ReportedRun) -> str:
    section = protection(run)
    assert section is not None
    return Page(f"<html><body>{section.body}</body></html>").text


def test_groups_losses_aborts_and_costs_are_told() -> None:
    abort = {"cause": "TOO_FEW_SIGNATURES", "parties": ["site-00003"], "reason": "expected 5 signatures, got 4"}
    lost = {"update": ["site-00001"], "signature": ["site-00003", "site-00004"]}
    text = told(run_of(record(4, 4), record(3, 0, lost=lost), record(0, 0, aborts=[abort])))
    for expected in (
        "the server saw at most 2 sums, one of each group, of at least 3 hospitals' updates each",
        "as sums only, and of no single hospital",
        "Of 3 rounds, 1 gave the sums of all 2 groups, 1 of some, 1 of none.",
        "the list of survivors was not signed 2 8.3 % site-00003 and site-00004",
        "3 too few signatures site-00003 expected 5 signatures, got 4",
        "4.5 s 6 MB 12.3 MB",
        "0.8 s 2.7 kB 30 B",
    ):
        assert expected in text, (expected, text)
    assert "cryptography" not in text


def test_every_group_and_round_is_a_cell() -> None:
    section = protection(run_of(record(4, 4), record(3, 0)))
    assert section is not None
    heat, bars = Page(f"<html><body>{section.body}</body></html>").figures
    assert heat["data"][0]["z"] == [[4, 3], [4, 0]]
    assert [trace["name"] for trace in bars["data"]] == ["update", "signature"]
    assert bars["data"][0]["y"] == [1.5, 1.5]


def test_a_simulation_without_cryptography_says_so_first() -> None:
    simulation = {"sites": 8, "cryptography": "accounting"}
    text = told(run_of(record(4, 4, accounted=True, costs={}), simulation=simulation))
    assert text.startswith("No cryptography ran: updates were added up in the clear")
    assert "the server would have seen at most 2 sums" in text and "Costs of" not in text


def test_the_section_is_there_exactly_with_protection() -> None:
    assert "protection" in Page(render(run_of(record(4, 4)))).sections
    plain = ReportedRun(plan=plan_of("binary", 8, 1), lines=lines_of(names_of(8), 1, {}))
    assert protection(plain) is None and "protection" not in Page(render(plain)).sections
    assert "No round was finished." in told(run_of())


def test_what_the_server_could_see_is_told_of_groups() -> None:
    text = Page(render(run_of(record(4, 4)))).text
    assert "In every round, of 2 groups, the sum of the updates of at least 3 hospitals." in text
    assert "Every hospital's update, in the clear" not in text
