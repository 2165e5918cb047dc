"""The HTTPS port: TLS 1.3 alone, a bounded number of connections, and none that is quiet for long.

Where all places are taken, a new connection takes that of the one which has been quiet longest: in its handshake,
before its request is whole, or after its answer. So strangers who open thousands of connections, or send a byte now and
then, hold back each other and not who asks for something.
"""

import asyncio
import errno
import logging
import os
import socket
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from wardround.link.tls import ServerTls
from wardround.server.api.json_log import Log, json_log

__all__ = ["HttpsLimits", "HttpsListener", "tls_context"]

_BACKLOG = 512
_UNHEARD = logging.Logger("uvicorn", logging.CRITICAL + 1)
"""uvicorn has a line for each malformed request, without end; they are counted here. Failures are in `RequestLog`'s."""
_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpsLimits:
    """`quiet_s`: how long a connection may be without a whole request; a body that comes is not quiet.

    A connection takes about 300 KiB of memory, most of it for TLS.
    """

    connections: int = 256
    quiet_s: float = 20.0
    handshake_s: float = 10.0
    stuck_s: float = 60.0
    """How long a peer may read nothing of its answer."""
    header_bytes: int = 16 << 10


class HttpsListener:
    """Serves an app over HTTPS in the running loop; `tls` is asked at each connection, for a renewed certificate."""

    def __init__(
        self,
        app: ASGIApp,
        tls: Callable[[], ServerTls],
        *,
        limits: HttpsLimits = HttpsLimits(),
        log: Log | None = None,
    ) -> None:
        self._tls, self.limits, self._log = tls, limits, json_log() if log is None else log
        self._config = Config(
            app,
            loop="none",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=limits.header_bytes,
        )
        self._config.load()
        self._state = ServerState()
        self._quiet: OrderedDict[object, float] = OrderedDict()
        self._stuck: dict[_Connection, float] = {}
        self._handshakes: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._served: ServerTls | None = None
        self._context: ssl.SSLContext | None = None
        self._pushed_out = 0
        self._refused: Counter[str] = Counter()
        self._refused_last = ""

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. OSError where that is impossible."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self._renew()
        self._tick()
        self._tasks = [asyncio.create_task(self._accept(self._socket)), asyncio.create_task(self._sweep())]
        found: int = self._socket.getsockname()[1]
        return found

    async def stop(self, grace_s: float = 5.0) -> None:
        """Take no more connections, let requests at work end, and then close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
        for handshake in list(self._handshakes):
            handshake.cancel()
        for connection in self._connections():
            if connection.cycle is None or connection.cycle.response_complete:
                connection.transport.close()
            else:
                connection.cycle.keep_alive = False
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=grace_s)
        for task in list(self._state.tasks):
            task.cancel()
        for connection in self._connections():
            connection.transport.abort()
        await asyncio.gather(*self._handshakes, *self._state.tasks, return_exceptions=True)

    def _connections(self) -> "list[_Connection]":
        return [one for one in self._state.connections if isinstance(one, _Connection)]

    # -- connections ----------------------------------------------------------------------------------

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                taken, peer = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _OUT_OF_FILES and not self._push_out():
                    await asyncio.sleep(0.1)
                continue
            if len(self._handshakes) + len(self._state.connections) >= self.limits.connections and not self._push_out():
                taken.close()  # every place is at work
                continue
            task = loop.create_task(self._shake_hands(taken, peer[0]))
            self._handshakes.add(task)
            self._quiet[task] = loop.time()
            task.add_done_callback(self._shaken)

    async def _shake_hands(self, taken: socket.socket, address: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Connection(self, self._config, self._state),
                taken,
                ssl=self._renew(),
                ssl_handshake_timeout=self.limits.handshake_s,
                ssl_shutdown_timeout=5.0,
            )
        except ssl.SSLError as error:
            self.refused(address, error.reason or type(error).__name__)
        except OSError as error:  # a timeout is one, too
            self.refused(address, type(error).__name__)

    def _shaken(self, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        self._quiet.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("https handshake", error=type(error).__name__)

    def _push_out(self) -> bool:
        """End the connection that has been quiet longest; False where none is quiet."""
        if not self._quiet:
            return False
        self._pushed_out += 1
        self._end(self._quiet.popitem(last=False)[0])
        return True

    def _end(self, one: object) -> None:
        if isinstance(one, _Connection):
            self._state.connections.discard(one)
            one.transport.abort()
        elif isinstance(one, asyncio.Task):
            self._handshakes.discard(one)
            one.cancel()

    def quiet(self, connection: "_Connection") -> None:
        """The connection waits for a request, or for more of one, from now on."""
        self._quiet[connection] = asyncio.get_running_loop().time()
        self._quiet.move_to_end(connection)

    def at_work(self, connection: "_Connection") -> None:
        """A whole request of the connection is being answered."""
        self._quiet.pop(connection, None)

    def stuck(self, connection: "_Connection", *, stuck: bool) -> None:
        """Whether the peer does not read what it is sent."""
        if stuck:
            self._stuck.setdefault(connection, asyncio.get_running_loop().time())
        else:
            self._stuck.pop(connection, None)

    def refused(self, address: str, reason: str) -> None:
        """A connection from `address` ended in its handshake, or with what is no request; it is told in the log."""
        self._refused[reason] += 1
        self._refused_last = address

    def gone(self, connection: "_Connection") -> None:
        """The connection has ended."""
        self._quiet.pop(connection, None)
        self._stuck.pop(connection, None)

    # -- every second ---------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            self._tick()
            now = loop.time()
            while self._quiet and now - next(iter(self._quiet.values())) > self.limits.quiet_s:
                self._end(self._quiet.popitem(last=False)[0])
            for connection, since in list(self._stuck.items()):
                if now - since > self.limits.stuck_s:
                    connection.transport.abort()
            if self._pushed_out:
                self._log.warning("https port is full", pushed_out=self._pushed_out)
                self._pushed_out = 0
            if self._refused:  # one line, however many they are
                self._log.info(
                    "https refused", count=self._refused.total(), why=dict(self._refused), last_from=self._refused_last
                )
                self._refused.clear()

    def _tick(self) -> None:
        date = formatdate(time.time(), usegmt=True).encode()
        self._state.default_headers = [(b"date", date), *self._config.encoded_headers]

    def _renew(self) -> ssl.SSLContext:
        wanted = self._tls()
        if self._context is None or wanted is not self._served:
            self._context, self._served = tls_context(wanted), wanted
        return self._context


class _Connection(H11Protocol):
    """Tells the listener when it is quiet."""

    def __init__(self, listener: HttpsListener, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self._listener = listener
        self.logger = _UNHEARD

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._listener.quiet(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            return  # a header that comes byte by byte is still quiet
        if self.cycle.more_body:
            self._listener.quiet(self)
        else:
            self._listener.at_work(self)

    def on_response_complete(self) -> None:
        before = self.cycle
        super().on_response_complete()
        if self.cycle is before:  # else the next request was there already
            self._listener.quiet(self)

    def send_400_response(self, msg: str) -> None:
        self._listener.refused(self.client[0] if self.client else "", "MALFORMED")
        super().send_400_response(msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._listener.stuck(self, stuck=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._listener.stuck(self, stuck=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.gone(self)
        super().connection_lost(exc)


def tls_context(tls: ServerTls) -> ssl.SSLContext:
    """For a server that speaks TLS 1.3 and nothing older; the key goes to the library through memory, not a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nobody resumes
    context.set_alpn_protocols(["http/1.1"])
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(tls.private_key + b"\n" + tls.certificate_chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
