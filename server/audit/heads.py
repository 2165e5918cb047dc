"""The heads of the audit log: sites are shown how it went on, and what they sign of it is kept.

A site signs a head only where the log still begins with what the site was shown before. One that finds another history
says so: that is an event of its own, and no co-signature.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from wardround.audit.bundle import Certified
from wardround.audit.head import CoSigned, Head
from wardround.audit.log import AuditLog
from wardround.errors import RemoteError, WardroundError
from wardround.identity import Authority
from wardround.link.messages import Notice
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.server.runs.identity_certificates import certificate_of
from wardround.server.runs.telling import Notices, Telling
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.cosignatures import CoSignatures
from wardround.server.state.database import Database
from wardround.server.state.events import Events

__all__ = ["Heads"]

_MOST_REASON = 300
_MOST_REWOUND = 3
_MOST_REFUSED = 10
_log = logging.getLogger("wardround")


class Heads:
    """Sends `head` notices, and takes `cosigned` ones. `authority` is the identity authority's certificate, DER;
    `public` the key that the server signs with."""

    def __init__(
        self,
        database: Database,
        log: AuditLog,
        hub: Notices,
        *,
        authority: bytes,
        public: bytes,
        clock: Callable[[], datetime],
    ) -> None:
        self._log, self._hub, self._public, self._clock = log, hub, public, clock
        self._authority, self._certificates = Authority(authority), Certificates(database)
        self._cosignatures, self._events = CoSignatures(database), Events(database)
        self._telling = Telling()
        self._again: set[SiteId] = set()
        self._shown: dict[SiteId, int] = {}
        self._rewound: dict[SiteId, int] = {}
        self._refused: dict[SiteId, set[str]] = {}
        self._disputed: set[tuple[SiteId, int]] = set()

    # -- to the sites -----------------------------------------------------------------------------

    def tell(self, sites: Iterable[SiteId]) -> None:
        """Show these sites how the log went on since the head that they have; called in the server's loop."""
        for site in sites:
            self._again.add(site)  # for one that is at it
            self._telling.begin(("head", site), self._tell(site))

    async def close(self) -> None:
        """Tell nobody any more."""
        await self._telling.close()

    def forget(self, site: SiteId) -> None:
        """Begin again with what the site has signed: of what it was shown since, its word may not have come."""
        self._shown.pop(site, None)
        self._rewound.pop(site, None)

    async def _tell(self, site: SiteId) -> None:
        while site in self._again:
            self._again.discard(site)
            while True:
                since = self._shown.get(site)
                if since is None:
                    since = await asyncio.to_thread(self._cosignatures.newest, site, self._log.id)
                found = await asyncio.to_thread(self._log.extension, since)
                if since == found.head.seq:
                    break
                await self._hub.notify(site, Notice(kind="head", body=found.encode()))
                self._shown[site] = found.head.seq

    # -- from the sites ---------------------------------------------------------------------------

    def take(self, site: SiteId, notice: Notice) -> bool:
        """Keep what a site has signed, or note that it disputes this server's history; whether to show it more now.

        A site that was shown the log from further on than it knows signs once more what it knows. Raises RemoteError
        for what is malformed, or not signed by this site and this server; that is an event, too.
        """
        try:
            return self._take(site, notice)
        except RemoteError as error:
            self._refuse(site, str(error))
            raise

    def _take(self, site: SiteId, notice: Notice) -> bool:
        cosigned, reason = _decoded(site, notice)
        if cosigned is None:
            self._dispute(site, reason, None)
            return False
        if cosigned.site != site:
            raise RemoteError(f"{site}: expected its own signature on a head, got one of another site")
        cosigned.head.check(self._public, "head")
        issued = self._certificates.of_site(site, CertificateKind.IDENTITY)
        certificate = certificate_of(
            site,
            issued,
            self._authority,
            at=cosigned.signed_at,
            signature=cosigned.signature,
            data=cosigned.signed,
        )
        if certificate is None:
            raise RemoteError(f"{site}: expected a valid signature under a key that was certified when it signed")
        head, new = cosigned.head, False
        if reason or head.log != self._log.id or self._log.hash_at(head.seq) != head.hash:
            # signed by this server's key, and not what is in this log: from before it was restored, say
            self._dispute(site, reason or "it has signed a head that is not of this log", head)
        else:
            new = self._cosignatures.add(Certified(cosigned=cosigned, certificate=certificate))
        rewound = self._rewound.get(site, 0)
        if reason or head.log != self._log.id:
            return False
        if head.seq >= self._shown.get(site, 0):
            if new:  # else a site could say by turns that it knows all and little, and be shown the log each time
                self._rewound.pop(site, None)
            return False
        if rewound >= _MOST_REWOUND:
            return False
        self._shown[site], self._rewound[site] = head.seq, rewound + 1
        return True

    def _refuse(self, site: SiteId, reason: str) -> None:
        """The same once, and not many, while this server runs: it is the site that says them."""
        known = self._refused.setdefault(site, set())
        if len(known) < _MOST_REFUSED and reason not in known:
            known.add(reason)
            self._events.add(
                "head.refused", now=self._clock(), subject=site, who=site, detail={"reason": plain_text(reason)}
            )

    def _dispute(self, site: SiteId, reason: str, known: Head | None) -> None:
        """Once for each head while this server runs: it says the same whenever it is shown one."""
        key = site, 0 if known is None else known.seq
        if key in self._disputed:
            return
        self._disputed.add(key)
        _log.error("%s: says that this server's history is not the one that it has seen: %s", site, reason)
        detail: dict[str, Any] = {"reason": reason, "known": None if known is None else known.table()}
        self._events.add("head.disputed", now=self._clock(), subject=site, who=site, detail=detail)


def _decoded(site: SiteId, notice: Notice) -> tuple[CoSigned | None, str]:
    """The co-signed head, and why the site disputes what it was shown since ("" where it does not)."""
    try:
        table = json.loads(notice.body)
        reason = table.get("differs", "")
        if not isinstance(table, Mapping) or not isinstance(reason, str):
            raise ValueError
        found = table.get("cosigned")
        cosigned = None if found is None else CoSigned.of(found)
        if cosigned is None and not reason:
            raise ValueError
        return cosigned, plain_text(reason, _MOST_REASON)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, WardroundError):
        raise RemoteError(f"{site}: expected a head that it has signed, or what is wrong with it") from None
