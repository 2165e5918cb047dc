"""`wardround client doctor`: what stands in the way of taking part, and what to do about it."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from wardround.client.command_line import Json, State, place_of

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)


@app.command()
def doctor(
    state: State = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Look at the way to this server, also before joining.")
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Its port for sites.  [default: as joined; 8444, or 443 beside 443]"),
    ] = None,
    job_python: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The Python that jobs run in, as for `client start`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say of network, machine, folder and versions whether they are in order, and how to put right what is not.

    The exit code is 1 where there is a problem.
    """
    from wardround.client.doctor.examine import examine
    from wardround.client.doctor.finding import Level

    findings = []
    for one in examine(place_of(state), os.environ, server=server, link=link, job_python=job_python):
        findings.append(one)
        if not as_json:
            typer.echo(one.line())
    count = Counter(one.level for one in findings)
    if as_json:
        table = {"ok": not count[Level.PROBLEM], "findings": [one.table() for one in findings]}
        typer.echo(json.dumps(table, ensure_ascii=False))
    else:
        typer.echo(f"problems: {count[Level.PROBLEM]}, warnings: {count[Level.WARNING]}")
    if count[Level.PROBLEM]:
        raise typer.Exit(1)
