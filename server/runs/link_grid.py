"""A Flower Grid whose nodes are hospitals: messages become signed calls, which the server's link carries.

Every call is signed with the server's signing key, and a reply counts only with the signature of its site over the
very call that it answers. Nothing of this is believed from the process that carries it, except for availability.
"""

import hashlib
import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Message

from wardround import _flower
from wardround.errors import BudgetError, LocalError, RemoteError
from wardround.link.limits import ciphertext_bytes
from wardround.link.messages import Fault
from wardround.link.signing_inputs import call_bytes, call_digest, reply_bytes
from wardround.local_channel import Channel, Shared
from wardround.orders import SiteId, digest
from wardround.plain_text import plain_text
from wardround.server.runs.worker_messages import CallMessage, ReplyMessage
from wardround.signing_key import SigningKey, check_signature
from wardround.strategies.blocking_grid import BlockingGrid

__all__ = ["DEFAULT_DEADLINE_S", "Interrupted", "LinkGrid"]

DEFAULT_DEADLINE_S = 3600.0
"""How long the server waits for a site where the plan sets no `cohort.deadline_s`."""

_RUN_ID, _SERVER_NODE, _FIRST_NODE = 1, 1, 1000
_MOST_SHARED_PROTOCOL = 1 << 18
_MOST_SMALL_BYTES = 1 << 26
"""Of a reply beside the update: the largest tally is half of it."""
_BYTES_PER_VALUE = 12
"""Of an update at most: masked ones may be padded to twice their length."""
_MOST_HELD_BYTES = 1 << 30
_FIRST_RETRY_S, _MOST_RETRY_S = 1.0, 30.0


class Interrupted(BaseException):
    """The run is to end in the middle of a round, which is not finished."""


@dataclass(slots=True, kw_only=True)
class _Pending:
    """A call that waits for its reply."""

    request: Message
    site: SiteId
    call: CallMessage
    digest: bytes
    tries: int = 0

    @property
    def unmasked(self) -> bool:
        """Whether the reply is an update that is added up as it is."""
        return self.call.kind == "train" and not self.call.protocol


class _Held:
    """Replies that wait for their turn, by the number of their call."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Message, int]] = {}
        self._now: list[Message] = []
        self._bytes = 0

    def put(self, number: int, message: Message, size: int | None) -> None:
        """Add one of so many bytes; with None it does not wait."""
        if size is None:
            self._now.append(message)
        else:
            self._waiting[number] = message, size
            self._bytes += size

    def due(self, first_pending: int | None) -> Iterator[Message]:
        """Those whose turn it is, where no call before `first_pending` (None: at all) is still out."""
        yield from self._now
        self._now.clear()
        while self._waiting:
            number = min(self._waiting)
            if first_pending is not None and number > first_pending and self._bytes <= _MOST_HELD_BYTES:
                return
            message, size = self._waiting.pop(number)
            self._bytes -= size
            yield message


class LinkGrid(BlockingGrid):
    """The sites of a run, sorted by name, as nodes; `sites` maps them to their public signing keys.

    `size` is the number of the model's parameters, which bounds what a reply may be. Replies come in by `take`, from
    any thread; everything else is for the thread of the run. A site that is not ready yet is asked again, a little
    later each time, until the deadline. Sites that are long away are not waited for once enough have answered.
    """

    def __init__(
        self,
        channel: Channel,
        run_id: str,
        sites: Mapping[SiteId, bytes],
        signing_key: SigningKey,
        *,
        size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(_RUN_ID)
        _flower.set_identity(run_id=_RUN_ID, node_id=_SERVER_NODE)
        self._channel, self._run_id, self._key, self._size, self._clock = channel, run_id, signing_key, size, clock
        self._public = dict(sites)
        self._sites = {_FIRST_NODE + number: site for number, site in enumerate(sorted(sites))}
        self._numbers = itertools.count(1)
        self._incoming: queue.SimpleQueue[tuple[ReplyMessage, Shared | None] | None] = queue.SimpleQueue()
        self._interrupted = threading.Event()
        self._waiting = False
        self._away: frozenset[SiteId] = frozenset()
        self._enough: Callable[[str, str, int], int] = lambda kind, group, asked: asked
        self._ciphertexts = False
        self._model: tuple[int, bytes, str] | None = None

    # -- from other threads -----------------------------------------------------------------------

    def take(self, header: Mapping[str, Any], shared: list[Shared]) -> None:
        """Hand over a reply as it was received. Raises RemoteError for a malformed one."""
        reply = ReplyMessage.from_header(header)
        if len(shared) > 1:
            raise RemoteError(f"local channel: expected one frame, got {len(shared)}")
        self._incoming.put((reply, shared[0] if shared else None))

    def interrupt(self) -> None:
        """Let whoever waits for replies, now or later, get `Interrupted`."""
        self._interrupted.set()
        self._incoming.put(None)

    def note_away(self, sites: frozenset[SiteId]) -> None:
        """These, and no others, have been away for long."""
        self._away = sites
        self._incoming.put(None)

    def is_waiting(self) -> bool:
        """Whether the run waits for a site now."""
        return self._waiting

    # -- for the thread of the run ----------------------------------------------------------------

    def settle_for(self, enough: Callable[[str, str, int], int]) -> None:
        """Wait for no site that is long away once `enough(type, group, asked)` have answered, of those asked."""
        self._enough = enough

    def take_ciphertexts(self) -> None:
        """Updates are ciphertexts of BFV, and members tell the sum in answer to a message of the protocol."""
        self._ciphertexts = True

    # -- Flower's Grid ----------------------------------------------------------------------------

    def get_node_ids(self) -> Iterable[int]:
        """Every site of the run, whether it is attached now or not."""
        return list(self._sites)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies as they come, until the last has come or the time is over; by default `DEFAULT_DEADLINE_S`.

        Updates in clear are given in the order of the messages, however they came: a sum of floats depends on it, and
        a round that is done again after a crash has to give the same bits. What waits for its turn is bounded by 1 GiB;
        beyond, updates are given as they come.
        """
        deadline = self._clock() + (DEFAULT_DEADLINE_S if timeout is None else timeout)
        pending: dict[int, _Pending] = {}
        later: list[tuple[float, int]] = []
        hellos: list[Message] = []
        held, of, answered = _Held(), ("", ""), 0
        try:
            for message in messages:
                if message.metadata.message_type == _flower.HELLO:
                    hellos.append(message)
                else:
                    one = self._asked(message, deadline)
                    pending[one.call.id], of = one, (one.call.kind, message.metadata.group_id)
            enough = self._enough(*of, len(pending))
            for message in hellos:
                yield _flower.hello_reply(message, self._site_of(message))
            while pending:
                found = self._next(deadline, pending, later, spare=answered >= enough)
                if found is None:
                    break
                one, reply, shared = found
                if reply.fault is Fault.NOT_READY and self._ask_later(one, deadline, later):
                    continue
                del pending[one.call.id]
                size = 0 if shared is None else shared.size
                answer = self._answer(one, reply, shared)
                answered += not answer.has_error()
                held.put(one.call.id, answer, size if one.unmasked else None)
                yield from held.due(min(pending, default=None))
            for one in pending.values():
                if one.site in self._away:
                    held.put(one.call.id, _flower.gone_reply(one.request, "is away"), None)
            yield from held.due(None)
        finally:
            if pending:
                self._channel.send({"type": "cancel", "ids": sorted(pending)})

    # -- pieces -----------------------------------------------------------------------------------

    def _site_of(self, message: Message) -> SiteId:
        site = self._sites.get(message.metadata.dst_node_id)
        if site is None:
            raise LocalError(f"expected a node of this run, got {message.metadata.dst_node_id}")
        return site

    def _asked(self, message: Message, deadline: float) -> _Pending:
        """Sign and send the call that `message` is."""
        if self._interrupted.is_set():
            raise Interrupted
        site, kind = self._site_of(message), message.metadata.message_type
        protocol, spec = _flower.read_protocol(message), _flower.read_spec(message)
        order, shared, number, model_digest = b"", list[Shared](), None, None
        if kind != _flower.PROTOCOL:
            order = _flower.read_order(message)
            if kind != _flower.STATISTICS:
                model = _flower.read_model(message)
                model_digest = bytes.fromhex(digest(model))
                number, new = self._numbered(model)
                if new:
                    shared.append(Shared.of(model))
        most = _MOST_SMALL_BYTES
        if self._ciphertexts and kind in ("train", _flower.PROTOCOL):
            most += ciphertext_bytes(4 * self._size)
        elif kind == "train":
            most += _BYTES_PER_VALUE * self._size
        signed = call_bytes(self._run_id, kind, order, protocol, spec, model_digest)
        call = CallMessage(
            id=next(self._numbers),
            site=site,
            kind=kind,
            order=order,
            protocol=protocol,
            spec=spec,
            signature=self._key.sign(signed),
            model=number,
            model_digest=model_digest,
            timeout_s=max(0.0, deadline - self._clock()),
            most_bytes=most,
            large=len(protocol) > _MOST_SHARED_PROTOCOL,
        )
        if call.large:
            shared.append(Shared.of(protocol))
        self._channel.send(call.to_header(), shared)
        for one in shared:
            one.close()
        found = call_digest(self._run_id, kind, order, protocol, spec, model_digest)
        return _Pending(request=message, site=site, call=call, digest=found)

    def _numbered(self, model: bytes) -> tuple[int, bool]:
        """The number by which the server knows this model, and whether it has to be sent along."""
        known = digest(model)
        if self._model is not None and self._model[2] == known:
            return self._model[0], False
        number = next(self._numbers)
        if self._model is not None:
            self._channel.send({"type": "forget", "model": self._model[0]})
        self._model = number, model, known
        return number, True

    def _next(
        self, deadline: float, pending: Mapping[int, _Pending], later: list[tuple[float, int]], *, spare: bool
    ) -> tuple[_Pending, ReplyMessage, Shared | None] | None:
        """The next reply to a pending call; None when the time is over. What is late for an older call is dropped.

        None as well where the sites left are all away and the round can `spare` them.
        """
        while True:
            if self._interrupted.is_set():
                raise Interrupted
            if spare and all(one.site in self._away for one in pending.values()):
                return None
            now = self._clock()
            while later and later[0][0] <= now:
                self._again(pending[heapq.heappop(later)[1]], deadline)
            until = min(deadline, later[0][0]) if later else deadline
            self._waiting = True
            try:  # what is there already counts, even if nobody looked in time
                found = self._incoming.get(timeout=max(0.0, until - now))
            except queue.Empty:
                if now >= deadline:
                    return None
                continue
            finally:
                self._waiting = False
            if found is None:
                continue
            reply, shared = found
            if (one := pending.get(reply.id)) is not None:
                return one, reply, shared
            if shared is not None:
                shared.close()

    def _ask_later(self, one: _Pending, deadline: float, later: list[tuple[float, int]]) -> bool:
        """Whether there is time to ask a site again that is not ready."""
        due = self._clock() + min(_MOST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(one.tries, 10))
        if due >= deadline:
            return False
        one.tries += 1
        heapq.heappush(later, (due, one.call.id))
        return True

    def _again(self, one: _Pending, deadline: float) -> None:
        """Send a call again, under the same number and signature."""
        one.call = replace(one.call, timeout_s=max(0.0, deadline - self._clock()))
        shared = [Shared.of(one.call.protocol)] if one.call.large else []
        self._channel.send(one.call.to_header(), shared)
        for piece in shared:
            piece.close()

    def _answer(self, one: _Pending, reply: ReplyMessage, shared: Shared | None) -> Message:
        """The message that a reply is: with the frame in place, or an error."""
        if reply.lost and reply.fault is Fault.REFUSED:
            return _flower.error_reply(one.request, LocalError(reply.reason))
        if reply.lost:
            return _flower.gone_reply(one.request, reply.reason or "no reply by the deadline")
        if reply.fault is Fault.NOT_READY:  # a site that does not know the run signs nothing for it
            return _flower.gone_reply(one.request, reply.reason or "was not ready for this run by the deadline")
        if reply.fault is Fault.REFUSED and not reply.signature:  # of a call that was too large to be received, say
            said = f"refused, unsigned: {plain_text(reply.reason) or 'no reason'}"  # and it would be again
            return _flower.error_reply(one.request, LocalError(said))
        frame = memoryview(b"") if shared is None else shared.view()
        try:
            signed = reply_bytes(one.digest, reply.fault, hashlib.sha256(frame).digest())
            check_signature(self._public[one.site], reply.signature, signed, one.site)
        except RemoteError as error:
            return _flower.error_reply(one.request, error)
        if reply.fault is Fault.NONE:
            if shared is not None:
                shared.close()  # the view keeps what it shows
            return _flower.reply(one.request, frame)
        if reply.fault is Fault.SPENT:
            return _flower.error_reply(one.request, BudgetError(reply.reason or "no budget is left"))
        return _flower.error_reply(one.request, LocalError(reply.reason or "refused"))
