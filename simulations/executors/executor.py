"""The interface of an executor: many local trainings, one result each."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from wardround.orders import FitJob, LocalResult
from wardround.vector import F32

__all__ = ["Executor"]


class Executor(Protocol):
    """Trains the sites of a simulation."""

    @property
    def block_size(self) -> int:
        """How many jobs are computed before their results are handed out."""
        ...

    def fit(self, jobs: Iterable[FitJob], model: F32) -> Iterator[LocalResult]:
        """A result for each job, in order. A result's update is valid until the next block begins."""
        ...
