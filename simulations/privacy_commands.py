"""The commands on a plan's differential privacy: `privacy epsilon`, `privacy calibrate`, `privacy explain`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_commands import PlanArgument, SetOption
from wardround.plan_privacy import Mechanism, Unit
from wardround.plan_sections import PYTHON_SOURCES
from wardround.plan_source import find_plan

if TYPE_CHECKING:
    from wardround.orders import SiteId
    from wardround.strategies.privacy.claim import Claim
    from wardround.strategies.privacy.terms import Terms

__all__ = ["NO_PRIVACY", "FoundClaim", "app", "find_claim", "num_parameters"]

app = typer.Typer(rich_markup_mode=None)
privacy_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="What a plan claims of differential privacy, and the noise that a claim takes.",
)
app.add_typer(privacy_app, name="privacy")

Units = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Rows or patients that a site trains on.  [default: those of the plan's data]"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
_MOST_SITES = 20
NO_PRIVACY = (
    "no differential privacy: nothing bounds what the model gives away of a patient or a hospital (privacy.unit)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundClaim:
    """A plan's claim (of every site), each site's own, and the terms of the site with the largest epsilon.

    `terms` is None where the sites' numbers of units are not known: then the plan's epsilon is all that can be said.
    """

    plan: Plan
    claim: "Claim"
    claims: "Sequence[Claim]"
    terms: "Terms | None"


@privacy_app.command()
def epsilon(
    plan: PlanArgument,
    units: Units = None,
    settings: SetOption = None,
    rounds: Annotated[int | None, typer.Option(metavar="R", help="Short for --set rounds=R.")] = None,
    as_json: AsJson = False,
) -> None:
    """Epsilon of a plan over its rounds."""
    found = find_claim(_private(plan, settings, *(() if rounds is None else (f"rounds={rounds}",))), units)
    if found.terms is None:
        raise LocalError(f"expected --units N, the {found.plan.privacy.unit.value}s that a site trains on")
    if as_json:
        typer.echo(json.dumps(_table(found)))
        return
    _show_claim(found.claim)
    _show_curve(found.terms, found.claims)


@privacy_app.command()
def calibrate(
    plan: PlanArgument,
    target: Annotated[float, typer.Option("--epsilon", metavar="E", help="The claim to meet.")],
    delta: Annotated[float | None, typer.Option(metavar="D", help="Short for --set privacy.delta=D.")] = None,
    units: Units = None,
    settings: SetOption = None,
    as_json: AsJson = False,
) -> None:
    """The noise that a plan needs to claim an epsilon."""
    wanted = [f"privacy.epsilon={target!r}", "privacy.noise_multiplier="]
    wanted += [] if delta is None else [f"privacy.delta={delta!r}"]
    found = find_claim(_private(plan, settings, *wanted), units)
    if found.terms is None:
        raise LocalError(f"expected --units N, the {found.plan.privacy.unit.value}s that a site trains on")
    if as_json:
        typer.echo(json.dumps({"claim": found.claim.to_json(), "sites": [one.to_json() for one in found.claims]}))
        return
    _show_claim(found.claim)
    for one in found.claims:
        where = f"{one.site}: " if one.site else ""
        typer.echo(f"{where}noise_multiplier {one.noise_multiplier:.6g}  ({one.headline()}; {one.accountant})")


@privacy_app.command()
def explain(plan: PlanArgument, units: Units = None, settings: SetOption = None, as_json: AsJson = False) -> None:
    """The whole claim of a plan in words.

    With epsilon over its rounds, and each site's own claim where its data can be read here.
    """
    chosen = find_plan(plan).override(settings or ())
    if not chosen.privacy.on:
        typer.echo(json.dumps({"claim": None}) if as_json else NO_PRIVACY)
        return
    found = find_claim(chosen, units, parameters=num_parameters(chosen) if chosen.privacy.per_client else None)
    if as_json:
        typer.echo(json.dumps(_table(found)))
        return
    typer.echo(found.claim.words())
    if len(found.claims) > 1:
        _show_sites(found.claims)
    if found.terms is not None:
        _show_curve(found.terms, found.claims)


def _private(source: str, settings: list[str] | None, *more: str) -> Plan:
    plan = find_plan(source).override([*(settings or ()), *more])
    if not plan.privacy.on:
        raise PlanError("privacy.unit", '"row", "patient" or "client"', plan.privacy.unit.value, f"; {NO_PRIVACY}")
    return plan


def find_claim(plan: Plan, given: int | None, parameters: int | None = None) -> FoundClaim:
    """The claim of a plan with privacy; `given` units at each site, or else as many as its data have.

    Raises LocalError where neither is known and the claim depends on it.
    """
    from wardround.strategies.privacy.claim import claims_of, worst
    from wardround.strategies.privacy.terms import client_terms, site_terms

    units = _units(plan, given)
    if parameters is None and plan.privacy.mechanism is Mechanism.SKELLAM:  # whose noise depends on it
        parameters = num_parameters(plan)
    if plan.privacy.per_example and units is None and plan.privacy.epsilon is None:
        raise LocalError(f"expected --units N, the {plan.privacy.unit.value}s that a site trains on")
    claims = claims_of(plan, units, num_parameters=parameters)
    largest = max(claims, key=lambda claim: claim.epsilon)
    terms = None
    if plan.privacy.per_client:
        terms = client_terms(plan, parameters)
    elif largest.population is not None:
        terms = site_terms(plan, largest.population)
    return FoundClaim(plan=plan, claim=worst(plan, claims), claims=claims, terms=terms)


def _units(plan: Plan, given: int | None) -> "Mapping[SiteId, int] | None":
    """How many units each site trains on: as given, or counted in the plan's data; None where neither is possible."""
    if plan.privacy.per_client:
        if given is not None:
            raise click.UsageError('--units is for plans that hide rows or patients, not for unit = "client"')
        return None
    from wardround.orders import SiteId

    if given is not None:
        return {SiteId(""): given}
    if plan.data.source in PYTHON_SOURCES:
        return None
    from wardround.simulations.federation import build_federation

    try:
        sites = build_federation(plan)
    except LocalError as error:
        raise LocalError(f"{error}; --units N does without the data") from None
    by_patient = plan.privacy.unit is Unit.PATIENT
    return {
        one.site: len(one.train) if not by_patient or one.patients is None else int(one.patients.max()) + 1
        for one in sites
    }


def num_parameters(plan: Plan) -> int | None:
    """The number of parameters of the plan's model; None where it cannot be made here."""
    if plan.data.source in PYTHON_SOURCES or find_spec("torch") is None:
        return None
    from wardround.client.trainer.bundle import load_task
    from wardround.client.trainer.flat_model import layout_of

    return layout_of(load_task(plan), plan).num_parameters


def _curve(terms: "Terms") -> list[tuple[int, float]]:
    """(rounds, epsilon) at 1, 2, 5, 10, 20, 50, ... rounds and at the last."""
    steps = (digit * 10**power for power in range(len(str(terms.rounds))) for digit in (1, 2, 5))
    return [(n, terms.spent(n).epsilon) for n in (*(n for n in steps if n < terms.rounds), terms.rounds)]


def _table(found: FoundClaim) -> dict[str, Any]:
    return {
        "claim": found.claim.to_json(),
        "sites": [one.to_json() for one in found.claims] if found.plan.privacy.per_example else [],
        "rounds": [] if found.terms is None else [{"rounds": n, "epsilon": value} for n, value in _curve(found.terms)],
    }


def _show_claim(claim: "Claim") -> None:
    """The headline, and what it cannot do without; `explain` shows all of it."""
    typer.echo(claim.headline())
    for what, said in claim.facts():
        if what in ("against", "sampling"):
            typer.echo(f"  {what:10}{said}")
    for warning in claim.warnings:
        typer.echo(f"  {'warning':10}{warning}")


def _show_curve(terms: "Terms", claims: "Sequence[Claim]") -> None:
    from wardround.strategies.privacy.claim import rounded_up

    largest = max(claims, key=lambda claim: claim.epsilon)
    where = f" at {largest.site}, where it is largest" if len(claims) > 1 else ""
    head = f"epsilon after so many rounds{where}, at delta {rounded_up(terms.delta)}"
    typer.echo(f"\n{head} for every {terms.unit.value} ({terms.relation.value}):")
    for rounds, value in _curve(terms):
        typer.echo(f"{rounds:8}  {rounded_up(value)}")


def _show_sites(claims: "Sequence[Claim]") -> None:
    typer.echo("\nAt each site:")
    ordered = sorted(claims, key=lambda claim: -claim.epsilon)
    for one in ordered[:_MOST_SITES]:
        noise = f"{one.population} {one.unit.value}s, noise_multiplier {one.noise_multiplier:.4g}"
        typer.echo(f"- {one.site}: {one.headline()}; {noise}")
    if len(ordered) > _MOST_SITES:
        typer.echo(f"- {len(ordered) - _MOST_SITES} more, none with a larger epsilon")
