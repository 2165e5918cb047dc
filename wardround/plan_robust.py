"""The plan's section on bad updates: the rule, what comes before it, and what is made of evidence."""

from dataclasses import dataclass

from wardround.decoding import PlanError, check_bounds, default_of, fields_of, key
from wardround.registry import names, nearest

__all__ = ["AUTO", "OFF", "Quarantine", "Robust"]

OFF, AUTO = "off", "auto"


def _rules() -> tuple[str, ...]:
    return (OFF, AUTO, *names("wardround.rules"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """[robust.quarantine]: when a site whose contributions stay suspicious is left out until a person releases it."""

    enabled: bool = key(
        False,
        doc="whether sites are quarantined. Off, reputation is kept all the same and the report says who would be: "
        "hospitals whose patients differ look like attackers",
    )
    flag_rate: float = key(
        0.2, doc="assumed: an honest site is flagged in at most this share of its rounds, at random", gt=0, lt=1
    )
    false_positive: float = key(
        0.01, doc="largest probability that any honest site is quarantined in a run, if that holds", gt=0, lt=1
    )
    decay: float = key(0.9, doc="how much of a site's suspicion is left after each of its rounds", gt=0, lt=1)
    regroupings: int = key(
        3, doc="different groups that must be flagged with a site in them, where contributions are group sums", ge=2
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Robust:
    """[robust]: what protects the model from bad updates."""

    rule: str = key(
        OFF,
        doc="registered rule; `off`: the weighted mean; `auto`: chosen before a simulation by attacking it",
        choices=_rules,
    )
    num_byzantine: int = key(0, doc="how many contributions of a round may be anything at all", ge=0)
    pre: tuple[str, ...] = key((), doc="registered pre-aggregators, in the order in which they are applied")
    detectors: tuple[str, ...] = key(
        ("norm", "cosine"), doc="registered detectors, whose findings count against a site's reputation"
    )
    norm_factor: float = key(
        100.0, doc="an update longer than so many times the round's median length is refused", gt=1
    )
    options: dict[str, dict[str, bool | int | float]] = key(
        {}, doc="options by rule, pre-aggregator or detector, e.g. `[robust.options.bucketing] size = 2`"
    )
    root_examples: int = key(
        0, doc="`fltrust`: rows that the server holds itself; a simulation takes them from the data", ge=0
    )
    quarantine: Quarantine = key(Quarantine, doc="what is made of lasting suspicion")

    def __post_init__(self) -> None:
        check_bounds(self)
        for keyword, kind in (("pre", "preaggregators"), ("detectors", "detectors")):
            known, given = names(f"wardround.{kind}"), getattr(self, keyword)
            for index, name in enumerate(given):
                if name not in known:
                    raise PlanError(f"{keyword}[{index}]", "a known name", name, nearest(name, known))
            if len(set(given)) != len(given):
                raise PlanError(keyword, "every name once", given)
        if self.rule == OFF and (idle := self._changed() - {"rule", "root_examples"}):
            raise PlanError("rule", f'a rule, since {min(idle)} is set; "off" is the plain mean', OFF)
        if self.rule == AUTO and (self.pre or self.options):
            raise PlanError("pre", 'none, and no options, since rule = "auto" chooses them', self.pre)
        if self.rule not in (OFF, AUTO):
            for name in self.options:
                if name not in (pieces := (self.rule, *self.pre, *self.detectors)):
                    raise PlanError(
                        f"options.{name}", "a rule, pre-aggregator or detector of this plan", hint=nearest(name, pieces)
                    )
        if (self.rule == "fltrust") != (self.root_examples > 0):
            raise PlanError("root_examples", 'rows of the server exactly when rule = "fltrust"', self.root_examples)

    def _changed(self) -> set[str]:
        """The keys that are not at their default."""
        return {name for name, (field, _) in fields_of(Robust).items() if getattr(self, name) != default_of(field)}
