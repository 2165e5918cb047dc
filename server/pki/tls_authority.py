"""The authority for connections: it issues the certificates of the server and of the sites.

Its key and all others are P-256: see `wardround.tls_identity`, which checks what is issued here. Serial numbers come
from the `random` argument; what ECDSA draws for a signature, the library takes from the operating system.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from wardround.errors import LocalError
from wardround.identity import site_name
from wardround.invitation import check_host
from wardround.tls_identity import (
    Extensions,
    TlsAuthority,
    TlsKey,
    authority_extensions,
    name_attribute,
    server_extensions,
    site_extensions,
)

__all__ = ["AUTHORITY_LIFETIME", "CLOCK_SLACK", "LIFETIME", "issue_server", "issue_site", "make_tls_authority"]

AUTHORITY_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=30)
"""Of the certificates of sites and of the server."""
CLOCK_SLACK = timedelta(minutes=5)
"""A certificate is valid from so long ago: for those whose clock is late."""


def make_tls_authority(key: bytes, name: str, *, now: datetime, random: Callable[[int], bytes]) -> bytes:
    """The certificate (DER) of a new authority with this key (PKCS #8, DER), for 10 years."""
    signer = _signer(key)
    builder = _builder(name, name, (now - CLOCK_SLACK, now + AUTHORITY_LIFETIME), random)
    builder = builder.public_key(signer.public_key())
    unsigned = builder.sign(signer, SHA256())  # only to have a certificate with the key, whose identifier goes in
    return _signed(builder, authority_extensions(unsigned), signer)


def issue_site(
    authority: bytes, key: bytes, *, name: str, public: bytes, now: datetime, random: Callable[[int], bytes]
) -> bytes:
    """A certificate (DER) for the connections of the site `name`, whose key is `public` (SubjectPublicKeyInfo, DER).

    Raises ValueError for the authority's own key, and unless `key` is that of `authority`.
    """
    trusted = TlsAuthority(authority)
    return _issue(trusted, key, site_name(name), public, site_extensions(trusted.certificate), now, random)


def issue_server(
    authority: bytes, key: bytes, *, names: Sequence[str], public: bytes, now: datetime, random: Callable[[int], bytes]
) -> bytes:
    """A certificate (DER) for the server under its host names and IP addresses, of which the first is its subject.

    Raises LocalError for what is no host name. ValueError as `issue_site`.
    """
    trusted = TlsAuthority(authority)
    try:
        hosts = [check_host(name) for name in names]
    except ValueError as error:
        raise LocalError(f"server certificate: {error}") from None
    if not hosts:
        raise LocalError("server certificate: expected a host name or an IP address")
    alternatives = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)])
    extensions = server_extensions(trusted.certificate, alternatives)
    return _issue(trusted, key, site_name(hosts[0]), public, extensions, now, random)


def _issue(
    authority: TlsAuthority,
    key: bytes,
    name: str,
    public: bytes,
    extensions: Extensions,
    now: datetime,
    random: Callable[[int], bytes],
) -> bytes:
    signer = _signer(key)
    issuer = authority.certificate
    if signer.public_key() != issuer.public_key():
        raise ValueError("expected the key of the authority's certificate")
    subject_key = load_der_public_key(public)
    if subject_key == issuer.public_key():
        raise ValueError("expected a key of its own, got the authority's")
    end = min(now + LIFETIME, issuer.not_valid_after_utc)  # a certificate that outlives its authority is refused
    [issuer_name] = issuer.subject
    builder = _builder(str(issuer_name.value), name, (now - CLOCK_SLACK, end), random)
    return _signed(builder.public_key(subject_key), extensions, signer)  # type: ignore[arg-type]


def _builder(
    issuer: str, subject: str, valid: tuple[datetime, datetime], random: Callable[[int], bytes]
) -> x509.CertificateBuilder:
    serial = int.from_bytes(random(16), "big") | 1 << 120  # positive, at most 20 bytes (RFC 5280, 4.1.2.2)
    return (
        x509.CertificateBuilder()
        .issuer_name(name_attribute(issuer))
        .subject_name(name_attribute(subject))
        .serial_number(serial)
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
    )


def _signed(builder: x509.CertificateBuilder, extensions: Extensions, signer: EllipticCurvePrivateKey) -> bytes:
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, SHA256()).public_bytes(Encoding.DER)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _signer(key: bytes) -> EllipticCurvePrivateKey:
    return TlsKey.read(key)._key
