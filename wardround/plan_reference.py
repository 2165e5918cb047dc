"""docs/plan.md, from the declarations of the plan's keys: `python -m wardround.plan_reference > docs/plan.md`."""

import dataclasses
import json
import types
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from wardround.decoding import encode, fields_of, type_name
from wardround.plan import PLAN_KEYS, Plan
from wardround.registry import names

__all__ = ["reference"]

_OPENING = """\
# Plan reference

A plan is a TOML file that says what a federation does. `wardround plan check PLAN` says what is wrong with one,
`wardround plan show PLAN` shows every key, `--set section.key=value` changes one for a single command (and
`--set section.key=` takes it out). An unknown key, a wrong type or an impossible value is refused.

This page is written by `python -m wardround.plan_reference > docs/plan.md`.
"""

_REGISTERED = """\
## Registered names

What they are: [tasks, data sets and partitions](tasks-and-data.md), [rules, pre-aggregators and detectors](rules.md),
[attacks](attacks.md). `wardround list` and `wardround rules` show what is installed, third parties' included.
"""

_GROUPS = {
    "task.name": "tasks",
    "data.source": "datasets",
    "robust.rule": "rules",
    "robust.pre": "preaggregators",
    "robust.detectors": "detectors",
    "simulation.partition.kind": "partitions",
    "simulation.attack.name": "attacks",
}
"""The keys that take a registered name, in the order of the plan's sections."""


def reference() -> str:
    """The page, Markdown."""
    return "\n".join([_OPENING, *_table("Top level", Plan), *_registered()])


def _table(title: str, cls: Any) -> Iterator[str]:
    doc = "" if cls is Plan else str(cls.__doc__).split(": ", 1)[-1].strip()
    yield f"## {title}\n"
    if doc:
        yield f"{doc[0].upper()}{doc[1:]}\n"
    yield "| key | type | default | bounds | meaning |"
    yield "|---|---|---|---|---|"
    below = []
    for name, (field, hint) in fields_of(cls).items():
        if cls is Plan and name not in PLAN_KEYS:
            continue
        if table := _table_of(hint):
            below.append((name, hint, table))
        cells = (f"`{name}`", _type(hint), _default(field), _bounds(field), _meaning(field))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""
    for name, hint, table in below:
        path = name if cls is Plan else f"{title.strip('[]`')}.{name}"
        yield from _table(f"`[[{path}]]`" if get_origin(hint) is tuple else f"`[{path}]`", table)


def _table_of(hint: Any) -> Any:
    """The dataclass that `hint` is, may be, or is a list of; None when there is none."""
    if get_origin(hint) in (tuple, types.UnionType):
        return next((arg for arg in get_args(hint) if dataclasses.is_dataclass(arg)), None)
    return hint if dataclasses.is_dataclass(hint) else None


def _type(hint: Any) -> str:
    if get_origin(hint) is tuple and _table_of(hint):
        return "list of tables"
    return type_name(hint).replace("one of ", "").replace("'", "`")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return ""
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None:
        return "absent"
    return f"`{json.dumps(encode(field.default))}`"


def _bounds(field: dataclasses.Field[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = ((sign, field.metadata[bound]) for bound, sign in signs.items())
    return ", ".join(
        f"{sign} {'2^63' if limit == 2**63 else format(limit, 'g')}" for sign, limit in limits if limit is not None
    )


def _meaning(field: dataclasses.Field[Any]) -> str:
    unit = f" ({field.metadata['unit']})" if field.metadata["unit"] else ""
    return f"{field.metadata['doc']}{unit}"


def _registered() -> Iterator[str]:
    yield _REGISTERED
    for key, kind in _GROUPS.items():
        yield f"- `{key}`: {', '.join(f'`{name}`' for name in names(f'wardround.{kind}'))}"


if __name__ == "__main__":
    print(reference())
