"""The first thing that is read: one sentence, and the key figures."""

from collections.abc import Iterator

from wardround.server.report.markup import cards, text
from wardround.server.report.robustness import attack_told
from wardround.server.report.run import Json, ReportedRun
from wardround.server.report.wording import (
    LOWER_IS_BETTER,
    METRICS,
    count,
    difference,
    duration,
    estimate,
    interval,
    metric,
    number,
)
from wardround.server.runs.comparison import Comparison, Estimate, Model

__all__ = ["summary"]

_TESTED = (
    "Each hospital counted on its own test rows, on which nothing was trained, and the counts were added up. No rows "
    "were in one place, so there is no comparison with each hospital alone or with pooled data."
)


def summary(run: ReportedRun) -> str:
    """HTML: the headline, a line on how it was judged, and the cards."""
    found = run.comparison
    if found is not None and found.primary in found.overall.get(Model.FEDERATED, {}):
        headline, sub = _headline(run, found), _judged(found)
    else:
        headline, sub = _without_scores(run)
    sub = " ".join(filter(None, (sub, attack_told(run))))
    return f'<p class="headline">{headline}</p><p class="sub">{text(sub)}</p>{cards(_scores(run))}{cards(_effort(run))}'


def last_validation(run: ReportedRun) -> Json | None:
    """The latest evaluation on validation rows that counted something."""
    found = (line["validation"] for line in reversed(run.lines))
    return next((one for one in found if one is not None and one["metrics"]), None)


def _headline(run: ReportedRun, found: Comparison) -> str:
    name, unit = found.primary, _unit(run)
    federated = found.overall[Model.FEDERATED][name]
    limits = interval(name, federated)
    hospitals = count(run.num_sites, "hospital", spelled=True)
    joined = f"{hospitals} together reach" if run.num_sites > 1 else f"{hospitals} reaches"
    told = f"{text(joined)} {text(metric(name, unit))} {_strong(Model.FEDERATED, name, federated)}"
    told += f" (95 % interval {text(limits)})" if limits else ""
    ends = []
    if (alone := found.overall.get(Model.ALONE, {}).get(name)) is not None:
        ends.append(
            f"alone they reach {_strong(Model.ALONE, name, alone)} on average"
            if found.alone_models > 1
            else f"alone it reaches {_strong(Model.ALONE, name, alone)}"
        )
    if (pooled := found.overall.get(Model.POOLED, {}).get(name)) is not None:
        ends.append(f"pooling all data would reach {_strong(Model.POOLED, name, pooled)}")
    return told + "".join(f"; {end}" for end in ends) + "."


def _strong(model: Model, name: str, found: Estimate) -> str:
    return f'<strong class="{model}">{text(number(name, found.value))}</strong>'


def _unit(run: ReportedRun) -> str:
    return "" if run.plan.data.target is None else run.plan.data.target.unit


def _judged(found: Comparison) -> str:
    name = found.primary
    better = "Lower is better. " if name in LOWER_IS_BETTER else ""
    rows = count(found.test_rows, "test row")
    where = "" if len(found.sites) < 2 else f" of {count(len(found.sites), 'hospital')}"
    told = f"{better}Every model is judged on the same {rows}{where}, on which none was trained."
    own = {model: scores[name] for model, scores in found.own.items() if name in scores}
    if Model.ALONE in own and len(found.sites) > 1:
        told += (
            f" On its own hospital's test rows only, a model trained alone reaches "
            f"{number(name, own[Model.ALONE].value)} on average, the federated model "
            f"{number(name, own[Model.FEDERATED].value)}."
        )
    return told


def _without_scores(run: ReportedRun) -> tuple[str, str]:
    hospitals = count(run.num_sites, "hospital", spelled=True)
    trained = f"{hospitals} trained together for {count(len(run.lines), 'round')}"
    if run.tested is not None and run.tested["metrics"]:
        reached, rows = _reached(run.tested), count(run.tested["n"], "test row")
        return f"{text(trained)}; on {text(rows)} of theirs, the model reaches {text(reached)}.", _TESTED
    validation = last_validation(run)
    if validation is None:
        return f"{text(trained)}.", "This run has neither test rows nor an evaluation, so nothing is said of quality."
    reached = _reached(validation)
    reason = (
        "A Flower app keeps its data to itself: there is no comparison with each hospital alone or with pooled data."
        if run.plan.task.flower_app is not None
        else "There are no test rows, so nothing is compared with each hospital alone or with pooled data."
    )
    rows = count(validation["n"], "row")
    return f"{text(trained)}; the last evaluation, on {text(rows)}, found {text(reached)}.", reason


def _reached(counted: Json) -> str:
    found = counted["metrics"]
    names = [name for name in METRICS if name in found] or sorted(found)
    return ", ".join(f"{metric(name)} {number(name, found[name])}" for name in names[:3])


def _scores(run: ReportedRun) -> Iterator[tuple[str, str, str, str]]:
    found = run.comparison
    if found is None:
        return
    name = found.primary
    for model, what in (
        (Model.FEDERATED, "Federated"),
        (Model.ALONE, "Alone, mean of hospitals" if found.alone_models > 1 else "Alone"),
        (Model.POOLED, "All data pooled"),
    ):
        if (score := found.overall.get(model, {}).get(name)) is not None:
            limits = interval(name, score)
            yield model, f"{what}: {metric(name)}", number(name, score.value), f"95 %: {limits}" if limits else ""
    gain = found.gain.get(Model.ALONE, {}).get(name)
    if gain is not None:
        shown, _, limits = difference(name, gain).partition(" (")
        yield "", "Federated minus alone", shown, f"95 %: {limits.rstrip(')')}" if limits else ""


def _effort(run: ReportedRun) -> Iterator[tuple[str, str, str, str]]:
    drawn = sum(len(line["cohort"]) for line in run.lines)
    absent = sum(len(line["absences"]) for line in run.lines)
    took = f"{100 * (1 - absent / drawn):.0f} % of the updates asked for came" if drawn else ""
    yield "", "Rounds", f"{len(run.lines)} of {run.plan.rounds}", took
    rows = "" if run.differences is None else count(sum(site["n"] for site in run.differences["sites"]), "row")
    yield "", "Hospitals", f"{run.num_sites:,}".replace(",", "\u2009"), rows
    seconds, cpu = (sum(line[key] or 0 for line in run.lines) for key in ("seconds", "cpu_seconds"))
    where = "at the server" if run.deployed else "on one machine"
    yield "", "Training time", duration(seconds), f"{duration(cpu)} of CPU, {where}"


def scores_table_rows(found: Comparison, unit: str) -> Iterator[list[str]]:
    """Every metric of every model on all test rows, and the paired differences."""
    for name in found.overall[Model.FEDERATED]:
        row = [metric(name, unit)]
        row += [estimate(name, found.overall.get(model, {}).get(name)) for model in Model]
        row += [difference(name, found.gain.get(model, {}).get(name)) for model in (Model.ALONE, Model.POOLED)]
        yield row
