from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from wardround.errors import LocalError
from wardround.orders import Statistics
from wardround.server.runs.model_file import ModelFile, encode_model, read_model
from wardround.vector import Layout, TensorSpec

LAYOUT = Layout(
    (TensorSpec(name="z", shape=(2, 3)), TensorSpec(name="a", shape=()), TensorSpec(name="m", shape=(2,), buffer=True))
)
MODEL = ModelFile(
    layout=LAYOUT,
    model=np.arange(9, dtype=np.float32),
    round=4,
    run_id="1f",
    plan_digest="2e",
    statistics=Statistics(mean=(0.1,), std=(1 / 3,)),
)


def test_a_model_returns_in_the_order_of_its_layout(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_model(MODEL))
    back = read_model(path)
    assert back.model.tobytes() == MODEL.model.tobytes()
    for name in ("layout", "round", "run_id", "plan_digest", "statistics"):
        assert getattr(back, name) == getattr(MODEL, name)


def test_anyone_can_read_the_named_tensors(tmp_path: Path) -> None:
    tensors = safetensors.numpy.load(encode_model(MODEL))
    assert {name: array.shape for name, array in tensors.items()} == {"z": (2, 3), "a": (), "m": (2,)}
    assert tensors["z"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(LocalError, match=r"model.safetensors: cannot be read \(No such file"):
        read_model(path)
    path.write_bytes(safetensors.numpy.save({"z": np.zeros(3)}))
    with pytest.raises(LocalError, match="expected a whole safetensors file made by wardround"):
        read_model(path)
