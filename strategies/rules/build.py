"""The rule that a plan asks for, from the registered pieces."""

from typing import Any

from wardround.decoding import PlanError
from wardround.pieces import make_piece
from wardround.plan_robust import AUTO, OFF, Robust
from wardround.strategies.rules import robust
from wardround.strategies.rules.mean import Mean
from wardround.strategies.rules.rule import Rule

__all__ = ["build_robust", "build_rule"]


def build_rule(settings: Robust) -> Rule:
    """The rule of `[robust]`. Raises PlanError for options that a piece does not have or cannot take."""
    return Mean() if settings.rule == OFF else build_robust(settings)


def build_robust(settings: Robust) -> robust.Robust:
    """The same where a rule is named. Raises PlanError for "auto" too."""
    if settings.rule == AUTO:
        raise PlanError("robust.rule", 'a rule: only a simulation resolves "auto"; `wardround redteam` picks one')
    return robust.Robust(
        rule=_piece("rules", settings.rule, settings),
        pre=tuple(_piece("preaggregators", name, settings) for name in settings.pre),
        detectors=tuple((name, _piece("detectors", name, settings)) for name in settings.detectors),
        norm_factor=settings.norm_factor,
    )


def _piece(kind: str, name: str, settings: Robust) -> Any:
    """The registered `name`, with the plan's num_byzantine and its options for it."""
    options, path = settings.options.get(name, {}), f"robust.options.{name}"
    return make_piece(f"wardround.{kind}", name, options, path, num_byzantine=settings.num_byzantine)
