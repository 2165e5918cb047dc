"""A site's folder for secure aggregation, and the guard that it makes, which lives as long as one message."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Self

from wardround.client.guard.guard import SiteGuard
from wardround.client.guard.member import Member
from wardround.clock import utc_now
from wardround.errors import LocalError
from wardround.file_store import FileStore
from wardround.identity import Authority
from wardround.orders import SiteId
from wardround.pins import Pins
from wardround.plan import Plan
from wardround.strategies.secagg.identity_folder import IdentityFolder
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.plan_terms import parameters_of
from wardround.strategies.secagg.sealed_state import SealedState

__all__ = ["EnrolmentFolder"]


class EnrolmentFolder:
    """The site whose folder (see `IdentityFolder`) is `path`.

    Everything is in the folder, so that any process answers for the site as the one before would have; one at a time,
    which the lock of its state sees to.
    """

    __slots__ = ("_now", "folder")

    def __init__(self, path: str | Path, *, now: Callable[[], datetime] = utc_now) -> None:
        self.folder, self._now = IdentityFolder(path), now

    @classmethod
    def make(cls, path: str | Path, name: str, *, now: Callable[[], datetime] = utc_now) -> Self:
        """A new site with new keys, which never leave the folder."""
        IdentityFolder.make(path, name)
        return cls(path, now=now)

    @property
    def site(self) -> SiteId:
        return SiteId(self.folder.name)

    def join(self, *, authority: bytes, revocations: bytes, certificate: bytes, server: bytes) -> None:
        """Enter the federation of this authority and server. Raises LocalError unless the certificate is this site's.

        `server` is the server's public signing key: its fingerprint is compared by telephone, as those of sites are.
        """
        now, trusted = self._now(), Authority(authority)
        revoked = trusted.revocations(revocations, now)
        identity = trusted.verify(certificate, name=self.site, now=now, revocations=revoked)
        if identity.public != self.folder.signing_key.public:
            raise LocalError(f"{self.site}: expected a certificate of this site's own key, got one of another")
        self.folder.trust(authority, revocations, server)
        self.folder.write("certificate.der", certificate)
        self.accept(self.site, self.folder.fingerprint, by="the site itself")

    def approve(self, plan: Plan) -> None:
        """Take part in this plan, and in no other."""
        self.folder.approve(plan)

    def accept(self, name: str, fingerprint: str, *, by: str, instead_of: str | None = None) -> None:
        """Pin the key of another member, whose fingerprint the administrator `by` has compared; see `Pins.accept`."""
        with FileStore(self.folder.path / "state") as store:
            Pins(store).accept(name, fingerprint, by=by, now=self._now(), instead_of=instead_of)

    @contextmanager
    def guard(self) -> Iterator[tuple[Plan, SiteGuard]]:
        """The approved plan and the site's guard, for one message.

        Raises LocalError while another process answers for this site.
        """
        with FileStore(self.folder.path / "state") as store:
            plan = self.folder.plan
            membership = Membership(
                run=plan.digest,
                plan=bytes.fromhex(plan.digest),
                parameters=parameters_of(plan),
                name=self.site,
                signing_key=self.folder.signing_key,
                certificate=self.folder.read("certificate.der"),
                authority=self.folder.authority,
                revocations=self.folder.revocations(store, self._now()),
                accepted=Pins(store),
                server=self.folder.server,
                state=SealedState(store, self.folder.state_key, os.urandom),
                random=os.urandom,
                noised=plan.privacy.on,
            )
            yield plan, SiteGuard(plan, self.site, store, member=Member(plan, membership, now=self._now))
