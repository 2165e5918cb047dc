"""The red team's page: which rule holds against which attack, and which one to take."""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from wardround.server.report.markup import Section, cards, details, table, text
from wardround.server.report.page import document
from wardround.server.report.wording import count, difference, metric, number, sentence
from wardround.server.runs.comparison import Estimate
from wardround.simulations.report.redteam_heat import backdoor_map, named, score_map
from wardround.simulations.report.redteam_table import NO_ATTACK, RedTeam

__all__ = ["render_redteam"]


def render_redteam(table: Mapping[str, Any]) -> str:
    """The page of redteam.json as HTML, small and without a script; it loads nothing from anywhere.

    Raises KeyError when `table` lacks something that it must have.
    """
    found = RedTeam(table)
    return document(
        title=f"{table['plan']}: red team",
        kind=f"Red team: simulated attacks, {table['created'][:10]}",
        heading=table["plan"],
        lead=_lead(found),
        sections=[make(found) for make in (_maps, _rules, _attacks, _choice, _limits)],
        plots=False,
        style=files("wardround.simulations.report").joinpath("redteam.css").read_text(encoding="utf-8"),
    )


def _lead(found: RedTeam) -> str:
    whole = found.table
    sub = (
        f"{whole['attackers']} of {count(whole['sites'], 'hospital')} attacked in "
        f"{count(whole['rounds'], 'round')} of training; {count(len(whole['seeds']), 'seed')}, "
        f"{count(len(whole['cells']), 'training run')}. Figures are {metric(found.metric)} on rows on which nobody "
        f"trained: {'higher' if found.higher else 'lower'} is better."
    )
    note = f'<p class="warning">{text(sentence(said))}</p>' if (said := whole.get("note")) else ""
    return f'<p class="headline">{_headline(found)}</p><p class="sub">{text(sub)}</p>{note}{cards(_cards(found))}'


def _headline(found: RedTeam) -> str:
    if found.choice is None:
        return "No rule is recommended: none was tried."
    rule, worst = found.choice["rule"], found.choice["worst"]
    tried = sum(name != NO_ATTACK for name in found.attacks)
    told = (
        f'Take <strong class="federated">{text(rule)}</strong>: in its worst case over {text(count(tried, "attack"))} '
        f"({text(named(found.choice['worst_attack']))}) "
    )
    if worst is None:
        told += "a training run fails, as with every other rule"
    else:
        shown = number(found.metric, worst)
        told += f'it reaches {text(metric(found.metric))} <strong class="federated">{text(shown)}</strong>'
    usual, plain = found.outcome(rule, NO_ATTACK).mean, _number(found, found.baseline)
    if usual is None or found.baseline is None:
        return f"{told}."
    return (
        f"{told}. With no attack it reaches {text(number(found.metric, usual))}, "
        f"against {text(plain)} of the plain mean ({text(_cost(found, usual))})."
    )


def _cost(found: RedTeam, usual: float | None) -> str:
    """What a rule changes where nobody attacks."""
    if usual is None or found.baseline is None:
        return "–"
    return difference(found.metric, Estimate(value=usual - found.baseline))


def _cards(found: RedTeam) -> Iterator[tuple[str, str, str, str]]:
    least = _number(found, found.table["baseline"]["worst"])
    yield "pooled", "Plain mean, no attack", _number(found, found.baseline), f"worst seed: {least}"
    plain = next((rule["name"] for rule in found.table["rules"] if rule["rule"] == "mean" and not rule["pre"]), None)
    chosen = None if found.choice is None else found.choice["rule"]
    for style, what, rule in (("alone", "Plain mean", plain), ("federated", "Chosen rule", chosen)):
        if rule is not None and (worst := found.worst_of(rule)) is not None:
            value, attack = worst
            more = "" if value is None else f"; worst seed: {_number(found, found.outcome(rule, attack).worst)}"
            yield style, f"{what}, worst attack", _result(found, value), named(attack) + more
    if chosen is not None and chosen != plain:
        one = found.outcome(chosen, NO_ATTACK)
        yield (
            "federated",
            "Chosen rule, no attack",
            _number(found, one.mean),
            f"worst seed: {_number(found, one.worst)}",
        )


def _result(found: RedTeam, value: float | None) -> str:
    """What a rule reached where it was tried."""
    return "fails" if value is None else number(found.metric, value)


def _maps(found: RedTeam) -> Section:
    unit = " in per cent" if found.metric == "accuracy" else ""
    body = (
        f"<p>Each cell is the {text(metric(found.metric))}{unit} of a rule (row) under an attack (column), the mean "
        "over the seeds. Rules are ordered by their worst case, which is framed. Point at one for its worst seed.</p>"
    )
    body += score_map(found)
    places = [found.outcome(rule, attack) for rule in found.rules for attack in found.attacks]
    if any(one.failed for one in places):
        body += '<p class="note">A dashed cell has no value: a training run failed, which counts as the worst case.</p>'
    backdoors = backdoor_map(found)
    if backdoors:
        body += (
            "<h3>Backdoors: how often the planted trigger works</h3><p>A backdoor hardly shows in the figures above. "
            "It is judged by the share of rows with the trigger that get the label the attacker wants.</p>"
        )
        body += backdoors
    return Section(anchor="map", title="Rules against attacks", body=body)


def _rules(found: RedTeam) -> Section:
    rows = []
    for rule in found.rules:
        usual, worst = found.outcome(rule, NO_ATTACK), found.worst_of(rule)
        places = [found.outcome(rule, attack) for attack in found.attacks]
        means = [one.mean for one in places if one.mean is not None]
        seeds = [one.worst for one in places if one.worst is not None]
        rows.append(
            (
                rule,
                _number(found, usual.mean),
                _cost(found, usual.mean),
                _number(found, sum(means) / len(means) if means else None),
                _number(found, worst[0]) if worst else "–",
                _number(found, max(seeds, key=found.loss) if seeds else None),
                str(sum(one.void_rounds for one in places)),
                str(sum(one.failed for one in places)),
                named(worst[1]) if worst else "–",
            )
        )
    note = "against mean: difference from the plain mean, both with no attack; worst seed: the lowest single run"
    note = note if found.higher else note.replace("lowest", "highest")
    body = table(_RULES_HEAD, rows, note)
    body += details("Every rule under every attack", table(_CELL_HEAD, _cells(found)))
    return Section(anchor="rules", title="Each rule", body=body)


_RULES_HEAD = (
    *("rule", "no attack", "against mean", "mean of all", "worst case", "worst seed", "void rounds", "failed runs"),
    "worst attack",
)
_CELL_HEAD = ("rule", "attack", "mean", "worst seed", "seeds", "failed", "void rounds", "backdoor works")


def _cells(found: RedTeam) -> Iterator[tuple[str, ...]]:
    for rule in found.rules:
        for attack in found.attacks:
            one = found.outcome(rule, attack)
            values = (_number(found, one.mean), _number(found, one.worst))
            counts = (str(one.seeds), str(one.failed), str(one.void_rounds))
            yield rule, named(attack), *values, *counts, "–" if one.hits is None else f"{100 * one.hits:.0f} %"


def _number(found: RedTeam, value: float | None) -> str:
    return "–" if value is None else number(found.metric, value)


def _attacks(found: RedTeam) -> Section:
    rows = []
    for attack in found.attacks:
        if attack == NO_ATTACK:
            continue
        tried = [(one.mean, rule) for rule in found.rules if (one := found.outcome(rule, attack)).seeds]
        ordered = sorted(tried, key=lambda one: found.loss(one[0]))
        marks = " (backdoor)" if attack in found.backdoors else ""
        told = (found.summaries.get(attack, "") or "–") + marks
        rows.append((attack, told, *(f"{rule}: {_result(found, mean)}" for mean, rule in (ordered[0], ordered[-1]))))
    body = table(("attack", "what the attackers do", "best rule", "worst rule"), rows)
    return Section(anchor="attacks", title="The attacks", body=body)


def _choice(found: RedTeam) -> Section:
    whole = found.table
    body = ""
    if found.choice is not None:
        body += f"<p>{text(found.choice['rule'])}: {text(found.choice['why'])}</p>"
    seeds = ", ".join(str(seed) for seed in whole["seeds"])
    body += table(
        ("", ""),
        [
            ("plan", whole["plan"]),
            ("plan digest (SHA-256)", whole["digest"]),
            ("made", whole["created"]),
            ("hospitals and attackers", f"{whole['sites']}, of which {whole['attackers']} attack"),
            ("rounds", whole["rounds"]),
            ("seeds", seeds),
            ("plain mean without an attack, by seed", ", ".join(_by_seed(found)) or "–"),
        ],
    )
    return Section(anchor="choice", title="How the choice was made", body=body)


def _by_seed(found: RedTeam) -> Iterator[str]:
    for seed, value in found.table["baseline"].get("seeds", {}).items():
        yield f"{seed}: {_number(found, value)}"


def _limits(found: RedTeam) -> Section:
    attackers = count(found.table["attackers"], "attacker")
    sentences = (
        f"More than {attackers}: nothing here is about more, or about other attacks than those listed. Somebody who "
        "knows the rule can do worse than an attack that does not.",
        "Another federation: other data, another number of hospitals or more uneven ones can turn the order round.",
        "Figures for the rule that was chosen: it was chosen because it looked best on these seeds, so these figures "
        "are a little too good. A run with another seed judges it afresh.",
        "A backdoor that stays hidden: only the triggers listed here were tried.",
        "False reports: attackers lie in their updates here, not in the counts with which a model is evaluated.",
        "A network: one process on one machine played every hospital and the server.",
    )
    body = '<ul class="plain">' + "".join(f"<li>{text(sentence)}</li>" for sentence in sentences) + "</ul>"
    return Section(anchor="limits", title="What this does not show", body=body)
