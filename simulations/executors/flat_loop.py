"""The executor for any model: one client after another, on one thread or several."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue

import numpy as np
import torch

from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.client.trainer.workspace import Workspace
from wardround.errors import LocalError
from wardround.orders import FitJob, LocalResult, SiteId
from wardround.plan import Plan
from wardround.task import Task
from wardround.vector import F32

__all__ = ["FlatLoop", "TrainerOf", "one_thread"]

TrainerOf = Callable[[SiteId], TorchTrainer]


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on the calling thread only; what it used before is restored at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class FlatLoop:
    """`workers` threads train one client each; results come in the order of the jobs.

    The bits of a result do not depend on `workers`: a client is computed by one thread in a workspace of its own.
    Raises LocalError for several workers and a model that draws random numbers while it trains, since torch's
    generator is one for the whole process.
    """

    def __init__(self, task: Task, plan: Plan, trainer_of: TrainerOf, *, workers: int = 1, block_size: int = 1) -> None:
        self._trainer_of, self._workers, self._block_size = trainer_of, workers, block_size
        self._workspaces: SimpleQueue[Workspace] = SimpleQueue()
        for _ in range(workers):
            workspace = Workspace(task, plan)
            self._workspaces.put(workspace)
        if workers > 1 and workspace.model.is_stochastic:
            raise LocalError(
                "simulation.workers: expected 1, since the model draws random numbers (dropout) from one generator"
            )
        self._rows = np.empty((block_size, workspace.model.layout.size), dtype=np.float32)
        # The threads go when this object goes.
        self._pool = ThreadPoolExecutor(workers, "trainer", lambda: torch.set_num_threads(1)) if workers > 1 else None

    @property
    def block_size(self) -> int:
        return self._block_size

    def fit(self, jobs: Iterable[FitJob], model: F32) -> Iterator[LocalResult]:
        """A result for each job, in order. A result's update is valid until the next block begins."""
        jobs = iter(jobs)
        while block := list(islice(jobs, self._block_size)):
            if self._pool is not None:
                yield from self._threaded(self._pool, block, model)
                continue
            with one_thread():
                results = [self._train(job, model, row) for job, row in zip(block, self._rows, strict=False)]
            yield from results

    def _threaded(self, pool: ThreadPoolExecutor, block: list[FitJob], model: F32) -> Iterator[LocalResult]:
        """The results in order, each as soon as it is there: the threads go on while the caller works on it."""
        futures = [pool.submit(self._train, job, model, row) for job, row in zip(block, self._rows, strict=False)]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:  # after a failure: leave no thread at work on the rows
                if not future.cancel():
                    future.exception()

    def _train(self, job: FitJob, model: F32, row: F32) -> LocalResult:
        workspace = self._workspaces.get()
        try:
            return self._trainer_of(job.site).fit_in(workspace, job, model, row)
        finally:
            self._workspaces.put(workspace)
