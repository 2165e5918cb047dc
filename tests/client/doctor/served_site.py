"""A site that has joined a server with both ports open on this machine, and what the doctor says of it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tests.client.enrolment.https_server import Routes, server_tls, serving
from tests.client.enrolment.site import Site
from tests.server.pki.federation import Clock, Federation
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.doctor.finding import Finding
from wardround.client.doctor.network import check_network
from wardround.client.doctor.situation import Situation, address_of
from wardround.client.link.target import split_target
from wardround.clock import utc_now
from wardround.link.messages import Notice
from wardround.link.tls import ServerTls
from wardround.orders import SiteId
from wardround.server.link.hub import Hub
from wardround.server.pki.enrolment import ServerAddress
from wardround.tls_identity import der_of

__all__ = ["ServedSite", "served_site"]


@dataclass
class ServedSite:
    """The environment is that of the doctor: no proxy, unless a test sets one."""

    site: Site
    https: int
    link: int
    environment: dict[str, str] = field(default_factory=dict)
    now: Callable[[], datetime] = utc_now

    @property
    def folder(self) -> SiteFolder:
        return SiteFolder(self.site.folder)

    def situation(self, *, joined: bool = True, host: str = "localhost") -> Situation:
        folder = self.folder if joined else None
        return Situation(
            path=self.site.folder,
            folder=folder,
            server=address_of(f"https://{host}:{self.https}"),
            link=split_target(f"{host}:{self.link}"),
            authority=der_of(self.folder.read("tls-authority.pem")) if joined else None,
            python="python",
            environment=self.environment,
            now=self.now,
            timeout_s=20.0,
        )

    def network(self, *, joined: bool = True, host: str = "localhost") -> list[Finding]:
        return list(check_network(self.situation(joined=joined, host=host)))


@contextlib.contextmanager
def hub_of(federation: Federation, tls: Callable[[], ServerTls]) -> Iterator[int]:
    """The port of a hub in a thread."""

    async def nothing(site: SiteId, notice: Notice) -> None:
        pass

    ready, ports = threading.Event(), list[int]()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        hub = Hub(federation.enrolment.gate, on_notice=nothing)
        ports.append(await hub.start("127.0.0.1", 0, tls))
        ready.set()
        await stop.wait()
        await hub.stop(0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(60)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextlib.contextmanager
def served_site(folder: Path) -> Iterator[ServedSite]:
    """TLS looks at the true clock, so the federation is of today."""
    federation = Federation(folder / "server", Clock(utc_now()))
    routes = Routes.of(federation)
    tls = lambda: server_tls(federation)  # noqa: E731
    with serving(routes, tls) as https, hub_of(federation, tls) as link:
        federation.address = ServerAddress.at("localhost", https_port=https, grpc_port=link)
        federation.enrolment = federation.again()
        site = Site(federation, routes, folder / "state" / "client")
        site.join()
        yield ServedSite(site=site, https=https, link=link)
    federation.close()
