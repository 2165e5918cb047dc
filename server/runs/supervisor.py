"""The runs of the server: who is asked, who has approved, and the worker process of each (skeleton, being filled)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from wardround.clock import utc_now
from wardround.link.messages import Call, Notice, Reply
from wardround.orders import SiteId
from wardround.server.state.database import Database
from wardround.server.state.folder import StateFolder
from wardround.server.state.keyring import Keyring

__all__ = ["Progress", "SiteCalls", "Supervisor"]


class SiteCalls(Protocol):
    """What of the Hub a run needs."""

    async def call(
        self,
        site: SiteId,
        call: Call,
        *,
        timeout_s: float | None,
        allocate: Callable[[int], memoryview],
        most_bytes: int,
    ) -> Reply: ...

    async def notify(self, site: SiteId, notice: Notice) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a run is doing now. `doing` is what its sites were asked last ("" where nobody is asked)."""

    run_id: str
    round: int
    rounds: int
    doing: str = ""
    asked: tuple[SiteId, ...] = ()
    answered: tuple[SiteId, ...] = ()
    since: datetime | None = None
    restarts: int = 0


class Supervisor:
    """Everything is called in the server's loop. `open` goes on with what was running when the server ended."""

    def __init__(
        self,
        hub: SiteCalls,
        folder: StateFolder,
        keyring: Keyring,
        database: Database,
        *,
        revocations: Callable[[], bytes],
        clock: Callable[[], datetime] = utc_now,
        python: str | None = None,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        raise NotImplementedError

    async def open(self) -> None:
        """Go on with the runs that were running, ask again who has not decided."""
        raise NotImplementedError

    async def close(self) -> None:
        """End every worker; their runs stay `running` and go on with the next `open`."""
        raise NotImplementedError

    async def start(self, run_id: str) -> None:
        """Offer a `waiting` run to its sites; it starts once all have approved."""
        raise NotImplementedError

    async def pause(self, run_id: str) -> None:
        raise NotImplementedError

    async def resume(self, run_id: str) -> None:
        raise NotImplementedError

    async def stop(self, run_id: str) -> None:
        raise NotImplementedError

    def progress(self, run_id: str) -> Progress | None:
        """What a run is doing; None for one that has no worker."""
        raise NotImplementedError

    async def noticed(self, site: SiteId, notice: Notice) -> None:
        """Take an `approval` notice of a site; RemoteError for one that is malformed or not signed by the site."""
        raise NotImplementedError

    async def renewed(self, revocations: bytes) -> None:
        """Hand a newer revocation list (DER) to the workers."""
        raise NotImplementedError
