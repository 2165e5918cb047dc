"""The privacy accounts of a simulated run: every site's ledger, and the server's count of what it released."""

import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from wardround.client.data.site_data import SiteData
from wardround.client.guard.budget import LedgerBudget, UnprotectedBudget
from wardround.client.guard.guard import Budget
from wardround.client.guard.ledger import Ledger
from wardround.client.trainer.private_trainer import PrivateTrainer
from wardround.errors import BudgetError, LocalError
from wardround.file_store import FileStore
from wardround.orders import SiteId
from wardround.plan import Plan
from wardround.plan_privacy import Relation, Unit
from wardround.server.runs.run_directory import RunDirectory
from wardround.simulations.participants import Participants, data_digest
from wardround.state_store import MemoryStore, StateStore
from wardround.strategies.privacy.accounting import epsilon_of
from wardround.strategies.privacy.build import build_central
from wardround.strategies.privacy.central import CentralPrivacy
from wardround.strategies.privacy.job_charge import JobCharge, charge_of, client_charge_on_examples
from wardround.strategies.privacy.terms import Terms
from wardround.strategies.records import PrivacyRecord
from wardround.strategies.rules.rule import Memory
from wardround.vector import F32

__all__ = ["LEDGERS", "Accounts", "open_accounts"]

LEDGERS, _SERVER = "ledgers", "server-state"
_BEGUN, _DATA = "accounts/begun", "accounts/data"
_SHARE = 8.0
"""A ledger gives a quarter of its delta to the book of whole jobs, and half of that to one: then a run's claim fits."""
_MOST_LEDGERS = 100
"""Of more sites, ledgers are kept only where they are asked for: each round is made durable at each site."""


class _Rounds:
    """How many rounds of a run have begun at any site, those included that a crash ended; durable in `store`."""

    def __init__(self, store: StateStore, known: int) -> None:
        self._store, self._seen = store, set[int]()
        stored = store.get(_BEGUN)
        self.before = 0 if stored is None else int(stored)
        if self.before < known:
            raise LocalError(
                f"expected the record of at least {known} begun rounds ({_SERVER}), got {self.before}: it was lost or "
                "set back, and what was spent is not known; restore it"
            )

    def note(self, round: int) -> None:
        if round not in self._seen:
            self._store.put(_BEGUN, str(self.before + len(self._seen) + 1).encode())
            self._seen.add(round)

    def note_statistics(self, site: SiteId) -> None:
        key = f"accounts/statistics/{site}"
        if self._store.get(key) is not None:
            raise BudgetError("what comes before the first round was released already: start a new run")
        self._store.put(key, b"1")


@dataclass(slots=True)
class _Counted:
    """A site without a ledger: never fewer rounds than it has begun, and as many as the claim is for."""

    site: SiteId
    rounds: int
    run: _Rounds
    own: int = 0

    @property
    def begun(self) -> int:
        return self.run.before + self.own

    def begin(self, round: int, attempt: int) -> None:
        if not round:
            self.run.note_statistics(self.site)
            return
        if self.begun >= self.rounds:
            raise BudgetError(f"all {self.rounds} rounds of the claim have begun")
        self.run.note(round)
        self.own += 1


@dataclass(frozen=True, slots=True)
class Accounts:
    """`budgets` are asked by the sites' guards; `terms` by site where rows or patients are hidden."""

    budgets: Mapping[SiteId, Budget] = field(default_factory=dict)
    central: CentralPrivacy | None = None
    trainers: Mapping[SiteId, PrivateTrainer] = field(default_factory=dict)

    def record(self, update: F32 | None, memory: Memory) -> PrivacyRecord:
        """What has been spent after a round that gave `update`, shape (d,)."""
        if self.central is not None:
            return self.central.record(update, memory)
        spent = {site: trainer.terms.told(self._begun(site)) for site, trainer in self.trainers.items()}
        last = [trainer.last for trainer in self.trainers.values() if trainer.last is not None]
        shares = [one.clipped_share for one in last if one.clipped_share is not None]
        ratios = [one.noise_to_signal for one in last if one.noise_to_signal is not None]
        terms = [trainer.terms for trainer in self.trainers.values()]
        return PrivacyRecord(
            epsilon=max(spent.values()),
            delta=max(one.delta for one in terms),
            clip_norm=next(iter(self.trainers.values())).plan.privacy.clip_norm,
            sites=spent,
            clipped=fmean(shares) if shares else None,
            noise_to_signal=fmean(ratios) if ratios else None,
        )

    def _begun(self, site: SiteId) -> int:
        budget = self.budgets[site]
        return budget.begun if isinstance(budget, LedgerBudget | _Counted) else 0


@contextmanager
def open_accounts(
    plan: Plan, participants: Participants, directory: RunDirectory | None, ledgers: Path | None
) -> Iterator[Accounts]:
    """The accounts of a run, in its directory; ledgers in the folder `ledgers` where that is given.

    A site without a ledger there gets one with the caps of `simulation.budget`, or those that this plan's own claim
    fits exactly. Without a directory they go with the run. Raises LocalError for a ledger of other caps' unit or
    other rows.
    """
    with ExitStack() as stack:
        if not plan.privacy.on and ledgers is None:
            yield Accounts()
            return
        own = directory.path if directory is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run_id = directory.info.run_id if directory is not None else secrets.token_hex(16)
        over = directory is not None and _over(plan, directory)
        store: StateStore = MemoryStore()
        if directory is not None and plan.privacy.on and not over:
            store = stack.enter_context(FileStore(own / _SERVER))
        central = None
        if plan.privacy.per_client:
            central = build_central(plan, [tensor.size for tensor in participants.layout.tensors], store)
        trainers = {
            site: trainer for site, trainer in participants.trainers.items() if isinstance(trainer, PrivateTrainer)
        }
        data = {one.site: one for one in participants.data}
        sites = [site for site in participants.trainers if site not in plan.cohort.without]
        folder = ledgers
        if ledgers is None and len(sites) <= _MOST_LEDGERS and not plan.privacy.hides_participation:
            folder = own / LEDGERS
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        counted = None
        if folder is None:
            known = 0 if over or directory is None or central is not None else _rounds_with_somebody(directory)
            counted = _Rounds(store, known)
            if directory is not None and not over:
                _check_data(store, data_digest(participants.data))
        budgets: dict[SiteId, Budget] = {}
        for site in sites:
            terms = trainers[site].terms if site in trainers else None if central is None else central.terms
            if folder is not None:
                budgets[site] = _budget(plan, site, terms, folder, run_id, data.get(site))
            elif terms is not None and counted is not None:
                budgets[site] = _Counted(site, terms.rounds, counted)
        if directory is not None and plan.privacy.on and folder is not None:
            _check_kept(directory, budgets)
        yield Accounts(budgets, central, {site: trainers[site] for site in sites if site in trainers})
        if directory is None or _over(plan, directory):
            for budget in budgets.values():
                if isinstance(budget, LedgerBudget):
                    budget.close()
    if directory is not None and _over(plan, directory):
        shutil.rmtree(directory.path / _SERVER, ignore_errors=True)  # a key of noise that nobody needs any more


def _rounds_with_somebody(directory: RunDirectory) -> int:
    return sum(len(line["cohort"]) > len(line["absences"]) for line in directory.lines())


def _check_data(store: StateStore, digest: str) -> None:
    """Raise LocalError for other rows than those that the counts are of, where no ledger knows them."""
    kept = store.get(_DATA)
    if kept is None:
        store.put(_DATA, digest.encode())
    elif kept != digest.encode():
        raise LocalError("expected the data that the run was started with, got other rows")


def _check_kept(directory: RunDirectory, budgets: Mapping[SiteId, Budget]) -> None:
    """Raise LocalError where a ledger does not have the rounds that its site took part in."""
    took_part: Counter[str] = Counter()
    for line in directory.lines():
        took_part.update(set(line["cohort"]) - {absence["site"] for absence in line["absences"]})
    for site, budget in budgets.items():
        if isinstance(budget, LedgerBudget) and budget.begun < took_part[site]:
            raise LocalError(
                f"{site}: expected its ledger to have {took_part[site]} rounds of this run, got {budget.begun}: it was "
                "lost or set back, and what was spent is not known; restore it"
            )


def _over(plan: Plan, directory: RunDirectory) -> bool:
    latest = directory.latest()
    return latest is not None and (latest.state.round >= plan.rounds or bool(latest.state.stopped))


def _budget(plan: Plan, site: SiteId, terms: Terms | None, folder: Path, run_id: str, data: SiteData | None) -> Budget:
    path = folder / f"{quote(site, safe='')}.ledger"
    digest = data_digest([data]) if data is not None else ""
    if terms is None:
        return UnprotectedBudget(_open(path, digest, plan, site, None), run_id, plan.digest)
    charge = charge_of(terms, run_id, plan.digest)
    if terms.unit is not Unit.CLIENT:
        return LedgerBudget(_open(path, digest, plan, site, charge), charge)
    relation = Ledger.open(path).account().books.relation if path.exists() else Relation.REPLACE_ONE
    charge = client_charge_on_examples(terms, run_id, plan.digest, relation)
    return LedgerBudget(_open(path, digest, plan, site, charge), charge)


def _open(path: Path, digest: str, plan: Plan, site: SiteId, charge: JobCharge | None) -> Ledger:
    if path.exists():
        ledger = Ledger.open(path)
        account = ledger.account()
        if charge is not None and charge.job in account.jobs and digest not in account.digests:
            raise LocalError(f"{site}: expected the data that the run was started with, got other rows")
        ledger.admit_data(digest)  # whatever became of the rows inherits what was spent
        return ledger
    caps = plan.simulation.budget
    epsilon, delta = caps.epsilon, caps.delta
    if epsilon is None or delta is None:
        if charge is None or not charge.worst:
            raise LocalError(f"{path}: expected a ledger, or simulation.budget, to make one with")
        delta = _SHARE * charge.delta
        epsilon = epsilon_of(charge.worst, charge.delta).epsilon * (1 + 1e-9)
    return Ledger.create(
        path,
        name=f"the rows of {site}",
        unit=Unit.PATIENT if charge is None else charge.unit,
        relation=Relation.REPLACE_ONE if charge is None else charge.worst[0].relation,
        epsilon=epsilon,
        delta=delta,
        digest=digest,
    )
