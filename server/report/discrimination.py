"""How well the models tell cases apart and how far their probabilities can be believed."""

import math
from typing import Any

from wardround.server.report.markup import Figure, Section, figure, plot_text, short, text
from wardround.server.report.run import ReportedRun
from wardround.server.report.style import COLORS, LABELS, SEQUENTIAL, SYMBOLS, plot_layout
from wardround.server.report.wording import count, metric
from wardround.server.runs.comparison import Comparison, Model
from wardround.server.runs.curves import Calibration
from wardround.server.runs.metrics import Kind

__all__ = ["discrimination"]

_WIDTHS = {Model.FEDERATED: 2.5, Model.POOLED: 2, Model.ALONE: 1}
_MOST_NAMED_CLASSES = 20


def discrimination(run: ReportedRun) -> Section | None:
    """ROC, calibration and confusion on all test rows; for a number, calibration only. None without a comparison."""
    found = run.comparison
    if found is None or run.plan.data.target is None:
        return None
    classes = run.plan.data.target.classes
    plots = [_roc(found)] if found.roc else []
    plots += [_calibration(found, run.plan.data.target.unit)] if found.calibration else []
    plots += [_confusion(found, classes)] if found.confusion else []
    told = {
        Kind.BINARY: f"The score is the probability of “{classes[-1] if classes else ''}”.",
        Kind.MULTICLASS: "Curves are one class against the rest, averaged over classes; calibration is that of the "
        "likeliest class.",
        Kind.REGRESSION: "Rows are ordered by prediction and put into ten groups of equal size.",
    }[found.kind]
    told += f" All {count(found.test_rows, 'test row')} that were judged are taken together."
    body = (
        f"<p>{text(told)}</p><div class='{'triple' if len(plots) > 2 else 'pair'}'>{''.join(map(figure, plots))}</div>"
    )
    title = "Calibration" if found.kind is Kind.REGRESSION else "Discrimination and calibration"
    return Section(anchor="curves", title=title, body=body)


def _diagonal(low: float, high: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": short([low, high]),
        "y": short([low, high]),
        "hoverinfo": "skip",
        "showlegend": False,
        "line": {"color": "#8a96a3", "dash": "dot", "width": 1.2},
    }


def _roc(found: Comparison) -> Figure:
    traces = [_diagonal(0, 1)]
    seen: set[str] = set()
    for curve in sorted(
        found.roc, key=lambda one: (Model.ALONE, Model.POOLED, Model.FEDERATED).index(Model(one.model))
    ):
        model = Model(curve.model)
        alone = model is Model.ALONE
        area = found.overall.get(model, {}).get("auc")
        ending = f" {area.value:.3f}" if area is not None and not alone else ""
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": short(curve.false_positive_rate),
                "y": short(curve.true_positive_rate),
                "name": "each hospital alone" if alone else f"{LABELS[model]}{ending}",
                "legendgroup": str(model),
                "showlegend": model not in seen,
                "text": plot_text(curve.site, 60) if alone else LABELS[model],
                "hoverinfo": "text",
                "line": {
                    "color": "#b3bbc4" if alone else COLORS[model],
                    "width": _WIDTHS[model],
                    "dash": "dash" if model is Model.POOLED else "solid",
                },
            }
        )
        seen.add(model)
    axis = {"range": [-0.01, 1.01], "dtick": 0.2}
    return Figure(
        title="ROC",
        label="Receiver operating characteristic curves of the federated, the pooled and each hospital's own model",
        traces=traces,
        layout=plot_layout(
            xaxis=axis | {"title": "1 − specificity"},
            yaxis=axis | {"title": "sensitivity"},
            legend={"x": 0.98, "y": 0.04, "xanchor": "right", "yanchor": "bottom", "bgcolor": "rgba(255,255,255,0.85)"},
            margin={"l": 48, "r": 12, "t": 10, "b": 44},
        ),
        height=360,
    )


def _wilson(rate: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def _calibration(found: Comparison, unit: str) -> Figure:
    shares = found.kind is not Kind.REGRESSION
    values = [v for one in found.calibration for v in (*one.predicted, *one.observed)]
    traces = [_diagonal(0, 1) if shares else _diagonal(min(values), max(values))]
    traces += [_calibration_trace(one, shares) for one in reversed(found.calibration)]
    error = found.overall.get(Model.FEDERATED, {}).get("calibration_error")
    caption = "Bars: 95 % Wilson intervals of the federated model's groups; larger marks hold more rows. " * shares
    caption += f"{metric('calibration_error').capitalize()}: {error.value:.3f}." if error is not None else ""
    quantity = f" ({unit})" if unit else ""
    axis = {"range": [-0.03, 1.03], "dtick": 0.2} if shares else {}
    return Figure(
        title="Calibration",
        label="Calibration: mean prediction against what was observed, in groups of rows",
        traces=traces,
        layout=plot_layout(
            xaxis=axis | {"title": "predicted probability" if shares else f"mean prediction{quantity}"},
            yaxis=axis | {"title": "observed share" if shares else f"observed mean{quantity}"},
            legend={"x": 0.02, "y": 0.98, "xanchor": "left", "yanchor": "top", "bgcolor": "rgba(255,255,255,0.85)"},
            margin={"l": 48, "r": 12, "t": 10, "b": 44},
        ),
        height=360,
        caption=text(caption),
    )


def _calibration_trace(one: Calibration, shares: bool) -> dict[str, Any]:
    model = Model(one.model)
    most = max(one.count)
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers" if shares else "lines+markers",
        "name": LABELS[model],
        "x": short(one.predicted),
        "y": short(one.observed),
        "text": [f"{LABELS[model]}, {count(n, 'row')}" for n in one.count],
        "hovertemplate": "%{text}<br>predicted %{x:.3g}<br>observed %{y:.3g}<extra></extra>",
        "line": {"color": COLORS[model], "width": 1.5, "dash": "dash" if model is Model.POOLED else "solid"},
        "marker": {
            "color": COLORS[model],
            "symbol": SYMBOLS[model],
            "size": [round(6 + 7 * math.sqrt(n / most), 1) for n in one.count] if shares else 8,
        },
    }
    if shares and model is Model.FEDERATED:
        limits = [_wilson(rate, n) for rate, n in zip(one.observed, one.count, strict=True)]
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": short(high - rate for (_, high), rate in zip(limits, one.observed, strict=True)),
            "arrayminus": short(rate - low for (low, _), rate in zip(limits, one.observed, strict=True)),
            "color": COLORS[model],
            "thickness": 1,
            "width": 0,
        }
    return trace


def _confusion(found: Comparison, classes: tuple[str, ...]) -> Figure:
    rows = [list(row) for row in found.confusion]
    shares = [[cell / max(sum(row), 1) for cell in row] for row in rows]
    named = [plot_text(name, 14) for name in classes] if len(classes) <= _MOST_NAMED_CLASSES else None
    ticks = {"tickvals": list(range(len(rows))), "ticktext": named} if named else {}
    heat = {
        "type": "heatmap",
        "z": [short(row) for row in shares],
        "text": [[str(cell) for cell in row] for row in rows],
        "texttemplate": "%{text}" if named else "",
        "hovertemplate": "%{text} rows<br>%{z:.1%} of this label<extra></extra>",
        "colorscale": SEQUENTIAL,
        "zmin": 0,
        "zmax": 1.15,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    threshold = "At a probability of 0.5. " if found.kind is Kind.BINARY else ""
    return Figure(
        title="Confusion, federated model",
        label="Confusion matrix of the federated model: " + _confusion_words(found, classes),
        traces=[heat],
        layout=plot_layout(
            xaxis=ticks | {"title": "predicted", "showgrid": False, "ticks": ""},
            yaxis=ticks | {"title": "label", "showgrid": False, "ticks": "", "autorange": "reversed"},
            margin={"l": 48, "r": 12, "t": 10, "b": 44},
        ),
        height=360,
        caption=f"{threshold}Numbers are test rows; colour is the share of the label.",
    )


def _confusion_words(found: Comparison, classes: tuple[str, ...]) -> str:
    right = sum(found.confusion[index][index] for index in range(len(classes)))
    return f"{right} of {found.test_rows} test rows are classified correctly"
