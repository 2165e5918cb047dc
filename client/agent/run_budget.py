"""What a run is charged at a site, in the ledger of the data that it is bound to."""

from wardround.client.agent.admission import Charged
from wardround.client.agent.site_job import JobFacts
from wardround.client.guard.budget import LedgerBudget, UnprotectedBudget
from wardround.client.guard.ledger import Ledger
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_privacy import Unit
from wardround.strategies.privacy.job_charge import charge_of, client_charge_on_examples
from wardround.strategies.privacy.terms import client_terms, site_terms

__all__ = ["close_account", "run_budget", "units_of"]


class _Ledgered:
    """A run with privacy: a round begins once for each line that the ledger has of it."""

    __slots__ = ("_budget", "_job", "_ledger")

    def __init__(self, ledger: Ledger, budget: LedgerBudget, job: str) -> None:
        self._ledger, self._budget, self._job = ledger, budget, job

    @property
    def beginnings(self) -> int:
        job = self._ledger.account().jobs.get(self._job)
        return 0 if job is None else len(job.started)

    def begin(self, round: int, attempt: int) -> None:
        self._budget.begin(round, attempt)


class _Unprotected:
    """A run without privacy on data that have a ledger: noted once, however often it is asked for."""

    __slots__ = ("_budget",)

    def __init__(self, budget: UnprotectedBudget) -> None:
        self._budget = budget

    @property
    def beginnings(self) -> int:
        return 0

    def begin(self, round: int, attempt: int) -> None:
        self._budget.begin(round, attempt)


def units_of(plan: Plan, facts: JobFacts) -> int | None:
    """How many rows or patients in training the plan hides at this site; None where it hides none."""
    if not plan.privacy.per_example:
        return None
    if plan.privacy.unit is not Unit.PATIENT:
        return facts.train
    if facts.patients is None:
        raise LocalError("data: expected the job to count patients, since privacy.unit is patient")
    return facts.patients


def run_budget(
    plan: Plan, run: str, ledger: Ledger | None, *, units: int | None, size: int, unprotected: bool
) -> Charged | None:
    """What the rounds of `run` are charged to; `size`: parameters of its model.

    Raises LocalError for a plan with privacy and no ledger, and for one without that would use a budget up unasked;
    PlanError for a claim that these data cannot meet.
    """
    if not plan.privacy.on:
        if ledger is None:
            return None
        if not unprotected:
            raise LocalError(
                "data: expected --unprotected at the approval, since their privacy budget ends with this run"
            )
        return _Unprotected(UnprotectedBudget(ledger, run, plan.digest))
    if ledger is None:
        raise LocalError("data: expected a privacy budget, since the plan has differential privacy")
    if units is not None:
        charge = charge_of(site_terms(plan, units), run, plan.digest)
    else:
        relation = ledger.account().books.relation
        charge = client_charge_on_examples(client_terms(plan, size), run, plan.digest, relation)
    return _Ledgered(ledger, LedgerBudget(ledger, charge), run)


def close_account(ledger: Ledger | None, run: str) -> None:
    """End the job of a run: rounds that never began are free again. Twice is once."""
    if ledger is not None and run in ledger.account().jobs:
        ledger.close(run)
