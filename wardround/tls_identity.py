"""Keys and certificates of connections: P-256 keys made by their owner, requests for certificates, and their check.

Beside these a party has a signing key (`signing_key`, `identity`), which is what others pin; a connection's key lives
for one certificate. The form of all certificates is fixed, and anything else is refused: X.509 version 3, DER, ECDSA
with SHA-256 by the authority directly, one name (2.5.4.41) as subject and issuer, the extensions below and no others.

    authority   basic constraints (CA, no CA below it), key usage (certificates), key identifier
    site        basic constraints, key usage (signatures), extended key usage (TLS client), authority's key identifier
    server      the same with extended key usage TLS server, and its host names and addresses

Why not Ed25519, which everything else is signed with: the BoringSSL in gRPC 1.85 offers no Ed25519 in a handshake (its
ClientHello lists ECDSA and RSA alone), and a peer with an Ed25519 key fails with NO_COMMON_SIGNATURE_ALGORITHMS, on
either side; a test shows this. It would verify an Ed25519 signature of the authority, but one kind of key for TLS is
what every proxy and library knows.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from wardround.errors import LocalError, RemoteError
from wardround.identity import site_name
from wardround.plain_text import plain_text
from wardround.site_id import SiteId

__all__ = [
    "CertificateRequest",
    "TlsAuthority",
    "TlsIdentity",
    "TlsKey",
    "certificate_fingerprint",
    "der_of",
    "name_attribute",
    "pem_of",
    "read_request",
]

_NAME = x509.ObjectIdentifier("2.5.4.41")
_MOST_BYTES = 4096
_PEM_BEGIN, _PEM_END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
PARSING = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    UnsupportedAlgorithm,
    InvalidSignature,
)
"""What reading a foreign certificate or request may raise."""


class TlsKey:
    """A P-256 key for connections, drawn by the library from the operating system. It is neither shown nor pickled."""

    __slots__ = ("_key", "public")

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        """SubjectPublicKeyInfo, DER."""

    @classmethod
    def make(cls) -> Self:
        return cls(generate_key(SECP256R1()))

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The first key in PKCS #8, as PEM or DER. LocalError for what is no P-256 key; it says nothing of `data`."""
        try:
            key = (load_pem_private_key if data.lstrip().startswith(b"-----") else load_der_private_key)(data, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise LocalError("expected a P-256 key, PKCS #8, without password")
        return cls(key)

    @property
    def pem(self) -> bytes:
        """PKCS #8 without password, for a file that only its owner may read."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def request(self, name: str | None = None) -> bytes:
        """A request (PKCS #10, DER) for a certificate of this key; who does not know its name yet leaves it out."""
        subject = x509.Name([]) if name is None else name_attribute(site_name(name))
        return (
            x509.CertificateSigningRequestBuilder()
            .subject_name(subject)
            .sign(self._key, SHA256())
            .public_bytes(Encoding.DER)
        )

    def __repr__(self) -> str:
        return f"<TlsKey {hashlib.sha256(self.public).hexdigest()[:16]}>"

    def __reduce__(self) -> str:
        raise TypeError("a TlsKey is not copied or pickled; store it")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """Who asks, where it says so, and the key (SubjectPublicKeyInfo, DER) that it has shown to hold."""

    name: SiteId | None
    public: bytes


def read_request(der: bytes) -> CertificateRequest:
    """A request for a certificate, its signature checked. RemoteError for any other form than `TlsKey.request` has."""
    try:
        if len(der) > _MOST_BYTES:
            raise ValueError(f"expected at most {_MOST_BYTES} bytes, got {len(der)}")
        found = x509.load_der_x509_csr(der)
        public = p256_in(found)
        if not isinstance(found.signature_hash_algorithm, SHA256) or not found.is_signature_valid:
            raise ValueError("expected a signature by its own key, ECDSA with SHA-256")
        if len(found.extensions) or len(found.attributes):
            raise ValueError("expected a name and a key alone")
        name = name_in(found.subject) if len(found.subject.rdns) else None
    except PARSING as error:
        raise RemoteError(f"certificate request: {plain_text(str(error))}") from None
    return CertificateRequest(name=name, public=public)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """What a site's certificate says, and how long; `public` is SubjectPublicKeyInfo, DER."""

    name: SiteId
    public: bytes
    serial: int
    not_before: datetime
    not_after: datetime


class TlsAuthority:
    """The authority for connections of one federation. Raises RemoteError for what is no such certificate."""

    __slots__ = ("_certificate", "der", "fingerprint")

    def __init__(self, der: bytes) -> None:
        try:
            self._certificate = parsed(der)
            self._certificate.verify_directly_issued_by(self._certificate)
            check_form(self._certificate, authority_extensions(self._certificate))
        except PARSING as error:
            raise RemoteError(
                f"TLS authority: expected a self-signed P-256 authority ({plain_text(str(error))})"
            ) from None
        self.der = der
        self.fingerprint = certificate_fingerprint(der)

    @property
    def pem(self) -> bytes:
        return pem_of(self.der)

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    def issued(self, der: bytes) -> bool:
        """Whether this authority has signed the certificate, whatever it says."""
        try:
            x509.load_der_x509_certificate(der).verify_directly_issued_by(self._certificate)
        except PARSING:
            return False
        return True

    def read_site(self, der: bytes) -> TlsIdentity:
        """A site's certificate of this authority, whatever its time. RemoteError for any other."""
        try:
            certificate = parsed(der)
            certificate.verify_directly_issued_by(self._certificate)
            check_form(certificate, site_extensions(self._certificate))
            name, public = name_in(certificate.subject), p256_in(certificate)
        except PARSING as error:
            raise RemoteError(
                f"certificate: expected a site's of this federation ({plain_text(str(error))}); enrol the site again"
            ) from None
        return TlsIdentity(
            name=name,
            public=public,
            serial=certificate.serial_number,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )

    def verify_site(self, der: bytes, *, now: datetime) -> TlsIdentity:
        """A site's certificate of this authority that is valid at `now`. RemoteError for any other."""
        found = self.read_site(der)
        if not found.not_before <= now <= found.not_after:
            raise RemoteError(
                f"{found.name}: expected a certificate that is valid on {now:%Y-%m-%d %H:%M}, got one from "
                f"{found.not_before:%Y-%m-%d %H:%M} to {found.not_after:%Y-%m-%d %H:%M}; renew it, or set the clock "
                "right"
            )
        return found


def certificate_fingerprint(der: bytes) -> bytes:
    """SHA-256 of a certificate: what an invitation has of the authority's."""
    return hashlib.sha256(der).digest()


def pem_of(der: bytes) -> bytes:
    """A certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def der_of(pem: bytes) -> bytes:
    """The first certificate in PEM. LocalError where there is none."""
    start = pem.find(_PEM_BEGIN)
    end = pem.find(_PEM_END, start)
    try:
        if start < 0 or end < 0:
            raise ValueError
        return x509.load_pem_x509_certificate(pem[start : end + len(_PEM_END)]).public_bytes(Encoding.DER)
    except ValueError:
        raise LocalError("expected a certificate, PEM") from None


def name_attribute(name: str) -> x509.Name:
    """A subject or issuer of one name, which has room for 255 bytes where a common name has 64."""
    return x509.Name([x509.NameAttribute(_NAME, name)])


def parsed(der: bytes) -> x509.Certificate:
    """A certificate of bounded size. ValueError, or another of `PARSING`, for what is none."""
    if len(der) > _MOST_BYTES:
        raise ValueError(f"expected a certificate of at most {_MOST_BYTES} bytes, got {len(der)}")
    # version 3, then the serial number; the parser only warns of one that is not positive
    at = der.find(b"\xa0\x03\x02\x01\x02\x02", 0, 20) + 6
    serial = der[at + 1 : at + 1 + der[at]] if 6 <= at < len(der) else b""
    if not 1 <= len(serial) <= 20 or serial[0] > 127 or not any(serial):
        raise ValueError("expected version 3 and a positive serial number of at most 20 bytes")
    found = x509.load_der_x509_certificate(der)
    if not isinstance(found.signature_hash_algorithm, SHA256):
        raise ValueError("expected a signature with SHA-256")
    return found


def p256_in(found: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """The key (SubjectPublicKeyInfo, DER) in a certificate or request. ValueError unless it is of P-256."""
    key = found.public_key()
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("expected a P-256 key")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def name_in(subject: x509.Name) -> SiteId:
    """The one name of a subject. ValueError for any other."""
    attributes = list(subject)
    if len(attributes) != 1 or attributes[0].oid != _NAME or not isinstance(attributes[0].value, str):
        raise ValueError("expected a subject of one name")
    return site_name(attributes[0].value)


Extensions = list[tuple[x509.ExtensionType, bool]]
"""Each extension, and whether it is critical."""


def authority_extensions(certificate: x509.Certificate) -> Extensions:
    """Those of an authority with the key of `certificate`."""
    return [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_usage(authority=True), True),
        (_key_id(p256_in(certificate)), False),
    ]


def site_extensions(authority: x509.Certificate) -> Extensions:
    """Those of a site whose certificate is of `authority`."""
    return [*_member(p256_in(authority)), (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)]


def server_extensions(authority: x509.Certificate, names: x509.SubjectAlternativeName) -> Extensions:
    """Those of the server under `names`."""
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    return [*_member(p256_in(authority)), (server, False), (names, False)]


def check_form(certificate: x509.Certificate, expected: Extensions) -> None:
    """ValueError unless it has exactly these extensions, one name and a P-256 key: what is not known is refused."""
    p256_in(certificate)
    name_in(certificate.subject)
    if {(one.value, one.critical) for one in certificate.extensions} != set(expected):
        raise ValueError("expected a certificate of another form")


def _member(authority: bytes) -> Extensions:
    identifier = _key_id(authority).digest
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(authority=False), True),
        (x509.AuthorityKeyIdentifier(identifier, None, None), False),
    ]


def _key_id(public: bytes) -> x509.SubjectKeyIdentifier:
    """160 bits of SHA-256 of the key (RFC 7093, section 2, method 4)."""
    return x509.SubjectKeyIdentifier(hashlib.sha256(public).digest()[:20])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
