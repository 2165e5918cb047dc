"""What a site's guard charges a run to: a job in the site's ledger."""

from collections.abc import Iterator
from contextlib import contextmanager

from wardround.client.guard.ledger import Ledger
from wardround.errors import BudgetError
from wardround.strategies.privacy.job_charge import JobCharge

__all__ = ["LedgerBudget", "UnprotectedBudget"]


class LedgerBudget:
    """The job of one run in the ledger of a site's population.

    Its worst case is reserved at the first order; each round is noted before it begins. A run that goes on after a
    crash finds its reservation, and what had begun stays spent.
    """

    __slots__ = ("_charge", "_ledger", "_reserved")

    def __init__(self, ledger: Ledger, charge: JobCharge) -> None:
        self._ledger, self._charge, self._reserved = ledger, charge, False

    def begin(self, round: int, attempt: int) -> None:
        """Charge a round (0: what comes before the first). Raises BudgetError when the ledger does not allow it."""
        with _without_path(self._ledger):
            if not self._reserved:
                self._ledger.reserve(self._charge)
                self._reserved = True
            self._ledger.start_round(self._charge.job, round)

    @property
    def begun(self) -> int:
        """Rounds that have begun, every attempt counted."""
        job = self._ledger.account().jobs.get(self._charge.job)
        return 0 if job is None else job.begun

    def close(self) -> None:
        """End the job; rounds that never began are free again."""
        if self._charge.job in self._ledger.account().jobs:
            self._ledger.close(self._charge.job)


class UnprotectedBudget:
    """A run without differential privacy: noted before it begins, and nothing fits into the ledger afterwards."""

    __slots__ = ("_job", "_ledger", "_noted", "_plan_digest")

    def __init__(self, ledger: Ledger, job: str, plan_digest: str) -> None:
        self._ledger, self._job, self._plan_digest, self._noted = ledger, job, plan_digest, False

    def begin(self, round: int, attempt: int) -> None:
        if not self._noted:
            self._ledger.record_unprotected(self._job, self._plan_digest, "a plan without privacy")
            self._noted = True


@contextmanager
def _without_path(ledger: Ledger) -> Iterator[None]:
    """What the server is told names no file of the site."""
    try:
        yield
    except BudgetError as error:
        raise BudgetError(str(error).removeprefix(f"{ledger.path}: ")) from None
