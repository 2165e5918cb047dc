"""`wardround client model`: released models that the server keeps only as files that members open."""

import hashlib
import os
from pathlib import Path
from typing import Annotated

import typer

from wardround.client.command_line import State, site_of
from wardround.durable_file import TEMPORARY, sync_folder, write_all
from wardround.errors import LocalError, RemoteError

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
model_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="The released models that were sealed to this site."
)
app.add_typer(model_app, name="model")


@model_app.callback()
def models() -> None:
    """The released models that were sealed to this site."""


@model_app.command("open")
def open_model(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A .sealed, as `model export` writes it."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A new file for the model, safetensors.")],
    state: State = None,
) -> None:
    """Open a model that the server has sealed to the members of its run, with the key that this site kept."""
    from wardround.client.agent.archive_keys import archive_key
    from wardround.client.agent.plan_store import PlanStore
    from wardround.client.agent.site_log import note
    from wardround.released_model import model_facts
    from wardround.strategies.he.sealed_model import read_sealed

    folder, data = site_of(state), _read(file)
    if os.path.lexists(out):
        raise LocalError(f"{out}: is there already; name another file with --out")
    digest = hashlib.sha256(data).hexdigest()
    try:
        sealed = read_sealed(data)
        key, plans = archive_key(folder, sealed), PlanStore(folder)
        outcome = plans.outcome(sealed.run)
        told = outcome.model if outcome is not None else ""
        if told not in ("", digest):  # anybody who knows the public key can seal: only the digest says whose file it is
            raise RemoteError(
                f"expected the file that the server named when the run ended (SHA-256 {told[:16]}...), got {len(data)} "
                f"bytes of {digest[:16]}...; it was cut or changed, or is another: fetch it again"
            )
        model = key.open(sealed)
        facts = model_facts(lambda at, size: model[at : at + size], len(model))
        plan_digest = plans.offer(sealed.run).plan_digest
        if (facts.get("run_id"), facts.get("plan_digest")) != (sealed.run, plan_digest):
            raise RemoteError(
                "expected the model of this run and its plan in it, got one of another; ask the coordinator"
            )
    except (LocalError, RemoteError) as error:
        raise type(error)(f"{file}: {error}") from None
    opened = hashlib.sha256(model).hexdigest()
    note(folder, "model.opened", sealed.run, epoch=sealed.epoch, sealed=digest, model=opened)
    _write_new(out, model)
    typer.echo(
        f"{out}: the model of run {sealed.run} after round {facts.get('round')}, {len(model)} bytes, sha256 {opened}"
    )
    if not told:
        typer.echo(
            "warning: the server has not told this site yet that the run ended with this file; whoever knows the "
            "members' public key could have made it",
            err=True,
        )
    typer.echo(f"apply it: wardround predict {out} ROWS.csv --plan {folder.path / 'plans' / sealed.run / 'plan.toml'}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None


def _write_new(path: Path, data: bytes) -> None:
    """Make the new file `path`, for its owner only: there whole and durably, or not at all."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.link(temporary, path)  # unlike a rename, replaces nothing
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileExistsError:
        raise LocalError(f"{path}: is there already; name another file with --out") from None
    except OSError as error:
        raise LocalError(f"{path}: cannot be written ({error.strerror}); there is no such file") from None
