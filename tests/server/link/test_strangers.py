"""Connections from strangers: refused in the handshake, whatever their number, and nobody else notices."""

import asyncio
import os
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.link.certificates import Authority, Issued
from tests.link.loopback import Agent

ROOT = Path(__file__).resolve().parents[3]
SERVER = """
import asyncio, sys
from pathlib import Path
from wardround.link.limits import Limits
from wardround.link.tls import ServerTls
from wardround.server.link.hub import Hub

folder = Path(sys.argv[1])
tls = ServerTls(**{name: (folder / name).read_bytes() for name in ("certificate_chain", "private_key", "authority")})

class Gate:
    def admit(self, der):
        return "Hospital A"
    def still(self, der):
        return True

async def ignore(site, notice):
    pass

def memory_kb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

async def main():
    hub = Hub(Gate(), on_notice=ignore, limits=Limits(hello_s=float(sys.argv[2])))
    print(await hub.start("127.0.0.1", 0, lambda: tls), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(memory_kb(), len(hub.present()), flush=True)
    await hub.stop(0)

asyncio.run(main())
"""


class Served:
    """A hub in a process of its own."""

    def __init__(self, given: IO[str], said: IO[str]) -> None:
        self._in, self._out = given, said
        self.port = int(said.readline())

    def ask(self) -> tuple[int, int]:
        """Its memory in kB, and how many sites are attached."""
        self._in.write("?\n")
        self._in.flush()
        memory, present = self._out.readline().split()
        return int(memory), int(present)


@contextmanager
def served(folder: Path, authority: Authority, hello_s: float = 20.0) -> Iterator[Served]:
    tls = authority.server_tls()
    for name in ("certificate_chain", "private_key", "authority"):
        (folder / name).write_bytes(getattr(tls, name))
    errors = (folder / "errors").open("w")
    with (
        errors,
        subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder), str(hello_s)],
            cwd=ROOT,
            # as a person starts it: flwr, where another test has loaded it, makes gRPC silent for all children
            env={name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            yield Served(process.stdin, process.stdout)
        finally:
            process.kill()


def context(authority: Authority, folder: Path, issued: Issued | None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=authority.pem.decode())
    made.set_alpn_protocols(["h2"])
    if issued is not None:
        (folder / "stranger").write_bytes(issued.pem + issued.key_pem)
        made.load_cert_chain(folder / "stranger")
    return made


async def knock(port: int, tls: ssl.SSLContext, number: int, at_once: int) -> int:
    """So many handshakes; how many of them got a byte out of the server (of HTTP/2, after a handshake)."""
    turn, answered = asyncio.Semaphore(at_once), 0

    async def one() -> None:
        nonlocal answered
        async with turn:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
                try:
                    answered += len(await reader.read(1)) > 0
                finally:
                    writer.transport.abort()
            except (OSError, ssl.SSLError):
                pass

    await asyncio.gather(*(one() for _ in range(number)))
    return answered


def check_strangers(folder: Path, number: int) -> None:
    authority, other = Authority(), Authority()
    strangers = [context(authority, folder, None), context(authority, folder, other.site("Hospital A"))]
    with served(folder, authority) as server, Agent(authority, authority.site("Hospital A"), server.port) as agent:
        agent.until(True)
        for tls in strangers:  # what the first ones cost is paid: code paths, pools
            assert asyncio.run(knock(server.port, tls, 100, 20)) == 0
        before, _ = server.ask()
        for tls in strangers:
            assert asyncio.run(knock(server.port, tls, number // 2, 50)) == 0
        after, present = server.ask()
        assert present == 1  # the site has not noticed
        assert agent.states.empty()
        assert after - before < 8_000  # kB
        assert asyncio.run(knock(server.port, context(authority, folder, authority.site("Hospital A")), 1, 1)) == 1
    assert "Handshake failed" in (folder / "errors").read_text()


def test_strangers_are_refused_and_cost_nothing(tmp_path: Path) -> None:
    check_strangers(tmp_path, 400)


@pytest.mark.slow
def test_ten_thousand_strangers_are_refused_and_cost_nothing(tmp_path: Path) -> None:
    check_strangers(tmp_path, 10_000)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_there_is_no_handshake_but_of_tls_1_3(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Not even with a certificate that is admitted. In a process that loads things in the order of a real one."""
    authority = Authority()
    tls = context(authority, tmp_path, authority.site("Hospital A"))
    tls.minimum_version = tls.maximum_version = version
    with served(tmp_path, authority) as server:
        assert asyncio.run(knock(server.port, tls, 1, 1)) == (version is ssl.TLSVersion.TLSv1_3)


def test_connections_that_say_nothing_are_cut(tmp_path: Path) -> None:
    """A handshake that does not come within the time that the server gives."""
    authority, number = Authority(), 300
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    with served(tmp_path, authority, hello_s=1.0) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port), 60) for _ in range(number)]
        with Agent(authority, authority.site("Hospital A"), server.port) as agent:
            agent.until(True)
            for one in silent:
                with one:
                    assert one.recv(1) == b""
            assert server.ask()[1] == 1


def test_a_site_cannot_take_all_places_with_connections_that_ask_nothing(tmp_path: Path) -> None:
    """Neither with its own certificate nor with a stolen one: whether that is revoked is looked at with a stream."""
    authority = Authority()
    tls = context(authority, tmp_path, authority.site("Hospital A"))
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty settings

    async def ends(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
        writer.write(preface)
        try:
            async with asyncio.timeout(20):
                while await reader.read(1 << 10):
                    pass
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    with served(tmp_path, authority, hello_s=1.0) as server:
        asyncio.run(ends(server.port))
        with Agent(authority, authority.site("Hospital A"), server.port) as agent:  # one with a stream stays
            agent.until(True)
            asyncio.run(ends(server.port))
            assert server.ask()[1] == 1 and agent.states.empty()
