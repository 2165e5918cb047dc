"""A trained model as a network that can be evaluated on encrypted rows; what its owner has, and may tell of it."""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.identity import Authority
from wardround.orders import Statistics
from wardround.plan import Plan
from wardround.plan_sections import Column, ColumnType, Data, Standardize, Target
from wardround.release_check import check_release, unsigned_plan
from wardround.released_model import ReleasedModel
from wardround.server.runs.model_file import ModelFile, decode_model
from wardround.server.runs.run_directory import MODEL_FILE
from wardround.server.runs.run_info import read_info, read_stored_plan
from wardround.standardization import standardize
from wardround.strategies.he.inference_file import ModelInfo
from wardround.strategies.he.inference_plan import Assurance, Box, Layer, Network, choose_parameters
from wardround.vector import F32, F64

__all__ = ["OwnedModel", "data_of", "network_of", "read_owned_model"]

_TASKS = ("tabular-classifier", "tabular-regressor")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedModel:
    """A model and its plan. `digest` is the SHA-256 of model.safetensors; `assurance` holds for the rows of `box`."""

    plan: Plan
    digest: str
    network: Network
    statistics: Statistics | None
    box: Box
    assurance: Assurance

    def info(self) -> ModelInfo:
        """What an asker needs of it: no weights."""
        data, found = self.plan.data, self.assurance
        if data.target is None:  # every built-in task has one
            raise LocalError("data.target: expected what is predicted, got none")
        return ModelInfo(
            name=self.plan.name,
            model=self.digest,
            plan=self.plan.digest,
            columns=data.columns,
            target=data.target,
            standardize=data.standardize,
            statistics=self.statistics,
            squares=self.network.squares,
            parameters=str(found.parameters),
            error=found.error,
            output=found.output,
        )


def read_owned_model(path: Path, authority: Authority | None = None) -> OwnedModel:
    """The model of a run's directory, or a released one (.wardmodel), which is verified by `authority` where given.

    Raises LocalError for a model that cannot be evaluated on encrypted rows, with the reason, and for what is no
    model; RemoteError for a released one that does not verify.
    """
    if path.is_dir():
        info = read_info(path)
        plan, where = read_stored_plan(path, info), path / MODEL_FILE
        try:
            data = where.read_bytes()
        except OSError as error:
            raise LocalError(f"{where}: cannot be read ({error.strerror})") from None
    else:
        with ReleasedModel(path) as released:
            if authority is not None:
                plan, manifest = (checked := check_release(released, authority)).plan, checked.manifest
            else:
                manifest, plan = unsigned_plan(released)
            data, where = released.model(manifest), path
    try:
        model = decode_model(data, str(where))
        if model.plan_digest != plan.digest:
            raise LocalError(
                f"expected a model of the plan with digest {plan.digest[:12]}, got {model.plan_digest[:12]}"
            )
        network = network_of(plan, model)
        box = _box(plan.data, model.statistics)
        assurance = choose_parameters(network, box)
    except LocalError as error:
        raise LocalError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
    return OwnedModel(
        plan=plan,
        digest=hashlib.sha256(data).hexdigest(),
        network=network,
        statistics=model.statistics,
        box=box,
        assurance=assurance,
    )


def network_of(plan: Plan, model: ModelFile) -> Network:
    """The model as linear layers with squares between them.

    x²/8 + x/2 + 1/4 is ((x + 2) / √8)² − 1/4, whose constants go into the layers around it. Of a classifier, an output
    is the logit of a class less that of the first class: their softmax is the same.

    Raises LocalError for any other model: another task, ReLU.
    """
    if plan.task.name not in _TASKS:
        raise LocalError(
            f"expected a model of {' or '.join(_TASKS)}, got one of {plan.task.name or plan.task.entry!r}; no other "
            "can be evaluated on encrypted rows"
        )
    tensors = model.layout.split(model.model)
    layers = _layers(tensors, _widths(plan))
    if len(layers) > 2:
        raise LocalError(
            f"expected one hidden layer at most, got {len(layers) - 1}; with more, the error of CKKS grows too large "
            "(docs/private-inference.md)"
        )
    if len(layers) > 1 and plan.task.options.get("quadratic") is not True:
        raise LocalError(
            "expected hidden layers with task.options.quadratic = true, got ReLU, which no polynomial of a usable "
            "degree comes near enough to (docs/private-inference.md); train the model with it, or a linear one"
        )
    if plan.task.name == "tabular-classifier":
        last = layers[-1]
        layers[-1] = Layer(weight=last.weight[1:] - last.weight[:1], bias=last.bias[1:] - last.bias[:1])
    for place, (layer, following) in enumerate(pairwise(layers)):
        layers[place] = Layer(weight=layer.weight / 8**0.5, bias=(layer.bias + 2) / 8**0.5)
        layers[place + 1] = Layer(weight=following.weight, bias=following.bias - following.weight.sum(axis=1) / 4)
    return Network(layers=tuple(layers))


def _widths(plan: Plan) -> tuple[int, ...]:
    target = plan.data.target
    deep = plan.task.model in ("", "mlp")
    outputs = len(target.classes) if target is not None and target.classes else 1
    return (plan.data.num_inputs, *(plan.task.hidden if deep else ()), outputs)


def _layers(tensors: dict[str, F32], widths: tuple[int, ...]) -> list[Layer]:
    names = [*(f"hidden{place}" for place in range(1, len(widths) - 1)), "output"]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (width, following) in zip(names, pairwise(widths), strict=True):
        shapes |= {f"{name}.weight": (following, width), f"{name}.bias": (following,)}
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise LocalError(f"expected the tensors of a network with the widths {list(widths)}, got others")
    return [Layer(weight=_wide(tensors[f"{name}.weight"]), bias=_wide(tensors[f"{name}.bias"])) for name in names]


def _wide(tensor: F32) -> F64:
    if not np.isfinite(tensor).all():
        raise LocalError("expected finite weights, got NaN or infinity")
    return tensor.astype(np.float64)


def data_of(columns: tuple[Column, ...], target: Target, how: Standardize) -> Data:
    """The columns as a section of a plan, by which rows are read and encoded; every value has to be there."""
    return Data(source="csv", path="rows.csv", columns=columns, target=target, standardize=how)


def _box(data: Data, statistics: Statistics | None) -> Box:
    """The ends of every input's range, standardised as rows are: rounding keeps the order, so no row is outside."""
    low, high = [], []
    for index, column in enumerate(data.columns):
        if column.type is ColumnType.CATEGORY:
            low += [0.0] * column.width
            high += [1.0] * column.width
            continue
        if column.range is None:
            raise PlanError(
                f"data.columns[{index}].range", "a range for every number, without which no error can be bounded"
            )
        low.append(column.range[0])
        high.append(column.range[1])
    ends = standardize(data, np.array([low, high], dtype=np.float32), statistics).astype(np.float64)
    return Box(low=ends[0], high=ends[1])
