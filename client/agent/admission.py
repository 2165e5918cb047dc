"""Admission of orders that survives a kill at any point: what is admitted is charged once and answered once.

The guard's state, the order that it admits and what the ledger had begun before are one value of the run's store, so
that they change together. Then the ledger is charged, unless it shows that it was. A process that finds an admitted
order without a reply in the outbox works it out, charged as it is: nothing of it has left. It does so for the same call
only: where the reply is in the outbox already, another call with this order would get a second one for one charge.
"""

import json
from collections.abc import Callable
from typing import Any, Protocol

from wardround.client.guard.guard import Guard, fit_job
from wardround.errors import BudgetError, LocalError, WardroundError
from wardround.orders import EvalJob, FitJob, LocalResult, Order, OrderKind, SiteId
from wardround.plan import Plan
from wardround.state_store import StateStore
from wardround.tally import Tally

__all__ = ["Admission", "Charged", "OnceGuard", "answered_rounds", "order_name"]

_KEY = "agent/admission"


class Charged(Protocol):
    """A budget that says how often it was charged in this run."""

    @property
    def beginnings(self) -> int: ...

    def begin(self, round: int, attempt: int) -> None: ...


class Admission:
    """The store and the budget that a run's guard is given; nothing of either is done before `commit`.

    `charged` is told each round and attempt that the budget was charged for.
    """

    __slots__ = ("_asked", "_budget", "_charged", "_store", "_table")

    def __init__(
        self,
        store: StateStore,
        budget: Charged | None,
        *,
        charged: Callable[[int, int], None] = lambda round, attempt: None,
    ) -> None:
        self._store, self._budget, self._charged = store, budget, charged
        self._table = self._stored()
        self._asked: tuple[int, int] | None = None

    @property
    def budget(self) -> "Admission | None":
        """What the guard asks for budget; None where the run has none."""
        return None if self._budget is None else self

    # -- what the guard sees --------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        text = self._table["values"].get(key)
        return None if text is None else bytes.fromhex(text)

    def put(self, key: str, value: bytes) -> None:
        self._table["values"][key] = value.hex()

    def advance(self, key: str, to: int) -> None:
        stored = self._table["counters"].get(key, -1)
        if to <= stored:
            raise LocalError(
                f"{key}: expected a value above {stored}, got {to}: it was done here and is not done again; a server "
                "from an old backup asks so, and goes on with a new run"
            )
        self._table["counters"][key] = to

    def begin(self, round: int, attempt: int) -> None:
        self._asked = (round, attempt)

    # -- what the run does ----------------------------------------------------------------------------

    @property
    def admitted(self) -> str | None:
        """The digest of the call and the order that was admitted and is not answered."""
        found = self._table["admitted"]
        return found if isinstance(found, str) else None

    def start_over(self) -> None:
        """Forget what an admission that was not committed has changed."""
        self._table, self._asked = self._stored(), None

    def commit(self, order: str) -> None:
        """Make an admission durable, then charge it. Raises BudgetError where the ledger does not allow it."""
        beginnings = 0 if self._budget is None or self._asked is None else self._budget.beginnings
        charge = None if self._asked is None else [*self._asked, beginnings]
        self._table |= {"admitted": order, "charge": charge}
        self._save()
        self.charge()

    def charge(self) -> None:
        """Charge what is admitted, unless the ledger shows that it was charged."""
        if self._budget is not None and self._table["charge"] is not None:
            round, attempt, before = self._table["charge"]
            if self._budget.beginnings <= before:
                self._budget.begin(round, attempt)
                self._charged(round, attempt)

    def answered(self, round: int | None = None) -> None:
        """The admitted order has its reply, durably; `round` is that of an order to train."""
        if self._table["admitted"] is not None:
            self._table |= {"admitted": None, "charge": None}
            if round is not None and round > self._table.get("last", 0):  # a further try at a round is the same round
                self._table |= {"last": round, "rounds": self._table.get("rounds", 0) + 1}
            self._save()

    def _stored(self) -> dict[str, Any]:
        data = self._store.get(_KEY)
        if data is None:
            return {"values": {}, "counters": {}, "admitted": None, "charge": None}
        table: dict[str, Any] = json.loads(data)
        return table

    def _save(self) -> None:
        self._store.put(_KEY, json.dumps(self._table, sort_keys=True).encode())


class OnceGuard:
    """A guard behind an `Admission`, whose store and budget it has. `note` takes what a job says of its errors."""

    __slots__ = ("_admission", "_call", "_guard", "_note", "_plan")

    def __init__(self, plan: Plan, guard: Guard, admission: Admission, note: Callable[[str], None]) -> None:
        self._plan, self._guard, self._admission, self._note = plan, guard, admission, note
        self._call = b""

    @property
    def site(self) -> SiteId:
        return self._guard.site

    def asked_by(self, call: bytes) -> None:
        """The order that comes next is of the call with this digest, by which its reply is kept."""
        self._call = call

    def begin(self, order: Order, start: bytes, spec: bytes) -> bytes | None:
        return self._guard.begin(order, start, spec)

    def admit(self, order: Order) -> FitJob | EvalJob:
        """As the guard does; an order that was admitted before a crash, and never answered, is not admitted again."""
        name = order_name(order, self._call)
        if self._admission.admitted == name:
            self._admission.charge()
            if order.kind is not OrderKind.FIT:
                return EvalJob(order=order, site=self.site)
            return fit_job(self._plan, order, self.site)
        try:
            job = self._guard.admit(order)
        except BaseException:
            self._admission.start_over()
            raise
        self._admission.commit(name)
        return job

    def release(self, order: Order, result: LocalResult | Tally, spec: bytes = b"") -> bytes:
        return self._guard.release(order, result, spec)

    def failure(self, error: WardroundError) -> WardroundError:
        """Nothing but that there was one: what the plan's code says of an error may hold anything."""
        if isinstance(error, BudgetError):
            return error
        self._note(str(error))
        return LocalError(f"{self.site}: the job failed; the site's own files say why")

    def answer(self, frame: bytes) -> bytes:
        return self._guard.answer(frame)


def answered_rounds(store: StateStore) -> int:
    """In how many training rounds the run of this store has given a reply; whether the server counted them is its."""
    data = store.get(_KEY)
    return 0 if data is None else int(json.loads(data).get("rounds", 0))


def order_name(order: Order, call: bytes) -> str:
    """What an order of the call with this digest is called once it is admitted."""
    import hashlib

    return hashlib.sha256(call + order.encode()).hexdigest()
