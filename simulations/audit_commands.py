"""The command on whether privacy does what it says: `audit privacy`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.errors import LocalError
from wardround.extras import require
from wardround.plan_commands import PlanArgument, SetOption
from wardround.plan_source import find_plan
from wardround.simulations.commands import free_folder

if TYPE_CHECKING:
    from rich.table import Table

    from wardround.simulations.privacy_audit import PrivacyAudit

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
audit_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Test that privacy's mechanism does what it says."
)
app.add_typer(audit_app, name="audit")

_TABLE, _REPORT = "audit.json", "audit.html"


@audit_app.callback()
def audit() -> None:
    """Test that privacy's mechanism does what it says."""


@audit_app.command()
def privacy(
    plan: PlanArgument,
    settings: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for the report.  [default: runs/NAME-audit-N]")
    ] = None,
    canaries: Annotated[int, typer.Option(metavar="N", min=20, max=5000, help="Canaries; fewer show less.")] = 1000,
    units: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Rows or patients at a site.  [default: the fewest in the plan's data]"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Which canaries are put in; noise stays secret.  [default: random]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Test a plan's mechanism for privacy on made-up data.

    A self-test of its noise, clip and samples, and an audit with canaries in one run. The exit code is 1 when either
    finds that the claim does not hold.
    """
    chosen = find_plan(plan).override(settings or ())
    if chosen.privacy.per_example:
        require("job")
    from wardround.simulations.privacy_audit import audit_privacy

    folder = _free(out or free_folder(f"{chosen.name}-audit"))
    found = audit_privacy(chosen, units=units, canaries=canaries, seed=seed)
    _write(folder, found)
    if as_json:
        typer.echo(json.dumps(found.to_json() | {"report": str(folder / _REPORT)}, ensure_ascii=False))
    elif not quiet:
        _show(found)
        typer.echo(f"report  {folder / _REPORT}")
    if not found.passed:
        raise typer.Exit(1)


def _free(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LocalError(f"{folder}: expected a new or an empty folder (--out); nothing was changed")
    return folder


def _write(folder: Path, found: "PrivacyAudit") -> None:
    from wardround.durable_file import replace_file
    from wardround.simulations.report.privacy_audit import render_audit

    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / _TABLE, json.dumps(found.to_json(), indent=1, allow_nan=False).encode() + b"\n")
        replace_file(folder / _REPORT, render_audit(found).encode())
    except OSError as error:
        raise LocalError(f"{error.filename or folder}: {error.strerror}") from None


def _show(found: "PrivacyAudit") -> None:
    from rich.console import Console

    from wardround.strategies.privacy.claim import rounded_up

    one, console = found.one_run, Console()
    typer.echo(f"claim     {found.claim.headline()}")
    for what, said in found.claim.facts():
        if what in ("against", "sampling"):
            typer.echo(f"  {what:10}{said}")
    typer.echo(f"tested    {found.tested}")
    console.print(_table(found))
    typer.echo(
        f"canaries  {one.canaries}, {one.correct} of {one.guesses} guesses right: epsilon at least {one.epsilon:.2f}, "
        f"claimed {rounded_up(found.claimed)}; both at delta {rounded_up(one.delta)}"
    )
    typer.echo(f"          blind above epsilon {one.most:.2f}; a pass never widens a claim")
    failed = [check.name for check in found.checks if not check.passed]
    failed += ["canaries"] * found.contradicted
    typer.echo("result    " + (f"FAILED: {', '.join(failed)}" if failed else "passed"))


def _table(found: "PrivacyAudit") -> "Table":
    from rich.table import Table

    shown = Table(title="self-test", box=None, title_justify="left")
    for column in ("check", "measured", "from", "to", ""):
        shown.add_column(column, justify="left" if column in ("check", "") else "right")
    for check in found.checks:
        limits = ("–" if limit is None else f"{limit:.5g}" for limit in (check.low, check.high))
        shown.add_row(check.name, f"{check.measured:.5g}", *limits, "ok" if check.passed else "FAILED")
    return shown
