"""What the report says of secure aggregation."""

from dataclasses import replace
from typing import Any

import pytest

from tests.server.report.parsed_page import Page
from tests.server.report.runs import lines_of, names_of, plan_of
from wardround.server.report import ReportedRun, page, render
from wardround.server.report.protection import protection
from wardround.server.report.visibility import visibility

MASKING: dict[str, Any] = {
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
    plan = plan_of("binary", 8, max(1, len(records)), **MASKING | sections)
    lines = lines_of(names_of(8), len(records), {})
    return ReportedRun(plan=plan, lines=[line | {"protection": one} for line, one in zip(lines, records, strict=True)])


def told(run: ReportedRun) -> str:
    section = protection(run)
    assert section is not None
    return Page(f"<html><body>{section.body}</body></html>").text


def test_noise_in_the_sums_that_standardise_columns_is_said() -> None:
    dp = {"statistics": "dp", "statistics_noise_multiplier": 9.0}
    noisy = {"unit": "row", "noise_multiplier": 2.0, "public_sizes": True, "sampling": "full"} | dp
    for privacy, end in ((noisy, "(standardisation), with noise."), ({}, "(standardisation).")):
        plan = plan_of("binary", 8, 1, **MASKING, privacy=privacy)
        assert f"per group, before the first round {end}" in visibility(ReportedRun(plan=plan, lines=[])).body


def test_what_is_tolerated_is_that_of_the_plans_own_rule() -> None:
    five = MASKING["protection"] | {"groups": 5, "dropout": 0.0, "min_survivors": 3}
    plan = plan_of("binary", 15, 1, **(MASKING | {"protection": five}))
    text = told(ReportedRun(plan=plan, lines=[]))
    assert "a mean takes everybody's word" in text and "tolerates 2 malicious" not in text
    assert "noise for distributed" not in text and "not measured here" not in text


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


def test_what_was_refused_is_counted_in_sums_of_groups() -> None:
    run, names = run_of(record(4, 4), record(3, 4)), names_of(8)
    lines: list[dict[str, Any]] = [dict(line) for line in run.lines]
    lines[1]["absences"] = [{"site": names[0], "reason": "dropped out"}]
    for line in lines:
        line["evidence"] = [
            {"members": names[:4], "weight": 1.0, "norm": 0.5, "verdict": "accepted", "reason": "", "flags": []},
            {"members": names[4:], "weight": 0.0, "norm": None, "verdict": "refused", "reason": "long", "flags": []},
        ]
    text = Page(render(replace(run, lines=lines))).text
    assert "Of 4 groups' sums, 2 (50.0 %) refused, none rejected" in text
    assert "1 update of 16 that were asked for reached no sum. 8 updates stood in a group's sum that had to be" in text


def test_a_groups_mean_is_held_against_the_clip_in_words() -> None:
    plan = plan_of("binary", 12, 1, **MASKING | {"protection": {"mode": "masking", "groups": 3}})
    plan = plan.override(["data.standardize=none", "robust.rule=median", "robust.num_byzantine=1"])
    text = Page(render(ReportedRun(plan=plan, lines=lines_of(names_of(12), 1, {})))).text
    assert "or a group's mean longer than the clip (1) or 100 times as long as the median" in text
