"""Pictures of evidence: contributions by length and direction, verdicts and suspicion by site and round."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from wardround.contribution import Verdict
from wardround.server.report.evidence import Observation, came, observations, quarantines
from wardround.server.report.markup import Figure, plot_text, short
from wardround.server.report.run import Json, ReportedRun
from wardround.server.report.style import INK, PALE, SEQUENCE, plot_layout
from wardround.server.report.wording import count

__all__ = ["SMALL", "VERDICT_KEY", "contributions_plot", "suspicion_plot", "verdict_map"]

SMALL = (100, 300)
"""The most sites and rounds of which every cell is drawn."""
_MOST_POINTS, _MOST_CURVES, _MOST_ROUNDS = 3000, 30, 500
_COLORS = {
    Verdict.ACCEPTED: "#56B4E9",
    Verdict.DOWN_WEIGHTED: "#E69F00",
    Verdict.REJECTED: "#B5400A",
    Verdict.REFUSED: INK,
}
_SHAPES = {Verdict.ACCEPTED: "circle", Verdict.DOWN_WEIGHTED: "diamond", Verdict.REJECTED: "square"}
_AWAY, _CLEAN, _FLAGGED, _LESS, _NOTHING, _REFUSED, _QUARANTINED = range(7)
VERDICT_KEY = (
    (PALE, "no update"),
    ("#A9D6F2", "accepted"),
    ("#CC79A7", "accepted, but flagged by a detector"),
    (_COLORS[Verdict.DOWN_WEIGHTED], "down-weighted by the rule"),
    (_COLORS[Verdict.REJECTED], "rejected: the rule took nothing of it"),
    (_COLORS[Verdict.REFUSED], "refused before the rule"),
    ("#9aa5b1", "in quarantine"),
)
_STATES = {Verdict.DOWN_WEIGHTED: _LESS, Verdict.REJECTED: _NOTHING, Verdict.REFUSED: _REFUSED}


def contributions_plot(run: ReportedRun) -> Figure | None:
    """A point for each contribution that the rule saw; None when no length is known."""
    known = [one for one in observations(run.lines) if one.norm is not None and one.verdict is not Verdict.REFUSED]
    if not known:
        return None
    by_angle = any(one.cosine is not None for one in known)
    known = [one for one in known if one.cosine is not None or not by_angle]
    attacks = run.plan.simulation.attack.from_round
    attackers = set(run.attackers)
    bad = [one.round >= attacks and not attackers.isdisjoint(one.members) for one in known]
    drawn = _thinned([not one.plain or attacked for one, attacked in zip(known, bad, strict=True)])
    points = [known[index] for index in drawn]
    ringed = [known[index] for index in drawn if bad[index]]
    lengths = sorted(one.norm for one in points if one.norm)
    log = bool(lengths) and lengths[-1] > 20 * lengths[len(lengths) // 2]
    floor = lengths[0] if log else 0.0

    def place(shown: Sequence[Observation]) -> dict[str, Any]:
        return {
            "type": "scatter" if len(points) < 500 else "scattergl",
            "mode": "markers",
            "x": short([one.cosine if by_angle else float(one.round) for one in shown]),
            "y": short([max(one.norm or 0.0, floor) for one in shown]),
        }

    traces = [
        place(shown)
        | {
            "name": verdict.value,
            "text": [_hover(one) for one in shown],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {
                "color": _COLORS[verdict],
                "symbol": [_SHAPES[verdict] + ("-dot" if one.flags else "") for one in shown],
                "size": 9,
                "opacity": 0.75,
                "line": {"width": 0.5, "color": "#ffffff"},
            },
        }
        for verdict in _SHAPES
        if (shown := [one for one in points if one.verdict is verdict])
    ]
    if ringed:
        ring = {"symbol": "circle-open", "size": 16, "color": INK, "line": {"width": 1.5}}
        traces.append(place(ringed) | {"name": "sent by an attacker", "hoverinfo": "skip", "marker": ring})
    caption = [f"{count(len(points), 'contribution')} of {len(known):,}.".replace(",", "\u2009")]
    if by_angle:
        caption.append("Cosine 1: the same direction as the aggregate; 0: nothing in common; −1: against it.")
    if any(one.flags for one in points):
        caption.append("A point with a dot in it was flagged by a detector.")
    return Figure(
        title="Every contribution: its length and its direction" if by_angle else "Every contribution: its length",
        label="Scatter plot: length of each contribution against the cosine of its angle to the aggregate"
        if by_angle
        else "Scatter plot: length of each contribution by round",
        traces=traces,
        layout=plot_layout(
            xaxis={"title": "cosine to the aggregate" if by_angle else "round"},
            yaxis={"title": "L2 norm" + (" (logarithmic)" if log else ""), "rangemode": "tozero"}
            | ({"type": "log", "dtick": 1} if log else {}),
        ),
        height=440,
        caption=" ".join(caption),
    )


def _thinned(unusual: Sequence[bool]) -> list[int]:
    """Which points to draw, in their order: those that are unusual first, of the rest every so many."""
    special = [index for index, one in enumerate(unusual) if one]
    usual = [index for index, one in enumerate(unusual) if not one]
    special = _every(special, _MOST_POINTS * 2 // 3 if usual else _MOST_POINTS)
    return sorted(special + _every(usual, _MOST_POINTS - len(special)))


def _every(found: list[int], most: int) -> list[int]:
    return found[:: max(1, math.ceil(len(found) / most))]


def _hover(one: Observation) -> str:
    who = ", ".join(plot_text(site, 40) for site in one.members[:3])
    who += f" and {len(one.members) - 3} more" if len(one.members) > 3 else ""
    share = "" if one.share is None else f"; {one.share:.2f} of an equal share"
    reason = f"<br>{plot_text(one.reason, 90)}" if one.reason else ""
    norm = "" if one.norm is None else f"<br>norm {one.norm:.4g}"
    return f"{who}, round {one.round}<br>{one.verdict.value}{share}{norm}{reason}"


def verdict_map(run: ReportedRun) -> Figure:
    """A cell for each site and round, by verdict; for at most `SMALL` of them."""
    sites, lines = run.sites, run.lines
    at = {site: index for index, site in enumerate(sites)}
    z = [[_AWAY] * len(lines) for _ in sites]
    more = [[""] * len(lines) for _ in sites]
    for column, line in enumerate(lines):
        for site, state, reason in _cells(line, lines[column - 1] if column else None):
            if site in at:
                z[at[site]][column] = state
                more[at[site]][column] = f"<br>{plot_text(reason, 90)}" if reason else ""
    names = [name for _, name in VERDICT_KEY]
    last = len(VERDICT_KEY)
    row = 14 if len(sites) > 40 else 22
    marked = [plot_text(site, 24) + (" ◉" if site in run.attackers else "") for site in sites]
    return Figure(
        title="What became of each hospital's update, by round",
        label="Heat map: verdict on each hospital's update in each round",
        traces=[
            {
                "type": "heatmap",
                "x": [line["round"] for line in lines],
                "z": z,
                "text": [
                    [
                        f"{plot_text(site, 60)}<br>{names[state]}{why}"
                        for state, why in zip(states, reasons, strict=True)
                    ]
                    for site, states, reasons in zip(sites, z, more, strict=True)
                ],
                "hovertemplate": "round %{x}<br>%{text}<extra></extra>",
                "colorscale": [
                    [edge / last, color] for index, (color, _) in enumerate(VERDICT_KEY) for edge in (index, index + 1)
                ],
                "zmin": -0.5,
                "zmax": last - 0.5,
                "showscale": False,
                "xgap": 1 if len(lines) <= 120 else 0,
                "ygap": 1,
            }
        ],
        layout=plot_layout(
            xaxis={"title": "round", "showgrid": False},
            yaxis={
                "autorange": "reversed",
                "showgrid": False,
                "ticks": "",
                "tickvals": list(range(len(sites))),
                "ticktext": marked,
                "tickfont": {"size": 10 if row < 20 else 12},
            },
            margin={"l": 48, "r": 8, "t": 8, "b": 44},
        ),
        height=70 + row * len(sites),
        caption="◉: an attacker of this simulation." if set(run.attackers) & set(sites) else "",
    )


def _cells(line: Json, before: Json | None) -> Iterator[tuple[str, int, str]]:
    """Sites with something to show, what, and why. A site is out of a round when it was in quarantine before it."""
    for site in () if before is None else before.get("quarantined", ()):
        yield site, _QUARANTINED, ""
    for site in came(line):
        yield site, _CLEAN, ""
    for one in observations([line]):
        accepted = _FLAGGED if one.flags else _CLEAN
        for site in one.members:
            yield site, _STATES.get(one.verdict, accepted), one.reason


def suspicion_plot(run: ReportedRun) -> Figure | None:
    """A curve for each site that ever was suspicious, the most suspicious ones first; None when there is none."""
    highest: dict[str, float] = {}
    for line in run.lines:
        for site, value in line.get("reputation", {}).items():
            highest[site] = max(value, highest.get(site, 0.0))
    if not highest:
        return None
    listed = sorted(highest, key=lambda site: (-highest[site], site))
    sites = listed[:_MOST_CURVES]
    lines = run.lines[:: math.ceil(len(run.lines) / _MOST_ROUNDS)]
    attackers = set(run.attackers)
    few = len(sites) <= len(SEQUENCE)
    traces: list[dict[str, Any]] = []
    for index, site in enumerate(sites):
        color = SEQUENCE[index] if few else "#B5400A" if site in attackers else "#7fb3d5"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plot_text(site, 20) + (" ◉" if site in attackers else ""),
                "x": [line["round"] for line in lines],
                "y": short([line.get("reputation", {}).get(site, 0.0) for line in lines]),
                "text": plot_text(site, 40),
                "hovertemplate": "%{text}, round %{x}: %{y}<extra></extra>",
                "line": {"color": color, "width": 1.8, "dash": ("solid", "dash", "dot")[index % 3] if few else "solid"},
                "showlegend": few,
            }
        )
    begun = [(site, first) for site, spans in quarantines(run.lines).items() if site in sites for first, _ in spans]
    if begun:
        level = {line["round"]: line.get("reputation", {}) for line in run.lines}
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "quarantined",
                "x": [first for _, first in begun],
                "y": short([level[first].get(site, 0.0) for site, first in begun]),
                "text": [f"{plot_text(site, 40)}: quarantined after round {first}" for site, first in begun],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"symbol": "x", "size": 10, "color": INK},
            }
        )
    caption = ["Suspicion grows with every flag and decays with every round without one."]
    if len(listed) > len(sites):
        caption.append(f"The {len(sites)} most suspicious of {count(len(listed), 'hospital')}.")
    if not few and attackers:
        caption.append("Dark: attackers of this simulation; pale: the others.")
    elif attackers & set(sites):
        caption.append("◉: an attacker of this simulation.")
    return Figure(
        title="Suspicion, by round",
        label="Line plot: each suspicious hospital's suspicion over the rounds",
        traces=traces,
        layout=plot_layout(
            xaxis={"title": "round", "rangemode": "tozero"},
            yaxis={"title": "suspicion", "range": [0, 1.04]},
            legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        ),
        height=440,
        caption=" ".join(caption),
    )
