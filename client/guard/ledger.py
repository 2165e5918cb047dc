"""The ledger of one population at a site: what was released about it, and that nothing is beyond its caps.

A population is what a site's administrator says it is: a permanent id, kept when its data change, are cut into
subsets or derived anew; all of that inherits what was spent. The caps are set when the ledger is made, and nothing
raises them.

A job reserves the most that it may release, then says of each round that it begins, *before* anything of it may
leave, and is closed at the end, which frees the rounds that never began. What was written before a crash stays: an
open job counts in full, until whoever runs it goes on or closes it. All of it is durable and anchored on return,
for any number of processes.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from wardround.client.guard.ledger_account import (
    Account,
    Disjoint,
    Reservation,
    Spending,
    Unprotected,
    header_of,
    reserve_entry,
)
from wardround.client.guard.ledger_anchor import Anchor, AnchorUnavailableError, Grace, Head
from wardround.client.guard.ledger_file import LedgerError, LedgerFile
from wardround.clock import utc_now
from wardround.errors import BudgetError, LocalError
from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.books import Books, Cost, JobCharge

__all__ = ["BudgetError", "Disjoint", "Ledger", "LedgerError", "Reservation", "Spending", "Unprotected"]


class Ledger:
    """One population's ledger. Make it with `create` once, with `open` from then on.

    Without an `anchor` a restored old copy of the file is taken for the truth: then `check_anchor` is the caller's
    part. With one, `reserve` and `start_round` refuse a file that lacks an anchored line, and, beyond `grace`, an
    anchor that cannot be reached.
    """

    __slots__ = ("_account", "_anchor", "_anchored", "_file", "_folded", "_grace", "_now")

    def __init__(self, path: Path, anchor: Anchor | None, grace: Grace, now: Callable[[], datetime]) -> None:
        self._file = LedgerFile(path)
        self._anchor, self._grace, self._now = anchor, grace, now
        self._account: Account | None = None
        self._folded = self._anchored = 0

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        name: str,
        unit: Unit,
        relation: Relation,
        epsilon: float,
        delta: float,
        digest: str,
        anchor: Anchor | None = None,
        grace: Grace | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> "Ledger":
        """A new ledger with these caps, for the population that the administrator calls `name`.

        `digest` is that of its data now. `relation` replace-one takes jobs of any relation, add-remove and zero-out
        only those that bound them. Raises LedgerError where there is a file, and for an anchor that holds another
        ledger's head.
        """
        _check_words("name", name)
        try:
            books = Books.at(epsilon=epsilon, delta=delta, unit=unit, relation=relation)
        except ValueError as error:
            raise LocalError(f"{path}: {error}") from None
        if anchor is not None and anchor.get() is not None:
            raise LedgerError(f"{path}: expected an anchor that is new, got the anchor of another ledger")
        LedgerFile.create(Path(path), header_of(secrets.token_hex(16), name, digest, books), now())
        return cls.open(path, anchor=anchor, grace=grace, now=now)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        anchor: Anchor | None = None,
        grace: Grace | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> "Ledger":
        """The ledger in `path`, verified from its first line on. Raises LedgerError when it is not as it was left."""
        ledger = cls(Path(path), anchor, grace or Grace(), now)
        with ledger._transaction():
            pass
        return ledger

    def reserve(self, charge: JobCharge) -> None:
        """Set the most that a job may release aside; durable on return.

        For a job that is open with the same charge nothing changes: it goes on with the rounds that it has left. Raises
        BudgetError when no book fits any more, LocalError for a job that was closed or has another charge, and for one
        whose unit or relation says nothing about this population's.
        """
        with self._transaction(releases=True) as account:
            known = account.jobs.get(charge.job)
            if known is not None:
                self._check_resumed(known, charge)
                return
            self._check_protected(account)
            total = account.total
            try:
                cost = account.books.cost(charge, total)
            except ValueError as error:
                raise LocalError(f"{self._where}: job {charge.job}: {error}") from None
            if not account.books.fits(total + cost.worst):
                raise BudgetError(self._refusal(account, charge, cost))
            self._append(reserve_entry(charge, cost), releases=True)

    def start_round(self, job: str, number: int) -> None:
        """Note that a round begins, before anything of it may be released; durable on return.

        Every attempt at a round is another beginning, and costs as much. Round 0 is what the charge has in `once`; it
        begins once. Raises BudgetError when nothing is left of what was reserved.
        """
        with self._transaction(releases=True) as account:
            self._check_protected(account)
            known = self._known(account, job)
            if number < 0:
                raise LocalError(f"{self._where}: expected a round of at least 0, got {number}")
            if not known.may_start(number):
                reserved = f"{known.charge.rounds} rounds" if number else "what is released before the first round"
                why = "it is closed" if known.closed else f"it has begun all that it reserved of {reserved}"
                raise BudgetError(f"{self._where}: job {job} may not begin round {number}: {why}; reserve a new job")
            self._append({"entry": "start", "job": job, "round": number}, releases=True)

    def close(self, job: str) -> None:
        """End a job, and free the rounds that it never began, except in the book of whole jobs. Twice is once."""
        with self._transaction() as account:
            if not self._known(account, job).closed:
                self._append({"entry": "close", "job": job})

    def record_unprotected(self, job: str, plan_digest: str, reason: str) -> None:
        """Note a job without differential privacy, before it begins; epsilon is ∞ for ever, and no job fits."""
        _check_words("reason", reason)
        with self._transaction() as account:
            if all(one.job != job for one in account.unprotected):
                self._append({"entry": "unprotected", "job": job, "plan_digest": plan_digest, "reason": reason})

    def admit_data(self, digest: str) -> None:
        """Note that the population's data now have `digest`: changed, a subset, or derived; what was spent stays."""
        with self._transaction() as account:
            if digest not in account.digests:
                self._append({"entry": "data", "digest": digest})

    def declare_disjoint(self, other: "Ledger", *, by: str, reason: str) -> None:
        """Note, in both ledgers, an administrator's word that no patient is in both populations, and why."""
        _check_words("name", by)
        _check_words("reason", reason)
        if self.population == other.population:
            raise LocalError(f"{self._where}: expected another population, got this one")
        for here, there in ((self, other), (other, self)):
            with here._transaction() as account:
                if all(one.population != there.population for one in account.disjoint):
                    also = {"population": there.population, "name": there.name, "by": by, "reason": reason}
                    here._append({"entry": "disjoint", **also})

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self._file.path

    @property
    def population(self) -> str:
        """The permanent id."""
        return self._known_account.population

    @property
    def name(self) -> str:
        """What the administrator calls the population."""
        return self._known_account.name

    @property
    def head(self) -> Head:
        """The number of lines and the hash of the last: what is anchored."""
        with self._transaction():
            return self._head

    def account(self) -> Account:
        """Everything that the file says now."""
        with self._transaction() as account:
            return account

    def spent(self) -> Spending:
        """What each book says of the jobs so far, open ones in full."""
        return self.account().spending

    def remaining(self) -> float:
        """Epsilon, at the cap's delta, of the largest job that still fits: one Gaussian release without sampling."""
        return self.account().room

    def check_anchor(self, index: int, digest: str) -> None:
        """Raises LedgerError unless the chain passes through line `index` with this hash."""
        with self._transaction():
            self._check_passes(index, digest)

    def verify(self) -> None:
        """Check every line, its sums against today's accountants, and the anchor. Raises LedgerError."""
        fresh = Ledger(self._file.path, self._anchor, self._grace, self._now)
        with fresh._transaction(releases=self._anchor is not None) as account:
            for job in account.jobs.values():
                cost = account.books.cost(job.charge, account.books.nothing)
                if any(
                    was < now * (1 - 1e-6) for was, now in zip(job.cost.worst.rdp, cost.worst.rdp, strict=True)
                ) or job.cost.worst.gaussian < cost.worst.gaussian * (1 - 1e-6):
                    raise LedgerError(f"{self._where}: job {job.charge.job} was charged less than it costs")

    @property
    def _where(self) -> str:
        return str(self._file.path)

    @property
    def _known_account(self) -> Account:
        if self._account is None:
            raise RuntimeError("a ledger is made by create or open")
        return self._account

    @property
    def _head(self) -> Head:
        last = self._file.lines[-1]
        return last.number, last.hash

    @contextmanager
    def _transaction(self, *, releases: bool = False) -> Iterator[Account]:
        """The account as the file is, and stays until the end; `releases`: for something that may leave the site."""
        now = self._now()
        with self._file.locked(now):
            self._fold()
            self._confirm(now, releases=releases)
            yield self._known_account

    def _fold(self) -> None:
        account, folded = self._account, self._folded
        for line in self._file.lines[folded:]:
            try:
                if account is None:
                    account = Account.opened(line.entry, line.time)
                else:
                    account = account.after(line.entry, line.time)
            except ValueError as error:
                raise LedgerError(f"{self._where}, line {line.number}: {error}") from None
        self._account, self._folded = account, len(self._file.lines)

    def _append(self, entry: Mapping[str, Any], *, releases: bool = False) -> None:
        """Write an entry that can follow, then anchor it: the other way round a crash would lock an honest site out."""
        now = self._now()
        entry = {**entry, "anchored": self._anchored}
        account = self._known_account.after(entry, now)
        self._file.append(entry, now)
        self._account, self._folded = account, len(self._file.lines)
        self._anchor_head()
        if releases:
            self._check_grace(now)

    def _confirm(self, now: datetime, *, releases: bool) -> None:
        """Compare with the anchor, and mend one that a crash left behind."""
        self._anchored = max(self._anchored, self._known_account.anchored)
        if self._anchor is not None:
            try:
                head = self._anchor.get()
            except AnchorUnavailableError:
                if releases:
                    self._check_grace(now, more=1)
                return
            if head is not None:
                self._check_passes(*head)
                self._anchored = head[0]
            elif self._anchored:
                raise LedgerError(
                    f"{self._where}: expected an anchor of line {self._anchored} or later, got none: restore it"
                )
            if head != self._head:
                self._anchor_head()
        if releases:
            self._check_grace(now)

    def _anchor_head(self) -> None:
        if self._anchor is None:
            return
        try:
            self._anchor.put(*self._head)
        except AnchorUnavailableError:
            return
        self._anchored = self._head[0]

    def _check_grace(self, now: datetime, more: int = 0) -> None:
        """Refuse if too many lines, with `more` to come, are not anchored, or for too long; unless none ever was."""
        if self._anchor is None and self._anchored == 0:
            return
        open_lines = self._file.lines[self._anchored :]
        number = len(open_lines) + more
        if number > self._grace.max_unanchored:
            raise LedgerError(
                f"{self._where}: {number} lines would not be anchored, and the policy allows "
                f"{self._grace.max_unanchored}; nothing is released until the anchor can be reached"
            )
        age = (now - open_lines[0].time).total_seconds() if open_lines else 0.0
        if age > self._grace.max_age_s:
            raise LedgerError(
                f"{self._where}: its lines are not anchored for {age:.0f} s, and the policy allows "
                f"{self._grace.max_age_s:.0f}; nothing is released until the anchor can be reached"
            )

    def _check_passes(self, index: int, digest: str) -> None:
        lines = self._file.lines
        if index > len(lines):
            raise LedgerError(
                f"{self._where}: expected at least the {index} lines that are anchored, got {len(lines)}: an older "
                "copy was restored; nothing is released until the newest is back"
            )
        if index < 1 or lines[index - 1].hash != digest:
            raise LedgerError(
                f"{self._where}, line {index}: expected the line that is anchored, got another: the file was exchanged"
            )

    def _check_protected(self, account: Account) -> None:
        for one in account.unprotected[:1]:
            raise BudgetError(
                f"{self._where}: job {one.job} ran without differential privacy on {one.time:%Y-%m-%d}, so epsilon of "
                f"population {account.name} is infinite for ever and no job fits; only a population that is declared "
                "disjoint has a budget of its own"
            )

    def _check_resumed(self, known: Reservation, charge: JobCharge) -> None:
        if known.closed:
            raise LocalError(f"{self._where}: job {charge.job} is closed; take a new name")
        if known.charge != charge:
            raise LocalError(f"{self._where}: job {charge.job} has reserved something else; take a new name")

    def _known(self, account: Account, job: str) -> Reservation:
        if job not in account.jobs:
            raise LocalError(f"{self._where}: expected a job that has reserved, got {job[:80]!r}")
        return account.jobs[job]

    def _refusal(self, account: Account, charge: JobCharge, cost: Cost) -> str:
        books = account.books
        would = books.standings(account.total + cost.worst)
        figures = ", ".join(f"{standing.book} {standing.epsilon:.4g}" for standing in would)
        return (
            f"{self._where}: job {charge.job} asks for epsilon {cost.once.epsilon:.4g} at delta {cost.once.delta:.2g}, "
            f"and of epsilon {books.epsilon:g}, delta {books.delta:g} for population {account.name} at most "
            f"{account.room:.4g} is left (with it: {figures}); plan fewer rounds or more noise"
        )


def _check_words(what: str, text: str) -> None:
    if not text.strip() or len(text) > 1000:
        raise LocalError(f"expected a {what} of 1 to 1000 letters, got {text[:80]!r}")
