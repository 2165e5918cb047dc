"""`wardround rules`: what is registered, and what each piece tolerates and costs."""

import dataclasses
import json
from typing import Annotated, Any

import typer

from wardround.errors import LocalError
from wardround.registry import load, names, nearest

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)

_KINDS = ("rules", "preaggregators", "detectors")
_TITLES = {
    "rules": "rules: robust.rule",
    "preaggregators": "pre-aggregators: robust.pre",
    "detectors": "detectors: robust.detectors",
    "attacks": "attacks: simulation.attack.name",
}


@app.command()
def rules(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List aggregation rules, pre-aggregators, detectors and attacks.

    With what each tolerates and costs, its options and its source.
    """
    kinds = {kind: names(f"wardround.{kind}") for kind in _TITLES}
    known = [one for found in kinds.values() for one in found]
    if name is not None and name not in known:
        raise LocalError(f"nothing is called {name!r}{nearest(name, known)}")
    table: dict[str, dict[str, Any]] = {}
    for kind, found in kinds.items():
        chosen = [one for one in found if name in (None, one)]
        if chosen:
            table[kind] = {one: _described(kind, one) for one in chosen}
    if as_json:
        typer.echo(json.dumps(table, ensure_ascii=False))
        return
    for kind, pieces in table.items():
        typer.echo(f"{_TITLES[kind]}\n")
        for one, facts in pieces.items():
            typer.echo(f"  {one}: {facts.pop('summary')}")
            for key, value in facts.items():
                typer.echo(f"      {key:10} {value}")
        typer.echo("")


def _described(kind: str, name: str) -> dict[str, str]:
    cls = load(f"wardround.{kind}", name)
    keys = ("summary", "tolerates", "cost", "source") if kind in _KINDS else ("summary", "source")
    facts = {key: str(getattr(cls, key)) for key in keys if hasattr(cls, key)}
    options = [_option(field) for field in dataclasses.fields(cls) if field.name != "num_byzantine"]
    if options:
        facts["options"] = ", ".join(options)
    return facts


def _option(field: dataclasses.Field[Any]) -> str:
    """`iterations = 10`, or the name alone of one that must be given."""
    return field.name if field.default is dataclasses.MISSING else f"{field.name} = {json.dumps(field.default)}"
