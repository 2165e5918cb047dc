"""The page of a privacy audit: the claim, what was measured, each check, and what none of it can see."""

import math
from collections.abc import Iterator

from wardround.server.report.markup import Section, cards, table, text
from wardround.server.report.page import document
from wardround.server.report.privacy import claim_parts
from wardround.server.report.wording import count, duration
from wardround.simulations.privacy_audit import PrivacyAudit
from wardround.strategies.privacy.claim import rounded_up
from wardround.strategies.privacy.one_run_audit import CHANCE
from wardround.strategies.privacy.self_test import FALSE_ALARM, Check

__all__ = ["render_audit"]

_STYLE = """
.scale { margin: 14px 0 18px; max-width: 640px; } .scale > div { display: grid; gap: 2px 12px; align-items: center;
  grid-template-columns: 12em 1fr 4em; font-size: 14px; margin: 0 0 7px; }
.scale .track { background: var(--pale); border: 1px solid var(--line); border-radius: 3px; height: 18px; }
.scale .bar { display: block; height: 100%; border-radius: 2px; min-width: 2px; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.scale .value { text-align: right; font-variant-numeric: tabular-nums; }
.failed { color: #b00020; font-weight: 700; } p.headline strong.failed { color: #b00020; }
@media (max-width: 600px) { .scale > div { grid-template-columns: 1fr 4em; }
  .scale .track { grid-row: 2; grid-column: 1 / -1; } }
"""
_MEASURED, _CLAIMED, _SHOWN = "#0072B2", "#009E73", "#b8c1ca"


def render_audit(audit: PrivacyAudit) -> str:
    """The page as HTML, small and without a script; it loads nothing from anywhere."""
    return document(
        title=f"{audit.plan.name}: privacy audit",
        kind=f"Privacy audit on made-up data, {audit.created[:10]}",
        heading=audit.plan.name,
        lead=_lead(audit),
        sections=[make(audit) for make in (_canaries, _self_test, _limits, _claim, _particulars)],
        plots=False,
        style=_STYLE,
    )


def _lead(audit: PrivacyAudit) -> str:
    failed = [check.name for check in audit.checks if not check.passed] + ["canaries"] * audit.contradicted
    if failed:
        told = '<strong class="failed">Failed.</strong> The mechanism does not do what is claimed: '
        told += f"{text(', '.join(failed))}."
    else:
        told = "Nothing was found that contradicts the claim. That is no proof of it."
    sub = f"Claimed: {audit.claim.headline()}. Tested: {audit.tested}."
    return f'<p class="headline">{told}</p><p class="sub">{text(sub)}</p>{cards(_cards(audit))}'


def _cards(audit: PrivacyAudit) -> Iterator[tuple[str, str, str, str]]:
    claim, one, passed = audit.claim, audit.one_run, sum(check.passed for check in audit.checks)
    more = f"at delta {rounded_up(claim.delta)}, for every {claim.unit.value} ({claim.relation.value})"
    yield "pooled", "Claimed epsilon", rounded_up(claim.epsilon), more
    style = "alone" if audit.contradicted else "federated"
    right = f"{one.correct} of {one.guesses} guesses right, at delta {rounded_up(one.delta)}"
    yield style, "Measured: at least", f"{one.epsilon:.2f}", right
    style = "federated" if passed == len(audit.checks) else "alone"
    yield style, "Self-test", f"{passed} of {len(audit.checks)}", "checks passed"


def _canaries(audit: PrivacyAudit) -> Section:
    one = audit.one_run
    who = "clients" if audit.plan.privacy.per_client else "rows of training data"
    if audit.plan.privacy.max_rows > 1:
        who = f"patients, each with {audit.plan.privacy.max_rows} rows,"
    body = (
        f"<p>{text(count(one.canaries, 'canary', 'canaries'))} were made up: {text(who)} that are ten times as long as "
        f"the clip, each in a direction of its own. A coin put {one.included} of them into one run of the plan's "
        "mechanism. Then it was guessed from what the run released which ones they were. Under a small epsilon guesses "
        "cannot be much better than the coin; how good they are tells how large epsilon is at least (Steinke, Nasr and "
        f"Jagielski 2023), wrongly with a probability of at most {rounded_up(CHANCE)}.</p>"
    )
    lines = (
        ("measured, at least", one.epsilon, _MEASURED),
        ("claimed", audit.claimed, _CLAIMED),
        ("most that can be shown", one.most, _SHOWN),
    )
    body += f'<div class="scale">{"".join(_bar(*line, max(value for _, value, _ in lines)) for line in lines)}</div>'
    same = one.delta == audit.claim.delta
    body += (
        f'<p class="note">Epsilon, all three at delta {rounded_up(one.delta)}'
        + ("" if same else f": the same noise is claimed to give {text(rounded_up(audit.claimed))} there")
        + ". A larger delta would explain so many right guesses that little could be shown.</p>"
    )
    if audit.claimed >= one.most:
        body += (
            f'<p class="warning">The claim lies above epsilon {one.most:.2f}, where canaries are blind: here they '
            "could not contradict it.</p>"
        )
    return Section(anchor="canaries", title="Canaries in one run", body=body)


def _bar(what: str, value: float, color: str, longest: float) -> str:
    width = 100 * value / longest if math.isfinite(value) and longest > 0 else 100.0
    return (
        f'<div><span>{text(what)}</span><span class="track"><span class="bar" '
        f'style="width:{width:.1f}%;background:{color}"></span></span><span class="value">{value:.2f}</span></div>'
    )


def _self_test(audit: PrivacyAudit) -> Section:
    body = (
        "<p>The mechanism itself, as it runs in production, with nobody, somebody or somebody strange taking part. All "
        f"checks together fail an honest mechanism with a probability of at most {rounded_up(FALSE_ALARM)}.</p>"
    )
    body += table(("check", "measured", "from", "to", "result"), [_row(check) for check in audit.checks])
    body += "<h3>What each check sees, and what it does not</h3>"
    body += table(("check", "sees", "does not see"), [(check.name, check.sees, check.blind) for check in audit.checks])
    return Section(anchor="self-test", title="Self-test", body=body)


def _row(check: Check) -> tuple[str, str, str, str, str]:
    limits = ("–" if limit is None else _number(limit) for limit in (check.low, check.high))
    low, high = limits
    return check.name, _number(check.measured), low, high, "passed" if check.passed else "FAILED"


def _number(value: float) -> str:
    return f"{value:.5g}".replace("-", "−")


def _limits(audit: PrivacyAudit) -> Section:
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in audit.cannot_see)
    return Section(anchor="limits", title="What this cannot see", body=f'<ul class="plain">{items}</ul>')


def _claim(audit: PrivacyAudit) -> Section:
    body = f"<p>{text(audit.claim.headline())}</p>{claim_parts(audit.claim)}"
    return Section(anchor="claim", title="The claim", body=body)


def _particulars(audit: PrivacyAudit) -> Section:
    rows = [
        ("plan", audit.plan.name),
        ("plan digest (SHA-256)", audit.plan.digest),
        ("made", audit.created),
        ("tested", audit.tested),
        ("seed of made-up rows and of coins", audit.seed),
        ("took", duration(audit.seconds)),
    ]
    return Section(anchor="particulars", title="Particulars", body=table(("", ""), rows))
