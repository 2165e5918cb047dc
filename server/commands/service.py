"""`wardround server service`: the server as a service of systemd."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.errors import LocalError

if TYPE_CHECKING:
    from wardround.systemd_unit import Unit

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
service_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The server as a service of systemd.")
app.add_typer(service_app, name="service")

State = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The server's state.  [default: $WARDROUND_SERVER_STATE, or in your home]"),
]
KeyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="The file that opens its keys.")]
Passphrase = Annotated[Path | None, typer.Option(metavar="FILE", help="Or a file with the passphrase.")]
User = Annotated[bool, typer.Option("--user", help="A service of your own user, not of the system.")]


@service_app.command()
def show(state: State = None, key_file: KeyFile = None, passphrase_file: Passphrase = None, user: User = False) -> None:
    """Print the unit, with the reason of each line; nothing is written."""
    typer.echo(_unit(state, key_file, passphrase_file, user).text(), nl=False)


@service_app.command()
def install(
    state: State = None, key_file: KeyFile = None, passphrase_file: Passphrase = None, user: User = False
) -> None:
    """Write the unit (as root, or with --user), and say what starts it."""
    import os

    from wardround.systemd_unit import systemctl, unit_folder

    unit = _unit(state, key_file, passphrase_file, user)
    path = unit.install(unit_folder(user, os.environ))
    typer.echo(f"wrote {path}; start it now and at every boot with:")
    typer.echo(f"  {systemctl(user)} daemon-reload")
    typer.echo(f"  {systemctl(user)} enable --now {unit.file_name}")
    if user:
        typer.echo("and to let it run when you are not logged in: loginctl enable-linger")


@service_app.command()
def uninstall(user: User = False) -> None:
    """Remove the unit; the server's state stays."""
    import os

    from wardround.server.service_unit import MADE_BY, NAME
    from wardround.systemd_unit import systemctl, unit_folder
    from wardround.systemd_unit import uninstall as remove

    path = remove(NAME, MADE_BY, unit_folder(user, os.environ), user=user)
    typer.echo(f"removed {path}; next: {systemctl(user)} daemon-reload")


def _unit(state: Path | None, key_file: Path | None, passphrase_file: Path | None, user: bool) -> "Unit":
    from wardround.server.service_unit import server_unit
    from wardround.server.state.folder import STATE_FILE, default_state

    secrets = [
        (name, file.absolute())
        for name, file in (("--key-file", key_file), ("--passphrase-file", passphrase_file))
        if file is not None
    ]
    if len(secrets) != 1:
        raise LocalError("expected --key-file FILE or --passphrase-file FILE: nobody is there to be asked at a boot")
    place = (default_state() if state is None else state).absolute()
    if not (place / STATE_FILE).exists():
        raise LocalError(f"{place}: expected the state of a server, got none; make it: wardround server init")
    return server_unit(place, secrets[0], user=user)
