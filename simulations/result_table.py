"""Results as tables for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from wardround.server.runs.caveat import caveat
from wardround.server.runs.comparison import Comparison, Estimate, Model, Scores
from wardround.server.runs.metrics import PRIMARY, Kind
from wardround.simulations.run_comparison import RunComparison

__all__ = ["result_table", "runs_table"]

_MOST_SITES = 20
_MOST_ROUNDS = 10
_MODELS = (Model.ALONE, Model.FEDERATED, Model.POOLED)


def result_table(comparison: Comparison) -> Table:
    """The leading metric of each model: per hospital on its own test rows, their mean, and on all test rows."""
    metric = comparison.primary
    title = f"{metric} on test rows"
    table = Table("hospital", "test rows", *_MODELS, title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for site in comparison.sites[:_MOST_SITES]:
        table.add_row(Text(site.site), str(site.test_rows), *(_cell(site.own.get(m, {}), metric) for m in _MODELS))
    if (left_out := len(comparison.sites) - _MOST_SITES) > 0:
        table.add_row(f"{left_out} more", "", *("" for _ in _MODELS))
    table.add_section()
    table.add_row("mean of hospitals", "", *(_cell(comparison.own.get(m, {}), metric) for m in _MODELS))
    overall = [comparison.overall.get(m, {}) for m in _MODELS]
    table.add_row("all test rows", str(comparison.test_rows), *(_cell(scores, metric) for scores in overall))
    table.add_row("95 % interval", "", *(_interval(scores, metric) for scores in overall))
    return table


def runs_table(comparison: RunComparison) -> Table:
    """Two runs side by side: results, validation round by round, effort, and the plan's keys that differ."""
    runs = (comparison.first, comparison.second)
    table = Table("", *(escape(run.name) for run in runs), "difference", box=SIMPLE_HEAD)
    table.columns[3].justify = "right"
    for metric in dict.fromkeys(name for run in runs for name in run.scores):
        difference = comparison.differences.get(metric)
        shown = "" if difference is None else f"{difference:+.4g}"
        table.add_row(metric, *(_cell(run.scores, metric, interval=True) for run in runs), shown)
    table.add_row("rows judged", *(run.split for run in runs), "" if comparison.same_data else "may be other rows")
    table.add_section()
    target = runs[0].plan.data.target
    leading = "loss" if target is None else PRIMARY[Kind.of(target)]
    for number in _spread(tuple(comparison.validation)):
        cells = (
            f"{found[leading]:.4g}" if found and leading in found else "-" for found in comparison.validation[number]
        )
        table.add_row(f"validation {leading}, round {number}", *cells)
    table.add_section()
    table.add_row("rounds", *(f"{run.rounds} of {run.plan.rounds}" for run in runs))
    table.add_row("sites that took part", *(f"{len(run.participants)} of {run.plan.simulation.sites}" for run in runs))
    table.add_row("seconds", *(f"{run.seconds:.1f}" for run in runs))
    table.add_row("CPU seconds", *(f"{run.cpu_seconds:.1f}" for run in runs))
    if any(notes := [caveat(run.plan) for run in runs]):
        table.add_row("caveat", *notes)
    table.add_section()
    for path, values in comparison.plan.items():
        table.add_row(path, *(Text("-" if value is None else _short(value)) for value in values))
    if not comparison.plan:
        table.add_row("plan", "the same", "the same")
    return table


def _spread(rounds: tuple[int, ...]) -> tuple[int, ...]:
    """At most `_MOST_ROUNDS` of `rounds`, evenly, with the last."""
    step = -(-len(rounds) // _MOST_ROUNDS) or 1
    return rounds[::-1][::step][::-1]


def _cell(scores: Scores, metric: str, *, interval: bool = False) -> str:
    estimate: Estimate | None = scores.get(metric)
    if estimate is None:
        return "-"
    return _figure(estimate.value, metric) + (
        f" ({_interval(scores, metric)})" if interval and estimate.low is not None else ""
    )


def _interval(scores: Scores, metric: str) -> str:
    estimate: Estimate | None = scores.get(metric)
    if estimate is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{_figure(estimate.low, metric, 3)}–{_figure(estimate.high, metric, 3)}"


def _figure(value: float, metric: str, digits: int = 4) -> str:
    """Shares to so many decimals; what has a unit to so many digits."""
    return f"{value:.{digits}g}" if metric in ("loss", "rmse", "mae") else f"{value:.{digits}f}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
