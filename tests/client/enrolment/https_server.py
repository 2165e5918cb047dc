"""A server for tests that speaks the routes of enrolment over HTTPS, honest or not; and a CONNECT proxy."""

import json
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.server.pki.federation import Federation
from wardround.join_messages import AUTHORITY_PATH, JOIN_PATH, LEAVE_PATH
from wardround.link.tls import ServerTls
from wardround.server.pki.endpoints import handle_authority, handle_join, handle_leave
from wardround.server.pki.server_certificate import ServerCertificate

Answer = tuple[int, dict[str, Any]]


@dataclass
class Routes:
    """What is answered, and what was asked: each request's path and body."""

    authority: Callable[[], Answer]
    join: Callable[[dict[str, Any]], Answer]
    leave: Callable[[dict[str, Any]], Answer] = lambda body: (404, {})
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    @classmethod
    def of(cls, federation: Federation) -> "Routes":
        return cls(
            authority=lambda: handle_authority(federation.enrolment),
            join=lambda body: handle_join(federation.enrolment, body),
            leave=lambda body: handle_leave(federation.enrolment, body),
        )


def server_tls(federation: Federation, *names: str) -> ServerTls:
    return ServerCertificate(
        federation.authority, federation.keyring.tls_authority, names or ("localhost",), now=federation.clock
    ).current()


@contextmanager
def serving(routes: Routes, tls: Callable[[], ServerTls], *, newest: bool = True) -> Iterator[int]:
    """Serve `routes` with the certificate that `tls` gives at each connection, for `with`; the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b"", routes.authority if self.path == AUTHORITY_PATH else lambda: (404, {}))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answers = {JOIN_PATH: routes.join, LEAVE_PATH: routes.leave}
            self.answer(body, lambda: answers[self.path](json.loads(body)) if self.path in answers else (404, {}))

        def answer(self, asked: bytes, found: Callable[[], Answer]) -> None:
            routes.asked.append((self.path, asked))
            status, body = found()
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            if not newest:
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            load_certificate(context, tls())
            try:
                with context.wrap_socket(request, server_side=True) as secured:
                    super().finish_request(secured, client_address)
            except OSError:  # a client that goes away, as it should from a certificate that it does not take
                return

    with _running(Server(("127.0.0.1", 0), Handler)) as port:
        yield port


@contextmanager
def proxying(*, status: int = 200, login: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """A proxy that takes CONNECT to this machine alone; its port, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            if login is not None and self.headers.get("Proxy-Authorization") != login:
                self.send_error(407)
                return
            if status != 200:
                self.send_error(status)
                return
            with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as upstream:
                self.send_response(200)
                self.end_headers()
                ends = [self.connection, upstream]
                while True:
                    for end in select.select(ends, [], [], 10)[0]:
                        data = end.recv(1 << 16)
                        if not data:
                            return
                        ends[1 - ends.index(end)].sendall(data)

        def log_message(self, *args: object) -> None:
            pass

    class Proxy(ThreadingHTTPServer):
        daemon_threads = True

    with _running(Proxy(("127.0.0.1", 0), Handler)) as port:
        yield port, asked


@contextmanager
def _running(server: ThreadingHTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def load_certificate(context: ssl.SSLContext, tls: ServerTls) -> None:
    """From memory, since the library reads files alone."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, tls.certificate_chain + tls.private_key)
        os.lseek(descriptor, 0, os.SEEK_SET)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
