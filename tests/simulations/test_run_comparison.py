import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from wardround.contribution import Report
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import parse_plan
from wardround.server.runs.comparison import Comparison, Estimate, Model
from wardround.server.runs.metrics import Kind
from wardround.server.runs.run_directory import RunDirectory
from wardround.simulations.result_table import runs_table
from wardround.simulations.run_comparison import compare_runs
from wardround.strategies.records import Absence, EvaluationRecord, RoundRecord, RunState
from wardround.tally import Tally

PLAN = """
name = "tiny"
rounds = 30
[task]
name = "tabular-classifier"
[data]
source = "arrays"
target = { name = "ill", classes = ["no", "yes"] }
[training]
lr = 0.5
[simulation]
sites = 3
"""
SITES = tuple(SiteId(name) for name in "abc")


def make_run(
    path: Path,
    plan: str = PLAN,
    *,
    rounds: int = 2,
    auc: float = 0.75,
    every: int = 1,
    data: str | None = "d1",
    absent: str = "c",
) -> Path:
    """A run whose validation AUC grows by 1/64 a round from `auc`; site `absent` never comes."""
    engine = {} if data is None else {"data": data}
    with RunDirectory.create(path, parse_plan(plan), engine) as run:
        for number in range(1, rounds + 1):
            tally = Tally.of_means(1, {"auc": auc + (number - 1) / 64})
            record = RoundRecord(
                round=number,
                cohort=SITES,
                absences=(Absence(site=SiteId(absent), reason="late"),),
                void=False,
                lr=0.5,
                update_norm=1.0,
                train=None,
                validation=None if number % every else EvaluationRecord(total=tally),
                report=Report(),
                seconds=0.5,
                cpu_seconds=0.25,
            )
            run.round_done(record, RunState(round=number, model=np.zeros(1, dtype=np.float32)))
    return path


def test_what_differs_and_what_came_of_it(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", PLAN.replace("lr = 0.5", "lr = 0.25\nsteps = 7"), rounds=4, every=2, absent="a")
    found = compare_runs(first, second)
    assert found.plan == {"training.lr": (0.5, 0.25), "training.steps": (None, 7)}
    assert found.validation == {
        1: ({"auc": 0.75}, None),
        2: ({"auc": 0.765625}, {"auc": 0.765625}),
        4: (None, {"auc": 0.796875}),
    }
    assert found.first.split == found.second.split == "validation"
    assert found.differences == {"auc": 0.03125}
    assert (found.first.participants, found.second.participants) == ({"a": 2, "b": 2}, {"b": 4, "c": 4})
    assert (found.first.seconds, found.second.cpu_seconds, found.second.rounds) == (1.0, 1.0, 4)
    assert found.same_data is True
    table = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert table["plan"] == {"training.lr": [0.5, 0.25], "training.steps": [None, 7]}
    assert table["runs"][1]["scores"] == {"auc": {"value": 0.796875}} and table["runs"][0]["participants"]["a"] == 2
    assert table["validation"][2] == {"round": 4, "runs": [None, {"auc": 0.796875}]}


def test_runs_on_other_data_are_marked(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a")
    assert compare_runs(first, make_run(tmp_path / "b", data="d2")).same_data is False
    assert compare_runs(first, make_run(tmp_path / "c", data=None)).same_data is None


def test_results_count_once_they_are_there(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    scores = {"auc": Estimate(value=0.5, low=0.25, high=0.75)}
    results = Comparison(kind=Kind.BINARY, primary="auc", test_rows=9, resamples=9, overall={Model.FEDERATED: scores})
    (runs[0] / "results.json").write_text(results.to_json())
    found = compare_runs(*runs)
    assert (found.first.split, found.first.scores) == ("test", scores)
    assert found.second.split == "validation" and found.differences == {}
    (runs[1] / "results.json").write_text(results.to_json())
    assert compare_runs(*runs).differences == {"auc": 0.0}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ('{ name = "sick", classes = ["no", "yes"] }', r"same data.target.name, got ill and sick"),
        (
            '{ name = "ill", classes = ["no", "a", "b"] }',
            r"same data.target.classes, got \['no', 'yes'\] and \['no', 'a",
        ),
        ('{ name = "ill", range = [0, 1] }', r"same data.target.classes, got \['no', 'yes'\] and none"),
    ],
)
def test_runs_that_predict_different_things_are_refused(tmp_path: Path, target: str, message: str) -> None:
    other = PLAN.replace('{ name = "ill", classes = ["no", "yes"] }', target)
    with pytest.raises(LocalError, match=message):
        compare_runs(make_run(tmp_path / "a"), make_run(tmp_path / "b", other))


def test_a_run_without_rounds_and_a_folder_without_a_run(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", rounds=0)
    found = compare_runs(first, first)
    assert found.differences == {} and found.validation == {} and found.plan == {}
    with pytest.raises(LocalError, match="expected a run directory"):
        compare_runs(first, tmp_path)


def shown(first: Path, second: Path) -> str:
    text = io.StringIO()
    Console(file=text, width=160).print(runs_table(compare_runs(first, second)))
    return text.getvalue()


def test_the_table_shows_both_and_the_difference(tmp_path: Path) -> None:
    text = shown(make_run(tmp_path / "a"), make_run(tmp_path / "b", PLAN.replace("0.5", "0.25"), auc=0.875))
    lines = [line.split() for line in text.splitlines()]
    assert ["auc", "0.7656", "0.8906", "+0.125"] in lines
    assert ["validation", "auc,", "round", "2", "0.7656", "0.8906"] in lines
    assert ["training.lr", "0.5", "0.25"] in lines
    assert ["sites", "that", "took", "part", "2", "of", "3", "2", "of", "3"] in lines
    assert "may be other rows" not in text


def test_the_table_of_many_rounds_is_short_and_ends_with_the_last(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", rounds=16)
    rounds = [
        int(line.split()[3]) for line in shown(run, run).splitlines() if line.strip().startswith("validation auc")
    ]
    assert rounds == [2, 4, 6, 8, 10, 12, 14, 16]
    assert "the same" in shown(run, run)
