"""The examples run, and show what they say."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from tests.grid_of_apps import GridOfApps
from tests.simulations.test_export_flower import flower  # noqa: F401  (a fixture)
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


def accuracy_of(printed: str) -> float:
    [line] = [line for line in printed.splitlines() if line.startswith("accuracy ")]
    return float(line.removeprefix("accuracy "))


def test_one_line_protects_a_flower_app_from_an_attacker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "flower-robust")
    client, server = (importlib.import_module(f"robust_wards.{part}_app") for part in ("client", "server"))

    def run(attackers: int, robust: bool) -> str:
        config: dict[str, bool | float | int | str] = {
            "learning-rate": 0.5,
            "num-server-rounds": 5,
            "attackers": attackers,
            "robust": robust,
        }
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
        server.main(GridOfApps(client.app, 5, config), context)
        return capsys.readouterr().out

    try:
        for robust in (False, True):
            assert accuracy_of(run(attackers=0, robust=robust)) > 0.95
        assert accuracy_of(run(attackers=1, robust=False)) < 0.2
        printed = run(attackers=1, robust=True)
        assert accuracy_of(printed) > 0.95
        assert "node 100: down-weighted, cosine to the aggregate -" in printed
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "robust_wards"]:
            del sys.modules[name]


@pytest.mark.slow
def test_the_protected_flower_app_runs_with_flwr_run(flower: dict[str, str]) -> None:  # noqa: F811
    settings = "num-supernodes=5 client-resources-num-cpus=1"
    command = ["flwr", "run", str(EXAMPLES / "flower-robust"), "--stream", "--federation-config", settings]
    for _ in range(5):  # Ray gives its own processes 30 seconds to start; on a busy machine that takes another try
        done = subprocess.run(command, env=flower, capture_output=True, text=True, timeout=600)
        if "The current node timed out during startup" not in done.stdout:
            break
    assert "accuracy " in done.stdout, done.stdout + done.stderr
    assert accuracy_of(done.stdout) > 0.95
    assert done.stdout.count("to the aggregate") == 5
