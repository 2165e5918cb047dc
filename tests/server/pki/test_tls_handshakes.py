"""Why keys of connections are P-256, and whom gRPC lets in: real handshakes."""

import os
import ssl
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from wardround.link.tls import ClientTls, ServerTls, client_credentials, server_credentials
from wardround.server.pki.server_certificate import ServerCertificate
from wardround.server.pki.tls_authority import issue_site, make_tls_authority
from wardround.server.state.keyring import make_keyring
from wardround.tls_identity import TlsAuthority, TlsKey, name_attribute, pem_of, server_extensions, site_extensions


@dataclass
class Parties:
    server: ServerTls
    client: ClientTls


def federation() -> tuple[bytes, bytes]:
    key = make_keyring().tls_authority
    return key, make_tls_authority(key, "cardio", now=datetime.now(UTC), random=os.urandom)


def parties() -> Parties:
    key, authority = federation()
    own, now = TlsKey.make(), datetime.now(UTC)
    certificate = issue_site(authority, key, name="Hospital Å", public=own.public, now=now, random=os.urandom)
    return Parties(
        server=ServerCertificate(authority, key, ["localhost", "127.0.0.1"]).current(),
        client=ClientTls(certificate_chain=pem_of(certificate), private_key=own.pem, authority=pem_of(authority)),
    )


class Echo(grpc.GenericRpcHandler):
    """Answers every call with the certificate of who called."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda asked, context: b"".join(context.auth_context().get("x509_pem_cert", []))
        )


@contextmanager
def listening(tls: ServerTls) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Echo()])
    port = server.add_secure_port("127.0.0.1:0", server_credentials(lambda: tls))
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def asked(host: str, port: int, tls: ClientTls) -> bytes:
    with grpc.secure_channel(f"{host}:{port}", client_credentials(tls)) as channel:
        call: Any = channel.unary_unary("/a/b")
        answer: bytes = call(b"", timeout=10)
        return answer


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_both_ends_of_a_federation_take_each_others_certificates(host: str) -> None:
    both = parties()
    with listening(both.server) as port:
        assert asked(host, port, both.client) == both.client.certificate_chain


def refused(server: ServerTls, client: ClientTls) -> None:
    with listening(server) as port, pytest.raises(grpc.RpcError) as caught:
        asked("localhost", port, client)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_those_of_another_federation_are_refused_by_either_end() -> None:
    ours, theirs = parties(), parties()
    trusting = ClientTls(
        certificate_chain=theirs.client.certificate_chain,
        private_key=theirs.client.private_key,
        authority=ours.client.authority,
    )
    refused(ours.server, trusting)  # a stranger that knows our authority
    refused(theirs.server, ours.client)  # a stranger's server


def test_a_site_cannot_stand_for_the_server() -> None:
    both = parties()
    impostor = ServerTls(
        certificate_chain=both.client.certificate_chain,
        private_key=both.client.private_key,
        authority=both.client.authority,
    )
    refused(impostor, both.client)


def test_openssl_takes_the_servers_certificate_strictly() -> None:
    both = parties()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=both.client.authority.decode())
    mine, theirs, out = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    path = f"/proc/self/fd/{_memory(both.server.certificate_chain + both.server.private_key)}"
    out.load_cert_chain(path)
    client = context.wrap_bio(theirs, mine, server_hostname="localhost")
    server = out.wrap_bio(mine, theirs, server_side=True)
    for _ in range(3):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() == "TLSv1.3"
    assert server.version() == "TLSv1.3"


def _memory(data: bytes) -> int:
    descriptor = os.memfd_create("pem")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


@pytest.mark.parametrize("side", ["server", "client"])
def test_grpc_takes_no_ed25519_key_in_a_handshake_on_either_side(side: str) -> None:
    """If this fails one day, the reason for a second kind of key has gone."""
    key, authority = federation()
    issuer, now = TlsAuthority(authority).certificate, datetime.now(UTC)
    own = Ed25519PrivateKey.generate()
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer.subject)
        .subject_name(name_attribute("localhost"))
        .public_key(own.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension, critical in server_extensions(issuer, names) if side == "server" else site_extensions(issuer):
        builder = builder.add_extension(extension, critical=critical)
    chain = builder.sign(TlsKey.read(key)._key, SHA256()).public_bytes(Encoding.PEM)
    pem = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    site = TlsKey.make()
    good = pem_of(issue_site(authority, key, name="a", public=site.public, now=now, random=os.urandom))
    client = ClientTls(certificate_chain=good, private_key=site.pem, authority=pem_of(authority))
    server = ServerCertificate(authority, key, ["localhost"]).current()
    with listening(server) as port:
        asked("localhost", port, client)  # all else is right
    if side == "client":
        refused(server, ClientTls(certificate_chain=chain, private_key=pem, authority=pem_of(authority)))
    else:
        refused(ServerTls(certificate_chain=chain, private_key=pem, authority=pem_of(authority)), client)
