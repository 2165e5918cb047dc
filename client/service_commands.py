"""`wardround client service`: the agent as a service of systemd."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.command_line import State, place_of
from wardround.errors import LocalError

if TYPE_CHECKING:
    from wardround.systemd_unit import Unit

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
service_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The agent as a service of systemd.")
app.add_typer(service_app, name="service")

User = Annotated[bool, typer.Option("--user", help="A service of your own user, not of the system.")]
Writable = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="Another folder that it writes, say of an anchor; may be repeated."),
]
Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- OPTION ...]", help="Options of `client start`, after --.", show_default=False),
]


@service_app.command()
def show(options: Options = None, state: State = None, user: User = False, writable: Writable = None) -> None:
    """Print the unit, with the reason of each line; nothing is written."""
    typer.echo(_unit(state, options, user, writable).text(), nl=False)


@service_app.command()
def install(options: Options = None, state: State = None, user: User = False, writable: Writable = None) -> None:
    """Write the unit (as root, or with --user), and say what starts it."""
    import os

    from wardround.systemd_unit import systemctl, unit_folder

    unit = _unit(state, options, user, writable)
    path = unit.install(unit_folder(user, os.environ))
    typer.echo(f"wrote {path}; start it now and at every boot with:")
    typer.echo(f"  {systemctl(user)} daemon-reload")
    typer.echo(f"  {systemctl(user)} enable --now {unit.file_name}")
    if user:
        typer.echo("and to let it run when you are not logged in: loginctl enable-linger")


@service_app.command()
def uninstall(user: User = False) -> None:
    """Remove the unit; the site's folder stays."""
    import os

    from wardround.client.service_unit import MADE_BY, NAME
    from wardround.systemd_unit import systemctl, unit_folder
    from wardround.systemd_unit import uninstall as remove

    path = remove(NAME, MADE_BY, unit_folder(user, os.environ), user=user)
    typer.echo(f"removed {path}; next: {systemctl(user)} daemon-reload")


def _unit(state: Path | None, options: list[str] | None, user: bool, writable: list[Path] | None) -> "Unit":
    from wardround.client.commands import client_app
    from wardround.client.service_unit import agent_unit

    place = place_of(state).absolute()
    start = typer.main.get_group(client_app).commands["start"]
    start.make_context("start", ["--state", str(place), *(options or ())])  # refuses what it does not know
    if not (place / "site.json").exists():
        raise LocalError(f"{place}: expected a site that has joined; run: wardround client join 'URL#TOKEN'")
    return agent_unit(place, options or (), user=user, writable=[one.absolute() for one in writable or ()])
