"""The report: what it says of which run, that it loads nothing, that names stay text, that it stays small."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tests.server.report.parsed_page import Page, check_nothing_is_loaded, strings_of
from tests.server.report.runs import comparison_of, lines_of, names_of, plan_of, run_of
from wardround.plan import parse_plan
from wardround.server.report import ReportedRun, page, render
from wardround.server.report.wording import count, difference, duration, estimate, number
from wardround.server.runs.comparison import Estimate

SECTIONS = ["hospitals", "curves", "convergence", "privacy", "participation", "differences", "limits", "plan"]


@pytest.fixture(autouse=True)
def without_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests read the page faster without the 5 MB of the plotting library."""
    if request.function.__name__ not in LIBRARY_TESTS:
        monkeypatch.setattr(page, "_plotly", lambda: "")


LIBRARY_TESTS = {"test_the_plotting_library_is_in_the_file_once", "test_a_federation_of_ten_thousand_stays_small"}


def drawn(run: ReportedRun) -> Page:
    return Page(render(run))


def headline(shown: Page) -> str:
    return shown.text[: shown.text.index("What each hospital gains")]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_every_kind_of_target_fills_every_section(kind: str) -> None:
    shown = drawn(run_of(kind))
    assert shown.sections == SECTIONS
    plots = sum(tag == "div" and attributes.get("class") == "plot" for tag, attributes in shown.tags)
    assert plots == len(shown.figures) >= 8
    assert all(figure["data"] for figure in shown.figures)


def test_the_headline_says_what_each_way_of_training_reached() -> None:
    run = run_of()
    found = run.comparison
    assert found is not None
    federated = found.overall["federated"]["auc"]
    assert federated.low is not None and federated.high is not None
    assert (
        f"Four hospitals together reach AUC {federated.value:.3f} (95 % interval {federated.low:.3f} to "
        f"{federated.high:.3f}); alone they reach {found.overall['alone']['auc'].value:.3f} on average; pooling all "
        f"data would reach {found.overall['pooled']['auc'].value:.3f} ."
    ).replace(" ", "") in headline(drawn(run)).replace(" ", "")


def test_an_error_is_better_when_lower_and_has_its_unit() -> None:
    shown = headline(drawn(run_of("regression")))
    assert "RMSE (mg)" in shown
    assert "Lower is better." in shown


def test_plots_hold_the_comparisons_numbers() -> None:
    run = run_of()
    found = run.comparison
    assert found is not None
    own, everywhere = drawn(run).figures[:2]
    federated = next(trace for trace in own["data"] if trace["name"] == "federated")
    values = [site.own["federated"]["auc"].value for site in found.sites]
    assert federated["x"] == pytest.approx(values, abs=1e-5)
    lows = [value - reach for value, reach in zip(federated["x"], federated["error_x"]["arrayminus"], strict=True)]
    assert lows == pytest.approx([site.own["federated"]["auc"].low for site in found.sites], abs=1e-4)
    assert everywhere["data"][0]["x"] == pytest.approx([s.elsewhere["auc"].value for s in found.sites], abs=1e-5)


def participation_of(shown: Page) -> dict[str, Any]:
    return next(f for f in shown.figures if f["data"][0].get("zmax") == 4.5)


def test_the_heat_map_shows_who_was_drawn_absent_refused_and_when_a_round_was_void() -> None:
    names = names_of(3)
    lines = lines_of(names, 3, {"auc": 0.9}, void=[3])
    lines[0]["cohort"] = names[:2]
    lines[1]["absences"] = [{"site": names[1], "reason": "late by 3 s"}]
    lines[1]["evidence"] = [
        {"members": [names[2]], "weight": 0.0, "norm": None, "verdict": "rejected", "reason": "not finite"}
    ]
    shown = drawn(run_of(names=names, rounds=3, lines=lines))
    heat = participation_of(shown)["data"][0]
    assert heat["z"] == [[1, 1, 2], [1, 3, 2], [0, 4, 2]]
    assert "late by 3 s" in heat["text"][1][1]
    assert "not finite" in heat["text"][2][1]
    assert "1 round was void" in shown.text
    assert "1 update came and had to be refused." in shown.text


def test_what_a_rule_made_little_of_took_part() -> None:
    names = names_of(3)
    lines = lines_of(names, 1, {"auc": 0.9})
    verdicts = ("rejected", "down-weighted", "refused")
    lines[0]["evidence"] = [
        {"members": [name], "weight": 0.1, "norm": 1.0, "cosine": None, "verdict": verdict, "reason": "", "flags": []}
        for name, verdict in zip(names, verdicts, strict=True)
    ]
    shown = drawn(run_of(names=names, rounds=1, lines=lines))
    assert participation_of(shown)["data"][0]["z"] == [[1], [1], [4]]


def test_reasons_are_counted() -> None:
    lines = lines_of(names_of(4), 4, {"auc": 0.9})
    for line in lines:
        line["absences"] = [{"site": line["cohort"][0], "reason": "late by 3 s"}]
    assert "late by 3 s 4 25.0 %" in drawn(run_of(lines=lines, rounds=4)).text


@pytest.mark.parametrize(("sites", "rounds"), [(101, 3), (3, 301), (500, 700)])
def test_very_many_hospitals_or_rounds_are_counted_instead(sites: int, rounds: int) -> None:
    names = names_of(sites)
    lines = lines_of(names, rounds, {"auc": 0.9}, cohort=3, lost=0.3, void=[2])
    shown = drawn(run_of(names=names, rounds=rounds, lines=lines))
    bars = next(f for f in shown.figures if any(trace.get("name") == "took part" for trace in f["data"]))
    assert {trace["name"] for trace in bars["data"]} == {"took part", "void round", "no reply (dropped out)"}
    assert all(len(trace["x"]) <= 300 for trace in bars["data"])
    width = -(-rounds // 300)
    total = sum(y for trace in bars["data"] for y in trace["y"])
    assert total * width == pytest.approx(3 * rounds, rel=0.02)


def test_one_hospital() -> None:
    shown = drawn(run_of(sites=1))
    assert "One hospital reaches AUC" in headline(shown)
    assert "alone it reaches" in headline(shown)
    assert "The hospital took part in every round." in shown.text


def test_two_hospitals() -> None:
    assert "Two hospitals together reach AUC" in headline(drawn(run_of(sites=2)))


def test_a_run_that_stopped_early_and_was_continued() -> None:
    run = run_of(rounds=6, stopped="no better validation loss in 2 evaluations", resumed=[3], released_round=4)
    shown = drawn(replace(run, lines=run.lines[:5]))
    assert "5 of 6" in shown.text
    assert "Training stopped early: no better validation loss in 2 evaluations." in shown.text
    assert "released model is that of round 4" in shown.text
    assert "continued before round 3" in shown.text


def test_a_run_without_a_finished_round() -> None:
    shown = drawn(run_of(lines=[], comparison=None, released_round=0))
    assert "No round was finished." in shown.text
    assert "curves" not in shown.sections


def test_a_flower_app_has_neither_scores_nor_data_to_describe() -> None:
    plan = parse_plan(
        {
            "name": "app",
            "rounds": 4,
            "task": {"flower_app": "m:app", "flower_initial": "m:initial"},
            "data": {"source": "app", "validation": 0.2},
            "simulation": {"sites": 4},
        }
    )
    lines = lines_of(names_of(4), 4, {"f1_score": 0.81234})
    shown = drawn(run_of(plan=plan, lines=lines, comparison=None, differences=None, info=None))
    assert "Four hospitals trained together for 4 rounds" in headline(shown)
    assert "A Flower app keeps its data to itself" in headline(shown)
    assert "brought its own" in shown.text
    assert any("f1_score" in f["layout"].get("title", "") or f["data"][0]["name"] == "f1_score" for f in shown.figures)


def test_without_baselines_nothing_is_said_of_them() -> None:
    plan = plan_of("binary", 4, 6)
    shown = drawn(run_of(comparison=comparison_of(plan, "binary", names_of(4), baselines=False)))
    assert "alone they reach" not in shown.text
    assert "pooling all data" not in shown.text


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_without_intervals(kind: str) -> None:
    found = run_of(kind).comparison
    assert found is not None
    text = re.sub(r', "(low|high)": [-0-9.e]+', "", found.to_json()).replace('"resamples": 50', '"resamples": 0')
    shown = drawn(run_of(kind, comparison=type(found).from_json(text)))
    assert "95 % interval" not in headline(shown)
    assert "No intervals were computed" in shown.text


EVIL = "<img src=x onerror=alert(1)></script><b>&amp;\"'{{%{x}}}"


def test_names_stay_text() -> None:
    names = [EVIL, "a" * 200, "Charité", "two"]
    plan = parse_plan(
        {
            "name": EVIL,
            "rounds": 2,
            "task": {"name": "tabular-classifier"},
            "data": {
                "source": "csv",
                "path": EVIL,
                "target": {"name": "t", "classes": [EVIL, "other"]},
                "columns": [{"name": EVIL + str(i), "range": [0, 1]} for i in range(4)],
            },
            "simulation": {"sites": 4},
        }
    )
    lines = lines_of(names, 2, {"auc": 0.5, EVIL: 0.5}, lost=0.9, reason=EVIL)
    run = run_of(names=names, plan=plan, lines=lines, stopped=EVIL, resumed=[1], versions={EVIL: EVIL})
    run = replace(run, differences=dict(run.differences or {}) | {"inputs": [EVIL] * 4, "labels": [EVIL, "other"]})
    text = render(run)
    shown = Page(text)
    assert EVIL in shown.text
    assert "<img" not in text and "onerror=alert(1)></script" not in text
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section", "a"}
    allowed |= {
        "h1",
        "h2",
        "h3",
        "p",
        "div",
        "span",
        "strong",
        "ul",
        "li",
        "figure",
        "figcaption",
        "script",
        "noscript",
    }
    allowed |= {"table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre"}
    assert {tag for tag, _ in shown.tags} <= allowed
    for found in strings_of(shown.figures):
        assert not re.search(r"<(?!br>|extra>|/extra>)", found), found


def test_nothing_is_loaded_from_anywhere() -> None:
    check_nothing_is_loaded(drawn(run_of()))
    style = page._file("style.css")
    assert "url(" not in style and "@import" not in style and "@font-face" not in style
    assert "://" not in style + page._file("page.js")


def test_what_the_server_saw_and_what_is_not_claimed() -> None:
    text = drawn(run_of()).text
    for claim in ("in the clear, in every round", "Differential privacy: none", "Robustness: none", "A network:"):
        assert claim in text
    assert "Sums of each number column" in text


def test_headings_are_in_order_and_plots_are_described() -> None:
    shown = drawn(run_of())
    levels = [int(tag[1]) for tag, _ in shown.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for tag, attributes in shown.tags:
        if tag == "div" and attributes.get("class") == "plot":
            assert attributes.get("role") == "img" and attributes.get("aria-label")


def test_the_plotting_library_is_in_the_file_once() -> None:
    text = render(run_of())
    assert text.count("plotly.js v") == 1
    assert len(text.encode()) < 6_000_000
    assert "</script" not in page._plotly()


def test_a_federation_of_ten_thousand_stays_small() -> None:
    names = names_of(10_000)
    lines = lines_of(names, 30, {"auc": 0.9}, cohort=1000, lost=0.1)
    text = render(run_of(names=names, rounds=30, lines=lines))
    assert len(text.encode()) < 8_000_000
    shown = Page(text)
    assert "10 000 hospitals together reach AUC" in headline(shown)
    assert "Of 10 000 hospitals, 100 are judged one by one" in shown.text


def test_a_report_is_the_same_each_time() -> None:
    assert render(run_of()) == render(run_of())


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number("auc", 0.98765), "0.988"),
        (number("accuracy", 0.98765), "98.8 %"),
        (number("rmse", 49.44), "49.4"),
        (number("rmse", 1234.4), "1234"),
        (number("r2", -0.25), "−0.250"),
        (estimate("auc", Estimate(value=0.9, low=0.8, high=1.0)), "0.900 (0.800–1.000)"),
        (estimate("r2", Estimate(value=0.1, low=-0.2, high=0.3)), "0.100 (−0.200 to 0.300)"),
        (estimate("auc", None), "–"),
        (difference("accuracy", Estimate(value=0.061, low=-0.004, high=0.1)), "+6.1 pp (−0.4 to +10.0)"),
        (difference("auc", Estimate(value=-0.0001)), "0.000"),
        (count(10, "hospital", spelled=True), "Ten hospitals"),
        (count(1, "row"), "1 row"),
        (duration(0.84), "0.8 s"),
        (duration(185), "3 min 05 s"),
        (duration(7800), "2 h 10 min"),
    ],
)
def test_numbers_are_written_for_people(shown: str, expected: str) -> None:
    assert shown == expected
