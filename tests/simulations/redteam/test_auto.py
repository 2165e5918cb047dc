"""`robust.rule = "auto"`: the rule is chosen by attacking the plan's own federation, on seeds of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.simulations.attacked_federation import hospitals, plan
from tests.simulations.redteam.inline_pool import InlinePool
from wardround.errors import LocalError
from wardround.plan import Plan, PlanError, load_plan
from wardround.simulations.redteam import auto, red_team
from wardround.simulations.redteam.candidates import Candidate
from wardround.simulations.redteam.cells import CellResult
from wardround.simulations.redteam.red_team import Grid
from wardround.simulations.simulate import simulate

AUTO: dict[str, Any] = {"robust": {"rule": "auto", "num_byzantine": 1, "norm_factor": 50.0, "detectors": ["norm"]}}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of eight runs, in this process."""
    monkeypatch.setattr(auto, "CANDIDATES", (Candidate("mean"), Candidate("median", ("nnm",))))
    monkeypatch.setattr(auto, "ATTACKS", ("scaled_sign_flip",))
    monkeypatch.setattr(red_team, "ProcessPoolExecutor", InlinePool)
    monkeypatch.setattr(red_team, "_data", None)


def automatic(*settings: str) -> Plan:
    return plan("rounds=3", "training.lr=0.5", *settings, **AUTO)


def test_the_rule_that_holds_is_taken_and_the_rest_of_the_plan_stays() -> None:
    given = automatic()
    tuned = auto.resolve_auto(given, hospitals())
    assert (tuned.plan.robust.rule, tuned.plan.robust.pre) == ("median", ("nnm",))
    assert (tuned.plan.robust.norm_factor, tuned.plan.robust.detectors) == (50.0, ("norm",))
    assert tuned.plan.robust.num_byzantine == 1 and tuned.plan.simulation == given.simulation
    assert tuned.table["choice"]["rule"] == "nnm+median" and tuned.table["attackers"] == 1
    assert {cell["seed"] for cell in tuned.table["cells"]} == set(auto.TUNING_SEEDS)


def test_the_plans_own_seed_is_never_tuned_on() -> None:
    tuned = auto.resolve_auto(automatic(f"seed={auto.TUNING_SEEDS[1]}"), hospitals())
    seeds = {cell["seed"] for cell in tuned.table["cells"]}
    assert len(seeds) == len(auto.TUNING_SEEDS) and auto.TUNING_SEEDS[0] in seeds and auto.TUNING_SEEDS[1] not in seeds


def test_progress_counts_to_all_runs_and_names_the_rule_last() -> None:
    told: list[tuple[int, int, str]] = []
    auto.resolve_auto(automatic(), hospitals(), lambda done, total, last: told.append((done, total, last)))
    runs = 4 * len(auto.TUNING_SEEDS)
    assert [done for done, _, _ in told] == list(range(1, runs + 1)) and {total for _, total, _ in told} == {runs}
    assert told[-1][2] == "nnm+median" and " against " in told[0][2]


def test_when_every_rule_fails_a_person_must_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(grid: Grid, **options: object) -> list[CellResult]:
        return [
            CellResult(rule=cell.candidate.label, attack=cell.attack, seed=cell.seed, value=None, error="not finite")
            for cell in grid.cells()
        ]

    monkeypatch.setattr(auto, "run_grid", failing)
    with pytest.raises(PlanError, match=r"robust\.rule: expected a rule by name, since every rule failed"):
        auto.resolve_auto(automatic(), hospitals())


def test_a_simulation_runs_with_the_rule_and_stores_why(tmp_path: Path) -> None:
    told: list[str] = []
    result = simulate(
        automatic(),
        data=hospitals(),
        out=tmp_path / "run",
        report=False,
        on_tuning=lambda done, total, last: told.append(last),
    )
    stored = load_plan(tmp_path / "run" / "plan.toml")
    assert stored.robust.rule == result.plan.robust.rule == "median" and stored.robust.pre == ("nnm",)
    table = json.loads((tmp_path / "run" / "redteam.json").read_text())
    assert table["choice"]["rule"] == told[-1] == "nnm+median"
    assert "nnm+median" in (tmp_path / "run" / "redteam.html").read_text()
    told.clear()
    again = simulate(out=tmp_path / "run", data=hospitals(), resume=True, report=False)
    assert again.model.tobytes() == result.model.tobytes() and not told


def test_a_folder_that_cannot_be_used_is_refused_before_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.simulations.simulate.resolve_auto", lambda *_: pytest.fail("trials were begun"))
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(LocalError, match="exists"):
        simulate(automatic(), data=hospitals(), out=tmp_path, report=False)


def test_what_auto_needs_is_said() -> None:
    with pytest.raises(PlanError, match=r"num_byzantine: expected at least 1: how many bad"):
        plan(robust={"rule": "auto"})
    with pytest.raises(PlanError, match='"auto" chooses them'):
        automatic('robust.pre=["nnm"]')
    from wardround.client.trainer.tasks.tabular import TabularClassifier

    shaped = automatic("task.options.inputs=4")
    with pytest.raises(PlanError, match=r"a rule by name for a task given from Python"):
        simulate(shaped, task=TabularClassifier(shaped), data=hospitals(), report=False)
