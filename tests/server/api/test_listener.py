"""The HTTPS port against real sockets: only TLS 1.3, and nobody who is slow, large or many keeps others out."""

import json
import os
import resource
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.api.serving import Serving, serving
from wardround.errors import LocalError
from wardround.server.commands.api_client import ApiClient, UnreachableError, fetch_authority
from wardround.tls_identity import der_of

DEADLINE_S = 60.0


def context() -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    return found


def connect(server: Serving) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)
    return context().wrap_socket(raw)


def answered(stream: socket.socket) -> bytes:
    """Everything until the server closes, or cuts off."""
    data = b""
    try:
        while piece := stream.recv(1 << 16):
            data += piece
    except (ConnectionError, ssl.SSLError):
        pass
    return data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server"), quiet_s=2.0, stuck_s=2.0, handshake_s=2.0) as found:
        yield found


def test_a_client_that_knows_the_authority_is_served(server: Serving) -> None:
    assert server.client().ask("GET", "/session")["account"]["name"] == "ada"
    assert fetch_authority(f"https://localhost:{server.port}") == der_of(server.authority.encode())


def test_another_authority_is_refused(server: Serving, tmp_path: Path) -> None:
    with serving(tmp_path) as other:
        wrong = ApiClient(f"https://localhost:{server.port}", other.authority, server.token)
        with pytest.raises(LocalError, match="is not the server of this login") as caught:
            wrong.ask("GET", "/session")
    assert not isinstance(caught.value, UnreachableError)
    elsewhere = ApiClient(f"https://127.0.0.1:{server.port}", server.authority, server.token)
    with pytest.raises(LocalError, match="IP address mismatch"):
        elsewhere.ask("GET", "/session")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_older_tls_is_refused(server: Serving) -> None:
    old = context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as raw:
        with pytest.raises(ssl.SSLError):
            old.wrap_socket(raw)
    with connect(server) as stream:
        assert stream.version() == "TLSv1.3"


def test_http_without_tls_is_no_way_in(server: Serving) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as raw:
        raw.sendall(b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            said = raw.recv(1024)
        except ConnectionError:
            said = b""
    assert b"HTTP" not in said


def test_nobody_stays_in_the_handshake(server: Serving) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as raw:
        assert raw.recv(1) == b""


def test_headers_byte_by_byte_come_to_an_end(server: Serving) -> None:
    with connect(server) as stream:
        stream.sendall(b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\n")
        stopped = threading.Event()

        def drip() -> None:
            try:
                while not stopped.wait(0.1):
                    stream.sendall(b"x: y\r\n")
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert answered(stream) == b""
        finally:
            stopped.set()
            thread.join()


def test_a_body_that_stops_comes_to_an_end(server: Serving) -> None:
    with connect(server) as stream:
        stream.sendall(b"POST /api/v1/session HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert answered(stream) == b""


def test_headers_are_bounded(server: Serving) -> None:
    with connect(server) as stream:
        stream.sendall(b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 40_000)
        assert answered(stream).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /api/v1/session HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n", b"413"),
        (b"POST /api/v1/session HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n", b"413"),
        (b"POST /api/v1/session HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST /api/v1/plans HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n", b"401"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n", b"404"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", b"404"),
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", b"400"),
        (b"POST /api/v1/session HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n", b"400"),
        (b"POST /api/v1/session HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n", b"400"),
        (b"POST /api/v1/session HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n", b"400"),
        (b"GET https://elsewhere/api/v1/health HTTP/1.1\r\nhost: x\r\n\r\n", b"404"),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: x\r\n\r\n", b"404"),
    ],
)
def test_what_is_no_fit_request_is_refused_before_its_body(server: Serving, request_: bytes, status: bytes) -> None:
    with connect(server) as stream:
        stream.sendall(request_)
        assert stream.recv(4096).startswith(b"HTTP/1.1 " + status)


def test_a_body_with_two_ends_is_refused_and_what_follows_is_no_request(server: Serving) -> None:
    smuggled = b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\n\r\n"
    for path in (b"/api/v1/session", b"/nothing"):
        with connect(server) as stream:
            head = b"POST " + path + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
            stream.sendall(head + b"0\r\n\r\n" + smuggled)
            said = answered(stream)
        assert said.startswith(b"HTTP/1.1 400 ")
        assert said.count(b"HTTP/1.1") == 1


def test_a_refused_connection_is_told_in_the_log_and_many_in_one_line(server: Serving) -> None:
    before = len(server.lines())
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answered(raw)
    for _ in range(30):
        with connect(server) as stream:
            stream.sendall(b"\0\r\n\r\n")
            answered(stream)
    found: Counter[str] = Counter()
    lines = []
    while min(found["HTTP_REQUEST"], found["MALFORMED"]) < 30 and len(server.lines()) - before < 10_000:
        server.client().ask("GET", "/session")  # takes its time, and is a line itself
        lines = [line for line in server.lines()[before:] if line["event"] == "https refused"]
        found = sum((Counter(line["why"]) for line in lines), Counter())
    assert {one: found[one] for one in found if found[one] >= 30}.keys() == {"HTTP_REQUEST", "MALFORMED"}
    assert all(line["last_from"] == "127.0.0.1" for line in lines)
    assert len(lines) < 30


def test_a_body_in_chunks_is_bounded_too(server: Serving) -> None:
    with connect(server) as stream:
        stream.sendall(b"POST /api/v1/session HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        stream.sendall(chunk * 2)
        assert stream.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_an_endless_body_after_a_refusal_is_cut_off(server: Serving) -> None:
    before = server.memory_bytes()
    with connect(server) as stream:
        stream.sendall(b"POST /api/v1/runs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        sent, chunk = 0, b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        with pytest.raises(OSError):
            while sent < 64 << 30:
                stream.sendall(chunk)
                sent += len(chunk)
    assert server.memory_bytes() - before < 32 << 20


def test_a_peer_that_reads_nothing_is_cut_off(server: Serving) -> None:
    """The answers to many requests of one connection do not heap up."""
    before = server.memory_bytes()
    with connect(server) as stream:
        ask = f"GET /api/v1/openapi.json HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.token}\r\n\r\n".encode()
        with pytest.raises(OSError):
            for _ in range(1_000_000):
                stream.sendall(ask)
    assert server.memory_bytes() - before < 32 << 20


def test_strangers_push_out_each_other_and_not_who_asks(tmp_path: Path) -> None:
    with serving(tmp_path, connections=20) as server:
        strangers = [socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) for _ in range(60)]
        try:
            assert server.client().ask("GET", "/session")["account"]["name"] == "ada"
            for one in strangers[:40]:  # the first came to their end long before their time
                assert one.recv(1) == b""
        finally:
            for one in strangers:
                one.close()


def test_a_request_at_work_is_not_pushed_out(tmp_path: Path) -> None:
    with serving(tmp_path, connections=10) as server:
        with connect(server) as waiting:
            path = "/api/v1/runs/1/events?after=1&wait_s=3"
            head = (
                f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.token}\r\nconnection: close\r\n\r\n"
            )
            waiting.sendall(head.encode())
            server.client().ask("GET", "/session")  # so that it is at work
            strangers = [socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) for _ in range(40)]
            said = answered(waiting)
            for one in strangers:
                one.close()
        assert said.startswith(b"HTTP/1.1 200 ")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["run"]["number"] == 1


@pytest.mark.slow
def test_ten_thousand_connections_of_strangers(tmp_path: Path) -> None:
    """Half of them with a handshake, all of them open at once as far as the server lets them; people are served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5000
    if hard != resource.RLIM_INFINITY and hard < wanted + 500:
        pytest.skip(f"expected {wanted + 500} files, this machine allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 500), hard))
    try:
        with serving(tmp_path) as server:
            server.client().ask("GET", "/session")
            before, strangers = server.memory_bytes(), list[socket.socket]()
            for number in range(10_000):
                raw = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)
                if number % 2:
                    try:
                        raw = context().wrap_socket(raw)
                        raw.sendall(b"GET /api/v1/health HTTP/1.1\r\n")
                    except OSError:
                        pass  # pushed out already
                strangers.append(raw)
                if len(strangers) > wanted:
                    strangers.pop(0).close()
                if number % 1000 == 999:
                    assert server.client().ask("GET", "/session")["account"]["name"] == "ada"
            grown = server.memory_bytes() - before
            open_files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
            for one in strangers:
                one.close()
        assert grown < 160 << 20  # 256 connections at 300 KiB, and what the allocator keeps
        assert open_files < 400
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_large_first_model_goes_through_and_memory_stays(server: Serving, tmp_path: Path) -> None:
    """64 MiB, which come in pieces and go to the disk in pieces."""
    from tests.server.api.worlds import PLAN
    from wardround.plan import parse_plan

    client, plan = server.client(), PLAN.replace("cardio", "large")
    digest = parse_plan(plan).digest
    client.ask("POST", "/plans", {"toml": plan})
    size = 16 << 20
    about = {"layout": [["w", [size]]], "evaluate_spec": {"kind": "means"}, "plan_digest": digest}
    header = {
        "__metadata__": {"wardround": json.dumps(about)},
        "w": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]},
    }
    head = json.dumps(header).encode()
    file = tmp_path / "model"
    with file.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        out.truncate(8 + len(head) + 4 * size)
    before = server.memory_bytes()
    assert client.upload(f"/plans/{digest}/first-model", file) == {"size": size}
    assert server.memory_bytes() - before < 32 << 20
