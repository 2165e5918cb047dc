"""The commands of private inference: `infer describe|keygen|encrypt|run|decrypt`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from wardround.durable_file import replace_file
from wardround.extras import require

if TYPE_CHECKING:
    from wardround.identity import Authority

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
infer_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Ask a model about rows that its owner never sees.",
)
app.add_typer(infer_app, name="infer")

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", exists=True, help="A released model (.wardmodel), or a run's directory.")
]
Root = Annotated[
    Path | None,
    typer.Option(metavar="CA", exists=True, dir_okay=False, help="Whom a released model is verified by: ca.pem."),
]
Unverified = Annotated[
    bool, typer.Option("--unverified", help="Use a released model without verifying it: it may be anybody's.")
]
Info = Annotated[
    Path,
    typer.Option("--model-info", metavar="FILE", exists=True, dir_okay=False, help="What `infer describe` wrote."),
]
Key = Annotated[Path, typer.Option("--key", metavar="FILE", help="The secret key.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A new file for it.")]


@infer_app.command()
def describe(model: Model, out: Out, root: Root = None, unverified: Unverified = False) -> None:
    """Write what an asker needs to know of a model: columns and statistics, no weights (the owner)."""
    authority = _authority(model, root, unverified)
    require("he")
    from wardround.simulations import private_inference

    info = private_inference.describe(model, out, authority=authority)
    typer.echo(
        f"wrote {out}: model {info.model[:12]}, CKKS {info.parameters}, an output is off by at most {info.error:.2g}",
        err=True,
    )


@infer_app.command()
def keygen(
    info: Info,
    key: Key,
    context: Annotated[Path, typer.Option(metavar="FILE", help="A new file for what the model's owner gets of it.")],
) -> None:
    """Make a secret key, and the context that the model's owner needs to compute (the asker)."""
    require("he")
    from wardround.simulations import private_inference

    name = private_inference.keygen(info, key, context)
    typer.echo(f"wrote {key}: keep it, and show it to nobody", err=True)
    typer.echo(f"wrote {context}: for the model's owner (key {name[:12]})", err=True)


@infer_app.command()
def encrypt(
    rows: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A CSV or Parquet file.")],
    info: Info,
    key: Key,
    out: Out,
) -> None:
    """Encrypt the rows of a file as a query (the asker)."""
    require("he")
    from wardround.simulations import private_inference

    count = private_inference.encrypt(info, key, rows, out)
    typer.echo(f"wrote {out}: {_rows(count)} encrypted; {rows} stays here", err=True)


@infer_app.command()
def run(
    model: Model,
    query: Annotated[Path, typer.Argument(metavar="QUERY", exists=True, dir_okay=False, help="The asker's query.")],
    context: Annotated[
        Path, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="The asker's context, without a key.")
    ],
    out: Out,
    max_rows: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Refuse a query that says it has more rows.")
    ] = None,
    root: Root = None,
    unverified: Unverified = False,
) -> None:
    """Compute the answer to a query, encrypted as the query is (the owner)."""
    authority = _authority(model, root, unverified)
    require("he")
    from wardround.simulations import private_inference

    count = private_inference.run(model, query, context, out, max_rows=max_rows, authority=authority)
    typer.echo(f"wrote {out}: an answer for {_rows(count)}, which only the asker can read", err=True)


@infer_app.command()
def decrypt(
    query: Annotated[Path, typer.Argument(metavar="QUERY", exists=True, dir_okay=False, help="Your query.")],
    answer: Annotated[Path, typer.Argument(metavar="ANSWER", exists=True, dir_okay=False, help="The answer to it.")],
    info: Info,
    key: Key,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the predictions (CSV) here, not to standard output.")
    ] = None,
) -> None:
    """Read an answer: class and probability of every row (the asker)."""
    if out is not None and any(out.exists() and out.samefile(path) for path in (query, answer, info, key)):
        raise click.UsageError(f"--out {out} is a file that is read")
    require("he")
    from wardround.simulations import private_inference

    text = private_inference.decrypt(info, key, query, answer).to_csv()
    if out is None:
        typer.echo(text, nl=False)
    else:
        replace_file(out, text.encode(), mode=0o600)  # the model's owner must not read it
        typer.echo(f"wrote {out}", err=True)
    typer.echo(
        "note: show these values to nobody who has the query or the model, its owner above all: they can give your key "
        "away",
        err=True,
    )


def _authority(model: Path, root: Path | None, unverified: bool) -> "Authority | None":
    if model.is_dir() and (root is not None or unverified):
        raise click.UsageError(f"{model} is a run of this machine: --root and --unverified are for .wardmodel")
    if model.is_file() and (root is not None) == unverified:
        raise click.UsageError("a released model is verified by --root CA, or else used with --unverified")
    if unverified:
        typer.echo(f"warning: {model} is NOT VERIFIED: nobody knows who made it, or of what", err=True)
    if root is None:
        return None
    from wardround.evidence_identity import read_authority

    return read_authority(root.read_bytes(), str(root))


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"
