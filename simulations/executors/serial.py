"""The executor for trainers of any kind, a user's Flower app among them: one call after another."""

from collections.abc import Callable, Iterable, Iterator

from wardround.client.trainer.trainer import Trainer
from wardround.orders import FitJob, LocalResult, SiteId
from wardround.vector import F32

__all__ = ["Serial"]


class Serial:
    """Calls each site's own trainer."""

    def __init__(self, trainer_of: Callable[[SiteId], Trainer]) -> None:
        self._trainer_of = trainer_of

    @property
    def block_size(self) -> int:
        return 1

    def fit(self, jobs: Iterable[FitJob], model: F32) -> Iterator[LocalResult]:
        """A result for each job, in order."""
        for job in jobs:
            yield self._trainer_of(job.site).fit(job, model)
