"""What a site keeps between rounds, such as the local statistics of BatchNorm: sealed at the agent, not in the job."""

from wardround.client.agent.site_job import SiteJob
from wardround.orders import EvalJob, FitJob, LocalResult
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["KeepingTrainer"]

_KEY = "agent/trainer-state"


class KeepingTrainer:
    """The trainer of `job`, which finds before each order what the site keeps, whatever became of its process.

    What a training leaves is durable before its update is released. The state before it is kept too, so that a
    training that is done again after a crash begins where it began.
    """

    __slots__ = ("_job", "_sealed")

    def __init__(self, job: SiteJob, sealed: SealedState) -> None:
        self._job, self._sealed = job, sealed

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        name = job.order.encode()
        last, before, after = self._stored()
        start = before if last == name else after
        self._job.restore(start)
        result = self._job.trainer.fit(job, model)
        left = self._job.state()
        if left or start:
            self._sealed.put(_KEY, [name, start, left])
        return result

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        self._job.restore(self._stored()[2])
        return self._job.trainer.evaluate(job, model)

    def statistics(self) -> Tally:
        return self._job.trainer.statistics()

    def _stored(self) -> tuple[bytes, bytes, bytes]:
        """The last training, what it began with, and what it left."""
        parts = self._sealed.get(_KEY)
        return (parts[0], parts[1], parts[2]) if parts else (b"", b"", b"")
