"""`wardround client`: what a hospital's administrator does. What is heavy is imported by the command that needs it."""

import getpass
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.errors import LocalError

if TYPE_CHECKING:
    from wardround.client.agent.plan_store import PlanStore
    from wardround.client.agent.site_folder import SiteFolder

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
client_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Take part in a federation as a hospital.")
data_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The tables that may be trained on.")
plan_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The plans that are offered.")
members_app = typer.Typer(rich_markup_mode=None, help="The other hospitals and their keys.")
app.add_typer(client_app, name="client")
client_app.add_typer(data_app, name="data")
client_app.add_typer(plan_app, name="plan")
client_app.add_typer(members_app, name="members", invoke_without_command=True)

State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="The site's folder.  [default: $WARDROUND_CLIENT_STATE or ~/.local/state/wardround/client]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who decides.  [default: your user name]")]
RunArgument = Annotated[str, typer.Argument(metavar="ID", help="The run, or the start of its id.")]


# -- the site -----------------------------------------------------------------------------------------


@client_app.command()
def join(
    invitation: Annotated[
        str, typer.Argument(metavar="URL#TOKEN", help="As the coordinator gave it; - reads it from standard input.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Refuse an invitation for another name, before it is used.")
    ] = None,
    state: State = None,
) -> None:
    """Join a federation: keys are made here, and certificates fetched. Exit codes are in docs/enrolment.md."""
    import sys

    from wardround.client.enrolment.exit_codes import JoinError
    from wardround.client.enrolment.join import join as join_federation

    text = sys.stdin.readline().strip() if invitation == "-" else invitation
    try:
        joined = join_federation(text, _place(state), name=name)
    except JoinError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(int(error.exit_code)) from None
    for line in joined.lines():
        typer.echo(line)
    typer.echo("next: wardround client data add FILE, wardround client start")


@client_app.command()
def start(
    state: State = None,
    job_python: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The Python that jobs run in, which has wardround[job].")
    ] = None,
    allow_unconfined_jobs: Annotated[
        bool,
        typer.Option(
            "--allow-unconfined-jobs", help="Run jobs even where this system cannot take network and keys from them."
        ),
    ] = False,
    job_memory_gib: Annotated[
        int | None, typer.Option(min=1, metavar="GIB", help="Memory of each process of a job.  [default: 16]")
    ] = None,
    job_scratch_mib: Annotated[
        int | None, typer.Option(min=1, metavar="MIB", help="Its working folder.  [default: 256]")
    ] = None,
    job_processes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Its processes and threads.  [default: 1024]")
    ] = None,
    job_answer_s: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="How long it may work on one order.  [default: 3600]")
    ] = None,
) -> None:
    """Run the agent: attach to the server, and do what was approved. Its log goes to stderr, as lines of JSON."""
    import sys

    folder = _folder(state)
    if folder.agent_runs():
        raise LocalError(f"{folder.path}: an agent runs here already; stop it first")
    limits = {
        "memory_bytes": job_memory_gib and job_memory_gib << 30,
        "scratch_bytes": job_scratch_mib and job_scratch_mib << 20,
        "processes": job_processes,
        "call_s": job_answer_s,
    }
    about = [
        str(folder.path.resolve()),
        "" if job_python is None else str(job_python),
        "unconfined" if allow_unconfined_jobs else "",
        json.dumps({name: limit for name, limit in limits.items() if limit is not None}),
    ]
    sys.stdout.flush()
    os.execv(  # noqa: S606 - no shell; without the command line's libraries the agent is a fifth smaller
        sys.executable,
        [sys.executable, "-P", "-m", "wardround.client.agent", *about],
    )


@client_app.command()
def status(state: State = None, as_json: Json = False) -> None:
    """Show who this site is, whether its agent runs, and how its runs stand."""
    from wardround.client.agent.data_registry import DataRegistry
    from wardround.client.agent.plan_store import PlanStore

    folder = _folder(state)
    plans = PlanStore(folder)
    runs = {run: _standing(plans, run) for run in plans.runs()}
    data = [one.name for one in DataRegistry(folder).all()]
    if as_json:
        table = {
            "name": folder.name,
            "fingerprint": folder.fingerprint,
            "server": folder.facts.url,
            "link": folder.facts.target,
            "agent_runs": folder.agent_runs(),
            "data": data,
            "runs": runs,
        }
        typer.echo(json.dumps(table, ensure_ascii=False))
        return
    typer.echo(f"site         {folder.name}")
    typer.echo(f"fingerprint  {folder.fingerprint}")
    typer.echo(f"server       {folder.facts.url}, link {folder.facts.target}")
    typer.echo(f"agent        {'runs' if folder.agent_runs() else 'does not run (wardround client start)'}")
    typer.echo(f"data         {', '.join(data) or 'none (wardround client data add FILE)'}")
    for run, standing in runs.items():
        typer.echo(f"run          {run[:12]}  {standing}")


@client_app.command()
def budget(state: State = None, as_json: Json = False) -> None:
    """Show what may be spent on each data set's privacy, and what was."""
    import math

    from wardround.client.agent.data_registry import DataRegistry

    registry = DataRegistry(_folder(state))
    accounts = {name: ledger.account() for name, ledger in registry.ledgers().items()}
    if as_json:
        table = [
            {
                "data": name,
                "unit": account.spending.unit.value,
                "max_epsilon": account.spending.cap_epsilon,
                "delta": account.spending.cap_delta,
                "spent": account.spending.epsilon if math.isfinite(account.spending.epsilon) else None,
                "left": account.room,
                "runs": {job: {"begun": one.begun, "rounds": one.charge.rounds} for job, one in account.jobs.items()},
            }
            for name, account in accounts.items()
        ]
        typer.echo(json.dumps(table, ensure_ascii=False))
        return
    if not accounts:
        typer.echo("no data set has a budget (wardround client data add FILE --max-epsilon E --delta D)")
    for name, account in accounts.items():
        spending = account.spending
        finite = math.isfinite(spending.epsilon)
        typer.echo(
            f"{name}: epsilon {f'{spending.epsilon:.4g}' if finite else 'infinite, a run had no privacy,'} of "
            f"{spending.cap_epsilon:g} at delta {spending.cap_delta:g} for every {spending.unit.value}, "
            f"{account.room:.4g} left"
        )
        for job, one in account.jobs.items():
            typer.echo(f"  run {job[:12]}  {one.begun} of {one.charge.rounds} rounds{', closed' * one.closed}")


@client_app.command()
def leave(
    state: State = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not tell the server: the coordinator must revoke the site.")
    ] = False,
) -> None:
    """Leave the federation: the server is told, the site's keys are erased, its runs ended. Ledgers stay."""
    from wardround.client.agent.departure import depart
    from wardround.client.enrolment.leaving import say_goodbye

    folder = _folder(state)
    if not yes:
        typer.confirm(f"Erase the keys of {folder.name!r}? It must be invited again to come back.", abort=True)

    def goodbye() -> None:
        try:
            if not offline:
                say_goodbye(folder)
        except LocalError as error:
            raise LocalError(
                f"{error}. Nothing was erased; try again, or leave with --offline, and have the coordinator revoke "
                f"{folder.name!r}"
            ) from None

    depart(folder, goodbye)
    typer.echo(f"{folder.name} has left; its ledgers and data sets stay in {folder.path}")
    if offline:
        typer.echo(
            "The server was not told. Tell the coordinator, who must end the site's certificates: wardround server "
            "revoke"
        )
    else:
        typer.echo("The server has ended its certificates.")


# -- data ---------------------------------------------------------------------------------------------


@data_app.command("add")
def add_data(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A table, CSV or Parquet; it stays where it is.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call it.  [default: the file's name]")
    ] = None,
    max_epsilon: Annotated[
        float | None, typer.Option(metavar="E", help="The most privacy that may ever be spent on it.")
    ] = None,
    delta: Annotated[float | None, typer.Option(metavar="D", help="The failure probability that goes with it.")] = None,
    unit: Annotated[str, typer.Option(metavar="patient|row", help="Whose presence is hidden.")] = "patient",
    anchor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the ledger's head there too, on another disk."),
    ] = None,
    disjoint: Annotated[
        str | None, typer.Option(metavar="REASON", help="Why no patient is in another data set that has a budget.")
    ] = None,
    by: By = None,
    state: State = None,
) -> None:
    """Register a table, or again after it changed. With --max-epsilon it gets a privacy budget, once and for ever."""
    from wardround.client.agent.data_registry import DataRegistry
    from wardround.clock import utc_now
    from wardround.plan_privacy import Unit

    if (max_epsilon is None) != (delta is None):
        raise LocalError("expected --max-epsilon and --delta together")
    if unit not in ("patient", "row"):
        raise LocalError(f"--unit: expected patient or row, got {unit[:80]!r}")
    registry = DataRegistry(_folder(state))
    name = name or file.stem
    if max_epsilon is not None and registry.has_ledger(name):
        raise LocalError(f"data {name}: has a budget already; its caps stay as they are")
    data = registry.add(file, name, utc_now(), anchor=anchor)
    typer.echo(f"{data.name}: {data.rows} rows, {len(data.columns)} columns, SHA-256 {data.digest[:12]}...")
    if max_epsilon is not None and delta is not None:
        registry.make_ledger(
            data, epsilon=max_epsilon, delta=delta, unit=Unit(unit), by=by or _user(), disjoint=disjoint
        )
        typer.echo(f"{data.name}: epsilon {max_epsilon:g} at delta {delta:g} for every {unit}, for ever")


@data_app.command("list")
def list_data(state: State = None, as_json: Json = False) -> None:
    """List the registered tables."""
    from dataclasses import asdict

    from wardround.client.agent.data_registry import DataRegistry

    registry = DataRegistry(_folder(state))
    found = registry.all()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], ensure_ascii=False))
        return
    for one in found:
        has = "with a budget" if registry.has_ledger(one.name) else "no budget"
        typer.echo(f"{one.name:16} {one.rows:>8} rows  {len(one.columns):>4} columns  {has}  {one.path}")
    if not found:
        typer.echo("none (wardround client data add FILE)")


@data_app.command("remove")
def remove_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered table.")], state: State = None
) -> None:
    """Forget a table; the file and its ledger stay."""
    from wardround.client.agent.data_registry import DataRegistry

    DataRegistry(_folder(state)).remove(name)
    typer.echo(f"{name}: forgotten; the file and what was spent on it stay")


# -- plans --------------------------------------------------------------------------------------------


@plan_app.command("list")
def list_plans(state: State = None, as_json: Json = False) -> None:
    """List the runs that were offered, and how they stand."""
    from wardround.client.agent.plan_store import PlanStore

    plans = PlanStore(_folder(state))
    runs = {run: {"plan": plans.offer(run).plan_digest, "standing": _standing(plans, run)} for run in plans.runs()}
    if as_json:
        typer.echo(json.dumps(runs, ensure_ascii=False))
        return
    for run, about in runs.items():
        typer.echo(f"{run[:12]}  plan {about['plan'][:12]}  {about['standing']}")
    if not runs:
        typer.echo("none was offered")


@plan_app.command("show")
def show_plan(run: RunArgument, state: State = None) -> None:
    """Show what is offered: what would run, what the server would learn, who takes part, and every key of the plan."""
    from wardround.client.agent.member_pins import MemberPins
    from wardround.client.agent.plan_store import PlanStore
    from wardround.plain_text import plain_text
    from wardround.plan_commands import readable
    from wardround.strategies.plan_facts import facts

    folder = _folder(state)
    plans = PlanStore(folder)
    found = plans.find(run)
    offer, plan, pinned = plans.offer(found), plans.plan(found), MemberPins(folder).pinned()
    typer.echo(f"run {found}, offered {offer.received[:16]}: {_standing(plans, found)}")
    typer.echo(f"plan {plain_text(plan.name)}, digest {plan.digest}, {offer.size} parameters, {plan.rounds} rounds\n")
    for what, words in facts(plan, offer.size):
        typer.echo(f"{what:12}{plain_text(words, 2000)}")
    typer.echo("\nmembers, and their keys' fingerprints as the server says:")
    for one in offer.sites:
        mark = "this site" if one.name == folder.name else _pin(pinned.get(one.name), one.fingerprint)
        typer.echo(f"  {one.name}  {one.fingerprint}  {mark}")
    if plan.code_files:
        typer.echo(f"\ncode that would run here, without network and keys (below {plans.code_folder(found)}):")
        for path, digest in plan.code_files:
            typer.echo(f"  {plain_text(path)}  SHA-256 {digest[:12]}...")
    typer.echo("")
    for line in readable(plan):
        typer.echo("\n" * line.startswith("\n") + _printable(line.removeprefix("\n")))


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
    from wardround.clock import utc_now
    from wardround.plain_text import plain_text

    folder = _folder(state)
    plans, registry = PlanStore(folder), DataRegistry(folder)
    found, table = plans.find(run), registry.find(data)
    plan = plans.plan(found)
    table.check_unchanged()
    check_approval(
        plan,
        plans.offer(found),
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
        by=by or _user(),
        at=utc_now().isoformat(timespec="seconds"),
        data=table.name,
        data_digest=table.digest,
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

    plans = PlanStore(_folder(state))
    found = plans.find(run)
    decision = Decision(
        verdict=Verdict.DENIED,
        plan_digest=plans.offer(found).plan_digest,
        by=by or _user(),
        at=utc_now().isoformat(timespec="seconds"),
        reason=plain_text(reason),
    )
    plans.decide(found, decision)
    typer.echo(f"run {found[:12]} is denied")


# -- members ------------------------------------------------------------------------------------------


@members_app.callback()
def members(context: typer.Context, state: State = None, as_json: Json = False) -> None:
    """List the other members of offered runs, with their keys' fingerprints, and which of them were accepted."""
    if context.invoked_subcommand is not None:
        context.obj = state
        return
    from wardround.client.agent.member_pins import MemberPins

    folder = _folder(state)
    pinned, named = MemberPins(folder).pinned(), _named(folder)
    lines = [
        {"name": name, "fingerprint": fingerprint, "key": _pin(pinned.get(name), fingerprint)}
        for name, fingerprint in sorted(named)
    ]
    lines += [
        {"name": name, "fingerprint": pin, "key": "accepted"}
        for name, pin in sorted(pinned.items())
        if (name, pin) not in named
    ]
    if as_json:
        typer.echo(json.dumps({"own": folder.fingerprint, "members": lines}, ensure_ascii=False))
        return
    typer.echo(f"this site: {folder.name}  {folder.fingerprint}")
    for line in lines:
        typer.echo(f"{line['name']}  {line['fingerprint']}  {line['key']}")


@members_app.command("accept")
def accept_members(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A hospital.")] = None,
    fingerprint: Annotated[
        str | None, typer.Argument(metavar="FINGERPRINT", help="As the hospital itself has read it out, by telephone.")
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
    from wardround.client.agent.member_pins import MemberPins
    from wardround.clock import utc_now

    folder = _folder(state or context.obj)
    if everyone == (name is not None) or (name is None) != (fingerprint is None):
        raise LocalError("expected NAME and FINGERPRINT, or --all")
    pins = MemberPins(folder)
    pinned = pins.pinned()
    chosen = [(name, fingerprint)] if name is not None and fingerprint is not None else sorted(_named(folder))
    if everyone:
        chosen = [(other, key) for other, key in chosen if pinned.get(other) != key]
        if len({other for other, _ in chosen}) != len(chosen):
            raise LocalError("expected one key of each member, got offers with different ones; accept them by name")
    for other, key in chosen:
        pins.accept(other, key.replace(":", "").lower(), by=by or _user(), now=utc_now(), instead_of=instead_of)
        typer.echo(f"{other}: accepted {key}")
    if not chosen:
        typer.echo("nothing to accept")
    folder.touch()


# -- words --------------------------------------------------------------------------------------------


def _place(state: Path | None) -> Path:
    from wardround.client.agent.site_folder import default_folder

    return state or default_folder(os.environ)


def _folder(state: Path | None) -> "SiteFolder":
    from wardround.client.agent.site_folder import SiteFolder

    return SiteFolder(_place(state))


def _named(folder: "SiteFolder") -> set[tuple[str, str]]:
    """(name, fingerprint) of every other member of an offered run."""
    from wardround.client.agent.plan_store import PlanStore

    plans = PlanStore(folder)
    return {
        (one.name, one.fingerprint) for run in plans.runs() for one in plans.offer(run).sites if one.name != folder.name
    }


def _pin(pin: str | None, fingerprint: str) -> str:
    if pin == fingerprint:
        return "accepted"
    return "not accepted" if pin is None else f"ANOTHER KEY is accepted: {pin}"


def _standing(plans: "PlanStore", run: str) -> str:
    from wardround.client.agent.plan_store import RunState, Verdict

    decision, outcome = plans.decision(run), plans.outcome(run)
    if outcome is not None and outcome.state is RunState.ENDED:
        return f"ended ({outcome.reason})"
    if decision is None:
        return "waits for a decision"
    if decision.verdict is Verdict.DENIED:
        return f"denied by {decision.by} on {decision.at[:10]}"
    if outcome is not None and outcome.state is RunState.UNFIT:
        return f"approved, but cannot be run here: {outcome.reason}"
    ready = "ready" if outcome is not None else "being prepared"
    return f"approved by {decision.by} on {decision.at[:10]} with data {decision.data}, {ready}"


def _printable(line: str) -> str:
    """One line as it is, but for what could move the cursor or look like other lines."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise LocalError("expected --by NAME, since the user of this process has no name") from None
