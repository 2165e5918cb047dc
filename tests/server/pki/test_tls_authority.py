"""Certificates of connections: what is issued is taken by both TLS libraries, and nothing else is taken by ours."""

import os
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.server.pki.federation import NOW, Clock
from wardround.errors import LocalError, RemoteError
from wardround.server.pki.server_certificate import ServerCertificate
from wardround.server.pki.tls_authority import issue_server, issue_site, make_tls_authority
from wardround.server.state.keyring import make_keyring
from wardround.tls_identity import TlsAuthority, TlsKey, der_of, name_attribute, site_extensions

DAY = timedelta(days=1)
KEYRING, SITE = make_keyring(), TlsKey.make()
KEY = KEYRING.tls_authority
CA = make_tls_authority(KEY, "cardio", now=NOW, random=os.urandom)
OTHER_KEY = make_keyring().tls_authority
OTHER_CA = make_tls_authority(OTHER_KEY, "cardio", now=NOW, random=os.urandom)


def site(name: str = "Malmö", *, ca: bytes = CA, key: bytes = KEY, public: bytes = SITE.public) -> bytes:
    return issue_site(ca, key, name=name, public=public, now=NOW, random=os.urandom)


def test_a_sites_certificate_says_its_name_and_its_key_for_30_days() -> None:
    found = TlsAuthority(CA).verify_site(site(), now=NOW)
    assert (found.name, found.public) == ("Malmö", SITE.public)
    assert (found.not_before, found.not_after) == (NOW - timedelta(minutes=5), NOW + 30 * DAY)


@pytest.mark.parametrize("name", ["a", "x" * 255, "ö" * 127, "St. Göran / ward 3"])
def test_a_name_of_up_to_255_bytes_fits(name: str) -> None:
    assert TlsAuthority(CA).verify_site(site(name), now=NOW).name == name


@pytest.mark.parametrize("now", [NOW - timedelta(minutes=6), NOW + 30 * DAY + timedelta(seconds=1)])
def test_before_and_after_its_time_it_is_refused(now: datetime) -> None:
    with pytest.raises(RemoteError, match="Malmö: expected a certificate that is valid on"):
        TlsAuthority(CA).verify_site(site(), now=now)


def test_no_certificate_outlives_its_authority() -> None:
    late = NOW + 3640 * DAY
    made = issue_site(CA, KEY, name="a", public=SITE.public, now=late, random=os.urandom)
    assert TlsAuthority(CA).read_site(made).not_after == NOW + 3650 * DAY


def test_the_server_has_names_and_addresses() -> None:
    made = issue_server(
        CA, KEY, names=["FL.example.org", "10.0.0.1", "::1", "fl.example.org"], public=SITE.public, now=NOW,
        random=os.urandom,
    )  # fmt: skip
    names = x509.load_der_x509_certificate(made).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]


@pytest.mark.parametrize(
    "names", [[], [""], ["a b"], ["*.example.org"], ["a/b"], ["fl.example.org:8443"], ["ö.org"], ["1.2"]]
)
def test_what_is_no_host_name_gets_no_certificate(names: list[str]) -> None:
    with pytest.raises(LocalError, match="server certificate: expected a host name"):
        issue_server(CA, KEY, names=names, public=SITE.public, now=NOW, random=os.urandom)


def test_the_authority_certifies_with_its_key_and_never_its_key() -> None:
    with pytest.raises(ValueError, match="expected the key of the authority's certificate"):
        site(key=OTHER_KEY)
    with pytest.raises(ValueError, match="expected a key of its own"):
        site(public=TlsKey.read(KEY).public)


# -- certificates of another form ---------------------------------------------------------------------


def built(
    *,
    subject: x509.Name | None = None,
    public: object = None,
    extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    digest: SHA256 | SHA384 | None = None,
    key: bytes = KEY,
) -> bytes:
    """A certificate by the authority's own key, of a form that it does not give."""
    if extensions is None:
        extensions = site_extensions(TlsAuthority(CA).certificate)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(name_attribute("cardio"))
        .subject_name(name_attribute("Malmö") if subject is None else subject)
        .public_key(public or load_der_public_key(SITE.public))  # type: ignore[arg-type]
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(TlsKey.read(key)._key, digest or SHA256()).public_bytes(Encoding.DER)


def changed(*replaced: tuple[x509.ExtensionType, bool]) -> list[tuple[x509.ExtensionType, bool]]:
    kinds = {type(one) for one, _ in replaced}
    kept = [one for one in site_extensions(TlsAuthority(CA).certificate) if type(one[0]) not in kinds]
    return [*kept, *replaced]


def wrong_forms() -> dict[str, Callable[[], bytes]]:
    common_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Malmö")])
    return {
        "a common name": lambda: built(subject=common_name),
        "two names": lambda: built(subject=x509.Name([*name_attribute("a"), *common_name])),
        "no name": lambda: built(subject=x509.Name([])),
        "a key of another curve": lambda: built(public=generate_private_key(SECP384R1()).public_key()),
        "another digest": lambda: built(digest=SHA384()),
        "no extensions": lambda: built(extensions=[]),
        "one more": lambda: built(extensions=changed((x509.OCSPNoCheck(), False))),
        "an authority": lambda: built(extensions=changed((x509.BasicConstraints(True, 0), True))),
        "not for clients": lambda: built(
            extensions=changed((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False))
        ),
        "for servers, too": lambda: built(
            extensions=changed(
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False)
            )
        ),
        "host names": lambda: built(extensions=changed((x509.SubjectAlternativeName([x509.DNSName("a.org")]), False))),
        "not critical": lambda: built(extensions=changed((x509.BasicConstraints(False, None), False))),
        "the server's": lambda: issue_server(
            CA, KEY, names=["localhost"], public=SITE.public, now=NOW, random=os.urandom
        ),
        "the authority's": lambda: CA,
        "another federation's of the same name": lambda: site(ca=OTHER_CA, key=OTHER_KEY),
        "signed by a site": lambda: built(key=TlsKey.make()._key.private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
        )),
        "altered": lambda: site()[:-1] + bytes([site()[-1] ^ 1]),
        "cut": lambda: site()[:-1],
        "followed by more": lambda: site() + b"\0",
        "nothing": lambda: b"",
        "large": lambda: site() + bytes(5000),
    }  # fmt: skip


def test_the_builder_of_these_tests_builds_a_good_one() -> None:
    assert TlsAuthority(CA).verify_site(built(), now=NOW).serial == 7


@pytest.mark.parametrize("form", wrong_forms())
def test_another_form_is_refused(form: str) -> None:
    with pytest.raises(RemoteError, match="certificate: expected a site's of this federation"):
        TlsAuthority(CA).verify_site(wrong_forms()[form](), now=NOW)


@pytest.mark.parametrize("der", [b"", site(), CA[:-1], CA + b"\0"])
def test_what_is_no_authority_is_refused(der: bytes) -> None:
    with pytest.raises(RemoteError, match="TLS authority: expected a self-signed P-256 authority"):
        TlsAuthority(der)


# -- the server's own ---------------------------------------------------------------------------------


def test_the_server_changes_its_certificate_and_key_after_two_thirds_of_their_time() -> None:
    clock = Clock()
    own = ServerCertificate(CA, KEY, ["localhost"], now=clock)
    first = own.current()
    clock.forward(20 * DAY - timedelta(seconds=1))
    assert own.current() is first
    clock.forward(timedelta(seconds=1))
    second = own.current()
    assert second.private_key != first.private_key
    found = x509.load_der_x509_certificate(der_of(second.certificate_chain))
    assert found.not_valid_after_utc == NOW + 50 * DAY
    assert TlsAuthority(CA).issued(der_of(second.certificate_chain))
    assert der_of(second.authority) == CA
    assert b"PRIVATE" not in repr(second).encode() + repr(own).encode()


def test_a_curve_is_checked_where_a_key_is_read() -> None:
    other = generate_private_key(SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    good = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert TlsKey.read(good).pem == good
    for data in (other, b"", good[:100]):
        with pytest.raises(LocalError, match="expected a P-256 key"):
            TlsKey.read(data)
