"""What trains: the interface of every trainer."""

from typing import Protocol

from wardround.orders import EvalJob, FitJob, LocalResult
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["Trainer"]


class Trainer(Protocol):
    """User code and data of one site. Holds no key and needs no network."""

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        """Train from `model`, shape (d,), read-only; deterministic for the job's seed."""
        ...

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        """Count how good `model` is on the job's split."""
        ...

    def statistics(self) -> Tally:
        """Sums over the training rows that federated standardisation needs."""
        ...
