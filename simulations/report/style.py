"""How a report looks: colours, the style sheet, and what every plot has in common."""

from typing import Any

from wardround.simulations.comparison import Model

__all__ = [
    "ABSENT",
    "COLORS",
    "CSS",
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
SEQUENCE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#4d4d4d", "#999999", "#332288")
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


CSS = (
    """
:root { --ink: #1c2733; --muted: #5b6875; --line: #d9dfe5; --pale: #f6f8fa;
  --federated: #0072B2; --alone: #D55E00; --pooled: #009E73; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 """
    + FONT
    + """; }
main, header, footer { max-width: 1080px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
header p.kind { margin: 0 0 6px; color: var(--muted); font-size: 14px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 14px; overflow-wrap: anywhere; }
p.headline { font-size: 21px; line-height: 1.45; margin: 0 0 8px; max-width: 46em; }
p.headline strong.federated { color: var(--federated); } p.headline strong.alone { color: #b04d00; }
p.headline strong.pooled { color: #00764f; }
p.sub, figcaption, .note { color: var(--muted); font-size: 14px; max-width: 62em; }
nav { margin: 20px 0 0; padding: 10px 0; border-top: 1px solid var(--line); border-bottom: 1px solid var(--line);
  font-size: 14px; display: flex; flex-wrap: wrap; gap: 4px 20px; }
a { color: #005a8e; } nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
section { margin: 44px 0 0; }
h2 { font-size: 22px; line-height: 1.3; margin: 0 0 8px; } h3 { font-size: 16px; margin: 22px 0 4px; }
section > p { max-width: 46em; margin: 0 0 12px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; margin: 26px 0 0; }
.card { border: 1px solid var(--line); border-top: 4px solid var(--line); border-radius: 6px; padding: 12px 16px; }
.card.federated { border-top-color: var(--federated); } .card.alone { border-top-color: var(--alone); }
.card.pooled { border-top-color: var(--pooled); }
.card .what { font-size: 14px; color: var(--muted); } .card .value { font-size: 28px; font-weight: 600; line-height: 1.3; }
.card .more { font-size: 14px; color: var(--muted); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 8px 28px; }
.triple { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 8px 28px; }
figure { margin: 14px 0 0; min-width: 0; break-inside: avoid; }
figure h3 { margin: 0; } figcaption { margin-top: 4px; }
.plot { width: 100%; min-width: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; margin: 10px 0; min-width: 50%; }
caption { text-align: left; color: var(--muted); padding-bottom: 4px; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } thead th { border-bottom: 2px solid #b8c1ca; } tbody th { font-weight: 400; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
details { margin: 12px 0; } summary { cursor: pointer; color: #005a8e; font-size: 14px; }
pre { background: var(--pale); border: 1px solid var(--line); border-radius: 6px; padding: 14px; overflow: auto;
  max-height: 480px; font: 13px/1.5 ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; }
code { font: 13px ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }
ul.plain { padding-left: 20px; max-width: 46em; } ul.plain li { margin: 0 0 7px; }
.warning { border-left: 4px solid #E69F00; background: #fff8ea; padding: 10px 14px; max-width: 46em; }
.swatch { display: inline-block; width: 12px; height: 12px; border: 1px solid #b8c1ca; margin: 0 5px 0 0; vertical-align: -1px; }
.key { font-size: 14px; color: var(--muted); display: flex; flex-wrap: wrap; gap: 2px 18px; }
footer { margin: 56px auto 40px; color: var(--muted); font-size: 14px; }
footer div { border-top: 1px solid var(--line); padding-top: 12px; }
@media (max-width: 600px) { main, header, footer { padding-left: 16px; padding-right: 16px; } header { padding-top: 24px; }
  h1 { font-size: 25px; } p.headline { font-size: 18px; } section { margin-top: 34px; } .card .value { font-size: 24px; } }
@media print { body { font-size: 11pt; } nav, .modebar { display: none; } section { break-inside: auto; } h2 { break-after: avoid; }
  pre { max-height: none; white-space: pre-wrap; } header { padding-top: 0; } a { color: inherit; } }
"""
)
