"""Which executor a run uses: what the plan says, or the faster one in a short trial."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from wardround.client.trainer.flat_model import FlatModel
from wardround.client.trainer.private_model import model_of
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.orders import FitJob, Order, OrderKind, SiteId, derive_seed
from wardround.plan import Plan
from wardround.plan_sections import Standardize
from wardround.plan_simulation import ExecutorChoice
from wardround.simulations.executors.blocks import Blocks, bytes_per_client, why_not_blocks
from wardround.simulations.executors.executor import Executor
from wardround.simulations.executors.flat_loop import FlatLoop, TrainerOf
from wardround.simulations.executors.private_loop import PrivateLoop
from wardround.standardization import statistics_of
from wardround.task import Task
from wardround.vector import F32

__all__ = ["EngineChoice", "calibrate", "make_executor"]

_TRIAL_S = 0.4
"""About how long each executor is tried."""
_TRIAL_STEPS = 10
_LARGEST_BLOCK = 128
"""Clients in a block that the plan does not size: more gain little, and memory must not grow with the cohort."""
_GAIN = 2.0
"""How much less time a client must take in a block: training one by one has the other cores too."""
_AGREEMENT = 1e-3
"""Largest difference between the two executors' updates, as a share of the largest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """How a run's trainings are computed; kept with the run, so that it resumes the same way.

    `block_size` counts the jobs that are computed before their results are handed out.
    """

    executor: str
    block_size: int
    workers: int
    reason: str = ""

    def __post_init__(self) -> None:
        if self.executor not in (ExecutorChoice.FLAT, ExecutorChoice.BLOCKS) or min(self.block_size, self.workers) < 1:
            raise LocalError(f"engine: expected flat or blocks, and sizes of at least 1, got {self}")


def make_executor(choice: EngineChoice, task: Task, plan: Plan, trainer_of: TrainerOf) -> Executor:
    """The executor that was chosen."""
    if plan.privacy.per_example:
        return PrivateLoop(task, plan, trainer_of, workers=choice.workers, block_size=choice.block_size)
    if choice.executor == ExecutorChoice.BLOCKS:
        return Blocks(task, plan, trainer_of, block_size=choice.block_size)
    return FlatLoop(task, plan, trainer_of, workers=choice.workers, block_size=choice.block_size)


def calibrate(
    task: Task,
    plan: Plan,
    trainer_of: TrainerOf,
    sites: Sequence[SiteId],
    model: F32,
    *,
    clock: Callable[[], float] = time.thread_time,
    cores: int | None = None,
) -> EngineChoice:
    """The plan's `simulation.executor`, `block_size` and `workers`, with what it leaves open filled in.

    For `auto`, some of `sites` train from `model` for a few steps with either executor (about a second in all, by
    `clock`), and the one that takes less time per client is chosen. Nothing of the trial is kept. Blocks are not chosen
    when their results differ from one-by-one training, as they do for a loss that looks at other rows of its batch.
    Raises PlanError when the plan asks for what the model cannot do.
    """
    flat_model = FlatModel(model_of(task, plan, 0), plan.training.batch_norm)
    asked, size, memory = plan.simulation.executor, plan.simulation.block_size, plan.simulation.memory_mib << 20
    workers = _workers(plan, flat_model, cores)
    fitting = max(workers, memory // (4 * flat_model.layout.size))
    flat = EngineChoice(
        executor="flat", workers=workers, block_size=size or min(4 * workers, fitting, plan.cohort_size)
    )
    if asked is ExecutorChoice.FLAT:
        return replace(flat, reason="the plan says so")
    rows = "every row's gradient is clipped (privacy.unit)" if plan.privacy.per_example else ""
    if reason := rows or why_not_blocks(flat_model):
        if asked is ExecutorChoice.BLOCKS:
            raise PlanError("simulation.executor", f'"flat" or "auto", since {reason}', str(asked))
        return replace(flat, reason=reason)
    sites = sites[: min(size or _LARGEST_BLOCK, plan.cohort_size)]
    largest = max((trainer_of(site).data.train.x for site in sites), key=len)
    fitting = max(1, memory // bytes_per_client(flat_model, plan, torch.from_numpy(largest)))
    blocks = EngineChoice(executor="blocks", workers=1, block_size=size or min(len(sites), fitting))
    if asked is ExecutorChoice.BLOCKS:
        return replace(blocks, reason="the plan says so")
    return _faster(flat, blocks, *_trial(task, plan, trainer_of, sites[: blocks.block_size], model, clock))


def _workers(plan: Plan, model: FlatModel, cores: int | None) -> int:
    asked = plan.simulation.workers
    if model.is_stochastic or plan.privacy.per_example:
        if asked > 1:
            why = "the model draws random numbers (dropout)" if model.is_stochastic else "privacy draws them in secret"
            raise PlanError("simulation.workers", f"1, since {why} from one generator", asked)
        return 1
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or min(cores, plan.cohort_size)


def _faster(flat: EngineChoice, blocks: EngineChoice, flat_s: float, blocks_s: float, obstacle: str) -> EngineChoice:
    if obstacle:
        return replace(flat, reason=obstacle)
    figures = f"{1000 * flat_s:.3g} ms a client one by one, {1000 * blocks_s:.3g} ms in blocks"
    return replace(blocks if _GAIN * blocks_s < flat_s else flat, reason=f"a trial took {figures}")


def _trial(
    task: Task, plan: Plan, trainer_of: TrainerOf, sites: Sequence[SiteId], model: F32, clock: Callable[[], float]
) -> tuple[float, float, str]:
    """Seconds a client takes one by one and in a block, and what speaks against blocks (then nothing is timed)."""
    steps = min(_TRIAL_STEPS, min(trainer_of(site).batches.steps for site in sites))
    plan = replace(plan, training=replace(plan.training, epochs=None, steps=steps))
    trainers = {site: TorchTrainer(task, plan, trainer_of(site).data) for site in sites}
    statistics = None
    if plan.data.standardize is Standardize.FEDERATED:
        tallies = [trainer.statistics() for trainer in trainers.values()]
        statistics = statistics_of(plan.data, sum(tallies[1:], start=tallies[0]))
    order = Order(run_id="trial", plan_digest=plan.digest, kind=OrderKind.FIT, round=1, statistics=statistics)
    jobs = [FitJob(order=order, site=site, seed=derive_seed(plan.seed, "trial", site)) for site in sites]

    def timed(executor: Executor, jobs: Sequence[FitJob]) -> tuple[float, list[F32]]:
        start = clock()
        updates = [result.update.copy() for result in executor.fit(jobs, model)]
        return clock() - start, updates

    flat = FlatLoop(task, plan, trainers.__getitem__)
    first_s, updates = timed(flat, jobs[:1])
    count = min(len(jobs), int(_TRIAL_S / max(first_s, 1e-6)))
    if count < 4:
        return first_s, first_s, "too few clients for a block" if len(jobs) < 4 else "one client takes long"
    flat_s, updates = timed(flat, jobs[: min(count, 8)])
    blocks = Blocks(task, plan, trainers.__getitem__, block_size=count)
    try:
        _, stacked = timed(blocks, jobs[:count])
    except LocalError as error:  # a model that torch.vmap cannot batch
        return flat_s, flat_s, f"blocks failed: {error}"
    gap = max(np.abs(one - other).max() for one, other in zip(updates, stacked, strict=False))
    if not gap <= _AGREEMENT * max(np.abs(update).max() for update in updates):
        return flat_s, flat_s, "blocks gave another result than one-by-one training"
    blocks_s, _ = timed(blocks, jobs[:count])
    return flat_s / len(updates), blocks_s / count, ""
