"""Plans that come with wardround; `wardround simulate breast-cancer` finds them by name."""

from pathlib import Path

from wardround.errors import LocalError
from wardround.registry import nearest

__all__ = ["SHIPPED_PLANS", "shipped_plan"]

_FOLDER = Path(__file__).parent

SHIPPED_PLANS = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def shipped_plan(name: str) -> Path:
    """The file of the plan called `name`. Raises LocalError with the nearest name when there is none."""
    if name not in SHIPPED_PLANS:
        raise LocalError(f"no plan is called {name!r}{nearest(name, SHIPPED_PLANS)}")
    return _FOLDER / f"{name}.toml"
