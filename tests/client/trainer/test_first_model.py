"""The file of a first model: what the server reads, and the vector that training starts from."""

import json
from pathlib import Path

import numpy as np
import pytest

from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.first_model import first_model, main
from wardround.client.trainer.flat_model import initial_vector, layout_of
from wardround.orders import derive_seed
from wardround.plan import parse_plan
from wardround.server.api.first_model_head import head_bytes, read_head
from wardround.server.runs.tensor_file import decode_tensors
from wardround.tally import decode_spec

PLAN = """
name = "tiny"
rounds = 1
[task]
name = "tabular-classifier"
hidden = [3]
[data]
source = "csv"
path = "x.csv"
target = { name = "y", classes = ["a", "b"] }
columns = [{ name = "u", range = [0, 1] }, { name = "v", range = [0, 1] }]
standardize = "none"
"""


def test_the_server_reads_the_vector_that_a_simulation_starts_from() -> None:
    plan = parse_plan(PLAN)
    task, data = load_task(plan), first_model(parse_plan(PLAN))
    assert data == first_model(plan)
    length = head_bytes(data)
    assert length is not None
    head, layout = read_head(data[:length]), layout_of(task, plan)
    assert head.plan_digest == plan.digest and head.file_bytes == len(data) and head.size == layout.size
    assert head.layout == tuple((one.name, one.shape) for one in layout.tensors)
    assert decode_spec(head.spec.encode()) == task.tally_spec
    tensors, _ = decode_tensors(data, "model")
    expected = initial_vector(task, plan, derive_seed(plan.seed, "model"))
    np.testing.assert_array_equal(layout.flatten(tensors), expected)


def test_it_is_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "model"
    plan.write_text(PLAN)
    assert main([str(plan), str(out)]) == 0 and out.stat().st_mode & 0o777 == 0o600
    assert json.loads(out.read_bytes()[8 : 8 + int.from_bytes(out.read_bytes()[:8], "little")])
    assert main([]) == 2
    assert main([str(tmp_path / "none.toml"), str(out)]) == 1
    assert main([str(plan), str(tmp_path / "no" / "folder")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith(("usage: ", "error: ")) for line in lines)
