"""A trainer whose next result was computed beforehand, in a block with others."""

from wardround.client.trainer.trainer import Trainer
from wardround.orders import EvalJob, FitJob, LocalResult
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["PrefetchedTrainer"]


class PrefetchedTrainer:
    """Hands out the held result if it is for the very job that is asked for, else trains.

    `last` is the held result that it handed out last; its update is valid until the next block begins.
    """

    __slots__ = ("_held", "_trainer", "last")

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._held: tuple[FitJob, LocalResult] | None = None
        self.last: LocalResult | None = None

    def hold(self, job: FitJob, result: LocalResult) -> None:
        """Keep `result` for the next call of `fit`."""
        self._held = (job, result)

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        """The held result of this job, once; otherwise what the trainer itself makes of the job."""
        held, self._held = self._held, None
        if held is not None and held[0] == job:
            self.last = held[1]
            return held[1]
        return self._trainer.fit(job, model)

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        return self._trainer.evaluate(job, model)

    def statistics(self) -> Tally:
        return self._trainer.statistics()
