"""The revocation list that a site goes by: the newest that it was ever given."""

from datetime import datetime
from typing import TYPE_CHECKING

from wardround.client.agent.site_folder import SiteFolder
from wardround.errors import LocalError, RemoteError

if TYPE_CHECKING:
    from wardround.identity import Revocations

__all__ = ["RevocationList"]

_LIST, _NEWEST = "revocations.der", "revocations-number"


class RevocationList:
    """That of the site of `folder`."""

    __slots__ = ("_folder",)

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder

    def current(self, now: datetime) -> "Revocations":
        """The list to go by. Raises LocalError for one that is damaged, out of date, or older than one seen."""
        try:
            return self._folder.authority.revocations(self._folder.read(_LIST), now, newest=self._newest())
        except RemoteError as error:
            raise LocalError(f"{self._folder.path / _LIST}: {error}") from None

    def replace(self, der: bytes, now: datetime) -> bool:
        """Go by this list from now on; durable on return. False for the one that is there.

        Raises RemoteError for a list of another authority, out of date, or older than one that was seen.
        """
        if der == self._folder.read(_LIST):
            return False
        found = self._folder.authority.revocations(der, now, newest=self._newest())
        self._folder.write(_LIST, der)
        self._folder.write(_NEWEST, str(found.number).encode())
        return True

    def _newest(self) -> int:
        path = self._folder.path / _NEWEST
        if not path.exists():
            return 0
        text = self._folder.read(_NEWEST)
        if not text.isdigit():
            raise LocalError(f"{path}: expected a number; restore it from a copy")
        return int(text)
