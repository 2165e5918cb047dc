"""The server's side of one worker process: it is started, its calls are carried to the sites, its end is awaited."""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Protocol, TypeVar

from wardround.errors import LocalError, RemoteError, WardroundError
from wardround.link.messages import Call, Fault, Reply
from wardround.local_channel import Channel, Shared
from wardround.orders import SiteId
from wardround.server.runs.round_event import round_event
from wardround.server.runs.worker_messages import CallMessage, Ended, ReplyMessage, Start, b64, cancelled, forgotten

__all__ = ["SiteCall", "WorkerProcess"]

_MODULE = "wardround.server.runs.worker"
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Of the server's environment; what else is there is not a worker's business."""
_EXIT_S = 20.0
_START_S = 300.0
"""Until the first word of a worker, which loads its libraries."""
_LOOKS = 10
"""Within the time after which a worker counts as stuck: a server that was itself asleep has to look so often first."""
_T = TypeVar("_T")
_log = logging.getLogger("wardround")

_DOING = {
    "train": "training",
    "evaluate": "evaluation",
    "query.statistics": "statistics",
    "query.secagg": "secure aggregation",
}


_Incoming = asyncio.Queue[tuple[Mapping[str, Any], list[Shared]] | None]
"""Messages of a worker, and None at their end."""


class SiteCall(Protocol):
    """How a site is called: `Hub.call`."""

    def __call__(
        self,
        site: SiteId,
        call: Call,
        *,
        timeout_s: float | None,
        allocate: Callable[[int], memoryview],
        most_bytes: int,
    ) -> Awaitable[Reply]: ...


class WorkerProcess:
    """A worker of a run. `run` is called once; everything else before it ends, in the same loop.

    `refused` gives the reason why a site is not called at all, or an empty string. `rounds` is awaited with the event
    of every round that has become durable, in order. A worker that is silent for `stuck_s` is killed.
    It is told which sites are `away`, at which is looked every `look_s`.
    """

    def __init__(
        self,
        start: Start,
        *,
        python: str,
        call: SiteCall,
        refused: Callable[[SiteId], str],
        rounds: Callable[[Mapping[str, Any]], Awaitable[None]],
        clock: Callable[[], datetime],
        stuck_s: float,
        away: Callable[[SiteId], bool],
        look_s: float,
    ) -> None:
        self._stuck_s, self._away, self._look_s = stuck_s, away, look_s
        self._start, self._python, self._call, self._refused, self._rounds = start, python, call, refused, rounds
        self._clock = clock
        self._channel: Channel | None = None
        self._early: list[Mapping[str, Any]] | None = []
        """What it is told until it has been given its start, which comes first; None from then on."""
        self._cut: socket.socket | None = None
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker-sender")
        self._models: dict[int, Shared] = {}
        self._calls: dict[int, asyncio.Task[None]] = {}
        self.pid = 0
        self.was_stuck = False
        self._has_spoken = False
        self._process: asyncio.subprocess.Process | None = None
        self.doing, self.since = "", None
        self._asked: tuple[str, bytes] | None = None
        self.asked: set[SiteId] = set()
        self.answered: set[SiteId] = set()

    since: datetime | None
    doing: str

    async def run(self) -> Ended | None:
        """Start the process and serve it until it ends; how it says that the run stands, None where it just died."""
        channel, theirs = Channel.pair()
        self._channel, self._cut = channel, socket.socket(fileno=os.dup(channel.fileno()))
        try:
            process = await self._spawn(theirs)
        except OSError as error:
            channel.close()
            _log.warning("run %s: no worker could be started (%s)", self._start.run_id, error.strerror)
            return None
        finally:
            theirs.close()
        self.pid, self._process = process.pid, process
        incoming: _Incoming = asyncio.Queue()
        reader = threading.Thread(target=self._read, args=(channel, incoming, asyncio.get_running_loop()), daemon=True)
        reader.start()
        try:
            await self._in_time(self._give_start())
            if self.was_stuck:
                return None
            watching = asyncio.create_task(self._watch_sites())
            try:
                return await self._serve(incoming)
            finally:
                watching.cancel()
        except (EOFError, RemoteError) as error:
            _log.warning("run %s: %s", self._start.run_id, error)
            return None
        finally:
            self.cut()
            await self._gather()
            await _gone(process)
            await asyncio.to_thread(reader.join, _EXIT_S)
            self._sender.shutdown(wait=False)
            channel.close()
            for model in self._models.values():
                model.close()
            self._models.clear()
            self._channel = None

    async def pause(self, *, on: bool) -> None:
        """Let the worker end after the round at work, or think of it no more."""
        await self._whisper({"type": "pause" if on else "resume"})

    async def stop(self) -> None:
        """Let the worker break the round at work off, and end."""
        await self._whisper({"type": "stop"})

    async def renew(self, revocations: bytes) -> None:
        """Give it a newer revocation list, DER."""
        await self._whisper({"type": "revocations", "der": b64(revocations)})

    def cut(self) -> None:
        """Take the channel away: the worker ends at once."""
        if self._cut is not None:
            with contextlib.suppress(OSError):
                self._cut.shutdown(socket.SHUT_RDWR)
            self._cut.close()
            self._cut = None

    # -- pieces -----------------------------------------------------------------------------------

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            self._python,
            "-P",  # no module comes from the folder that the server was started in
            "-m",
            _MODULE,
            str(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            start_new_session=True,  # what interrupts the server from its terminal is the server's to pass on
        )

    @staticmethod
    def _read(
        channel: Channel,
        incoming: _Incoming,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        found: tuple[Mapping[str, Any], list[Shared]] | None
        while True:
            try:
                found = channel.receive()
            except (EOFError, OSError, RemoteError):
                found = None
            try:
                loop.call_soon_threadsafe(incoming.put_nowait, found)
            except RuntimeError:  # the loop is closed
                return
            if found is None:
                return

    async def _serve(self, incoming: _Incoming) -> Ended | None:
        while (found := await self._heard(incoming)) is not None:
            header, shared = found
            kind = header.get("type")
            if kind == "call":
                self._take_call(header, shared)
            elif kind == "cancel":
                for number in cancelled(header):
                    if (task := self._calls.pop(number, None)) is not None:
                        task.cancel()
            elif kind == "forget":
                if (model := self._models.pop(forgotten(header), None)) is not None:
                    model.close()
            elif kind == "round":
                await self._rounds(round_event(header.get("line")))
            elif kind == "ended":
                return Ended.from_header(header)
            elif kind not in ("ready", "alive"):
                raise RemoteError(f"local channel: expected a known message, got {kind!r}")
        return None

    async def _heard(self, incoming: _Incoming) -> tuple[Mapping[str, Any], list[Shared]] | None:
        """The next message; None where the worker is gone, and of one that is stuck, which is killed."""
        found = await self._in_time(incoming.get())
        self._has_spoken = True
        return found

    async def _give_start(self) -> None:
        """More than fits into the channel is given only while the worker reads."""
        await self._tell(self._start.to_header())
        while self._early:
            await self._tell(self._early.pop(0))
        self._early = None

    async def _in_time(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """What `work` gives, which a worker that lives lets end; None for one that is stuck, which is killed."""
        longest_s = self._stuck_s if self._has_spoken else max(_START_S, self._stuck_s)
        task = asyncio.ensure_future(work)
        try:
            for _ in range(_LOOKS):
                if (await asyncio.wait({task}, timeout=longest_s / _LOOKS))[0]:
                    return task.result()
        finally:
            task.cancel()
        self.was_stuck = True
        if self._process is not None:
            _log.warning(
                "run %s: its worker showed no sign of life for %g s; it is killed", self._start.run_id, longest_s
            )
            self._process.kill()
        return None

    async def _watch_sites(self) -> None:
        told: set[SiteId] = set()
        while True:
            away = {one.name for one in self._start.sites if self._away(one.name)}
            if away != told:
                await self._whisper({"type": "away", "sites": sorted(away)})
                told = away
            await asyncio.sleep(self._look_s)

    def _take_call(self, header: Mapping[str, Any], shared: list[Shared]) -> None:
        message = CallMessage.from_header(header)
        if message.id in self._calls or message.kind not in _DOING:
            raise RemoteError("local channel: expected another call, of a known kind")
        protocol = message.protocol
        if message.large:
            if not shared:
                raise RemoteError("local channel: expected a shared protocol message")
            piece = shared.pop()
            protocol = bytes(piece.view())
            piece.close()
        if shared and message.model is not None:
            self._models[message.model] = shared.pop(0)
        model = None
        if message.model is not None:
            if message.model not in self._models:
                raise RemoteError(f"local channel: expected the model {message.model}, got none")
            model = self._models[message.model].view()
        self._note_asked(message)
        call = Call(
            run=self._start.run_id,
            kind=message.kind,
            order=message.order,
            protocol=protocol,
            spec=message.spec,
            model=model,
            signature=message.signature,
            model_digest=message.model_digest,
        )
        self._calls[message.id] = asyncio.create_task(self._carry(message, call))

    def _note_asked(self, message: CallMessage) -> None:
        """For people: who is asked now. An order is the same for all; of the protocol, a second message is another."""
        asked = message.kind, message.order
        if asked != self._asked or (not message.order and message.site in self.asked):
            self._asked, self.since = asked, self._clock()
            self.doing = _DOING[message.kind]
            self.asked, self.answered = set(), set()
        self.asked.add(message.site)
        self.answered.discard(message.site)

    async def _carry(self, message: CallMessage, call: Call) -> None:
        """Call a site, and tell the worker what came of it."""
        frames: list[Shared] = []
        views: list[memoryview] = []

        def allocate(size: int) -> memoryview:
            for view in views:
                view.release()
            for frame in frames:
                frame.close()
            frames[:] = [Shared.make(size)]
            views[:] = [frames[0].view()]
            return views[0]

        lost = refused = self._refused(message.site)
        reply = None
        if not refused:
            try:
                reply = await self._call(
                    message.site,
                    call,
                    timeout_s=message.timeout_s,
                    allocate=allocate,
                    most_bytes=message.most_bytes,
                )
            except TimeoutError:
                lost = "no reply by the deadline"
            except WardroundError as error:
                lost = str(error)
        self._calls.pop(message.id, None)
        self.answered.add(message.site)
        if reply is None:
            fault = Fault.REFUSED if refused else Fault.NONE
            sent, shared = ReplyMessage(id=message.id, fault=fault, reason=lost, lost=True), []
        else:
            sent = ReplyMessage(id=message.id, fault=reply.fault, reason=reply.reason, signature=reply.signature)
            shared = _shared(reply, frames, views)
        with contextlib.suppress(EOFError, RuntimeError):
            await self._tell(sent.to_header(), shared)
        for one in shared:
            one.close()

    async def _tell(self, header: Mapping[str, Any], shared: list[Shared] | None = None) -> None:
        channel = self._channel
        if channel is None:
            raise EOFError("the worker is gone")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._sender, channel.send, header, shared or [])

    async def _whisper(self, header: Mapping[str, Any]) -> None:
        """Tell a worker that may be gone, or may not have its start yet."""
        if self._early is not None:
            self._early.append(header)
            return
        with contextlib.suppress(EOFError, OSError, RuntimeError):
            await self._tell(header)

    async def _gather(self) -> None:
        tasks = list(self._calls.values())
        self._calls.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _shared(reply: Reply, frames: list[Shared], views: list[memoryview]) -> list[Shared]:
    """The reply's frame to send on: the memory that it was received into, if nobody can write to it any more."""
    size = reply.frame.nbytes
    if frames and frames[0].size == size > 0:
        reply.frame.release()
        for view in views:
            view.release()
        views.clear()
        try:
            frames[0].seal()
            return frames
        except LocalError:  # the link still holds a view
            with frames[0].view() as found:
                return [Shared.of(found)]
    return [Shared.of(reply.frame)] if size else []


async def _gone(process: asyncio.subprocess.Process) -> None:
    """Wait for the process, which has been told to end; kill it where it does not."""
    try:
        await asyncio.wait_for(process.wait(), _EXIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
