"""The sites that are attached to the server, and what they are asked: the gRPC port, in the server's event loop."""

import asyncio
import contextlib
import logging
import os
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

from wardround import __version__
from wardround.clock import utc_now
from wardround.errors import LocalError, RemoteError, WardroundError
from wardround.link import link_pb2 as pb
from wardround.link.allocator import tune_allocator
from wardround.link.errors import Farewell
from wardround.link.handshake import welcome
from wardround.link.limits import Limits
from wardround.link.messages import Call, Notice, Reply
from wardround.link.tls import ServerTls, server_credentials
from wardround.link.wire import METHOD, SERVICE, Chunk, Message, decode, encode
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.server.link.attachment import Attachment, Event, Failed, Noticed, Replied, Told

# isort: split
import grpc.aio  # after `tls`, which says which ciphers it has

__all__ = ["Gate", "Hub", "ServerTls"]

_log = logging.getLogger(__name__)
_GOODBYE_S = 1.0
_LEAST_WINDOW_BYTES = 1 << 18


class Gate(Protocol):
    """Who may attach."""

    def admit(self, certificate_der: bytes) -> SiteId:
        """The site of this certificate. Raises RemoteError where it is not known, expired or revoked."""
        ...

    def still(self, certificate_der: bytes) -> bool:
        """Whether it would still be admitted; asked for every frame in either direction."""
        ...


def _nobody_asks(site: SiteId, attached: bool) -> None:
    pass


class _EndedError(Exception):
    """This stream is to end, and what its site is told."""

    def __init__(self, reason: Farewell, text: str) -> None:
        super().__init__(text)
        self.farewell = pb.Farewell(reason=reason, text=text)


class _Site:
    """What the hub has of a site, attached or not."""

    def __init__(self, limits: Limits, window: Callable[[], int]) -> None:
        self.attachment = Attachment(limits, os.urandom, window)
        self.room = asyncio.Semaphore(limits.most_calls)
        self.replies: dict[int, asyncio.Future[Reply]] = {}
        self.told: dict[int, asyncio.Future[None]] = {}
        self.stream: _Stream | None = None
        self.left: float | None = None
        """When its last stream ended, by the loop's clock."""

    def wake(self) -> None:
        if self.stream is not None:
            self.stream.wake.set()


class _Stream:
    """One stream of a site."""

    def __init__(self, site: SiteId, certificate: bytes, context: Any) -> None:
        self.site, self.certificate, self.context = site, certificate, context
        self.wake = asyncio.Event()
        self.ending: asyncio.Future[_EndedError] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self.moved = 0.0
        """When a transfer last went on, by the loop's clock."""

    def end(self, reason: Farewell, text: str) -> None:
        if not self.ending.done():
            self.ending.set_result(_EndedError(reason, text))
            self.wake.set()


class Hub:
    """The server's end of all links. Everything is called in the loop in which `start` ran."""

    def __init__(
        self,
        gate: Gate,
        *,
        on_notice: Callable[[SiteId, Notice], Awaitable[None]],
        on_presence: Callable[[SiteId, bool], None] = _nobody_asks,
        limits: Limits | None = None,
        software: str = __version__,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`on_notice` keeps a notice: it is acknowledged on return. Where it raises RemoteError the notice is dropped
        and does not come again; any other error ends the stream, and the notice does come again."""
        self._gate, self._on_notice, self._on_presence = gate, on_notice, on_presence
        self._limits, self._software, self._clock = limits or Limits(), software, clock
        self._sites: dict[SiteId, _Site] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: Any = None
        self._stopping = False
        self._started = 0.0

    async def start(self, host: str, port: int, tls: Callable[[], ServerTls]) -> int:
        """Listen; the port, which is chosen where it is 0. Raises LocalError where the address is not to be had.

        `tls` is asked at each handshake, from any thread, so that a renewed certificate is used: it must be quick.
        """
        limits = self._limits
        tune_allocator(8 << 20)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.most_frame_bytes),
                ("grpc.max_send_message_length", limits.most_frame_bytes),
                ("grpc.max_metadata_size", 1 << 13),
                ("grpc.max_concurrent_streams", 4),
                ("grpc.max_allowed_incoming_connections", limits.most_streams),
                ("grpc.server_handshake_timeout_ms", int(limits.hello_s * 1000)),
                # one without a stream takes a place from others, and certificates are asked for with a stream only
                ("grpc.max_connection_idle_ms", int(limits.hello_s * 1000)),
                ("grpc.keepalive_time_ms", int(limits.keepalive_s * 1000)),
                ("grpc.keepalive_timeout_ms", int(limits.keepalive_answer_s * 1000)),
                ("grpc.http2.min_ping_interval_without_data_ms", int(limits.keepalive_s * 500)),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.so_reuseport", 0),  # a second server on this port is an error
            ],
        )
        handler: Any = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._server.add_secure_port(address, server_credentials(tls))
        except RuntimeError:
            words = f"{address}: expected an address that is free, got none; is a server running there?"
            raise LocalError(words) from None
        await self._server.start()
        self._started = asyncio.get_running_loop().time()
        return bound

    async def stop(self, grace_s: float = 5.0) -> None:
        """Say goodbye to the sites, and stop. What was asked and is not answered raises LocalError at its caller."""
        self._stopping = True
        for site in self._sites.values():
            if site.stream is not None:
                site.stream.end(Farewell.CLOSING, "the server stops")
            self._fail_all(site, LocalError("the server stops"))
        if self._server is not None:
            await self._server.stop(grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def present(self) -> frozenset[SiteId]:
        """The sites that are attached."""
        return frozenset(name for name, site in self._sites.items() if site.stream is not None)

    def away_s(self, site: SiteId) -> float:
        """How long a site has not been attached, at most since this server started; 0 for one that is."""
        known = self._sites.get(site)
        if known is not None and known.stream is not None:
            return 0.0
        since = self._started if known is None or known.left is None else known.left
        return asyncio.get_running_loop().time() - since

    async def call(
        self,
        site: SiteId,
        call: Call,
        *,
        timeout_s: float | None,
        allocate: Callable[[int], memoryview],
        most_bytes: int,
    ) -> Reply:
        """The site's reply, whose frame lies in what `allocate(size)` gave once the size was found within `most_bytes`.

        It waits for a site that is away, and goes on after a reconnect. Raises TimeoutError at the deadline (None:
        there is none), RemoteError for a reply that cannot be taken and for a site that was dropped meanwhile.
        """
        found = self._site(site)
        async with asyncio.timeout(timeout_s), found.room:
            id = secrets.randbits(64)
            reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            found.replies[id] = reply
            try:
                found.attachment.ask(id, call, allocate, most_bytes)
                found.wake()
                return await reply
            finally:
                del found.replies[id]
                found.attachment.cancel(id)  # does nothing where it was answered
                found.wake()

    async def notify(self, site: SiteId, notice: Notice) -> None:
        """Tell the site; returns when it has kept it. Raises LocalError where too many notices wait already.

        Whoever stops waiting (is cancelled) takes the notice back, unless it is under way.
        """
        found = self._site(site)
        id = secrets.randbits(64)
        found.attachment.tell(id, notice)
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        found.told[id] = told
        found.wake()
        try:
            await told
        except asyncio.CancelledError:
            found.attachment.take_back(id)
            raise
        finally:
            del found.told[id]

    def drop(self, site: SiteId, reason: str) -> None:
        """End the site's stream for good, and what it was asked with RemoteError."""
        found = self._sites.get(site)
        if found is not None:
            if found.stream is not None:
                found.stream.end(Farewell.REFUSED, reason)
            self._fail_all(found, RemoteError(f"{site}: {plain_text(reason)}"))

    def _window(self) -> int:
        """How much of one reply may be on its way, so that all together stay within their bound."""
        receiving = sum(site.attachment.receiving for site in self._sites.values())
        shared = self._limits.most_windows_bytes // max(1, receiving)
        return max(_LEAST_WINDOW_BYTES, min(self._limits.window_bytes, shared))

    def _site(self, site: SiteId) -> _Site:
        if self._stopping:
            raise LocalError("the server stops")
        return self._sites.setdefault(site, _Site(self._limits, self._window))

    def _fail_all(self, site: _Site, error: WardroundError) -> None:
        pending: list[asyncio.Future[Any]] = [*site.replies.values(), *site.told.values()]
        for waiting in pending:
            if not waiting.done():
                waiting.set_exception(error)

    async def _serve(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """One stream, until it ends."""
        stream: _Stream | None = None
        try:
            name, certificate = self._admit(context)
            answer_to = await self._first_word(context)
            stream = _Stream(name, certificate, context)
            site = self._sites.setdefault(name, _Site(self._limits, self._window))
            while site.stream is not None:
                site.stream.end(Farewell.REPLACED, "this site has attached again, from another agent or connection")
                await site.stream.gone.wait()
            answer = _answered(answer_to, self._software, self._clock(), site.attachment)
        except _EndedError as ended:
            who = plain_text(context.peer() if stream is None else f"{stream.site} at {context.peer()}")
            _log.warning("link: %s is refused: %s", who, ended)
            with contextlib.suppress(TimeoutError, grpc.aio.BaseError):
                await asyncio.wait_for(context.write(encode(ended.farewell)), _GOODBYE_S)
            return
        site.stream = stream
        site.attachment.attach()  # with nothing awaited since the answer was made: both speak of the same calls
        try:
            _log.info("link: %s is attached", plain_text(name))
            self._on_presence(name, True)
            await self._converse(site, stream, answer)
        finally:
            site.stream, site.left = None, asyncio.get_running_loop().time()
            site.attachment.detach()
            stream.gone.set()
            why = str(stream.ending.result()) if stream.ending.done() else "the connection ended"
            _log.info("link: %s is away: %s", plain_text(name), why)
            self._on_presence(name, False)

    def _admit(self, context: Any) -> tuple[SiteId, bytes]:
        """The site at the other end and its certificate. Raises _EndedError where it may not attach."""
        found = context.auth_context()
        pem, version = found.get("x509_pem_cert", [b""])[0], found.get("ssl_tls_version", [b""])[0]
        if version != b"TLSv1.3":
            raise _EndedError(Farewell.REFUSED, f"expected TLS 1.3, got {plain_text(version.decode(errors='replace'))}")
        if self._stopping:
            raise _EndedError(Farewell.CLOSING, "the server stops")
        try:
            certificate = ssl.PEM_cert_to_DER_cert(pem.decode())
            return self._gate.admit(certificate), certificate
        except (RemoteError, ValueError) as error:
            raise _EndedError(Farewell.REFUSED, str(error)) from None

    async def _first_word(self, context: Any) -> Message:
        try:
            frame = await asyncio.wait_for(context.read(), self._limits.hello_s)
            if frame is grpc.aio.EOF:
                raise _EndedError(Farewell.PROTOCOL, "link: expected a Hello, got the end of the stream")
            return decode(frame)
        except TimeoutError:
            raise _EndedError(Farewell.STALLED, f"expected a Hello within {self._limits.hello_s:g} s") from None
        except RemoteError as error:
            raise _EndedError(Farewell.PROTOCOL, str(error)) from None

    async def _converse(self, site: _Site, stream: _Stream, answer: pb.Welcome) -> None:
        writing = asyncio.create_task(self._write(site, stream, answer))
        tasks = [asyncio.create_task(self._read(site, stream)), asyncio.create_task(self._watch(site, stream)), writing]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            stream.end(Farewell.CLOSING, "the stream ended")
            await asyncio.wait([writing], timeout=_GOODBYE_S)  # it says the Farewell, unless the site does not read
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, site: _Site, stream: _Stream) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (frame := await stream.context.read()) is not grpc.aio.EOF:
                self._check_admitted(site, stream)
                message = decode(frame)
                if isinstance(message, Chunk | pb.End | pb.Grant):
                    stream.moved = loop.time()
                for event in site.attachment.receive(message):
                    self._take(site, stream, event)
                stream.wake.set()
        except RemoteError as error:
            _log.warning("link: %s broke the protocol: %s", plain_text(stream.site), error)
            stream.end(Farewell.PROTOCOL, str(error))
        except _EndedError:
            pass
        except grpc.aio.BaseError:
            pass  # the connection is gone

    async def _write(self, site: _Site, stream: _Stream, answer: pb.Welcome) -> None:
        """The only one that writes, so that a Farewell never meets a message that is on its way."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(grpc.aio.BaseError, _EndedError):
            await stream.context.write(encode(answer))
            while not stream.ending.done():
                message = site.attachment.next()
                if message is None:
                    stream.wake.clear()
                    await stream.wake.wait()
                    continue
                self._check_admitted(site, stream)
                await stream.context.write(encode(message))
                if isinstance(message, Chunk):
                    stream.moved = loop.time()
        with contextlib.suppress(grpc.aio.BaseError):
            await stream.context.write(encode(stream.ending.result().farewell))

    async def _watch(self, site: _Site, stream: _Stream) -> None:
        """Cut a stream on which something has begun and does not go on."""
        loop, stall_s = asyncio.get_running_loop(), self._limits.stall_s
        stream.moved = loop.time()
        while loop.time() - stream.moved <= stall_s:
            await asyncio.sleep(stall_s / 4)
            if not site.attachment.under_way:
                stream.moved = loop.time()
        _log.warning("link: a transfer of %s stands still; its stream is cut", plain_text(stream.site))
        stream.end(Farewell.STALLED, f"expected a transfer to go on within {stall_s:g} s")

    def _check_admitted(self, site: _Site, stream: _Stream) -> None:
        """Asked for every frame: a revocation is in effect before the next one."""
        if not self._gate.still(stream.certificate):
            reason = "the certificate is not admitted any longer: it is revoked or expired"
            stream.end(Farewell.REFUSED, reason)
            self._fail_all(site, RemoteError(f"{stream.site}: {reason}"))
            raise _EndedError(Farewell.REFUSED, reason)

    def _take(self, site: _Site, stream: _Stream, event: Event) -> None:
        match event:
            case Replied():
                _settle(site.replies.get(event.id), event.reply)
            case Failed():
                _log.warning("link: a reply of %s is not taken: %s", plain_text(stream.site), event.error)
                reply = site.replies.get(event.id)
                if reply is not None and not reply.done():
                    reply.set_exception(event.error)
            case Told():
                _settle(site.told.get(event.id), None)
            case Noticed():
                task = asyncio.create_task(self._keep(site, stream, event))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _keep(self, site: _Site, stream: _Stream, event: Noticed) -> None:
        try:
            await self._on_notice(stream.site, event.notice)
        except RemoteError as error:
            kind = plain_text(event.notice.kind, 40)
            _log.warning("link: the notice %r of %s is ignored: %s", kind, plain_text(stream.site), error)
        except Exception:  # a task's outermost: whatever it was, the site is not told that its notice is kept
            _log.exception("link: a notice of %s could not be kept", plain_text(stream.site))
            site.attachment.unnoted(event.id)
            stream.end(Farewell.FAILED, "the server could not keep a notice")
            return
        site.attachment.noted(event.id)
        site.wake()


def _answered(first: Message, software: str, now: datetime, attachment: Attachment) -> pb.Welcome:
    """The Welcome to a site's first word. Raises _EndedError where there is no version in common."""
    try:
        answer = welcome(first, software=software, now=now, calls=attachment.calls)
    except RemoteError as error:
        raise _EndedError(Farewell.PROTOCOL, str(error)) from None
    if isinstance(answer, pb.Farewell):
        raise _EndedError(Farewell(answer.reason), answer.text)
    return answer


def _settle(waiting: "asyncio.Future[Any] | None", result: object) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(result)
