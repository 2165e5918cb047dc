"""Keys of connections and requests for certificates; `tests/server/pki` has the certificates."""

import copy
import pickle

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import LocalError, RemoteError
from wardround.tls_identity import CertificateRequest, TlsAuthority, TlsKey, der_of, name_attribute, read_request

KEY = TlsKey.make()


def test_a_key_is_read_back_and_shows_no_secret() -> None:
    assert TlsKey.read(KEY.pem).public == KEY.public
    assert TlsKey.read(KEY.pem + b"-----BEGIN CERTIFICATE-----\n").public == KEY.public
    assert KEY.pem.decode().splitlines()[1] not in repr(KEY)
    with pytest.raises(TypeError, match="not copied or pickled"):
        pickle.dumps(KEY)
    with pytest.raises(TypeError, match="not copied or pickled"):
        copy.copy(KEY)


@pytest.mark.parametrize("name", [None, "Malmö", "x" * 255])
def test_a_request_says_the_name_and_the_key(name: str | None) -> None:
    assert read_request(KEY.request(name)) == CertificateRequest(name=name, public=KEY.public)  # type: ignore[arg-type]


def test_only_names_of_sites_are_asked_for() -> None:
    with pytest.raises(ValueError, match="expected a site's name"):
        KEY.request("a\nb")


def request(
    *, subject: x509.Name | None = None, key: object = None, digest: object = None, extension: bool = False
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        name_attribute("Malmö") if subject is None else subject
    )
    if extension:
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
    return builder.sign(key or KEY._key, digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def other_forms() -> dict[str, bytes]:
    good = request(digest=SHA256())
    common = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Malmö")])
    attribute = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name_attribute("Malmö"))
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"secret")
        .sign(KEY._key, SHA256())
    )
    return {
        "a common name": request(subject=common, digest=SHA256()),
        "two names": request(subject=x509.Name([*name_attribute("a"), *common]), digest=SHA256()),
        "a name of two lines": request(subject=name_attribute("a\nb"), digest=SHA256()),
        "extensions": request(extension=True, digest=SHA256()),
        "attributes": attribute.public_bytes(Encoding.DER),
        "another digest": request(digest=SHA384()),
        "another curve": request(key=generate_private_key(SECP384R1()), digest=SHA256()),
        "Ed25519": request(key=Ed25519PrivateKey.generate()),
        "signed by another": good.replace(KEY.public[-64:], TlsKey.make().public[-64:]),
        "altered": good[:-1] + bytes([good[-1] ^ 1]),
        "cut": good[:-1],
        "nothing": b"",
        "large": good + bytes(5000),
    }


def test_the_builder_of_these_tests_builds_a_good_one() -> None:
    assert read_request(request(digest=SHA256())).name == "Malmö"


@pytest.mark.parametrize("form", other_forms())
def test_another_form_of_request_is_refused(form: str) -> None:
    with pytest.raises(RemoteError, match="certificate request: "):
        read_request(other_forms()[form])


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 150), st.binary(min_size=1, max_size=4))
def test_no_bytes_end_in_anything_but_a_refusal(data: bytes, at: int, other: bytes) -> None:
    good = KEY.request("Malmö")
    changed = good[:at] + other + good[at + len(other) :]
    for one in (data, good[:at] + data, changed):
        for read in (read_request, TlsAuthority):
            try:
                read(one)
            except RemoteError:
                continue
            assert one == good


@pytest.mark.parametrize("pem", [b"", KEY.pem, b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----" * 2])
def test_what_has_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(LocalError, match="expected a certificate, PEM"):
        der_of(pem)
