"""A proxy that opens TLS connections, as TLS inspection does: its own authority, a new connection on."""

import contextlib
import datetime
import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["INSPECTOR", "inspecting"]

INSPECTOR = "Trustwall TLS Inspection"


def _certificate(host: str) -> bytes:
    """Key and certificate, PEM, for `host`, of the inspector's authority."""
    day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, INSPECTOR)]))
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(authority, SHA256())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)


def _loaded(pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    descriptor = os.memfd_create("pem")
    os.write(descriptor, pem)
    os.lseek(descriptor, 0, os.SEEK_SET)
    context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)
    return context


@contextlib.contextmanager
def inspecting() -> Iterator[int]:
    """The port of such a proxy, for `with`; it connects to this machine alone."""

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            host, _, port = self.path.rpartition(":")
            self.send_response(200)
            self.end_headers()
            onwards = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            onwards.check_hostname, onwards.verify_mode = False, ssl.CERT_NONE
            with contextlib.suppress(OSError):
                with (
                    _loaded(_certificate(host)).wrap_socket(self.connection, server_side=True) as near,
                    onwards.wrap_socket(socket.create_connection(("127.0.0.1", int(port)))) as far,
                ):
                    _copy(near, far)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # who has seen the certificate goes away

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _copy(near: ssl.SSLSocket, far: ssl.SSLSocket) -> None:
    ends = [near, far]
    while True:
        for end in select.select(ends, [], [], 20)[0]:
            data = end.recv(1 << 16)
            if not data:
                return
            ends[1 - ends.index(end)].sendall(data)
