"""The commands that need nothing but the base: plans, and what is installed."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from wardround.decoding import PlanError, default_of, encode, fields_of
from wardround.plan import CHECKS, PLAN_KEYS, Plan
from wardround.plan_source import find_plan, shipped_plans
from wardround.registry import load, names, nearest

__all__ = ["PlanArgument", "SetOption", "app"]

app = typer.Typer(rich_markup_mode=None)
plan_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Check, show, explain and start plans.")
app.add_typer(plan_app, name="plan")

PlanArgument = Annotated[
    str, typer.Argument(metavar="PLAN", click_type=click.Path(), help="A plan file, or the name of a shipped plan.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. training.lr=0.1; nothing after = removes it."),
]


@plan_app.command()
def check(plan: PlanArgument, settings: SetOption = None) -> None:
    """Check a plan: say what is wrong with it, or that nothing is."""
    checked = find_plan(plan).override(settings or ())
    task = checked.task.name
    if task and task not in names("wardround.tasks"):
        raise PlanError("task.name", "an installed task", task, nearest(task, names("wardround.tasks")))
    size = f"{checked.cohort_size} of {checked.simulation.sites} sites"
    typer.echo(f"{plan}: valid: {checked.rounds} rounds, {size} in each, digest {checked.digest[:12]}")
    for name in names(CHECKS):
        for note in load(CHECKS, name)(checked):
            typer.echo(f"  {note}")


@plan_app.command()
def show(
    plan: PlanArgument,
    settings: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="As TOML, every value spelled out.")] = False,
) -> None:
    """Show every key of a plan, also those that it leaves at their default."""
    if as_json and as_toml:
        raise typer.BadParameter("either --json or --toml, not both")
    shown = find_plan(plan).override(settings or ())
    if as_toml:
        typer.echo(shown.to_toml(), nl=False)
    elif as_json:
        table = {name: value for name, value in encode(shown).items() if name in PLAN_KEYS}
        typer.echo(json.dumps({"digest": shown.digest, "plan": table}, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(readable(shown)))


@plan_app.command()
def digest(plan: PlanArgument, settings: SetOption = None) -> None:
    """Print a plan's digest: what a site approves."""
    typer.echo(find_plan(plan).override(settings or ()).digest)


@plan_app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of a shipped plan; `wardround list` shows them.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it.  [default: NAME.toml]")] = None,
) -> None:
    """Write a shipped plan to a file, as a start for your own."""
    shipped = shipped_plans()
    if name not in shipped:
        raise PlanError("", "the name of a shipped plan", name, nearest(name, shipped))
    out = out or Path(f"{name}.toml")
    with out.open("x", encoding="utf-8") as file:
        file.write(shipped[name].read_text(encoding="utf-8"))
    typer.echo(f"wrote {out}")


@app.command("list")
def list_installed(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List installed tasks, data sets, partitions and plans."""
    kinds = {kind: list(names(f"wardround.{kind}")) for kind in ("tasks", "datasets", "partitions")}
    kinds["plans"] = list(shipped_plans())
    if as_json:
        typer.echo(json.dumps(kinds))
    for kind, found in kinds.items() if not as_json else ():
        typer.echo(f"{kind:12}{', '.join(found) or 'none'}")


def readable(plan: Plan) -> Iterator[str]:
    """The lines of a plan for a person: each key, its value, and `*` where it is not the default."""
    yield f"digest {plan.digest}"
    sections = []
    for name in PLAN_KEYS:
        value = getattr(plan, name)
        if dataclasses.is_dataclass(value):
            sections.append((name, value))
        else:
            yield _line(name, plan)
    for title, section in sections:
        yield from _section(title, section)


def _section(title: str, section: Any) -> Iterator[str]:
    yield f"\n[{title}]"
    tables = []
    for name in fields_of(type(section)):
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            tables.append((name, value))
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            yield f"  {name:18} *"
            yield from (f"    {_in_one_line(item)}" for item in value)
        else:
            yield "  " + _line(name, section)
    for name, table in tables:
        yield from _section(f"{title}.{name}", table)


def _line(name: str, section: Any) -> str:
    field, _ = fields_of(type(section))[name]
    value = getattr(section, name)
    default = default_of(field)
    unit = f" {field.metadata['unit']}" if field.metadata["unit"] and value is not None else ""
    return f"{name:18} {' ' if value == default else '*'} {_plain(value)}{unit}"


def _in_one_line(item: Any) -> str:
    pairs = ((field.name, getattr(item, field.name), field.default) for field in dataclasses.fields(item))
    name, *rest = [(key, value) for key, value, default in pairs if value != default]
    return f"{_plain(name[1]):28}" + ", ".join(f"{key} {_plain(value)}" for key, value in rest)


def _plain(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_plain(item) for item in value)}]"
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_plain(item)}" for key, item in value.items()) or "-"
    return str(value) or "-"
