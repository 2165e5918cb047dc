"""Where a plan that a person names comes from: a file, or one of the plans that are shipped."""

from pathlib import Path

import wardround
from wardround.decoding import PlanError
from wardround.plan import Plan, load_plan
from wardround.registry import nearest

__all__ = ["find_plan", "shipped_plans"]


def shipped_plans() -> dict[str, Path]:
    """The plans that come with wardround, by name."""
    folder = Path(wardround.__file__).parent / "simulations" / "plans"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_plan(source: str) -> Plan:
    """The plan in the file `source`, or else the shipped plan of that name.

    Raises `PlanError` when there is neither (with the nearest name), or the plan does not fit.
    """
    path = Path(source)
    shipped = shipped_plans()
    if path.exists() or path.suffix or len(path.parts) > 1:
        return load_plan(path)
    if source not in shipped:
        raise PlanError("", "a plan file or the name of a shipped plan", source, nearest(source, shipped))
    return load_plan(shipped[source])
