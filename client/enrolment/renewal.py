"""Renewing a site's certificates: when, what is asked, and what is taken."""

import json
from datetime import datetime, timedelta

from wardround.client.agent.site_folder import SiteFolder
from wardround.client.enrolment.site_files import SiteFiles
from wardround.errors import LocalError, RemoteError
from wardround.identity import Revocations
from wardround.join_messages import RenewalAnswer, RenewalRequest, renewal_statement
from wardround.plain_text import plain_text
from wardround.tls_identity import TlsAuthority, TlsIdentity, TlsKey, der_of

__all__ = ["ASK_AGAIN", "Renewal", "renew_at"]

ASK_AGAIN = timedelta(hours=1)
"""How long a site waits for an answer before it asks once more."""
_SPREAD = 1 / 12


def renew_at(not_before: datetime, not_after: datetime, fraction: float) -> datetime:
    """When to renew: after two thirds of the lifetime, and `fraction` (0 to 1, drawn by each site) of a twelfth more.

    So sites that joined on one day do not all come at once, and a quarter of the lifetime is left to try again.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"expected a fraction from 0 to 1, got {fraction}")
    return not_before + (not_after - not_before) * (2 / 3 + fraction * _SPREAD)


class Renewal:
    """The certificates of the site of `folder`. `fraction` is from `random`, once for the process."""

    __slots__ = ("_certificate", "_files", "_folder", "_fraction")

    def __init__(self, folder: SiteFolder, *, fraction: float) -> None:
        self._folder, self._fraction = folder, fraction
        self._files = SiteFiles(folder.path)
        self._certificate = self._read()

    @property
    def not_after(self) -> datetime:
        """When the certificate ends."""
        return self._certificate.not_after

    def is_due(self, now: datetime) -> bool:
        """Whether to ask for certificates now; reads nothing."""
        return now >= renew_at(self._certificate.not_before, self._certificate.not_after, self._fraction)

    def request(self) -> bytes:
        """The body of a `renew` notice. The key is made here, is durable, and stays the same until it is certified."""
        key = self._files.next_key()
        if key.public == self._certificate.public:  # certified, and then killed
            self._files.drop_next_key()
            key = self._files.next_key()
        asked = key.request(self._folder.name)
        proof = self._folder.signing_key.sign(renewal_statement(asked))
        return json.dumps(RenewalRequest(request=asked, proof=proof).encode()).encode()

    def accept(self, body: bytes, now: datetime) -> bool:
        """Take the certificates of a `certificate` notice; False where they are there already. Durable on return.

        Raises RemoteError for certificates that are not for this site, its signing key, and the key that was asked for.
        """
        try:
            answer = RenewalAnswer.read(json.loads(body))
        except (ValueError, RecursionError) as error:
            raise RemoteError(f"certificate: expected JSON ({plain_text(str(error))})") from None
        found = self._authority().verify_site(answer.certificate, now=now)
        if found.serial == self._certificate.serial:
            return False
        key = self._files.next_key()
        if (found.name, found.public) != (self._folder.name, key.public):
            raise RemoteError(f"certificate: expected one of {self._folder.name} for the key that was asked for")
        self._check_identity(answer.identity, now)
        self._files.replace_certificates(key, answer.certificate, answer.identity)
        self._certificate = found
        return True

    def _check_identity(self, der: bytes, now: datetime) -> None:
        # whether it is revoked is not asked: the list may be older than it should be, and the site needs a certificate
        # to get the newest; others ask
        nothing = Revocations(number=0, serials=frozenset(), next_update=now)
        identity = self._folder.authority.verify(der, name=self._folder.name, now=now, revocations=nothing)
        if identity.public != self._folder.signing_key.public:
            raise RemoteError("certificate: expected an identity for the signing key of this site, got one for another")

    def _authority(self) -> TlsAuthority:
        return TlsAuthority(der_of(self._files.tls().authority))

    def _read(self) -> TlsIdentity:
        tls = self._files.tls()
        found = self._authority().read_site(der_of(tls.certificate))
        if found.public != TlsKey.read(tls.key).public:
            raise LocalError(f"{self._folder.path}: expected a key and its certificate, got two that do not fit")
        return found
