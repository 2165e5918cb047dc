"""`wardround client plan`: what is offered, in words, and the decision on it."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.command_line import By, Json, RunArgument, State, site_of, user

if TYPE_CHECKING:
    from wardround.client.agent.plan_store import PlanStore
    from wardround.client.agent.site_folder import SiteFolder
    from wardround.plan import Plan

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
plan_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The plans that are offered.")
app.add_typer(plan_app, name="plan")

Code = Annotated[bool, typer.Option("--code", help="With the plan's code: what changed since the last approved one.")]


@plan_app.command("list")
def list_plans(state: State = None, as_json: Json = False) -> None:
    """List the runs that were offered, and how they stand."""
    from wardround.client.agent.plan_store import PlanStore
    from wardround.client.agent.run_standing import standing
    from wardround.clock import utc_now

    folder = site_of(state)
    plans, now = PlanStore(folder), utc_now()
    runs = {run: {"plan": plans.offer(run).plan_digest, "standing": standing(folder, run, now)} for run in plans.runs()}
    if as_json:
        typer.echo(json.dumps(runs, ensure_ascii=False))
        return
    for run, about in runs.items():
        typer.echo(f"{run[:12]}  plan {about['plan'][:12]}  {about['standing']}")
    if not runs:
        typer.echo("none was offered")


@plan_app.command("show")
def show_plan(
    run: RunArgument,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="The table to show it for.  [default: the approved or only one]")
    ] = None,
    code: Code = False,
    state: State = None,
) -> None:
    """Show what is offered: what would run on which columns, what is claimed, what the server would learn.

    With who takes part, how it stands to this site's policy, and every key of the plan.
    """
    from wardround.client.agent.code_changes import printable
    from wardround.client.agent.plan_store import PlanStore
    from wardround.client.agent.run_standing import standing
    from wardround.clock import utc_now
    from wardround.plain_text import plain_text
    from wardround.plan_commands import readable

    folder = site_of(state)
    plans = PlanStore(folder)
    found = plans.find(run)
    offer, plan = plans.offer(found), plans.plan(found)
    typer.echo(f"run {found}, offered {offer.received[:16]}: {standing(folder, found, utc_now())}")
    typer.echo(f"plan {plain_text(plan.name)}, digest {plan.digest}, {offer.size} parameters")
    for part in (_work, _claim, _learned, _policy, _members, _code):
        typer.echo("")
        for line in part(folder, plans, found, data):
            typer.echo(line)
    if code:
        _show_code(plans, found, plan)
    typer.echo("\nevery key of the plan, with * where it is not the default:\n")
    for line in readable(plan):
        typer.echo("\n" * line.startswith("\n") + printable(line.removeprefix("\n")))


@plan_app.command("diff")
def diff_plan(run: RunArgument, state: State = None) -> None:
    """Show what changed since the last approved plan of the same name: keys, and the code, line by line."""
    import difflib

    from wardround.client.agent.code_changes import printable
    from wardround.client.agent.plan_history import last_approved
    from wardround.client.agent.plan_store import PlanStore
    from wardround.plan_commands import readable

    plans = PlanStore(site_of(state))
    found = plans.find(run)
    plan = plans.plan(found)
    before = last_approved(plans, found, plan)
    if before is None:
        typer.echo("no plan of this name, and none with this code folder, was approved here before")
    else:
        old = plans.plan(before)
        typer.echo(f"compared with run {before}, plan {old.digest[:12]}, the last approved one")
        was, now = ([line.strip("\n") for line in readable(one)][1:] for one in (old, plan))
        changed = list(difflib.unified_diff(was, now, lineterm="", n=0))[2:]
        for line in changed:
            typer.echo(printable(line))
        if not changed:
            typer.echo("no key of the plan has changed")
    _show_code(plans, found, plan)


@plan_app.command("approve")
def approve_plan(
    run: RunArgument,
    data: Annotated[str, typer.Option(metavar="NAME", help="The registered table to train on.")],
    unprotected: Annotated[
        bool,
        typer.Option("--unprotected", help="Without differential privacy, on data whose budget that ends for ever."),
    ] = False,
    by: By = None,
    state: State = None,
) -> None:
    """Take part in one run of one plan with one table. Another run, or a changed plan, needs another approval."""
    from wardround.client.agent.approval import check_approval
    from wardround.client.agent.data_registry import DataRegistry
    from wardround.client.agent.member_pins import MemberPins
    from wardround.client.agent.plan_store import Decision, PlanStore, Verdict
    from wardround.client.agent.run_policy import RunPolicy
    from wardround.clock import utc_now
    from wardround.plain_text import plain_text

    folder = site_of(state)
    plans, registry = PlanStore(folder), DataRegistry(folder)
    found, table = plans.find(run), registry.find(data)
    plan, offer = plans.plan(found), plans.offer(found)
    RunPolicy(folder).check(plan, offer, table)
    table.check_unchanged()
    check_approval(
        plan,
        offer,
        table,
        site=folder.name,
        fingerprint=folder.fingerprint,
        pinned=MemberPins(folder).pinned(),
        has_ledger=registry.has_ledger(data),
        unprotected=unprotected,
    )
    decision = Decision(
        verdict=Verdict.APPROVED,
        plan_digest=plan.digest,
        by=by or user(),
        at=utc_now().isoformat(timespec="seconds"),
        data=table.name,
        data_digest=table.binding,
        unprotected=unprotected,
    )
    plans.decide(found, decision)
    typer.echo(f"run {found[:12]} is approved: plan {plain_text(plan.name)}, {plan.digest[:12]} with data {table.name}")
    if not folder.agent_runs():
        typer.echo("the agent does not run; it tells the server once it does (wardround client start)")


@plan_app.command("deny")
def deny_plan(
    run: RunArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="What the coordinator is told.")] = "",
    by: By = None,
    state: State = None,
) -> None:
    """Take no part in a run, or no longer."""
    from wardround.client.agent.plan_store import Decision, PlanStore, Verdict
    from wardround.clock import utc_now
    from wardround.plain_text import plain_text

    plans = PlanStore(site_of(state))
    found = plans.find(run)
    decision = Decision(
        verdict=Verdict.DENIED,
        plan_digest=plans.offer(found).plan_digest,
        by=by or user(),
        at=utc_now().isoformat(timespec="seconds"),
        reason=plain_text(reason),
    )
    plans.decide(found, decision)
    typer.echo(f"run {found[:12]} is denied")


# -- the parts of `show` --------------------------------------------------------------------------------


def _work(folder: "SiteFolder", plans: "PlanStore", run: str, data: str | None) -> Iterator[str]:
    from wardround.client.agent.plan_review import table_for
    from wardround.client.agent.plan_words import columns_of, rows_of, what_runs
    from wardround.client.agent.schema_fit import misfits
    from wardround.plain_text import plain_text

    plan, table = plans.plan(run), table_for(folder, run, data)
    yield f"runs        {plain_text(what_runs(plan), 500)}"
    schema = None if table is None else table.parsed_schema()
    where = "a table that is not chosen yet (--data NAME)" if table is None else f"{table.name}, {table.rows} rows"
    others = "and, if it likes, others, since it brings code of its own" if plan.task.code else "and no others"
    yield f"on          {where}, these columns {others}:"
    columns = [(plain_text(name), words) for name, words in columns_of(plan, None if table is None else table.columns)]
    width = max(len(name) for name, _ in columns)
    for name, words in columns:
        yield f"              {name:{width}}  {plain_text(words, 500)}"
    for reason in () if schema is None else misfits(plan.data, schema):
        yield f"              BREAKS the schema: {plain_text(reason, 500)}"
    yield f"rows        {rows_of(plan)}"


def _claim(folder: "SiteFolder", plans: "PlanStore", run: str, data: str | None) -> Iterator[str]:
    from wardround.client.agent.run_policy import claim_on

    plan, outcome = plans.plan(run), plans.outcome(run)
    claim = claim_on(plan, plans.offer(run).size, None if outcome is None else outcome.units)
    if claim is not None:
        yield f"claim       {claim.words()}"
    elif plan.privacy.on:
        yield (
            "claim       differential privacy; its epsilon depends on how many rows or patients train here, is known "
            "once the data were read, and is held against the policy before anything is trained"
        )
    else:
        yield "claim       no differential privacy: what leaves the site, and the model, may tell of single patients"


def _learned(folder: "SiteFolder", plans: "PlanStore", run: str, data: str | None) -> Iterator[str]:
    from wardround.plain_text import plain_text
    from wardround.strategies.plan_facts import facts

    for what, words in facts(plans.plan(run), plans.offer(run).size):
        yield f"{what:12}{plain_text(words, 2000)}"


def _policy(folder: "SiteFolder", plans: "PlanStore", run: str, data: str | None) -> Iterator[str]:
    from wardround.client.agent.plan_review import judgements
    from wardround.clock import utc_now
    from wardround.plain_text import plain_text

    found = list(judgements(folder, run, data, utc_now()))
    yield "this site's policy:" if found else "this site has no policy (wardround client policy set)"
    for mark, rule, why in found:
        yield f"  {mark:8}{plain_text(f'{rule}: {why}' if why else rule, 2000)}"


def _members(folder: "SiteFolder", plans: "PlanStore", run: str, data: str | None) -> Iterator[str]:
    from wardround.client.agent.member_keys import member_keys
    from wardround.client.agent.member_pins import MemberPins
    from wardround.plain_text import in_groups

    offer, pins = plans.offer(run), MemberPins(folder)
    yield "members, and their keys' fingerprints as the server says:"
    yield f"  {folder.name}, this site\n    {in_groups(folder.fingerprint)}"
    named = {one.name for one in offer.sites}
    for one in member_keys([offer], folder.name, pins.pinned(), pins.history()):
        if one.name in named:
            yield f"  {one.name}  {one.words()}\n    {in_groups(one.fingerprint)}"


def _code(folder: "SiteFolder", plans: "PlanStore", run: str, data: str | None) -> Iterator[str]:
    from wardround.client.agent.plan_history import last_approved
    from wardround.plain_text import plain_text

    plan = plans.plan(run)
    if plan.task.code is None:
        yield "code        the plan brings none"
        return
    before = last_approved(plans, run, plan)
    known = {} if before is None else dict(plans.plan(before).code_files)
    yield f"code that would run here, without network and keys: bundle {plan.code_digest}"
    for path, digest in plan.code_files:
        mark = "as approved before" if known.get(path) == digest else "CHANGED" if path in known else "new"
        yield f"  {plain_text(path, 1000)}  SHA-256 {digest[:12]}...  {mark}"
    for path in sorted(known.keys() - dict(plan.code_files).keys()):
        yield f"  {plain_text(path, 1000)}  DELETED"
    against = "nothing that was approved here" if before is None else f"run {before[:12]}, the last approved one"
    yield f"compared with {against}; line by line: wardround client plan diff {run[:12]}"


def _show_code(plans: "PlanStore", run: str, plan: "Plan") -> None:
    from wardround.client.agent.code_changes import changes, whole
    from wardround.client.agent.plan_history import bundle_of, last_approved

    new, before = bundle_of(plan), last_approved(plans, run, plan)
    typer.echo("")
    if not new and before is None:
        typer.echo("the plan brings no code")
        return
    shown = list(whole(new) if before is None else changes(bundle_of(plans.plan(before)), new))
    for line in shown:
        typer.echo(line)
    if not shown:
        typer.echo("the code is as it was approved")
