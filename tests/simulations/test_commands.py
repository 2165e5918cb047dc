"""The commands of simulations: what they ask of the engine and what they print. The engine is not run here."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from wardround.cli import app
from wardround.orders import SiteId
from wardround.plan import Plan, load_plan
from wardround.plan_sections import Target
from wardround.server.runs.comparison import Comparison, Predictions, compare
from wardround.server.runs.run_directory import RunDirectory

TOML = """
name = "a/b ..c"
rounds = 3
[task]
name = "tabular-classifier"
[data]
source = "arrays"
target = { name = "y", classes = ["a", "b"] }
columns = [{ name = "x" }]
"""


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="wardround")
    return result.exit_code, result.stdout, result.stderr


def compared() -> Comparison:
    generator = np.random.Generator(np.random.Philox(key=1))
    y = np.array([0.0, 1.0] * 10)
    scores = [np.clip(0.3 * y + generator.uniform(0.1, 0.6, 20), 0, 1) for _ in range(4)]
    found = compare(
        Target(name="y", classes=("a", "b")),
        Predictions(
            sites=(SiteId("north"), SiteId("south")),
            sizes=(8, 12),
            y=y,
            federated=scores[0],
            pooled=scores[1],
            alone={SiteId("north"): scores[2], SiteId("south"): scores[3]},
        ),
        resamples=50,
        seed=1,
    )
    assert found is not None
    return found


class Engine:
    """Stands for `simulate`: notes what it is asked for, makes a run directory, and may be interrupted."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.interrupted = False
        self.runs = True
        self.stopped = ""

    def __call__(self, plan: Plan, **options: Any) -> Any:
        self.calls.append({"plan": plan, **options})
        if self.runs and not options["resume"]:
            RunDirectory.create(options["out"], plan, {}).close()
        if self.interrupted:
            raise KeyboardInterrupt
        return SimpleNamespace(
            untested=(),
            stopped=self.stopped,
            comparison=compared(),
            report_path=options["out"] / "report.html" if options["report"] else None,
            rounds=[{"round": 1, "void": bool(self.stopped)}],
            metrics={"auc": 0.9},
        )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    found = Engine()
    monkeypatch.setitem(sys.modules, "wardround.simulations.simulate", SimpleNamespace(simulate=found))
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(TOML)
    yield found


def test_simulate_with_settings(engine: Engine) -> None:
    code, text, error = run("simulate", "plan.toml", "--set", "training.lr=0.5", "--rounds", "7", "--seed", "9")
    assert (code, error) == (0, "")
    (call,) = engine.calls
    assert call["plan"] == load_plan("plan.toml").override(["training.lr=0.5", "rounds=7", "seed=9"])
    assert (call["out"], call["resume"], call["report"]) == (Path("runs/a-b-..c-1"), False, True)
    assert text.splitlines()[-1] == "report  runs/a-b-..c-1/report.html"


def test_a_run_in_which_no_round_counted_has_failed(engine: Engine) -> None:
    engine.stopped = "the privacy budget is spent"
    code, _, error = run("simulate", "plan.toml", "--quiet")
    assert code == 1 and error == "error: no round counted: the privacy budget is spent\n"


def test_ledgers_are_handed_on_and_belong_to_no_sweep(engine: Engine) -> None:
    assert run("simulate", "plan.toml", "--ledgers", "budget", "--quiet")[0] == 0
    assert engine.calls[0]["ledgers"] == Path("budget")
    code, _, error = run("simulate", "plan.toml", "--ledgers", "budget", "--sweep", "rounds=1,2")
    assert code == 2 and "--sweep takes no --ledgers" in error


def test_the_first_free_folder_is_taken(engine: Engine) -> None:
    for _ in range(3):
        run("simulate", "plan.toml", "--quiet")
    assert [call["out"].name for call in engine.calls] == ["a-b-..c-1", "a-b-..c-2", "a-b-..c-3"]


@pytest.mark.parametrize(("name", "folder"), [("../../etc", "etc-1"), ("...", "run-1"), ("größe 1", "größe-1-1")])
def test_a_run_stays_below_runs_whatever_the_plan_is_called(name: str, folder: str, engine: Engine) -> None:
    assert run("simulate", "plan.toml", "--set", f'name="{name}"')[0] == 0
    assert engine.calls[0]["out"] == Path("runs") / folder


def test_the_table_compares_alone_federated_and_pooled(engine: Engine) -> None:
    text = run("simulate", "plan.toml", "--out", "r")[1]
    found = compared()
    assert "auc on test rows" in text
    rows = {line.strip().split("  ")[0]: line for line in text.splitlines() if line.strip()}
    for site in found.sites:
        for model in ("alone", "federated", "pooled"):
            assert f"{site.own[model]['auc'].value:.4f}" in rows[site.site]
    estimate = found.overall["federated"]["auc"]
    assert f"{estimate.value:.4f}" in rows["all test rows"]
    assert f"{estimate.low:.3f}–{estimate.high:.3f}" in rows["95 % interval"]
    assert f"{found.own['alone']['auc'].value:.4f}" in rows["mean of hospitals"]


def test_quiet_prints_nothing(engine: Engine) -> None:
    assert run("simulate", "plan.toml", "--quiet") == (0, "", "")


def test_json_ends_with_the_result(engine: Engine) -> None:
    code, text, _ = run("simulate", "plan.toml", "--json", "--no-report", "--out", "r")
    assert code == 0
    last = json.loads(text.splitlines()[-1])
    assert (last["run"], last["report"], last["rounds"], last["metrics"]) == ("r", None, 1, {"auc": 0.9})
    assert last["comparison"]["primary"] == "auc"
    assert [site["site"] for site in last["comparison"]["sites"]] == ["north", "south"]


def test_resume(engine: Engine) -> None:
    run("simulate", "plan.toml", "--out", "r", "--quiet")
    assert run("simulate", "--resume", "r", "--quiet") == (0, "", "")
    assert engine.calls[1]["resume"]
    assert engine.calls[1]["out"] == Path("r")


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "--resume", "r", "plan.toml"],
        ["simulate", "--resume", "r", "--rounds", "3"],
        ["simulate", "--resume", "r", "--set", "seed=1"],
        ["simulate", "--resume", "r", "--out", "s"],
        ["simulate", "--resume", "nowhere"],
        ["compare", "r"],
        ["predict", "r", "no.csv"],
    ],
)
def test_wrong_usage(arguments: list[str], engine: Engine) -> None:
    Path("r").mkdir()
    code, text, _ = run(*arguments)
    assert (code, text) == (2, "")
    assert not engine.calls


def test_an_interruption_says_what_is_kept(engine: Engine) -> None:
    engine.interrupted = True
    line = "interrupted: no round was finished; continue with: wardround simulate --resume r\n"
    assert run("simulate", "plan.toml", "--out", "r") == (130, "", line)
    engine.runs = False
    assert run("simulate", "plan.toml", "--out", "s") == (130, "", "interrupted: nothing was kept\n")


def test_what_is_no_run_is_refused(engine: Engine) -> None:
    Path("empty").mkdir()
    code, text, line = run("compare", "empty", "empty")
    assert (code, text) == (1, "")
    assert line.startswith("error: empty: expected a run directory")
    assert line.count("\n") == 1


def test_predictions_never_replace_what_is_read(engine: Engine) -> None:
    Path("one").mkdir()
    Path("rows.csv").write_text("x\n1\n")
    code, _, _ = run("predict", "one", "rows.csv", "--out", "rows.csv")
    assert code == 2
    assert Path("rows.csv").read_text() == "x\n1\n"
