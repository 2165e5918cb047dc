"""A user's own Flower app: the ClientApp, and its arrays as one flat vector."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from wardround.client.trainer.bundle import foreign_code, load_from_bundle
from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.plan_sections import Data, Training
from wardround.plan_simulation import Partition
from wardround.vector import F32, Layout, TensorSpec

__all__ = ["SENT", "FlowerApp", "load_flower_app"]

SENT = ("server-round", "lr", "seed", "split")
"""What an app is told beside `task.options`, in its ConfigRecord."""

_RUNNING_STATISTICS = (".running_mean", ".running_var")
_COUNTER = "num_batches_tracked"
_LR = ("lr", "schedule", "schedule_every", "schedule_factor")


@dataclass(frozen=True, slots=True)
class FlowerApp:
    """`app`, and its `initial` arrays by name, in its own order and types.

    Floating-point arrays are learned: together they are the update vector, running statistics of BatchNorm last.
    Others (counters, masks) are constants of the plan: every round sends them as they were at first.
    """

    app: ClientApp
    initial: Mapping[str, NDArray[np.generic]]

    @property
    def layout(self) -> Layout:
        """The learned arrays' places in the vector."""
        specs = [
            TensorSpec(name=name, shape=array.shape, buffer=name.endswith(_RUNNING_STATISTICS))
            for name, array in self.initial.items()
            if _is_learned(array)
        ]
        return Layout(tuple(sorted(specs, key=lambda spec: spec.buffer)))

    def vector(self, arrays: Mapping[str, NDArray[np.generic]]) -> F32:
        """The learned part of `arrays`, float32 of shape (d,).

        Raises ValueError for a missing, surplus or misshapen array, and for a constant that came back changed.
        """
        for name, constant in self.initial.items():
            if _is_learned(constant) or name.endswith(_COUNTER):
                continue
            if name not in arrays or not np.array_equal(arrays[name], constant):
                raise ValueError(f"array {name!r} of {constant.dtype} is no float: expected it back unchanged")
        constants = {name for name, array in self.initial.items() if not _is_learned(array)}
        return self.layout.flatten({name: array for name, array in arrays.items() if name not in constants})

    def record(self, model: F32) -> ArrayRecord:
        """`model`, shape (d,), as the record that the app expects."""
        learned = self.layout.split(model)
        record = ArrayRecord()
        for name, array in self.initial.items():
            values = learned[name].astype(array.dtype, copy=False) if name in learned else array
            record[name] = Array(np.ascontiguousarray(values).reshape(array.shape))
        return record


def _is_learned(array: NDArray[np.generic]) -> bool:
    return np.issubdtype(array.dtype, np.floating)


def load_flower_app(plan: Plan) -> FlowerApp:
    """The plan's `task.flower_app` and the record that `task.flower_initial` returns, from the code bundle.

    Raises PlanError or LocalError when one is missing or of another kind, its code is not what the plan digested, or
    the plan sets what a Flower app decides by itself.
    """
    _check(plan)
    app = load_from_bundle(plan, "task.flower_app")
    if not isinstance(app, ClientApp):
        raise PlanError("task.flower_app", "a flwr.clientapp.ClientApp", type(app).__name__)
    function = load_from_bundle(plan, "task.flower_initial")
    with foreign_code(f"plan.task.flower_initial: {plan.task.flower_initial}()"):
        record = function()
    if not isinstance(record, ArrayRecord):
        raise PlanError("task.flower_initial", "a function that returns an ArrayRecord", type(record).__name__)
    initial = {name: array.numpy() for name, array in record.items()}
    if not any(_is_learned(array) for array in initial.values()):
        raise PlanError("task.flower_initial", "at least one floating-point array", sorted(initial))
    return FlowerApp(app, initial)


def _check(plan: Plan) -> None:
    """Refuse settings that would have no effect: the app's own code decides them."""
    for section, given, default, heeded in (
        ("training", plan.training, Training(), _LR),
        ("data", plan.data, Data(source="app"), ()),
        ("simulation.partition", plan.simulation.partition, Partition(), ()),
    ):
        for field in fields(default):
            value = getattr(given, field.name)
            if field.name not in heeded and value != getattr(default, field.name):
                raise PlanError(f"{section}.{field.name}", "no value, since task.flower_app decides it itself", value)
    for option in plan.task.options:
        if option in SENT:
            raise PlanError(f"task.options.{option}", f"another name, since {', '.join(SENT)} are sent anyway")
