"""What must hold before a site approves a run; all of it is looked up, none of it decided here."""

from collections.abc import Mapping, Sequence

from wardround.client.agent.data_registry import DataSet
from wardround.client.agent.plan_store import StoredOffer
from wardround.client.agent.schema_fit import check_fit
from wardround.errors import LocalError
from wardround.extras import require
from wardround.plain_text import plain_text
from wardround.plan import Plan
from wardround.registry import nearest

__all__ = ["check_approval", "missing_columns", "unpinned"]


def check_approval(
    plan: Plan,
    offer: StoredOffer,
    data: DataSet,
    *,
    site: str,
    fingerprint: str,
    pinned: Mapping[str, str],
    has_ledger: bool,
    unprotected: bool,
) -> None:
    """Raise LocalError where `site`, whose key has `fingerprint`, cannot take part in `plan` with `data`.

    `pinned`: name to fingerprint of the members whose keys were accepted. `unprotected`: the administrator knows that a
    run without privacy uses up the budget of its data for ever.
    """
    named = {one.name: one.fingerprint for one in offer.sites}
    if named.get(site) != fingerprint:
        raise LocalError(
            f"run {offer.run}: expected this site and its key among the run's sites, got "
            f"{'another key' if site in named else 'a run without it'}; ask the coordinator"
        )
    if len(named) != plan.simulation.sites:
        raise LocalError(
            f"run {offer.run}: expected the {plan.simulation.sites} sites that the plan's claims are for "
            f"(simulation.sites), got {len(named)}; ask the coordinator"
        )
    schema = data.parsed_schema()
    if schema is not None:
        check_fit(plan.data, schema, data.name, unit=plan.privacy.unit)
    if plan.task.flower_app is None and not plan.data.columns and data.format != "images":
        raise LocalError(f"plan {plain_text(plan.name)}: expected data.columns, since these data are a table")
    for column in missing_columns(plan, data.columns):
        raise LocalError(
            f"data {data.name}: expected a column {column!r}, which the plan needs"
            f"{nearest(column, data.columns, listing=False)}"
        )
    if plan.protection.homomorphic:
        require("he")
    if plan.protection.on:
        if missing := unpinned(offer, site, pinned):
            raise LocalError(
                f"run {offer.run}: expected every member's key to be accepted, got none or another of "
                f"{', '.join(missing)}; compare fingerprints by telephone, then: wardround client members accept"
            )
    if plan.privacy.on and not has_ledger:
        raise LocalError(
            f"data {data.name}: expected a budget, since the plan has differential privacy; set one for ever: "
            "wardround client data add FILE --name NAME --max-epsilon E --delta D"
        )
    if not plan.privacy.on and has_ledger and not unprotected:
        raise LocalError(
            f"data {data.name}: has a privacy budget, and this plan has no differential privacy: afterwards epsilon is "
            "infinite for ever and no plan with privacy fits any more; --unprotected if that is wanted"
        )


def missing_columns(plan: Plan, columns: Sequence[str]) -> list[str]:
    """The columns that the plan needs and a table does not have, in the plan's order."""
    wanted = [column.name for column in plan.data.columns]
    wanted += [plan.data.target.name] if plan.data.target is not None else []
    wanted += [plan.data.patient] if plan.data.patient is not None else []
    return [name for name in dict.fromkeys(wanted) if name not in columns]


def unpinned(offer: StoredOffer, site: str, pinned: Mapping[str, str]) -> list[str]:
    """The other members whose keys are not accepted, or are others than the offer says."""
    return [one.name for one in offer.sites if one.name != site and pinned.get(one.name) != one.fingerprint]
