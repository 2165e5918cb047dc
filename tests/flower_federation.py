"""A federation of Flower nodes behind secure aggregation, in one process: every site adds a constant to its arrays."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Strategy

from tests.grid_of_apps import GridOfApps
from wardround.client.flower_protect import protect
from wardround.client.guard.enrolment_folder import EnrolmentFolder
from wardround.client.guard.federation_folder import make_federation
from wardround.strategies.secagg.flower_plan import flower_plan
from wardround.strategies.secagg.flower_strategy import MaskingStrategy
from wardround.vector import F32

SIZE = 300
SETTINGS: Mapping[str, Any] = {"population": 5, "rounds": 4, "clip_norm": 2.0, "dropout": 0.2, "weight_cap": 50}
RUN_CONFIG: Mapping[str, bool | float | int | str] = {"learning-rate": 0.5, "quick": True}


def model() -> ArrayRecord:
    return ArrayRecord(
        {"weight": Array(np.linspace(-1, 1, SIZE, dtype=np.float32).reshape(20, -1)), "count": Array(np.array(7))}
    )


def examples_of(partition: int) -> int:
    return 10 * (partition + 1)


def change_of(partition: int) -> F32:
    """What a site adds to the weights in training, of norm 0.5 to 0.9."""
    row = np.random.Generator(np.random.Philox(key=partition)).normal(size=SIZE)
    return (row / np.linalg.norm(row) * (0.5 + 0.1 * (partition % 5))).astype(np.float32)


def mean_of(partitions: Iterable[int], weights: Callable[[int], int] = examples_of) -> F32:
    """The weighted mean of these sites' changes, in float64."""
    chosen = list(partitions)
    total = sum(weights(one) * change_of(one).astype(np.float64) for one in chosen)
    mean: F32 = np.asarray(total / sum(map(weights, chosen)), dtype=np.float32)
    return mean


@dataclass
class Wards:
    """Sites in folders below `path`; `gone` and `spoilt` are partitions, `calls` counts those of the app itself."""

    path: Path
    settings: Mapping[str, Any]
    gone: set[int] = field(default_factory=set)
    spoilt: dict[int, F32] = field(default_factory=dict)
    calls: int = 0

    def __post_init__(self) -> None:
        plan = flower_plan(**self.settings)
        self.names = [f"site-{number}" for number in range(plan.simulation.sites)]
        make_federation(self.path, self.names, plan)
        self.plain = self._app()
        self.app = protect(self.plain, self.folder)
        self.grid = GridOfApps(self.app, len(self.names), RUN_CONFIG)

    def folder(self, context: Context) -> EnrolmentFolder:
        return self.site(int(context.node_config["partition-id"]))

    def site(self, partition: int) -> EnrolmentFolder:
        return EnrolmentFolder(self.path / f"site-{partition}")

    def plain_or_error(self, message: Message, context: Context) -> Message:
        """The app without protection, whose exceptions become errors, as on Flower's nodes."""
        try:
            return self.plain(message, context)
        except RuntimeError as error:
            return Message(Error(code=1, reason=str(error)), reply_to=message)

    def strategy(self, inside: Strategy | None = None, **more: Any) -> MaskingStrategy:
        return MaskingStrategy(inside or FedAvg(), identity=self.path / "server", run_config=RUN_CONFIG, **more)

    def _app(self) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            self.calls += 1
            partition = int(context.node_config["partition-id"])
            if partition in self.gone:
                raise RuntimeError("patient 4711 broke it")
            given = message.content.array_records["arrays"]
            weight = given["weight"].numpy()
            change = self.spoilt.get(partition, change_of(partition))
            arrays = {"weight": Array(weight + change.reshape(weight.shape)), "count": Array(np.array(8))}
            metrics = MetricRecord({"num-examples": examples_of(partition), "loss": 0.5 * partition})
            return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            partition = int(context.node_config["partition-id"])
            metrics = MetricRecord({"num-examples": examples_of(partition), "accuracy": 0.1 * partition, "age": 63.0})
            return Message(RecordDict({"metrics": metrics}), reply_to=message)

        @app.query("rows")
        def rows(message: Message, context: Context) -> Message:
            raise AssertionError("reached")

        return app


def weights_in(arrays: ArrayRecord) -> F32:
    found: F32 = arrays["weight"].numpy().reshape(-1)
    return found
