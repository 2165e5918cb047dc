"""`wardround plan explain`: what the server learns, what privacy rests on, who may be bad, and the whole claim."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_commands import PlanArgument, SetOption
from wardround.plan_source import find_plan
from wardround.simulations.privacy_commands import NO_PRIVACY, find_claim, num_parameters
from wardround.strategies.plan_facts import ASSUMED_SIZE, facts

if TYPE_CHECKING:
    from wardround.strategies.privacy.claim import Claim

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)


@app.command()
def explain(
    plan: PlanArgument,
    settings: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what the server learns, what privacy rests on, and what is claimed.

    With how many sites may drop out, collude and be malicious, and what the protection costs.
    """
    chosen = find_plan(plan).override(settings or ())
    size = num_parameters(chosen)
    claim = _claim(chosen, size) if chosen.privacy.on else None
    if as_json:
        typer.echo(json.dumps(_table(chosen, size, claim), ensure_ascii=False))
        return
    typer.echo(f"{chosen.name}: digest {chosen.digest[:12]}, which every site approves\n")
    for what, said in facts(chosen, size):
        typer.echo(f"{what:12}{said}")
    if claim is not None:
        typer.echo(f"\n{claim.words()}")
    elif chosen.privacy.on:
        typer.echo(f"\n{_UNKNOWN}")
    else:
        typer.echo(f"\n{NO_PRIVACY}")


_UNKNOWN = "epsilon depends on the rows or patients of each site: `wardround privacy explain PLAN --units N` tells it"


def _claim(plan: Plan, size: int | None) -> "Claim | None":
    """The plan's claim, of every site; without reading the data where that is not possible here."""
    try:
        return find_claim(plan, None, size).claim
    except PlanError:
        raise
    except LocalError:
        if plan.privacy.epsilon is None:
            return None
        from wardround.strategies.privacy.claim import claims_of

        return claims_of(plan)[0]


def _table(plan: Plan, size: int | None, claim: "Claim | None") -> dict[str, Any]:
    table: dict[str, Any] = {"name": plan.name, "digest": plan.digest, "mode": plan.protection.mode.value}
    table |= {"facts": dict(facts(plan, size)), "claim": None if claim is None else claim.to_json(), "parameters": None}
    if plan.protection.on:
        from wardround.strategies.secagg.commands import table_of
        from wardround.strategies.secagg.plan_terms import parameters_of

        table["parameters"] = table_of(parameters_of(plan), size or ASSUMED_SIZE)
    return table
