"""What redteam.json says: rules against attacks, over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["NO_ATTACK", "Outcome", "RedTeam"]

NO_ATTACK = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One rule under one attack. `mean` and `worst` are over seeds; None: a run failed, or none was made."""

    mean: float | None = None
    worst: float | None = None
    seeds: int = 0
    failed: int = 0
    error: str = ""
    void_rounds: int = 0
    hits: float | None = None
    """How often a planted backdoor worked, 0 to 1."""


class RedTeam:
    """The table, by rule and attack. Raises KeyError when it is not what `wardround` writes."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table
        self.metric: str = table["metric"]
        self.higher: bool = table["higher_is_better"]
        self.baseline: float | None = table["baseline"]["mean"]
        described: Sequence[Mapping[str, Any]] = table["attacks"]
        cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for cell in table["cells"]:
            cells.setdefault((cell["rule"], cell["attack"]), []).append(cell)
        self.summaries = {one["name"]: one.get("summary", "") for one in described}
        met = {attack for _, attack in cells}
        self.attacks = [name for name in (NO_ATTACK, *self.summaries) if name in met]
        self.attacks = list(dict.fromkeys([*self.attacks, *sorted(met)]))
        self.backdoors = [one["name"] for one in described if one.get("backdoor") and one["name"] in met]
        self.why_not = {rule["name"]: rule["why_not"] for rule in table["rules"] if rule.get("why_not")}
        self.outcomes = {place: self._outcome(found) for place, found in cells.items()}
        self.choice: Mapping[str, Any] | None = table.get("choice")
        run = [rule["name"] for rule in table["rules"] if rule["name"] not in self.why_not]
        means = [one.mean for one in self.outcomes.values() if one.mean is not None]
        best = (max if self.higher else min)(means, default=0.0)
        self.reference = best if self.baseline is None else self.baseline
        """What losses are counted from: the plain mean without an attack, or if that failed the best figure."""
        self.rules = sorted(run, key=self._rank)

    def outcome(self, rule: str, attack: str) -> Outcome:
        """What the rule reached; an empty one when it was not tried."""
        return self.outcomes.get((rule, attack), Outcome())

    def worst_of(self, rule: str) -> tuple[float | None, str] | None:
        """The worst mean over all attacks and no attack, and where; a failed run, without a value, is worse than any.

        None when nothing was tried.
        """
        tried = [(one.mean, name) for name in self.attacks if (one := self.outcome(rule, name)).seeds]
        return max(tried, key=lambda one: self.loss(one[0]), default=None)

    def loss(self, value: float | None) -> float:
        """How much worse than `reference`: a difference, or for an error the relative one; endless without a value."""
        if value is None:
            return math.inf
        if self.higher:
            return self.reference - value
        return (value - self.reference) / abs(self.reference) if self.reference else value

    def _outcome(self, cells: Sequence[Mapping[str, Any]]) -> Outcome:
        values = [cell["value"] for cell in cells if cell["value"] is not None]
        hits = [cell["backdoor"] for cell in cells if cell.get("backdoor") is not None]
        whole = 0 < len(values) == len(cells)
        errors = [cell["error"] for cell in cells if cell.get("error")]
        return Outcome(
            mean=sum(values) / len(values) if whole else None,
            worst=(min(values) if self.higher else max(values)) if whole else None,
            seeds=len(cells),
            failed=len(cells) - len(values),
            error=errors[0] if errors else "",
            void_rounds=sum(cell.get("void_rounds", 0) for cell in cells),
            hits=sum(hits) / len(hits) if hits else None,
        )

    def _rank(self, rule: str) -> tuple[float, float, str]:
        """Rules by their worst case, and of equal ones by what they reach without an attack."""
        worst = self.worst_of(rule)
        return math.inf if worst is None else self.loss(worst[0]), self.loss(self.outcome(rule, NO_ATTACK).mean), rule
