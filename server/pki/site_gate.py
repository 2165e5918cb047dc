"""Who may be attached to the server now: what the hub asks at each connection and each frame."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from wardround.clock import utc_now
from wardround.errors import RemoteError
from wardround.orders import SiteId
from wardround.server.pki.tls_authority import CLOCK_SLACK
from wardround.tls_identity import TlsAuthority

__all__ = ["SiteGate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Admitted:
    site: SiteId
    not_after: datetime


class SiteGate:
    """Sites by name, and since when: memory alone, so that a frame costs a look into a table. Threads may share it.

    A certificate is good if it is the authority's, valid, of a site that takes part, not revoked, and not older than
    the time at which its site joined last: whoever was revoked and joined again does not get the old ones back, even
    those that a restored database has forgotten.
    """

    __slots__ = ("_admitted", "_authority", "_joined", "_lock", "_now", "_revoked")

    def __init__(
        self,
        authority: TlsAuthority,
        *,
        joined: Iterable[tuple[SiteId, datetime]] = (),
        revoked: Iterable[int] = (),
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._authority, self._now = authority, now
        self._lock = threading.Lock()
        self._joined = dict(joined)
        self._revoked = set(revoked)
        self._admitted: dict[bytes, _Admitted] = {}

    def admit(self, certificate_der: bytes) -> SiteId:
        """The site of this certificate. RemoteError where it is not known, expired or revoked."""
        now = self._now()
        found = self._authority.verify_site(certificate_der, now=now)
        with self._lock:
            joined = self._joined.get(found.name)
            if joined is None:
                raise RemoteError(f"{found.name}: expected a site that takes part, got one that is revoked or unknown")
            # a certificate has whole seconds, and is valid from some time before it was made
            if found.serial in self._revoked or found.not_before + CLOCK_SLACK < joined.replace(microsecond=0):
                raise RemoteError(f"{found.name}: expected a certificate that is not revoked; enrol the site again")
            self._admitted = {
                der: one for der, one in self._admitted.items() if one.not_after >= now and der != certificate_der
            }
            self._admitted[certificate_der] = _Admitted(site=found.name, not_after=found.not_after)
        return found.name

    def still(self, certificate_der: bytes) -> bool:
        """Whether a certificate that was admitted still would be."""
        found = self._admitted.get(certificate_der)
        return found is not None and found.not_after >= self._now()

    def let(self, site: SiteId, joined: datetime) -> None:
        """The site takes part, with certificates from `joined` on."""
        with self._lock:
            self._joined[site] = joined

    def refuse(self, site: SiteId, serials: Iterable[int] = ()) -> None:
        """The site takes part no more, from the next frame on; nor does any certificate with these serial numbers."""
        with self._lock:
            self._joined.pop(site, None)
            self._revoked.update(serials)
            self._admitted = {der: one for der, one in self._admitted.items() if one.site != site}
