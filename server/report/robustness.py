"""Bad updates: what protects the model from them, what was found, and whom it points at."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from wardround.contribution import Verdict
from wardround.errors import LocalError
from wardround.plan_robust import AUTO, OFF
from wardround.registry import load
from wardround.server.report.evidence import SiteEvidence, came, observations, quarantines, site_evidence
from wardround.server.report.evidence_plots import (
    SMALL,
    VERDICT_KEY,
    contributions_plot,
    suspicion_plot,
    verdict_map,
)
from wardround.server.report.markup import Section, details, figure, key, table, text
from wardround.server.report.run import Json, ReportedRun
from wardround.server.report.wording import count, listed

__all__ = ["attack_told", "robustness"]

_MOST_LISTED, _MOST_NAMED, _MOST_NOTES = 100, 10, 100
_CAUTION = (
    "None of this proves an attack. A hospital whose patients, machines or habits differ sends updates that differ, "
    "and looks like an attacker; a careful attacker looks like a hospital. Talk to the hospital first."
)

_GROUPED = (
    "The server saw sums of groups: what was found against a group stands here against each of its hospitals, and "
    "which of them is the cause cannot be told."
)


def robustness(run: ReportedRun) -> Section | None:
    """What the rule tolerates and did, who attacked, and the evidence by hospital; None when there is nothing to say.

    That is: no rule, no simulated attack, and no contribution refused or flagged.
    """
    attacked = run.plan.simulation.attack.name != "none"
    quiet = all(one.verdict is not Verdict.REFUSED and not one.flags for one in observations(run.lines))
    if run.plan.robust.rule == OFF and not attacked and quiet:
        return None
    body = "".join(
        f"<p>{text(sentence)}</p>" for sentence in (_protection(run), attack_told(run), _found(run)) if sentence
    )
    body += _pieces(run) + _events(run.lines)
    if run.lines:
        body += _groups(run) if run.attackers else ""
        plots = (contributions_plot(run), suspicion_plot(run))
        body += '<div class="pair">' + "".join(figure(plot) for plot in plots if plot is not None) + "</div>"
        if len(run.sites) <= SMALL[0] and len(run.lines) <= SMALL[1]:
            shown = verdict_map(run)
            found = {cell for row in shown.traces[0]["z"] for cell in row}
            body += figure(shown) + key(VERDICT_KEY[state] for state in sorted(found))
        body += _sites(run)
        if run.plan.protection.on:
            body += f'<p class="warning">{text(_GROUPED)}</p>'
        body += f'<p class="warning">{text(_CAUTION)}</p>'
    return Section(anchor="robustness", title="Bad updates", body=body)


def _protection(run: ReportedRun) -> str:
    robust = run.plan.robust
    if robust.rule == OFF:
        return (
            "No rule protected the model: updates were averaged, and only what no hospital sends in earnest (values "
            "that are not finite, a wrong size) was refused."
        )
    rule = (
        "the rule that attacking a simulation chose (auto)"
        if robust.rule == AUTO
        else listed((*robust.pre, robust.rule))
    )
    sizes = {_contributions(line) for line in run.lines}
    n = f" of {_range(sizes)}" if sizes else ""
    what, clip = "a group's mean" if run.plan.protection.on else "an update", run.plan.clipping.clip_norm
    clipped = "" if clip is None else f"longer than the clip ({clip:g}) or "
    return (
        f"Updates were combined by {rule}, set up so that up to {robust.num_byzantine}{n} contributions of a round may "
        "be anything at all. Before any rule, what no hospital sends in earnest was refused: values that are not "
        f"finite, a wrong size, or {what} {clipped}{robust.norm_factor:g} times as long as the median of the round."
    )


def _contributions(line: Json) -> int:
    """How many the rule saw, refused ones included: of hospitals, or of their groups."""
    protection = line.get("protection")
    return len(came(line)) if protection is None else sum(one["survivors"] > 0 for one in protection["groups"])


def _range(found: set[int]) -> str:
    return str(min(found)) if len(found) == 1 else f"{min(found)} to {max(found)}"


def attack_told(run: ReportedRun) -> str:
    """Who attacked in this simulation, how, and whether that is within what the rule tolerates; empty: nobody did."""
    attack, robust = run.plan.simulation.attack, run.plan.robust
    if attack.name == "none":
        return ""
    how = _attribute("wardround.attacks", attack.name, "summary")
    told = f"In this simulation, {attack.attackers} of {count(run.num_sites, 'hospital')} attacked"
    told += f" from round {attack.from_round} on" if attack.from_round > 1 else ""
    told += f" ({attack.name}{f': {how}' if how else ''})"
    told += f": {_some(run.attackers)}." if run.attackers else "."
    if robust.rule != OFF and attack.attackers > robust.num_byzantine:
        told += f" That is more than the {robust.num_byzantine} that the rule was set up for: nothing is promised then."
    return told


def _attribute(group: str, name: str, attribute: str) -> str:
    """What a registered piece says of itself; empty when it is not installed here, as of a run of long ago."""
    try:
        return str(getattr(load(group, name), attribute, "")).replace("`", "")
    except LocalError:
        return ""


def _found(run: ReportedRun) -> str:
    if not run.lines:
        return "No round was finished."
    total = sum(_contributions(line) for line in run.lines)
    seen = list(observations(run.lines))
    counts = [
        f"{_share(sum(one.verdict is verdict for one in seen), total)} {verdict.value}"
        for verdict in (Verdict.REFUSED, Verdict.REJECTED, Verdict.DOWN_WEIGHTED)
    ]
    updates = count(total, "group's sum", "groups' sums") if run.plan.protection.on else count(total, "update")
    flagged = _share(sum(bool(one.flags) for one in seen), total)
    told = f"Of {updates}, {listed(counts)}; detectors flagged {flagged}."
    inside = run.lines[-1].get("quarantined", ())
    if inside:
        told += f" In quarantine after the last round, until a person releases them: {_some(inside)}."
    return told


def _names(run: ReportedRun) -> set[str]:
    """Every site that any line names."""
    members = {site for line in run.lines for one in line["evidence"] for site in one["members"]}
    return members | {site for line in run.lines for site in line["cohort"]}


def _share(n: int, of: int) -> str:
    """`12 (2.0 %)`, or `none`."""
    return f"{n} ({100 * n / of:.1f} %)" if n and of else "none"


def _some(sites: Collection[str]) -> str:
    """Their names, or the first of them and how many more there are."""
    shown = sorted(sites)[:_MOST_NAMED]
    left = len(sites) - len(shown)
    return listed([*shown, f"{left} more"] if left else shown)


def _pieces(run: ReportedRun) -> str:
    """What each piece does and up to where it works."""
    robust = run.plan.robust
    if robust.rule in (OFF, AUTO):
        return ""
    pieces = [("preaggregators", name) for name in robust.pre] + [("rules", robust.rule)]
    pieces += [("detectors", name) for name in robust.detectors]
    rows = [
        (name, *(_attribute(f"wardround.{kind}", name, what) or "–" for what in ("summary", "tolerates", "source")))
        for kind, name in pieces
    ]
    return details("The pieces, what they tolerate, and where they come from", table(_PIECES_HEAD, rows))


_PIECES_HEAD = ("piece", "what it does", "works while", "source")


def _events(lines: Sequence[Json]) -> str:
    """Rounds without an aggregate, and what else was noted."""
    failed = Counter(line["aggregation"] for line in lines if line.get("aggregation"))
    body = ""
    if failed:
        rounds = {reason: [line["round"] for line in lines if line.get("aggregation") == reason] for reason in failed}
        rows = [(reason, n, _rounds(rounds[reason])) for reason, n in failed.most_common(20)]
        body += table(("why a round gave no update", "rounds", "which"), rows)
    notes = [(f"round {line['round']}", note) for line in lines for note in line.get("notes", ())]
    if notes:
        left = len(notes) - _MOST_NOTES
        more = f'<p class="note">{count(left, "earlier note")} left out.</p>' if left > 0 else ""
        body += details(f"{count(len(notes), 'note')}", table(("when", "note"), notes[-_MOST_NOTES:]) + more)
    return body


def _rounds(found: Sequence[int]) -> str:
    shown = ", ".join(map(str, found[:_MOST_NAMED]))
    return shown if len(found) <= _MOST_NAMED else f"{shown}, …"


def _groups(run: ReportedRun) -> str:
    """Attackers beside honest sites, from the round of the attack on."""
    first = run.plan.simulation.attack.from_round
    lines = [line for line in run.lines if line["round"] >= first]
    attackers = set(run.attackers)
    groups = {site: "attackers" if site in attackers else "honest hospitals" for site in _names(run)}
    found = site_evidence(lines, groups)
    rows = [(name, *_figures(found[name])) for name in ("attackers", "honest hospitals") if name in found]
    since = f"from round {first} on; " if first > 1 else ""
    return table(("who", *_FIGURES_HEAD), rows, f"Attackers beside the others ({since}{_SHARE_NOTE})")


_FIGURES_HEAD = ("updates", "refused", "rejected", "down-weighted", "flagged", "share")
_SHARE_NOTE = "share: of the aggregate, on average, 1 being an equal one"


def _figures(found: SiteEvidence) -> Iterator[str]:
    yield str(found.contributions)
    for verdict in (Verdict.REFUSED, Verdict.REJECTED, Verdict.DOWN_WEIGHTED):
        yield str(found.verdicts.get(verdict, 0))
    yield str(found.flagged)
    yield "–" if found.share is None else f"{found.share:.2f}"


def _sites(run: ReportedRun) -> str:
    """The evidence by hospital, the most suspicious ones first."""
    found = site_evidence(run.lines)
    suspicion = run.lines[-1].get("reputation", {})
    inside = quarantines(run.lines)
    names = sorted(found, key=lambda s: (s not in inside, -suspicion.get(s, 0.0), -found[s].conspicuous, s))
    shown = names[:_MOST_LISTED]
    attackers = set(run.attackers)
    rows = [
        (
            f"{site} ◉" if site in attackers else site,
            *_figures(found[site]),
            f"{suspicion.get(site, 0.0):.2f}",
            _spans(inside.get(site, ())),
            found[site].reason or "–",
        )
        for site in shown
    ]
    head = ("hospital", *_FIGURES_HEAD, "suspicion", "quarantine", "most frequent reason")
    mark = "; ◉: an attacker of this simulation" if attackers else ""
    body = table(head, rows, f"Each hospital, the most suspicious ones first ({_SHARE_NOTE}{mark})")
    if len(names) > len(shown):
        body += f'<p class="note">{text(count(len(names) - len(shown), "less suspicious hospital"))} left out.</p>'
    return body


def _spans(found: Sequence[tuple[int, int | None]]) -> str:
    shown = (f"since round {first}" if last is None else f"rounds {first} to {last}" for first, last in found)
    return ", ".join(shown) or "–"
