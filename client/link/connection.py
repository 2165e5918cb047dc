"""The agent's link to its server: one outbound stream, opened again whenever it breaks, by threads.

One thread reads (it is `run`'s), one writes (gRPC's, which takes from `_outgoing`), and one for each run with calls
does them. All share the `Session`, under one lock, which is never held while anything is done that may take long.
"""

import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Protocol

from wardround.client.link.retry import retry_delay_s
from wardround.client.link.session import Called, Event, Session
from wardround.client.link.target import split_target
from wardround.client.proxy import proxy_for
from wardround.clock import utc_now
from wardround.errors import RemoteError, WardroundError
from wardround.link import link_pb2 as pb
from wardround.link.allocator import tune_allocator
from wardround.link.errors import RefusedError
from wardround.link.handshake import check_welcome, farewell_error, hello
from wardround.link.limits import Limits
from wardround.link.messages import Call, Fault, Notice, Reply
from wardround.link.receive_memory import receive_memory
from wardround.link.tls import ClientTls, client_credentials
from wardround.link.wire import METHOD, SERVICE, decode, encode
from wardround.plain_text import plain_text

# isort: split
import grpc  # after `tls`, which says which ciphers it has

__all__ = ["ClientTls", "Connection", "Handler"]

_log = logging.getLogger(__name__)


class Handler(Protocol):
    """What the agent does with what the server sends."""

    def call(self, call: Call) -> Reply:
        """Do what is asked. Calls of one run come one after another, of different runs at the same time."""
        ...

    def notice(self, notice: Notice) -> None:
        """Keep it: durable on return. Raises RemoteError for one that is not in order: it does not come again.

        LocalError and OSError, as on a full disk, end the link: the notice comes again with the next one, which is
        opened a little later each time. Any other error is a bug: it is logged, and the notice does not come again,
        since it would fail again and keep all others off.
        """
        ...

    def state(self, attached: bool, reason: str) -> None:
        """The link is there, or why it is not."""
        ...


def _for_all(run: str, small_bytes: int, model_bytes: int) -> Reply | None:
    return None


def _nothing(run: str) -> int:
    return 0


class Connection:
    """The link to the server at `target` (host:port), for the life of the agent.

    `tls` is asked at each attempt, so that a renewed certificate is used. `room` says what is not even received, and
    `beside` how large a run's protocol may be, see `Session`: they must be quick. `random`, `sleep` (seconds) and
    `clock` are for tests.
    """

    def __init__(
        self,
        target: str,
        tls: Callable[[], ClientTls],
        handler: Handler,
        *,
        software: str,
        limits: Limits | None = None,
        room: Callable[[str, int, int], Reply | None] = _for_all,
        beside: Callable[[str], int] = _nothing,
        random: Callable[[], float] | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        split_target(target)
        tune_allocator(4 << 20)
        self._target, self._tls, self._handler, self._software = target, tls, handler, software
        self._limits, self._clock, self._sleep = limits or Limits(), clock, sleep
        self._random = random or secrets.SystemRandom().random
        self._session = Session(self._limits, _in_memory, os.urandom, room, beside)
        self._changed = threading.Condition()
        """Guards all below and the session, and says that there may be something to send."""
        self._stream: grpc.Call | None = None
        self._attached = False
        self._work: dict[str, deque[Call]] = {}

    def run(self, stop: threading.Event) -> None:
        """Keep the link up until `stop` is set. Raises RefusedError where the server will never have this client."""
        watching = threading.Thread(target=self._cancel_when, args=(stop,), name="link-stop", daemon=True)
        watching.start()
        failures = 0
        while not stop.is_set():
            self._attached, broke, started = False, False, time.monotonic()
            try:
                self._attempt(stop)
                reason = "the server ended the link"
            except RefusedError as error:
                self._handler.state(False, str(error))
                raise
            except (WardroundError, OSError) as error:
                reason = str(error)
            except MemoryError:
                reason = "no memory is left for what the server sends"
            except grpc.RpcError as error:
                broke, reason = True, _reason(error)
            if stop.is_set():
                break
            # a server that ends each link soon, as where two agents have one certificate, is asked ever less often
            if self._attached and (broke or time.monotonic() - started >= self._limits.most_retry_s):
                failures = 0
            failures += 1
            self._handler.state(False, reason)
            delay_s = retry_delay_s(failures, self._random, self._limits)
            _log.warning("link to %s: %s; trying again in %.1f s", self._target, reason, delay_s)
            (self._sleep or stop.wait)(delay_s)
        self._handler.state(False, "stopped")

    def notify(self, notice: Notice) -> None:
        """Send a notice, now or when the server is there again. Raises LocalError where too many wait.

        It is kept in memory only: what must survive a kill is to be notified again after a start.
        """
        with self._changed:
            self._session.tell(notice)
            self._changed.notify_all()

    def _attempt(self, stop: threading.Event) -> None:
        """One stream, until it ends."""
        channel = grpc.secure_channel(self._target, client_credentials(self._tls()), self._options())
        try:
            method: Any = channel.stream_stream(f"/{SERVICE}/{METHOD}")  # of bytes, as they are
            greeted, ended = threading.Event(), threading.Event()
            stream = method(self._outgoing(greeted, ended))
            with self._changed:
                self._stream = stream
            try:
                if not stop.is_set():
                    self._converse(stream, greeted)
            finally:
                ended.set()
                greeted.set()
                stream.cancel()
                with self._changed:
                    self._stream = None
                    self._changed.notify_all()
        finally:
            channel.close()

    def _converse(self, stream: Iterator[bytes], greeted: threading.Event) -> None:
        first = next(stream, None)
        if first is None:
            raise RemoteError("link: expected the server's Welcome, got the end of the stream")
        answer = check_welcome(decode(first), now=self._clock(), limits=self._limits)
        with self._changed:
            self._session.attach(answer.calls)
            self._forget_unwanted()
            self._attached = True
            self._changed.notify_all()
        greeted.set()
        _log.info("link to %s: attached, server's software %s", self._target, plain_text(answer.software, 40))
        self._handler.state(True, "attached")
        for frame in stream:
            message = decode(frame)
            if isinstance(message, pb.Farewell):
                raise farewell_error(message)
            with self._changed:
                events = self._session.receive(message)
                if isinstance(message, pb.Cancel | pb.Done):
                    self._forget_unwanted()
                self._changed.notify_all()
            for event in events:
                self._take(event)

    def _outgoing(self, greeted: threading.Event, ended: threading.Event) -> Iterator[bytes]:
        """What gRPC's thread sends: it asks for the next frame when the network has taken the one before."""
        yield encode(hello(self._software))
        greeted.wait()
        while True:
            with self._changed:
                while not ended.is_set() and (message := self._session.next()) is None:
                    self._changed.wait()
                if ended.is_set():
                    return
            assert message is not None  # noqa: S101 - for the type checker
            yield encode(message)

    def _take(self, event: Event) -> None:
        if isinstance(event, Called):
            with self._changed:
                waiting = self._work.get(event.call.run)
                if waiting is not None:
                    waiting.append(event.call)
                    return
                self._work[event.call.run] = deque([event.call])
            threading.Thread(target=self._do, args=(event.call.run,), name="link-run", daemon=True).start()
            return
        try:
            self._handler.notice(event.notice)
        except RemoteError as error:
            _log.warning("link: the server's notice %r is ignored: %s", plain_text(event.notice.kind, 40), error)
        except (WardroundError, OSError):
            raise
        except Exception:
            _log.exception("link: the notice %r failed; this is a bug", plain_text(event.notice.kind, 40))
        with self._changed:
            self._session.noted(event.id)
            self._changed.notify_all()

    def _forget_unwanted(self) -> None:
        """Do no call that the server has taken back: it would cost a charge for nobody, and endless ones memory."""
        for waiting in self._work.values():
            wanted = [call for call in waiting if self._session.waits_for(call.id)]
            waiting.clear()
            waiting.extend(wanted)

    def _do(self, run: str) -> None:
        """The calls of one run, until none waits."""
        while True:
            with self._changed:
                if not self._work[run]:
                    del self._work[run]
                    return
                call = self._work[run].popleft()
            try:
                reply = self._handler.call(call)
            except WardroundError as error:
                reply = Reply(fault=Fault.REFUSED, reason=plain_text(str(error)))
            except Exception:
                _log.exception("link: a call of run %s failed", plain_text(run, 40))
                reply = Reply(fault=Fault.REFUSED, reason="the agent failed at this; its log says why")
            with self._changed:
                self._session.answer(call.id, reply)
                self._changed.notify_all()

    def _cancel_when(self, stop: threading.Event) -> None:
        stop.wait()
        with self._changed:
            if self._stream is not None:
                self._stream.cancel()

    def _options(self) -> list[tuple[str, object]]:
        """Of the channel. The proxy is found here: gRPC itself knows neither HTTPS_PROXY in capitals nor CIDR."""
        limits, proxy = self._limits, proxy_for(*split_target(self._target), os.environ)
        return [
            ("grpc.max_receive_message_length", limits.most_frame_bytes),
            ("grpc.max_send_message_length", limits.most_frame_bytes),
            ("grpc.keepalive_time_ms", int(limits.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(limits.keepalive_answer_s * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),  # a new connection for a new stream, with the certificate of now
            ("grpc.enable_http_proxy", int(proxy is not None)),
            *([("grpc.http_proxy", proxy.url)] if proxy is not None else []),
        ]


def _in_memory(run: str, size: int) -> memoryview:
    return receive_memory(size)


def _reason(error: grpc.RpcError) -> str:
    code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
    details = plain_text(error.details() or "") if isinstance(error, grpc.Call) else ""
    return f"{code.lower().replace('_', ' ')}: {details}" if details else code.lower()
