"""Models as networks for encrypted rows: against `predict`, and what cannot be evaluated."""

from pathlib import Path

import numpy as np
import pytest

from tests.released_models import Signers
from tests.simulations.private_models import LOGISTIC, MLP, STATISTICS, make_run
from wardround.client.data.encoding import encode_inputs
from wardround.client.data.table import Table
from wardround.errors import LocalError, RemoteError
from wardround.plan_sections import Standardize
from wardround.simulations.inference_model import OwnedModel, read_owned_model
from wardround.simulations.prediction import predict
from wardround.standardization import standardize
from wardround.strategies.he.inference_plan import LINEAR, ONE_HIDDEN_LAYER
from wardround.vector import F64

PRESSURES, SMOKERS = [30.0, 140.0, 99.5, 250.0], ["now", "never", "now", "never"]


def outputs(owned: OwnedModel) -> F64:
    columns = {"pressure": np.array(PRESSURES), "smoker": np.array(SMOKERS)}
    x = encode_inputs(owned.plan.data, Table(source="array", columns=columns)).x
    return owned.network(standardize(owned.plan.data, x, owned.statistics).astype(np.float64))


@pytest.mark.parametrize(("text", "squares"), [(LOGISTIC, 0), (MLP, 1)])
def test_a_classifiers_outputs_are_logits_less_the_first(tmp_path: Path, text: str, squares: int) -> None:
    owned = read_owned_model(make_run(tmp_path / "run", text))
    assert (owned.network.squares, owned.network.outputs) == (squares, 2)
    assert owned.assurance.parameters is (ONE_HIDDEN_LAYER if squares else LINEAR)
    rows = np.array(list(zip(PRESSURES, SMOKERS, strict=True)), dtype=object)
    found = predict(tmp_path / "run", rows).outputs.astype(np.float64)
    np.testing.assert_allclose(outputs(owned), np.log(found[:, 1:] / found[:, :1]), atol=1e-4)


def test_a_regressors_output_is_the_scaled_target(tmp_path: Path) -> None:
    text = LOGISTIC.replace("classifier", "regressor").replace("logistic", "linear")
    text = text.replace('classes = ["no", "perhaps", "yes"]', "range = [100, 300]")
    owned = read_owned_model(make_run(tmp_path / "run", text))
    rows = np.array(list(zip(PRESSURES, SMOKERS, strict=True)), dtype=object)
    found = predict(tmp_path / "run", rows).outputs
    np.testing.assert_allclose(100 + 200 * outputs(owned), found, rtol=1e-5)


def test_the_box_is_the_columns_ranges_standardised(tmp_path: Path) -> None:
    owned = read_owned_model(make_run(tmp_path / "run"))
    np.testing.assert_allclose(owned.box.low, [(30 - 120) / 20, 0, 0])
    np.testing.assert_allclose(owned.box.high, [(250 - 120) / 20, 1, 1])


def test_what_may_be_known_has_no_weights(tmp_path: Path) -> None:
    info = read_owned_model(make_run(tmp_path / "run")).info()
    assert (info.name, info.standardize, info.statistics) == ("hearts", Standardize.FEDERATED, STATISTICS)
    assert [column.name for column in info.columns] == ["pressure", "smoker"]
    other = read_owned_model(make_run(tmp_path / "other", seed=1)).info()
    differing = {name for name in type(info).__slots__ if getattr(info, name) != getattr(other, name)}
    assert differing == {"model", "error", "output"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"tabular-classifier"', '"image-classifier"'), "expected a model of tabular-classifier or tabular-regressor"),
        (("options = { quadratic = true }", ""), "expected hidden layers with task.options.quadratic = true, got ReLU"),
        (("options = { quadratic = true }", "options = { quadratic = false }"), "got ReLU"),
        (("hidden = [4]", "hidden = [4, 3]"), "expected one hidden layer at most, got 2"),
        (('standardize = "federated"', 'standardize = "none"'), ""),
        ((', range = [30, 250]', ""), "a range"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_evaluated_are_refused(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    text = MLP.replace(*change)
    if "range" in change[0]:
        text = text.replace('"federated"', '"none"')
    widths = (3, 4, 3, 3) if "[4, 3]" in change[1] else (3, 4, 3)
    run = make_run(tmp_path / "run", text, widths=widths)
    if not words:
        assert read_owned_model(run).network.squares == 1
        return
    with pytest.raises(LocalError, match=rf"^{run}/model.safetensors: .*{words}"):
        read_owned_model(run)


def test_a_model_whose_error_cannot_be_bounded_below_the_limit_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", MLP.replace("range = [30, 250]", "range = [-100000, 100000]"))
    with pytest.raises(LocalError, match=r"no parameters of CKKS fit the model \(4096.*8192.*"):
        read_owned_model(run)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="expected the tensors of a network with the widths"):
        read_owned_model(make_run(tmp_path / "shape", widths=(4, 3)))
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", LOGISTIC.replace("hearts", "lungs"))
    (other / "model.safetensors").replace(run / "model.safetensors")
    with pytest.raises(LocalError, match=r"model.safetensors: expected a model of the plan with digest"):
        read_owned_model(run)
    (run / "model.safetensors").unlink()
    with pytest.raises(LocalError, match=r"model.safetensors: cannot be read"):
        read_owned_model(run)


def test_a_released_model_is_verified(tmp_path: Path) -> None:
    signers, others = Signers(), Signers()
    path = signers.write(tmp_path / "hearts-2.wardmodel")
    owned = read_owned_model(path, signers.authority)
    assert owned.network.inputs == 3 and owned.digest == read_owned_model(path).digest
    with pytest.raises(RemoteError, match=r"hearts-2.wardmodel"):
        read_owned_model(path, others.authority)
