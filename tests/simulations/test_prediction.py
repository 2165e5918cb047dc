"""Predictions against the same arithmetic in numpy, and what cannot be predicted."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.released_models import MODEL, Signers
from tests.released_models import PLAN as RELEASED_PLAN
from wardround.errors import LocalError, RemoteError
from wardround.orders import Statistics
from wardround.plan import Plan, parse_plan
from wardround.server.runs.run_directory import RunDirectory
from wardround.simulations.commands import app
from wardround.simulations.prediction import Prediction, predict, predict_released
from wardround.vector import F32, F64, Layout, TensorSpec

PLAN = """
name = "hearts"
rounds = 1
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "rows.csv"
standardize = "federated"
target = { name = "ill", classes = ["no", "yes"] }
columns = [
  { name = "pressure", range = [30, 250] },
  { name = "smoker", type = "category", categories = ["never", "now"] },
]
"""
WEIGHT = np.array([[0.5, -1.0, 0.25], [-0.5, 1.0, 2.0]], dtype=np.float32)
BIAS = np.array([0.1, -0.2], dtype=np.float32)
LAYOUT = Layout((TensorSpec(name="output.weight", shape=(2, 3)), TensorSpec(name="output.bias", shape=(2,))))
STATISTICS = Statistics(mean=(120.0,), std=(20.0,))
ROWS = "age,smoker,pressure\n1,now,140\n2,never,100\n\n3,never,240.5\n"


def make_run(path: Path, plan: Plan, model: F32 | None = None, layout: Layout = LAYOUT) -> Path:
    with RunDirectory.create(path, plan, {}) as run:
        vector = np.concatenate((WEIGHT.ravel(), BIAS)) if model is None else model
        run.write_model(layout, vector, round=1, statistics=STATISTICS)
    return path


def expected(pressure: list[float], now: list[int]) -> F64:
    """Softmax of a logistic model on a standardised number and a one-hot category."""
    x = np.array([[(p - 120) / 20, 1 - n, n] for p, n in zip(pressure, now, strict=True)])
    odds = np.exp(x @ WEIGHT.T.astype(np.float64) + BIAS)
    shares: F64 = odds / odds.sum(axis=1, keepdims=True)
    return shares


def test_a_csv_file_without_its_target(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(ROWS)
    found = predict(make_run(tmp_path / "run", parse_plan(PLAN)), tmp_path / "new.csv")
    by_hand = expected([140, 100, 240.5], [1, 0, 0])
    np.testing.assert_allclose(found.outputs, by_hand, atol=1e-6)
    assert found.rows.tolist() == [2, 3, 4]
    assert found.classes == tuple(("no", "yes")[i] for i in by_hand.argmax(axis=1)) == ("yes", "yes", "no")
    table = list(csv.reader(io.StringIO(found.to_csv())))
    assert table[0] == ["row", *found.names, "prediction"] and len(found.names) == 2
    assert [(int(row[0]), row[3]) for row in table[1:]] == list(zip([2, 3, 4], found.classes, strict=True))
    read_back = np.array([row[1:3] for row in table[1:]], dtype=np.float32)
    assert read_back.tobytes() == found.outputs.tobytes()


def test_a_parquet_file_and_a_surplus_target(tmp_path: Path) -> None:
    rows = pa.table({"ill": ["no", "yes"], "pressure": [140.0, 100.0], "smoker": ["now", "never"]})
    pyarrow.parquet.write_table(rows, tmp_path / "new.parquet")
    found = predict(make_run(tmp_path / "run", parse_plan(PLAN)), tmp_path / "new.parquet")
    np.testing.assert_allclose(found.outputs, expected([140, 100], [1, 0]), atol=1e-6)
    assert found.rows.tolist() == [1, 2]


def test_rows_with_missing_values_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(ROWS.replace("never,100", "never,"))
    with pytest.raises(LocalError, match=r"new.csv: column 'pressure': .* first in row 3"):
        predict(make_run(tmp_path / "refuses", parse_plan(PLAN)), tmp_path / "new.csv")
    plan = parse_plan(PLAN.replace("standardize", 'missing = "drop-row"\nstandardize'))
    found = predict(make_run(tmp_path / "drops", plan), tmp_path / "new.csv")
    assert found.rows.tolist() == [2, 4]
    np.testing.assert_allclose(found.outputs, expected([140, 240.5], [1, 0]), atol=1e-6)


def test_an_array(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", parse_plan(PLAN))
    found = predict(run, np.array([[140.0, "now"], [100.0, "never"]], dtype=object))
    np.testing.assert_allclose(found.outputs, expected([140, 100], [1, 0]), atol=1e-6)
    assert found.rows.tolist() == [0, 1]
    with pytest.raises(LocalError, match=r"array: expected shape \(n, 2\), the plan's columns, got \(3, 3\)"):
        predict(run, np.zeros((3, 3)))


def test_no_rows_give_no_predictions() -> None:
    empty = Prediction(rows=np.array([], dtype=np.int64), names=("a",), outputs=np.zeros((0, 1), dtype=np.float32))
    assert empty.to_csv() == "row,a\n"


def test_a_number_to_predict_is_in_its_own_unit(tmp_path: Path) -> None:
    text = PLAN.replace("classifier", "regressor").replace("logistic", "linear")
    plan = parse_plan(text.replace('classes = ["no", "yes"]', "range = [100, 300]"))
    layout = Layout((TensorSpec(name="output.weight", shape=(1, 3)), TensorSpec(name="output.bias", shape=(1,))))
    run = make_run(tmp_path / "run", plan, np.array([0.1, 0, 0.2, 0.3], dtype=np.float32), layout)
    found = predict(run, np.array([[140.0, "now"]], dtype=object))
    np.testing.assert_allclose(found.outputs, [[100 + 200 * (0.1 * 1 + 0.2 + 0.3)]], rtol=1e-6)
    assert found.classes == () and "prediction" not in found.to_csv().splitlines()[0].split(",")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("smoker,presure\nnow,140\n", "new.csv: expected a column 'pressure'; did you mean 'presure'"),
        ("smoker,pressure\nnow,high\n", "new.csv: column 'pressure': .* row 2"),
        ("smoker,pressure\nnow,140\nnow,900\n", "new.csv: column 'pressure': expected values from 30 to 250.* row 3"),
        ("smoker,pressure\nwho,140\n", "new.csv: column 'smoker': .* row 2"),
        ("smoker,pressure\n", "new.csv: expected rows"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "new.csv").write_text(rows)
    with pytest.raises(LocalError, match=message):
        predict(make_run(tmp_path / "run", parse_plan(PLAN)), tmp_path / "new.csv")


def array() -> Any:
    return np.array([[140.0, "now"]], dtype=object)


def test_a_run_without_a_model_or_with_another_runs_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="expected a run directory"):
        predict(tmp_path, array())
    run = make_run(tmp_path / "run", parse_plan(PLAN))
    other = make_run(tmp_path / "other", parse_plan(PLAN.replace("hearts", "lungs")))
    (other / "model.safetensors").replace(run / "model.safetensors")
    with pytest.raises(LocalError, match=r"model.safetensors: expected a model of the plan with digest"):
        predict(run, array())
    (run / "model.safetensors").unlink()
    with pytest.raises(LocalError, match=r"model.safetensors: cannot be read \(No such file"):
        predict(run, array())


def test_a_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    layout = Layout((TensorSpec(name="output.weight", shape=(2, 3)), TensorSpec(name="bias", shape=(2,))))
    with pytest.raises(LocalError, match="expected the tensors of task 'tabular-classifier', got others"):
        predict(make_run(tmp_path / "run", parse_plan(PLAN), layout=layout), array())


LOCAL_TASK = """
from torch import nn
from wardround.client.trainer.tasks.tabular import TabularClassifier

class Task(TabularClassifier):
    def model(self, seed):
        return nn.Sequential(super().model(seed), nn.BatchNorm1d(2))
"""


def test_a_model_whose_sites_keep_a_part_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "batch.py").write_text(LOCAL_TASK)
    names = {"0.output.weight": (2, 3), "0.output.bias": (2,), "1.weight": (2,), "1.bias": (2,)}
    running = {"1.running_mean": (2,), "1.running_var": (2,)}
    layout = Layout(tuple(TensorSpec(name=name, shape=shape) for name, shape in names.items()))
    vector = np.concatenate((WEIGHT.ravel(), BIAS, [1, 1, 0, 0])).astype(np.float32)
    text = PLAN.replace('name = "tabular-classifier"', 'entry = "batch:Task"\ncode = "mine"')
    plan = parse_plan(text + '[training]\nbatch_norm = "local"\n', folder=tmp_path)
    with pytest.raises(LocalError, match=r'with training.batch_norm = "local" every site keeps a part'):
        predict(make_run(tmp_path / "local", plan, vector, layout), array())
    plan = parse_plan(text, folder=tmp_path)
    buffers = tuple(TensorSpec(name=name, shape=shape, buffer=True) for name, shape in running.items())
    vector = np.concatenate((vector, [0, 0, 1, 1])).astype(np.float32)
    found = predict(make_run(tmp_path / "average", plan, vector, Layout((*layout.tensors, *buffers))), array())
    np.testing.assert_allclose(found.outputs, expected([140], [1]), atol=1e-4)


def test_a_flower_apps_run_is_refused(tmp_path: Path) -> None:
    text = 'name = "f"\nrounds = 1\n[task]\nflower_app = "m:app"\nflower_initial = "m:i"\n[data]\nsource = "app"\n'
    with pytest.raises(LocalError, match="a Flower app's model needs that app to predict"):
        predict(make_run(tmp_path / "run", parse_plan(text)), array())


# -- released models ------------------------------------------------------------------------------

SIGNERS = Signers()
NET = """
from dataclasses import replace

from wardround.client.trainer.tasks.tabular import TabularClassifier

def make(plan):
    return TabularClassifier(replace(plan, task=replace(plan.task, model="logistic")))
"""


def test_a_released_model_predicts_once_it_is_verified(tmp_path: Path) -> None:
    path = SIGNERS.write(tmp_path / "hearts-2.wardmodel")
    (tmp_path / "new.csv").write_text("smoker,pressure\nnow,140\nnever,100\n")
    found = predict_released(path, tmp_path / "new.csv", authority=SIGNERS.authority)
    run = RunDirectory.create(tmp_path / "run", parse_plan(RELEASED_PLAN), {})
    with run:
        run.write_model(LAYOUT, MODEL, round=3, statistics=None)
    expected = predict(tmp_path / "run", tmp_path / "new.csv")
    assert np.array_equal(found.outputs, expected.outputs)
    assert found.classes == expected.classes
    unsigned = predict_released(path, tmp_path / "new.csv", authority=None)
    assert np.array_equal(unsigned.outputs, expected.outputs)


def test_a_released_model_that_does_not_verify_predicts_nothing(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("smoker,pressure\nnow,140\n")
    path = SIGNERS.write(tmp_path / "m.wardmodel")
    with pytest.raises(RemoteError, match=r"m\.wardmodel: .*wardround server"):
        predict_released(path, tmp_path / "new.csv", authority=Signers().authority)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for authority in (SIGNERS.authority, None):  # whoever made it: these are not its bytes
        with pytest.raises(RemoteError, match=r"model\.safetensors"):
            predict_released(path, tmp_path / "new.csv", authority=authority)


def test_a_released_model_of_third_party_code_needs_that_code(tmp_path: Path) -> None:
    code = tmp_path / "there" / "code"
    code.mkdir(parents=True)
    (code / "net.py").write_text(NET)
    toml = RELEASED_PLAN.replace('name = "tabular-classifier"\nmodel = "logistic"', 'entry = "net:make"\ncode = "code"')
    path = SIGNERS.write(tmp_path / "m.wardmodel", toml=toml, folder=tmp_path / "there")
    (tmp_path / "new.csv").write_text("smoker,pressure\nnow,140\n")
    with pytest.raises(LocalError, match="--code"):
        predict_released(path, tmp_path / "new.csv", authority=SIGNERS.authority)
    found = predict_released(path, tmp_path / "new.csv", authority=SIGNERS.authority, code=tmp_path / "there")
    assert found.outputs.shape == (1, 2)
    (code / "net.py").write_text(NET + "# changed\n")
    with pytest.raises(LocalError):
        predict_released(path, tmp_path / "new.csv", authority=SIGNERS.authority, code=tmp_path / "there")


def test_the_command_wants_a_root_or_says_that_there_is_none(tmp_path: Path) -> None:
    path = SIGNERS.write(tmp_path / "m.wardmodel")
    (tmp_path / "new.csv").write_text("smoker,pressure\nnow,140\n")
    (tmp_path / "ca.pem").write_bytes(SIGNERS.pem)
    (tmp_path / "other.pem").write_bytes(Signers().pem)

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["predict", str(path), str(tmp_path / "new.csv"), *arguments])

    assert command().exit_code == 2
    assert command("--root", str(tmp_path / "ca.pem"), "--unverified").exit_code == 2
    good = command("--root", str(tmp_path / "ca.pem"))
    assert good.exit_code == 0, good.output
    loud = command("--unverified")
    assert loud.exit_code == 0
    assert "NOT VERIFIED" in loud.stderr
    assert loud.stdout == good.stdout
    bad = command("--root", str(tmp_path / "other.pem"))
    assert isinstance(bad.exception, RemoteError)
    assert bad.stdout == ""
