"""What a federation is compared with: every hospital alone, and all training rows in one place.

Each baseline trains the plan's model from the federation's own first model for the plan's rounds, as a federation of
one: the same local epochs (or steps) a round, optimiser, learning rates and class weights, with an optimiser that
starts afresh each round. It follows `[evaluation]` on its own validation rows: `select = "best"` and `patience` choose
and stop it as they would the federation. Where the plan standardises by federated sums, a hospital alone has only its
own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import Event

import numpy as np
import torch

from wardround.client.data.site_data import Rows, SiteData
from wardround.client.trainer.flat_model import SiteState
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.client.trainer.workspace import Workspace
from wardround.orders import EvalJob, FitJob, Order, OrderKind, SiteId, Split, Statistics, derive_seed
from wardround.plan import Plan
from wardround.plan_privacy import Sampling
from wardround.plan_sections import Select, Standardize
from wardround.simulations.executors.flat_loop import one_thread
from wardround.standardization import statistics_of
from wardround.task import Task
from wardround.vector import F32

__all__ = ["MOST_ALONE", "Baselines", "TrainedModel", "judged_sites", "train_baselines"]

MOST_ALONE = 100
"""Of more hospitals than this, only so many are trained alone and judged one by one, drawn from the plan's seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model, shape (d,), the statistics that standardise its inputs, and what it keeps beside the vector."""

    model: F32
    statistics: Statistics | None = None
    state: SiteState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """A model for each hospital that was trained alone, and one for the pooled rows."""

    alone: Mapping[SiteId, TrainedModel] = field(default_factory=dict)
    pooled: TrainedModel | None = None


def judged_sites(plan: Plan, sites: Sequence[SiteData]) -> list[SiteData]:
    """The hospitals with test rows, in order; a draw of `MOST_ALONE` of them when there are more."""
    judged = [site for site in sites if len(site.test)]
    if len(judged) <= MOST_ALONE:
        return judged
    generator = np.random.Generator(np.random.Philox(key=derive_seed(plan.seed, "judged")))
    return [judged[index] for index in np.sort(generator.choice(len(judged), MOST_ALONE, replace=False))]


def train_baselines(
    plan: Plan,
    task: Task,
    sites: Sequence[SiteData],
    initial: F32,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    workers: int = 1,
) -> Baselines:
    """Train the pool and every judged hospital alone, from `initial`, shape (d,), on `workers` threads.

    The bits do not depend on `workers`, which must be 1 for a model that draws random numbers while it trains.
    `progress` is told how many trainings of all are done. Raises LocalError when the task's code fails.
    """
    datas = [_pool(sites), *(site for site in judged_sites(plan, sites) if len(site.train))]
    workspaces: SimpleQueue[Workspace] = SimpleQueue()
    for _ in range(workers):
        workspaces.put(Workspace(task, plan))
    stop = Event()

    def train(data: SiteData) -> TrainedModel:
        workspace = workspaces.get()
        try:
            return _train(plan, task, data, initial, workspace, stop)
        finally:
            workspaces.put(workspace)

    found: list[TrainedModel] = []
    with one_thread(), ThreadPoolExecutor(workers, "baseline", lambda: torch.set_num_threads(1)) as pool:
        try:
            for model in pool.map(train, datas):
                found.append(model)
                progress(len(found), len(datas))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    pooled, *alone = found
    return Baselines(alone={data.site: model for data, model in zip(datas[1:], alone, strict=True)}, pooled=pooled)


def _pool(sites: Sequence[SiteData]) -> SiteData:
    """All rows in one place, still split."""
    parts = {
        split: Rows(
            np.concatenate([site.split(split).x for site in sites]),
            np.concatenate([site.split(split).y for site in sites]),
        )
        for split in (Split.TRAIN, Split.VALIDATION)
    }
    train, validation = parts[Split.TRAIN], parts[Split.VALIDATION]
    return SiteData(site=SiteId("all sites together"), train=train, validation=validation, test=validation)


def _twin(plan: Plan, rows: int) -> Plan:
    """The plan without noise: where every row takes part in each of its noisy steps, in each of these too."""
    if plan.privacy.per_example and plan.privacy.claimed_sampling is Sampling.FULL:
        return replace(plan, training=replace(plan.training, batch_size=max(rows, 1)))
    return plan


def _train(plan: Plan, task: Task, data: SiteData, initial: F32, workspace: Workspace, stop: Event) -> TrainedModel:
    trainer = TorchTrainer(task, _twin(plan, len(data.train)), data, workspace)
    federated = plan.data.standardize is Standardize.FEDERATED
    statistics = statistics_of(plan.data, trainer.statistics()) if federated else None
    steering, model, update = Steering.of(plan, data), initial.copy(), np.empty_like(initial)
    best = None
    for round_number in range(1, plan.rounds + 1):
        if stop.is_set():
            break
        order = Order(
            run_id="", plan_digest="", kind=OrderKind.FIT, round=round_number, split=Split.VALIDATION,
            statistics=statistics,
        )  # fmt: skip
        seed = derive_seed(plan.seed, "baseline", data.site, round_number)
        model += trainer.fit_in(workspace, FitJob(order=order, site=data.site, seed=seed), model, update).update
        if steering is not None and round_number % plan.evaluation.every == 0:
            loss = trainer.evaluate(EvalJob(order=order, site=data.site), model).metrics()["loss"]
            steering = steering.after(loss, plan.evaluation.min_delta)
            if steering.without_gain == 0:
                best = TrainedModel(model=model.copy(), statistics=statistics, state=trainer.state)
            if plan.evaluation.patience is not None and steering.without_gain >= plan.evaluation.patience:
                break
    if plan.evaluation.select is Select.BEST and best is not None:
        return best
    return TrainedModel(model=model, statistics=statistics, state=trainer.state)


@dataclass(frozen=True, slots=True)
class Steering:
    """The lowest validation loss so far, and how many evaluations ago it was."""

    best_loss: float = math.inf
    without_gain: int = 0

    @staticmethod
    def of(plan: Plan, data: SiteData) -> "Steering | None":
        """None where validation rows choose nothing, or there are none."""
        wanted = plan.evaluation.patience is not None or plan.evaluation.select is Select.BEST
        return Steering() if wanted and len(data.validation) else None

    def after(self, loss: float, min_delta: float) -> "Steering":
        """What one more evaluation makes of it."""
        return Steering(loss) if loss < self.best_loss - min_delta else Steering(self.best_loss, self.without_gain + 1)
