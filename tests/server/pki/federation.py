"""A federation for tests: its enrolment on a database of its own, with a clock that tests set, and sites that ask."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wardround.identity import make_authority
from wardround.invitation import Invitation
from wardround.join_messages import (
    JoinRequest,
    LeaveRequest,
    RenewalRequest,
    join_statement,
    leave_statement,
    renewal_statement,
)
from wardround.orders import SiteId
from wardround.server.pki.enrolment import Enrolment, ServerAddress
from wardround.server.pki.tls_authority import AUTHORITY_LIFETIME, make_tls_authority
from wardround.server.state.database import Database, sqlite_url
from wardround.server.state.events import Events
from wardround.server.state.keyring import make_keyring
from wardround.signing_key import SigningKey
from wardround.tls_identity import TlsKey

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Clock:
    """Shows what it is set to."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, by: timedelta) -> None:
        self.now += by


class Federation:
    """A server's enrolment; `again` is the one of the same server after a restart."""

    def __init__(
        self, folder: Path, clock: Clock | None = None, *, address: ServerAddress | None = None, url: str | None = None
    ) -> None:
        self.clock = clock or Clock()
        self.keyring = make_keyring()
        self.address = address or ServerAddress.at("localhost", https_port=8443, grpc_port=8444)
        self.authority = make_tls_authority(self.keyring.tls_authority, "cardio", now=self.clock(), random=os.urandom)
        self.identity_authority = make_authority(
            self.keyring.identity_authority,
            "cardio",
            not_before=self.clock(),
            not_after=self.clock() + AUTHORITY_LIFETIME,
            random=os.urandom,
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.database = Database.open(url or sqlite_url(folder / "server.db"))
        self.database.migrate()
        self.revocations: list[bytes] = []
        self.enrolment = self.again()

    def again(self) -> Enrolment:
        return Enrolment(
            self.database,
            self.keyring,
            self.address,
            authority=self.authority,
            identity_authority=self.identity_authority,
            now=self.clock,
            on_revocations=self.revocations.append,
        )

    def events(self, kind: str) -> list[dict[str, object]]:
        """What was said of events of this kind."""
        return [dict(one.detail) for one in Events(self.database).list() if one.kind == kind]

    def close(self) -> None:
        self.database.close()


class Asker:
    """A site's keys, and what it asks with them."""

    def __init__(self) -> None:
        self.signing, self.tls = SigningKey.make(os.urandom), TlsKey.make()

    def request(self, invitation: Invitation, name: str | None = None) -> JoinRequest:
        asked = self.tls.request(name)
        return JoinRequest(
            token=invitation.token,
            request=asked,
            signing_public=self.signing.public,
            proof=self.signing.sign(join_statement(invitation.token, asked)),
            software="wardround test",
        )

    def renewal(self, name: str, key: TlsKey) -> RenewalRequest:
        asked = key.request(name)
        return RenewalRequest(request=asked, proof=self.signing.sign(renewal_statement(asked)))

    def goodbye(self, name: SiteId, server: bytes, time: datetime) -> LeaveRequest:
        """To the server with this public signing key."""
        return LeaveRequest(name=name, time=time, proof=self.signing.sign(leave_statement(server, name, time)))
