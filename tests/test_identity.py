"""Certificates and revocation lists: what one authority gives is accepted, and everything else refused by name."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.identity import (
    Authority,
    Identity,
    Revocations,
    issue_certificate,
    issue_revocations,
    make_authority,
    site_name,
)
from wardround.signing_key import SigningKey

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CA_SECRET = bytes(range(32))
CA_KEY, SITE_KEY, OTHER_KEY = SigningKey(CA_SECRET), SigningKey(bytes(32)), SigningKey(b"\1" * 32)


def fixed(size: int) -> bytes:
    return bytes(range(size))


def authority_of(key: SigningKey, not_after: datetime = NOW + 1000 * DAY) -> bytes:
    return make_authority(key, "coordinator", not_before=NOW - DAY, not_after=not_after, random=fixed)


CA = authority_of(CA_KEY)


def certificate(name: str = "Malmö", *, public: bytes = SITE_KEY.public, days: int = 90) -> bytes:
    return issue_certificate(
        CA, CA_KEY, name=name, public=public, not_before=NOW, not_after=NOW + days * DAY, random=fixed
    )


NONE_REVOKED = Revocations(number=0, serials=frozenset(), next_update=NOW + 1000 * DAY)


def verify(
    der: bytes, *, name: str = "Malmö", now: datetime = NOW, revocations: Revocations = NONE_REVOKED
) -> Identity:
    return Authority(CA).verify(der, name=name, now=now, revocations=revocations)


def test_a_certificate_binds_a_name_to_a_signing_key() -> None:
    found = verify(certificate())
    assert (found.name, found.public) == ("Malmö", SITE_KEY.public)
    assert found.serial == x509.load_der_x509_certificate(certificate()).serial_number


@pytest.mark.parametrize("name", ["a", "ö" * 127, "x" * 255, "St. Göran / ward 3"])
def test_names_of_up_to_255_bytes_fit(name: str) -> None:
    assert verify(certificate(name), name=name).name == name


@pytest.mark.parametrize("name", ["", "x" * 256, "ö" * 128, " a", "a ", "a  b", "a\nb", "a\x1b[2J", "\ud800"])
def test_a_name_that_is_not_1_to_255_printable_bytes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a site's name of 1 to 255 printable bytes"):
        site_name(name)
    with pytest.raises(ValueError, match="expected a site's name"):
        certificate(name)


def test_another_name_is_refused() -> None:
    with pytest.raises(RemoteError, match="Lund: expected a certificate of this name, got one of 'Malmö'"):
        verify(certificate(), name="Lund")


@pytest.mark.parametrize("now", [NOW - timedelta(seconds=1), NOW + 90 * DAY + timedelta(seconds=1)])
def test_a_certificate_is_valid_in_its_time_only(now: datetime) -> None:
    with pytest.raises(RemoteError, match=r"expected a certificate that is valid on .*; renew it, or set the clock"):
        verify(certificate(), now=now)
    assert verify(certificate(), now=NOW) == verify(certificate(), now=NOW + 90 * DAY)


def test_a_certificate_does_not_outlive_its_authority() -> None:
    short = Authority(authority_of(CA_KEY, NOW + DAY))
    short.verify(certificate(), name="Malmö", now=NOW + DAY, revocations=NONE_REVOKED)
    with pytest.raises(RemoteError, match="Malmö: expected an authority that is valid"):
        short.verify(certificate(), name="Malmö", now=NOW + 2 * DAY, revocations=NONE_REVOKED)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a time with its zone"):
        verify(certificate(), now=NOW.replace(tzinfo=None))


def test_a_certificate_of_another_authority_of_the_same_name_is_refused() -> None:
    other = Authority(authority_of(OTHER_KEY))
    with pytest.raises(RemoteError, match="Malmö: expected a certificate of the run's authority"):
        other.verify(certificate(), name="Malmö", now=NOW, revocations=NONE_REVOKED)


def test_a_member_cannot_issue_and_an_authority_is_no_member() -> None:
    with pytest.raises(RemoteError, match="expected the extensions of a member"):
        verify(CA, name="coordinator")
    with pytest.raises(RemoteError, match="expected a self-signed Ed25519 authority"):
        Authority(certificate())
    forged = issue_certificate(
        certificate(), SITE_KEY, name="Lund", public=OTHER_KEY.public, not_before=NOW, not_after=NOW + DAY, random=fixed
    )
    with pytest.raises(RemoteError, match="expected a certificate of the run's authority"):
        verify(forged, name="Lund")


def test_an_authority_has_signed_itself() -> None:
    """Its signature is checked although it is trusted: else its bytes could be torn unnoticed."""
    for at in (-1, -64, CA.index(b"coordinator")):
        changed = bytearray(CA)
        changed[at] ^= 1
        with pytest.raises(RemoteError, match="expected a self-signed Ed25519 authority"):
            Authority(bytes(changed))


def test_a_member_that_signs_its_own_certificate_is_no_authority() -> None:
    site = Ed25519PrivateKey.from_private_bytes(bytes(32))
    good = x509.load_der_x509_certificate(certificate())
    builder = x509.CertificateBuilder(
        good.subject, good.subject, site.public_key(), good.serial_number, NOW, NOW + DAY, list(good.extensions)
    )
    with pytest.raises(RemoteError, match="expected the extensions of an authority"):
        Authority(builder.sign(site, None).public_bytes(Encoding.DER))


def test_what_is_too_long_is_not_parsed() -> None:
    with pytest.raises(RemoteError, match="expected a certificate of at most 4096 bytes, got 4097"):
        verify(certificate() + bytes(4097 - len(certificate())))
    with pytest.raises(RemoteError, match="expected at most 1048576 bytes, got 1048577"):
        Authority(CA).revocations(bytes((1 << 20) + 1), NOW)


def built(change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder], *, usage: bool = True) -> bytes:
    """A certificate that the authority signed, but not as `issue_certificate` makes it."""
    builder = (
        x509.CertificateBuilder()
        .issuer_name(x509.load_der_x509_certificate(CA).subject)
        .subject_name(x509.Name([x509.NameAttribute(x509.ObjectIdentifier("2.5.4.41"), "Malmö")]))
        .public_key(Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
    )
    if usage:
        for extension in x509.load_der_x509_certificate(certificate()).extensions:
            builder = builder.add_extension(extension.value, extension.critical)
    signed = change(builder).sign(Ed25519PrivateKey.from_private_bytes(CA_SECRET), None)
    return signed.public_bytes(Encoding.DER)


def named(*attributes: tuple[str, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.ObjectIdentifier(oid), value) for oid, value in attributes])


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(lambda: built(lambda one: one, usage=False), id="no extensions"),
        pytest.param(
            lambda: built(lambda one: one.add_extension(x509.OCSPNoCheck(), critical=False)), id="one extension more"
        ),
        pytest.param(
            lambda: built(lambda one: one.add_extension(x509.BasicConstraints(True, None), critical=True), usage=False),
            id="an authority below the authority",
        ),
        pytest.param(lambda: replaced_subject(("2.5.4.3", "Malmö")), id="a common name"),
        pytest.param(lambda: replaced_subject(("2.5.4.41", "Malmö"), ("2.5.4.41", "Lund")), id="two names"),
        pytest.param(lambda: replaced_subject(), id="no name"),
        pytest.param(lambda: replaced_subject(("2.5.4.41", "Mal\nmö")), id="a name of two lines"),
        pytest.param(lambda: other_key(generate_private_key(SECP256R1()).public_key()), id="another kind of key"),
        pytest.param(lambda: b"", id="nothing"),
        pytest.param(lambda: b"\x30\x80", id="no length"),
        pytest.param(lambda: certificate() + b"\0", id="a byte more"),
        pytest.param(lambda: bytes(4097), id="too long"),
    ],
)
def test_a_certificate_of_another_form_is_refused(der: Callable[[], bytes]) -> None:
    assert verify(built(lambda one: one)).serial == 7
    with pytest.raises(RemoteError, match="Malmö: expected a certificate of the run's authority"):
        verify(der())


def replaced_subject(*attributes: tuple[str, str]) -> bytes:
    return resigned(subject=named(*attributes))


def other_key(key: Any) -> bytes:
    return resigned(key=key)


def resigned(subject: x509.Name | None = None, key: Any = None) -> bytes:
    good = x509.load_der_x509_certificate(certificate())
    builder = (
        x509.CertificateBuilder()
        .issuer_name(good.issuer)
        .subject_name(subject if subject is not None else good.subject)
        .public_key(key or good.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(Ed25519PrivateKey.from_private_bytes(CA_SECRET), None).public_bytes(Encoding.DER)


def test_a_key_of_small_order_gets_no_certificate() -> None:
    with pytest.raises(ValueError, match="of large order"):
        certificate(public=(1).to_bytes(32, "little"))
    with pytest.raises(ValueError, match="got the authority's"):
        certificate(public=CA_KEY.public)
    with pytest.raises(ValueError, match="expected the key of the authority"):
        issue_certificate(
            CA, OTHER_KEY, name="a", public=SITE_KEY.public, not_before=NOW, not_after=NOW + DAY, random=fixed
        )


def test_a_certificate_that_carries_a_key_of_small_order_is_refused() -> None:
    good = certificate()
    weak = good.replace(SITE_KEY.public, (1).to_bytes(32, "little"))
    start = x509.load_der_x509_certificate(weak).tbs_certificate_bytes
    signed = weak[:-64] + Ed25519PrivateKey.from_private_bytes(CA_SECRET).sign(start)
    with pytest.raises(RemoteError, match="of large order"):
        verify(signed)


@pytest.mark.parametrize(
    ("good", "read"),
    [
        pytest.param(lambda: certificate(), lambda der: verify(der), id="certificate"),
        pytest.param(lambda: CA, lambda der: Authority(der), id="authority"),
        pytest.param(lambda: revocations(5, 6), lambda der: Authority(CA).revocations(der, NOW), id="revocations"),
    ],
)
def test_no_bit_can_be_changed(good: Callable[[], bytes], read: Callable[[bytes], object]) -> None:
    """Not even those that are outside of what is signed."""
    der = good()
    read(der)
    for at in range(8 * len(der)):
        changed = bytearray(der)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(RemoteError):
            read(bytes(changed))


@pytest.mark.parametrize("serial", [b"\x02\x01\x00", b"\x02\x01\x80", b"\x02\x15" + b"\x01" * 21, b"\x02\x00"])
def test_a_serial_number_is_positive_and_at_most_20_bytes(serial: bytes) -> None:
    """The parser would warn of some of these, and a warning is no refusal."""
    der = certificate()
    at = der.index(b"\xa0\x03\x02\x01\x02") + 5
    changed = der[:at] + serial + der[at + 18 :]
    with pytest.raises(RemoteError, match="a positive serial number of at most 20 bytes"):
        verify(changed)


@settings(max_examples=300)
@given(st.data())
def test_changed_bytes_of_a_certificate_are_a_remote_error(data: st.DataObject) -> None:
    changed = bytearray(certificate())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "set"]))
        if kind == "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            changed[at] = data.draw(st.sampled_from([0, 0x30, 0x80, 0xFF]))
        elif kind == "cut":
            del changed[max(at, 1) :]
        else:
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=5))
    if bytes(changed) == certificate():
        return
    with pytest.raises(RemoteError):
        verify(bytes(changed))


# -- revocation ----------------------------------------------------------------------------------------------


def revocations(*serials: int, number: int = 4, key: SigningKey = CA_KEY, authority: bytes = CA) -> bytes:
    return issue_revocations(authority, key, serials=serials, number=number, now=NOW, valid_for=7 * DAY)


def test_a_revoked_certificate_is_refused_and_others_are_not() -> None:
    serial = verify(certificate()).serial
    found = Authority(CA).revocations(revocations(serial, 9), NOW)
    assert found == Revocations(number=4, serials=frozenset({serial, 9}), next_update=NOW + 7 * DAY)
    with pytest.raises(RemoteError, match=rf"Malmö: the certificate {serial:x} is revoked; enrol the site again"):
        verify(certificate(), revocations=found)
    none = Authority(CA).revocations(revocations(), NOW)
    assert none.serials == frozenset() and verify(certificate(), revocations=none).name == "Malmö"


def test_a_revocation_list_is_of_its_time_and_never_older_than_one_that_was_seen() -> None:
    authority = Authority(CA)
    for now in (NOW - DAY, NOW + 8 * DAY):
        with pytest.raises(RemoteError, match=r"revocation list: expected one for .*; fetch a newer one"):
            authority.revocations(revocations(), now)
    with pytest.raises(RemoteError, match="expected number 5 or above, got 4; fetch the newest"):
        authority.revocations(revocations(), NOW, newest=5)
    assert authority.revocations(revocations(), NOW, newest=4).number == 4
    with pytest.raises(RemoteError, match="Malmö: expected a revocation list for"):
        verify(certificate(), now=NOW + 8 * DAY, revocations=authority.revocations(revocations(), NOW))


def test_a_revocation_list_of_another_authority_is_refused() -> None:
    renamed = make_authority(CA_KEY, "another", not_before=NOW, not_after=NOW + DAY, random=fixed)
    for authority, key in ((CA, OTHER_KEY), (authority_of(OTHER_KEY), OTHER_KEY), (renamed, CA_KEY)):
        der = revocations(key=key, authority=authority)
        with pytest.raises(RemoteError, match="revocation list: expected the signature of this authority"):
            Authority(CA).revocations(der, NOW)


def test_a_list_in_another_form_is_refused() -> None:
    subject = x509.load_der_x509_certificate(CA).subject
    plain = x509.CertificateRevocationListBuilder().issuer_name(subject).last_update(NOW).next_update(NOW + DAY)
    number = x509.CRLNumber(4)
    partial = plain.add_extension(number, False).add_extension(x509.DeltaCRLIndicator(3), True)
    hold = (
        x509.RevokedCertificateBuilder()
        .serial_number(5)
        .revocation_date(NOW)
        .add_extension(x509.CRLReason(x509.ReasonFlags.remove_from_crl), False)
        .build()
    )
    released = plain.add_extension(number, False).add_revoked_certificate(hold)
    endless = plain.add_extension(x509.CRLNumber(1 << 20_000), False)  # too long to be written down in digits
    for builder in (plain, partial, released, endless):
        der = builder.sign(Ed25519PrivateKey.from_private_bytes(CA_SECRET), None).public_bytes(Encoding.DER)
        with pytest.raises(RemoteError, match=r"^revocation list: "):
            Authority(CA).revocations(der, NOW)
    elliptic = plain.add_extension(number, False).sign(generate_private_key(SECP256R1()), SHA256())
    for der in (elliptic.public_bytes(Encoding.DER), b"", bytes((1 << 20) + 1)):
        with pytest.raises(RemoteError, match=r"^revocation list: "):
            Authority(CA).revocations(der, NOW)
