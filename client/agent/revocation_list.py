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
            return self._folder.authority.revocations(self._folder.read(_LIST), now, newest=self._noted())
        except RemoteError as error:
            raise LocalError(f"{self._folder.path / _LIST}: {error}") from None

    def replace(self, der: bytes, now: datetime) -> bool:
        """Go by this list from now on; durable on return. False for the one that is there.

        Raises RemoteError for a list of another authority, out of date, or older than one that was seen.
        """
        known = self._folder.read(_LIST)
        newest = max(self._noted(), _number_in(known))  # a kill came between the list and its number
        if der != known:
            newest = self._folder.authority.revocations(der, now, newest=newest).number
            self._folder.write(_LIST, der)
        if newest > self._noted():
            self._folder.write(_NEWEST, str(newest).encode())
        return der != known

    def _noted(self) -> int:
        """The largest number that was seen, so that a file that was put back is found out."""
        path = self._folder.path / _NEWEST
        if not path.exists():
            return 0
        text = self._folder.read(_NEWEST)
        if not text.isdigit():
            raise LocalError(f"{path}: expected a number; restore it from a copy")
        return int(text)


def _number_in(der: bytes) -> int:
    """The number of a list that was checked when it was kept, also one that is out of date; 0 for a damaged one."""
    from cryptography import x509

    try:
        return x509.load_der_x509_crl(der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound):
        return 0
