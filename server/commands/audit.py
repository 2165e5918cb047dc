"""`wardround server audit` and `server authority`: what auditors are given, on the server's own machine."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from wardround.errors import LocalError

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
audit_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="The server's audit log: show, verify and export it."
)
app.add_typer(audit_app, name="audit")

State = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The server's state.  [default: $WARDROUND_SERVER_STATE, or in your home]"),
]


@audit_app.command()
def tail(
    count: Annotated[int, typer.Option("-n", metavar="N", min=0, help="The last N records.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is added, until Ctrl-C.")] = False,
    state: State = None,
) -> None:
    """Show the last records, as lines of JSON."""
    from wardround.audit.log import LOG_FILE
    from wardround.audit.tail import show_tail
    from wardround.server.state.folder import StateFolder, default_state

    folder = StateFolder.open(state or default_state())
    show_tail(folder.audit / LOG_FILE, count, sys.stdout, follow=follow)


@audit_app.command()
def verify(state: State = None) -> None:
    """Verify the log, and that it goes through every head that sites have co-signed; also while the server runs."""
    from wardround.audit.words import log_lines
    from wardround.server.audit.evidence import verify_audit_log
    from wardround.server.state.database import Database
    from wardround.server.state.folder import StateFolder, default_state

    folder = StateFolder.open(state or default_state())
    database = Database.open(folder.database_url)
    try:
        found, counts = verify_audit_log(folder, database)
    finally:
        database.close()
    for line in log_lines(found):
        typer.echo(line)
    for site, count in sorted(counts.items()):
        typer.echo(f"co-signed   by {site}: the first {count} records")


@audit_app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, a zip.")], state: State = None
) -> None:
    """Write the log and the co-signed heads to a bundle that an auditor can verify without this server."""
    from wardround.clock import utc_now
    from wardround.server.audit.evidence import export_audit_log
    from wardround.server.state.database import Database
    from wardround.server.state.folder import StateFolder, default_state

    folder = StateFolder.open(state or default_state())
    database = Database.open(folder.database_url)
    try:
        count = export_audit_log(folder, database, file, utc_now())
    finally:
        database.close()
    typer.echo(
        f"{file}: {file.stat().st_size} bytes, {count} co-signed heads; check it: wardround verify audit {file} "
        "--root ca.pem"
    )


@app.command()
def authority(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="A new file, PEM: what `verify --root` is given.")
    ],
    state: State = None,
) -> None:
    """Write the certificate of the identity authority, which says whose signing key is whose; it is no secret."""
    from wardround.evidence_identity import authority_pem
    from wardround.identity import Authority
    from wardround.server.state.folder import StateFolder, default_state

    der = StateFolder.open(state or default_state()).identity_authority()
    try:
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as file:
            file.write(authority_pem(der))
    except OSError as error:
        raise LocalError(f"{out}: cannot be written ({error.strerror})") from None
    typer.echo(f"{out}: SHA-256 {Authority(der).fingerprint.hex()}")
