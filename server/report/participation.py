"""Who took part in which round."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wardround.contribution import Verdict
from wardround.server.report.markup import Figure, Section, figure, key, plot_text, table, text
from wardround.server.report.run import Json, ReportedRun, verdict_of
from wardround.server.report.style import ABSENT, GRID, MUTED, PALE, SEQUENCE, plot_layout
from wardround.server.report.wording import count

__all__ = ["participation"]

_MOST_SITES, _MOST_ROUNDS = 100, 300
_MOST_REASONS = 5
_NOT_DRAWN, _TOOK_PART, _VOID, _ABSENT, _REFUSED = range(5)
_KEY = (
    (PALE, "not drawn"),
    ("#0072B2", "took part"),
    ("#A9D0EA", "update came, but the round was void"),
    (ABSENT, "drawn, but no update in time"),
    ("#1c2733", "update refused"),
)


def participation(run: ReportedRun) -> Section:
    """A heat map of hospitals and rounds; for more of either, counts by round and by hospital."""
    title, anchor = "Who took part", "participation"
    if not run.lines:
        return Section(anchor=anchor, title=title, body="<p>No round was finished.</p>")
    if run.plan.privacy.hides_participation:
        told = "Who took part is kept secret: the claim of differential privacy rests on it."
        return Section(anchor=anchor, title=title, body=f"<p>{text(told)}</p>")
    sites = run.sites
    small = len(sites) <= _MOST_SITES and len(run.lines) <= _MOST_ROUNDS
    plots = [_heat_map(sites, run.lines)] if small else [_by_round(run.lines), _by_site(run)]
    body = f"<p>{text(_told(run))}</p>"
    if small:
        found = {cell for row in plots[0].traces[0]["z"] for cell in row}
        body += key(_KEY[state] for state in sorted(found)) + figure(plots[0])
    else:
        body += '<div class="pair">' + "".join(map(figure, plots)) + "</div>"
    reasons = _reasons(run.lines)
    if reasons:
        drawn = sum(len(line["cohort"]) for line in run.lines)
        rows = [(reason, n, f"{100 * n / drawn:.1f} %") for reason, n in reasons.most_common(20)]
        body += table(("why an update is missing", "times", "of all drawn"), rows)
    return Section(anchor=anchor, title=title, body=body)


def _reasons(lines: Sequence[Json]) -> Counter[str]:
    return Counter(absence["reason"] for line in lines for absence in line["absences"])


def _told(run: ReportedRun) -> str:
    drawn = sum(len(line["cohort"]) for line in run.lines)
    absent = sum(len(line["absences"]) for line in run.lines)
    refused = sum(len(_refused(line)) for line in run.lines)
    cohorts = {len(line["cohort"]) for line in run.lines}
    if cohorts == {run.num_sites} and not absent and not refused:
        who = "The hospital" if run.num_sites == 1 else f"All {count(run.num_sites, 'hospital')}"
        return f"{who} took part in every round."
    size = str(max(cohorts)) if len(cohorts) == 1 else f"{min(cohorts)} to {max(cohorts)}"
    missing = f"{count(absent, 'update')} of {drawn:,}".replace(",", "\u2009")
    grouped = run.plan.protection.on
    lacking = "reached no sum" if grouped else "did not come"
    came = f"{missing} that were asked for {lacking}." if absent else "Every update that was asked for came."
    why = "stood in a group's sum that had to be refused" if grouped else "came and had to be refused"
    more = f" {count(refused, 'update')} {why}." if refused else ""
    return f"Each round draws {size} of {count(run.num_sites, 'hospital')}. {came}{more}"


def _refused(line: Json) -> dict[str, str]:
    """The hospitals whose update was not given to the rule, and why."""
    return {
        site: one["reason"] or "refused"
        for one in line["evidence"]
        if verdict_of(one) is Verdict.REFUSED
        for site in one["members"]
    }


def _states(line: Json) -> Iterator[tuple[str, int, str]]:
    """Each drawn hospital, its state and the reason. What a rule made little of took part: see `robustness`."""
    absent = {absence["site"]: absence["reason"] for absence in line["absences"]}
    refused = _refused(line)
    for site in line["cohort"]:
        if site in absent:
            yield site, _ABSENT, absent[site]
        elif site in refused:
            yield site, _REFUSED, refused[site]
        else:
            yield site, _VOID if line["void"] else _TOOK_PART, ""


def _heat_map(sites: Sequence[str], lines: Sequence[Json]) -> Figure:
    at = {site: index for index, site in enumerate(sites)}
    z = [[_NOT_DRAWN] * len(lines) for _ in sites]
    hover = [[""] * len(lines) for _ in sites]
    for column, line in enumerate(lines):
        for site, state, reason in _states(line):
            z[at[site]][column] = state
            hover[at[site]][column] = f"<br>{plot_text(reason, 80)}" if reason else ""
    colors = [color for color, _ in _KEY]
    names = [name for _, name in _KEY]
    heat = {
        "type": "heatmap",
        "x": [line["round"] for line in lines],
        "z": z,
        "text": [
            [f"{plot_text(site, 60)}<br>{names[state]}{reason}" for state, reason in zip(states, why, strict=True)]
            for site, states, why in zip(sites, z, hover, strict=True)
        ],
        "hovertemplate": "round %{x}<br>%{text}<extra></extra>",
        "colorscale": [[edge / 5, color] for at, color in enumerate(colors) for edge in (at, at + 1)],
        "zmin": -0.5,
        "zmax": 4.5,
        "showscale": False,
        "xgap": 1 if len(lines) <= 120 else 0,
        "ygap": 1,
    }
    dull = all(state == _TOOK_PART for row in z for state in row)
    row = 14 if dull or len(sites) > 40 else 24
    axis: dict[str, Any] = {"autorange": "reversed", "showgrid": False, "ticks": ""}
    axis |= {"tickvals": list(range(len(sites))), "ticktext": [plot_text(site) for site in sites]}
    if row < 20:
        axis["tickfont"] = {"size": 10}
    return Figure(
        title="",
        label="Heat map: which hospital took part in which round",
        traces=[heat],
        layout=plot_layout(
            xaxis={"title": "round", "showgrid": False},
            yaxis=axis,
            margin={"l": 48, "r": 8, "t": 8, "b": 44},
        ),
        height=70 + row * len(sites),
    )


def _by_round(lines: Sequence[Json]) -> Figure:
    """Mean counts over bins of rounds, at most 300 of them."""
    width = -(-len(lines) // _MOST_ROUNDS)
    bins = [lines[start : start + width] for start in range(0, len(lines), width)]
    named = [reason for reason, _ in _reasons(lines).most_common(_MOST_REASONS)]
    counts = [Counter(_groups(part, named)) for part in bins]
    groups = [
        name for name in ("took part", "void round", "refused", *named, "other reasons") if any(c[name] for c in counts)
    ]
    colors = {"took part": "#0072B2", "void round": "#A9D0EA", "refused": "#1c2733", "other reasons": MUTED}
    spare = iter((ABSENT, *SEQUENCE[2:]))
    traces = [
        {
            "type": "bar",
            "name": plot_text(name, 40),
            "x": [part[0]["round"] for part in bins],
            "y": [round(c[name] / len(part), 2) for c, part in zip(counts, bins, strict=True)],
            "marker": {"color": colors.get(name) or next(spare), "line": {"width": 0}},
        }
        for name in groups
    ]
    return Figure(
        title="Hospitals drawn, by round",
        label="Stacked bars: how many hospitals took part in each round and why others did not",
        traces=traces,
        layout=plot_layout(
            barmode="stack",
            bargap=0,
            xaxis={"title": "round"},
            yaxis={"title": "hospitals"},
            legend={"orientation": "h", "x": 0, "y": -0.25, "yanchor": "top"},
        ),
        height=380,
        caption=f"Means of {width} rounds." if width > 1 else "",
    )


def _groups(lines: Sequence[Json], named: Sequence[str]) -> Iterator[str]:
    plain: Mapping[int, str] = {_TOOK_PART: "took part", _VOID: "void round", _REFUSED: "refused"}
    for line in lines:
        for _, state, reason in _states(line):
            yield plain.get(state) or (reason if reason in named else "other reasons")


def _by_site(run: ReportedRun) -> Figure:
    took = Counter(site for line in run.lines for site, state, _ in _states(line) if state == _TOOK_PART)
    rounds = Counter(took[site] for site in run.sites)
    return Figure(
        title="Rounds in which a hospital took part",
        label="Histogram: in how many rounds a hospital took part",
        traces=[
            {
                "type": "bar",
                "x": sorted(rounds),
                "y": [rounds[n] for n in sorted(rounds)],
                "marker": {"color": "#0072B2", "line": {"width": 0, "color": GRID}},
                "hovertemplate": "%{y} hospitals in %{x} rounds<extra></extra>",
            }
        ],
        layout=plot_layout(xaxis={"title": "rounds"}, yaxis={"title": "hospitals"}, bargap=0.05),
        height=380,
    )
