"""Rows from the server, as a table for a person or as JSON for a program."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import typer

__all__ = ["path_part", "show_rows", "shown"]

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d)?(\.\d+)?(Z|\+00:00)")


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """A JSON object per row, or the `columns` of all."""
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    cells = [[name.replace("_", " ") for name in columns], *([shown(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def shown(value: object) -> str:
    """A value for a person; a time in UTC, to the minute."""
    if value is None or value == "":
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    found = _TIME.fullmatch(text)
    return f"{found[1]} {found[2]}" if found else text


def path_part(text: str) -> str:
    """`text` as a part of a path."""
    return quote(text, safe="")
