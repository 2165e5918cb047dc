"""`wardround client audit`: the site's own audit log, and what it has seen of the server's."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from wardround.client.command_line import By, State, site_of, user

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
audit_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="The site's audit log: show, verify and export it."
)
app.add_typer(audit_app, name="audit")


@audit_app.command()
def tail(
    count: Annotated[int, typer.Option("-n", metavar="N", min=0, help="The last N records.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is added, until Ctrl-C.")] = False,
    state: State = None,
) -> None:
    """Show the last records, as lines of JSON."""
    from wardround.audit.log import LOG_FILE
    from wardround.audit.tail import show_tail
    from wardround.client.agent.site_log import audit_folder

    show_tail(audit_folder(site_of(state)) / LOG_FILE, count, sys.stdout, follow=follow)


@audit_app.command()
def verify(state: State = None) -> None:
    """Verify this site's log, and say whether the server's history is the one that the site has seen."""
    from wardround.audit.log import LOG_FILE
    from wardround.audit.record import minute
    from wardround.audit.verify import verify_file
    from wardround.audit.words import log_lines
    from wardround.client.agent.server_heads import ServerHeads
    from wardround.client.agent.site_log import audit_folder

    folder = site_of(state)
    for line in log_lines(verify_file(audit_folder(folder) / LOG_FILE, folder.authority)):
        typer.echo(line)
    heads = ServerHeads(folder)
    known, difference = heads.known(), heads.difference()
    if difference is not None:
        typer.echo(
            f"error: the server's history differs from what this site has seen, since {difference.since[:16]}: "
            f"{difference.why}. Ask the coordinator by telephone; after a restore from a backup, go on with: "
            "wardround client audit accept-restore",
            err=True,
        )
        raise typer.Exit(1)
    if known is not None:
        typer.echo(f"server      the first {known.seq} records of its log, signed here after {minute(known.time)}")


@audit_app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, a zip.")], state: State = None
) -> None:
    """Write the log to a bundle that an auditor can verify without this site."""
    from wardround.client.agent.site_log import export_log
    from wardround.clock import utc_now

    export_log(site_of(state), file, utc_now())
    typer.echo(f"{file}: {file.stat().st_size} bytes; check it: wardround verify audit {file} --root ca.pem")


@audit_app.command("accept-restore")
def accept_restore(by: By = None, state: State = None) -> None:
    """Go on with a server whose history is another than this site has seen, as after a restore from a backup."""
    from wardround.client.agent.server_heads import ServerHeads
    from wardround.client.agent.site_log import open_log

    folder = site_of(state)
    found = ServerHeads(folder).accept(open_log(folder), by=by or user())
    typer.echo(
        f"accepted: {found.why}. The log keeps what was signed before ({found.known.seq} records); this site takes "
        "part again"
    )
