"""What the commands of `wardround client` share: their options, and the site they are about."""

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.errors import LocalError

if TYPE_CHECKING:
    from wardround.client.agent.site_folder import SiteFolder

__all__ = ["By", "Json", "RunArgument", "State", "place_of", "site_of", "user"]

State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="The site's folder.  [default: $WARDROUND_CLIENT_STATE or ~/.local/state/wardround/client]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who decides.  [default: your user name]")]
RunArgument = Annotated[str, typer.Argument(metavar="ID", help="The run, or the start of its id.")]


def place_of(state: Path | None) -> Path:
    """Where the site's folder is."""
    from wardround.client.agent.site_folder import default_folder

    return state or default_folder(os.environ)


def site_of(state: Path | None) -> "SiteFolder":
    """The site's folder. Raises LocalError where none has joined."""
    from wardround.client.agent.site_folder import SiteFolder

    return SiteFolder(place_of(state))


def user() -> str:
    """Who decides, where that is not said."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise LocalError("expected --by NAME, since the user of this process has no name") from None
