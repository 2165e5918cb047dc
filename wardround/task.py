"""Tasks: what is learned. A task is stateless, so that a block of clients is one computation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from wardround.tally import Tally, TallySpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wardround.plan import Plan

__all__ = ["GROUP", "Batch", "Task", "TaskFactory"]

GROUP = "wardround.tasks"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one site: `x` of shape (n, ...) float32, `y` of shape (n,), int64 classes or float32 values."""

    x: "Tensor"
    y: "Tensor"


@runtime_checkable
class Task(Protocol):
    """A model, its loss and what is counted about it. Third parties register theirs as an entry point."""

    @property
    def tally_spec(self) -> TallySpec:
        """The kind of tally that `tally` makes."""
        ...

    def model(self, seed: int) -> "nn.Module":
        """A new model, its parameters drawn from `seed`."""
        ...

    def loss(self, outputs: "Tensor", batch: Batch) -> "Tensor":
        """The loss of each example from its own row alone, shape (n,); the trainer weighs and averages them.

        Only torch operations that `torch.vmap` can batch, and no branches on values.
        """
        ...

    def tally(self, outputs: "Tensor", batch: Batch) -> Tally:
        """Integer counts of how good `outputs` are; adds up over batches and sites."""
        ...

    def predict(self, outputs: "Tensor") -> "Tensor":
        """What a person reads: class probabilities of shape (n, classes), or values in the target's unit, (n, 1)."""
        ...

    def output_names(self) -> Sequence[str]:
        """A name for each column of `predict`."""
        ...


class TaskFactory(Protocol):
    """What is registered: makes a task for a plan, or raises PlanError naming the key that does not fit."""

    def __call__(self, plan: "Plan") -> Task: ...
