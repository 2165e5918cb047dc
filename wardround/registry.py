"""Named kinds of things (tasks, data sets, partitions) that third parties may add to.

Every kind is an entry-point group. Ours are declared in pyproject.toml exactly as a third party
would declare its own, so the names are known without importing anything.
"""

import difflib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from wardround.errors import LocalError, MissingExtraError

__all__ = ["load", "names", "nearest"]


def nearest(name: str, known: Iterable[str], *, listing: bool = True) -> str:
    """A hint `; did you mean 'x'?` when one of `known` resembles `name`, else (if `listing`) all there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known and listing else ""


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def names(group: str) -> tuple[str, ...]:
    """The names registered in the entry-point group `group`, sorted; imports nothing."""
    return tuple(sorted(_entries(group)))


def load(group: str, name: str) -> Any:
    """The object registered as `name` in `group`.

    Raises `LocalError` for an unknown name (with the nearest known one), `MissingExtraError` when the
    object's module needs an optional dependency that is not installed.
    """
    entry = _entries(group).get(name)
    if entry is None:
        kind = group.removeprefix("wardround.").removesuffix("s")
        raise LocalError(f"no {kind} is called {name!r}{nearest(name, names(group))}")
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "wardround":
            raise
        raise MissingExtraError("simulation", error.name) from error
