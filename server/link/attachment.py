"""One site as the server sees it over the link: what it is asked and told, and how far that is.

A pure state machine that outlives streams. `attach` begins a new one, `receive` takes what comes, `next` gives what is
to be sent. Whatever the site sends, it can have no more memory here than what was allocated for replies that were asked
of it, and can end nothing but its own stream.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from wardround.errors import LocalError, RemoteError, WardroundError
from wardround.link import link_pb2 as pb
from wardround.link.headings import (
    INLINE_BYTES,
    call_heading,
    call_parts,
    inline_payload,
    read_reply,
)
from wardround.link.limits import Limits
from wardround.link.messages import Call, Notice, Reply
from wardround.link.outbox import Outbox
from wardround.link.payload_digest import KEY_BYTES
from wardround.link.transfer import Inbound, Outbound
from wardround.link.wire import Chunk, Message

__all__ = ["Attachment", "Event", "Failed", "Noticed", "Replied", "Told"]

_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Replied:
    """The reply to a call is here, whole."""

    id: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class Failed:
    """The reply to a call cannot be taken."""

    id: int
    error: WardroundError


@dataclass(frozen=True, slots=True)
class Noticed:
    """The site has sent a notice; `noted` is to be called when it is kept."""

    id: int
    notice: Notice


@dataclass(frozen=True, slots=True)
class Told:
    """The site has kept a notice."""

    id: int


Event = Replied | Failed | Noticed | Told


@dataclass(slots=True, kw_only=True)
class _Open:
    """A call that is not answered."""

    call: Call
    key: bytes
    allocate: Callable[[int], memoryview]
    most_bytes: int
    heading: pb.Reply | None = None
    buffer: memoryview | None = None
    inbound: Inbound | None = None


class Attachment:
    """What a site is asked and told. Whoever makes one gives the numbers of calls and notices, each of them once."""

    __slots__ = ("_calls", "_forgotten", "_limits", "_noted", "_noticing", "_outbox", "_random", "_window")

    def __init__(self, limits: Limits, random: Callable[[int], bytes], window: Callable[[], int] | None = None) -> None:
        """`window()` is how much of a transfer may be on its way now, where that depends on other sites."""
        self._limits, self._random = limits, random
        self._window = window or (lambda: limits.window_bytes)
        self._calls: dict[int, _Open] = {}
        self._outbox = Outbox(limits.most_notices)
        self._noticing: int | None = None
        self._noted: int | None = None
        self._forgotten: deque[int] = deque(maxlen=_REMEMBERED)
        """Calls whose chunks may still come: the site had been allowed to send them."""

    @property
    def calls(self) -> tuple[int, ...]:
        """Those that are not answered."""
        return tuple(self._calls)

    @property
    def notices(self) -> tuple[int, ...]:
        """Those that the site has not kept yet."""
        return tuple(self._outbox.notices())

    @property
    def under_way(self) -> bool:
        """Whether something that has begun is to go on: if then nothing moves, the peer stalls."""
        return self._outbox.under_way or self.receiving > 0

    @property
    def receiving(self) -> int:
        """How many replies are on their way."""
        return sum(one.inbound is not None and one.inbound.under_way for one in self._calls.values())

    def ask(self, id: int, call: Call, allocate: Callable[[int], memoryview], most_bytes: int) -> None:
        """Send `call`; its reply's frame goes into what `allocate` gives, once a size of `most_bytes` at most is known.

        Raises LocalError where too many calls are open.
        """
        if len(self._calls) >= self._limits.most_calls:
            raise LocalError(f"link: expected at most {self._limits.most_calls} open calls of a site, got one more")
        self._calls[id] = _Open(call=call, key=self._random(KEY_BYTES), allocate=allocate, most_bytes=most_bytes)
        self._send_call(id)

    def cancel(self, id: int) -> None:
        """The call is not waited for any longer."""
        if self._calls.pop(id, None) is not None:
            self._forget(id)
            self._outbox.say(pb.Cancel(id=id))

    def tell(self, id: int, notice: Notice) -> None:
        """Send `notice` until the site has it. Raises LocalError where too many wait."""
        self._outbox.tell(id, notice)

    def take_back(self, id: int) -> None:
        """The notice is not to be sent any more; one that is under way is."""
        self._outbox.take_back(id)

    def noted(self, id: int) -> None:
        """The site's notice `id` is kept."""
        if self._noticing == id:
            self._noticing, self._noted = None, id
            self._outbox.say(pb.Noted(id=id))

    def unnoted(self, id: int) -> None:
        """The site's notice `id` could not be kept: it may come again."""
        if self._noticing == id:
            self._noticing = None

    def attach(self) -> None:
        """A new stream: the headings of all open calls are sent."""
        self.detach()
        self._forgotten.clear()
        for id in self._calls:
            self._send_call(id)

    def detach(self) -> None:
        """The stream ended: nothing is under way."""
        self._outbox.restart()
        for one in self._calls.values():
            if one.inbound is not None:
                one.inbound.close()

    def receive(self, message: Message) -> list[Event]:
        """Take what the site sent. Raises RemoteError for what the protocol does not allow: the stream is to end."""
        self._outbox.check_read()
        match message:
            case pb.Grant():
                self._granted(message)
            case pb.Reply():
                return self._reply(message)
            case Chunk():
                self._chunk(message)
            case pb.End():
                return self._end(message)
            case pb.Notice():
                return self._notice(message)
            case pb.Noted():
                return [Told(message.id)] if self._outbox.told(message.id) else []
            case _:
                raise RemoteError(f"link: expected no {type(message).__name__} from a site that is attached")
        return []

    def next(self) -> Message | None:
        """What is to be sent now."""
        return self._outbox.next(self._limits.chunk_bytes)

    def _send_call(self, id: int) -> None:
        one = self._calls[id]
        self._outbox.say(call_heading(id, one.call, one.key))
        parts = call_parts(one.call)
        if sum(part.nbytes for part in parts) > INLINE_BYTES and self._outbox.transfer(id) is None:
            self._outbox.carry(Outbound(pb.TO_SITE, id, parts, one.key))

    def _granted(self, grant: pb.Grant) -> None:
        if grant.direction != pb.TO_SITE:
            raise RemoteError("link: expected a grant for a call, got one for a reply")
        transfer = self._outbox.transfer(grant.id)
        if transfer is not None:
            transfer.grant(grant.offset, grant.until)
        elif grant.id not in self._forgotten:
            raise RemoteError("link: expected a grant for a call that is open, got another")

    def _reply(self, heading: pb.Reply) -> list[Event]:
        id = heading.id
        one = self._calls.get(id)
        if one is None:
            self._outbox.say(pb.Done(id=id))  # cancelled, or acknowledged on a stream that broke
            return []
        if one.inbound is not None and one.inbound.under_way:
            raise RemoteError("link: expected a reply once on a stream, got it again")
        try:
            buffer, inbound, payload = self._prepare(one, heading)
            if payload is None:
                self._outbox.grant(inbound.grant())
                return []
            inbound.fill(payload)
            return [self._replied(id, read_reply(heading, buffer))]
        except WardroundError as error:
            self._finish(id)
            return [Failed(id, error)]

    def _prepare(self, one: _Open, heading: pb.Reply) -> tuple[memoryview, Inbound, bytes | None]:
        """Room for a reply's frame, what takes it in, and its payload where that is here already.

        A reply goes on where it was, unless it was made again. Raises RemoteError for a heading that is not in order,
        and what `allocate` raises.
        """
        size, payload = heading.frame_bytes, inline_payload(heading.frame_bytes, heading.payload)
        if size > one.most_bytes:
            raise RemoteError(f"reply: expected a frame of at most {one.most_bytes} bytes, got one of {size}")
        heading.payload = b""
        read_reply(heading, memoryview(b""))  # whether it is one, before its frame comes
        buffer, inbound = one.buffer, one.inbound
        if buffer is None or buffer.nbytes != size:
            buffer = inbound = one.buffer = one.inbound = None  # given back before another is taken
            buffer = one.buffer = _allocated(one.allocate, size)
        if inbound is None or payload is not None or one.heading is None or one.heading.making != heading.making:
            inbound = one.inbound = Inbound(pb.TO_SERVER, heading.id, [buffer], heading.key, self._window)
        one.heading = heading
        return buffer, inbound, payload

    def _chunk(self, chunk: Chunk) -> None:
        if chunk.direction != pb.TO_SERVER:
            raise RemoteError("link: expected a chunk of a reply, got one of a call")
        one = self._calls.get(chunk.id)
        if one is None or one.inbound is None:
            if chunk.id not in self._forgotten:
                raise RemoteError("link: expected a chunk of a reply that is open, got another")
        elif (grant := one.inbound.take(chunk)) is not None:
            self._outbox.grant(grant)

    def _end(self, end: pb.End) -> list[Event]:
        if end.direction != pb.TO_SERVER:
            raise RemoteError("link: expected the end of a reply, got that of a call")
        one = self._calls.get(end.id)
        if one is None or one.inbound is None or one.heading is None or one.buffer is None:
            if end.id not in self._forgotten:
                raise RemoteError("link: expected the end of a reply that is open, got another")
            return []
        try:
            one.inbound.finish(end)
        except RemoteError:
            one.inbound = one.heading = None  # from the start, if it comes again
            raise
        return [self._replied(end.id, read_reply(one.heading, one.buffer))]

    def _replied(self, id: int, reply: Reply) -> Event:
        self._finish(id)
        return Replied(id, reply)

    def _finish(self, id: int) -> None:
        del self._calls[id]
        self._forget(id)
        self._outbox.say(pb.Done(id=id))

    def _forget(self, id: int) -> None:
        self._outbox.drop(id)
        self._forgotten.append(id)

    def _notice(self, message: pb.Notice) -> list[Event]:
        if message.id == self._noted:
            self._outbox.say(pb.Noted(id=message.id))
            return []
        if message.id == self._noticing:
            return []
        if self._noticing is not None:
            raise RemoteError("link: expected one notice at a time, got a second one")
        try:
            notice = Notice(kind=message.kind, body=message.body)
        except ValueError as error:
            raise RemoteError(f"link: {error}") from None
        self._noticing = message.id
        return [Noticed(message.id, notice)]


def _allocated(allocate: Callable[[int], memoryview], size: int) -> memoryview:
    if size == 0:
        return memoryview(b"")
    made = allocate(size)
    if made.nbytes != size or made.readonly:
        raise LocalError(f"expected a buffer of {size} bytes that can be written, got one of {made.nbytes}")
    return made
