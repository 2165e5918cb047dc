"""The parts of `wardround run` that are about the runs of a server."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.plan_commands import PlanArgument, SetOption

if TYPE_CHECKING:
    from wardround.server.commands.api_client import ApiClient

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)

RunNumber = Annotated[int, typer.Argument(metavar="RUN", min=1, help="The number of a run, as `run list` shows it.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line instead of text.")]
_EVENTS_SHOWN = 20


@app.command()
def start(
    plan: PlanArgument,
    settings: SetOption = None,
    site: Annotated[
        list[str] | None, typer.Option(metavar="SITE", help="A site; repeat it.  [default: all that take part]")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show what happens until it has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Start a run: ask its sites for their approval, and begin when all have given it."""
    from wardround.plan_source import find_plan
    from wardround.server.commands.session import connect
    from wardround.server.commands.uploading import add_plan

    client, wanted = connect(), find_plan(plan).override(settings or ())
    digest = add_plan(client, wanted)
    run = client.ask("POST", "/runs", {"plan": digest, "sites": site or None})
    if watch:
        _watch(client, run["number"], as_json=as_json)
    elif as_json:
        typer.echo(json.dumps(run, ensure_ascii=False))
    else:
        sites = ", ".join(one["site"] for one in run["sites"])
        typer.echo(f"run {run['number']} {run['name']}: waiting for the approval of {sites}")
        typer.echo(f"plan {digest}; each of them: wardround client plan approve {run['id'][:12]} --data NAME")
        typer.echo(f"watch it: wardround run watch {run['number']}")


@app.command("list")
def list_runs(as_json: Json = False) -> None:
    """List every run, and where it stands."""
    from wardround.server.commands.listing import show_rows
    from wardround.server.commands.session import connect

    rows = [run | {"rounds": f"{run['round']}/{run['rounds']}"} for run in connect().ask("GET", "/runs")]
    show_rows(rows, ("number", "name", "state", "rounds", "created", "reason"), as_json=as_json)


@app.command()
def show(run: RunNumber, as_json: Json = False) -> None:
    """Show a run: its sites, what was noted about them, and what happened last."""
    from wardround.server.commands.listing import show_rows, shown
    from wardround.server.commands.session import connect
    from wardround.server.commands.watching import doing_text, round_text, run_text

    client = connect()
    events, found = _events(client, run), client.ask("GET", f"/runs/{run}")
    evidence = client.ask("GET", f"/runs/{run}/evidence")
    if as_json:
        typer.echo(json.dumps(found | {"evidence": evidence, "events": events}, ensure_ascii=False))
        return
    typer.echo(f"run {found['number']} {found['name']}: {run_text(found)}")
    typer.echo(f"round {found['round']}/{found['rounds']}  {doing_text(found)}".rstrip())
    lines = client.ask("GET", f"/runs/{run}/rounds", after=max(found["round"] - 1, 0))
    if lines:
        typer.echo(f"last    {round_text(lines[-1], _plan(client, found['plan']))}")
    for name in ("plan", "created", "started", "ended"):
        typer.echo(f"{name:8}{shown(found[name])}")
    typer.echo("")
    show_rows(found["sites"], ("site", "verdict", "present", "units", "reason"), as_json=False)
    if evidence:
        from rich.console import Console

        from wardround.server.runs.evidence import evidence_table

        typer.echo("")
        Console().print(evidence_table(evidence))
    typer.echo("")
    typer.echo(_told(events[-_EVENTS_SHOWN:]), nl=False)


@app.command()
def timeline(run: RunNumber, as_json: Json = False) -> None:
    """Tell everything that happened in a run, in order."""
    from wardround.server.commands.session import connect

    events = _events(connect(), run)
    if as_json:
        for event in events:
            typer.echo(json.dumps(event, ensure_ascii=False))
    else:
        typer.echo(_told(events), nl=False)


@app.command()
def watch(run: RunNumber, as_json: Json = False) -> None:
    """Show what happens in a run, until it has ended."""
    from wardround.server.commands.session import connect

    _watch(connect(), run, as_json=as_json)


@app.command()
def pause(run: RunNumber) -> None:
    """Let a run finish the round at work, and then wait."""
    _steer(run, "pause")


@app.command()
def resume(run: RunNumber) -> None:
    """Let a paused run go on."""
    _steer(run, "resume")


@app.command()
def stop(run: RunNumber) -> None:
    """Let a run end after the round at work, with the model that it has."""
    _steer(run, "stop")


@app.command()
def report(
    run: RunNumber,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="A new file.  [default: run-N-report.html]")
    ] = None,
) -> None:
    """Fetch the report of a run that has ended."""
    from wardround.server.commands.session import connect

    path = out or Path(f"run-{run}-report.html")
    connect().download(f"/runs/{run}/report", path)
    typer.echo(f"report  {path}")


def _steer(run: int, action: str) -> None:
    from wardround.server.commands.session import connect
    from wardround.server.commands.watching import run_text

    found = connect().ask("POST", f"/runs/{run}/{action}")
    typer.echo(f"run {found['number']} {found['name']}: {run_text(found)}")


def _watch(client: "ApiClient", number: int, *, as_json: bool) -> None:
    from wardround.server.commands.watching import chosen_display, ending, follow

    found = client.ask("GET", f"/runs/{number}")
    try:
        run = follow(client, number, chosen_display(_plan(client, found["plan"]), as_json=as_json))
    except KeyboardInterrupt:
        typer.echo(f"the run goes on; watch it again: wardround run watch {number}", err=True)
        raise typer.Exit(130) from None
    said = ending(run)
    if not as_json:
        typer.echo(said)


def _plan(client: "ApiClient", digest: str) -> Any:
    from wardround.plan import parse_plan

    return parse_plan(client.ask("GET", f"/plans/{digest}")["toml"], code_files=())


def _events(client: "ApiClient", run: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while True:
        last = max((one["id"] for one in events), default=0)
        more = client.ask("GET", f"/runs/{run}/events", after=last)["events"]
        if not more:
            return events
        events += more


def _told(events: list[dict[str, Any]]) -> str:
    """A line for each event."""
    from datetime import datetime

    from wardround.server.runs.timeline import timeline, timeline_text
    from wardround.server.state.events import Event

    names = ("id", "kind", "subject", "who", "detail")
    return timeline_text(
        timeline(
            Event(at=datetime.fromisoformat(one["at"]), run_id=None, **{name: one[name] for name in names})
            for one in events
        )
    )
