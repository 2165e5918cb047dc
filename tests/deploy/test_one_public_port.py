"""deploy/nginx.conf in a real nginx on loopback: one port, and TLS from end to end to two."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.link.certificates import Authority
from tests.link.loopback import Agent, Register, memory, running_hub
from tests.server.api.serving import serving
from wardround.link.messages import Call, Reply
from wardround.orders import SiteId
from wardround.server.commands.api_client import ApiClient

CONF = Path(__file__).resolve().parents[2] / "deploy" / "nginx.conf"
SITE = SiteId("Hospital A")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def stream_module(nginx: str) -> str | None:
    """The line that loads nginx's streams, nothing where they are built in; None where there are none."""
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True).stderr
    if "--with-stream_ssl_preread_module" not in built:
        return None
    folder = re.search(r"--modules-path=(\S+)", built)
    module = None if folder is None else Path(folder[1]) / "ngx_stream_module.so"
    if "--with-stream=dynamic" not in built:
        return ""
    return f"load_module {module};" if module is not None and module.exists() else None


NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
MODULE = None if NGINX is None else stream_module(NGINX)


@contextmanager
def nginx(folder: Path, *, https: int, link: int) -> Iterator[int]:
    """The public port of an nginx with the example's configuration; only ports are others."""
    port, text = free_port(), CONF.read_text()
    for old, new in (("127.0.0.1:8443", f"127.0.0.1:{https}"), ("127.0.0.1:8444", f"127.0.0.1:{link}")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    assert text.count("listen 443;") == 1
    text = text.replace("listen 443;", f"listen 127.0.0.1:{port};")
    conf = folder / "nginx.conf"
    conf.write_text(f"{MODULE}\ndaemon off;\nmaster_process off;\npid {folder}/pid;\nevents {{}}\n{text}")
    command = [str(NGINX), "-p", str(folder), "-c", str(conf), "-e", str(folder / "nginx.log")]
    with subprocess.Popen(command) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "nginx.log").read_text()
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


@pytest.mark.skipif(MODULE is None, reason="nginx with its stream module is not there")
def test_people_and_sites_come_through_one_port_unopened(tmp_path: Path) -> None:
    authority, register = Authority(), Register()
    issued = authority.site(SITE)
    register.add(SITE, issued)
    update = bytes(range(256)) * 20_000

    async def run() -> None:
        with serving(tmp_path) as server:
            async with running_hub(authority, register) as (hub, link):
                with nginx(tmp_path, https=server.port, link=link) as port:
                    people = ApiClient(f"https://localhost:{port}", server.authority, server.token)
                    assert "sites" in await asyncio.to_thread(people.ask, "GET", "/status")
                    # the site's certificate, which the hub asks for, has come through
                    with Agent(authority, issued, port, lambda _: Reply(frame=memoryview(update))):
                        reply = await hub.call(
                            SITE, Call(run="r", kind="train"), timeout_s=60, allocate=memory, most_bytes=1 << 24
                        )
                    assert bytes(reply.frame) == update
                    await asyncio.to_thread(_handshake, port, ["h2", "http/1.1"], server.authority)
                    await asyncio.to_thread(_handshake, port, ["http/1.1"], server.authority)
                    with pytest.raises(ssl.SSLCertVerificationError):  # of the other authority: the port for sites
                        await asyncio.to_thread(_handshake, port, ["h2"], server.authority)

    asyncio.run(run())


def _handshake(port: int, offered: Sequence[str], authority: str) -> None:
    """As a program that offers these protocols, and trusts the authority of the port for people."""
    context = ssl.create_default_context(cadata=authority)
    context.set_alpn_protocols(offered)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        assert secured.version() == "TLSv1.3"
