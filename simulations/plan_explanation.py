"""`wardround plan explain`: what the server learns, what privacy rests on, who may be bad, and the whole claim."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_commands import PlanArgument, SetOption
from wardround.plan_privacy import Disclosure, Mechanism
from wardround.plan_robust import AUTO, OFF
from wardround.plan_sections import Standardize, Weighting
from wardround.plan_simulation import Cryptography
from wardround.plan_source import find_plan
from wardround.simulations.privacy_commands import NO_PRIVACY, find_claim, num_parameters

if TYPE_CHECKING:
    from wardround.strategies.privacy.claim import Claim

__all__ = ["app", "facts"]

app = typer.Typer(rich_markup_mode=None)

_SIZE = 1_000_000
"""Parameters that costs are told for where the model's are not known."""


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


def facts(plan: Plan, size: int | None) -> Iterator[tuple[str, str]]:
    """(what, in words) of a plan's protection; `size`: parameters of its model, where that is known."""
    if plan.protection.on:
        from wardround.strategies.secagg.plan_terms import parameters_of

        if plan.simulation.cryptography is Cryptography.ACCOUNTING:
            yield (
                "simulation",
                "no cryptography runs in it (simulation.cryptography): what follows is of a deployed plan",
            )
        for line in parameters_of(plan).explain(size or _SIZE).splitlines():
            what, said = line[:12].strip(), line[12:]
            if what == "noise" and plan.privacy.mechanism is not Mechanism.SKELLAM:
                continue
            if what == "costs" and size is None:
                said += "; the size of this plan's model is not known here"
            yield what, _malicious(plan) if what == "malicious" else said
        yield (
            "rests on",
            "keys and approval: each site accepts the others' signing keys itself, so that the server can invent no "
            "member, and approves this plan's digest; not stopped is a server that sends all the same malicious model",
        )
    else:
        noise = " Each carries the noise that its site added." if plan.privacy.per_example else ""
        yield "server", f'sees every update of every site in the clear (protection.mode = "off").{noise}'
        yield "rests on", f"the server alone: nobody needs to collude. {_trust(plan)}"
        yield "drop-outs", _drop_outs(plan)
        yield "malicious", _malicious(plan)
    yield "besides", _besides(plan)


def _trust(plan: Plan) -> str:
    if plan.privacy.per_client:
        return "It is trusted to add the noise and to show nobody the updates."
    if plan.privacy.per_example:
        return "Differential privacy bounds what it learns of single rows, whatever it does."
    return "An update can give away much of the rows behind it."


def _drop_outs(plan: Plan) -> str:
    from wardround.strategies.composition import least_replies

    if plan.privacy.per_client:
        return f"any of the {plan.cohort_size} sites of a round: what is missing counts as zero"
    return f"a round needs {least_replies(plan)} updates of {plan.cohort_size}"


def _malicious(plan: Plan) -> str:
    robust, masked = plan.robust, plan.protection.on
    if robust.rule in (OFF, "mean"):
        clip = plan.privacy.clip_norm if plan.privacy.per_client else plan.clipping.clip_norm
        held = "as far as it likes"
        if clip is not None and not masked:
            held = f"by its share of {clip:g} in length"
        return f"none is tolerated: a mean takes everybody's word, and one that lies moves it {held}"
    rule = "a rule that trials choose" if robust.rule == AUTO else "+".join((*robust.pre, robust.rule))
    if not masked:
        return f"{robust.num_byzantine} of {plan.cohort_size} sites in a round ({rule}), no more"
    return (
        f"{robust.num_byzantine} of the {plan.contributions} group means may be bad ({rule}), no more: that is one "
        "malicious site per bad group, however many sites there are; what a client sends is not checked"
    )


def _besides(plan: Plan) -> str:
    of = "each group" if plan.protection.on else "each site"
    told, masked = ["who took part and who did not"], plan.protection.on
    counted = not plan.privacy.on and not (masked and plan.task.flower_app is not None)
    if counted or (plan.privacy.per_example and not masked):
        told.append(f"how many training rows {of} has")
    if masked and plan.weighting is Weighting.CAPPED:
        told.append(f"the weight of {of}")
    if counted:
        told.append(f"the summed training loss of {of}")
    if plan.data.standardize is Standardize.FEDERATED:
        noisy = ", with noise" if plan.privacy.on else ""
        told.append(f"sums of each number column and of its squares of {of}, once{noisy}")
    if plan.evaluation.every and (not plan.privacy.on or plan.privacy.evaluation is Disclosure.CLEAR):
        outside = ", outside the claim" if plan.privacy.on else ""
        told.append(f"counts and scores on the held-out rows of {of}{outside}")
    return f"the server learns {', '.join(told)}"


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

        table["parameters"] = table_of(parameters_of(plan), size or _SIZE)
    return table
