"""Which rule to take: the one whose worst attack does least harm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wardround.simulations.redteam.cells import HONEST, CellResult

__all__ = ["Choice", "choose", "mean_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen rule's label, its worst case over attacks (mean of seeds), and why in one sentence."""

    rule: str
    worst: float | None
    worst_attack: str
    why: str


def mean_of(results: Iterable[CellResult]) -> float | None:
    """The mean value over seeds; None as soon as one run failed, which no other run makes up for."""
    values = [result.value for result in results]
    if not values or any(value is None for value in values):
        return None
    return sum(value for value in values if value is not None) / len(values)


def choose(results: Sequence[CellResult], *, higher_is_better: bool) -> Choice | None:
    """The rule with the best worst case over all attacks, "none" included; of equal ones the best average.

    Values are means over seeds; a failed run counts as the worst that can be. None when there is no result.
    """
    sign = 1.0 if higher_is_better else -1.0
    rules, attacks = (list(dict.fromkeys(getattr(one, name) for one in results)) for name in ("rule", "attack"))
    ranked = []
    for rule in rules:
        means = {
            attack: mean_of(one for one in results if one.rule == rule and one.attack == attack) for attack in attacks
        }
        goodness = {attack: float("-inf") if mean is None else sign * mean for attack, mean in means.items()}
        worst = min(goodness, key=lambda attack: goodness[attack])
        ranked.append((goodness[worst], sum(goodness.values()), rule, worst, means[worst], means.get(HONEST)))
    if not ranked:
        return None
    _, _, rule, attack, value, honest = max(ranked, key=lambda one: one[:2])
    shown = "a run that fails" if value is None else f"{value:.3f}"
    cost = "" if honest is None else f"; without an attack it reaches {honest:.3f}"
    why = f"its worst attack ({attack}) leaves {shown}, the best worst case of {len(rules)} rules{cost}"
    return Choice(rule=rule, worst=value, worst_attack=attack, why=why)
