"""`wardround server`: what is done on the server's own machine, and, over HTTPS, with its sites."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.errors import LocalError
from wardround.plain_text import in_groups

if TYPE_CHECKING:
    from wardround.server.state.folder import StateFolder
    from wardround.server.state.restore import Restored

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
server_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Make, start and back up a server; invite and revoke sites."
)
app.add_typer(server_app, name="server")

State = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The server's state.  [default: $WARDROUND_SERVER_STATE, or in your home]"),
]
Passphrase = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file of mode 0600 with the passphrase.  [default: ask]")
]
KeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file of mode 0600 in place of a passphrase, to start unattended.")
]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@server_app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the federation is called.")],
    host: Annotated[str, typer.Option(metavar="HOST", help="The name or address that sites and people call.")],
    state: State = None,
    bind: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "0.0.0.0",  # noqa: S104
    https_port: Annotated[int, typer.Option(metavar="PORT", help="For people, and for joining.")] = 8443,
    grpc_port: Annotated[int, typer.Option(metavar="PORT", help="For sites.")] = 8444,
    public_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="The one port of a proxy in front of both.  [default: none]")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="A PostgreSQL.  [default: SQLite in the state]")
    ] = None,
    passphrase_file: Passphrase = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file in place of a passphrase, to start unattended; made if it is not there."
        ),
    ] = None,
    owner: Annotated[str, typer.Option(metavar="NAME", help="The account of the owner.")] = "owner",
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of mode 0600 with the owner's password.  [default: ask]")
    ] = None,
) -> None:
    """Make a server: its keys, its authorities, its owner, and the folder of its state."""
    from wardround.server.commands.making import make_server
    from wardround.server.commands.passphrase import made_key_file, password_from, secret_from
    from wardround.server.state.folder import STATE_FILE, StateSettings

    if (_path(state) / STATE_FILE).exists():
        raise LocalError(f"{_path(state)}: is the state of a server already; use it, or name another folder")
    try:
        settings = StateSettings(
            name=name,
            host=host,
            bind=bind,
            https_port=https_port,
            grpc_port=grpc_port,
            public_port=public_port,
            database=database,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if key_file is not None:
        made_key_file(key_file)
    secret = secret_from(passphrase_file, key_file, new=True)
    password = password_from(password_file, f"Password of {owner}", new=True)
    made = make_server(_path(state), settings, secret=secret, owner=owner, password=password)
    options = (("--state", state), ("--passphrase-file", passphrase_file), ("--key-file", key_file))
    chosen = "".join(f" {option} {path}" for option, path in options if path is not None)
    typer.echo(
        f"{name}: made in {made.folder.path}\n"
        f"key        {in_groups(made.key)}\n"
        f"authority  {in_groups(made.fingerprint)}\n"
        f"start      wardround server start{chosen}\n"
        f"log in     wardround login {made.url}#{made.fingerprint}"
    )


@server_app.command()
def start(state: State = None, passphrase_file: Passphrase = None, key_file: KeyFile = None) -> None:
    """Run the server until it is told to stop (Ctrl-C, SIGTERM); its log goes to standard error."""
    from wardround.server.commands.passphrase import secret_from
    from wardround.server.process import serve

    folder = _folder(state)
    serve(folder.path, secret_from(passphrase_file, key_file))


@server_app.command()
def invite(
    site: Annotated[str, typer.Argument(metavar="SITE", help='The name of the hospital, e.g. "Hospital A".')],
    as_json: Json = False,
) -> None:
    """Invite a hospital: prints one command for its IT, a secret that is good once and for 72 hours."""
    from wardround.server.commands.session import connect

    made = connect().ask("POST", "/invitations", {"site": site})
    if as_json:
        typer.echo(json.dumps(made))
    else:
        typer.echo(f"wardround client join '{made['invitation']}'")


@server_app.command()
def invitations(as_json: Json = False) -> None:
    """List the invitations, and what became of them."""
    from wardround.server.commands.listing import show_rows
    from wardround.server.commands.session import connect

    found = connect().ask("GET", "/invitations")
    show_rows(found, ("id", "site", "state", "created", "expires", "used_at"), as_json=as_json)


@server_app.command()
def withdraw(
    invitation: Annotated[str, typer.Argument(metavar="ID", help="As `server invitations` lists it.")],
) -> None:
    """Withdraw an invitation that was not used yet."""
    from wardround.server.commands.listing import path_part
    from wardround.server.commands.session import connect

    connect().ask("POST", f"/invitations/{path_part(invitation)}/withdraw")
    typer.echo("withdrawn")


@server_app.command()
def clients(as_json: Json = False) -> None:
    """List the sites that have joined: who is there, and until when their certificates are good."""
    from wardround.server.commands.listing import show_rows
    from wardround.server.commands.session import connect

    found = connect().ask("GET", "/clients")
    if not as_json:
        found = [{**one, "fingerprint": in_groups(one["fingerprint"])} for one in found]
    columns = ("name", "state", "present", "last_seen", "certificate_ends", "software", "fingerprint")
    show_rows(found, columns, as_json=as_json)


@server_app.command()
def revoke(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The name of the site.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the timeline keeps it.")] = "",
) -> None:
    """Let a site take part no more, from its next frame on. It comes back by a new invitation alone."""
    from wardround.server.commands.session import connect

    connect().ask("POST", "/clients/revoke", {"site": site, "reason": reason})
    typer.echo(f"{site}: revoked")


@server_app.command()
def status(as_json: Json = False) -> None:
    """Say what the server is doing."""
    from wardround.server.commands.session import connect

    found = connect().ask("GET", "/status")
    if as_json:
        typer.echo(json.dumps(found))
        return
    runs = ", ".join(f"{count} {state}" for state, count in sorted(found["runs"].items())) or "none"
    typer.echo(
        f"{found['name']}, wardround {found['version']}\n"
        f"key    {in_groups(found['fingerprint'])}\n"
        f"sites  {found['present']} of {found['sites']} attached\n"
        f"runs   {runs}"
    )


@server_app.command("metrics-token")
def metrics_token() -> None:
    """Make the token with which a Prometheus reads the metrics; the one before is void."""
    from wardround.server.commands.session import connect

    typer.echo(connect().ask("POST", "/metrics/token")["token"])


@server_app.command()
def password(
    owner: Annotated[str, typer.Option(metavar="NAME", help="The account.")] = "owner",
    state: State = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of mode 0600 with the new password.  [default: ask]")
    ] = None,
) -> None:
    """Give an account a new password, on the server's machine; every session of it ends."""
    from wardround.server.commands.making import set_password
    from wardround.server.commands.passphrase import password_from

    folder = _folder(state)
    set_password(folder, owner, password_from(password_file, f"New password of {owner}", new=True))
    typer.echo(f"{owner}: has a new password")


@server_app.command()
def backup(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    state: State = None,
    passphrase_file: Passphrase = None,
    key_file: KeyFile = None,
) -> None:
    """Write everything that the server keeps to one encrypted file, also while it runs."""
    from wardround.clock import utc_now
    from wardround.server.commands.passphrase import secret_from
    from wardround.server.state.backup import backup as write
    from wardround.server.state.database import Database
    from wardround.server.state.events import Events

    folder = _folder(state)
    secret = secret_from(passphrase_file, key_file)
    database = Database.open(folder.database_url)
    try:
        write(folder, database, out, secret)
        Events(database).add("server.backed_up", now=utc_now(), subject=folder.settings.name)
    finally:
        database.close()
    typer.echo(f"{out}: {out.stat().st_size} bytes; check it: wardround server restore --verify {out}")


@server_app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check the backup, and restore nothing.")] = False,
    state: State = None,
    database: Annotated[str | None, typer.Option(metavar="URL", help="Put the rows into this PostgreSQL.")] = None,
    passphrase_file: Passphrase = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Check a backup, and then put it in the place of the server's state, which is kept beside it."""
    from wardround.clock import utc_now
    from wardround.server.commands.passphrase import secret_from
    from wardround.server.state.restore import check_backup
    from wardround.server.state.restore import restore as put_back

    secret = secret_from(passphrase_file, key_file)
    if verify:
        found = check_backup(file, secret)
    else:
        found = put_back(file, _path(state), secret, now=utc_now(), database=database)
    rows = sum(found.rows.values())
    if as_json:
        typer.echo(json.dumps(_restored(found)))
    elif verify:
        typer.echo(f"{file}: a whole backup of {found.name} of {found.created}: {rows} rows, {found.files} files")
    else:
        typer.echo(f"{found.name}: restored as it was {found.created}: {rows} rows, {found.files} files")
        for number in found.paused:
            typer.echo(f"run {number} is paused: look at it, and then `wardround run resume {number}` or `stop`")
        for site in found.revoked:
            typer.echo(f"{site} stays revoked")
        if found.replaced is not None:
            typer.echo(f"what was there lies in {found.replaced}")


def _restored(found: "Restored") -> dict[str, object]:
    return {
        "name": found.name,
        "created": found.created,
        "version": found.version,
        "rows": found.rows,
        "files": found.files,
        "generation": found.generation,
        "paused": list(found.paused),
        "revoked": list(found.revoked),
        "replaced": None if found.replaced is None else str(found.replaced),
    }


def _path(state: Path | None) -> Path:
    from wardround.server.state.folder import default_state

    return default_state() if state is None else state


def _folder(state: Path | None) -> "StateFolder":
    from wardround.server.state.folder import StateFolder

    return StateFolder.open(_path(state))
