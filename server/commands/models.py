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

Model = Annotated[str, typer.Argument(metavar="NAME@N", help="A version of a model; without @N its current one.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line instead of text.")]
_COLUMNS = ("name", "version", "run", "created", "size_bytes", "current", "parents", "released")


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
    show_rows(found, (*_COLUMNS, "sealed", "plan", "sha256"), as_json=as_json)


@model_app.command()
def export(
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A new file.  [default: NAME-N.safetensors, NAME-N.sealed of a sealed one]",
        ),
    ] = None,
) -> None:
    """Fetch a model, as a safetensors file. It is not signed, and nothing about it is in it; see `model release`.

    A model that is sealed to its run's members comes as it is: one of them opens it.
    """
    from wardround.server.commands.session import connect

    client = connect()
    found = _version(client, model)
    kind = "sealed" if found["sealed"] else "safetensors"
    path = out or Path(f"{file_stem(found['name'])}-{found['version']}.{kind}")
    client.download(
        "/models/file",
        path,
        sha256=found["sha256"],
        size=found["size_bytes"],
        name=found["name"],
        version=found["version"],
    )
    typer.echo(f"{path}: {found['name']}@{found['version']}, {found['size_bytes']} bytes, sha256 {found['sha256']}")
    if found["sealed"]:
        typer.echo(f"sealed to its run's members; one of them opens it: wardround client model open {path} --out FILE")


@model_app.command()
def release(
    model: Model,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="A new file.  [default: NAME-N.wardmodel]")
    ] = None,
    redteam: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            exists=True,
            dir_okay=False,
            help="Results of `wardround redteam` that go along (redteam.json).",
        ),
    ] = None,
) -> None:
    """Let the server sign a model with its plan, approvals, co-signatures and claims, and fetch that file."""
    from wardround.server.commands.session import connect

    client = connect()
    found = _version(client, model)
    body = {"name": found["name"], "version": found["version"]}
    made = client.ask("POST", "/models/release", body | {"redteam": None if redteam is None else _json(redteam)})
    path = out or Path(f"{file_stem(found['name'])}-{found['version']}.wardmodel")
    client.download("/models/released", path, sha256=made["sha256"], size=made["size_bytes"], **body)
    typer.echo(f"{path}: {made['name']}@{made['version']}, {made['size_bytes']} bytes, sha256 {made['sha256']}")
    typer.echo(f"co-signed by {', '.join(made['cosigned']) or 'nobody yet'}")
    if made["missing"]:
        typer.echo(f"not co-signed by {', '.join(made['missing'])}; release it again once they have")
    typer.echo(f"check it: wardround verify model {path} --root ca.pem")


@model_app.command()
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model.")],
    to: Annotated[
        int, typer.Option("--to", metavar="N", min=1, help="Its version that is the current one from now on.")
    ],
) -> None:
    """Let another version be the current one: it is meant where no version is named. Nothing is deleted."""
    from wardround.server.commands.session import connect

    client = connect()
    before = _version(client, name)
    client.ask("POST", "/models/current", {"name": name, "version": to})
    typer.echo(f"{name}@{to} is the current version; before it was {name}@{before['version']}")


def file_stem(name: str) -> str:
    """A name as the beginning of a file's name."""
    import re

    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def _json(path: Path) -> str:
    """The JSON in a file, without what only a person needs."""
    import json

    try:
        return json.dumps(json.loads(path.read_bytes()), separators=(",", ":"))
    except (OSError, ValueError, RecursionError):
        raise LocalError(f"{path}: expected a readable file of JSON") from None


def _version(client: "ApiClient", text: str) -> dict[str, Any]:
    """The one version that `NAME@N` means, or the current one of `NAME`."""
    found = _versions(client, text)
    return found[0] if len(found) == 1 else next(one for one in found if one["current"])


def _versions(client: "ApiClient", text: str) -> list[dict[str, Any]]:
    """The versions that `NAME` or `NAME@N` means. LocalError where there is none."""
    name, at, number = text.rpartition("@")
    if not at or not number.isascii() or not number.isdigit():
        name, number = text, ""
    found = [one for one in client.ask("GET", "/models", name=name) if number in ("", str(one["version"]))]
    if not found:
        raise LocalError(f"there is no model {text}; `wardround model list` shows them")
    return found
