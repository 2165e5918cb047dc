"""Transfers: payloads too large for one frame, in chunks from and into buffers that are there already.

Pure state machines. A payload is one or more parts, one after another. The receiver says where it is and how far the
sender may go (`Grant`), so a slow one stops the sender and holds nothing beyond its buffers; after a reconnect the
sender goes on from there. Each chunk has its checksum (`wire`), the payload its digest at the end (`payload_digest`).
"""

from collections.abc import Callable, Sequence

from wardround.errors import RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.payload_digest import PayloadDigest
from wardround.link.wire import Chunk

__all__ = ["Inbound", "Outbound"]


class Outbound:
    """A payload on its way out. `key` is that of its digest, used for no other."""

    __slots__ = ("_at", "_digest", "_digested", "_ended", "_granted", "_parts", "_until", "direction", "id", "size")

    def __init__(self, direction: pb.Direction, id: int, parts: Sequence[memoryview], key: bytes) -> None:
        self.direction, self.id = direction, id
        self._parts = [(end - part.nbytes, end, part) for end, part in _placed(parts)]
        self.size = sum(part.nbytes for _, _, part in self._parts)
        self._digest, self._digested = PayloadDigest(key), 0
        self.rewind()

    def rewind(self) -> None:
        """The stream is another: nothing is granted."""
        self._at = self._until = 0
        self._granted = self._ended = False

    def grant(self, offset: int, until: int) -> None:
        """Go on up to `until`, the first time from `offset` on. Raises RemoteError for what cannot be."""
        if not offset <= until <= self.size or self._ended or (self._granted and not offset <= self._at):
            raise RemoteError(f"link: expected a grant within {self.size} bytes, got one from {offset} to {until}")
        if not self._granted:
            if offset > self._digested:
                raise RemoteError(f"link: expected a grant from {self._digested} at most, got one from {offset}")
            self._granted, self._at = True, offset
        elif until < self._until:
            raise RemoteError(f"link: expected a grant up to {self._until} or more, got {until}")
        self._until = until

    @property
    def ready(self) -> bool:
        """Whether `next` has something."""
        return self._granted and not self._ended and (self._at < self._until or self._at == self.size)

    @property
    def under_way(self) -> bool:
        """Whether it has begun on this stream and not ended."""
        return self._granted and not self._ended

    def next(self, most_bytes: int) -> Chunk | pb.End:
        """The next chunk, of at most `most_bytes`, or the end."""
        if not self.ready:
            raise ValueError("expected a transfer that may go on")
        if self._at == self.size:
            self._ended = True
            return pb.End(direction=self.direction, id=self.id, digest=self._digest.digest())
        for start, end, part in self._parts:
            if self._at < end:  # a chunk ends with its part, so that it is one piece of memory
                stop = min(end, self._until, self._at + most_bytes)
                piece = part[self._at - start : stop - start]
                chunk = Chunk(self.direction, self.id, self._at, piece)
                if self._digested < stop:  # the rest was sent before, on a stream that broke
                    self._digest.update(piece[max(0, self._digested - self._at) :])
                    self._digested = stop
                self._at = stop
                return chunk
        raise AssertionError("parts cover the payload")


class Inbound:
    """A payload on its way in, into `targets`, one for each part. `window()` is how far ahead the sender may go now."""

    __slots__ = ("_at", "_digest", "_open", "_targets", "_until", "_window", "direction", "id", "size")

    def __init__(
        self,
        direction: pb.Direction,
        id: int,
        targets: Sequence[memoryview],
        key: bytes,
        window: Callable[[], int],
    ) -> None:
        self.direction, self.id, self._window = direction, id, window
        self._targets = [(end - part.nbytes, end, part) for end, part in _placed(targets)]
        self.size = sum(part.nbytes for _, _, part in self._targets)
        self._digest = PayloadDigest(key)
        self._at = self._until = 0
        self._open = False

    def close(self) -> None:
        """The stream is another: what still comes of the old grant is refused."""
        self._open = False

    def grant(self) -> pb.Grant:
        """Where it is, and how far the sender may go."""
        self._open = True
        # never back: the sender may be there already
        self._until = max(self._until, min(self.size, self._at + self._window()))
        return pb.Grant(direction=self.direction, id=self.id, offset=self._at, until=self._until)

    @property
    def under_way(self) -> bool:
        """Whether the sender is to send something, on this stream."""
        return self._open

    def take(self, chunk: Chunk) -> pb.Grant | None:
        """Put a chunk where it belongs; the next grant where one is due. Raises RemoteError, having changed nothing."""
        end = chunk.offset + len(chunk.data)
        if not self._open or chunk.offset != self._at or end > self._until:
            until = self._until if self._open else self._at
            raise RemoteError(
                f"link: expected a chunk from {self._at} to {until} at most, got one from {chunk.offset} to {end}"
            )
        at, data = self._at, chunk.data
        for start, stop, target in self._targets:
            if start <= at < stop:
                piece = data[: stop - at]
                target[at - start : at - start + len(piece)] = piece
                at, data = at + len(piece), data[len(piece) :]
        self._digest.update(chunk.data)
        self._at = end
        if self._until < self.size and 2 * (self._until - self._at) <= self._window():
            return self.grant()
        return None

    def finish(self, end: pb.End) -> None:
        """The payload is whole. Raises RemoteError where it is not, or its digest is not that of the sender."""
        if not self._open or self._at != self.size:
            raise RemoteError(f"link: expected {self.size} bytes before the end, got {self._at}")
        self._open = False
        if end.digest != self._digest.digest():
            raise RemoteError("link: expected a payload with the digest that its sender gives, got another")

    def fill(self, payload: bytes) -> None:
        """Take a payload that came in its heading, in one piece."""
        if len(payload) != self.size or self._at:
            raise ValueError(f"expected {self.size} bytes at the start, got {len(payload)} at {self._at}")
        self._open, self._until = True, self.size
        if payload:
            self.take(Chunk(self.direction, self.id, 0, memoryview(payload)))
        self._open = False


def _placed(parts: Sequence[memoryview]) -> list[tuple[int, memoryview]]:
    """Each part, seen as bytes, with where it ends in the payload."""
    made, end = [], 0
    for part in parts:
        view = part.cast("B") if part.nbytes else memoryview(b"")  # what is empty cannot be cast
        end += view.nbytes
        made.append((end, view))
    return made
