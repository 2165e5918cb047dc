"""What a ledger's lines come to: jobs, what they reserved and began, and what that costs. No I/O.

An entry is taken in two steps: `after` says what the account is with it, or why it cannot be; only then is it
written. When a file is read, the same function takes its lines. Whether a job fits under the caps is decided once,
before its line is written, never again on reading: an accountant that has changed since stops no honest site.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.books import (
    Books,
    Cost,
    JobCharge,
    Standing,
    Total,
    decode_charge,
    encode_charge,
)

__all__ = ["Account", "Disjoint", "Reservation", "Spending", "Unprotected", "header_of", "reserve_entry"]

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One job: what it may cost, and the rounds that it began, in order, one for every attempt.

    Round 0 is what is released before the first: reserved once, and spent from the reservation on.
    """

    charge: JobCharge
    cost: Cost
    started: tuple[int, ...] = ()
    closed: bool = False

    @property
    def left(self) -> int:
        """Rounds that may still begin."""
        return 0 if self.closed else self.charge.rounds - self.begun

    @property
    def begun(self) -> int:
        """Beginnings of rounds after round 0."""
        return len(self.started) - self.started.count(0)

    def may_start(self, number: int) -> bool:
        """Whether round `number` may begin, for the first time or again."""
        if number == 0:
            return not self.closed and len(self.charge.once) > 0 and 0 not in self.started
        return self.left > 0

    @property
    def spent(self) -> Total:
        """All of it while the job is open, also after a crash; then what it began."""
        return self.cost.of(self.begun) if self.closed else self.cost.worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Unprotected:
    """A job without differential privacy."""

    job: str
    plan_digest: str
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Disjoint:
    """A population that has no patient of this one, by an administrator's word."""

    population: str
    name: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What was spent under the caps, open reservations in full, by every book and by the best of them."""

    cap_epsilon: float
    cap_delta: float
    unit: Unit
    relation: Relation
    epsilon: float
    """By the best book; ∞ after a job without differential privacy."""
    delta: float
    book: str
    books: tuple[Standing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The state of one population."""

    population: str
    name: str
    created: datetime
    books: Books
    digests: tuple[str, ...]
    jobs: Mapping[str, Reservation]
    unprotected: tuple[Unprotected, ...] = ()
    disjoint: tuple[Disjoint, ...] = ()
    anchored: int = 0
    """The last line that was known to be anchored when the newest one was written."""

    @classmethod
    def opened(cls, entry: Mapping[str, Any], time: datetime) -> "Account":
        """The account that a first line makes. Raises ValueError for another line."""
        try:
            table = dict(entry["ledger"])
            if entry["entry"] != "open" or table.pop("v") != _VERSION:
                raise ValueError(f"expected a ledger of version {_VERSION}")
            population, name, digest = table.pop("population"), table.pop("name"), table.pop("digest")
            unit, relation, orders = Unit(table.pop("unit")), Relation(table.pop("relation")), table.pop("orders")
            books = Books(unit=unit, relation=relation, orders=tuple(orders), **table)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected the first line of a ledger ({error})") from None
        return cls(population=population, name=name, created=time, books=books, digests=(digest,), jobs={})

    def after(self, entry: Mapping[str, Any], time: datetime) -> "Account":
        """The account with one more entry. Raises ValueError for one that cannot follow."""
        step = _STEPS.get(str(entry.get("entry")))
        if step is None:
            raise ValueError(f"expected an entry of {', '.join(_STEPS)}, got {str(entry.get('entry'))[:80]!r}")
        try:
            found = step(self, entry, time)
            anchored = entry.get("anchored", self.anchored)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected an entry of this program ({error})") from None
        if type(anchored) is not int or anchored < 0:
            raise ValueError(f"expected the number of an anchored line, got {anchored!r}")
        return replace(found, anchored=anchored)

    @property
    def total(self) -> Total:
        """What all jobs together take, reserved or spent."""
        return self.books.total(job.spent for job in self.jobs.values())

    @property
    def spending(self) -> Spending:
        standings = self.books.standings(self.total)
        best = min(standings, key=lambda standing: (not standing.fits, standing.epsilon))
        return Spending(
            cap_epsilon=self.books.epsilon,
            cap_delta=self.books.delta,
            unit=self.books.unit,
            relation=self.books.relation,
            epsilon=math.inf if self.unprotected else best.epsilon,
            delta=best.delta,
            book=best.book,
            books=standings,
        )

    @property
    def room(self) -> float:
        """Epsilon, at the cap's delta, of the largest job that still fits, if it is one unsampled Gaussian release."""
        return 0.0 if self.unprotected else self.books.room(self.total)


def header_of(population: str, name: str, digest: str, books: Books) -> dict[str, Any]:
    """The first entry of a ledger."""
    constants = {
        "epsilon": books.epsilon,
        "delta": books.delta,
        "unit": books.unit.value,
        "relation": books.relation.value,
        "orders": list(books.orders),
        "rdp_delta": books.rdp_delta,
        "gaussian_delta": books.gaussian_delta,
        "basic_delta": books.basic_delta,
    }
    return {
        "entry": "open",
        "ledger": {"v": _VERSION, "population": population, "name": name, "digest": digest, **constants},
    }


def reserve_entry(charge: JobCharge, cost: Cost) -> dict[str, Any]:
    """The entry of an admitted job."""
    return {
        "entry": "reserve",
        "charge": encode_charge(charge),
        "cost": {
            "once": _encode_total(cost.once),
            "per_round": _encode_total(cost.per_round),
            "accountant": cost.accountant,
        },
    }


def _reserve(account: Account, entry: Mapping[str, Any], time: datetime) -> Account:
    charge = decode_charge(entry["charge"])
    if charge.job in account.jobs:
        raise ValueError(f"expected a job that is not known yet, got {charge.job}")
    table, size = entry["cost"], len(account.books.orders)
    cost = Cost(
        once=_decode_total(table["once"], size),
        per_round=_decode_total(table["per_round"], size),
        rounds=charge.rounds,
        whole=charge.whole,
        accountant=table["accountant"],
    )
    return replace(account, jobs={**account.jobs, charge.job: Reservation(charge=charge, cost=cost)})


def _start(account: Account, entry: Mapping[str, Any], time: datetime) -> Account:
    job, number = entry["job"], entry["round"]
    known = account.jobs.get(job)
    if type(number) is not int or number < 0:
        raise ValueError(f"expected a round of at least 0, got {number!r}")
    if known is None or not known.may_start(number):
        raise ValueError(f"expected a round that is reserved, got {job}, round {number}")
    return replace(account, jobs={**account.jobs, job: replace(known, started=(*known.started, number))})


def _close(account: Account, entry: Mapping[str, Any], time: datetime) -> Account:
    job = entry["job"]
    known = account.jobs.get(job)
    if known is None or known.closed:
        raise ValueError(f"expected an open job, got {job}")
    return replace(account, jobs={**account.jobs, job: replace(known, closed=True)})


def _unprotected(account: Account, entry: Mapping[str, Any], time: datetime) -> Account:
    one = Unprotected(job=entry["job"], plan_digest=entry["plan_digest"], reason=entry["reason"], time=time)
    return replace(account, unprotected=(*account.unprotected, one))


def _data(account: Account, entry: Mapping[str, Any], time: datetime) -> Account:
    return replace(account, digests=(*account.digests, entry["digest"]))


def _disjoint(account: Account, entry: Mapping[str, Any], time: datetime) -> Account:
    one = Disjoint(population=entry["population"], name=entry["name"], by=entry["by"], reason=entry["reason"])
    return replace(account, disjoint=(*account.disjoint, one))


def _repair(account: Account, entry: Mapping[str, Any], time: datetime) -> Account:
    return account


_STEPS: dict[str, Callable[[Account, Mapping[str, Any], datetime], Account]] = {
    "reserve": _reserve,
    "start": _start,
    "close": _close,
    "unprotected": _unprotected,
    "data": _data,
    "disjoint": _disjoint,
    "repair": _repair,
}


def _encode_total(total: Total) -> dict[str, Any]:
    """With null for ∞, which JSON does not know."""
    return {
        "rdp": [_finite(value) for value in total.rdp],
        "gaussian": _finite(total.gaussian),
        "epsilon": _finite(total.epsilon),
        "delta": total.delta,
    }


def _decode_total(table: Mapping[str, Any], orders: int) -> Total:
    if len(table["rdp"]) != orders:
        raise ValueError(f"expected a cost at {orders} orders, got {len(table['rdp'])}")
    return Total(
        rdp=tuple(_number(value) for value in table["rdp"]),
        gaussian=_number(table["gaussian"]),
        epsilon=_number(table["epsilon"]),
        delta=_number(table["delta"]),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: object) -> float:
    if value is None:
        return math.inf
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise ValueError(f"expected a cost of at least 0, got {value!r}")
    return float(value)
