"""What redteam.json says: rules against attacks, over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["NO_ATTACK", "Outcome", "RedTeam"]

NO_ATTACK = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One rule under one attack. `mean` and `worst` are over the seeds that gave a value; None: none did."""

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
        self.baseline: float = table["baseline"]["mean"]
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
        choice = table.get("choice")
        self.choice: Mapping[str, Any] | None = choice
        run = [rule["name"] for rule in table["rules"] if rule["name"] not in self.why_not]
        self.rules = sorted(run, key=self._rank)

    def outcome(self, rule: str, attack: str) -> Outcome:
        """What the rule reached; an empty one when it was not tried."""
        return self.outcomes.get((rule, attack), Outcome())

    def worst_of(self, rule: str, attacks: Sequence[str] | None = None) -> tuple[float, str] | None:
        """The lowest mean over `attacks` (by default all and no attack), and where; None when there is no value."""
        names = self.attacks if attacks is None else attacks
        means = [(mean, name) for name in names if (mean := self.outcome(rule, name).mean) is not None]
        return max(means, key=lambda one: self.loss(one[0]), default=None)

    def loss(self, value: float) -> float:
        """How much worse than the plain mean without an attack: a difference, or for an error the relative one."""
        if self.higher:
            return self.baseline - value
        return (value - self.baseline) / abs(self.baseline) if self.baseline else value

    def _outcome(self, cells: Sequence[Mapping[str, Any]]) -> Outcome:
        values = [cell["value"] for cell in cells if cell["value"] is not None]
        hits = [cell["backdoor"] for cell in cells if cell.get("backdoor") is not None]
        errors = [cell["error"] for cell in cells if cell.get("error")]
        return Outcome(
            mean=sum(values) / len(values) if values else None,
            worst=(min(values) if self.higher else max(values)) if values else None,
            seeds=len(cells),
            failed=len(cells) - len(values),
            error=errors[0] if errors else "",
            void_rounds=sum(cell.get("void_rounds", 0) for cell in cells),
            hits=sum(hits) / len(hits) if hits else None,
        )

    def _rank(self, rule: str) -> tuple[bool, float, float, str]:
        """Rules by their worst case; last those of which a part is unknown."""
        gaps = any(self.outcome(rule, attack).failed or not self.outcome(rule, attack).seeds for attack in self.attacks)
        worst, usual = self.worst_of(rule), self.outcome(rule, NO_ATTACK).mean
        return False, self.loss(worst[0]) if worst else 0.0, self.loss(usual) if usual is not None else 0.0, rule
