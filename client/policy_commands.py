"""`wardround client policy`: what the site allows, whatever is offered to it."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.command_line import By, Json, RunArgument, State, site_of, user
from wardround.errors import LocalError

if TYPE_CHECKING:
    from wardround.client.agent.site_folder import SiteFolder
    from wardround.client.guard.policy import SitePolicy

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
policy_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="What this site allows, whatever is offered."
)
app.add_typer(policy_app, name="policy")


@policy_app.command("set")
def set_policy(
    max_epsilon: Annotated[
        float | None, typer.Option(metavar="E", help="Largest epsilon that a run may claim.")
    ] = None,
    max_delta: Annotated[float | None, typer.Option(metavar="D", help="Largest delta of that claim.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Set the two limits above for one data set, not for all.")
    ] = None,
    require: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Of secure-aggregation, dp, example-level-dp, patient-level-dp."),
    ] = None,
    min_sites: Annotated[
        int | None, typer.Option(metavar="N", help="Fewest updates in what the server learns of a round.")
    ] = None,
    pins: Annotated[
        list[str] | None, typer.Option(metavar="all|NAME", help="Members whose keys must be accepted; give it again.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(metavar="LIST", help="Names of the tasks that may be trained.")] = None,
    code: Annotated[
        str | None, typer.Option(metavar="any|none|LIST", help="Code bundles: any, none, or their digests.")
    ] = None,
    hours: Annotated[
        list[str] | None,
        typer.Option(metavar="WINDOW", help="When data may be read, e.g. 'mon-fri 20:00-06:00'; give it again."),
    ] = None,
    time_zone: Annotated[str | None, typer.Option(metavar="ZONE", help="Of the hours, e.g. Europe/Berlin.")] = None,
    min_rows: Annotated[int | None, typer.Option(metavar="N", help="Fewest rows of a data set.")] = None,
    require_schema: Annotated[
        bool | None, typer.Option("--require-schema/--no-require-schema", help="Only data sets that have a schema.")
    ] = None,
    max_rounds: Annotated[int | None, typer.Option(metavar="N", help="Most rounds of a run.")] = None,
    evaluation: Annotated[
        str | None, typer.Option(metavar="any|summed|none", help="Counts of held-out rows that may leave.")
    ] = None,
    allow_unconfined_jobs: Annotated[
        bool | None,
        typer.Option(
            "--allow-unconfined-jobs/--no-allow-unconfined-jobs",
            help="Run jobs even where this system cannot take network and keys from them.",
        ),
    ] = None,
    by: By = None,
    state: State = None,
) -> None:
    """Set rules; those that are not named stay as they are. A run that keeps to them no longer ends here."""
    from wardround.client.agent.data_registry import DataRegistry
    from wardround.client.guard.policy import SitePolicy, parse_policy
    from wardround.decoding import encode

    limits = {"max_epsilon": max_epsilon, "max_delta": max_delta}
    given = {
        "require": _listed(require),
        "min_sites": min_sites,
        "pins": "all" if pins == ["all"] else pins,
        "tasks": _listed(tasks),
        "code": code if code in ("any", "none") else _listed(code),
        "hours": hours,
        "time_zone": time_zone,
        "min_rows": min_rows,
        "require_schema": require_schema,
        "max_rounds": max_rounds,
        "evaluation": evaluation,
        "allow_unconfined_jobs": allow_unconfined_jobs,
        **(limits if data is None else {}),
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    limited = {} if data is None else {name: value for name, value in limits.items() if value is not None}
    if data is not None and not limited:
        raise LocalError("--data: expected --max-epsilon or --max-delta with it")
    if not chosen and not limited:
        raise LocalError("expected a rule to set, e.g. --max-epsilon 3; see: wardround client policy set --help")
    folder = site_of(state)
    if data is not None:
        DataRegistry(folder).find(data)

    def changed(old: SitePolicy) -> SitePolicy:
        table = encode(old) | chosen
        if data is not None:
            table["data"] = table["data"] | {data: table["data"].get(data, {}) | limited}
        return parse_policy(table)

    _change(folder, changed, by or user())


@policy_app.command("clear")
def clear_policy(
    rules: Annotated[
        list[str] | None, typer.Argument(metavar="RULE...", help="As policy show names them; data.NAME for its limits.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every rule.")] = False,
    by: By = None,
    state: State = None,
) -> None:
    """Take rules away: what they forbade is then up to the approval of each run."""
    from wardround.client.guard.policy import RULES, SitePolicy, parse_policy
    from wardround.decoding import encode
    from wardround.registry import nearest

    if everything == bool(rules):
        raise LocalError("expected RULE... or --all")

    def cleared(old: SitePolicy) -> SitePolicy:
        if everything:
            return SitePolicy()
        table = encode(old)
        for rule in rules or ():
            kind, _, name = rule.partition(".")
            if kind == "data" and name:
                if table["data"].pop(name, None) is None:
                    raise LocalError(f"{rule}: expected limits that are set; see: wardround client policy show")
            elif rule not in RULES:
                raise LocalError(f"{rule[:80]!r}: expected a rule{nearest(rule, RULES)}")
            else:
                table.pop(rule, None)
                table.setdefault("data", {})
        if "hours" not in table or "time_zone" not in table:
            table = {name: value for name, value in table.items() if name not in ("hours", "time_zone")}
        return parse_policy(table)

    _change(site_of(state), cleared, by or user())


@policy_app.command("show")
def show_policy(state: State = None, as_json: Json = False) -> None:
    """Show the rules that are set."""
    from wardround.client.agent.policy_file import PolicyFile
    from wardround.decoding import encode

    policy = PolicyFile(site_of(state)).read()
    if as_json:
        typer.echo(json.dumps(encode(policy), ensure_ascii=False))
        return
    for line in _lines(policy):
        typer.echo(line)


@policy_app.command("check")
def check_policy(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The table to check it with.  [default: the approved or only one]"),
    ] = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Say which rules an offered run keeps to, and which it breaks; then the exit code is 1."""
    from wardround.client.agent.plan_review import judgements
    from wardround.client.agent.plan_store import PlanStore
    from wardround.client.agent.plan_words import BREAKS
    from wardround.clock import utc_now
    from wardround.plain_text import plain_text

    folder = site_of(state)
    found = list(judgements(folder, PlanStore(folder).find(run), data, utc_now()))
    if as_json:
        typer.echo(json.dumps([{"mark": mark, "rule": rule, "why": why} for mark, rule, why in found]))
    else:
        for mark, rule, why in found:
            typer.echo(f"{mark:8}{plain_text(f'{rule}: {why}' if why else rule, 2000)}")
        if not found:
            typer.echo("no rule is set (wardround client policy set)")
    if any(mark == BREAKS for mark, _, _ in found):
        raise typer.Exit(1)


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _change(folder: "SiteFolder", change: "Callable[[SitePolicy], SitePolicy]", by: str) -> None:
    from wardround.client.agent.plan_review import broken_by, notes_on
    from wardround.client.agent.policy_file import PolicyFile
    from wardround.clock import utc_now

    _, new = PolicyFile(folder).change(change, by=by)
    for line in _lines(new):
        typer.echo(line)
    for note in (*notes_on(new, folder), *broken_by(folder, utc_now())):
        typer.echo(f"note: {note}")


def _lines(policy: "SitePolicy") -> list[str]:
    return [f"{rule:24}{value}" for rule, value in policy.stated()] or ["no rule is set: each run needs an approval"]
