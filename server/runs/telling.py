"""What sites are being told of runs: a task for each thing, that ends when the site has kept it."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from wardround.errors import WardroundError
from wardround.link.messages import Notice
from wardround.orders import SiteId

__all__ = ["Notices", "Telling"]

_log = logging.getLogger("wardround")


class Notices(Protocol):
    """How a site is told something: `Hub.notify`, which returns when the site has kept it."""

    async def notify(self, site: SiteId, notice: Notice) -> None: ...


class Telling:
    """The tasks by a key, whose last part is the site; called in the server's loop."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, ...], asyncio.Task[None]] = {}
        self._closed = False

    def begin(self, key: tuple[str, ...], work: Coroutine[Any, Any, None]) -> bool:
        """Do `work`, whose error is logged; False, and nothing is done, where there is a task with this key."""
        if key in self._tasks or self._closed:
            work.close()
            return False

        async def tell() -> None:
            try:
                await work
            except WardroundError as error:
                _log.warning("%s: it could not be told (%s): %s", key[-1], key[0], error)
            finally:
                if self._tasks.get(key) is asyncio.current_task():
                    del self._tasks[key]

        self._tasks[key] = asyncio.create_task(tell())
        return True

    def withdraw(self, *key: str) -> None:
        """End the tasks whose key begins so. `Hub.notify` takes back what is not under way."""
        for one, task in list(self._tasks.items()):
            if one[: len(key)] == key:
                del self._tasks[one]
                task.cancel()

    async def close(self) -> None:
        """End all tasks; none begins from now on."""
        self._closed = True
        tasks = list(self._tasks.values())
        self.withdraw()
        await asyncio.gather(*tasks, return_exceptions=True)
