"""One cell of a grid: which plan it runs, and what comes of it."""

import pytest

from tests.simulations.attacked_federation import hospitals, plan
from wardround.plan import Plan
from wardround.simulations.redteam.candidates import Candidate
from wardround.simulations.redteam.cells import HONEST, Cell, cell_plan, run_cell

MEDIAN = Candidate("median")


def test_a_cells_plan_has_its_rule_its_attack_and_its_seed() -> None:
    given = plan("simulation.attack.from_round=2", "simulation.attack.options.epsilon=3.0", attack="ipm")
    found = cell_plan(given, Cell(MEDIAN, "ipm", 9), 2, 2)
    assert (found.robust.rule, found.robust.num_byzantine, found.seed) == ("median", 2, 9)
    attack = found.simulation.attack
    assert (attack.name, attack.attackers, attack.from_round, attack.options) == ("ipm", 2, 2, {"epsilon": 3.0})
    other = cell_plan(given, Cell(MEDIAN, "alie", 9), 2, 2).simulation.attack
    assert (other.name, other.options, other.from_round) == ("alie", {}, 2)
    honest = cell_plan(given, Cell(MEDIAN, HONEST, 9), 2, 2)
    assert (honest.simulation.attack.name, honest.simulation.attack.attackers) == ("none", 0)
    assert honest.robust.num_byzantine == 2


def test_nothing_is_made_that_no_one_looks_at() -> None:
    found = cell_plan(
        plan("simulation.workers=2", "simulation.baselines=true", "evaluation.every=1"), Cell(MEDIAN, HONEST, 1), 1, 1
    )
    assert (found.simulation.baselines, found.simulation.bootstrap, found.simulation.workers) == (False, 0, 1)
    assert found.evaluation.every == 0


@pytest.mark.parametrize("setting", ["evaluation.select=best", "evaluation.patience=2"])
def test_an_evaluation_that_steers_the_training_stays(setting: str) -> None:
    assert cell_plan(plan("evaluation.every=1", setting), Cell(MEDIAN, HONEST, 1), 1, 1).evaluation.every == 1


def result_of(chosen: Plan, attack: str, rule: str = "mean", attackers: int = 1):  # type: ignore[no-untyped-def]
    return run_cell(chosen, Cell(Candidate(rule), attack, 3), attackers, attackers, "auc", hospitals())


def test_the_result_has_every_metric_and_the_leading_one() -> None:
    found = result_of(plan("rounds=6", "training.lr=0.5"), HONEST)
    assert (found.rule, found.attack, found.seed, found.error) == ("mean", "none", 3, "")
    assert found.value == found.metrics["auc"] > 0.9 and found.backdoor is None and found.void_rounds == 0
    assert found == type(found)(**found.to_json())


def test_where_sites_send_no_figures_the_simulation_sees_for_itself() -> None:
    private = ("privacy.unit=row", "privacy.noise_multiplier=0.5", "privacy.delta=1e-5", "privacy.public_sizes=true")
    found = result_of(plan("rounds=6", "training.lr=0.5", *private), HONEST)
    assert found.error == "" and found.value is not None
    assert found.value == found.metrics["auc"] > 0.8


def test_a_run_that_fails_is_a_result() -> None:
    found = result_of(plan("rounds=6", "training.lr=1e30", "training.epochs=9"), HONEST)
    assert found.value is None and found.metrics == {} and found.error.startswith("5 rounds in a row were void; last: ")


def test_rounds_without_an_update_are_counted() -> None:
    found = result_of(plan("rounds=3", "simulation.dropout=0.4", "cohort.min_replies=5"), HONEST)
    assert found.error == "" and found.void_rounds > 0


def test_a_backdoor_that_is_planted_is_measured() -> None:
    """Model replacement works against the mean and not against the median; without an attack nobody asks."""
    options = ("size=1", "value=6.0", "share=1.0")
    settings = [f"simulation.attack.options.{option}" for option in options]
    chosen = plan("rounds=8", "training.lr=0.5", *settings, attack="scaling_backdoor")
    planted = result_of(chosen, "scaling_backdoor")
    assert planted.backdoor is not None and planted.backdoor > 0.9
    # Begun after the last round: the trigger is measured in a model that never saw it.
    untouched = result_of(chosen.override(["simulation.attack.from_round=9"]), "scaling_backdoor")
    assert untouched.backdoor is not None and untouched.backdoor < 0.2
    defended = result_of(chosen, "scaling_backdoor", "median")
    assert defended.backdoor is not None and defended.backdoor < 0.2
    assert result_of(chosen, "sign_flip").backdoor is None
    assert result_of(chosen, HONEST).backdoor is None
