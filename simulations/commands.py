"""The commands of simulations. What is heavy is imported when a command runs."""

import json
import re
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import click
import typer

from wardround.decoding import encode
from wardround.errors import LocalError
from wardround.extras import require
from wardround.plan import Plan, load_plan, parse_plan
from wardround.plan_commands import PlanArgument, SetOption
from wardround.plan_source import find_plan
from wardround.server.runs.caveat import caveat

if TYPE_CHECKING:
    from wardround.simulations.result import Result

__all__ = ["Json", "Run", "app", "free_folder", "run_and_show"]

app = typer.Typer(rich_markup_mode=None)

Run = Annotated[Path, typer.Argument(metavar="RUN", exists=True, file_okay=False, help="The directory of a run.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line instead of text.")]


@app.command()
def simulate(
    plan: Annotated[
        str | None,
        typer.Argument(metavar="PLAN", click_type=click.Path(), help="A plan file, or the name of a shipped plan."),
    ] = None,
    settings: SetOption = None,
    rounds: Annotated[int | None, typer.Option(metavar="N", help="Short for --set rounds=N.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Short for --set seed=N.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for the run.  [default: runs/NAME-N]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", file_okay=False, exists=True, help="Continue this run; takes no PLAN.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Json = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Leave out the report.")] = False,
    attack: Annotated[
        str | None, typer.Option(metavar="NAME", help="Let sites attack; `wardround rules` lists the attacks.")
    ] = None,
    attackers: Annotated[
        int | None, typer.Option(metavar="F", min=1, help="How many do.  [default: robust.num_byzantine, at least 1]")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=V,V,...", help="Run once for each value, e.g. privacy.epsilon=1,3,8,off; --out may go on."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Seeds for each value of --sweep.  [default: 1]")
    ] = None,
    ledgers: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="The sites' privacy ledgers, shared by runs.")
    ] = None,
) -> None:
    """Train a federation of hospitals on this machine."""
    overrides = [*(settings or ()), *(f"{k}={v}" for k, v in (("rounds", rounds), ("seed", seed)) if v is not None)]
    if attackers is not None and attack is None:
        raise click.UsageError("--attackers needs --attack NAME")
    if ledgers is not None and sweep is not None:
        raise click.UsageError("each run of a sweep has ledgers of its own: --sweep takes no --ledgers")
    if seeds is not None and sweep is None:
        raise click.UsageError("--seeds needs --sweep KEY=V,V,...")
    if resume is not None:
        if plan is not None or out is not None or overrides or attack is not None or ledgers is not None:
            raise click.UsageError(
                "a run continues as it was begun: --resume takes no PLAN, --set, --attack, --ledgers or --out"
            )
        if sweep is not None:
            raise click.UsageError("a sweep is continued by the same command with --out, not by --resume")
        chosen, folder = load_plan(resume / "plan.toml"), resume
    elif plan is not None:
        chosen = find_plan(plan).override(overrides)
        if attack is not None:
            lying = attackers or (0 if attack == "none" else max(1, chosen.robust.num_byzantine))
            chosen = chosen.override([f'simulation.attack.name="{attack}"', f"simulation.attack.attackers={lying}"])
        folder = out or free_folder(chosen.name if sweep is None else f"{chosen.name}-sweep")
    else:
        raise click.UsageError("expected PLAN or --resume RUN")
    require("simulation")
    if sweep is not None:
        from wardround.simulations.sweep_commands import sweep_and_show

        sweep_and_show(chosen, sweep, folder, seeds=seeds or 1, quiet=quiet, as_json=as_json, report=not no_report)
        return
    run_and_show(
        chosen, folder, resume=resume is not None, quiet=quiet, as_json=as_json, no_report=no_report, ledgers=ledgers
    )


def run_and_show(
    plan: Plan,
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
    as_json: bool,
    no_report: bool,
    ledgers: Path | None = None,
) -> None:
    """Run `plan` in `folder`, or continue the run there, with progress; print the result."""
    from wardround.server.runs.progress import show_progress
    from wardround.simulations.simulate import simulate as run

    try:
        with show_progress(plan, quiet=quiet, as_json=as_json, report=not no_report) as progress:
            result = run(
                plan,
                out=folder,
                observer=progress,
                resume=resume,
                report=not no_report,
                ledgers=ledgers,
                on_tuning=progress.tuning,
            )
    except KeyboardInterrupt:
        _interrupted(folder)
    for site in result.untested:
        typer.echo(f"the model was not tested at {site}", err=True)
    if as_json:
        typer.echo(json.dumps(_summary(result, folder, caveat(plan))))
    elif not quiet:
        _print_result(result, folder, caveat(plan))
    if result.stopped and all(line["void"] for line in result.rounds):
        raise LocalError(f"no round counted: {result.stopped}")


def free_folder(name: str) -> Path:
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    return next(path for n in count(1) if not (path := Path("runs") / f"{stem}-{n}").exists())


def _interrupted(folder: Path) -> NoReturn:
    """Say what is kept of an interrupted run and how to continue it."""
    from wardround.server.runs.run_directory import RunDirectory

    try:
        with RunDirectory.open(folder) as run:
            kept = f"rounds 1 to {run.rounds} are kept" if run.rounds else "no round was finished"
    except LocalError:
        typer.echo("interrupted: nothing was kept", err=True)
    else:
        typer.echo(f"interrupted: {kept}; continue with: wardround simulate --resume {folder}", err=True)
    raise typer.Exit(130)


def _summary(result: "Result", folder: Path, note: str) -> dict[str, Any]:
    """What --json prints last."""
    scores = {} if result.comparison is None else encode(result.comparison)
    return {
        "run": str(folder),
        "report": None if result.report_path is None else str(result.report_path),
        "rounds": len(result.rounds),
        "metrics": dict(result.metrics),
        "note": note,
        "comparison": {name: scores[name] for name in ("primary", "overall", "own", "sites") if name in scores},
    }


def _print_result(result: "Result", folder: Path, note: str) -> None:
    from rich.console import Console

    from wardround.simulations.result_table import result_table

    if result.comparison is not None:
        Console().print(result_table(result.comparison))
    if note:
        typer.echo(note)
    typer.echo(f"report  {result.report_path}" if result.report_path is not None else f"run     {folder}")


@app.command()
def compare(first: Run, second: Run, as_json: Json = False) -> None:
    """Compare the plans and the results of two runs."""
    from wardround.simulations.run_comparison import compare_runs

    comparison = compare_runs(first, second)
    if as_json:
        typer.echo(json.dumps(comparison.to_json()))
        return
    from rich.console import Console

    from wardround.simulations.result_table import runs_table

    Console().print(runs_table(comparison))


@app.command()
def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            exists=True,
            help="A released model (.wardmodel), a run's directory, or with --plan a model.safetensors.",
        ),
    ],
    data: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A CSV or Parquet file.")],
    root: Annotated[
        Path | None,
        typer.Option(metavar="CA", exists=True, dir_okay=False, help="Whom a released model is verified by: ca.pem."),
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Use a released model without verifying it: it may be anybody's.")
    ] = False,
    code: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", exists=True, file_okay=False, help="Where a released plan's code lies, if it has any."
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="TOML", exists=True, dir_okay=False, help="The plan of a model.safetensors, as a member opened it."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the predictions (CSV) here, not to standard output."),
    ] = None,
) -> None:
    """Apply a model, a released one or a run's, to the rows of a file."""
    if out is not None and out.exists() and out.samefile(data):
        raise click.UsageError(f"--out {out} is the file that is read")
    if model.is_dir() and (root is not None or unverified or code is not None or plan is not None):
        raise click.UsageError(
            f"{model} is a run of this machine: --root, --unverified and --code are for .wardmodel, --plan for a "
            "model.safetensors"
        )
    if plan is not None and (root is not None or unverified):
        raise click.UsageError(
            "--plan is for a model.safetensors, which nobody has signed: without --root, --unverified"
        )
    if model.is_file() and plan is None and (root is not None) == unverified:
        raise click.UsageError("a released model is verified by --root CA, or else used with --unverified")
    require("job")
    from wardround.evidence_identity import read_authority
    from wardround.simulations.prediction import predict as predictions
    from wardround.simulations.prediction import predict_bare, predict_released

    if model.is_dir():
        text = predictions(model, data).to_csv()
    elif plan is not None:
        of = load_plan(plan) if code is None else parse_plan(plan.read_text(encoding="utf-8-sig"), folder=code)
        text = predict_bare(model, data, plan=of).to_csv()
    else:
        if root is None:
            typer.echo(f"warning: {model} is NOT VERIFIED: nobody knows who made it, or of what", err=True)
        authority = None if root is None else read_authority(root.read_bytes(), str(root))
        text = predict_released(model, data, authority=authority, code=code).to_csv()
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {out}", err=True)


@app.command()
def report(run: Run) -> None:
    """Write a run's report again."""
    require("simulation")
    from wardround.server.runs.run_directory import RunDirectory
    from wardround.simulations.simulate import simulate as continue_run

    with RunDirectory.open(run) as directory:
        latest, rounds = directory.latest(), directory.plan.rounds
    if latest is None or (latest.state.round < rounds and not latest.state.stopped):
        raise LocalError(f"{run}: expected a finished run; finish it with: wardround simulate --resume {run}")
    typer.echo(f"wrote {continue_run(out=run, resume=True).report_path}")


@app.command("export-flower")
def export_flower(
    plan: PlanArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the app.")],
    settings: SetOption = None,
) -> None:
    """Write a plan as an app that `flwr run` runs."""
    require("simulation")
    from wardround.simulations.export_flower import export

    chosen = find_plan(plan).override(settings or ())
    export(chosen, folder)
    sites = f"num-supernodes={chosen.simulation.sites} client-resources-num-cpus=1"
    typer.echo(f'wrote {folder}; run it with: flwr run {folder} --stream --federation-config "{sites}"')
