"""The server's calls as the agent sees them over the link, and what it answers and tells: a pure state machine.

It outlives streams. `attach` begins a new one, `receive` takes what comes, `next` gives what is to be sent. A call is
done once, however often its heading comes; its reply is kept until the server has it, or does not want it any longer.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from wardround.errors import LocalError, RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.headings import INLINE_BYTES, inline_payload, read_call, reply_heading
from wardround.link.limits import Limits
from wardround.link.messages import Call, Fault, Notice, Reply
from wardround.link.outbox import Outbox
from wardround.link.payload_digest import KEY_BYTES
from wardround.link.receive_memory import receive_memory
from wardround.link.transfer import Inbound, Outbound
from wardround.link.wire import Chunk, Message

__all__ = ["Called", "Event", "Noticed", "Session"]

_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Called:
    """A call is here, whole; `answer` is to be called with its reply."""

    call: Call


@dataclass(frozen=True, slots=True)
class Noticed:
    """The server has sent a notice; `noted` is to be called when it is kept."""

    id: int
    notice: Notice


Event = Called | Noticed


@dataclass(slots=True, kw_only=True)
class _Open:
    """A call that the server waits for. It is received (`inbound`), then done, then answered (`reply`)."""

    heading: pb.Call
    inbound: Inbound | None = None
    parts: list[memoryview]
    small_bytes: int = 0
    """Of what was received without a model; not counted is what the run's approval allows its protocol."""
    making: int = 0
    key: bytes = b""
    """Of the reply."""
    reply: Reply | None = None


class Session:
    """What the agent is asked by its server. `allocate(run, size)` gives the memory that a model is received into.

    `room(run, small, model)` is asked before anything of a call is received that is not in its heading, with the bytes
    of its model and of the rest: it gives the reply to a call that is not wanted, None for one that is. `beside(run)`
    is how large a message of the run's protocol may be, on top of what any call may have without its model.
    """

    __slots__ = (
        "_allocate",
        "_beside",
        "_calls",
        "_forgotten",
        "_limits",
        "_noted",
        "_noticing",
        "_outbox",
        "_random",
        "_room",
    )

    def __init__(
        self,
        limits: Limits,
        allocate: Callable[[str, int], memoryview],
        random: Callable[[int], bytes],
        room: Callable[[str, int, int], Reply | None] = lambda run, small_bytes, model_bytes: None,
        beside: Callable[[str], int] = lambda run: 0,
    ) -> None:
        self._limits, self._allocate, self._random, self._room = limits, allocate, random, room
        self._beside = beside
        self._calls: dict[int, _Open] = {}
        self._outbox = Outbox(limits.most_notices)
        self._noticing: int | None = None
        self._noted: int | None = None
        self._forgotten: deque[int] = deque(maxlen=_REMEMBERED)

    def tell(self, notice: Notice) -> None:
        """Send `notice` until the server has it. Raises LocalError where too many wait."""
        self._outbox.tell(self._number(), notice)

    def answer(self, id: int, reply: Reply) -> None:
        """The reply to a call. It is dropped where the server does not wait for it any longer."""
        one = self._calls.get(id)
        if one is not None and one.reply is None:
            one.reply, one.making, one.key, one.parts = reply, self._number(), self._random(KEY_BYTES), []
            self._send_reply(id, one, reply)

    def waits_for(self, id: int) -> bool:
        """Whether the server still wants the reply to this call."""
        return id in self._calls

    def noted(self, id: int) -> None:
        """The server's notice `id` is kept."""
        if self._noticing == id:
            self._noticing, self._noted = None, id
            self._outbox.say(pb.Noted(id=id))

    def attach(self, calls: Collection[int]) -> None:
        """A new stream to a server that waits for these calls: others are forgotten, replies are offered again."""
        self._outbox.restart()
        self._noticing = None
        for id in [one for one in self._calls if one not in calls]:
            self._forget(id)
        self._forgotten.clear()
        for id, one in self._calls.items():
            if one.inbound is not None:
                one.inbound.close()
            if one.reply is not None:
                self._send_reply(id, one, one.reply)

    def receive(self, message: Message) -> list[Event]:
        """Take what the server sent. Raises RemoteError for what the protocol does not allow: the stream is to end."""
        self._outbox.check_read()
        match message:
            case pb.Call():
                return self._call(message)
            case Chunk():
                self._chunk(message)
            case pb.End():
                return self._end(message)
            case pb.Grant():
                self._granted(message)
            case pb.Done() | pb.Cancel():
                self._forget(message.id)
            case pb.Notice():
                return self._notice(message)
            case pb.Noted():
                self._outbox.told(message.id)
            case _:
                raise RemoteError(f"link: expected no {type(message).__name__} from the server here")
        return []

    def next(self) -> Message | None:
        """What is to be sent now."""
        return self._outbox.next(self._limits.chunk_bytes)

    def _number(self) -> int:
        return int.from_bytes(self._random(8), "little")

    def _send_reply(self, id: int, one: _Open, reply: Reply) -> None:
        self._outbox.say(reply_heading(id, one.making, reply, one.key))
        if reply.frame.nbytes > INLINE_BYTES and self._outbox.transfer(id) is None:
            self._outbox.carry(Outbound(pb.TO_SERVER, id, [reply.frame], one.key))

    def _call(self, heading: pb.Call) -> list[Event]:
        id, one = heading.id, self._calls.get(heading.id)
        sizes = [heading.order_bytes, heading.protocol_bytes, heading.spec_bytes]
        if heading.HasField("model_bytes"):
            sizes.append(heading.model_bytes)
        payload = inline_payload(sum(sizes), heading.payload)
        heading.payload = b""
        if one is None:
            if len(self._calls) >= self._limits.most_calls:
                raise RemoteError(f"link: expected at most {self._limits.most_calls} open calls, got one more")
            read_call(heading, [memoryview(b"")] * len(sizes))  # whether it is one, before anything is allocated
            one = self._calls[id] = _Open(heading=heading, parts=[])
            refusal = None if payload is not None else self._room(heading.run, sum(sizes[:3]), sum(sizes[3:]))
            refusal = refusal or self._make_room(one, sizes)
            if refusal is not None:
                self.answer(id, refusal)
                return []
            inbound = one.inbound = Inbound(pb.TO_SITE, id, one.parts, heading.key, lambda: self._limits.window_bytes)
        elif one.heading != heading:
            raise RemoteError("link: expected a call as it was sent before, got another of its number")
        elif one.inbound is None or one.inbound.under_way:
            return []  # it is being done, or answered, or on its way
        else:
            inbound = one.inbound
        if payload is None:
            self._outbox.grant(inbound.grant())
            return []
        inbound.fill(payload)
        return self._called(one)

    def _make_room(self, one: _Open, sizes: list[int]) -> Reply | None:
        """Take memory for a call; or the reply to one that is too large, by itself or beside what is open now."""
        limits, size = self._limits, sum(sizes)
        small = sum(sizes[:3])
        if sizes[1] > limits.chunk_bytes:
            small -= min(sizes[1], self._beside(one.heading.run))
        if sizes[0] > limits.most_order_bytes or sizes[2] > limits.most_spec_bytes:
            words = f"an order of at most {limits.most_order_bytes} bytes and a spec of {limits.most_spec_bytes}"
            return Reply(fault=Fault.REFUSED, reason=f"expected {words}, got {sizes[0]} and {sizes[2]}")
        if small > limits.most_small_bytes or size > limits.most_call_bytes:
            words = f"{limits.most_call_bytes} bytes at most, {limits.most_small_bytes} without what was approved"
            return Reply(fault=Fault.REFUSED, reason=f"expected a call of {words}, got {size} and {small}")
        others = [other for other in self._calls.values() if other.parts]
        held_small = sum(other.small_bytes for other in others)
        held = sum(part.nbytes for other in others for part in other.parts)
        if held_small + small > limits.most_small_bytes or held + size > limits.most_call_bytes:
            return Reply(fault=Fault.NOT_READY, reason="other calls fill the memory that this site gives to calls")
        try:
            parts = [receive_memory(one_size) for one_size in sizes[:3]]
            parts += [self._allocate(one.heading.run, model) if model else memoryview(b"") for model in sizes[3:]]
        except LocalError as error:
            return Reply(fault=Fault.NOT_READY, reason=str(error))
        one.parts, one.small_bytes = parts, small
        return None

    def _called(self, one: _Open) -> list[Event]:
        one.inbound = None
        try:
            return [Called(read_call(one.heading, one.parts))]
        except MemoryError:
            self.answer(one.heading.id, Reply(fault=Fault.NOT_READY, reason="no memory is left for a call"))
            return []

    def _chunk(self, chunk: Chunk) -> None:
        inbound = self._inbound(chunk)
        if inbound is not None and (grant := inbound.take(chunk)) is not None:
            self._outbox.grant(grant)

    def _end(self, end: pb.End) -> list[Event]:
        inbound = self._inbound(end)
        if inbound is None:
            return []
        one = self._calls[end.id]
        try:
            inbound.finish(end)
        except RemoteError:
            del self._calls[end.id]  # from the start, if it comes again
            raise
        return self._called(one)

    def _inbound(self, message: Chunk | pb.End) -> Inbound | None:
        """The transfer of a chunk or end; None for one that was cancelled."""
        one = self._calls.get(message.id)
        if message.direction == pb.TO_SITE and one is not None and one.inbound is not None:
            return one.inbound
        if message.direction == pb.TO_SITE and one is None and message.id in self._forgotten:
            return None
        raise RemoteError("link: expected a part of a call that is open, got another")

    def _granted(self, grant: pb.Grant) -> None:
        transfer = self._outbox.transfer(grant.id)
        if grant.direction == pb.TO_SERVER and transfer is not None:
            transfer.grant(grant.offset, grant.until)
        elif grant.direction != pb.TO_SERVER or grant.id not in self._forgotten:
            raise RemoteError("link: expected a grant for a reply that is open, got another")

    def _forget(self, id: int) -> None:
        if self._calls.pop(id, None) is not None:
            self._outbox.drop(id)
            self._forgotten.append(id)

    def _notice(self, message: pb.Notice) -> list[Event]:
        if message.id == self._noted:
            self._outbox.say(pb.Noted(id=message.id))
            return []
        if self._noticing is not None:
            raise RemoteError("link: expected one notice at a time, got a second one")
        try:
            notice = Notice(kind=message.kind, body=message.body)
        except ValueError as error:
            raise RemoteError(f"link: {error}") from None
        self._noticing = message.id
        return [Noticed(message.id, notice)]
