"""HTML of a report's parts. Everything that comes from a run is escaped here."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Figure", "Section", "cards", "details", "figure", "key", "plot_text", "short", "table", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, its anchor and its HTML."""

    anchor: str
    title: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot. `label` says in words what it shows, for those who cannot see it; `caption` is HTML."""

    title: str
    label: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int
    caption: str = ""


def text(value: object) -> str:
    """`value` as text between tags or in an attribute."""
    return html.escape(str(value), quote=True)


def plot_text(value: object, most: int = 28) -> str:
    """`value` as text in a plot, which reads tags and entities of its own; shortened."""
    shown = str(value)
    return html.escape(shown if len(shown) <= most else shown[: most - 1] + "…", quote=False)


def short(values: Iterable[float | None]) -> list[float | None]:
    """Numbers for a plot, with five significant digits; what is not finite is absent."""
    return [None if value is None or not math.isfinite(value) else float(f"{value:.5g}") for value in values]


def figure(shown: Figure) -> str:
    """The plot's HTML; a script at the end of the page draws it."""
    spec = json.dumps({"data": shown.traces, "layout": shown.layout}, separators=(",", ":"), allow_nan=False)
    spec = spec.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    caption = f"<figcaption>{shown.caption}</figcaption>" if shown.caption else ""
    heading = f"<h3>{text(shown.title)}</h3>" if shown.title else ""
    return (
        f"<figure>{heading}"
        f'<div class="plot" role="img" aria-label="{text(shown.label)}" style="height:{shown.height}px"></div>'
        f'<script type="application/json">{spec}</script>{caption}</figure>'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table whose first column names the rows; a cell that begins like a number is set to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    numeric = [bool(cells) and all(_is_number(row[index]) for row in cells) for index in range(len(header))]
    shape = [' class="number"' if one else "" for one in numeric]
    head = "".join(f'<th scope="col"{s}>{text(h)}</th>' for h, s in zip(header, shape, strict=True))
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td{s}>{text(cell)}</td>" for cell, s in zip(row[1:], shape[1:], strict=True))
        + "</tr>"
        for row in cells
    )
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _is_number(cell: str) -> bool:
    return cell == "–" or cell.lstrip("+−-")[:1].isdigit()


def details(summary: str, body: str) -> str:
    """Something that opens on demand; `body` is HTML."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def cards(found: Iterable[tuple[str, str, str, str]]) -> str:
    """Key figures: (style class, what, value, more), as text."""
    shown = "".join(
        f'<div class="card {style}"><div class="what">{text(what)}</div><div class="value">{text(value)}</div>'
        f'<div class="more">{text(more)}</div></div>'
        for style, what, value, more in found
    )
    return f'<div class="cards">{shown}</div>' if shown else ""


def key(entries: Iterable[tuple[str, str]]) -> str:
    """A legend of coloured squares: (colour, meaning)."""
    return (
        '<div class="key">'
        + "".join(
            f'<span><span class="swatch" style="background:{color}"></span>{text(meaning)}</span>'
            for color, meaning in entries
        )
        + "</div>"
    )
