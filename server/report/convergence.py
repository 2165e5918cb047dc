"""How training went, round by round."""

from collections.abc import Sequence
from typing import Any

from wardround.server.report.markup import Figure, Section, figure, short, text
from wardround.server.report.run import Json, ReportedRun
from wardround.server.report.style import ABSENT, plot_layout
from wardround.server.report.wording import METRICS, count, metric
from wardround.server.runs.metrics import PRIMARY, Kind

__all__ = ["convergence"]

_MOST_POINTS = 1000
_PURPLE, _BLUE, _GREY = "#CC79A7", "#0072B2", "#4d4d4d"


def convergence(run: ReportedRun) -> Section:
    """Loss, the leading metric on validation rows, and the length of the update."""
    if not run.lines:
        body = "<p>No round was finished.</p>"
        return Section(anchor="convergence", title="Convergence", body=body)
    lines = run.lines[:: -(-len(run.lines) // _MOST_POINTS)]
    losses = [
        ("training", _series(lines, "train", "loss"), _PURPLE),
        ("validation", _series(lines, "validation", "loss"), _BLUE),
    ]
    norms = [("L2 norm", [line["update_norm"] for line in lines], _GREY)]
    plots = [
        _plot(run, lines, "Loss", losses),
        *_judged(run, lines),
        _plot(run, lines, "Length of the averaged update", norms),
    ]
    shown = "".join(figure(plot) for plot in plots if plot is not None)
    return Section(
        anchor="convergence", title="Convergence", body=f'<p>{text(_told(run))}</p><div class="triple">{shown}</div>'
    )


def _series(lines: Sequence[Json], part: str, name: str) -> list[float | None]:
    return [None if line[part] is None else line[part]["metrics"].get(name) for line in lines]


def _judged(run: ReportedRun, lines: Sequence[Json]) -> list[Figure | None]:
    known = {name for line in lines if line["validation"] for name in line["validation"]["metrics"]} - {"loss"}
    target = run.plan.data.target
    leading = PRIMARY[Kind.of(target)] if target is not None else ""
    names = [leading] if leading in known else [name for name in (*METRICS, *sorted(known)) if name in known][:1]
    unit = target.unit if target is not None else ""
    return [
        _plot(run, lines, f"Validation: {metric(name, unit)}", [(name, _series(lines, "validation", name), _BLUE)])
        for name in names
    ]


def _plot(
    run: ReportedRun, lines: Sequence[Json], title: str, series: Sequence[tuple[str, list[float | None], str]]
) -> Figure | None:
    rounds = [line["round"] for line in lines]
    drawn = [(name, values, color) for name, values, color in series if any(v is not None for v in values)]
    if not drawn:
        return None
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(rounds) <= 60 else "lines",
            "name": name,
            "x": rounds,
            "y": short(values),
            "connectgaps": True,
            "line": {"color": color, "width": 2},
            "marker": {"size": 4},
            "hovertemplate": "round %{x}<br>%{y:.4g}<extra></extra>",
            "showlegend": len(series) > 1,
        }
        for name, values, color in drawn
    ]
    void = [line["round"] for line in lines if line["void"]]
    shapes = [_vertical(at, ABSENT, "dot") for at in void[:100]]
    if 0 < run.released_round < len(run.lines):
        shapes.append(_vertical(run.released_round, _GREY, "solid"))
    return Figure(
        title=title,
        label=f"Line plot over {count(len(rounds), 'round')}: {title}",
        traces=traces,
        layout=plot_layout(
            xaxis={"title": "round", "rangemode": "tozero"},
            yaxis={"rangemode": "tozero" if title.startswith(("Loss", "Length")) else "normal", "title": ""},
            shapes=shapes,
            margin={"l": 48, "r": 12, "t": 30 if len(drawn) > 1 else 10, "b": 44},
        ),
        height=280,
    )


def _vertical(at: int, color: str, dash: str) -> dict[str, Any]:
    line = {"color": color, "dash": dash, "width": 1.2}
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": at, "x1": at, "line": line}


def _told(run: ReportedRun) -> str:
    void = sum(bool(line["void"]) for line in run.lines)
    done = len(run.lines)
    told = [f"{count(done, 'round')} of {run.plan.rounds} were run."]
    if run.stopped:
        told.append(f"Training stopped early: {run.stopped}.")
    if 0 < run.released_round < done:
        told.append(f"The released model is that of round {run.released_round}, marked by a line.")
    if void:
        told.append(
            f"{count(void, 'round was', 'rounds were')} void (dotted): too few updates came, and the model stayed as "
            "it was."
        )
    if run.resumed:
        told.append(f"The run was interrupted and continued before round {', '.join(map(str, run.resumed))}.")
        privacy = run.plan.privacy
        if privacy.per_client or (privacy.on and run.plan.protection.on):
            told.append("A round that was broken off was begun again, and each beginning spends privacy.")
    evaluated = [line for line in run.lines if line["validation"] is not None]
    if evaluated:
        told.append(
            f"Validation uses {count(evaluated[-1]['validation']['n'], 'row')} that the hospitals held out; only "
            "counts and sums left them."
        )
    else:
        told.append("The model was not evaluated while it trained.")
    return " ".join(told)
