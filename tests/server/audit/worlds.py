"""A server's state with an audit log, and sites that are shown its heads, without a network between them."""

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.server.state.state_folders import keyring, make_folder
from wardround.audit.log import AuditLog
from wardround.client.agent.server_heads import ServerHeads
from wardround.client.agent.site_folder import SiteFacts, SiteFolder
from wardround.client.agent.site_log import open_log
from wardround.evidence_identity import RESERVED_SERVER_NAME
from wardround.identity import issue_certificate
from wardround.link.messages import Notice
from wardround.orders import SiteId
from wardround.server.audit.auditor import Auditor
from wardround.server.audit.heads import Heads
from wardround.server.pki.signing_certificate import signing_certificate
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.cosignatures import CoSignatures
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.folder import StateFolder
from wardround.server.state.sites import Sites
from wardround.signing_key import SigningKey


def now() -> datetime:
    return datetime.now(UTC)


class Site:
    """A site that has joined the server of `folder`."""

    def __init__(self, path: Path, name: str, folder: StateFolder, database: Database) -> None:
        key = SigningKey.make(os.urandom)
        identity = issue_certificate(
            folder.identity_authority(),
            keyring().identity_authority,
            name=name,
            public=key.public,
            not_before=now() - timedelta(days=1),
            not_after=now() + timedelta(days=30),
            random=os.urandom,
        )
        Sites(database).add(SiteId(name), key.public, now=now(), software="0.1")
        serial = x509.load_der_x509_certificate(identity).serial_number
        Certificates(database).add(
            CertificateKind.IDENTITY, serial, site=SiteId(name), der=identity, not_after=now() + timedelta(days=30)
        )
        facts = SiteFacts(
            name=name, url="https://server.test:8443", target="server.test:8444", server=keyring().signing.public.hex()
        )
        files = {"identity.der": identity, "identity-authority.der": folder.identity_authority()}
        self.folder = SiteFolder.make(path, facts, files, key, os.urandom)
        self.name, self.key, self.log, self.heads = SiteId(name), key, open_log(self.folder), ServerHeads(self.folder)
        self.alarms: list[str] = []

    def take(self, body: bytes) -> Notice:
        answer, wrong = self.heads.take(body, self.log, now())
        if wrong:
            self.alarms.append(wrong)
        return answer


@dataclass
class Hub:
    """Hands notices to sites, whose answers it keeps."""

    sites: dict[SiteId, Site] = field(default_factory=dict)
    answers: list[tuple[SiteId, Notice]] = field(default_factory=list)
    sent: int = 0

    async def notify(self, site: SiteId, notice: Notice) -> None:
        assert notice.kind == "head"
        self.sent += 1
        self.answers.append((site, self.sites[site].take(notice.body)))


class World:
    """The server; `shown` lets everybody be shown the head, and their answers be taken."""

    def __init__(self, path: Path, *names: str, folder: StateFolder | None = None) -> None:
        self.path, self.folder = path, folder or make_folder(path / "server")
        self.database = Database.open(self.folder.database_url)
        self.database.migrate()
        self.events, self.hub = Events(self.database), Hub()
        for name in names:
            self.hub.sites[SiteId(name)] = Site(path / name, name, self.folder, self.database)
        self.open()

    def open(self) -> None:
        """As after a restart."""
        certificate = signing_certificate(self.folder, keyring())
        self.log = AuditLog.open(
            self.folder.audit, name=RESERVED_SERVER_NAME, key=keyring().signing, certificate=certificate
        )
        self.auditor = Auditor(self.log, self.events)
        self.heads = Heads(
            self.database,
            self.log,
            self.hub,
            authority=self.folder.identity_authority(),
            public=keyring().signing.public,
            clock=now,
        )
        self.cosignatures = CoSignatures(self.database)

    def happen(self, count: int, kind: str = "round.done") -> None:
        """So many events, in the log."""
        for number in range(count):
            self.events.add(kind, now=now(), subject="cardio", who="ada", detail={"round": number})
        self.auditor.catch_up()

    def shown(self, *names: str) -> None:
        """Show the log to these sites, or to all, until nobody has anything to say any more."""

        async def show() -> None:
            waiting = [SiteId(name) for name in names] or list(self.hub.sites)
            while waiting:
                self.heads.tell(waiting)
                await self._quiet()
                answers, self.hub.answers = self.hub.answers, []
                waiting = [site for site, answer in answers if self.heads.take(site, answer)]

        run(show())

    async def _quiet(self) -> None:
        while tasks := list(self.heads._telling._tasks.values()):
            await asyncio.gather(*tasks)

    def site(self, name: str) -> Site:
        return self.hub.sites[SiteId(name)]

    def close(self) -> None:
        self.database.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)
