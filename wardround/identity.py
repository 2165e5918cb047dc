"""Who is who: certificates that bind names to signing keys, and the lists of those that are revoked.

The authority (CA) belongs to the coordinator, so a certificate says only what the coordinator says; which keys a site
accepts is in `pins`. A renewed certificate keeps its key.

Certificates are X.509 version 3, DER, signed with Ed25519 by the authority directly. The subject is one attribute, the
name (2.5.4.41, which has room for 255 bytes where a common name has 64); the only extensions are the critical basic
constraints and key usage. Revocation lists are X.509 CRLs. Of both nothing more is understood, and more is refused.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from wardround.errors import RemoteError
from wardround.plain_text import plain_text
from wardround.signing_key import SigningKey, check_public_key
from wardround.site_id import SiteId

__all__ = [
    "Authority",
    "Identity",
    "Revocations",
    "authority_lifetime",
    "issue_certificate",
    "issue_revocations",
    "make_authority",
    "site_name",
]

_MAX_NAME_BYTES = 255
_MAX_CERTIFICATE_BYTES = 4096
_MAX_REVOCATIONS_BYTES = 1 << 20
_MOST_NUMBER_BITS = 160  # of a revocation list: RFC 5280, 5.2.3


def site_name(name: str) -> SiteId:
    """`name` as a site's name. Raises ValueError unless it is 1 to 255 printable bytes on one line."""
    if not name or plain_text(name, _MAX_NAME_BYTES) != name or len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(f"expected a site's name of 1 to {_MAX_NAME_BYTES} printable bytes, got {plain_text(name)!r}")
    return SiteId(name)


_NAME = x509.ObjectIdentifier("2.5.4.41")
_PARSING = (ValueError, TypeError, x509.DuplicateExtension, x509.InvalidVersion, UnsupportedAlgorithm, InvalidSignature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A name and its signing key, as an authority says."""

    name: SiteId
    public: bytes
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """The serial numbers that an authority has revoked. A newer list has a larger `number`."""

    number: int
    serials: frozenset[int]
    next_update: datetime


class Authority:
    """A certificate authority that a site trusts for names. Raises RemoteError for what is no such certificate."""

    __slots__ = ("_certificate", "fingerprint")

    def __init__(self, der: bytes) -> None:
        self.fingerprint = hashlib.sha256(der).digest()
        try:
            self._certificate = _parsed(der)
            self._certificate.verify_directly_issued_by(self._certificate)
            _check_form(self._certificate, authority=True)
        except _PARSING as error:
            raise RemoteError(
                f"authority: expected a self-signed Ed25519 authority ({plain_text(str(error))})"
            ) from None

    def verify(self, der: bytes, *, name: str, now: datetime, revocations: Revocations) -> Identity:
        """The identity in a certificate of `name`, at the time `now`. Raises RemoteError for any other certificate."""
        _check_aware(now)
        who = plain_text(name)
        try:
            certificate = _parsed(der)
            certificate.verify_directly_issued_by(self._certificate)
            _check_form(certificate, authority=False)
            found = site_name(_name_in(certificate))
            public = _key_in(certificate).public_bytes_raw()
        except _PARSING as error:
            raise RemoteError(
                f"{who}: expected a certificate of the run's authority ({plain_text(str(error))}); enrol the site again"
            ) from None
        if found != name:
            raise RemoteError(f"{who}: expected a certificate of this name, got one of {found!r}")
        for what, one in (("an authority", self._certificate), ("a certificate", certificate)):
            if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
                raise RemoteError(
                    f"{who}: expected {what} that is valid on {now:%Y-%m-%d %H:%M}, got one from "
                    f"{one.not_valid_before_utc:%Y-%m-%d %H:%M} to {one.not_valid_after_utc:%Y-%m-%d %H:%M}; "
                    "renew it, or set the clock right"
                )
        if now > revocations.next_update:
            raise RemoteError(
                f"{who}: expected a revocation list for {now:%Y-%m-%d %H:%M}, got one until "
                f"{revocations.next_update:%Y-%m-%d %H:%M}; fetch a newer one"
            )
        if certificate.serial_number in revocations.serials:
            raise RemoteError(f"{who}: the certificate {certificate.serial_number:x} is revoked; enrol the site again")
        return Identity(name=found, public=public, serial=certificate.serial_number)

    def revocations(self, der: bytes, now: datetime, *, newest: int = 0) -> Revocations:
        """The revocation list in `der`. Raises RemoteError for one of another authority or time, or below `newest`.

        `newest` is the largest number that was seen, kept by the caller: an older list would restore what is revoked.
        """
        _check_aware(now)
        try:
            if len(der) > _MAX_REVOCATIONS_BYTES:
                raise ValueError(f"expected at most {_MAX_REVOCATIONS_BYTES} bytes, got {len(der)}")
            _check_end(der)
            found = x509.load_der_x509_crl(der)
            if found.issuer != self._certificate.subject or not found.is_signature_valid(_key_in(self._certificate)):
                raise ValueError("expected the signature of this authority")
            number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            if len(found.extensions) != 1 or found.next_update_utc is None:
                raise ValueError("expected a number, a next update, and no more")
            if not 0 <= number < 1 << _MOST_NUMBER_BITS:
                raise ValueError("expected a number of at most 20 bytes")
            if any(len(one.extensions) for one in found):
                raise ValueError("expected serial numbers and dates alone")
            serials = frozenset(one.serial_number for one in found)
            first, last = found.last_update_utc, found.next_update_utc
        except (*_PARSING, x509.ExtensionNotFound) as error:
            raise RemoteError(f"revocation list: {plain_text(str(error))}") from None
        if not first <= now <= last:
            raise RemoteError(
                f"revocation list: expected one for {now:%Y-%m-%d %H:%M}, got one from {first:%Y-%m-%d %H:%M} to "
                f"{last:%Y-%m-%d %H:%M}; fetch a newer one, or set the clock right"
            )
        if number < newest:
            raise RemoteError(f"revocation list: expected number {newest} or above, got {number}; fetch the newest")
        return Revocations(number=number, serials=serials, next_update=last)


def make_authority(
    key: SigningKey, name: str, *, not_before: datetime, not_after: datetime, random: Callable[[int], bytes]
) -> bytes:
    """A self-signed certificate of a new authority, DER."""
    return _certificate(key, site_name(name), site_name(name), key.public, (not_before, not_after), random)


def authority_lifetime(authority: bytes) -> tuple[datetime, datetime]:
    """From when until when the authority with this certificate (DER) is good."""
    certificate = _parsed(authority)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def issue_certificate(
    authority: bytes,
    key: SigningKey,
    *,
    name: str,
    public: bytes,
    not_before: datetime,
    not_after: datetime,
    random: Callable[[int], bytes],
) -> bytes:
    """A certificate, DER, in which the authority with this certificate and key says that `name` signs with `public`."""
    issuer = _parsed(authority)
    if _key_in(issuer).public_bytes_raw() != key.public:
        raise ValueError("expected the key of the authority's certificate")
    check_public_key(public)
    if public == key.public:
        raise ValueError("expected a key of the member's own, got the authority's")
    return _certificate(key, _name_in(issuer), site_name(name), public, (not_before, not_after), random)


def issue_revocations(
    authority: bytes, key: SigningKey, *, serials: Iterable[int], number: int, now: datetime, valid_for: timedelta
) -> bytes:
    """A revocation list, DER; `number` must be above that of the list before."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_parsed(authority).subject)
        .last_update(now)
        .next_update(now + valid_for)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial in sorted(set(serials)):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(key._key, None).public_bytes(Encoding.DER)


def _certificate(
    key: SigningKey,
    issuer: str,
    name: str,
    public: bytes,
    valid: tuple[datetime, datetime],
    random: Callable[[int], bytes],
) -> bytes:
    authority = public == key.public
    serial = int.from_bytes(random(16), "big") | 1 << 120  # positive, at most 20 bytes (RFC 5280, 4.1.2.2)
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(_subject(issuer))
        .subject_name(_subject(name))
        .public_key(Ed25519PublicKey.from_public_bytes(public))
        .serial_number(serial)
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(_usage(authority), critical=True)
        .sign(key._key, None)
    )
    return certificate.public_bytes(Encoding.DER)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(_NAME, name)])


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _parsed(der: bytes) -> x509.Certificate:
    if len(der) > _MAX_CERTIFICATE_BYTES:
        raise ValueError(f"expected a certificate of at most {_MAX_CERTIFICATE_BYTES} bytes, got {len(der)}")
    # version 3, then the serial number; the parser only warns of one that is not positive
    at = der.find(b"\xa0\x03\x02\x01\x02\x02", 0, 20) + 6
    serial = der[at + 1 : at + 1 + der[at]] if 6 <= at < len(der) else b""
    if not 1 <= len(serial) <= 20 or serial[0] > 127 or not any(serial):
        raise ValueError("expected version 3 and a positive serial number of at most 20 bytes")
    _check_end(der)
    return x509.load_der_x509_certificate(der)


def _check_end(der: bytes) -> None:
    """Raises ValueError unless it ends with a signature of 64 bytes of which no bit is declared unused.

    What is signed does not reach so far, and the parser lets such bits pass: a second encoding of what was signed once.
    """
    if der[-67:-64] != b"\x03\x41\x00":
        raise ValueError("expected an Ed25519 signature at the end")


def _key_in(certificate: x509.Certificate) -> Ed25519PublicKey:
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("expected an Ed25519 key")
    check_public_key(key.public_bytes_raw())
    return key


def _name_in(certificate: x509.Certificate) -> str:
    attributes = list(certificate.subject)
    if len(attributes) != 1 or attributes[0].oid != _NAME or not isinstance(attributes[0].value, str):
        raise ValueError("expected a subject of one name")
    return attributes[0].value


def _check_form(certificate: x509.Certificate, *, authority: bool) -> None:
    """Raises ValueError unless it has exactly the extensions that we give: what is not understood is refused."""
    _key_in(certificate)
    _name_in(certificate)
    expected = {(x509.BasicConstraints(authority, 0 if authority else None), True), (_usage(authority), True)}
    if {(one.value, one.critical) for one in certificate.extensions} != expected:
        raise ValueError(f"expected the extensions of {'an authority' if authority else 'a member'}")


def _check_aware(now: datetime) -> None:
    if now.tzinfo is None:
        raise ValueError("expected a time with its zone, got one without")
