"""`wardround model`: the models that a server's runs have made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.errors import LocalError

if TYPE_CHECKING:
    from wardround.server.commands.api_client import ApiClient

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
model_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The models that a server's runs have made.")
app.add_typer(model_app, name="model")

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line instead of text.")]
_COLUMNS = ("name", "version", "run", "created", "size_bytes")


@model_app.command("list")
def list_models(as_json: Json = False) -> None:
    """List every model."""
    from wardround.server.commands.listing import show_rows
    from wardround.server.commands.session import connect

    show_rows(connect().ask("GET", "/models"), _COLUMNS, as_json=as_json)


@model_app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model, or NAME@N for one version of it.")],
    as_json: Json = False,
) -> None:
    """Show a model's versions: which run made each, from which plan, and the digest of its file."""
    from wardround.server.commands.listing import show_rows
    from wardround.server.commands.session import connect

    found = _versions(connect(), name)
    show_rows(found, (*_COLUMNS, "plan", "sha256"), as_json=as_json)


@model_app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="NAME@N", help="A version of a model; without @N its newest.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="A new file.  [default: NAME-N.safetensors]")
    ] = None,
) -> None:
    """Fetch a model, as a safetensors file. It is not signed, and its privacy is not checked here."""
    from wardround.server.commands.session import connect

    client = connect()
    found = _versions(client, model)[-1]
    path = out or Path(f"{file_stem(found['name'])}-{found['version']}.safetensors")
    client.download(
        "/models/file",
        path,
        sha256=found["sha256"],
        size=found["size_bytes"],
        name=found["name"],
        version=found["version"],
    )
    typer.echo(f"{path}: {found['name']}@{found['version']}, {found['size_bytes']} bytes, sha256 {found['sha256']}")


def file_stem(name: str) -> str:
    """A name as the beginning of a file's name."""
    import re

    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def _versions(client: "ApiClient", text: str) -> list[dict[str, Any]]:
    """The versions that `NAME` or `NAME@N` means. LocalError where there is none."""
    name, at, number = text.rpartition("@")
    if not at or not number.isascii() or not number.isdigit():
        name, number = text, ""
    found = [one for one in client.ask("GET", "/models", name=name) if number in ("", str(one["version"]))]
    if not found:
        raise LocalError(f"there is no model {text}; `wardround model list` shows them")
    return found
