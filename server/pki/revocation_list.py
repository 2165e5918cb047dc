"""The revocation list of the identity authority, which sites check each other's certificates against."""

import base64
from collections.abc import Callable
from datetime import datetime, timedelta

from wardround.errors import RemoteError
from wardround.identity import Authority, issue_revocations
from wardround.server.pki.tls_authority import CLOCK_SLACK
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.database import Database
from wardround.server.state.settings import CRL_NUMBER, Settings
from wardround.signing_key import SigningKey

__all__ = ["LIST_LIFETIME", "RevocationList"]

LIST_LIFETIME = timedelta(days=7)
_MOST_AGE = timedelta(days=1)
"""A list that is older is made again."""
_KEPT = "identity-revocations"


class RevocationList:
    """The list, kept in the database. `authority` is a certificate (DER), `key` its key.

    `on_new` is told every new list (DER).
    """

    __slots__ = ("_authority", "_certificates", "_database", "_key", "_settings", "on_new")

    def __init__(
        self, database: Database, authority: bytes, key: SigningKey, *, on_new: Callable[[bytes], None]
    ) -> None:
        self._database, self._authority, self._key, self.on_new = database, authority, key, on_new
        self._certificates, self._settings = Certificates(database), Settings(database)

    def current(self, now: datetime) -> bytes:
        """The newest list, DER; one that is older than a day is made again first."""
        if (kept := self._kept(now)) is not None:
            return kept
        with self._database.transaction():
            self._database.serialise("revocations")
            if (kept := self._kept(now)) is not None:  # another was faster
                return kept
            _, made = self.make(now)
        self.on_new(made)
        return made

    def make(self, now: datetime) -> tuple[int, bytes]:
        """A new list, its number and DER, for the transaction that revokes; who calls it tells `on_new` afterwards."""
        self._database.serialise("revocations")
        # at least the seconds since 1970: a server that is restored gives no number that sites have seen already
        number = self._settings.advance(CRL_NUMBER, max(self._settings.counter(CRL_NUMBER) + 1, int(now.timestamp())))
        made = issue_revocations(
            self._authority,
            self._key,
            # some that have ended lately, too, for sites whose clock is late
            serials=self._certificates.all_revoked(CertificateKind.IDENTITY, ending_after=now - timedelta(days=1)),
            number=number,
            now=now - CLOCK_SLACK,
            valid_for=LIST_LIFETIME + CLOCK_SLACK,
        )
        self._settings.put(_KEPT, base64.b64encode(made).decode())
        return number, made

    def _kept(self, now: datetime) -> bytes | None:
        """What is kept, where it is good and not old."""
        text = self._settings.get(_KEPT)
        if text is None:
            return None
        der = base64.b64decode(text)
        try:
            found = Authority(self._authority).revocations(der, now)
        except RemoteError:  # of another time
            return None
        return der if found.next_update - now > LIST_LIFETIME - _MOST_AGE else None
