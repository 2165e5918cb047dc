"""A released model applied to new rows."""

import csv
import io
from pathlib import Path

import numpy as np
import torch

from wardround.client.data.encoding import encode_inputs
from wardround.client.data.files import read_table
from wardround.client.trainer.bundle import load_task
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.simulations.model_file import ModelFile, read_model
from wardround.simulations.run_info import read_info, read_stored_plan
from wardround.standardization import standardize
from wardround.task import Task
from wardround.vector import F32

__all__ = ["predict"]

_ROWS_AT_ONCE = 4096


def predict(run: Path, file: Path) -> str:
    """CSV text with the model's predictions for the rows of `file`: `row` (as the file counts), outputs, class.

    Rows with a missing value are left out when the plan says `drop-row`. Raises LocalError for a run without a
    model, and for rows that do not fit the plan (file, column, row).
    """
    plan = read_stored_plan(run, read_info(run))
    if plan.task.flower_app is not None:
        raise LocalError(f"{run}: expected a run with a task; a Flower app's model needs that app to predict")
    model = read_model(run / "model.safetensors")
    table = read_table(plan.data, file, target=False)
    inputs = encode_inputs(plan.data, table)
    task = load_task(plan)
    outputs = _outputs(task, model, standardize(plan.data, inputs.x, model.statistics))
    names = list(task.output_names())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = _classes(plan)
    writer.writerow(["row", *names, *(["prediction"] if classes else [])])
    for index, values in zip(inputs.kept.tolist(), outputs, strict=True):
        chosen = [classes[int(np.argmax(values))]] if classes else []
        writer.writerow([table.row(index), *(f"{value:.6g}" for value in values.tolist()), *chosen])
    return text.getvalue()


def _classes(plan: Plan) -> tuple[str, ...]:
    return () if plan.data.target is None else plan.data.target.classes


def _outputs(task: Task, model: ModelFile, x: F32) -> F32:
    """The task's predictions for rows `x`, shape (n, outputs)."""
    module = task.model(0).eval()
    state = module.state_dict()
    for name, values in model.layout.split(model.model).items():
        if name not in state or tuple(state[name].shape) != values.shape:
            raise LocalError(f"model: expected no tensor {name!r} of shape {values.shape} for task {task!r}")
        state[name].copy_(torch.from_numpy(values.copy()))
    with torch.inference_mode():
        parts = [
            task.predict(module(torch.from_numpy(np.ascontiguousarray(x[start : start + _ROWS_AT_ONCE]))))
            for start in range(0, len(x), _ROWS_AT_ONCE)
        ]
    outputs: F32 = torch.cat(parts).numpy()
    return outputs
