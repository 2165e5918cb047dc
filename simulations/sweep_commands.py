"""`wardround simulate --sweep`: runs a sweep with progress, and prints its table."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from wardround.plan import Plan

if TYPE_CHECKING:
    from rich.table import Table

    from wardround.simulations.sweep import SweepResult

__all__ = ["sweep_and_show", "sweep_table"]

_CAUTION = (
    "Choosing by this table is a choice that depends on the data: no claim covers it, and every run is a charge of its "
    "own."
)


def sweep_and_show(
    plan: Plan, text: str, folder: Path, *, seeds: int, quiet: bool, as_json: bool, report: bool
) -> None:
    """Run the sweep that `text` asks for in `folder`, or complete it there; print its table."""
    from wardround.simulations.sweep import plan_sweep, run_sweep
    from wardround.simulations.sweep_folder import SweepFolder

    sweep = plan_sweep(plan, text, seeds)
    found = SweepFolder.open(folder, sweep)
    wanted = set(sweep.runs())
    done = [one for one in found.done if not one.error and (one.value, one.seed) in wanted]
    kept = len(done)

    def keep(result: "SweepResult") -> None:
        nonlocal kept
        kept += 1
        found.add(result)
        if as_json:
            typer.echo(json.dumps(_line(result)))
        elif not quiet:
            typer.echo(f"run {kept}/{len(wanted)}  {sweep.key}={result.value} seed {result.seed}: {_told(result)}")
        sys.stdout.flush()

    try:
        results = run_sweep(sweep, folder, done=done, report=report, on_result=keep)
    except KeyboardInterrupt:
        typer.echo(
            f"interrupted: {kept} of {len(wanted)} runs are kept; continue with the same command and --out {folder}",
            err=True,
        )
        raise typer.Exit(130) from None
    table = found.finish(results)
    if as_json:
        typer.echo(json.dumps({"report": str(found.report), "points": table["points"]}))
    elif not quiet:
        from rich.console import Console

        Console().print(sweep_table(table))
        if table["note"]:
            typer.echo(table["note"])
        typer.echo(_CAUTION)
        typer.echo(f"report  {found.report}")


def _line(result: "SweepResult") -> dict[str, Any]:
    claim = None if result.claim is None else result.claim["headline"]
    return {
        "value": result.value,
        "seed": result.seed,
        "metrics": result.metrics,
        "claim": claim,
        "error": result.error,
    }


def _told(result: "SweepResult") -> str:
    if result.error:
        return f"failed: {' '.join(result.error.split())}"
    figures = "  ".join(f"{name} {value:.4g}" for name, value in list(result.metrics.items())[:2])
    return figures + (f"  ({result.claim['headline']})" if result.claim is not None else "")


def sweep_table(table: Mapping[str, Any]) -> "Table":
    """A row for each value: its claim, and each metric's mean and range over the seeds."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from wardround.server.report.wording import count

    title = (
        f"{escape(table['key'])}: figures on test rows, mean (least to most) of {count(len(table['seeds']), 'seed')}"
    )
    shown = Table("value", "claim", *table["metrics"], title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in shown.columns[2:]:
        column.justify, column.no_wrap = "right", True
    failed = any(point["failed"] for point in table["points"])
    if failed:
        shown.add_column("failed", justify="right")
    for point in table["points"]:
        claim = "no differential privacy" if point["metrics"] else "-"
        claim = claim if point["claim"] is None else point["claim"]["headline"]
        cells = [_spread(point["metrics"].get(name)) for name in table["metrics"]]
        shown.add_row(escape(point["value"]), claim, *cells, *([str(point["failed"])] if failed else []))
    return shown


def _spread(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    least_to_most = f" ({found['min']:.4g}–{found['max']:.4g})" if found["runs"] > 1 else ""
    return f"{found['mean']:.4g}{least_to_most}"
