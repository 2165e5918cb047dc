"""The report's section on privacy: the claim that was spent, the curves, and that figures in clear are called so."""

from typing import Any

import pytest

from tests.server.report.parsed_page import Page, check_nothing_is_loaded
from tests.server.report.runs import TARGETS, lines_of, names_of, plan_of, run_of
from wardround.plan import Plan
from wardround.server.report import ReportedRun, page, render
from wardround.server.report.privacy import claimed, privacy

NAMES = names_of(3)


@pytest.fixture(autouse=True)
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_plotly", lambda: "")


def private(rounds: int = 4, **keys: Any) -> Plan:
    columns = [{"name": f"x{i}", "range": [0, 9]} for i in range(4)]
    data = {"source": "csv", "path": "rows.csv", "target": TARGETS["binary"], "columns": columns}
    chosen = {"unit": "row", "epsilon": 3, "public_sizes": True} | keys
    return plan_of(
        "binary",
        len(NAMES),
        rounds,
        data=data,
        cohort={"weighting": "uniform"},
        evaluation={"every": 0},
        privacy={key: value for key, value in chosen.items() if value is not None},
    )


def clients(**keys: Any) -> Plan:
    return private(**{"unit": "client", "public_sizes": None, "noise_multiplier": 4.0, "epsilon": None} | keys)


def lines(rounds: int = 4, *, sites: bool = True, **more: Any) -> list[dict[str, Any]]:
    """Site i has spent round x (1 + i) / 10; `more` is in every line."""
    found = lines_of(NAMES, rounds, {"auc": 0.9})
    for line in found:
        spent = {name: line["round"] * (1 + at) / 10 for at, name in enumerate(NAMES)}
        line["privacy"] = {
            "epsilon": max(spent.values()),
            "delta": 1e-6,
            "sites": spent if sites else {},
            "clip_norm": 1.0,
            "clipped": None,
            "noise_to_signal": None,
        } | more
    return found


def reported(plan: Plan | None = None, found: list[dict[str, Any]] | None = None) -> ReportedRun:
    return run_of(names=NAMES, plan=private() if plan is None else plan, lines=lines() if found is None else found)


def drawn(run: ReportedRun) -> Page:
    return Page(privacy(run).body)


def test_without_privacy_the_section_says_so_and_what_that_means() -> None:
    shown = drawn(run_of())
    assert "None. Nothing bounds what the model" in shown.text and not shown.figures
    assert "epsilon" not in shown.text


def test_the_claim_is_what_the_last_round_had_spent() -> None:
    text = drawn(reported()).text
    assert "epsilon 1.2 at delta 1e-6 for every row (add-remove)" in text
    for part in ("against", "the other hospitals", "sampling", "(Poisson)", "The approved code", "charge of its own"):
        assert part in text, part


def test_before_a_round_and_without_a_bound_nothing_is_claimed() -> None:
    assert "Nothing is claimed: no round was finished." in drawn(reported(found=[])).text
    unbounded = lines()
    unbounded[-1]["privacy"]["epsilon"] = None
    shown = drawn(reported(found=unbounded))
    assert "Nothing is claimed: what the rounds cost has no bound." in shown.text and not shown.figures
    assert claimed(private(), unbounded) is None
    assert claimed(private(), [line | {"privacy": None} for line in lines()]) is None


def test_epsilon_is_drawn_as_the_largest_in_the_range_over_sites() -> None:
    (figure,) = drawn(reported()).figures
    low, high, largest, target = figure["data"]
    assert largest["x"] == low["x"] == [1, 2, 3, 4]
    assert low["y"] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert high["y"] == largest["y"] == pytest.approx([0.3, 0.6, 0.9, 1.2])
    assert target["y"] == [3.0] * 4
    assert "for every row (add-remove), at delta 1e-6" in drawn(reported()).text


def test_a_claim_of_the_whole_federation_has_no_range() -> None:
    (figure,) = drawn(reported(clients(), lines(sites=False))).figures
    assert len(figure["data"]) == 1
    assert "the range over sites" not in drawn(reported(clients(), lines(sites=False))).text


def test_sites_are_listed_with_the_largest_first() -> None:
    text = drawn(reported()).text
    assert "site-00003 1.2 site-00002 0.8 site-00001 0.4" in text
    assert "Epsilon of each hospital: for every row (add-remove), delta at most 1e-6" in text


def test_clipping_is_called_what_only_a_simulation_knows() -> None:
    shown = drawn(reported(found=lines(clipped=0.25)))
    figure = shown.figures[1]
    assert figure["data"][0]["y"] == [25.0] * 4
    assert "Only a simulation knows it: it depends on the rows" in shown.text and "rows' gradients" in shown.text
    assert "Only a simulation knows it" not in drawn(reported()).text


def test_a_noisy_count_of_clipped_clients_is_in_the_claim() -> None:
    plan = clients(clipping="adaptive", noise_multiplier=0.1)
    text = drawn(reported(plan, lines(sites=False, clipped=0.5))).text
    assert "epsilon includes that count" in text and "Only a simulation knows it" not in text


def test_noise_to_signal_and_a_clip_that_moves_are_drawn() -> None:
    found = lines(noise_to_signal=0.8)
    assert drawn(reported(found=found)).figures[1]["data"][0]["y"] == [0.8] * 4
    for line in found:
        line["privacy"]["clip_norm"] = 1.0 / line["round"]
    assert drawn(reported(found=found)).figures[2]["data"][0]["y"] == pytest.approx([1, 0.5, 1 / 3, 0.25], abs=1e-4)


def test_many_rounds_are_thinned_and_end_with_the_last() -> None:
    plan = private(rounds=2501)
    (figure,) = drawn(reported(plan, lines(2501))).figures
    x = figure["data"][2]["x"]
    assert len(x) <= 1001 and x[0] == 1 and x[-1] == 2501


def test_the_whole_page_has_the_section_and_limits_the_claim() -> None:
    text = render(reported())
    shown = Page(text)
    check_nothing_is_loaded(shown)
    assert "privacy" in shown.sections
    limits = shown.text[shown.text.index("What the server of such a run can see") :]
    assert "Differential privacy beyond its claim: epsilon 1.2 at delta 1e-6 for every row (add-remove)" in limits
    assert "Differential privacy: none" not in shown.text
    assert "the noise that hides a row, added before it left the hospital" in limits
    assert "no loss on its training rows" in limits and "summed training loss" not in limits
    assert "How many training rows each hospital has" in limits


def test_the_server_sees_what_the_plan_lets_it_see() -> None:
    text = Page(render(reported(clients(), lines(sites=False)))).text
    assert "The server is trusted to add the noise and to show nobody the updates" in text
    assert "How many training rows each hospital has" not in text
    assert "Counts of how well the model does" not in text
    clear = private(evaluation="clear").override(["evaluation.every=1"])
    assert "Counts of how well the model does" in Page(render(reported(clear))).text
