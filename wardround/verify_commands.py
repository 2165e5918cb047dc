"""`wardround verify`: what an auditor checks offline, with the certificate of the federation's authority alone."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from wardround.errors import LocalError
from wardround.plain_text import plain_text

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
verify_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Check what a federation has signed, offline: audit logs, released models.",
)
app.add_typer(verify_app, name="verify")

Root = Annotated[
    Path,
    typer.Option(
        "--root",
        metavar="CA",
        help="The certificate of the identity authority, as `wardround server authority` writes it.",
    ),
]


@verify_app.command()
def audit(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="As `server audit export` or `client audit export`.")
    ],
    root: Root,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="BUNDLE", help="An older bundle, or a site's, whose heads have to fit. May be repeated."),
    ] = None,
) -> None:
    """Verify the bundle of an audit log; the first bad record is named, and the exit code is not 0."""
    from wardround.audit.bundle import verify_bundle
    from wardround.audit.words import bundle_lines
    from wardround.evidence_identity import read_authority

    try:
        authority = read_authority(root.read_bytes(), str(root))
        with ExitStack() as stack:
            file, *others = (stack.enter_context(one.open("rb")) for one in (bundle, *(against or ())))
            found = verify_bundle(file, authority, against=others)
    except OSError as error:
        raise LocalError(f"{error.filename}: cannot be read ({error.strerror})") from None
    for line in bundle_lines(found):
        typer.echo(line)


@verify_app.command()
def model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .wardmodel, as `model release` writes it.")],
    root: Root,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Verify a released model: what its signatures prove, and what is the server's word alone."""
    from wardround.evidence_identity import read_authority
    from wardround.release_check import check_release
    from wardround.released_model import ReleasedModel

    try:
        authority = read_authority(root.read_bytes(), str(root))
    except OSError as error:
        raise LocalError(f"{root}: cannot be read ({error.strerror})") from None
    with ReleasedModel(file) as released:
        found = check_release(released, authority)
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
        return
    typer.echo(f"{file}: {found.manifest.model}, whole and signed")
    typer.echo("proven by signatures, as far as the authority knows whose the keys are:")
    for line in found.proven():
        typer.echo(f"  {line}")
    for site in found.missing:
        typer.echo(f"  not co-signed by {plain_text(site)}")
    typer.echo("the server's word alone:")
    for line in found.claimed():
        typer.echo(f"  {line}")
