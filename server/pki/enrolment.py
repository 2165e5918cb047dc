"""Who is let into a federation, kept in it, and put out of it."""

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wardround.clock import utc_now
from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import RESERVED_SERVER_NAME
from wardround.identity import issue_certificate, site_name
from wardround.invitation import TOKEN_BYTES, Invitation, canonical_url, check_host, token_hash
from wardround.join_messages import (
    AuthorityAnswer,
    JoinAnswer,
    JoinRefusal,
    JoinRequest,
    LeaveRequest,
    RenewalAnswer,
    RenewalRequest,
    join_statement,
    leave_statement,
    renewal_statement,
)
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.server.pki.join_verdict import JoinRefusedError, judge_join
from wardround.server.pki.revocation_list import RevocationList
from wardround.server.pki.site_gate import SiteGate
from wardround.server.pki.tls_authority import CLOCK_SLACK, LIFETIME, issue_site
from wardround.server.state.certificates import Certificate, CertificateKind, Certificates
from wardround.server.state.database import Database, TakenError
from wardround.server.state.events import Events
from wardround.server.state.folder import StateSettings
from wardround.server.state.invitations import InvitationRow, Invitations
from wardround.server.state.keyring import Keyring
from wardround.server.state.sites import Sites, SiteState
from wardround.signing_key import check_signature, fingerprint_of
from wardround.tls_identity import CertificateRequest, TlsAuthority, TlsIdentity, read_request

__all__ = ["INVITATION_LIFETIME", "Enrolment", "ServerAddress"]

INVITATION_LIFETIME = timedelta(hours=72)
_MOST_SKEW = timedelta(minutes=5)
"""Between a site's clock and ours."""
_RENEWAL_PAUSE = timedelta(hours=1)
"""A site gets another key certified once in so long a time."""
_MOST_NOTED = 10
"""Refusals of one invitation that are written to the timeline, so that nobody fills the disk with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """How sites reach the server: `url` (https://HOST:PORT) to join, `target` (HOST:PORT) to attach."""

    url: str
    target: str

    def __post_init__(self) -> None:
        try:
            if (
                canonical_url(self.url) != self.url
                or canonical_url(f"https://{self.target}") != f"https://{self.target}"
            ):
                raise ValueError("expected lower case, and ports")
        except ValueError as error:
            raise LocalError(f"server: expected https://HOST:PORT and HOST:PORT ({error})") from None

    @classmethod
    def of(cls, settings: StateSettings) -> Self:
        """As the settings say. LocalError for what is no host name or IP address."""
        public = settings.public_port
        https_port, grpc_port = public or settings.https_port, public or settings.grpc_port
        return cls.at(settings.host, https_port=https_port, grpc_port=grpc_port)

    @classmethod
    def at(cls, host: str, *, https_port: int, grpc_port: int) -> Self:
        """Both at one host. LocalError for what is no host name or IP address."""
        try:
            host = check_host(host)
        except ValueError as error:
            raise LocalError(f"server: {error}") from None
        host = f"[{host}]" if ":" in host else host
        return cls(url=f"https://{host}:{https_port}", target=f"{host}:{grpc_port}")


class Enrolment:
    """Invitations, joins, renewals and revocations. What a call says is durable when it returns.

    Threads may share it; processes may not, since who is admitted is in the memory of `gate`. `authority` and
    `identity_authority` are the certificates (DER) of the keyring's two authorities. `on_revocations` is told every new
    revocation list (DER), by the thread that made it.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        address: ServerAddress,
        *,
        authority: bytes,
        identity_authority: bytes,
        now: Callable[[], datetime] = utc_now,
        random: Callable[[int], bytes] = os.urandom,
        on_revocations: Callable[[bytes], None] = lambda der: None,
    ) -> None:
        self._database, self._keyring, self._address = database, keyring, address
        self._authority, self._identity = TlsAuthority(authority), identity_authority
        self._now, self._random = now, random
        self._invitations, self._sites = Invitations(database), Sites(database)
        self._certificates, self._events = Certificates(database), Events(database)
        self._list = RevocationList(database, identity_authority, keyring.identity_authority, on_new=on_revocations)
        self._noted: Counter[str] = Counter()
        self._lock = threading.Lock()  # a site is let in and refused in the order in which the database has it
        self.gate = SiteGate(
            self._authority,
            joined=[(site.name, site.joined) for site in self._sites.list() if site.state is SiteState.ACTIVE],
            revoked=self._certificates.all_revoked(CertificateKind.TLS, ending_after=now()),
            now=now,
        )

    # -- invitations ----------------------------------------------------------------------------------

    def invite(self, site: str, *, by: str) -> Invitation:
        """An invitation of `site`, for 72 hours and one use; one of the same name that is open is withdrawn.

        Its token cannot be found out again: only a hash is kept. LocalError for a name that cannot be, or takes part.
        """
        try:
            name = site_name(site)
        except ValueError as error:
            raise LocalError(f"invitation: {error}") from None
        if name.casefold() == RESERVED_SERVER_NAME:
            raise LocalError(f"invitation: {name!r} is the server's own name in signatures; invite under another")
        now = self._now()
        made = Invitation(url=self._address.url, token=self._random(TOKEN_BYTES), authority=self._authority.fingerprint)
        with self._lock, self._database.transaction():
            known = self._sites.get(name)
            if known is not None and known.state is SiteState.ACTIVE:
                raise LocalError(f"{name}: takes part already; revoke it first, or invite under another name")
            before = [row.id for row in self._invitations.list() if row.site == name]
            withdrawn = [one for one in before if self._invitations.withdraw(one, now)]
            row = self._invitations.add(
                site=name,
                token_hash=token_hash(made.token),
                expires=now + INVITATION_LIFETIME,
                created_by=by,
                now=now,
            )
            detail = {"invitation": row.id, "expires": row.expires.isoformat(), "withdrawn": withdrawn}
            self._events.add("site.invited", now=now, subject=name, who=by, detail=detail)
        return made

    def withdraw(self, invitation_id: str, *, by: str) -> bool:
        """Let an invitation not be used any more; False where it was used or withdrawn before, or is not known."""
        now = self._now()
        with self._lock, self._database.transaction():
            row = self._invitations.get(invitation_id)
            if row is None or not self._invitations.withdraw(invitation_id, now):
                return False
            detail = {"invitation": row.id}
            self._events.add("site.invitation_withdrawn", now=now, subject=row.site, who=by, detail=detail)
        return True

    # -- joining --------------------------------------------------------------------------------------

    def join(self, asked: JoinRequest) -> JoinAnswer:
        """Let a site in; the same request with the same keys again is answered with the same certificates.

        Raises JoinRefusedError. That both keys are the asker's is checked first, before any token is looked up; a
        token that nobody was given leaves no trace here, since strangers could leave as many as they like.
        """
        now = self._now()
        try:
            request = read_request(asked.request)
            statement = join_statement(asked.token, asked.request)
            check_signature(asked.signing_public, asked.proof, statement, "join")
        except RemoteError as error:
            raise JoinRefusedError(JoinRefusal.MALFORMED, text=str(error)) from None
        hashed = token_hash(asked.token)
        row = self._invitations.find_by_hash(hashed)
        if row is None or not compare_digest(row.token_hash, hashed):
            raise JoinRefusedError(JoinRefusal.UNKNOWN)
        try:
            with self._lock:
                with self._database.transaction():
                    self._database.serialise("enrolment")
                    given = self._admitted(row.id, asked, request, now)
                    site = self._sites.get(row.site)
                if site is not None:
                    self.gate.let(site.name, site.joined)
        except JoinRefusedError as error:
            self._note(row, error, fingerprint_of(asked.signing_public), now)
            raise
        return JoinAnswer(
            name=row.site,
            certificate=given.certificate,
            identity=given.identity,
            identity_authority=self._identity,
            revocations=self.revocations(),
            server=self._keyring.signing.public,
            target=self._address.target,
            time=now,
        )

    def _admitted(
        self, invitation_id: str, asked: JoinRequest, request: CertificateRequest, now: datetime
    ) -> RenewalAnswer:
        """The certificates of a site that may join, within a transaction. Raises JoinRefusedError."""
        row = self._invitations.get(invitation_id)
        fingerprint = fingerprint_of(asked.signing_public)
        issued = [] if row is None else self._certificates.of_site(row.site)
        given = self._given(issued, request.public, fingerprint, now)
        refusal = judge_join(
            row,
            asked_name=request.name,
            fingerprint=fingerprint,
            repeated=given is not None,
            site=None if row is None else self._sites.get(row.site),
            had_before=any(self._key_in(one) in (request.public, fingerprint) for one in issued),
            now=now,
        )
        if refusal is not None or row is None:
            raise JoinRefusedError(refusal or JoinRefusal.UNKNOWN, used_at=None if row is None else row.used_at)
        if given is not None:
            return given
        if row.site.casefold() == RESERVED_SERVER_NAME:  # of an invitation from before the name was reserved
            raise JoinRefusedError(JoinRefusal.NAME_TAKEN)
        if not self._invitations.use(row.id, fingerprint=fingerprint, now=now):
            raise JoinRefusedError(JoinRefusal.USED)
        try:
            self._sites.add(row.site, asked.signing_public, now=now, software=asked.software)
        except TakenError:
            raise JoinRefusedError(JoinRefusal.KEY_TAKEN) from None
        made = self._issue(row.site, request.public, asked.signing_public, now)
        detail = {"invitation": row.id, "by": row.created_by, "fingerprint": fingerprint, "software": asked.software}
        self._events.add("site.joined", now=now, subject=row.site, who=row.site, detail=detail)
        return made

    def _note(self, row: InvitationRow, error: JoinRefusedError, fingerprint: str, now: datetime) -> None:
        """Write to the timeline that a token was refused which somebody was given."""
        self._noted[row.id] += 1
        if self._noted[row.id] <= _MOST_NOTED:
            detail = {"invitation": row.id, "refusal": error.refusal.value, "fingerprint": fingerprint}
            self._events.add("site.join_refused", now=now, subject=row.site, detail=detail)

    # -- staying and leaving --------------------------------------------------------------------------

    def renew(self, site: SiteId, asked: RenewalRequest) -> RenewalAnswer:
        """New certificates for a site that is attached; the same request again gets the same.

        Raises RemoteError for a site that does not take part, without its signing key's word, for a key that had a
        certificate, and within an hour of the last one.
        """
        now = self._now()
        request = read_request(asked.request)
        with self._lock, self._database.transaction():
            self._database.serialise("enrolment")
            known = self._sites.get(site)
            if known is None or known.state is not SiteState.ACTIVE:
                raise RemoteError(f"{plain_text(site)}: expected a site that takes part; it has to be invited again")
            check_signature(known.signing_public, asked.proof, renewal_statement(asked.request), f"{site}, renewal")
            if request.name != site:
                raise RemoteError(f"{site}: expected a request for this name, got {request.name or 'none'}")
            issued = self._certificates.of_site(site)
            given = self._given(issued, request.public, known.fingerprint, now)
            if given is not None:
                return given
            if any(self._key_in(one) == request.public for one in issued):
                raise RemoteError(f"{site}: expected a new key, got one that had a certificate; make another")
            times = [self._read(one).not_before for one in issued if one.kind is CertificateKind.TLS]
            if times and now < max(times) + CLOCK_SLACK + _RENEWAL_PAUSE:
                raise RemoteError(f"{site}: expected one renewal an hour, got one more; try again later")
            made = self._issue(site, request.public, known.signing_public, now)
            self._events.add("site.renewed", now=now, subject=site, who=site)
        return made

    def revoke(self, site: str, *, by: str, reason: str = "") -> bool:
        """Put a site out, with all its certificates, from the next frame on; False where it is out already.

        It comes back by a new invitation, with new keys. Raises LocalError for a name that is not known.
        """
        return self._put_out(SiteId(site), "site.revoked", by=by, detail={"reason": plain_text(reason)})

    def leave(self, asked: LeaveRequest) -> bool:
        """Put a site out as `revoke` does, since it says so itself; False where it is out already.

        Raises RemoteError without the word of its signing key, of the last five minutes. What anybody else sends leaves
        no trace, and tells nobody which sites there are.
        """
        now, ours = self._now(), self._keyring.signing.public
        known = self._sites.get(asked.name)
        public = ours if known is None else known.signing_public
        statement = leave_statement(ours, asked.name, asked.time)
        try:
            check_signature(public, asked.proof, statement, "leave")
        except RemoteError:
            raise RemoteError("leave: expected the word of a site that has joined here, by its signing key") from None
        if abs(now - asked.time) > _MOST_SKEW:
            raise RemoteError(
                f"leave: expected a time within 5 minutes of {now:%Y-%m-%d %H:%M} (UTC), got "
                f"{asked.time:%Y-%m-%d %H:%M}; set the clock right, then leave again"
            )
        return self._put_out(asked.name, "site.left", by=asked.name, detail={}, public=public)

    def _put_out(
        self, name: SiteId, kind: str, *, by: str, detail: dict[str, object], public: bytes | None = None
    ) -> bool:
        """False where it is out already, or now has another signing key than `public`."""
        now = self._now()
        with self._lock:
            with self._database.transaction():
                self._database.serialise("enrolment")
                known = self._sites.get(name)
                if known is None:
                    raise LocalError(f"{plain_text(name)}: expected a site that has joined; see the list of clients")
                if public not in (None, known.signing_public) or not self._sites.revoke(name, now):
                    return False
                self._certificates.revoke_site(name, now)
                revoked = self._certificates.of_site(name, CertificateKind.TLS)
                number, made = self._list.make(now)
                self._events.add(kind, now=now, subject=name, who=by, detail=detail | {"revocations": number})
            self.gate.refuse(name, [one.serial for one in revoked])
        self._list.on_new(made)
        return True

    def revocations(self) -> bytes:
        """The newest revocation list (DER) of the identity authority; one that is older than a day is made again."""
        return self._list.current(self._now())

    def authority(self) -> AuthorityAnswer:
        """What anybody may know: the certificate that an invitation has the fingerprint of."""
        return AuthorityAnswer(authority=self._authority.der, time=self._now())

    @property
    def server_fingerprint(self) -> str:
        """Of the server's signing key, hex: what sites compare by telephone."""
        return fingerprint_of(self._keyring.signing.public)

    @property
    def authority_fingerprint(self) -> str:
        """Of the certificate of the authority for connections, hex: what an invitation has."""
        return self._authority.fingerprint.hex()

    # -- certificates ---------------------------------------------------------------------------------

    def _issue(self, site: SiteId, public: bytes, signing_public: bytes, now: datetime) -> RenewalAnswer:
        """New certificates of both kinds, kept, within a transaction."""
        tls = issue_site(
            self._authority.der,
            self._keyring.tls_authority,
            name=site,
            public=public,
            now=now,
            random=self._random,
        )
        identity = issue_certificate(
            self._identity,
            self._keyring.identity_authority,
            name=site,
            public=signing_public,
            not_before=now - CLOCK_SLACK,
            not_after=now + LIFETIME,
            random=self._random,
        )
        for kind, der in ((CertificateKind.TLS, tls), (CertificateKind.IDENTITY, identity)):
            found = x509.load_der_x509_certificate(der)
            self._certificates.add(kind, found.serial_number, site=site, der=der, not_after=found.not_valid_after_utc)
        return RenewalAnswer(certificate=tls, identity=identity)

    def _given(self, issued: list[Certificate], public: bytes, fingerprint: str, now: datetime) -> RenewalAnswer | None:
        """What was issued for these two keys and is still good, the newest of each; None unless both are."""
        good = [one for one in issued if one.revoked_at is None and one.not_after > now]
        tls = [one for one in good if self._key_in(one) == public]
        identities = [one for one in good if self._key_in(one) == fingerprint]
        return RenewalAnswer(certificate=tls[-1].der, identity=identities[-1].der) if tls and identities else None

    def _key_in(self, one: Certificate) -> bytes | str:
        """The key of connections (SubjectPublicKeyInfo, DER), or the fingerprint of the signing key."""
        if one.kind is CertificateKind.TLS:
            return self._read(one).public
        key = x509.load_der_x509_certificate(one.der).public_key()
        return fingerprint_of(key.public_bytes_raw()) if isinstance(key, Ed25519PublicKey) else ""

    def _read(self, one: Certificate) -> TlsIdentity:
        return self._authority.read_site(one.der)
