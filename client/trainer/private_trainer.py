"""The trainer of plans that hide a site's rows or patients."""

import numpy as np

from wardround.client.data.site_data import SiteData
from wardround.client.trainer.bundle import foreign_code
from wardround.client.trainer.private_gradient import Mode
from wardround.client.trainer.private_sample import Units
from wardround.client.trainer.private_workspace import PrivateWorkspace, Trained
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.client.trainer.workspace import Workspace
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.orders import FitJob, LocalResult, Split
from wardround.plan import Plan
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.statistics_noise import noisy_statistics
from wardround.strategies.privacy.terms import Terms, site_terms
from wardround.tally import MeansSpec, Tally
from wardround.task import Task
from wardround.vector import F32

__all__ = ["PrivateTrainer"]


class PrivateTrainer(TorchTrainer):
    """One site's trainer whose updates hide rows or patients, by `terms`.

    No loss leaves with an update, and no number of examples unless the plan calls sizes public. Nothing is kept between
    rounds. `workspace` may be any for evaluations; `fit` makes itself a private one where it is not. With a `random` of
    a given key and a `mode`, training is deterministic and not private: for tests.
    """

    __slots__ = ("_mode", "_place", "_random", "_statistics", "_terms", "_units", "last")

    def __init__(
        self,
        task: Task,
        plan: Plan,
        data: SiteData,
        workspace: Workspace | None = None,
        random: SecureRandom | None = None,
        mode: Mode | None = None,
    ) -> None:
        super().__init__(task, plan, data, workspace)
        self._place = workspace if isinstance(workspace, PrivateWorkspace) else None
        self._random, self._mode = SecureRandom() if random is None else random, mode
        self._units: Units | None = None
        self._terms: Terms | None = None
        self._statistics: Tally | None = None
        self.last: Trained | None = None

    @property
    def units(self) -> Units:
        """The rows or patients that are hidden. Raises LocalError for data that the plan's claim does not fit."""
        if self._units is None:
            self._units = Units.of(self.plan, self.data)
        return self._units

    @property
    def terms(self) -> Terms:
        """What the plan comes to at this site. Raises PlanError for a claim that cannot be met here."""
        if self._terms is None:
            self._terms = site_terms(self.plan, len(self.units))
        return self._terms

    @property
    def mode(self) -> Mode | None:
        """How the last training found the gradients of rows."""
        return self.last.mode if self.last is not None else None

    @property
    def clipped_share(self) -> float | None:
        """Share of the last training's rows whose gradient was longer than the clip norm; not private."""
        return self.last.clipped_share if self.last is not None else None

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        """Train from `model`, shape (d,). Raises LocalError, naming the site, when the task's code fails."""
        if self._place is None:
            self._place = PrivateWorkspace(self.task, self.plan)
        return self.fit_in(self._place, job, model, np.empty_like(model))

    def fit_in(self, workspace: Workspace, job: FitJob, model: F32, out: F32) -> LocalResult:
        """`fit` in the given workspace, a private one, with the update written to `out`, shape (d,)."""
        if not isinstance(workspace, PrivateWorkspace):
            raise LocalError(f"site {job.site}: expected a PrivateWorkspace, got {type(workspace).__name__}")
        if self.plan.training.class_weights == "balanced":
            raise PlanError(
                "training.class_weights", "numbers, since privacy hides how many rows a class has", "balanced"
            )
        with foreign_code(f"site {job.site}: training in round {job.order.round}"):
            self.last = workspace.train_privately(
                self.rows(Split.TRAIN, job.order.statistics),
                self.example_weights(),
                self.units,
                self.terms,
                model,
                random=self._random,
                lr=self.plan.training.lr_at(job.order.round, self.plan.rounds),
                mode=self._mode,
            )
            examples = len(self.units) if self.plan.privacy.public_sizes else 1
            update = workspace.update(model, out)
            return LocalResult(update=update, num_examples=examples, tally=Tally.empty(MeansSpec()))

    def statistics(self) -> Tally:
        """Noisy sums for federated standardisation: released once, and the same whenever they are asked for again.

        Raises PlanError for a plan without privacy.statistics = "dp".
        """
        if self._statistics is None:
            _ = self.units  # refuses a patient with too many rows
            self._statistics = noisy_statistics(self.plan.data, self.data.train.x, self.plan.privacy, self._random)
        return self._statistics
