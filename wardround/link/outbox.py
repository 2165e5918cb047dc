"""What one end sends next: control messages first, then transfers in turn; and notices, one at a time."""

from collections import OrderedDict, deque
from collections.abc import Iterable

from wardround.errors import LocalError, RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.messages import Notice
from wardround.link.transfer import Outbound
from wardround.link.wire import Message

__all__ = ["Outbox"]

_MOST_MESSAGES = 1024


class Outbox:
    """Bounded by what may be open: each transfer, grant and notice is in here once at most."""

    __slots__ = ("_messages", "_most_notices", "_notices", "_transfers")

    def __init__(self, most_notices: int) -> None:
        self._messages: deque[Message] = deque()
        self._transfers: OrderedDict[int, Outbound] = OrderedDict()
        self._notices: OrderedDict[int, Notice] = OrderedDict()
        self._most_notices = most_notices

    def check_read(self) -> None:
        """Raises RemoteError where so much waits that the peer cannot be reading: its messages would fill memory."""
        if len(self._messages) > _MOST_MESSAGES:
            raise RemoteError(
                f"link: expected a peer that reads its answers, got one with {len(self._messages)} unread"
            )

    def restart(self) -> None:
        """The stream is another: what was to be said on the old one is void; the first notice is sent again."""
        self._messages.clear()
        for transfer in self._transfers.values():
            transfer.rewind()
        self._send_notice()

    def say(self, message: Message) -> None:
        self._messages.append(message)

    def grant(self, grant: pb.Grant) -> None:
        """A newer grant takes the place of one that is not sent: a peer that does not read cannot pile them up."""
        for index, waiting in enumerate(self._messages):
            if isinstance(waiting, pb.Grant) and waiting.id == grant.id:
                del self._messages[index]
                break
        self._messages.append(grant)

    def carry(self, transfer: Outbound) -> None:
        self._transfers[transfer.id] = transfer

    def transfer(self, id: int) -> Outbound | None:
        return self._transfers.get(id)

    def drop(self, id: int) -> None:
        """Nothing more of this transfer, in either direction."""
        self._transfers.pop(id, None)
        self._messages = deque(one for one in self._messages if getattr(one, "id", None) != id)

    def tell(self, id: int, notice: Notice) -> None:
        """Send `notice` until `told`. Raises LocalError where too many wait already."""
        if len(self._notices) >= self._most_notices:
            raise LocalError(f"link: expected at most {self._most_notices} notices that wait, got one more; try later")
        self._notices[id] = notice
        if len(self._notices) == 1:
            self._send_notice()

    def told(self, id: int) -> bool:
        """The peer has `id`; False where that is not the notice that it was sent."""
        if next(iter(self._notices), None) != id:
            return False
        del self._notices[id]
        self._send_notice()
        return True

    def take_back(self, id: int) -> None:
        """Do not send a notice. Does nothing where it was sent on this stream: the peer may have it, and says so."""
        if id not in self._notices:
            return
        if next(iter(self._notices)) != id:
            del self._notices[id]
            return
        for index, waiting in enumerate(self._messages):
            if isinstance(waiting, pb.Notice) and waiting.id == id:
                del self._messages[index], self._notices[id]
                self._send_notice()
                return

    def notices(self) -> Iterable[int]:
        return tuple(self._notices)

    @property
    def under_way(self) -> bool:
        """Whether a transfer has begun and not ended."""
        return any(transfer.under_way for transfer in self._transfers.values())

    def next(self, most_bytes: int) -> Message | None:
        """What is to be sent now."""
        if self._messages:
            return self._messages.popleft()
        for id, transfer in self._transfers.items():
            if transfer.ready:
                self._transfers.move_to_end(id)
                return transfer.next(most_bytes)
        return None

    def _send_notice(self) -> None:
        for id, notice in self._notices.items():
            self._messages.append(pb.Notice(id=id, kind=notice.kind, body=notice.body))
            return
