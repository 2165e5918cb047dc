"""`wardround ledger`: what a site's population may spend on privacy, and what it has spent."""

import getpass
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.errors import LocalError
from wardround.plan_privacy import Relation, Unit

if TYPE_CHECKING:
    from rich.table import Table

    from wardround.client.guard.ledger import Ledger
    from wardround.client.guard.ledger_account import Account, Reservation
    from wardround.client.guard.ledger_anchor import FileAnchor

__all__ = ["app"]

_SUFFIX = ".ledger"

app = typer.Typer(rich_markup_mode=None)
ledger_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="What a population may spend on privacy, and what it has spent."
)
app.add_typer(ledger_app, name="ledger")

LedgerPath = Annotated[Path, typer.Argument(metavar="LEDGER", help="The ledger's file.")]
AnchorPath = Annotated[
    Path | None, typer.Option("--anchor", metavar="FILE", help="The ledger's anchor, in a folder of its own.")
]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who decides.  [default: your user name]")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@ledger_app.command()
def create(
    path: LedgerPath,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What you call the population.")],
    epsilon: Annotated[float, typer.Option(metavar="E", help="The most that may ever be spent.")],
    delta: Annotated[float, typer.Option(metavar="D", help="The failure probability that goes with it.")],
    data: Annotated[Path, typer.Option(metavar="FILE", help="The population's data as they are now.")],
    unit: Annotated[Unit, typer.Option(help="Whose presence is hidden.")] = Unit.PATIENT,
    relation: Annotated[
        Relation, typer.Option(help="Neighbouring data sets; replace-one takes jobs of any relation.")
    ] = Relation.REPLACE_ONE,
    anchor: AnchorPath = None,
    disjoint: Annotated[
        str | None, typer.Option(metavar="REASON", help="Why no patient is in another ledger of this folder.")
    ] = None,
    by: By = None,
) -> None:
    """Make the ledger of a new population; its caps stay as they are for ever.

    Data that were changed, cut into subsets or derived from a population's are no new population. So a folder that
    has ledgers takes another only with the reason why it is disjoint from them, which is written into all of them.
    """
    from wardround.client.guard.ledger import Ledger

    if path.suffix != _SUFFIX:
        raise LocalError(f"{path}: expected a name that ends in {_SUFFIX}, by which a folder's ledgers are found")
    others = _ledgers_beside(path)
    digest = _digest(data)
    for other, there in others.items():
        if digest in there.account().digests:
            raise LocalError(f"{other}: population {there.name} has these data already, and their spending")
    if others and disjoint is None:
        names = ", ".join(there.name for there in others.values())
        raise LocalError(
            f"{path.parent} has ledgers of {names}: expected --disjoint with the reason why no patient is in both"
        )
    made = Ledger.create(
        path,
        name=name,
        unit=unit,
        relation=relation,
        epsilon=epsilon,
        delta=delta,
        digest=digest,
        anchor=_anchor(path, anchor),
    )
    for there in others.values():
        made.declare_disjoint(there, by=by or _user(), reason=disjoint or "")
    typer.echo(f"{path}: population {made.population}, epsilon {epsilon:g} at delta {delta:g}")


@ledger_app.command()
def show(path: LedgerPath, anchor: AnchorPath = None, as_json: Json = False) -> None:
    """Show what was spent and what is left, and every job."""
    account = _open(path, anchor).account()
    if as_json:
        typer.echo(json.dumps(_plain(account), ensure_ascii=False))
        return
    from rich.console import Console

    from wardround.plain_text import plain_text

    spending = account.spending
    typer.echo(f"{plain_text(account.name)} ({account.population}), since {account.created:%Y-%m-%d}")
    typer.echo(
        f"cap     epsilon {spending.cap_epsilon:g} at delta {spending.cap_delta:g} for every {spending.unit.value}, "
        f"{spending.relation.value}, however jobs are chosen"
    )
    typer.echo(
        f"spent   {_number(spending.epsilon)} at delta {spending.delta:.2g} ({spending.book}), open jobs in full"
    )
    typer.echo(f"left    {account.room:.4g}: the largest job that fits, if it is one release without sampling")
    for one in account.unprotected:
        typer.echo(
            f"job {plain_text(one.job)} ran without differential privacy on {one.time:%Y-%m-%d} "
            f"({plain_text(one.reason)}): epsilon is infinite for ever"
        )
    for other in account.disjoint:
        typer.echo(f"disjoint from {plain_text(other.name)}, says {plain_text(other.by)}: {plain_text(other.reason)}")
    Console().print(_books_table(account))
    if account.jobs:
        Console().print(_jobs_table(account))


@ledger_app.command()
def verify(path: LedgerPath, anchor: AnchorPath = None) -> None:
    """Check every line of a ledger, its sums, and its anchor."""
    ledger = _open(path, anchor)
    ledger.verify()
    lines, digest = ledger.head
    anchored = "" if anchor is not None else "; without --anchor an older copy of it would pass too"
    typer.echo(f"{path}: {lines} lines, all as they were written, the last is {digest}{anchored}")


@ledger_app.command("declare-disjoint")
def declare_disjoint(
    path: LedgerPath,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The other population's ledger.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why no patient is in both; both ledgers keep it.")],
    by: By = None,
) -> None:
    """Declare that no patient is in two populations, so that each has a budget of its own."""
    here, there = _open(path, None), _open(other, None)
    here.declare_disjoint(there, by=by or _user(), reason=reason)
    typer.echo(f"{here.name} and {there.name} are declared disjoint")


@ledger_app.command()
def close(
    path: LedgerPath,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job that nobody will go on with.")],
    anchor: AnchorPath = None,
) -> None:
    """Close a job that was left open, and free the rounds that it never began."""
    ledger = _open(path, anchor)
    ledger.close(job)
    typer.echo(f"closed; {ledger.remaining():.4g} is left")


def _open(path: Path, anchor: Path | None) -> "Ledger":
    from wardround.client.guard.ledger import Ledger

    return Ledger.open(path, anchor=_anchor(path, anchor))


def _anchor(path: Path, anchor: Path | None) -> "FileAnchor | None":
    from wardround.client.guard.ledger_anchor import FileAnchor

    if anchor is None:
        return None
    if anchor.resolve().parent == path.resolve().parent:
        raise LocalError(f"{anchor}: expected a folder other than the ledger's, which one backup would restore with it")
    return FileAnchor(anchor)


def _ledgers_beside(path: Path) -> "dict[Path, Ledger]":
    return {other: _open(other, None) for other in sorted(path.parent.glob(f"*{_SUFFIX}")) if other != path}


def _digest(data: Path) -> str:
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise LocalError("expected --by NAME, since the user of this process has no name") from None


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "infinite"


def _books_table(account: "Account") -> "Table":
    from rich.table import Table

    table = Table("book", "epsilon", "delta", "", title="books: a job is admitted while one still fits")
    for standing in account.spending.books:
        fits = "fits" if standing.fits and not account.unprotected else "full"
        table.add_row(standing.book, _number(standing.epsilon), f"{standing.delta:.2g}", fits)
    return table


def _jobs_table(account: "Account") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    from wardround.plain_text import plain_text

    table = Table("job", "plan", "epsilon", "delta", "rounds begun", "", title="jobs: open ones count in full")
    for job in account.jobs.values():
        table.add_row(
            escape(plain_text(job.charge.job, 40)),
            escape(plain_text(job.charge.plan_digest, 12)),
            _number(job.cost.once.epsilon),
            f"{job.cost.once.delta:.2g}",
            f"{job.begun} of {job.charge.rounds}",
            "closed" if job.closed else "open",
        )
    return table


def _plain(account: "Account") -> dict[str, Any]:
    """The account for JSON, with null for what is infinite."""
    spending = account.spending
    return {
        "population": account.population,
        "name": account.name,
        "unit": spending.unit.value,
        "relation": spending.relation.value,
        "cap": {"epsilon": spending.cap_epsilon, "delta": spending.cap_delta},
        "spent": {"epsilon": _finite(spending.epsilon), "delta": spending.delta, "book": spending.book},
        "remaining": account.room,
        "books": [
            {"book": one.book, "epsilon": _finite(one.epsilon), "delta": one.delta, "fits": one.fits}
            for one in spending.books
        ],
        "jobs": [_plain_job(job) for job in account.jobs.values()],
        "unprotected": [
            {"job": one.job, "plan_digest": one.plan_digest, "reason": one.reason, "time": one.time.isoformat()}
            for one in account.unprotected
        ],
        "disjoint": [
            {"population": one.population, "name": one.name, "by": one.by, "reason": one.reason}
            for one in account.disjoint
        ],
        "data": list(account.digests),
    }


def _plain_job(job: "Reservation") -> dict[str, Any]:
    return {
        "job": job.charge.job,
        "plan_digest": job.charge.plan_digest,
        "epsilon": _finite(job.cost.once.epsilon),
        "delta": job.cost.once.delta,
        "accountant": job.cost.accountant,
        "rounds": job.charge.rounds,
        "begun": job.begun,
        "closed": job.closed,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
