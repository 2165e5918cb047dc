"""What a simulation of a plan with a sealed model says of itself, and that a federation does not say it."""

from pathlib import Path

import pytest

from tests.server.runs.test_supervisor import small_plan
from wardround.server.runs.caveat import caveat
from wardround.server.runs.model_file import read_model
from wardround.simulations.simulate import simulate

BFV = ("protection.mode=bfv", "cohort.weighting=uniform", "clipping.clip_norm=2.0", "rounds=1")


def test_a_simulation_says_that_its_model_is_not_sealed() -> None:
    plan = small_plan(*BFV, "protection.sealed_model=true")
    assert caveat(plan).startswith("the model is not sealed in this simulation")
    assert caveat(plan, deployed=True) == caveat(small_plan(*BFV)) == ""


def test_a_simulated_run_writes_its_model_as_ever_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("tenseal")
    plan = small_plan(*BFV, "protection.sealed_model=true", 'data.standardize="range"')
    result = simulate(plan, out=tmp_path / "run", report=True)
    assert read_model(tmp_path / "run" / "model.safetensors").round == 1
    assert "not sealed in this simulation" in repr(result)
    for name in ("model-card.md", "report.html"):
        assert "not sealed in this simulation" in (tmp_path / "run" / name).read_text(encoding="utf-8"), name
    card = (tmp_path / "run" / "model-card.md").read_text(encoding="utf-8")
    assert "(`model.safetensors`)" in card and "Sealed model" not in card
