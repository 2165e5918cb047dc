"""`wardround secagg`: what a federation's secure aggregation tolerates, and what it costs."""

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.errors import LocalError
from wardround.strategies.secagg.parameters import STARTS, Tables

if TYPE_CHECKING:
    from wardround.strategies.secagg.parameters import Parameters

__all__ = ["app", "table_of"]

app = typer.Typer(rich_markup_mode=None)
secagg_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="What secure aggregation tolerates and costs, or which choice is the nearest possible.",
)
app.add_typer(secagg_app, name="secagg")


@secagg_app.command()
def plan(
    clients: Annotated[int, typer.Option(metavar="N", help="Clients of the federation.")],
    colluding: Annotated[int, typer.Option(metavar="F", help="Clients of it that may help the server to spy.")],
    dropout: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of each group and committee that may be lost in a round.")
    ] = 0.0,
    groups: Annotated[int, typer.Option(metavar="M", help="Groups; the server learns the sum of each.")] = 1,
    min_roster: Annotated[
        int | None, typer.Option(metavar="N", help="Fewest clients that an epoch starts with.  [default: all]")
    ] = None,
    min_survivors: Annotated[
        int | None,
        typer.Option(metavar="N", help="Fewest updates in a sum.  [default: the most that tolerate the drop-outs]"),
    ] = None,
    tables: Annotated[
        Tables, typer.Option(help="Who puts clients into groups: the plan, or chance, once or in each round.")
    ] = Tables.ONCE,
    rounds: Annotated[
        int, typer.Option(metavar="N", help="Rounds of the run that draw groups, with --tables each-round.")
    ] = 0,
    starts: Annotated[int, typer.Option(metavar="N", help="Epochs of the run that may draw groups.")] = STARTS,
    size: Annotated[int, typer.Option(metavar="N", help="Parameters of the model, for the costs.")] = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what secure aggregation with these parameters tolerates and costs, or which ones near them are possible."""
    from wardround.strategies.secagg.parameter_choice import choose

    try:
        chosen = choose(
            clients=clients,
            colluding=colluding,
            dropout=dropout,
            groups=groups,
            min_roster=min_roster,
            min_survivors=min_survivors,
            tables=tables,
            starts=starts,
            regrouped_rounds=rounds,
        )
        typer.echo(json.dumps(table_of(chosen, size), ensure_ascii=False) if as_json else chosen.explain(size))
    except ValueError as error:
        raise LocalError(str(error).replace("regrouped_rounds:", "rounds:")) from None


def table_of(chosen: "Parameters", size: int) -> dict[str, Any]:
    """The parameters and what follows from them, for JSON; costs are of a model with `size` parameters."""
    group, committee = chosen.group_size, chosen.committee
    return {
        **dataclasses.asdict(chosen),
        "group": {
            "size": group,
            "colluders": chosen.colluders_in(group, chosen.clients),
            "known": chosen.known,
            "may_drop": group - chosen.min_survivors,
        },
        "committee": {
            **dataclasses.asdict(committee),
            "threshold": committee.threshold,
            "may_drop": committee.may_drop,
        },
        "noise_share": chosen.noise_share,
        "malicious": chosen.malicious_groups,
        "signatures": {
            "roster": chosen.signatures_needed(chosen.clients, drawing=False),
            "drawing": chosen.clients if chosen.drawn else None,
        },
        "costs": {"measured": False, "parameters": size, **dataclasses.asdict(chosen.costs(size))},
    }
