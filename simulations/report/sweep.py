"""A sweep's page: what a key's values trade for what, with the claim beside every number."""

from collections.abc import Mapping, Sequence
from typing import Any

from wardround.decoding import decode
from wardround.server.report.markup import Figure, Section, figure, plot_text, short, table, text
from wardround.server.report.page import document
from wardround.server.report.privacy import claim_parts
from wardround.server.report.style import INK, MUTED, plot_layout
from wardround.server.report.wording import LOWER_IS_BETTER, count, metric, number, sentence
from wardround.strategies.privacy.claim import Claim, rounded_up

__all__ = ["render_sweep"]

Json = Mapping[str, Any]
_BLUE, _GREEN = "#0072B2", "#009E73"
_AGAINST_EPSILON = ("privacy.epsilon", "privacy.noise_multiplier")
"""Keys whose values are drawn at the epsilon that they came to."""
_NONE = "no differential privacy"


def render_sweep(found: Json) -> str:
    """The page of sweep.json as HTML, with the plotting library in it; it loads nothing from anywhere.

    Raises KeyError when `found` lacks something that it must have, MissingExtraError without plotly.
    """
    return document(
        title=f"{found['plan']}: sweep of {found['key']}",
        kind=f"Sweep of {found['key']}, {found['created'][:10]}",
        heading=found["plan"],
        lead=_lead(found),
        sections=[make(found) for make in (_trade_off, _claims, _runs, _limits)],
    )


def _claim_of(point: Json) -> Claim | None:
    claim = point["claim"]
    return None if claim is None else decode(Claim, {k: v for k, v in claim.items() if k != "headline"})


def _headline_of(point: Json) -> str:
    """The claim of a run, or of the runs of a value; a dash where none came to an end."""
    claim = _claim_of(point)
    return claim.headline() if claim is not None else _NONE if point["metrics"] else "–"


def _lead(found: Json) -> str:
    runs = count(len(found["runs"]), "training run")
    sub = (
        f"{count(found['sites'], 'hospital')}, {count(found['rounds'], 'round')}; "
        f"{count(len(found['values']), 'value')} of {found['key']} on {count(len(found['seeds']), 'seed')}: {runs}. "
        "Figures are on test rows, on which nobody trained."
    )
    note = f'<p class="warning">{text(sentence(said))}</p>' if (said := found.get("note")) else ""
    return f'<p class="headline">{text(_best(found))}</p><p class="sub">{text(sub)}</p>{note}'


def _best(found: Json) -> str:
    """The highest and the lowest mean of the leading metric."""
    if not found["metrics"]:
        return "No run came to an end."
    name = found["metrics"][0]
    known = [point for point in found["points"] if name in point["metrics"]]
    ordered = sorted(known, key=lambda point: point["metrics"][name]["mean"], reverse=name not in LOWER_IS_BETTER)
    told = [
        f"{number(name, point['metrics'][name]['mean'])} with {found['key']} = {point['value']}, {_headline_of(point)}"
        for point in (ordered[0], ordered[-1])
    ]
    ends = told[0] if len(ordered) == 1 else f"best {told[0]}; worst {told[1]}"
    return f"Mean {metric(name)} of the seeds: {ends}."


def _trade_off(found: Json) -> Section:
    body = "".join(figure(_plot(found, name)) for name in found["metrics"])
    body = f'<div class="pair">{body}</div>' if len(found["metrics"]) > 1 else body
    rows = (
        (
            point["value"],
            _headline_of(point),
            *(_spread(name, point["metrics"].get(name)) for name in found["metrics"]),
            str(point["failed"]),
        )
        for point in found["points"]
    )
    head = (found["key"], "claim", *map(metric, found["metrics"]), "failed runs")
    note = f"mean (least to most) of {count(len(found['seeds']), 'seed')}; each claim is of one run alone"
    return Section(anchor="trade-off", title="The trade-off", body=body + table(head, rows, note))


def _spread(name: str, found: Mapping[str, float] | None) -> str:
    if found is None:
        return "–"
    if found["runs"] < 2:
        return number(name, found["mean"])
    return f"{number(name, found['mean'])} ({number(name, found['min'])} to {number(name, found['max'])})"


def _plot(found: Json, name: str) -> Figure:
    points = [point for point in found["points"] if name in point["metrics"]]
    placed, apart = _places(found, points)
    shapes, notes = _lines_across(name, apart)
    against = "epsilon" if found["key"] in _AGAINST_EPSILON and placed else found["key"]
    return Figure(
        title=f"{metric(name)} against {against}",
        label=f"Plot of {metric(name)} for each value of {found['key']}",
        traces=[_means(found, name, placed), _seeds(found, name, placed)] if placed else [],
        layout=plot_layout(
            xaxis=_axis(found, placed),
            yaxis={"title": metric(name)},
            shapes=shapes,
            annotations=notes,
            showlegend=False,
            margin={"l": 60, "r": 16, "t": 12, "b": 50},
        ),
        height=340,
        caption="Circles are single runs, dots are means of the seeds, bars reach from the least to the most.",
    )


def _places(found: Json, points: Sequence[Json]) -> tuple[list[Json], list[Json]]:
    """What has a place on the axis, in its order, and what is drawn across it: runs without privacy beside epsilons."""
    if found["key"] not in _AGAINST_EPSILON:
        return list(points), []
    private = [point for point in points if point["claim"] is not None and point["claim"]["epsilon"] > 0]
    ordered = sorted(private, key=lambda point: point["claim"]["epsilon"])
    return ordered, [point for point in points if point["claim"] is None]


def _x(found: Json, points: Sequence[Json]) -> list[Any]:
    if found["key"] in _AGAINST_EPSILON:
        return list(short(point["claim"]["epsilon"] for point in points))
    if all(_is_number(point["value"]) for point in points):
        return [float(point["value"]) for point in points]
    return [plot_text(point["value"]) for point in points]


def _is_number(value: str) -> bool:
    try:
        return abs(float(value)) < float("inf")
    except ValueError:
        return False


def _axis(found: Json, placed: Sequence[Json]) -> dict[str, Any]:
    """Epsilon with what it is of, or the key; logarithmic where values span a factor of ten."""
    values = _x(found, placed)
    title = found["key"]
    if found["key"] in _AGAINST_EPSILON and placed:
        ends = sorted({_headline_of(point).partition(" at ")[2] for point in placed})
        title = f"epsilon at {ends[0]}" if len(ends) == 1 else "epsilon (delta and unit: see the table)"
    if not all(isinstance(value, float) for value in values):
        return {"title": title, "type": "category"}
    wide = bool(values) and min(values) > 0 and max(values) >= 10 * min(values)
    kind = "log" if wide or found["key"] in _AGAINST_EPSILON else "linear"
    ticks = {"tickvals": values, "ticktext": [rounded_up(value) for value in values]} if len(values) <= 12 else {}
    return {"title": title, "type": kind, **ticks}


def _means(found: Json, name: str, placed: Sequence[Json]) -> dict[str, Any]:
    spreads = [point["metrics"][name] for point in placed]
    up = [spread["max"] - spread["mean"] for spread in spreads]
    down = [spread["mean"] - spread["min"] for spread in spreads]
    x = _x(found, placed)
    return {
        "type": "scatter",
        "mode": "lines+markers" if all(isinstance(value, float) for value in x) else "markers",
        "x": x,
        "y": short(spread["mean"] for spread in spreads),
        "text": [f"{plot_text(point['value'])}<br>{plot_text(_headline_of(point), 80)}" for point in placed],
        "error_y": {"array": short(up), "arrayminus": short(down), "symmetric": False, "thickness": 1.4, "width": 0},
        "line": {"color": _BLUE, "width": 2},
        "marker": {"size": 9},
        "hovertemplate": "%{text}<br>mean %{y:.4g}<extra></extra>",
    }


def _seeds(found: Json, name: str, placed: Sequence[Json]) -> dict[str, Any]:
    at = dict(zip((point["value"] for point in placed), _x(found, placed), strict=True))
    runs = [run for run in found["runs"] if run["value"] in at and name in run["metrics"]]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [at[run["value"]] for run in runs],
        "y": short(run["metrics"][name] for run in runs),
        "text": [f"{plot_text(run['value'])}, seed {run['seed']}" for run in runs],
        "marker": {"color": INK, "size": 7, "symbol": "circle-open"},
        "hovertemplate": "%{text}<br>%{y:.4g}<extra></extra>",
    }


def _lines_across(name: str, apart: Sequence[Json]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A dashed line at each mean without privacy, in its range over the seeds."""
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for point in apart:
        spread = point["metrics"][name]
        whole = {"xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
        band = {"type": "rect", "y0": spread["min"], "y1": spread["max"], "line": {"width": 0}}
        shapes.append(whole | band | {"fillcolor": _GREEN, "opacity": 0.13})
        line = {"color": _GREEN, "width": 1.6, "dash": "dash"}
        shapes.append(whole | {"type": "line", "y0": spread["mean"], "y1": spread["mean"], "line": line})
        notes.append(
            {
                "text": _NONE,
                "xref": "paper",
                "x": 0.01,
                "y": spread["mean"],
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"color": MUTED, "size": 12},
            }
        )
    return shapes, notes


def _claims(found: Json) -> Section:
    """What the claims have in common is said once; a claim that says something else is told beside it."""
    groups: dict[tuple[object, ...], list[tuple[str, Claim]]] = {}
    for point in found["points"]:
        if (claim := _claim_of(point)) is not None:
            same = (claim.unit, claim.relation, claim.adversary, claim.sampling, claim.assumptions, claim.not_covered)
            groups.setdefault(same, []).append((point["value"], claim))
    if not groups:
        body = "<p>No run claims differential privacy: nothing bounds what its model gives away.</p>"
    else:
        body = ""
        for members in groups.values():
            rows = [(value, claim.headline()) for value, claim in members]
            body += table((found["key"], "claim"), rows) + claim_parts(members[0][1], common=len(members) > 1)
    return Section(anchor="claim", title="What is claimed", body=body)


def _runs(found: Json) -> Section:
    names = found["metrics"]
    rows = [
        (
            run["value"],
            str(run["seed"]),
            *(number(name, run["metrics"][name]) if name in run["metrics"] else "–" for name in names),
            _headline_of(run),
            str(run["rounds"]),
            run["error"] or run["stopped"] or "–",
            run["folder"],
        )
        for run in found["runs"]
    ]
    head = (found["key"], "seed", *map(metric, names), "claim", "rounds", "why it ended early", "folder")
    made = f"Plan {found['plan']}, digest {found['digest']}; made {found['created']}."
    body = f'{table(head, rows)}<p class="note">{text(made)}</p>'
    return Section(anchor="runs", title="Each run", body=body)


def _limits(found: Json) -> Section:
    private = sum(run["claim"] is not None for run in found["runs"])
    sentences = [
        "A choice that is free: choosing a value by this table is itself a choice that depends on the data, which no "
        "claim here covers.",
        "One charge: each claim is of one run alone. Runs on the same rows add up"
        + (f", and {count(private, 'run')} here released something." if private > 1 else "."),
        "What a hospital may see: these figures are the researcher's view, computed from all test rows in clear.",
        "Intervals: the range over seeds is what these runs showed, no confidence interval. A seed changes how rows "
        "are dealt out and the first model; noise of differential privacy comes from no seed, and differs each time.",
        "Another federation: other data, or another number of hospitals, trade differently.",
    ]
    body = '<ul class="plain">' + "".join(f"<li>{text(sentence)}</li>" for sentence in sentences) + "</ul>"
    return Section(anchor="limits", title="What this does not show", body=body)
