"""The folder of a grid: completed where it was left, and never taken from somebody else."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.simulations.attacked_federation import plan
from wardround.errors import LocalError
from wardround.simulations.redteam.candidates import Candidate
from wardround.simulations.redteam.cells import CellResult
from wardround.simulations.redteam.red_team import Grid, plan_grid, table_of_results
from wardround.simulations.redteam.results_folder import ResultsFolder


def grid(*settings: str, rule: str = "mean", **options: Any) -> Grid:
    return plan_grid(plan(*settings), candidates=[Candidate(rule)], attacks=["sign_flip"], seeds=(1, 2), **options)


RESULTS = [
    CellResult(rule="mean", attack=attack, seed=seed, value=0.5, metrics={"auc": 0.5}, backdoor=None)
    for seed in (1, 2)
    for attack in ("none", "sign_flip")
]
FAILED = replace(RESULTS[0], value=None, metrics={}, error="ü is\nnot finite")


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_results_come_back(tmp_path: Path) -> None:
    folder = ResultsFolder.open(tmp_path / "runs" / "grid", grid())
    assert folder.done == [] and folder.added == 0
    for result in (*RESULTS[1:], FAILED):
        folder.add(result)
    assert folder.added == 4
    again = ResultsFolder.open(tmp_path / "runs" / "grid", grid())
    assert again.done == [*RESULTS[1:], FAILED] and again.added == 0


def test_other_rules_and_seeds_of_the_same_plan_may_be_added(tmp_path: Path) -> None:
    ResultsFolder.open(tmp_path / "grid", grid()).add(RESULTS[0])
    assert ResultsFolder.open(tmp_path / "grid", grid(rule="median")).done == RESULTS[:1]


@pytest.mark.parametrize("cut", [1, 20, 10_000])
def test_a_torn_last_line_is_replaced(tmp_path: Path, cut: int) -> None:
    folder = ResultsFolder.open(tmp_path, grid())
    for result in RESULTS[:3]:
        folder.add(result)
    path = tmp_path / "cells.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: max(len(whole) - cut, whole.index(b"\n") + 1)])
    again = ResultsFolder.open(tmp_path, grid())
    kept = len(again.done)
    assert again.done == RESULTS[:kept] and kept == (2 if cut < 1000 else 1)
    again.add(RESULTS[3])
    assert ResultsFolder.open(tmp_path, grid()).done == [*RESULTS[:kept], RESULTS[3]]


@pytest.mark.parametrize("line", ["[]", "null", '{"rule": "mean"}', '{"x": 1}', "{"])
def test_reading_stops_at_what_is_no_result(tmp_path: Path, line: str) -> None:
    folder = ResultsFolder.open(tmp_path, grid())
    folder.add(RESULTS[0])
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write(line + "\n")
    again = ResultsFolder.open(tmp_path, grid())
    assert again.done == RESULTS[:1]
    again.add(RESULTS[1])
    assert ResultsFolder.open(tmp_path, grid()).done == RESULTS[:2]


def test_a_folder_of_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(LocalError, match="exists, and holds no results of this plan, 1 attackers and accuracy"):
        ResultsFolder.open(tmp_path, grid())
    assert tree(tmp_path) == {"mine": b"mine"}
    with pytest.raises(LocalError, match=r"mine: Not a directory; nothing was changed"):
        ResultsFolder.open(tmp_path / "mine", grid())


@pytest.mark.parametrize("other", [grid("training.lr=0.3"), grid(attackers=2), grid(metric="auc")])
def test_results_of_another_plan_number_of_attackers_or_metric_are_refused_untouched(
    tmp_path: Path, other: Grid
) -> None:
    ResultsFolder.open(tmp_path, grid()).add(RESULTS[0])
    before = tree(tmp_path)
    with pytest.raises(
        LocalError, match=f"holds no results of this plan, {other.attackers} attackers and {other.metric}"
    ):
        ResultsFolder.open(tmp_path, other)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "\udcff"])
def test_a_strange_grid_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "grid.json").write_text(text, errors="surrogateescape")
    with pytest.raises(LocalError, match=r"grid\.json: expected what wardround wrote"):
        ResultsFolder.open(tmp_path, grid())


def test_a_full_disk_keeps_the_results_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ResultsFolder.open(tmp_path, grid())
    folder.add(RESULTS[0])

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(LocalError, match="No space left on device; earlier results are kept"):
            folder.add(RESULTS[1])
        with pytest.raises(LocalError, match="No space left on device"):
            folder.finish(table_of_results(grid(), RESULTS))
    folder.add(RESULTS[2])
    assert ResultsFolder.open(tmp_path, grid()).done == [RESULTS[0], RESULTS[2]]
    assert {path.name for path in tmp_path.iterdir()} == {"grid.json", "cells.jsonl"}


def test_the_table_and_the_page_are_written(tmp_path: Path) -> None:
    folder = ResultsFolder.open(tmp_path, grid())
    table = table_of_results(grid(), RESULTS)
    folder.finish(table)
    assert json.loads((tmp_path / "redteam.json").read_text()) == table
    assert folder.report == tmp_path / "redteam.html" and "sign_flip" in folder.report.read_text()
