"""Differential privacy: what is claimed, what it rests on, and what each round cost."""

from collections.abc import Sequence
from typing import Any

from wardround.plan import Plan
from wardround.plan_privacy import UnitClipping
from wardround.server.report.markup import Figure, Section, details, figure, short, table, text
from wardround.server.report.run import Json, ReportedRun
from wardround.server.report.style import plot_layout
from wardround.server.report.wording import count
from wardround.strategies.privacy.claim import Claim, rounded_up, stated

__all__ = ["claim_parts", "claimed", "privacy"]

_MOST_POINTS, _MOST_SITES = 1000, 100
_BLUE, _PALE_BLUE, _ORANGE, _GREY = "#0072B2", "rgba(0,114,178,0.18)", "#D55E00", "#4d4d4d"
_OF_NUMBERS = ("meaning", "population", "noise", "accountant")
_NONE = (
    "None. Nothing bounds what the model, or an update on its way, gives away: somebody who sees them may tell that a "
    "patient was in the training data, and learn about that patient."
)


def claimed(plan: Plan, lines: Sequence[Json]) -> Claim | None:
    """What the rounds of `lines` have spent; None without privacy, before a first round, or where nothing bounds it."""
    spent = _spent(lines)
    if not plan.privacy.on or not spent or spent[-1]["privacy"]["epsilon"] is None:
        return None
    last = spent[-1]["privacy"]
    return stated(plan, last["epsilon"], last["delta"])


def privacy(run: ReportedRun) -> Section:
    """The claim in words, and epsilon, clipping and noise over the rounds; or that there is none."""
    claim = claimed(run.plan, run.lines)
    if not run.plan.privacy.on:
        body = f"<p>{text(_NONE)}</p>"
    elif claim is None:
        why = "what the rounds cost has no bound" if _spent(run.lines) else "no round was finished"
        body = f"<p>Nothing is claimed: {why}.</p>"
    else:
        body = f'<p class="headline">{text(claim.headline())}</p>{claim_parts(claim)}'
        body += _plots(run, claim) + _sites(run, claim)
    return Section(anchor="privacy", title="Differential privacy", body=body)


def _spent(lines: Sequence[Json]) -> list[Json]:
    return [line for line in lines if line.get("privacy")]


def claim_parts(claim: Claim, *, common: bool = False) -> str:
    """HTML: what a claim's numbers mean, warnings, what it rests on and does not cover.

    `common`: only what it shares with claims that differ in their numbers.
    """
    facts = [(what, said) for what, said in claim.facts() if not (common and what in _OF_NUMBERS)]
    body = table(("the claim", ""), facts)
    body += "".join(f'<p class="warning">{text(warning)}</p>' for warning in claim.warnings)
    for title, sentences in (("It rests on", claim.assumptions), ("It does not cover", claim.not_covered)):
        if sentences:
            items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
            body += f'<h3>{title}</h3><ul class="plain">{items}</ul>'
    return body


def _plots(run: ReportedRun, claim: Claim) -> str:
    spent = _spent(run.lines)
    lines = [*spent[: -1 : -(-len(spent) // _MOST_POINTS)], spent[-1]]
    found = [_epsilon(run, lines, claim), _clipped(run, lines), _noise(run, lines), _clip(lines)]
    return '<div class="pair">' + "".join(figure(plot) for plot in found if plot is not None) + "</div>"


def _epsilon(run: ReportedRun, lines: Sequence[Json], claim: Claim) -> Figure:
    rounds = [line["round"] for line in lines]
    sites = [list(line["privacy"].get("sites", {}).values()) for line in lines]
    unit = f"for every {claim.unit.value} ({claim.relation.value}), at delta {rounded_up(claim.delta)}"
    traces: list[dict[str, Any]] = []
    caption = f"Epsilon {unit}, of all rounds so far."
    if any(len(found) > 1 for found in sites):
        band = {"type": "scatter", "mode": "lines", "x": rounds, "line": {"width": 0}, "hoverinfo": "skip"}
        low, high = ([most(found, default=None) for found in sites] for most in (min, max))
        traces.append(band | {"y": short(low), "showlegend": False})
        traces.append(band | {"y": short(high), "name": "all sites", "fill": "tonexty", "fillcolor": _PALE_BLUE})
        caption = f"Epsilon {unit}, of all rounds so far: the largest of all sites, and the range over sites."
    traces.append(_line(rounds, [line["privacy"]["epsilon"] for line in lines], "largest" if traces else "", _BLUE))
    if (target := run.plan.privacy.epsilon) is not None:
        traces.append(_line(rounds, [target] * len(rounds), "the plan's epsilon", _GREY) | {"mode": "lines"})
        traces[-1]["line"] = {"color": _GREY, "width": 1.5, "dash": "dash"}
    return _figure("Epsilon over the rounds", traces, text(caption), "epsilon")


def _clipped(run: ReportedRun, lines: Sequence[Json]) -> Figure | None:
    shares = [line["privacy"].get("clipped") for line in lines]
    if all(share is None for share in shares):
        return None
    rounds = [line["round"] for line in lines]
    percent = [None if share is None else 100 * share for share in shares]
    what = "updates" if run.plan.privacy.per_client else "rows' gradients"
    caption = (
        f"Share of {what} that were longer than the clip, as the noisy count tells it; epsilon includes that count."
        if run.plan.privacy.clipping is UnitClipping.ADAPTIVE
        else f"Share of {what} that were longer than the clip. Only a simulation knows it: it depends on the rows, is "
        "not covered by the claim, and never leaves a real hospital."
    )
    return _figure("Clipping", [_line(rounds, percent, "", _ORANGE)], text(caption), "clipped, per cent")


def _noise(run: ReportedRun, lines: Sequence[Json]) -> Figure | None:
    ratios = [line["privacy"].get("noise_to_signal") for line in lines]
    if all(ratio is None for ratio in ratios):
        return None
    rounds = [line["round"] for line in lines]
    caption = (
        "Expected length of the noise over the length of the noisy averaged update. Near 1, a round's update is "
        "nothing but noise; what many rounds have in common is learnt all the same."
        if run.plan.privacy.per_client
        else "Expected length of a step's noise over that of the clipped gradients that it hides, the mean over "
        "hospitals. Only a simulation knows it: it depends on the rows, and never leaves a real hospital. Noise is "
        "averaged over hospitals and rounds; what they have in common is learnt all the same."
    )
    return _figure("Noise to signal", [_line(rounds, ratios, "", _GREY)], text(caption), "noise over update")


def _clip(lines: Sequence[Json]) -> Figure | None:
    """Only of a clip that adapts."""
    clips = [line["privacy"].get("clip_norm") for line in lines]
    if len(set(clips)) < 2:
        return None
    rounds = [line["round"] for line in lines]
    return _figure("Clip", [_line(rounds, clips, "", _BLUE)], "The L2 norm to which updates were clipped.", "clip norm")


def _line(rounds: Sequence[int], values: Sequence[float | None], name: str, color: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(rounds) <= 60 else "lines",
        "name": name,
        "x": list(rounds),
        "y": short(values),
        "line": {"color": color, "width": 2},
        "marker": {"size": 4},
        "hovertemplate": "round %{x}<br>%{y:.4g}<extra></extra>",
        "showlegend": bool(name),
    }


def _figure(title: str, traces: Sequence[dict[str, Any]], caption: str, axis: str) -> Figure:
    named = any(trace["showlegend"] for trace in traces if "showlegend" in trace)
    return Figure(
        title=title,
        label=f"Line plot over the rounds: {title}",
        traces=traces,
        layout=plot_layout(
            xaxis={"title": "round", "rangemode": "tozero"},
            yaxis={"title": axis, "rangemode": "tozero"},
            margin={"l": 56, "r": 12, "t": 30 if named else 10, "b": 44},
        ),
        height=300,
        caption=caption,
    )


def _sites(run: ReportedRun, claim: Claim) -> str:
    """Each site's own claim after the last round, the largest first."""
    found = _spent(run.lines)[-1]["privacy"].get("sites", {})
    if len(found) < 2:
        return ""
    ordered = sorted(found.items(), key=lambda one: (-one[1], one[0]))
    rows = [(site, rounded_up(value)) for site, value in ordered[:_MOST_SITES]]
    left = len(ordered) - len(rows)
    more = f'<p class="note">{count(left, "more hospital")}, none with a larger epsilon.</p>' if left else ""
    title = f"Epsilon of each hospital: for every {claim.unit.value} ({claim.relation.value}), delta at most "
    return details(f"{title}{rounded_up(claim.delta)}", table(("hospital", "epsilon"), rows) + more)
