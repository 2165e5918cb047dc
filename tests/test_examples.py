"""The examples run, and show what they say."""

import runpy
from pathlib import Path

import pytest

from wardround.plan import load_plan
from wardround.simulations.simulate import simulate

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_third_partys_task_learns_its_quantile() -> None:
    plan = load_plan(EXAMPLES / "third-party-task" / "plan.toml")
    result = simulate(plan)
    assert result.metrics["coverage"] == pytest.approx(0.9, abs=0.07)
    untrained = simulate(plan.override(["rounds=1", "training.lr=1e-9"]), report=False)
    assert result.metrics["loss"] < 0.6 * untrained.metrics["loss"]


def test_a_flower_app_learns() -> None:
    result = simulate(load_plan(EXAMPLES / "flower-app" / "plan.toml"))
    assert result.metrics["eval_acc"] > 0.95
    assert [line["round"] for line in result.rounds] == [1, 2, 3, 4, 5]


def test_a_flower_app_is_resumed_to_the_same_model(tmp_path: Path) -> None:
    plan = load_plan(EXAMPLES / "flower-app" / "plan.toml").override(["rounds=3", "simulation.sites=2"])
    whole = simulate(plan, out=tmp_path / "whole", report=False)

    class Stop:
        def round_done(self, record: object, state: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(plan, out=tmp_path / "cut", report=False, observer=Stop())
    resumed = simulate(out=tmp_path / "cut", resume=True, report=False)
    assert resumed.model.tobytes() == whole.model.tobytes()


def test_arrays_go_in_and_predictions_come_out(capsys: pytest.CaptureFixture[str]) -> None:
    made = runpy.run_path(str(EXAMPLES / "python-api" / "from_arrays.py"))
    assert made["result"].metrics["auc"] > 0.75
    risk = made["result"].predict([[81.0, 95.0, 4.2], [20.0, 140.0, 0.9]])
    assert risk[0, 1] > 0.8 and risk[1, 1] < 0.2
    assert capsys.readouterr().out.startswith("<Result of 'from-arrays': 15 rounds; test ")
