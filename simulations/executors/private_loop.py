"""The executor for plans that hide rows or patients: one client after another, on one thread or several."""

from wardround.client.trainer.private_workspace import PrivateWorkspace
from wardround.plan import Plan
from wardround.simulations.executors.flat_loop import FlatLoop, TrainerOf
from wardround.task import Task

__all__ = ["PrivateLoop"]


class PrivateLoop(FlatLoop):
    """A `FlatLoop` over PrivateTrainers, each thread in a private workspace.

    The first client's thread chooses how gradients of rows are found, while the others wait. Two runs differ, since
    samples and noise are secret.
    """

    def __init__(self, task: Task, plan: Plan, trainer_of: TrainerOf, *, workers: int = 1, block_size: int = 1) -> None:
        super().__init__(task, plan, trainer_of, workers=workers, block_size=block_size)
        for _ in range(workers):  # in place of the loop's own
            self._workspaces.get()
            self._workspaces.put(PrivateWorkspace(task, plan))
