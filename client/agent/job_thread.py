"""A job that is started, asked and ended by one thread of its own.

The kernel ends a job with the thread that started it, not with its process (PR_SET_PDEATHSIG, prctl(2)), and the
threads that bring orders come and go.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from wardround.client.agent.site_job import JobFacts, SiteJob
from wardround.errors import LocalError
from wardround.orders import EvalJob, FitJob, LocalResult
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["JobThread"]

_Found = TypeVar("_Found")
_ENDED = "the job was ended here"
_AGAIN_S = 0.5


class JobThread:
    """`job`, and its trainer, in a thread of their own."""

    __slots__ = ("_ending", "_job", "_queue", "_thread")

    def __init__(self, job: SiteJob) -> None:
        self._job, self._ending = job, False
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="job", daemon=True)
        self._thread.start()

    @property
    def trainer(self) -> "JobThread":
        return self

    def describe(self) -> JobFacts:
        return self._ask(self._job.describe)

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        return self._ask(lambda: self._job.trainer.fit(job, model))

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        return self._ask(lambda: self._job.trainer.evaluate(job, model))

    def statistics(self) -> Tally:
        return self._ask(lambda: self._job.trainer.statistics())

    def state(self) -> bytes:
        return self._ask(self._job.state)

    def restore(self, state: bytes) -> None:
        self._ask(lambda: self._job.restore(state))

    def interrupt(self) -> None:
        """Fail the question under way, and those that come."""
        self._ending = True
        self._job.interrupt()

    def close(self) -> None:
        """End the job, then the thread."""
        self.interrupt()
        self._queue.put(self._job.close)
        self._queue.put(None)
        while self._thread.is_alive():
            self._thread.join(_AGAIN_S)
            self._job.interrupt()  # a process that was not there yet when it was interrupted

    def _ask(self, question: Callable[[], _Found]) -> _Found:
        if not self._thread.is_alive():
            raise LocalError(_ENDED)
        answer: Future[_Found] = Future()

        def put() -> None:
            try:
                if self._ending:
                    raise LocalError(_ENDED)
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        self._queue.put(put)
        return answer.result()

    def _work(self) -> None:
        while (one := self._queue.get()) is not None:
            one()
