"""The members' keys that a site has accepted: shared by its agent and its administrator's commands."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_log import note
from wardround.errors import LocalError
from wardround.file_store import FileStore

if TYPE_CHECKING:
    from wardround.pins import PinChange, Pins

__all__ = ["MemberPins"]

_TRIES = 50
_BETWEEN_S = 0.02


class MemberPins:
    """The accepted keys of the site of `folder`; its store is open only for as long as it is read or written.

    Whoever finds it open waits: LocalError after a second or two. `check` is that of `wardround.pins.AcceptedKeys`.
    """

    __slots__ = ("_folder", "_sleep")

    def __init__(self, folder: SiteFolder, sleep: Callable[[float], None] = time.sleep) -> None:
        self._folder, self._sleep = folder, sleep

    def check(self, name: str, public: bytes) -> None:
        """Raises RemoteError unless `public` is the pinned key of `name`."""
        from wardround.signing_key import fingerprint_of

        if name == self._folder.name and fingerprint_of(public) == self._folder.fingerprint:
            return  # one's own key needs nobody's word
        with self._opened() as pins:
            pins.check(name, public)

    def pinned(self) -> dict[str, str]:
        """Name to fingerprint."""
        with self._opened() as pins:
            return pins.pinned()

    def history(self) -> "tuple[PinChange, ...]":
        """Every change, in order."""
        with self._opened() as pins:
            return pins.log()

    def accept(self, name: str, fingerprint: str, *, by: str, now: datetime, instead_of: str | None = None) -> None:
        """Pin a key whose fingerprint the administrator `by` has compared; see `Pins.accept`."""
        with self._opened() as pins:
            try:
                pins.accept(name, fingerprint, by=by, now=now, instead_of=instead_of)
            except ValueError as error:
                raise LocalError(str(error)) from None
        note(self._folder, "member.accepted", name, fingerprint=fingerprint, by=by, instead_of=instead_of)

    def remove(self, name: str, *, by: str, now: datetime) -> None:
        with self._opened() as pins:
            pins.remove(name, by=by, now=now)
        note(self._folder, "member.removed", name, by=by)

    @contextmanager
    def _opened(self) -> "Iterator[Pins]":
        from wardround.pins import Pins

        path = self._folder.folder("pins")
        for left in reversed(range(_TRIES)):
            try:
                store = FileStore(path)
                break
            except LocalError as error:
                if not left or "open in another process" not in str(error):
                    raise
                self._sleep(_BETWEEN_S)
        with store:
            yield Pins(store)
