"""`wardround secagg enrol`, `approve` and `show`: the folders of those who take part, and what is in them."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)


@app.command()
def enrol(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder; made here.")],
    sites: Annotated[int, typer.Option(metavar="N", help="Sites of the federation: site-0, site-1, ...")],
    rounds: Annotated[int, typer.Option(metavar="N", help="Training rounds of the plan.")],
    clip_norm: Annotated[float, typer.Option(metavar="C", help="Largest L2 norm of an update.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another key of the plan, e.g. protection.dropout=0.2."),
    ] = None,
) -> None:
    """Make the folders of a server and its sites on this machine, to try secure aggregation of a Flower app."""
    from wardround.client.guard.federation_folder import make_federation
    from wardround.strategies.secagg.flower_plan import flower_plan

    table = flower_plan(population=sites, rounds=rounds, clip_norm=clip_norm)
    plan = table.override(settings or ())
    _, made = make_federation(path, [f"site-{number}" for number in range(sites)], plan)
    typer.echo(f"plan {plan.digest}")
    for one in made:
        typer.echo(f"{path / one.site}  key {one.folder.fingerprint}")
    typer.echo(
        f"{path / 'server'}  for MaskingStrategy(..., identity=...)\n"
        "All keys were made here, so this hides nothing from who runs it. In earnest every hospital makes its own key "
        "on its own machine, and compares the others' fingerprints by telephone before it accepts them."
    )


@app.command()
def approve(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a site or of the server.")],
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan, TOML.")],
) -> None:
    """Take part in another plan, and in no other; what was agreed under the one before is of no more use."""
    from wardround.plan import load_plan
    from wardround.strategies.secagg.identity_folder import IdentityFolder

    folder, wanted = IdentityFolder(path), load_plan(plan)
    folder.approve(wanted)
    typer.echo(f"{folder.name}: plan {wanted.digest}")


@app.command()
def show(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a site or of the server.")],
) -> None:
    """Say whose folder this is: the fingerprint that others pin, and the digest of the plan that it approved."""
    from wardround.strategies.secagg.identity_folder import IdentityFolder

    folder = IdentityFolder(path)
    typer.echo(f"name  {folder.name}\nkey   {folder.fingerprint}\nplan  {folder.plan.digest}")
