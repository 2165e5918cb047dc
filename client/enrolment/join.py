"""Joining a federation: one invitation, one command.

    1  the keys of the site are made, and durable
    2  GET  /api/v1/authority   from whoever answers; nothing secret is sent, and the certificate that comes has to be
                                the one whose fingerprint is in the invitation
    3  POST /api/v1/join        over another connection, TLS 1.3, to a server that this authority certifies
    4  what comes back is checked, and written; site.json last

Whatever breaks off in between, the same command goes on with the same keys, and the server answers the same.
"""

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from wardround import __version__
from wardround.client.agent.site_folder import SiteFacts
from wardround.client.enrolment.certificate_issuer import issuer_of
from wardround.client.enrolment.exit_codes import JoinError, JoinExit
from wardround.client.enrolment.https_request import HttpsAnswer, request, trusting, unverified
from wardround.client.enrolment.site_files import SiteFiles
from wardround.client.proxy import Proxy, proxy_for
from wardround.clock import utc_now
from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority, site_name
from wardround.invitation import Invitation, InvitationError, canonical_url, host_and_port, read_invitation
from wardround.join_messages import (
    AUTHORITY_PATH,
    JOIN_PATH,
    AuthorityAnswer,
    JoinAnswer,
    JoinRefusal,
    JoinRequest,
    join_statement,
)
from wardround.plain_text import in_groups, plain_text
from wardround.signing_key import SigningKey, fingerprint_of
from wardround.tls_identity import TlsAuthority, TlsKey, certificate_fingerprint

__all__ = ["Joined", "join"]

_MOST_SKEW = timedelta(minutes=5)
_TOO_EARLY, _TOO_LATE, _OTHER_HOST = 9, 10, (62, 64)  # X509_V_ERR_* of OpenSSL


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Who joined what. Fingerprints, hex, are of signing keys, but that of the authority, which is of a certificate."""

    name: str
    url: str
    fingerprint: str
    server_fingerprint: str
    authority_fingerprint: str

    def lines(self) -> list[str]:
        """What to tell a person, and what to compare by telephone."""
        return [
            f"joined {self.url} as {self.name}",
            "Compare by telephone, with a number of the coordinator that you have not from the invitation:",
            f"  this site's key    {in_groups(self.fingerprint)}",
            f"  the server's key   {in_groups(self.server_fingerprint)}",
            f"  the authority      {in_groups(self.authority_fingerprint)}",
        ]


def join(
    invitation: str,
    folder: str | Path,
    *,
    name: str | None = None,
    environment: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = utc_now,
    random: Callable[[int], bytes] = os.urandom,
    timeout_s: float = 30.0,
) -> Joined:
    """Join with an invitation (`read_invitation`), as the site in `folder`, which must be new or have been begun.

    Where a `name` is given, an invitation of another name is refused before it is used. Raises JoinError.
    """
    try:
        invited = read_invitation(invitation)
        asked = None if name is None else site_name(name)
    except InvitationError as error:
        raise JoinError(JoinExit.INVITATION, str(error)) from None
    except ValueError as error:
        raise JoinError(JoinExit.NAME, str(error)) from None
    try:
        proxy = proxy_for(*host_and_port(invited.url), os.environ if environment is None else environment)
    except LocalError as error:
        raise JoinError(JoinExit.PROXY, str(error)) from None
    server = _Server(invited, proxy, now, timeout_s)
    files = SiteFiles(folder)
    try:
        with files.joining(invited.authority):
            return _join(files, server, invited, asked, now, random)
    except JoinError:
        raise
    except LocalError as error:
        raise JoinError(JoinExit.FOLDER, f"{error}; put that right, then give the same command again") from None


def _join(
    files: SiteFiles,
    server: "_Server",
    invited: Invitation,
    name: str | None,
    now: Callable[[], datetime],
    random: Callable[[int], bytes],
) -> Joined:
    signing_key, tls_key = files.keys(random)
    authority = server.authority()
    answer = server.join(authority, _request(invited, name, signing_key, tls_key))
    facts = _checked(answer, invited, authority, signing_key, tls_key, name, now())
    files.finish(
        site=facts.encode(),
        key=tls_key,
        certificate=answer.certificate,
        authority=authority.der,
        identity=answer.identity,
        identity_authority=answer.identity_authority,
        revocations=answer.revocations,
    )
    return Joined(
        name=facts.name,
        url=invited.url,
        fingerprint=fingerprint_of(signing_key.public),
        server_fingerprint=fingerprint_of(answer.server),
        authority_fingerprint=authority.fingerprint.hex(),
    )


def _request(invited: Invitation, name: str | None, signing_key: SigningKey, tls_key: TlsKey) -> JoinRequest:
    asked = tls_key.request(name)
    return JoinRequest(
        token=invited.token,
        request=asked,
        signing_public=signing_key.public,
        proof=signing_key.sign(join_statement(invited.token, asked)),
        software=f"wardround {__version__}",
    )


def _checked(
    answer: JoinAnswer,
    invited: Invitation,
    authority: TlsAuthority,
    signing_key: SigningKey,
    tls_key: TlsKey,
    name: str | None,
    now: datetime,
) -> SiteFacts:
    """site.json, once everything in the answer is for these keys, and fits together. Raises JoinError."""
    _check_clock(answer.time, now)
    try:
        if name is not None and answer.name != name:
            raise RemoteError(f"expected to join as {name}, got {answer.name}")
        found = authority.verify_site(answer.certificate, now=now)
        if (found.name, found.public) != (answer.name, tls_key.public):
            raise RemoteError(f"expected a certificate of {answer.name} for the key of this folder, got another")
        trusted = Authority(answer.identity_authority)
        revoked = trusted.revocations(answer.revocations, now)
        identity = trusted.verify(answer.identity, name=answer.name, now=now, revocations=revoked)
        if identity.public != signing_key.public:
            raise RemoteError("expected an identity for the signing key of this folder, got one for another")
        if answer.server == signing_key.public:
            raise RemoteError("expected a signing key of the server's own, got this site's")
        if canonical_url(f"https://{answer.target}") != f"https://{answer.target}":
            raise ValueError(f"expected HOST:PORT to attach to, got {answer.target!r}")
        return SiteFacts(name=answer.name, url=invited.url, target=answer.target, server=answer.server.hex())
    except (RemoteError, ValueError) as error:
        raise JoinError(JoinExit.ANSWER, f"{invited.url}: {error}; tell the coordinator") from None


def _check_clock(theirs: datetime, ours: datetime) -> None:
    skew = ours - theirs
    if abs(skew) > _MOST_SKEW:
        minutes = abs(skew).total_seconds() / 60
        raise JoinError(
            JoinExit.CLOCK,
            f"clock: expected at most 5 minutes between this machine and the server, got {minutes:.0f} (here "
            f"{ours:%Y-%m-%d %H:%M}, there {theirs:%Y-%m-%d %H:%M}, UTC); set the clock right, then give the same "
            "command again",
        )


class _Server:
    """The server of an invitation, as one join sees it."""

    def __init__(self, invited: Invitation, proxy: Proxy | None, now: Callable[[], datetime], timeout_s: float) -> None:
        self._invited, self._proxy, self._now, self._timeout_s = invited, proxy, now, timeout_s
        self._host, self._port = host_and_port(invited.url)
        self._seen = b""

    def authority(self) -> TlsAuthority:
        """The federation's authority, by its fingerprint in the invitation. Raises JoinError."""
        try:
            answer = self._ask(AUTHORITY_PATH, unverified())
        except ssl.SSLError as error:
            raise JoinError(
                JoinExit.UNREACHABLE,
                f"{self._invited.url}: no TLS connection ({plain_text(error.reason or 'closed')}); check the address",
            ) from None
        self._seen = answer.certificate
        if answer.status != 200:
            raise self._unexpected(answer)
        try:
            found = AuthorityAnswer.read(answer.body)
        except RemoteError as error:
            raise JoinError(JoinExit.ANSWER, f"{self._invited.url}: {error}; check the address") from None
        if certificate_fingerprint(found.authority) != self._invited.authority:
            raise JoinError(
                JoinExit.WRONG_AUTHORITY,
                f"{self._invited.url}: expected the authority {self._invited.authority.hex()}, got "
                f"{certificate_fingerprint(found.authority).hex()}: another server answers, or something that stands "
                "between; nothing secret was sent, tell the coordinator",
            )
        try:
            authority = TlsAuthority(found.authority)
        except RemoteError as error:
            raise JoinError(JoinExit.ANSWER, f"{self._invited.url}: {error}") from None
        _check_clock(found.time, self._now())
        return authority

    def join(self, authority: TlsAuthority, asked: JoinRequest) -> JoinAnswer:
        """The answer to `asked`, which only a server with a certificate of `authority` gets. Raises JoinError."""
        try:
            answer = self._ask(JOIN_PATH, trusting(authority.der), asked)
        except ssl.SSLCertVerificationError as error:
            raise self._distrusted(authority, error) from None
        except ssl.SSLError as error:
            raise JoinError(
                JoinExit.INTERCEPTED,
                f"{self._invited.url}: no connection with TLS 1.3 ({plain_text(error.reason or 'closed')}); a proxy "
                "that opens connections may be the reason, have it pass this host through",
            ) from None
        if answer.status != 200:
            raise self._refused(answer)
        try:
            return JoinAnswer.read(answer.body)
        except RemoteError as error:
            raise JoinError(JoinExit.ANSWER, f"{self._invited.url}: {error}") from None

    def _ask(self, path: str, context: ssl.SSLContext, asked: JoinRequest | None = None) -> HttpsAnswer:
        return request(
            self._host,
            self._port,
            path,
            context=context,
            proxy=self._proxy,
            body=None if asked is None else asked.encode(),
            timeout_s=self._timeout_s,
        )

    def _distrusted(self, authority: TlsAuthority, error: ssl.SSLCertVerificationError) -> JoinError:
        """Why the server's certificate is not accepted."""
        if error.verify_code in (_TOO_EARLY, _TOO_LATE):
            return JoinError(
                JoinExit.CLOCK,
                f"{self._invited.url}: its certificate is not valid on {self._now():%Y-%m-%d %H:%M} UTC; set the clock "
                "right, or have the server restarted",
            )
        if error.verify_code in _OTHER_HOST:
            return JoinError(
                JoinExit.ANSWER,
                f"{self._invited.url}: its certificate is of this federation, but not for {self._host}; ask the "
                "coordinator for an invitation with a name that the server has",
            )
        return JoinError(
            JoinExit.INTERCEPTED,
            f"{self._invited.url}: expected a certificate of the federation's authority, got one of "
            f"{issuer_of(self._seen)}: something between opens the connection; have it pass this host through. The "
            "invitation was not sent, and stays good",
        )

    def _refused(self, answer: HttpsAnswer) -> JoinError:
        known = _REFUSALS.get(str(answer.body.get("error")))
        if known is None:
            return self._unexpected(answer)
        exit_code, text = known
        if exit_code is JoinExit.USED:
            text = text.format(when=_when(answer.body.get("used_at")))
        return JoinError(exit_code, text)

    def _unexpected(self, answer: HttpsAnswer) -> JoinError:
        said = plain_text(str(answer.body.get("message", ""))) or "no reason given"
        return JoinError(JoinExit.ANSWER, f"{self._invited.url}: refuses (HTTP {answer.status}): {said}")


_REFUSALS = {
    JoinRefusal.UNKNOWN.value: (
        JoinExit.UNKNOWN_TOKEN,
        "invitation: the server has not given it; ask the coordinator for a new one",
    ),
    JoinRefusal.USED.value: (
        JoinExit.USED,
        "invitation: was used{when}, with other keys; if that was not this hospital, tell the coordinator at once",
    ),
    JoinRefusal.EXPIRED.value: (
        JoinExit.EXPIRED,
        "invitation: has expired, 72 hours after it was made; ask the coordinator for a new one",
    ),
    JoinRefusal.WITHDRAWN.value: (
        JoinExit.WITHDRAWN,
        "invitation: was withdrawn, or a newer one was made; ask the coordinator",
    ),
    JoinRefusal.NAME_TAKEN.value: (
        JoinExit.NAME,
        "invitation: a site of this name takes part already; ask the coordinator to revoke it, or for another name",
    ),
    JoinRefusal.WRONG_NAME.value: (
        JoinExit.NAME,
        "invitation: is for another name than the one given; ask the coordinator. It was not used",
    ),
    JoinRefusal.KEY_TAKEN.value: (
        JoinExit.KEYS,
        "invitation: the keys in this folder are another site's or were revoked; join in a new folder (--state)",
    ),
    JoinRefusal.VERSION.value: (
        JoinExit.VERSION,
        f"version: the server does not take what wardround {__version__} sends; install the server's version",
    ),
}


def _when(text: object) -> str:
    try:
        return f" on {datetime.fromisoformat(str(text)):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return ""
