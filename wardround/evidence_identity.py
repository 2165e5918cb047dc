"""Who signed what an auditor holds: the certificates behind audit logs, co-signed heads and released models.

A signature is checked long after it was made, offline, with the certificate of the identity authority alone. So it is
checked for the time at which it says that it was made, and revocations are not asked for: what a key signed before it
was revoked stays signed. Who has a stolen key can also sign with an earlier time; what bounds that is a head that
others co-signed in between (`wardround.audit`).
"""

from collections.abc import Callable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority, Revocations, authority_lifetime, issue_certificate
from wardround.signing_key import SigningKey

__all__ = [
    "RESERVED_SERVER_NAME",
    "authority_pem",
    "issue_server_certificate",
    "read_authority",
    "signer",
    "valid_until",
]

RESERVED_SERVER_NAME = "wardround server"
"""The name in the certificate of the server's signing key; no site may have it."""
_MOST_PEM = 1 << 16


def issue_server_certificate(
    authority: bytes, key: SigningKey, public: bytes, *, random: Callable[[int], bytes]
) -> bytes:
    """A certificate, DER, in which the identity authority (its certificate and key) says that the server signs with
    `public`; good for as long as the authority is."""
    first, last = authority_lifetime(authority)
    return issue_certificate(
        authority,
        key,
        name=RESERVED_SERVER_NAME,
        public=public,
        not_before=first,
        not_after=last,
        random=random,
    )


def signer(authority: Authority, der: bytes, name: str, at: datetime) -> bytes:
    """The public key of `name`, by a certificate (DER) that was valid at the time `at` of a signature.

    Revocations are not looked at, see above. Raises RemoteError for any other certificate, name or time.
    """
    none = Revocations(number=0, serials=frozenset(), next_update=at)
    return authority.verify(der, name=name, now=at, revocations=none).public


def valid_until(der: bytes) -> datetime:
    """Until when a certificate that `signer` has taken is good."""
    return x509.load_der_x509_certificate(der).not_valid_after_utc


def authority_pem(der: bytes) -> bytes:
    """The certificate of an identity authority as PEM: the `ca.pem` that auditors are given."""
    Authority(der)
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def read_authority(pem: bytes, where: str) -> Authority:
    """The identity authority in a PEM, or in a DER as sites keep it. LocalError naming `where` for anything else."""
    try:
        if len(pem) > _MOST_PEM:
            raise ValueError("it is too large")
        if pem.lstrip().startswith(b"-----BEGIN"):
            pem = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        return Authority(pem)
    except (ValueError, TypeError, RemoteError):
        raise LocalError(
            f"{where}: expected the certificate of the federation's identity authority, as `wardround server "
            "authority` writes it or a site keeps it (identity-authority.der)"
        ) from None
