"""A user's own Flower ClientApp as a trainer: its messages are made, its replies read, in this process."""

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from numpy.typing import NDArray

from wardround import _flower
from wardround.client.trainer.bundle import foreign_code
from wardround.client.trainer.flower_app import FlowerApp
from wardround.errors import LocalError
from wardround.orders import EvalJob, FitJob, LocalResult, Order, SiteId, Split, derive_seed
from wardround.plan import Plan
from wardround.tally import MeansSpec, Tally
from wardround.vector import F32

__all__ = ["FlowerTrainer"]

_EXAMPLES = "num-examples"
_STATE = "context.state"
_ONE_AT_A_TIME = Lock()
"""A Flower app expects a process of its own: its calls never overlap, and the global generators are seeded."""


class FlowerTrainer:
    """One site's trainer. `partition` is what the app reads as `context.node_config["partition-id"]`."""

    def __init__(self, flower: FlowerApp, plan: Plan, site: SiteId, partition: int) -> None:
        self._flower, self._plan, self._site = flower, plan, site
        self._context = Context(
            run_id=1,
            node_id=partition + 1,
            node_config={"partition-id": partition, "num-partitions": plan.simulation.sites, "site": site},
            state=RecordDict(),
            run_config=dict(plan.task.options),
        )

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        """The app's `train`: its reply's arrays − `model`, and its metrics as means over its examples.

        Raises LocalError, naming the site, when the app raises or its reply does not fit.
        """
        reply = self._call(MessageType.TRAIN, job.order, job.seed, model)
        if _flower.read_status(reply):
            raise self._misfit("a client that implements fit")
        records = list(reply.array_records.values())
        if len(records) != 1:
            raise self._misfit("one ArrayRecord in the reply to train", len(records))
        names = records[0] if _flower.read_status(reply) is None else self._flower.initial  # legacy arrays have none
        try:
            arrays = [array.numpy() for array in records[0].values()]
            update = self._flower.vector(dict(zip(names, arrays, strict=True)))
        except (ValueError, TypeError) as error:
            raise self._misfit(f"a reply to train that fits flower_initial ({error})") from None
        update -= model
        tally = self._tally(reply)
        return LocalResult(update=update, num_examples=tally.n, tally=tally)

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        """The app's `evaluate`, its metrics as means over its examples; an empty tally when the app has none.

        The app is told the split, in its config, and decides what that means.
        """
        if not _flower.handles(self._flower.app, MessageType.EVALUATE):
            return Tally.empty(MeansSpec())
        seed = derive_seed(self._plan.seed, "evaluate", self._site, job.order.round)
        reply = self._call(MessageType.EVALUATE, job.order, seed, model)
        return Tally.empty(MeansSpec()) if _flower.read_status(reply) else self._tally(reply)

    def statistics(self) -> Tally:
        """A Flower app standardises by itself: it shows us no columns."""
        raise LocalError(f"site {self._site}: expected no request for statistics, since a Flower app has no columns")

    @property
    def state(self) -> dict[str, NDArray[np.generic]] | None:
        """What the app keeps in `Context.state` between rounds, None when nothing; for checkpoints.

        One array of bytes (protobuf, no pickle). Setting it continues from there, or raises ValueError.
        """
        if not self._context.state:
            return None
        return {_STATE: np.frombuffer(_flower.encode_records(self._context.state), dtype=np.uint8)}

    @state.setter
    def state(self, state: dict[str, NDArray[np.generic]] | None) -> None:
        self._context.state = RecordDict() if state is None else _flower.decode_records(state[_STATE].tobytes())

    def _call(self, kind: str, order: Order, seed: int, model: F32) -> RecordDict:
        config = ConfigRecord(
            {
                **self._plan.task.options,
                "server-round": order.round,
                "lr": self._plan.training.lr_at(max(order.round, 1), self._plan.rounds),
                "seed": seed,
                "split": (order.split if kind == MessageType.EVALUATE else Split.TRAIN).value,
            }
        )
        app = self._flower.app
        message = _flower.app_request(app, kind, self._flower.record(model), config, node_id=self._context.node_id)
        what = f"site {self._site}, round {order.round}: the Flower app's {kind}"
        with _ONE_AT_A_TIME, _seeded(seed), foreign_code(what):
            reply = app(message, self._context)
        if not isinstance(reply, Message):
            raise self._misfit(f"a Message as the reply to {kind}", type(reply).__name__)
        if reply.has_error():
            raise LocalError(f"{what} replied with an error: {' '.join(str(reply.error.reason).split())}")
        return reply.content

    def _tally(self, reply: RecordDict) -> Tally:
        """The reply's scalar metrics, weighed by its examples; `eval_loss` and `train_loss` count as `loss`."""
        metrics = _flower.read_metrics(reply)
        n = metrics.pop(_EXAMPLES, None)
        if not isinstance(n, int) or n < 0:
            raise self._misfit(f"a whole number {_EXAMPLES!r} in the reply's MetricRecord", n)
        scalars = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        for alias in ("eval_loss", "train_loss"):
            if alias in scalars and "loss" not in scalars:
                scalars["loss"] = scalars.pop(alias)
        for name, value in scalars.items():
            if name != "loss" and not np.isfinite(value):  # a loss that diverged counts, as the largest
                raise self._misfit(f"a finite value of {name!r}", value)
        return Tally.of_means(n, {name: value * n for name, value in scalars.items()})

    def _misfit(self, expected: str, got: object = None) -> LocalError:
        ending = "" if got is None else f", got {got!r}"
        return LocalError(
            f"site {self._site}: the Flower app {self._plan.task.flower_app}: expected {expected}{ending}"
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The process's global generators start from `seed` inside, and are put back after; for the app's own draws."""
    kept, kept_numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        if (torch := sys.modules.get("torch")) is not None:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(kept)
            np.random.set_state(kept_numpy)
