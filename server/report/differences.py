"""How the data differ between hospitals."""

from collections.abc import Mapping, Sequence
from typing import Any

from wardround.server.report.markup import Figure, Section, details, figure, plot_text, short, table, text
from wardround.server.report.run import Json, ReportedRun
from wardround.server.report.style import DIVERGING, SEQUENCE, plot_layout
from wardround.server.report.wording import count

__all__ = ["differences"]

_MOST_SITES, _MOST_INPUTS, _MOST_LABELS = 40, 60, 10
_LIMIT = 1.5


def differences(run: ReportedRun) -> Section:
    """Rows, labels and inputs of each hospital; for many hospitals, distributions."""
    title, anchor = "How the hospitals' data differ", "differences"
    data = run.differences
    if data is None:
        why = "they stayed with them" if run.deployed else "this run's code brought its own"
        body = f"<p>The hospitals' data are not described: {why}.</p>"
        return Section(anchor=anchor, title=title, body=body)
    sites = data["sites"]
    if len(sites) <= _MOST_SITES:
        plots = [_rows(sites), *([_labels(data)] if len(data["labels"]) > 1 else [])]
        heat = figure(_inputs(data)) if len(sites) > 1 and data["inputs"] else ""
    else:
        plots, heat = _distributions(sites), ""
    body = f"<p>{text(_told(run, sites))}</p>" + '<div class="pair">' + "".join(map(figure, plots)) + f"</div>{heat}"
    if len(sites) <= 200:
        body += details("Every hospital's numbers", _table(sites))
    return Section(anchor=anchor, title=title, body=body)


def _told(run: ReportedRun, sites: Sequence[Json]) -> str:
    sizes = sorted(site["n"] for site in sites)
    told = f"{count(len(sites), 'hospital')} hold {count(sum(sizes), 'row')}"
    if len(sites) == 1:
        return f"One hospital holds {count(sizes[0], 'row')}."
    told += f", from {sizes[0]} to {sizes[-1]} each (median {sizes[len(sizes) // 2]}). "
    kind = run.plan.simulation.partition.kind
    if kind == "column":
        told += f"The column “{run.plan.simulation.partition.column}” says which hospital a row belongs to."
    elif run.plan.data.source != "arrays":
        told += (
            f"One data set was dealt out to them by the plan (partition “{kind}”), so the differences are artificial."
        )
    return told


def _listing(sites: Sequence[Json]) -> dict[str, Any]:
    return {
        "tickvals": list(range(len(sites))),
        "ticktext": [plot_text(site["site"]) for site in sites],
        "range": [len(sites) - 0.4, -0.6],
        "showgrid": False,
        "ticks": "",
    }


def _stacked(
    sites: Sequence[Json], parts: Mapping[str, Sequence[float]], colors: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "type": "bar",
            "orientation": "h",
            "name": plot_text(name),
            "x": short(values),
            "y": list(range(len(sites))),
            "text": [plot_text(site["site"], 60) for site in sites],
            "textposition": "none",
            "hovertemplate": "%{text}: %{x}<extra>%{fullData.name}</extra>",
            "marker": {"color": color},
        }
        for (name, values), color in zip(parts.items(), colors, strict=False)
    ]


def _height(sites: Sequence[Json]) -> int:
    return 110 + 26 * len(sites)


def _rows(sites: Sequence[Json]) -> Figure:
    parts = {part: [site[part] for site in sites] for part in ("train", "validation", "test")}
    return Figure(
        title="Rows",
        label="Stacked bars: training, validation and test rows of each hospital",
        traces=_stacked(sites, parts, ("#0072B2", "#56B4E9", "#c9d3dc")),
        layout=plot_layout(barmode="stack", bargap=0.3, xaxis={"title": "rows"}, yaxis=_listing(sites)),
        height=_height(sites),
    )


def _labels(data: Json) -> Figure:
    sites = data["sites"]
    shares = [[n / max(site["n"], 1) for n in site["label_counts"]] for site in sites]
    first = min(len(data["labels"]), _MOST_LABELS)
    parts = {name: [share[index] for share in shares] for index, name in enumerate(data["labels"][:first])}
    if first < len(data["labels"]):
        parts["others"] = [sum(share[first:]) for share in shares]
    colors = ("#c9d3dc", "#D55E00") if len(parts) == 2 else SEQUENCE
    return Figure(
        title="Share of each label",
        label="Stacked bars: share of each label at each hospital",
        traces=_stacked(sites, parts, (*colors, "#222222")),
        layout=plot_layout(
            barmode="stack", bargap=0.3, xaxis={"tickformat": ".0%", "range": [0, 1.005]}, yaxis=_listing(sites)
        ),
        height=_height(sites),
    )


def _inputs(data: Json) -> Figure:
    sites = data["sites"]
    shifts = [
        [(site["mean"][i] - mean) / std if std > 0 else 0.0 for site in sites]
        for i, (mean, std) in enumerate(zip(data["mean"], data["std"], strict=True))
    ][: len(data["inputs"])]
    order = sorted(range(len(shifts)), key=lambda i: -sum(shift**2 for shift in shifts[i]))[:_MOST_INPUTS]
    chosen = sorted(order)
    left_out = len(shifts) - len(chosen)
    heat = {
        "type": "heatmap",
        "x": [plot_text(site["site"]) for site in sites],
        "z": [short(shifts[i]) for i in chosen],
        "colorscale": DIVERGING,
        "zmid": 0,
        "zmin": -_LIMIT,
        "zmax": _LIMIT,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{x}<br>%{text}<br>%{z:+.2f} standard deviations<extra></extra>",
        "text": [[plot_text(data["inputs"][i], 60)] * len(sites) for i in chosen],
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickvals": [-_LIMIT, 0, _LIMIT], "len": 0.6},
    }
    heat["x"] = list(range(len(sites)))
    axis = {"tickvals": list(range(len(chosen))), "ticktext": [plot_text(data["inputs"][i]) for i in chosen]}
    columns = {"tickvals": heat["x"], "ticktext": [plot_text(site["site"]) for site in sites]}
    caption = "Hospital's mean minus the mean of all rows, in standard deviations of all rows; colour ends at ±1.5."
    if left_out:
        caption += f" The {_MOST_INPUTS} inputs that differ most are shown, {left_out} are not."
    return Figure(
        title="Standardised mean difference of each input",
        label="Heat map: how far each hospital's mean of each input is from the mean of all rows",
        traces=[heat],
        layout=plot_layout(
            xaxis=columns | {"showgrid": False, "ticks": ""},
            yaxis=axis | {"autorange": "reversed", "showgrid": False, "ticks": "", "tickfont": {"size": 12}},
            margin={"l": 48, "r": 8, "t": 8, "b": 44},
        ),
        height=90 + max(20 * len(chosen), 60),
        caption=caption,
    )


def _distributions(sites: Sequence[Json]) -> list[Figure]:
    shown = (
        ("n", "Rows of a hospital", "rows"),
        ("label_distance", "Distance of its labels from the pool", "total variation distance"),
        ("input_distance", "Distance of its inputs from the pool", "root mean square of standardised differences"),
    )
    return [
        Figure(
            title=title,
            label=f"Histogram over hospitals: {title}",
            traces=[_histogram([site[name] for site in sites])],
            layout=plot_layout(xaxis={"title": axis}, yaxis={"title": "hospitals"}, bargap=0.02),
            height=300,
        )
        for name, title, axis in shown
    ]


def _histogram(values: Sequence[float], bins: int = 30) -> dict[str, Any]:
    low, high = min(values), max(values)
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / width), bins - 1)] += 1
    return {
        "type": "bar",
        "x": short(low + (index + 0.5) * width for index in range(bins)),
        "y": counts,
        "width": width,
        "marker": {"color": "#0072B2"},
        "hovertemplate": "about %{x:.3g}: %{y} hospitals<extra></extra>",
    }


def _table(sites: Sequence[Json]) -> str:
    head = ("hospital", "rows", "train", "validation", "test", "distance of labels", "distance of inputs")
    rows = [
        [site[name] for name in ("site", "n", "train", "validation", "test")]
        + [f"{site[name]:.3f}" for name in ("label_distance", "input_distance")]
        for site in sites
    ]
    caption = (
        "Distances from all rows together: labels, total variation (0 the same, 1 disjoint); inputs, root mean square "
        "of standardised mean differences"
    )
    return table(head, rows, caption)
