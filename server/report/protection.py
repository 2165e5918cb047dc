"""Secure aggregation: what the server saw, who was lost and when, what was aborted, and what it cost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wardround.plan import Plan
from wardround.plan_privacy import Disclosure
from wardround.server.report.markup import Figure, Section, details, figure, short, table, text
from wardround.server.report.run import Json, ReportedRun
from wardround.server.report.style import SEQUENTIAL, plot_layout
from wardround.server.report.wording import count, duration, listed, sentence
from wardround.server.runs.caveat import caveat
from wardround.strategies.plan_facts import facts
from wardround.strategies.secagg.plan_terms import parameters_of
from wardround.strategies.secagg.round_evidence import Stage

__all__ = ["protection"]

_MOST_CELLS, _MOST_ROUNDS, _MOST_NAMED, _MOST_ABORTS = 20_000, 1000, 10, 100
_LOST = {
    Stage.EPOCH: "before the round: keys were not agreed on",
    Stage.UPDATE: "no masked update came",
    Stage.SIGNATURE: "the list of survivors was not signed",
    Stage.OPENING: "the seeds of masks were not opened",
}
_WORK = {
    Stage.EPOCH: "agreeing on keys and groups",
    Stage.UPDATE: "orders, training and masked updates",
    Stage.SIGNATURE: "lists of survivors and signatures",
    Stage.OPENING: "openings, unmasking and results",
}
_LOST_IN_BFV = _LOST | {
    Stage.EPOCH: "before the round: no key was agreed on",
    Stage.UPDATE: "no encrypted update came",
    Stage.OPENING: "the sum was not opened",
}
_WORK_IN_BFV = _WORK | {
    Stage.EPOCH: "agreeing on members and making the key",
    Stage.UPDATE: "orders, training and encrypted updates",
    Stage.OPENING: "the sum, to those who open it, and what they tell",
}
_SEALED = (
    "The released model is sealed to the hospitals that had the key of the last epoch: the server keeps it only as a "
    "file that they open, and has deleted its checkpoints. It had the model in its memory until then, and a backup "
    "that was made during the run has checkpoints in it."
)
_COLORS = {Stage.EPOCH: "#999999", Stage.UPDATE: "#0072B2", Stage.SIGNATURE: "#E69F00", Stage.OPENING: "#009E73"}


def protection(run: ReportedRun) -> Section | None:
    """Groups and survivors, drop-outs by stage, aborted rounds, bytes and seconds; None without protection."""
    plan = run.plan
    if not plan.protection.on:
        return None
    lines = [line for line in run.lines if line.get("protection")]
    body = f'<p class="warning">{text(sentence(said))}</p>' if (said := caveat(plan, deployed=run.deployed)) else ""
    body += "".join(f"<p>{text(told)}</p>" for told in _told(plan, lines))
    if plan.protection.sealed_model and run.deployed and run.released_round:
        body += f"<p>{text(_SEALED)}</p>"
    body += details("What the plan's parameters tolerate", _parameters(plan))
    if not lines:
        body += "<p>No round was finished.</p>"
    else:
        plots = [figure(plot) for plot in (_groups(lines), _seconds(lines, deployed=run.deployed)) if plot is not None]
        body += f'<div class="pair">{"".join(plots)}</div>' if plots else ""
        bfv = plan.protection.homomorphic
        lost, work = (_LOST_IN_BFV, _WORK_IN_BFV) if bfv else (_LOST, _WORK)
        body += _lost(lines, lost) + _aborted(lines) + _costs(lines, work)
    title = "Homomorphic aggregation" if plan.protection.homomorphic else "Secure aggregation"
    return Section(anchor="protection", title=title, body=body)


def _accounted(lines: Sequence[Json]) -> bool:
    return any(line["protection"]["accounted"] for line in lines)


def _told(plan: Plan, lines: Sequence[Json]) -> Iterator[str]:
    parameters = parameters_of(plan)
    would = "would have seen" if _accounted(lines) else "saw"
    sums = "one sum" if parameters.groups == 1 else f"at most {parameters.groups} sums, one of each group"
    yield (
        f"In a round of training the server {would} {sums}, of at least {parameters.min_survivors} hospitals' updates "
        "each, and no hospital's own."
    )
    if plan.protection.homomorphic:
        yield _opened(lines)
    yield _evaluated(plan)
    if lines:
        given = [_given(line) for line in lines]
        full = sum(n == parameters.groups for n in given)
        none = sum(not n for n in given)
        sums = "their sum" if parameters.groups == 1 else f"the sums of all {parameters.groups} groups"
        yield (
            f"Of {count(len(lines), 'round')}, {full} gave {sums}"
            + (f", {len(lines) - full - none} of some" if len(lines) > full + none else "")
            + (f", {none} of none" if none else "")
            + "."
        )


def _opened(lines: Sequence[Json]) -> str:
    """How updates were encrypted, and under how many keys."""
    schemes = {line["protection"]["scheme"] for line in lines} - {""}
    forms = listed(sorted({scheme.partition(",")[0] for scheme in schemes})) if schemes else "bfv"
    keys = count(len(schemes), "key")
    return (
        f"Updates were encrypted ({forms}, {keys}); the server added them up without a key, and hospitals that have it "
        "opened each sum after they had checked, by tags that the server cannot make, whose updates are in it. "
        "Whoever has a hospital's key and the server's ciphertexts reads every update."
    )


def _evaluated(plan: Plan) -> str:
    if plan.privacy.on and plan.privacy.evaluation is Disclosure.OFF:
        return "Hospitals counted nothing on held-out rows for it, since privacy.evaluation is off."
    return "What hospitals counted on held-out rows reached it the same way: as sums only, and of no single hospital."


def _given(line: Json) -> int:
    return sum(one["survivors"] > 0 for one in line["protection"]["groups"])


def _parameters(plan: Plan) -> str:
    """As `plan explain` has it, of the rule that the plan has; costs were measured."""
    rows = [(what, said) for what, said in facts(plan, None) if what not in ("simulation", "costs")]
    return table(("parameter", "what it means"), rows)


def _groups(lines: Sequence[Json]) -> Figure | None:
    """A cell for each group and round: how many updates are in the sum."""
    numbers = sorted({one["number"] for line in lines for one in line["protection"]["groups"]})
    if not numbers or len(numbers) * len(lines) > _MOST_CELLS:
        return None
    found = [{one["number"]: one for one in line["protection"]["groups"]} for line in lines]
    z = [[groups[n]["survivors"] if n in groups else None for groups in found] for n in numbers]
    most = max(one["members"] for groups in found for one in groups.values())
    heat = {
        "type": "heatmap",
        "x": [line["round"] for line in lines],
        "z": z,
        "text": [[f"of {groups[n]['members']}" if n in groups else "" for groups in found] for n in numbers],
        "hovertemplate": "round %{x}, group %{y}<br>%{z} updates %{text}<extra></extra>",
        "colorscale": SEQUENTIAL,
        "zmin": 0,
        "zmax": most,
        "xgap": 1 if len(lines) <= 120 else 0,
        "ygap": 1,
        "colorbar": {"title": {"text": "updates", "side": "right"}, "thickness": 12, "dtick": max(1, most // 5)},
    }
    axis: dict[str, Any] = {"title": "group", "autorange": "reversed", "showgrid": False, "ticks": ""}
    axis |= {"tickvals": list(range(len(numbers))), "ticktext": [str(n + 1) for n in numbers]}
    if len(numbers) > 20:
        axis |= {"tickvals": [], "ticktext": []}
    return Figure(
        title="Updates in each group's sum",
        label="Heat map: how many updates are in each group's sum, by round",
        traces=[heat],
        layout=plot_layout(
            xaxis={"title": "round", "showgrid": False}, yaxis=axis, margin={"l": 48, "r": 8, "t": 8, "b": 44}
        ),
        height=max(200, min(420, 110 + 34 * len(numbers))),
        caption="White: the group gave no sum, and what its hospitals sent stayed hidden.",
    )


def _seconds(lines: Sequence[Json], *, deployed: bool) -> Figure | None:
    """Seconds of each stage, stacked over the rounds."""
    stages = [stage for stage in Stage if any(_cost(line, stage) for line in lines)]
    if not stages:
        return None
    width = -(-len(lines) // _MOST_ROUNDS)
    bins = [lines[start : start + width] for start in range(0, len(lines), width)]
    traces = [
        {
            "type": "bar",
            "name": stage.value,
            "x": [part[0]["round"] for part in bins],
            "y": short(sum(_cost(line, stage).get("seconds", 0.0) for line in part) / len(part) for part in bins),
            "marker": {"color": _COLORS[stage], "line": {"width": 0}},
            "hovertemplate": "round %{x}<br>%{y:.3g} s<extra>%{fullData.name}</extra>",
        }
        for stage in stages
    ]
    where = "at the server, waiting included" if deployed else "on one machine that plays everybody"
    return Figure(
        title="Seconds of each stage",
        label="Stacked bars: seconds of each stage of the protocol, by round",
        traces=traces,
        layout=plot_layout(
            barmode="stack",
            bargap=0.1,
            xaxis={"title": "round"},
            yaxis={"title": "seconds"},
            legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        ),
        height=280,
        caption=f"Of the trainings, {where}; the training itself is in “update”."
        + (f" Means of {width} rounds." if width > 1 else ""),
    )


def _cost(line: Json, stage: Stage) -> dict[str, float]:
    found: dict[str, float] = line["protection"]["costs"].get(stage.value, {})
    return found


def _lost(lines: Sequence[Json], where: Mapping[Stage, str]) -> str:
    asked = sum(len(line["cohort"]) for line in lines)
    rows = []
    for stage in Stage:
        sites = [site for line in lines for site in line["protection"]["lost"].get(stage.value, ())]
        if sites:
            names = sorted(set(sites))
            shown = listed(names[:_MOST_NAMED]) if len(names) <= _MOST_NAMED else count(len(names), "hospital")
            rows.append((where[stage], len(sites), f"{100 * len(sites) / asked:.1f} %" if asked else "–", shown))
    if not rows:
        return "<p>Nobody was lost at any stage.</p>"
    head = ("where a hospital was lost", "times", "of all asked", "who")
    return table(head, rows, "Drop-outs by the first stage in which a hospital did not answer in order")


def _aborted(lines: Sequence[Json]) -> str:
    rows = [
        (line["round"], one["cause"].lower().replace("_", " "), _parties(one["parties"]), one["reason"])
        for line in lines
        for one in line["protection"]["aborts"]
    ]
    if not rows:
        return "<p>No committee's round and no epoch was aborted.</p>"
    more = f'<p class="note">{count(len(rows) - _MOST_ABORTS, "more")}.</p>' if len(rows) > _MOST_ABORTS else ""
    head = ("round", "cause", "who is the reason", "said")
    return table(head, rows[:_MOST_ABORTS], "What was aborted") + more


def _parties(names: Sequence[str]) -> str:
    left = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {left} more" if left > 0 else "") if names else "–"


def _costs(lines: Sequence[Json], work: Mapping[Stage, str]) -> str:
    rows = []
    for stage in Stage:
        found = [_cost(line, stage) for line in lines if _cost(line, stage)]
        if found:
            seconds, sent, received = (sum(c[k] for c in found) for k in ("seconds", "sent_bytes", "received_bytes"))
            rows.append((work[stage], len(found), duration(seconds), _bytes(sent), _bytes(received)))
    head = ("stage", "rounds", "seconds", "server sent", "server received")
    title = "Costs of the trainings, at the server; the model in each request included"
    return table(head, rows, title) if rows else ""


def _bytes(n: float) -> str:
    """`812 B`, `3.4 kB`, `120 MB`."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while n >= 1000 and len(units) > 1:
        n, units = n / 1000, units[1:]
    return f"{n:.0f} {units[0]}" if units[0] == "B" or n >= 100 else f"{n:.3g} {units[0]}"
