"""A model.safetensors, as a member has opened it, applied with the plan of its run."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.simulations.test_prediction import PLAN, ROWS, make_run
from wardround.errors import LocalError
from wardround.plan import parse_plan
from wardround.simulations.commands import app
from wardround.simulations.prediction import predict, predict_bare
from wardround.strategies.he.sealed_model import ArchiveKey, seal_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    run, path = make_run(tmp_path / "run", parse_plan(PLAN)), tmp_path / "model.safetensors"
    path.write_bytes((run / "model.safetensors").read_bytes())
    (tmp_path / "new.csv").write_text(ROWS)
    (tmp_path / "plan.toml").write_text((run / "plan.toml").read_text())
    return path


def command(model: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["predict", str(model), str(model.parent / "new.csv"), *arguments])


def test_it_predicts_what_its_run_does(model: Path) -> None:
    plan = parse_plan((model.parent / "plan.toml").read_text())
    wanted = predict(model.parent / "run", model.parent / "new.csv")
    found = predict_bare(model, model.parent / "new.csv", plan=plan)
    np.testing.assert_array_equal(found.outputs, wanted.outputs)
    done = command(model, "--plan", str(model.parent / "plan.toml"))
    assert done.exit_code == 0 and done.stdout == wanted.to_csv()


def test_another_plans_model_is_refused(model: Path) -> None:
    other = parse_plan(PLAN.replace("rounds = 1", "rounds = 2"))
    with pytest.raises(LocalError, match=r"expected a model of the plan with digest .* name the plan of its run"):
        predict_bare(model, model.parent / "new.csv", plan=other)


def test_a_sealed_model_is_refused_with_what_to_do(model: Path) -> None:
    key = ArchiveKey(run="0" * 32, epoch=0, fingerprint=bytes(32), private=bytes([1]) * 32)
    sealed = model.with_name("model.sealed")
    sealed.write_bytes(
        seal_model(model.read_bytes(), key.public, run=key.run, epoch=key.epoch, fingerprint=key.fingerprint)
    )
    for arguments in (("--plan", str(model.parent / "plan.toml")), ("--unverified",)):
        done = command(sealed, *arguments)
        assert done.exit_code == 1 and "wardround client model open" in str(done.exception), done.exception


def test_a_plan_goes_with_a_bare_model_only(model: Path) -> None:
    plan = ("--plan", str(model.parent / "plan.toml"))
    assert command(model, *plan, "--unverified").exit_code == 2
    assert command(model.parent / "run", *plan).exit_code == 2
    assert command(model).exit_code == 2
