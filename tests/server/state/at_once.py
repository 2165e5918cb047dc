"""The same call by several connections at the same moment."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier
from typing import TypeVar

from wardround.server.state.database import Database

__all__ = ["at_once"]

_Made = TypeVar("_Made")


def at_once(url: str, count: int, call: Callable[[Database, int], _Made]) -> list[_Made]:
    """What `call(database, i)` gives for each i below `count`, all begun together, each over a database of its own."""
    barrier = Barrier(count)

    def begin(database: Database, number: int) -> _Made:
        barrier.wait(timeout=60)
        return call(database, number)

    with ExitStack() as stack:
        databases = [Database.open(url) for _ in range(count)]
        for database in databases:
            stack.callback(database.close)
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(begin, databases, range(count)))
