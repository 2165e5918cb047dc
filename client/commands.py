"""`wardround client`: what a hospital's administrator does. What is heavy is imported by the command that needs it."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from wardround.client.command_line import Json, State, place_of, site_of
from wardround.errors import LocalError

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
client_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Take part in a federation as a hospital.")
app.add_typer(client_app, name="client")


# -- the site -----------------------------------------------------------------------------------------


@client_app.command()
def join(
    invitation: Annotated[
        str, typer.Argument(metavar="URL#TOKEN", help="As the coordinator gave it; - reads it from standard input.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Refuse an invitation for another name, before it is used.")
    ] = None,
    state: State = None,
) -> None:
    """Join a federation: keys are made here, and certificates fetched. Exit codes are in docs/enrolment.md."""
    import sys

    from wardround.client.agent.site_log import note
    from wardround.client.enrolment.exit_codes import JoinError
    from wardround.client.enrolment.join import join as join_federation

    text = sys.stdin.readline().strip() if invitation == "-" else invitation
    try:
        joined = join_federation(text, place_of(state), name=name)
    except JoinError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(int(error.exit_code)) from None
    note(
        site_of(state),
        "site.joined",
        joined.name,
        server=joined.url,
        key=joined.fingerprint,
        server_key=joined.server_fingerprint,
        authority=joined.authority_fingerprint,
    )
    for line in joined.lines():
        typer.echo(line)
    typer.echo("next: wardround client data add FILE, wardround client start")


@client_app.command()
def start(
    state: State = None,
    job_python: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The Python that jobs run in, which has wardround[job].")
    ] = None,
    allow_unconfined_jobs: Annotated[
        bool,
        typer.Option(
            "--allow-unconfined-jobs", help="Run jobs even where this system cannot take network and keys from them."
        ),
    ] = False,
    job_memory_gib: Annotated[
        int | None, typer.Option(min=1, metavar="GIB", help="Memory of each process of a job.  [default: 16]")
    ] = None,
    job_scratch_mib: Annotated[
        int | None, typer.Option(min=1, metavar="MIB", help="Its working folder.  [default: 256]")
    ] = None,
    job_processes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Its processes and threads.  [default: 1024]")
    ] = None,
    job_answer_s: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="How long it may work on one order.  [default: 3600]")
    ] = None,
) -> None:
    """Run the agent: attach to the server, and do what was approved. Its log goes to stderr, as lines of JSON."""
    import sys

    folder = site_of(state)
    if folder.agent_runs():
        raise LocalError(f"{folder.path}: an agent runs here already; stop it first")
    limits = {
        "memory_bytes": job_memory_gib and job_memory_gib << 30,
        "scratch_bytes": job_scratch_mib and job_scratch_mib << 20,
        "processes": job_processes,
        "call_s": job_answer_s,
    }
    about = [
        str(folder.path.resolve()),
        "" if job_python is None else str(job_python),
        "unconfined" if allow_unconfined_jobs else "",
        json.dumps({name: limit for name, limit in limits.items() if limit is not None}),
    ]
    sys.stdout.flush()
    os.execv(  # noqa: S606 - no shell; without the command line's libraries the agent is a fifth smaller
        sys.executable,
        [sys.executable, "-P", "-m", "wardround.client.agent", *about],
    )


@client_app.command()
def status(state: State = None, as_json: Json = False) -> None:
    """Show who this site is, whether its agent runs, and how its runs stand."""
    from wardround.client.agent.data_registry import DataRegistry
    from wardround.client.agent.plan_store import PlanStore
    from wardround.client.agent.run_standing import standing
    from wardround.clock import utc_now

    folder, now = site_of(state), utc_now()
    runs = {run: standing(folder, run, now) for run in PlanStore(folder).runs()}
    data = [one.name for one in DataRegistry(folder).all()]
    if as_json:
        table = {
            "name": folder.name,
            "fingerprint": folder.fingerprint,
            "server": folder.facts.url,
            "link": folder.facts.target,
            "agent_runs": folder.agent_runs(),
            "data": data,
            "runs": runs,
        }
        typer.echo(json.dumps(table, ensure_ascii=False))
        return
    typer.echo(f"site         {folder.name}")
    typer.echo(f"fingerprint  {folder.fingerprint}")
    typer.echo(f"server       {folder.facts.url}, link {folder.facts.target}")
    typer.echo(f"agent        {'runs' if folder.agent_runs() else 'does not run (wardround client start)'}")
    typer.echo(f"data         {', '.join(data) or 'none (wardround client data add FILE)'}")
    for run, stands in runs.items():
        typer.echo(f"run          {run[:12]}  {stands}")


@client_app.command()
def budget(state: State = None, as_json: Json = False) -> None:
    """Show what may be spent on each data set's privacy, and what was."""
    import math

    from wardround.client.agent.data_registry import DataRegistry

    registry = DataRegistry(site_of(state))
    accounts = {name: ledger.account() for name, ledger in registry.ledgers().items()}
    if as_json:
        table = [
            {
                "data": name,
                "unit": account.spending.unit.value,
                "max_epsilon": account.spending.cap_epsilon,
                "delta": account.spending.cap_delta,
                "spent": account.spending.epsilon if math.isfinite(account.spending.epsilon) else None,
                "left": account.room,
                "runs": {job: {"begun": one.begun, "rounds": one.charge.rounds} for job, one in account.jobs.items()},
            }
            for name, account in accounts.items()
        ]
        typer.echo(json.dumps(table, ensure_ascii=False))
        return
    if not accounts:
        typer.echo("no data set has a budget (wardround client data add FILE --max-epsilon E --delta D)")
    for name, account in accounts.items():
        spending = account.spending
        finite = math.isfinite(spending.epsilon)
        typer.echo(
            f"{name}: epsilon {f'{spending.epsilon:.4g}' if finite else 'infinite, a run had no privacy,'} of "
            f"{spending.cap_epsilon:g} at delta {spending.cap_delta:g} for every {spending.unit.value}, "
            f"{account.room:.4g} left"
        )
        for job, one in account.jobs.items():
            typer.echo(f"  run {job[:12]}  {one.begun} of {one.charge.rounds} rounds{', closed' * one.closed}")


@client_app.command()
def leave(
    state: State = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not tell the server: the coordinator must revoke the site.")
    ] = False,
) -> None:
    """Leave the federation: the server is told, the site's keys are erased, its runs ended. Ledgers stay."""
    from wardround.client.agent.archive_keys import runs_with_archive
    from wardround.client.agent.departure import depart
    from wardround.client.enrolment.leaving import say_goodbye

    folder = site_of(state)
    if runs := runs_with_archive(folder):
        typer.echo(
            f"The keys of sealed models go too: there are runs whose models only they open ({len(runs)}); open what is "
            "wanted first (wardround client model open)",
            err=True,
        )
    if not yes:
        typer.confirm(f"Erase the keys of {folder.name!r}? It must be invited again to come back.", abort=True)

    def goodbye() -> None:
        try:
            if not offline:
                say_goodbye(folder)
        except LocalError as error:
            raise LocalError(
                f"{error}. Nothing was erased; try again, or leave with --offline, and have the coordinator revoke "
                f"{folder.name!r}"
            ) from None

    bundle = depart(folder, goodbye)
    typer.echo(
        f"{folder.name} has left; its ledgers and data sets stay in {folder.path}, its audit log in {bundle.name}"
    )
    if offline:
        typer.echo(
            "The server was not told. Tell the coordinator, who must end the site's certificates: wardround server "
            "revoke"
        )
    else:
        typer.echo("The server has ended its certificates.")
