"""How a report looks: colours, and what every plot has in common."""

from typing import Any

from wardround.server.runs.comparison import Model

__all__ = [
    "ABSENT",
    "COLORS",
    "DIVERGING",
    "FONT",
    "GRID",
    "INK",
    "LABELS",
    "MUTED",
    "PALE",
    "SEQUENCE",
    "SEQUENTIAL",
    "SYMBOLS",
    "plot_layout",
]

# Okabe and Ito's colours, which people with any colour vision tell apart; shapes differ as well.
COLORS = {Model.FEDERATED: "#0072B2", Model.ALONE: "#D55E00", Model.POOLED: "#009E73"}
SYMBOLS = {Model.FEDERATED: "circle", Model.ALONE: "diamond", Model.POOLED: "square"}
LABELS = {Model.FEDERATED: "federated", Model.ALONE: "alone", Model.POOLED: "pooled"}
INK, MUTED, GRID, PALE, ABSENT = "#1c2733", "#5b6875", "#e7ebef", "#f1f3f5", "#E69F00"
SEQUENCE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#4d4d4d",
    "#999999",
    "#332288",
)
SEQUENTIAL = [[0, "#ffffff"], [1, "#0072B2"]]
DIVERGING = [[0, "#0072B2"], [0.25, "#8fc1e0"], [0.5, "#ffffff"], [0.75, "#f0b48c"], [1, "#D55E00"]]
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif'


def plot_layout(**layout: Any) -> dict[str, Any]:
    """A Plotly layout in the report's style; `layout` adds to it, axes key by key."""
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": "#b8c1ca",
        "ticks": "outside",
        "tickcolor": "#b8c1ca",
        "ticklen": 4,
        "automargin": True,
        "fixedrange": True,
        "title": {"standoff": 10},
    }
    common: dict[str, Any] = {
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "margin": {"l": 48, "r": 16, "t": 34, "b": 44},
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT}},
        "dragmode": False,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        "separators": ".\u2009",
    }
    axes = {name for name in layout if name.startswith(("xaxis", "yaxis"))} | {"xaxis", "yaxis"}
    titled = {name: _titled(layout.pop(name, {})) for name in sorted(axes)}
    return common | {name: axis | found for name, found in titled.items()} | layout


def _titled(axis: dict[str, Any]) -> dict[str, Any]:
    return axis | {"title": {"text": axis["title"], "standoff": 10}} if isinstance(axis.get("title"), str) else axis
