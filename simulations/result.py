"""What a simulation returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wardround.errors import LocalError
from wardround.orders import Statistics
from wardround.plan import Plan
from wardround.server.runs.caveat import caveat
from wardround.server.runs.comparison import Comparison
from wardround.task import Task
from wardround.vector import F32, Layout

if TYPE_CHECKING:
    import torch

__all__ = ["Result"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished run. `repr` is one line; a notebook shows the report.

    `rounds` are the records of metrics.jsonl. `metrics` are computed from the summed tallies of all sites' test rows,
    `untested` says which sites did not count theirs, and why;
    `comparison` judges the model beside the baselines. `model` has shape (d,) and is named by `layout`.
    """

    plan: Plan
    model: F32
    layout: Layout
    statistics: Statistics | None
    round: int
    stopped: str
    rounds: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float]
    comparison: Comparison | None = None
    directory: Path | None = None
    report: str | None = None
    task: Task | None = None
    untested: Sequence[str] = ()

    @property
    def report_path(self) -> Path | None:
        """Where report.html lies, when it was written."""
        return None if self.directory is None or self.report is None else self.directory / "report.html"

    @property
    def tensors(self) -> dict[str, F32]:
        """The model as named arrays; views."""
        return self.layout.split(self.model)

    def state_dict(self) -> "dict[str, torch.Tensor]":
        """The model as torch's state dict of the task's module (without buffers that stay at the sites)."""
        import torch

        return {name: torch.from_numpy(np.array(array)) for name, array in self.tensors.items()}

    def predict(self, x: NDArray[Any]) -> F32:
        """The model's predictions for encoded rows `x`, shape (n, inputs) or (n, channels, height, width).

        Shape (n, classes), probabilities; or (n, 1), in the target's unit. Rows are standardised as in training.
        """
        from wardround.client.trainer.torch_trainer import predict

        if self.task is None:
            raise LocalError("a Flower app's model is applied by its own code: expected a run of a task")
        rows = np.ascontiguousarray(x, dtype=np.float32)
        return predict(self.task, self.plan, self.model, rows, self.statistics)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        parts = (f"{len(self.rounds)} rounds", f"test {figures or 'not evaluated'}", caveat(self.plan))
        return f"<Result of {self.plan.name!r}: {'; '.join(filter(None, parts))}>"

    def _repr_html_(self) -> str:
        """For notebooks: the report in a frame of its own, or the line of `repr`."""
        import html

        if self.report is None:
            return f"<code>{html.escape(repr(self))}</code>"
        frame = "width:100%;height:800px;border:1px solid #ccc"
        return f'<iframe title="wardround report" style="{frame}" srcdoc="{html.escape(self.report)}"></iframe>'
