"""A hub and agents in one process, over real TLS on the loopback interface; and a wire between them that can be cut."""

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable
from queue import Queue

from tests.link.certificates import Authority, Issued
from wardround.client.link.connection import Connection
from wardround.errors import RemoteError
from wardround.link.limits import Limits
from wardround.link.messages import Call, Notice, Reply
from wardround.orders import SiteId
from wardround.server.link.hub import Hub

__all__ = ["LIMITS", "Agent", "Register", "Wire", "memory", "running_hub"]

LIMITS = Limits(first_retry_s=0.01, most_retry_s=0.05, hello_s=20.0)
DEADLINE_S = 60.0


def memory(size: int) -> memoryview:
    return memoryview(bytearray(size))


class Register:
    """A gate: the certificates that were issued, by name, unless they are revoked."""

    def __init__(self) -> None:
        self.sites: dict[bytes, SiteId] = {}
        self.revoked: set[bytes] = set()
        self.asked = 0

    def add(self, name: str, issued: Issued) -> None:
        self.sites[issued.der] = SiteId(name)

    def admit(self, certificate_der: bytes) -> SiteId:
        if certificate_der not in self.sites or certificate_der in self.revoked:
            raise RemoteError("expected a certificate that is admitted, got one that is revoked or not known")
        return self.sites[certificate_der]

    def still(self, certificate_der: bytes) -> bool:
        self.asked += 1
        return certificate_der not in self.revoked


class Agent:
    """An agent's connection in a thread. `answer` is what it replies; what happens is in queues."""

    def __init__(
        self,
        authority: Authority,
        issued: Issued,
        port: int,
        answer: Callable[[Call], Reply] = lambda call: Reply(reason=call.kind),
        *,
        limits: Limits = LIMITS,
        host: str = "localhost",
    ) -> None:
        self.answer = answer
        self.notices: Queue[Notice] = Queue()
        self.states: Queue[tuple[bool, str]] = Queue()
        self.calls: Queue[Call] = Queue()
        self.error: Exception | None = None
        self._stop = threading.Event()
        tls = authority.client_tls(issued)
        self.connection = Connection(f"{host}:{port}", lambda: tls, self, software="test", limits=limits)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def call(self, call: Call) -> Reply:
        self.calls.put(call)
        return self.answer(call)

    def notice(self, notice: Notice) -> None:
        self.notices.put(notice)

    def state(self, attached: bool, reason: str) -> None:
        self.states.put((attached, reason))

    def until(self, attached: bool) -> str:
        """Wait for a state; its reason."""
        while True:
            found, reason = self.states.get(timeout=DEADLINE_S)
            if found == attached:
                return reason

    def __enter__(self) -> "Agent":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self.ended()

    def ended(self) -> None:
        """Wait until `run` has returned or raised."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.connection.run(self._stop)
        except Exception as error:
            self.error = error


@contextlib.asynccontextmanager
async def running_hub(authority: Authority, register: Register, **options: object) -> AsyncIterator[tuple[Hub, int]]:
    """A hub and its port. Notices are ignored unless `on_notice` is among the options."""

    async def ignore(site: SiteId, notice: Notice) -> None: ...

    tls = authority.server_tls()
    hub = Hub(register, **{"on_notice": ignore, "limits": LIMITS, **options})  # type: ignore[arg-type]
    port = await hub.start("127.0.0.1", 0, lambda: tls)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield hub, port
    finally:
        await hub.stop(0)


class Wire:
    """A port that leads to another, and counts. It cuts each connection after `cut_after` bytes to the server."""

    def __init__(self, to: int, cut_after: int | None = None) -> None:
        self._to = to
        self.cut_after = cut_after
        self.up = 0
        """Bytes from the agents, over all connections."""
        self.cuts = 0
        self._closing = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.1)
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> "Wire":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for one in self._threads:
            one.join(DEADLINE_S)
        self._listening.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near = self._listening.accept()[0]
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._carry, args=(near,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _carry(self, near: socket.socket) -> None:
        carried = 0
        near.setblocking(True)
        with near, socket.create_connection(("127.0.0.1", self._to)) as far:
            while not self._closing.is_set():
                readable, _, _ = select.select([near, far], [], [], 0.1)
                for one in readable:
                    with contextlib.suppress(OSError):
                        data = one.recv(1 << 16)
                        if data:
                            (far if one is near else near).sendall(data)
                            if one is near:
                                carried += len(data)
                                self.up += len(data)
                            continue
                    return
                if self.cut_after is not None and carried > self.cut_after:
                    self.cuts += 1
                    return
