"""The commands on attacks and evidence: `redteam`, and `run evidence`, `run release`, `run replay`."""

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.errors import LocalError
from wardround.extras import require
from wardround.plan_commands import PlanArgument, SetOption
from wardround.plan_source import find_plan
from wardround.simulations.commands import Json, Run, free_folder, run_and_show

if TYPE_CHECKING:
    from wardround.simulations.redteam.cells import CellResult
    from wardround.simulations.redteam.red_team import Grid

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
run_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="The runs of a server; evidence, release from quarantine, retraining without a site.",
)
app.add_typer(run_app, name="run")


@app.command()
def redteam(
    plan: PlanArgument,
    settings: SetOption = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A rule to try, e.g. nnm+trimmed_mean; repeat it.  [default: all that can be]"
        ),
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An attack to try; repeat it.  [default: all]")
    ] = None,
    attackers: Annotated[
        int | None, typer.Option(metavar="F", help="Sites that attack.  [default: robust.num_byzantine]")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Seeds for each cell, from --first-seed on.")] = 3,
    first_seed: Annotated[int, typer.Option(metavar="N", min=0, help="The first of the seeds.")] = 101,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="What rules are judged by.  [default: accuracy, or rmse]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the report; one that holds part of this grid is completed."),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=0, help="Processes; 0: one per core.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Json = False,
) -> None:
    """Attack a simulated federation with every rule in turn.

    The report says which one holds on your data.
    """
    require("simulation")
    from wardround.simulations.redteam.candidates import CANDIDATES, parse_candidate
    from wardround.simulations.redteam.red_team import plan_grid, run_grid, table_of_results
    from wardround.simulations.redteam.results_folder import ResultsFolder

    chosen = find_plan(plan).override(settings or ())
    grid = plan_grid(
        chosen,
        candidates=[parse_candidate(label) for label in rule] if rule else CANDIDATES,
        attacks=attack,
        attackers=attackers,
        seeds=range(first_seed, first_seed + seeds),
        metric=metric,
    )
    folder = ResultsFolder.open(out or free_folder(f"{chosen.name}-redteam"), grid)
    for label, why in grid.left_out.items() if rule else ():
        typer.echo(f"left out: {label}: expected {why}", err=True)
    try:
        with _show_cells(grid, folder.done, quiet=quiet, as_json=as_json) as shown:

            def keep(result: "CellResult") -> None:
                folder.add(result)
                shown(result)

            results = run_grid(grid, done=folder.done, workers=workers, on_result=keep)
    except KeyboardInterrupt:
        done = len(folder.done) + folder.added
        typer.echo(
            f"interrupted: {done} results are kept; continue with the same command and --out {folder.path}", err=True
        )
        raise typer.Exit(130) from None
    table = table_of_results(grid, results)
    folder.finish(table)
    choice = table["choice"]
    if as_json:
        typer.echo(json.dumps({"report": str(folder.report), "choice": choice, "baseline": table["baseline"]}))
    elif not quiet:
        from rich.console import Console

        from wardround.simulations.redteam.result_table import grid_table

        Console().print(grid_table(table))
        if table["note"]:
            typer.echo(table["note"])
        if choice is not None:
            typer.echo(f"take {choice['rule']}: {choice['why']}")
        typer.echo(f"report  {folder.report}")


class _show_cells:
    """Progress of a grid: a bar on a terminal, lines elsewhere."""

    def __init__(self, grid: "Grid", done: "list[CellResult]", *, quiet: bool, as_json: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._quiet, self._json = quiet, as_json
        self._total, self._count = len(list(grid.cells())), len(done)
        console = Console()
        self._bar = None
        if not quiet and not as_json and console.is_terminal:
            columns = (
                TextColumn("runs"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[last]}", markup=False),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("runs", total=self._total, completed=self._count, last="")

    def __enter__(self) -> "_show_cells":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, result: "CellResult") -> None:
        self._count += 1
        value = "failed" if result.value is None else f"{result.value:.4f}"
        last = f"{result.rule} against {result.attack}, seed {result.seed}: {value}"
        if self._json:
            typer.echo(json.dumps(result.to_json()))
        elif self._bar is not None:
            self._bar.update(self._task, completed=self._count, last=last)
        elif not self._quiet:
            typer.echo(f"run {self._count}/{self._total}  {last}")


@run_app.command()
def evidence(
    run: Run,
    site: Annotated[str | None, typer.Option(metavar="SITE", help="Only this site, round by round.")] = None,
    as_json: Json = False,
) -> None:
    """Show what was noted about a run's sites: verdicts and flags, suspicion, quarantine."""
    from wardround.plan import load_plan
    from wardround.server.runs.caveat import caveat
    from wardround.server.runs.evidence import evidence_of_site, evidence_of_sites

    rows: list[dict[str, Any]] = evidence_of_sites(run) if site is None else evidence_of_site(run, site)
    if note := caveat(load_plan(run / "plan.toml")):
        typer.echo(note, err=True)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    from rich.console import Console

    from wardround.server.runs.evidence import evidence_table

    Console().print(evidence_table(rows))


@run_app.command()
def release(
    run: Run,
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site in quarantine.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the audit log keeps it.")],
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who decides.  [default: your user name]")] = None,
) -> None:
    """Let a quarantined site take part again when the run is continued."""
    require("simulation")
    from wardround.simulations.replay import release_site

    after = release_site(run, site, by or _user(), reason)
    typer.echo(f"released {site} after round {after}; continue with: wardround simulate --resume {run}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise LocalError("expected --by NAME, since the user of this process has no name") from None


@run_app.command()
def replay(
    run: Run,
    without: Annotated[list[str], typer.Option(metavar="SITE", help="A site to do without; repeat it.")],
    from_round: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="ROUND", help="First round to train again.  [default: the first suspicious one]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for the run.  [default: runs/NAME-replay-N]")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Json = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Leave out the report.")] = False,
) -> None:
    """Retrain without a site, from the last checkpoint before it was suspicious. This is not certified unlearning."""
    require("simulation")
    from wardround.plan import load_plan
    from wardround.server.runs.run_info import read_info
    from wardround.simulations.replay import prepare_replay

    read_info(run)
    plan = load_plan(run / "plan.toml")
    if plan.data.source == "arrays":
        raise LocalError(
            f"{run}: its data came from Python; use prepare_replay and simulate(out=..., data=..., resume=True)"
        )
    prepared = prepare_replay(run, without, out or free_folder(f"{plan.name}-replay"), from_round)
    if not quiet and not as_json:
        typer.echo(f"retraining without {', '.join(without)} from round {prepared.first_round}")
        for note in prepared.notes:
            typer.echo(f"note: {note}")
    run_and_show(prepared.plan, prepared.folder, resume=True, quiet=quiet, as_json=as_json, no_report=no_report)
