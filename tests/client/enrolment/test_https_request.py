"""One request, against an end that wants to hold it up."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from tests.client.enrolment.https_server import load_certificate, server_tls
from tests.client.enrolment.site import Site
from wardround.client.enrolment.exit_codes import JoinError, JoinExit
from wardround.client.enrolment.https_request import request, unverified
from wardround.client.proxy import Proxy

HANDSHAKE = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + bytes(200)
HEADER = b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200


@contextmanager
def dripping(data: bytes, wrapped: Callable[[socket.socket], socket.socket] = lambda end: end) -> Iterator[int]:
    """A server that sends a byte of `data` now and then, but never a whole answer; its port."""
    over = threading.Event()

    def serve() -> None:
        end, _ = server.accept()
        with ExitStack() as opened:
            opened.enter_context(end)
            try:
                end = opened.enter_context(wrapped(end))
                end.recv(1 << 16)
                for byte in data:
                    if over.wait(0.02):
                        return
                    end.sendall(bytes([byte]))
            except OSError:  # the client is gone
                pass

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()


def test_a_handshake_byte_by_byte_is_not_waited_for() -> None:
    with dripping(HANDSHAKE) as port, pytest.raises(JoinError, match=r"no answer within 0\.5 s; ask") as caught:
        request("127.0.0.1", port, "/", context=unverified(), proxy=None, timeout_s=0.5)
    assert caught.value.exit_code is JoinExit.UNREACHABLE


def test_nor_is_a_proxys_answer() -> None:
    with dripping(HEADER) as port, pytest.raises(JoinError, match=r"no answer within 0\.5 s through the proxy 127"):
        proxy = Proxy(host="127.0.0.1", port=port)
        request("server.test", 443, "/", context=unverified(), proxy=proxy, timeout_s=0.5)


def test_nor_is_the_answer_itself(site: Site) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, server_tls(site.federation))
    with (
        dripping(HEADER, lambda end: context.wrap_socket(end, server_side=True)) as port,
        pytest.raises(JoinError, match=r"no answer within 1 s"),
    ):
        request("127.0.0.1", port, "/", context=unverified(), proxy=None, timeout_s=1.0)
