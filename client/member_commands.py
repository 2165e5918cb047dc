"""`wardround client members`: the other hospitals, and which of their keys were accepted."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.command_line import By, Json, State, site_of, user
from wardround.errors import LocalError

if TYPE_CHECKING:
    from wardround.client.agent.member_keys import MemberKey
    from wardround.client.agent.site_folder import SiteFolder

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
members_app = typer.Typer(rich_markup_mode=None, help="The other hospitals and their keys.")
app.add_typer(members_app, name="members", invoke_without_command=True)


@members_app.callback()
def members(context: typer.Context, state: State = None, as_json: Json = False) -> None:
    """List the other members of offered runs, with their keys' fingerprints: accepted, new or changed."""
    if context.invoked_subcommand is not None:
        context.obj = state
        return
    from dataclasses import asdict

    from wardround.plain_text import in_groups

    folder = site_of(state)
    found = _keys(folder)
    if as_json:
        lines = [{"key" if name == "state" else name: value for name, value in asdict(one).items()} for one in found]
        typer.echo(json.dumps({"own": folder.fingerprint, "members": lines}, ensure_ascii=False))
        return
    typer.echo(f"{folder.name}, this site\n  {in_groups(folder.fingerprint)}")
    for one in found:
        typer.echo(f"{one.name}  {one.words()}\n  {in_groups(one.fingerprint)}")
        if one.accepted not in ("", one.fingerprint):
            typer.echo(f"  was\n  {in_groups(one.accepted)}")


@members_app.command("accept")
def accept_members(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A hospital.")] = None,
    fingerprint: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FINGERPRINT", help="As the hospital itself has read it out, by telephone; in groups or in one."
        ),
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Every member as the server names it; compare the list with them afterwards.")
    ] = False,
    instead_of: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="The accepted key that is replaced, where it was lost.")
    ] = None,
    by: By = None,
    state: State = None,
) -> None:
    """Accept a member's key, once its fingerprint was compared with what that hospital says itself."""
    from wardround.client.agent.member_keys import KeyState
    from wardround.client.agent.member_pins import MemberPins
    from wardround.clock import utc_now
    from wardround.plain_text import in_groups

    folder = site_of(state or context.obj)
    if everyone == (name is not None) or (name is None) != (not fingerprint):
        raise LocalError("expected NAME and FINGERPRINT, or --all")
    if everyone:
        chosen = [(one.name, one.fingerprint) for one in _keys(folder) if one.state is not KeyState.ACCEPTED]
        if len({other for other, _ in chosen}) != len(chosen):
            raise LocalError("expected one key of each member, got offers with different ones; accept them by name")
    else:
        chosen = [(name or "", _plain("".join(fingerprint or ())))]
    before = None if instead_of is None else _plain(instead_of)
    for other, key in chosen:
        MemberPins(folder).accept(other, key, by=by or user(), now=utc_now(), instead_of=before)
        typer.echo(f"{other}: accepted {in_groups(key)}")
    if not chosen:
        typer.echo("nothing to accept")
    folder.touch()


@members_app.command("history")
def member_history(context: typer.Context, state: State = None, as_json: Json = False) -> None:
    """List every key that was accepted, exchanged or removed here: when, by whom."""
    from dataclasses import asdict

    from wardround.client.agent.member_pins import MemberPins
    from wardround.plain_text import in_groups

    found = MemberPins(site_of(state or context.obj)).history()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{one.time[:16]}  {one.name}: {one.change} by {one.by}")
        for what, key in (("was", one.old), ("now", one.new)):
            if key is not None:
                typer.echo(f"  {what} {in_groups(key)}")
    if not found:
        typer.echo("no key was accepted yet")


def _keys(folder: "SiteFolder") -> "list[MemberKey]":
    from wardround.client.agent.member_keys import member_keys
    from wardround.client.agent.member_pins import MemberPins
    from wardround.client.agent.plan_store import PlanStore

    plans, pins = PlanStore(folder), MemberPins(folder)
    return member_keys([plans.offer(run) for run in plans.runs()], folder.name, pins.pinned(), pins.history())


def _plain(fingerprint: str) -> str:
    return fingerprint.replace(":", "").replace(" ", "").lower()
