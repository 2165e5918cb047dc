"""Per hospital: its own model, the federated one, the pooled one."""

from collections.abc import Sequence
from typing import Any

from wardround.server.report.markup import Figure, Section, details, figure, plot_text, short, table, text
from wardround.server.report.run import ReportedRun
from wardround.server.report.style import COLORS, LABELS, MUTED, SYMBOLS, plot_layout
from wardround.server.report.summary import scores_table_rows
from wardround.server.report.wording import LOWER_IS_BETTER, count, difference, estimate, listed, metric, number
from wardround.server.runs.comparison import Comparison, Estimate, Model
from wardround.server.runs.metrics import Kind

__all__ = ["hospitals"]

_MOST_LISTED = 40
_OFFSETS = {Model.ALONE: 0.2, Model.FEDERATED: 0.0, Model.POOLED: -0.2}


def hospitals(run: ReportedRun) -> Section:
    """What the federation brings to each hospital; every model's scores in tables."""
    found = run.comparison
    if found is None or not found.overall.get(Model.FEDERATED):
        why = "No model was judged on test rows"
        if run.deployed:
            why = "A hospital counts in sums with the others, and no model was trained on its rows alone"
        body = f"<p>{why}, so hospitals are not compared.</p>"
        return Section(anchor="hospitals", title="What each hospital gains", body=body)
    unit = "" if run.plan.data.target is None else run.plan.data.target.unit
    plots = [_own(found, unit) if len(found.sites) <= _MOST_LISTED else _scatter(found, unit)]
    if any(site.elsewhere for site in found.sites):
        plots.append(_everywhere(found, unit) if len(found.sites) <= _MOST_LISTED else _spread(found, unit))
    body = f"<p>{text(_told(run, found))}</p>" + '<div class="pair">' + "".join(map(figure, plots)) + "</div>"
    body += f'<p class="note">{text(_note(found))}</p>'
    head = ["on all test rows", *(LABELS[model] for model in Model), "federated − alone", "federated − pooled"]
    body += table(head, scores_table_rows(found, unit), "All metrics, with 95 % intervals; alone: mean of hospitals")
    body += details("Every hospital's numbers", _site_table(found, unit))
    return Section(anchor="hospitals", title="What each hospital gains", body=body)


def _told(run: ReportedRun, found: Comparison) -> str:
    name = found.primary
    sign = -1 if name in LOWER_IS_BETTER else 1
    gains = [sign * g.value for site in found.sites if (g := site.gain.get(Model.ALONE, {}).get(name)) is not None]
    told = []
    if len(found.sites) < run.num_sites:
        told.append(
            f"Of {count(run.num_sites, 'hospital')}, {len(found.sites)} are judged one by one; they stand for the rest."
        )
    if gains:
        better, same = sum(g > 1e-12 for g in gains), sum(abs(g) <= 1e-12 for g in gains)
        parts = [f"better at {better}", f"equal at {same}", f"worse at {len(gains) - better - same}"]
        told.append(
            f"On the hospital's own test rows, the federated model's {metric(name)} is {listed(parts)} of "
            f"{count(len(gains), 'hospital')}, compared with the model that the hospital trained alone."
        )
        own = found.own_gain.get(Model.ALONE, {}).get(name)
        if own is not None and len(gains) > 1:
            told.append(f"The mean difference there is {difference(name, own)}.")
    everywhere = found.gain.get(Model.ALONE, {}).get(name)
    if everywhere is not None:
        told.append(
            f"On all hospitals' test rows, federated minus alone is {difference(name, everywhere)}: a model trained at "
            "one hospital also has to work on the patients of the others."
        )
    return " ".join(told)


def _note(found: Comparison) -> str:
    judged = [site for site in found.sites if site.test_rows]
    fewest = min(judged, key=lambda site: site.test_rows).test_rows if judged else 0
    if not found.resamples:
        return "No intervals were computed (simulation.bootstrap = 0)."
    note = (
        f"Intervals: 95 %, percentile bootstrap over test rows within each hospital "
        f"({count(found.resamples, 'resample')}, the same for every model, so differences are paired). They do not "
        "include what another seed of training or another split would change."
    )
    if fewest < 50 and found.kind is not Kind.REGRESSION:
        note += (
            f" The smallest hospital has {count(fewest, 'test row')}: with so few, an interval of zero width at the "
            "best value means that no error was seen, not that none is possible."
        )
    if any(found.primary not in site.own.get(Model.FEDERATED, {}) for site in found.sites):
        note += " A hospital whose test rows lack a class has no AUC."
    return note


def _error(found: Sequence[Estimate]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": short((one.high or one.value) - one.value if one.high is not None else 0.0 for one in found),
        "arrayminus": short(one.value - one.low if one.low is not None else 0.0 for one in found),
        "thickness": 1.5,
        "width": 0,
    }


def _dots(
    model: Model, name: str, at: Sequence[float], found: Sequence[Estimate], sites: Sequence[str]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": LABELS[model],
        "x": short(one.value for one in found),
        "y": [round(place + _OFFSETS[model], 3) for place in at],
        "text": [
            f"{plot_text(site, 60)}<br>{LABELS[model]}: {estimate(name, one)}"
            for site, one in zip(sites, found, strict=True)
        ],
        "hoverinfo": "text",
        "marker": {"color": COLORS[model], "symbol": SYMBOLS[model], "size": 9},
        "error_x": _error(found) | {"color": COLORS[model]},
    }


def _listing(found: Comparison, unit: str) -> tuple[dict[str, Any], int]:
    """The layout of a plot with a line for each hospital, and its height."""
    sites = found.sites
    axis = {
        "tickvals": list(range(len(sites))),
        "ticktext": [f"{plot_text(site.site)} (n = {site.test_rows})" for site in sites],
        "range": [len(sites) - 0.4, -0.6],
        "gridcolor": "#f0f2f4",
    }
    layout = plot_layout(xaxis={"title": metric(found.primary, unit)}, yaxis=axis)
    return layout, 120 + 34 * len(sites)


def _own(found: Comparison, unit: str) -> Figure:
    name = found.primary
    traces = []
    for model in (Model.ALONE, Model.FEDERATED, Model.POOLED):
        marks = [
            (at, score, site.site)
            for at, site in enumerate(found.sites)
            if (score := site.own.get(model, {}).get(name)) is not None
        ]
        if marks:
            at, scores, sites = zip(*marks, strict=True)
            traces.append(_dots(model, name, at, scores, sites))
    layout, height = _listing(found, unit)
    unmarked = [at for at, site in enumerate(found.sites) if name not in site.own.get(Model.FEDERATED, {})]
    layout["annotations"] = [_remark(at, f"no {metric(name)}: a class is missing") for at in unmarked]
    return Figure(
        title="On each hospital's own test rows",
        label=f"Dot plot of {metric(name)} per hospital on its own test rows ({_models(found)}); numbers in the table",
        traces=traces,
        layout=layout,
        height=height,
    )


def _remark(at: int, words: str) -> dict[str, Any]:
    """Words in place of a mark."""
    font = {"size": 11, "color": MUTED}
    return {"xref": "paper", "x": 0.02, "xanchor": "left", "y": at, "text": words, "showarrow": False, "font": font}


def _everywhere(found: Comparison, unit: str) -> Figure:
    name = found.primary
    marks = [(at, site.elsewhere[name], site.site) for at, site in enumerate(found.sites) if name in site.elsewhere]
    traces, shapes = [], []
    for model in (Model.FEDERATED, Model.POOLED):
        score = found.overall.get(model, {}).get(name)
        if score is None:
            continue
        traces.append(_level(model, name, score, len(found.sites)))
        if score.low is not None and model is Model.FEDERATED:
            shapes.append(
                {
                    "type": "rect",
                    "yref": "paper",
                    "y0": 0,
                    "y1": 1,
                    "x0": score.low,
                    "x1": score.high,
                    "fillcolor": COLORS[model],
                    "opacity": 0.12,
                    "line": {"width": 0},
                    "layer": "below",
                }
            )
    if marks:
        at, scores, sites = zip(*marks, strict=True)
        dots = _dots(Model.ALONE, name, at, scores, sites)
        traces.insert(0, dots | {"y": list(at), "name": "each hospital's model, trained alone"})
    layout, height = _listing(found, unit)
    return Figure(
        title="On all hospitals' test rows",
        label=f"Dot plot of {metric(name)} of each hospital's own model on all test rows, beside the federated model",
        traces=traces,
        layout=layout | {"shapes": shapes},
        height=height,
        caption="Shaded: the federated model's 95 % interval." if shapes else "",
    )


def _level(model: Model, name: str, score: Estimate, sites: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{LABELS[model]} {number(name, score.value)}",
        "x": short([score.value, score.value]),
        "y": [-0.6, sites - 0.4],
        "hoverinfo": "name",
        "line": {"color": COLORS[model], "width": 2, "dash": "dash" if model is Model.POOLED else "solid"},
    }


def _scatter(found: Comparison, unit: str) -> Figure:
    name = found.primary
    pairs = [
        (site, site.own[Model.ALONE][name], site.own[Model.FEDERATED][name])
        for site in found.sites
        if name in site.own.get(Model.ALONE, {}) and name in site.own.get(Model.FEDERATED, {})
    ]
    if not pairs:
        return _spread(found, unit)
    values = [one.value for _, *both in pairs for one in both]
    span = short([min(values), max(values)])
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": short(alone.value for _, alone, _ in pairs),
        "y": short(federated.value for *_, federated in pairs),
        "text": [
            f"{plot_text(site.site, 60)} (n = {site.test_rows})<br>alone: {estimate(name, a)}<br>"
            f"federated: {estimate(name, f)}"
            for site, a, f in pairs
        ],
        "hoverinfo": "text",
        "marker": {"color": COLORS[Model.FEDERATED], "size": 8, "opacity": 0.65},
        "showlegend": False,
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": span,
        "y": span,
        "hoverinfo": "skip",
        "line": {"color": "#8a96a3", "dash": "dot", "width": 1.5},
        "showlegend": False,
    }
    side = "below" if name in LOWER_IS_BETTER else "above"
    return Figure(
        title="On each hospital's own test rows",
        label=f"Scatter plot of {metric(name)} alone against federated, one dot per hospital",
        traces=[line, dots],
        layout=plot_layout(xaxis={"title": f"{metric(name, unit)}, alone"}, yaxis={"title": "federated"}),
        height=420,
        caption=f"One dot per hospital; {side} the line, the federated model is better.",
    )


def _spread(found: Comparison, unit: str) -> Figure:
    name = found.primary
    groups = [
        ("alone,<br>all rows", Model.ALONE, [s.elsewhere.get(name) for s in found.sites]),
        *((f"{LABELS[m]},<br>own rows", m, [s.own.get(m, {}).get(name) for s in found.sites]) for m in Model),
    ]
    traces = [
        {
            "type": "box",
            "name": label,
            "y": short(one.value for one in scores if one is not None),
            "marker": {"color": COLORS[model], "size": 4},
            "line": {"width": 1.5},
            "boxpoints": "outliers",
            "showlegend": False,
        }
        for label, model, scores in groups
        if any(one is not None for one in scores)
    ]
    return Figure(
        title="Spread over hospitals",
        label=f"Box plots of {metric(name)} over hospitals for {_models(found)}",
        traces=traces,
        layout=plot_layout(yaxis={"title": metric(name, unit)}),
        height=420,
        caption="Box: middle half of the hospitals; line: median.",
    )


def _models(found: Comparison) -> str:
    return listed([LABELS[Model(model)] for model in found.overall])


def _site_table(found: Comparison, unit: str) -> str:
    name = found.primary
    rows = [
        [
            site.site,
            site.test_rows,
            *(estimate(name, site.own.get(model, {}).get(name)) for model in Model),
            difference(name, site.gain.get(Model.ALONE, {}).get(name)),
            estimate(name, site.elsewhere.get(name)),
        ]
        for site in found.sites
    ]
    head = ["hospital", "test rows", *(LABELS[m] for m in Model), "federated − alone", "alone, on all test rows"]
    return table(head, rows, f"{metric(name, unit)} on the hospital's own test rows, with 95 % intervals")
