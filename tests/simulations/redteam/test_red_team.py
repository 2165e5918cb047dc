"""A grid: what is run, what is not, what is made of it. Its processes: the last test."""

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.simulations.attacked_federation import hospitals, plan
from tests.simulations.redteam.inline_pool import InlinePool
from wardround.errors import LocalError
from wardround.plan import parse_plan
from wardround.registry import names
from wardround.simulations.redteam import red_team
from wardround.simulations.redteam.candidates import Candidate
from wardround.simulations.redteam.cells import Cell, CellResult
from wardround.simulations.redteam.red_team import Grid, plan_grid, run_grid, table_of_results
from wardround.simulations.redteam.result_table import grid_table
from wardround.simulations.redteam.results_folder import ResultsFolder

MEAN, MEDIAN, BULYAN = Candidate("mean"), Candidate("median"), Candidate("bulyan")


def small(*candidates: Candidate, attacks: tuple[str, ...] = ("sign_flip",), seeds: tuple[int, ...] = (1, 2)) -> Grid:
    return plan_grid(plan("rounds=1"), candidates=candidates or (MEAN, MEDIAN), attacks=attacks, seeds=seeds)


def scored(grid: Grid, **values: float | None) -> list[CellResult]:
    """A result for each cell; its value by the rule and attack (`median_sign_flip`), 0.5 if nothing is said."""
    return [
        CellResult(
            rule=cell.candidate.label,
            attack=cell.attack,
            seed=cell.seed,
            value=values.get(f"{cell.candidate.label}_{cell.attack}", 0.5),
        )
        for cell in grid.cells()
    ]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> type[InlinePool]:
    monkeypatch.setattr(InlinePool, "made", [])
    monkeypatch.setattr(red_team, "ProcessPoolExecutor", InlinePool)
    monkeypatch.setattr(red_team, "_data", None)
    return InlinePool


# -- what is run --------------------------------------------------------------------------------------


def test_by_default_everything_that_is_registered_and_can_be() -> None:
    grid = plan_grid(plan())
    assert grid.attacks == ("none", *names("wardround.attacks")) and grid.attackers == 1
    assert "bulyan" in grid.left_out and BULYAN not in grid.candidates and MEDIAN in grid.candidates
    assert grid.seeds == (101, 102, 103)


def test_the_seeds_are_outermost_and_each_cell_is_there_once() -> None:
    grid = plan_grid(
        plan(), candidates=[MEAN, MEDIAN, MEAN], attacks=["sign_flip", "none", "sign_flip"], seeds=range(5, 7)
    )
    assert list(grid.cells()) == [
        Cell(candidate, attack, seed)
        for seed in (5, 6)
        for attack in ("none", "sign_flip")
        for candidate in (MEAN, MEDIAN)
    ]


def test_a_backdoor_needs_classes() -> None:
    regression = parse_plan(
        {
            "name": "r",
            "rounds": 1,
            "task": {"name": "tabular-regressor"},
            "data": {"source": "arrays", "target": {"name": "y", "range": [0.0, 1.0]}},
            "robust": {"rule": "median", "num_byzantine": 1},
            "simulation": {"sites": 5},
        }
    )
    grid = plan_grid(regression)
    assert set(names("wardround.attacks")) - set(grid.attacks) == {"scaling_backdoor", "dba"}
    assert (grid.metric, grid.higher_is_better) == ("rmse", False)


@pytest.mark.parametrize(
    ("metric", "higher"), [(None, True), ("accuracy", True), ("auc", True), ("specificity", True), ("brier", False)]
)
def test_rules_are_judged_by_accuracy_unless_a_person_says_otherwise(metric: str | None, higher: bool) -> None:
    grid = plan_grid(plan(), metric=metric)
    assert (grid.metric, grid.higher_is_better) == (metric or "accuracy", higher)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ([], {"attacks": ["sign_flop"]}, "no attack is called 'sign_flop'; did you mean 'sign_flip'"),
        ([], {"attacks": [""]}, "no attack is called ''"),
        ([], {"metric": "rmse"}, "expected one of accuracy, auc, .*, brier for this plan's target, got 'rmse'"),
        ([], {"attackers": 0}, r"expected 1 to 4 attackers \(--attackers or robust.num_byzantine\), got 0"),
        ([], {"attackers": -1}, "got -1"),
        ([], {"attackers": 5}, "got 5"),
        (["robust.rule=off", "robust.num_byzantine=0"], {}, "got 0"),
        ([], {"candidates": [BULYAN]}, "expected a rule that can be used, but bulyan: .*a cohort of 5"),
        (["data.test=0"], {}, "expected test rows to judge models by"),
        (
            ["robust.rule=off", "robust.num_byzantine=0"],
            {"candidates": [MEDIAN], "attackers": 3},
            "expected a rule that can be used, but median: .*3 of 5",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(settings: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalError, match=message):
        plan_grid(plan(*settings), **options)


def test_a_flower_apps_data_cannot_be_attacked() -> None:
    text = 'name = "f"\nrounds = 1\n[task]\nflower_app = "m:app"\nflower_initial = "m:i"\n[data]\nsource = "app"\n'
    with pytest.raises(LocalError, match="redteam: expected a plan with a task"):
        plan_grid(parse_plan(text))


# -- running ------------------------------------------------------------------------------------------


def test_every_cell_is_run_once_and_told_as_it_comes(inline: type[InlinePool]) -> None:
    told: list[CellResult] = []
    grid = small()
    results = run_grid(grid, data=hospitals(), on_result=told.append, workers=7)
    assert [(one.rule, one.attack, one.seed) for one in results] == [
        (cell.candidate.label, cell.attack, cell.seed) for cell in grid.cells()
    ]
    assert sorted(told, key=str) == sorted(results, key=str) and inline.made == [7]
    assert all(one.value is not None and one.error == "" for one in results)
    assert len({one.value for one in results}) > 2


def test_what_is_done_is_not_run_again_and_what_is_not_asked_for_is_left_out(inline: type[InlinePool]) -> None:
    grid = small()
    done = [replace(one, value=0.125) for one in scored(grid) if one.seed == 1]
    foreign = CellResult(rule="krum", attack="none", seed=1, value=0.99)
    other_attack, other_seed = replace(foreign, rule="mean", attack="ipm"), replace(foreign, rule="mean", seed=9)
    told: list[CellResult] = []
    results = run_grid(
        grid, data=hospitals(), done=[foreign, *done, other_attack, other_seed], workers=1, on_result=told.append
    )
    assert len(results) == 8 and {one.seed for one in told} == {2} and len(told) == 4
    assert [one.value for one in results[:4]] == [0.125] * 4
    assert table_of_results(grid, results)["choice"]["rule"] in ("mean", "median")


def test_a_grid_that_is_done_starts_no_process(inline: type[InlinePool]) -> None:
    grid = small()
    done = scored(grid)
    assert run_grid(grid, done=list(reversed(done))) == done and inline.made == []


def test_what_an_observer_raises_ends_the_grid(inline: type[InlinePool]) -> None:
    def full(result: CellResult) -> None:
        raise LocalError("the disk is full")

    with pytest.raises(LocalError, match="the disk is full"):
        run_grid(small(), data=hospitals(), workers=1, on_result=full)


class Killed(InlinePool):
    """Whose processes were killed."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_exception(BrokenProcessPool("terminated abruptly"))
        return future


def test_a_killed_process_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(red_team, "ProcessPoolExecutor", Killed)
    with pytest.raises(LocalError, match="a process was killed, for want of memory perhaps; try fewer workers"):
        run_grid(small(), data=hospitals(), workers=1)


# -- what is made of it -------------------------------------------------------------------------------


def test_the_table_has_all_that_the_page_needs() -> None:
    grid = replace(small(MEAN, MEDIAN, BULYAN), plan=plan())
    results = scored(grid, mean_none=0.9, mean_sign_flip=0.1, median_sign_flip=0.4)
    table = table_of_results(grid, list(reversed(results)), datetime(2026, 1, 1, tzinfo=UTC))
    assert table["created"] == "2026-01-01T00:00:00+00:00" and table["digest"] == plan().digest
    assert (table["metric"], table["higher_is_better"], table["sites"], table["attackers"]) == ("accuracy", True, 5, 1)
    assert (table["rounds"], table["seeds"]) == (4, [1, 2])
    assert table["baseline"] == {"mean": 0.9, "worst": 0.9, "seeds": {"2": 0.9, "1": 0.9}}
    assert [(rule["name"], bool(rule["why_not"])) for rule in table["rules"]] == [
        ("mean", False),
        ("median", False),
        ("bulyan", True),
    ]
    assert [one["name"] for one in table["attacks"]] == ["none", "sign_flip"]
    assert [CellResult(**cell) for cell in table["cells"]] == sorted(
        results, key=lambda one: (one.rule, one.attack, one.seed)
    )
    assert (table["choice"]["rule"], table["choice"]["worst"]) == ("median", 0.4)


def test_the_baseline_is_fedavg_if_it_ran_and_its_worst_seed_is_told() -> None:
    grid = small(Candidate("off"), MEAN)
    results = [replace(one, value=0.1 * one.seed if one.rule == "off" else 0.9) for one in scored(grid)]
    assert table_of_results(grid, results)["baseline"] == {
        "mean": pytest.approx(0.15),
        "worst": 0.1,
        "seeds": {"1": 0.1, "2": 0.2},
    }
    alone = small(MEDIAN)
    assert table_of_results(alone, scored(alone))["baseline"] == {"mean": None, "worst": None, "seeds": {}}
    failed = table_of_results(grid, scored(grid, off_none=None))["baseline"]
    assert (failed["mean"], failed["worst"]) == (None, None)


def test_the_terminal_shows_rules_from_the_best_worst_case_down() -> None:
    grid = small(MEAN, MEDIAN, Candidate("krum"))
    results = scored(grid, mean_sign_flip=0.25, mean_none=0.75, krum_sign_flip=None, krum_none=0.875)
    text = StringIO()
    Console(file=text, width=100).print(grid_table(table_of_results(grid, results)))
    rows = [line.split() for line in text.getvalue().splitlines()]
    assert rows[0] == "accuracy: mean of 2 seeds".split() and rows[1] == "rule no attack worst under".split()
    assert rows[2:] == [
        ["median", "0.5000", "0.5000", "none"],
        ["mean", "0.7500", "0.2500", "sign_flip"],
        ["krum", "0.8750", "failed", "sign_flip"],
    ]


# -- real processes -----------------------------------------------------------------------------------


def test_processes_give_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = small(MEAN, attacks=("label_flip",), seeds=(1,))
    folder = ResultsFolder.open(tmp_path / "grid", grid)
    by_processes = run_grid(grid, data=hospitals(), workers=2, on_result=folder.add)
    monkeypatch.setattr(red_team, "ProcessPoolExecutor", InlinePool)
    monkeypatch.setattr(red_team, "_data", None)
    assert run_grid(grid, data=hospitals(), workers=1) == by_processes
    assert folder.added == 2
