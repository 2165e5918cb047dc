"""Sweeps: which plans are run where, what is kept, continued and shown. One test runs the engine."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.server.report.parsed_page import Page, check_nothing_is_loaded
from wardround.cli import app
from wardround.errors import LocalError
from wardround.plan import Plan, parse_plan
from wardround.server.report import page
from wardround.server.runs.comparison import Estimate, Model
from wardround.server.runs.run_directory import RunDirectory, read_lines
from wardround.simulations.report.sweep import render_sweep
from wardround.simulations.sweep import Sweep, SweepResult, plan_sweep, run_sweep, table_of_sweep
from wardround.simulations.sweep_folder import SweepFolder
from wardround.strategies.privacy.claim import stated

TOML = """
name = "two measurements"
seed = 5
rounds = 3
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "patients.csv"
target = { name = "ill", classes = ["no", "yes"] }
columns = [{ name = "a", range = [-9, 9] }, { name = "b", range = [-9, 9] }]
[cohort]
weighting = "uniform"
[training]
batch_size = 8
[evaluation]
every = 0
[simulation]
sites = 2
executor = "flat"
workers = 1
bootstrap = 0
"""
PRIVACY = """
[privacy]
unit = "row"
epsilon = 3
public_sizes = true
"""
EVIL = "<img src=x onerror=alert(1)></script>"


@pytest.fixture(autouse=True)
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_plotly", lambda: "")


def plan_of(more: str = "") -> Plan:
    return parse_plan(TOML + more)


class Engine:
    """Stands for `simulate`: notes its calls, makes run directories; AUC is 0.9 less 1 / (10 epsilon)."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.fails: set[int] = set()
        """Numbers of calls that fail; one below 0 is interrupted."""

    def __call__(self, plan: Plan, **options: Any) -> Any:
        self.calls.append({"plan": plan, **options})
        number = len(self.calls)
        if not options["resume"]:
            RunDirectory.create(options["out"], plan, {}).close()
        if -number in self.fails:
            raise KeyboardInterrupt
        if number in self.fails:
            raise LocalError("the model is not finite")
        line: dict[str, Any] = {"round": 1}
        auc = 0.9
        if plan.privacy.epsilon is not None:
            auc -= 0.1 / plan.privacy.epsilon
            line["privacy"] = {
                "epsilon": round(0.9 * plan.privacy.epsilon + plan.seed / 100, 9),
                "delta": 1e-6,
                "sites": {},
            }
        scores = {"auc": Estimate(value=auc + plan.seed / 1000), "accuracy": Estimate(value=0.5)}
        comparison = SimpleNamespace(overall={Model.FEDERATED: scores}) if options["report"] else None
        metrics = {"auc": 0.7, "loss": float("nan")} if not plan.privacy.on else {}
        return SimpleNamespace(comparison=comparison, metrics=metrics, rounds=[line], stopped="")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    found = Engine()
    monkeypatch.setitem(sys.modules, "wardround.simulations.simulate", SimpleNamespace(simulate=found))
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(TOML + PRIVACY)
    return found


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), prog_name="wardround", env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


# -- what is to be run --------------------------------------------------------------------------------


def test_every_value_is_run_on_seeds_from_the_plans_on() -> None:
    sweep = plan_sweep(plan_of(), "training.lr=0.1,0.3", 2)
    assert list(sweep.runs()) == [("0.1", 5), ("0.3", 5), ("0.1", 6), ("0.3", 6)]
    own = sweep.plan_of("0.3", 6)
    assert (own.training.lr, own.seed, own.simulation.baselines) == (0.3, 6, False)
    assert sweep.folder("0.3", 6) == Path("training.lr-0.3/seed-6")


def test_off_leaves_out_the_whole_section_of_privacy() -> None:
    sweep = plan_sweep(plan_of(PRIVACY), "privacy.epsilon=1,off")
    assert sweep.plan_of("1", 5).privacy.epsilon == 1
    assert sweep.plan_of("off", 5) == plan_of().override(["simulation.baselines=false"])


def test_off_leaves_clients_their_clip_under_masks() -> None:
    skellam = """
[privacy]
unit = "client"
mechanism = "skellam"
epsilon = 8
clip_norm = 0.5
[protection]
mode = "masking"
colluding = 0
"""
    six = parse_plan(TOML.replace("sites = 2", "sites = 6") + skellam)
    sweep = plan_sweep(six, "privacy.epsilon=3,off")
    assert sweep.plan_of("off", 5).clipping.clip_norm == 0.5 and not sweep.plan_of("off", 5).privacy.on


def test_off_is_a_value_where_a_key_knows_it() -> None:
    plan = plan_of(PRIVACY).override(["privacy.evaluation=clear"])
    kept = plan_sweep(plan, "privacy.evaluation=off,clear").plan_of("off", 5).privacy
    assert kept.on and kept.evaluation.value == "off"
    assert plan_sweep(plan_of(), "robust.rule=off,mean").plan_of("off", 5).robust.rule == "off"


def test_a_comma_in_brackets_separates_no_values() -> None:
    sweep = plan_sweep(plan_of(), "training.class_weights=[1, 2],[2,1]")
    assert sweep.values == ("[1, 2]", "[2,1]")
    assert sweep.plan_of("[1, 2]", 5).training.class_weights == (1.0, 2.0)
    assert sweep.folder("[1, 2]", 5) == Path("training.class_weights-1-2/seed-5")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "expected KEY=VALUE") for text in ("training.lr", "training.lr=", "=1,2", "training.lr=1,,2", "a=1,")),
        ("seed=1,2", "another key than seed"),
        ("training.lr=0.1,0.1", "values that differ"),
        ("training.nesterov='a b',a-b", "values that differ"),
        ("training.lr=0.1,-1", "plan.training.lr: expected more than 0"),
        ("training.rate=1", "plan.training.rate: expected a known key"),
        ("privacy.epsilon=1", 'plan.privacy.unit: expected "row"'),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_run(text: str, reason: str) -> None:
    with pytest.raises(LocalError, match=reason):
        plan_sweep(plan_of(), text)


def test_a_plan_without_test_rows_cannot_be_judged() -> None:
    with pytest.raises(LocalError, match="expected test rows"):
        plan_sweep(plan_of().override(["data.test=0"]), "training.lr=1")


# -- what comes of it ---------------------------------------------------------------------------------


def test_a_point_is_the_mean_and_range_over_seeds_with_the_claim_that_holds_for_each(engine: Engine) -> None:
    sweep = plan_sweep(plan_of(PRIVACY), "privacy.epsilon=1,off", 3)
    table = table_of_sweep(sweep, run_sweep(sweep, Path("out")))
    one, off = table["points"]
    assert one["metrics"]["auc"] == pytest.approx({"mean": 0.806, "min": 0.805, "max": 0.807, "runs": 3})
    assert one["claim"]["epsilon"] == pytest.approx(0.97) and one["claim"]["delta"] == 1e-6
    assert one["claim"]["headline"] == "epsilon 0.97 at delta 1e-6 for every row (add-remove)"
    assert off["claim"] is None and off["metrics"]["auc"]["mean"] == pytest.approx(0.906)
    assert table["metrics"] == ["auc", "accuracy"]
    assert [call["out"] for call in engine.calls[:2]] == [
        Path("out/privacy.epsilon-1/seed-5"),
        Path("out/privacy.epsilon-off/seed-5"),
    ]
    assert json.loads(json.dumps(table, allow_nan=False)) == table


def test_a_run_that_fails_is_a_result_and_is_tried_again(engine: Engine) -> None:
    sweep = plan_sweep(plan_of(PRIVACY), "privacy.epsilon=1,2")
    engine.fails = {1}
    results = run_sweep(sweep, Path("out"))
    assert [one.error for one in results] == ["the model is not finite", ""]
    point = table_of_sweep(sweep, results)["points"][0]
    assert (point["metrics"], point["claim"], point["failed"]) == ({}, None, 1)
    again = run_sweep(sweep, Path("out"), done=results)
    assert [one.error for one in again] == ["", ""]
    assert [call["resume"] for call in engine.calls] == [False, False, True]


def test_a_value_claims_nothing_when_one_of_its_runs_does_not() -> None:
    sweep = plan_sweep(plan_of(PRIVACY), "privacy.clip_norm=1", 2)
    claim = stated(sweep.plan_of("1", 5), 3, 1e-6).to_json()
    found = [SweepResult(value="1", seed=seed, metrics={"auc": 0.9}, claim=claim) for seed in sweep.seeds]
    assert table_of_sweep(sweep, found)["points"][0]["claim"] == claim
    unbounded = [found[0], SweepResult(value="1", seed=6, metrics={"auc": 0.9})]
    assert table_of_sweep(sweep, unbounded)["points"][0]["claim"] is None


def test_figures_are_those_of_the_sites_where_no_report_is_made(engine: Engine) -> None:
    sweep = plan_sweep(plan_of(PRIVACY), "privacy.epsilon=off,1")
    off, private = run_sweep(sweep, Path("out"), report=False)
    assert off.metrics == {"auc": 0.7}
    assert private.error.startswith("no figures on test rows")


# -- as a person meets it -----------------------------------------------------------------------------


def test_a_sweep_prints_its_table_and_writes_its_page(engine: Engine) -> None:
    code, text, error = run("simulate", "plan.toml", "--sweep", "privacy.epsilon=1,3,off", "--seeds", "2")
    assert (code, error) == (0, "")
    assert "run 1/6  privacy.epsilon=1 seed 5: auc 0.805  accuracy 0.5" in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "1 epsilon 0.96 at delta 1e-6 for every row (add-remove) 0.8055 (0.805–0.806) 0.5 (0.5–0.5)" in rows
    assert "off no differential privacy 0.9055 (0.905–0.906) 0.5 (0.5–0.5)" in rows
    assert "Choosing by this table is a choice that depends on the data: no claim covers it" in text
    folder = Path("runs/two-measurements-sweep-1")
    assert rows[-1] == f"report {folder}/sweep.html"
    assert (folder / "sweep.html").exists() and len(json.loads((folder / "sweep.json").read_text())["runs"]) == 6


def test_an_interrupted_sweep_goes_on_where_it_was(engine: Engine) -> None:
    command = ("simulate", "plan.toml", "--sweep", "privacy.epsilon=1,3,off", "--out", "o", "--quiet")
    engine.fails = {-2}
    line = "interrupted: 1 of 3 runs are kept; continue with the same command and --out o\n"
    assert run(*command) == (130, "", line)
    engine.fails = set()
    assert run(*command) == (0, "", "")
    assert [(call["plan"].privacy.epsilon, call["resume"]) for call in engine.calls] == [
        (1, False),
        (3, False),
        (3, True),
        (None, False),
    ]
    assert run(*command) == (0, "", "") and len(engine.calls) == 4
    more = ("--seeds", "2")
    assert run(*command, *more)[0] == 0 and [call["plan"].seed for call in engine.calls[4:]] == [6, 6, 6]


def test_another_sweep_or_another_folder_is_left_as_it_is(engine: Engine) -> None:
    assert run("simulate", "plan.toml", "--sweep", "privacy.epsilon=1", "--out", "o", "-q")[0] == 0
    before = Path("o/sweep.json").read_bytes()
    for other in (
        ["training.lr=1"],
        ["privacy.epsilon=1", "--set", "training.lr=9"],
        ["privacy.epsilon=1", "--seed", "8"],
    ):
        code, _, error = run("simulate", "plan.toml", "--out", "o", "--sweep", *other)
        assert code == 1 and "holds no sweep of" in error
    assert Path("o/sweep.json").read_bytes() == before
    Path("p").mkdir()
    Path("p/mine").write_text("x")
    assert run("simulate", "plan.toml", "--sweep", "training.lr=1", "--out", "p")[0] == 1
    assert [one.name for one in Path("p").iterdir()] == ["mine"]
    Path("o/sweep.json").write_text("[1]")
    assert (
        "expected what wardround wrote" in run("simulate", "plan.toml", "--sweep", "privacy.epsilon=1", "--out", "o")[2]
    )
    assert len(engine.calls) == 1


def test_json_is_a_line_for_each_run_and_the_points(engine: Engine) -> None:
    text = run("simulate", "plan.toml", "--sweep", "privacy.epsilon=1,off", "--json")[1]
    first, second, last = map(json.loads, text.splitlines())
    assert first["claim"] == "epsilon 0.95 at delta 1e-6 for every row (add-remove)" and second["claim"] is None
    assert [point["value"] for point in last["points"]] == ["1", "off"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["plan.toml", "--seeds", "2"], "--seeds needs --sweep"),
        (["--resume", "o", "--sweep", "training.lr=1"], "not by --resume"),
        (["plan.toml", "--sweep", "training.lr=1", "--seeds", "0"], "Invalid value for '--seeds'"),
    ],
)
def test_wrong_usage(arguments: list[str], line: str, engine: Engine) -> None:
    Path("o").mkdir()
    code, text, error = run("simulate", *arguments)
    assert (code, text) == (2, "") and line in " ".join(error.split())
    assert not engine.calls


# -- the page -----------------------------------------------------------------------------------------


def results(sweep: Sweep, auc: Mapping[str, Sequence[float]], claims: Mapping[str, Any]) -> list[SweepResult]:
    return [
        SweepResult(value=value, seed=seed, metrics={"auc": auc[value][at]}, claim=claims.get(value), rounds=3)
        for at, seed in enumerate(sweep.seeds)
        for value in sweep.values
    ]


def swept() -> dict[str, Any]:
    """Three values of epsilon on two seeds; the runs spent a hundredth less than they might."""
    sweep = plan_sweep(plan_of(PRIVACY), "privacy.epsilon=8,1,off", 2)
    claims = {value: stated(sweep.plan_of(value, 5), 0.99 * float(value), 1e-6).to_json() for value in ("1", "8")}
    auc = {"1": (0.7, 0.8), "8": (0.9, 0.92), "off": (0.98, 0.99)}
    return table_of_sweep(sweep, results(sweep, auc, claims))


def test_the_trade_off_is_drawn_against_the_epsilon_that_was_spent() -> None:
    (figure,) = Page(render_sweep(swept())).figures
    means, seeds = figure["data"]
    assert means["x"] == pytest.approx([0.99, 7.92]) and means["y"] == pytest.approx([0.75, 0.91])
    assert means["error_y"]["array"] == pytest.approx([0.05, 0.01])
    assert sorted(seeds["y"]) == [0.7, 0.8, 0.9, 0.92]
    axis = figure["layout"]["xaxis"]
    assert axis["type"] == "log" and axis["title"]["text"] == "epsilon at delta 1e-6 for every row (add-remove)"
    band, line = figure["layout"]["shapes"]
    assert (band["y0"], band["y1"]) == (0.98, 0.99) and line["y0"] == pytest.approx(0.985)
    assert figure["layout"]["annotations"][0]["text"] == "no differential privacy"


def test_every_number_has_its_claim_beside_it_and_the_words_are_told_once() -> None:
    shown = Page(render_sweep(swept()))
    check_nothing_is_loaded(shown)
    assert shown.sections == ["trade-off", "claim", "runs", "limits"]
    one = "epsilon 0.99 at delta 1e-6 for every row (add-remove)"
    assert f"1 {one} 0.750 (0.700 to 0.800) 0" in shown.text
    assert "off no differential privacy 0.985 (0.980 to 0.990) 0" in shown.text
    assert f"worst 0.750 with privacy.epsilon = 1, {one}" in shown.text
    assert shown.text.count("the server, the other hospitals and all who get the model") == 1
    assert shown.text.count("charge of its own") == 1
    assert "choosing a value by this table is itself a choice that depends on the data" in shown.text
    assert "4 runs here released something" in shown.text


def test_claims_that_say_something_else_are_told_apart() -> None:
    sweep = plan_sweep(plan_of(PRIVACY), "privacy.evaluation=off,clear")
    claims = {value: stated(sweep.plan_of(value, 5), 3, 1e-6).to_json() for value in sweep.values}
    shown = Page(render_sweep(table_of_sweep(sweep, results(sweep, {"off": (0.9,), "clear": (0.9,)}, claims))))
    assert shown.text.count("charge of its own") == 2 and shown.text.count("evaluation patients are not covered") == 1


def test_other_keys_are_drawn_as_numbers_or_names() -> None:
    numbers = plan_sweep(plan_of(), "training.lr=0.01,0.1,1")
    table = table_of_sweep(numbers, results(numbers, {"0.01": (0.7,), "0.1": (0.8,), "1": (0.9,)}, {}))
    (figure,) = Page(render_sweep(table)).figures
    assert figure["data"][0]["x"] == [0.01, 0.1, 1] and figure["layout"]["xaxis"]["type"] == "log"
    names = plan_sweep(plan_of(), "training.optimizer=sgd,adam")
    (figure,) = Page(render_sweep(table_of_sweep(names, results(names, {"sgd": (0.7,), "adam": (0.8,)}, {})))).figures
    assert figure["data"][0]["x"] == ["sgd", "adam"] and figure["data"][0]["mode"] == "markers"
    assert "No run claims differential privacy" in Page(render_sweep(table)).text


def test_failures_and_hostile_names_stay_text() -> None:
    sweep = plan_sweep(plan_of().override([f'name="{EVIL}"']), "task.model=logistic,mlp")
    failed = [SweepResult(value=value, seed=5, error=EVIL) for value in sweep.values]
    shown = Page(render_sweep(table_of_sweep(sweep, failed)))
    check_nothing_is_loaded(shown)
    assert "No run came to an end." in shown.text and EVIL in shown.text
    assert "no differential privacy" not in shown.text.split("What this does not show")[0]


# -- with the engine ----------------------------------------------------------------------------------


def test_a_real_sweep_keeps_its_runs_and_goes_on(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.Philox(key=1))
    x = generator.normal(size=(80, 2)).astype(np.float32)
    data = (x, (x[:, 0] > 0).astype(np.int64))
    plan = parse_plan(TOML.replace('"csv"\npath = "patients.csv"', '"arrays"'))
    sweep = plan_sweep(plan, "training.lr=0.01,1.0")
    folder = SweepFolder.open(tmp_path / "out", sweep)
    found = run_sweep(sweep, folder.path, data=data, on_result=folder.add)
    assert found[1].metrics["auc"] > 0.9 and not any(one.error for one in found)
    assert len(read_lines(folder.path / sweep.folder("1.0", 5))) == 3
    again = SweepFolder.open(folder.path, sweep)
    assert again.done == found
    assert run_sweep(sweep, folder.path, data=data, done=found[:1]) == found
    assert folder.finish(found)["points"][1]["metrics"]["auc"]["mean"] == found[1].metrics["auc"]
