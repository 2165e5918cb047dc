"""A released model applied to new rows."""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.encoding import encode_inputs
from wardround.client.data.files import read_table
from wardround.client.data.table import Table
from wardround.client.trainer.bundle import foreign_code, load_task
from wardround.client.trainer.flat_model import FlatModel
from wardround.client.trainer.private_model import model_of
from wardround.client.trainer.torch_trainer import predict as predict_rows
from wardround.errors import LocalError
from wardround.identity import Authority
from wardround.plan import Plan
from wardround.plan_sections import Data
from wardround.release_check import check_release, unsigned_plan
from wardround.released_model import ReleasedModel
from wardround.server.runs.model_file import ModelFile, decode_model, read_model
from wardround.server.runs.run_directory import MODEL_FILE
from wardround.server.runs.run_info import read_info, read_stored_plan
from wardround.task import Task
from wardround.vector import F32, I64

__all__ = ["Prediction", "predict", "predict_bare", "predict_released"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says about rows: `outputs` of shape (n, len(names)), and the likeliest class of each row.

    `rows`, shape (n,), are numbers as the source counts them (a CSV file's header is row 1; an array begins with 0).
    `classes` is empty for a number to predict.
    """

    rows: I64
    names: tuple[str, ...]
    outputs: F32
    classes: tuple[str, ...] = ()

    def to_csv(self) -> str:
        """A line per row: `row`, the outputs (each reads back to the same float32), `prediction` where there is one."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", *self.names, *(["prediction"] if self.classes else [])])
        for index, row in enumerate(self.rows.tolist()):
            writer.writerow([row, *map(str, self.outputs[index]), *self.classes[index : index + 1]])
        return text.getvalue()


def predict(run: str | Path, given: str | Path | NDArray[Any]) -> Prediction:
    """Apply the model of the run in `run` to a CSV or Parquet file, or to an array of rows.

    A file needs the plan's columns in their own units, not the target. An array has shape (n, columns), in the plan's
    order, or (n, channels, height, width). Rows with a missing value are left out when the plan says `drop-row`.

    Raises LocalError for a run without a model, a model of another plan, one that cannot predict outside its sites,
    and for rows that do not fit the plan (file, column, row).
    """
    folder = Path(run)
    info = read_info(folder)
    plan = read_stored_plan(folder, info)
    if plan.task.flower_app is not None:
        raise LocalError(f"{folder}: expected a run with a task; a Flower app's model needs that app to predict")
    model = read_model(folder / MODEL_FILE)
    if model.plan_digest != info.plan_digest:
        raise LocalError(
            f"{folder / MODEL_FILE}: expected a model of the plan with digest {info.plan_digest[:12]}, "
            f"got one of {model.plan_digest[:12]}; restore the run's own file"
        )
    return _predicted(folder / MODEL_FILE, plan, model, given)


def predict_bare(path: str | Path, given: str | Path | NDArray[Any], *, plan: Plan) -> Prediction:
    """Apply a model.safetensors of `plan`, as a member has opened it, as `predict` does.

    Whose model it is nobody has signed. Raises LocalError where it is of another plan, and as `predict` does.
    """
    model = read_model(Path(path))
    if model.plan_digest != plan.digest:
        raise LocalError(
            f"{path}: expected a model of the plan with digest {plan.digest[:12]}, got one of "
            f"{model.plan_digest[:12]}; name the plan of its run, such as plans/RUN/plan.toml of the site's folder"
        )
    return _predicted(Path(path), plan, model, given)


def predict_released(
    path: str | Path, given: str | Path | NDArray[Any], *, authority: Authority | None, code: Path | None = None
) -> Prediction:
    """Apply a released model, as `predict` does, once it was verified; without `authority` it may be anybody's.

    `code` is the folder that the plan's code folder lies in, where the plan has code of its own: it is not in the file.
    Raises WardroundError for a file that does not verify, and as `predict` does.
    """
    with ReleasedModel(path) as released:
        if authority is not None:
            plan, manifest = (checked := check_release(released, authority)).plan, checked.manifest
        else:
            manifest, plan = unsigned_plan(released)
        model = decode_model(released.model(manifest), f"{path}: model.safetensors")
    if plan.code_files:
        if code is None:
            raise LocalError(
                f"{path}: its plan has code of its own ({plan.task.code}), which is not in the file; name the folder "
                "that holds it: --code DIR"
            )
        plan = replace(plan, folder=code)
    return _predicted(Path(path), plan, model, given)


def _predicted(path: Path, plan: Plan, model: ModelFile, given: str | Path | NDArray[Any]) -> Prediction:
    table = (
        _table(plan.data, given) if isinstance(given, np.ndarray) else read_table(plan.data, Path(given), target=False)
    )
    inputs = encode_inputs(plan.data, table)
    task = load_task(plan)
    _check_model(path, task, plan, model)
    with foreign_code(f"{path}: predicting"):
        outputs = predict_rows(task, plan, model.model, inputs.x, model.statistics)
        names = tuple(task.output_names())
    labels = () if plan.data.target is None else plan.data.target.classes
    likeliest = outputs.argmax(axis=1).tolist() if labels else []
    return Prediction(
        rows=np.array([table.row(index) for index in inputs.kept], dtype=np.int64),
        names=names,
        outputs=outputs,
        classes=tuple(labels[index] for index in likeliest),
    )


def _table(data: Data, array: NDArray[Any]) -> Table:
    if data.columns and array.shape[1:] != (len(data.columns),):
        raise LocalError(f"array: expected shape (n, {len(data.columns)}), the plan's columns, got {array.shape}")
    columns = {column.name: array[:, index] for index, column in enumerate(data.columns)}
    return Table(source="array", columns=columns, array=None if columns else array)


def _check_model(path: Path, task: Task, plan: Plan, model: ModelFile) -> None:
    expected = FlatModel(model_of(task, plan, 0), plan.training.batch_norm)
    if expected.layout != model.layout:
        raise LocalError(
            f"{path}: expected the tensors of task {plan.task.name or plan.task.entry!r}, got others; "
            "the task's code is not the one that was trained"
        )
    if expected.site_state() is not None:
        raise LocalError(
            f'{path}: expected a model that is whole; with training.batch_norm = "local" every site keeps a part of '
            'it. Train with batch_norm = "average" to predict elsewhere'
        )
