"""The trainer of tasks written in torch."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wardround.client.data.site_data import SiteData
from wardround.client.trainer.batches import Batches
from wardround.client.trainer.bundle import foreign_code
from wardround.client.trainer.flat_model import SiteState
from wardround.client.trainer.workspace import Workspace
from wardround.errors import LocalError
from wardround.orders import EvalJob, FitJob, LocalResult, Split, Statistics
from wardround.plan import Plan
from wardround.standardization import standardize, statistics_tally
from wardround.tally import MeansSpec, Tally, fixed_point
from wardround.task import Batch, Task
from wardround.vector import F32

__all__ = ["TorchTrainer", "predict"]

_LOSS = MeansSpec(names=("loss",))


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """`array` as a tensor that shares its memory; nothing here writes to rows."""
    array = np.ascontiguousarray(array)
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return torch.from_numpy(array)


class TorchTrainer:
    """One site's trainer. Trainers of one thread may share a workspace.

    `state` is what the site keeps between rounds (BatchNorm statistics under `batch_norm = "local"`), None when
    there is nothing; a run saves it with its checkpoints and sets it again to resume.
    """

    __slots__ = ("_batches", "_rows", "_weights", "_workspace", "data", "plan", "state", "task")

    def __init__(self, task: Task, plan: Plan, data: SiteData, workspace: Workspace | None = None) -> None:
        self.task, self.plan, self.data = task, plan, data
        self.state: SiteState | None = None
        self._workspace = workspace
        self._batches: Batches | None = None
        self._rows: dict[Split, tuple[Statistics | None, Batch]] = {}
        self._weights: tuple[Tensor | None] | None = None

    @property
    def workspace(self) -> Workspace:
        if self._workspace is None:
            self._workspace = Workspace(self.task, self.plan)
        return self._workspace

    @property
    def batches(self) -> Batches:
        """How the training rows are dealt out. Raises LocalError for a site that has none."""
        if self._batches is None:
            if len(self.data.train) == 0:
                raise LocalError(f"site {self.data.site}: expected at least one training row, got none")
            self._batches = Batches.of(self.plan.training, len(self.data.train))
        return self._batches

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        """Train from `model`, shape (d,). Raises LocalError, naming the site, when the task's code fails."""
        return self.fit_in(self.workspace, job, model, np.empty_like(model))

    def fit_in(self, workspace: Workspace, job: FitJob, model: F32, out: F32) -> LocalResult:
        """`fit` in the given workspace, with the update written to `out`, shape (d,)."""
        with foreign_code(f"site {job.site}: training in round {job.order.round}"):
            rows, weights = self.rows(Split.TRAIN, job.order.statistics), self.example_weights()
            lr = self.plan.training.lr_at(job.order.round, self.plan.rounds)
            loss = workspace.train(rows, weights, self.batches, model, seed=job.seed, lr=lr, state=self.state)
            self.state = workspace.model.site_state()
            return self.result(loss, workspace.update(model, out))

    def result(self, loss: float, update: F32) -> LocalResult:
        """What a training with the summed `loss` made."""
        counts = np.array([self.batches.num_examples, fixed_point(loss)], dtype=np.int64)
        return LocalResult(update=update, num_examples=self.batches.rows, tally=Tally(_LOSS, counts))

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        """Count how good `model` is on the job's split; nothing is counted where the site has no such rows."""
        with foreign_code(f"site {job.site}: evaluation in round {job.order.round}"):
            rows, total = self.rows(job.order.split, job.order.statistics), Tally.empty(self.task.tally_spec)
            if len(rows.y) == 0:
                return total
            self.workspace.model.load(model, self.state, training=False)
            at = 0
            for outputs in self.workspace.outputs(rows.x):
                end = at + len(outputs)
                total, at = total + self.task.tally(outputs, Batch(rows.x[at:end], rows.y[at:end])), end
            return total

    def statistics(self) -> Tally:
        """Sums over the training rows that federated standardisation needs."""
        return statistics_tally(self.plan.data, self.data.train.x)

    def rows(self, split: Split, statistics: Statistics | None) -> Batch:
        """The standardised rows of a split, kept for the next call with the same statistics."""
        cached = self._rows.get(split)
        if cached is None or cached[0] != statistics:
            rows = self.data.split(split)
            batch = Batch(_tensor(standardize(self.plan.data, rows.x, statistics)), _tensor(rows.y))
            cached = self._rows[split] = (statistics, batch)
        return cached[1]

    def example_weights(self) -> Tensor | None:
        """The loss weight of each training row, shape (n,), by its class; None when all count alike.

        `balanced` is n / (classes x rows of the class), after scikit-learn.
        """
        if self._weights is None:
            self._weights = (self._class_weights(),)
        return self._weights[0]

    def _class_weights(self) -> Tensor | None:
        wanted, target, y = self.plan.training.class_weights, self.plan.data.target, self.data.train.y
        if not wanted or target is None:
            return None
        if isinstance(wanted, str):
            counts = np.bincount(y, minlength=len(target.classes))
            by_class = len(y) / (len(target.classes) * np.maximum(counts, 1))
        else:
            by_class = np.array(wanted)
        return torch.from_numpy(by_class.astype(np.float32)[y])


def predict(task: Task, plan: Plan, model: F32, x: F32, statistics: Statistics | None = None) -> F32:
    """The task's predictions for encoded rows `x`, not yet standardised: shape (n, outputs)."""
    workspace = Workspace(task, plan)
    workspace.model.load(model, None, training=False)
    parts = [task.predict(part) for part in workspace.outputs(_tensor(standardize(plan.data, x, statistics)))]
    return torch.cat(parts).numpy()
