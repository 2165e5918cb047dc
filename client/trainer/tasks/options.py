"""Checks that the built-in tasks share: the architecture's name and the keys of `task.options`."""

from collections.abc import Mapping

from wardround.plan import Plan, PlanError
from wardround.registry import nearest

__all__ = ["architecture", "options"]


def architecture(plan: Plan, known: tuple[str, ...]) -> str:
    """The plan's `task.model`, by default the first of `known`. Raises PlanError for any other."""
    name = plan.task.model or known[0]
    if name not in known:
        raise PlanError("task.model", f"an architecture of {plan.task.name!r}{nearest(name, known)}", name)
    return name


def options(plan: Plan, defaults: Mapping[str, int]) -> dict[str, int]:
    """`task.options` over `defaults`: true or false where the default is, else a whole number of at least 0.

    Raises PlanError for an unknown key or another type.
    """
    chosen = dict(defaults)
    for name, value in plan.task.options.items():
        path = f"task.options.{name}"
        if name not in defaults:
            raise PlanError(path, f"a known option{nearest(name, defaults)}")
        if isinstance(defaults[name], bool):
            if not isinstance(value, bool):
                raise PlanError(path, "true or false", value)
            chosen[name] = value
        elif isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise PlanError(path, "a whole number of at least 0", value)
        else:
            chosen[name] = value
    return chosen
