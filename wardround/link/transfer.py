"""Transfers: payloads too large for one frame, in chunks from and into buffers that are there already.

Pure state machines. A payload is one or more parts, one after another. The receiver says where it is and how far the
sender may go (`Grant`), so a slow one stops the sender and holds nothing beyond its buffers; after a reconnect the
sender goes on from there. Each chunk has its checksum (`wire`), each part its SHA-256 at the end.
"""

import hashlib
from collections.abc import Sequence

from wardround.errors import RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.wire import Chunk

__all__ = ["Inbound", "Outbound"]

_DIGEST_BYTES = hashlib.sha256().digest_size


class Outbound:
    """A payload on its way out. `digests` holds the SHA-256 of each part, or None where it is to be computed."""

    __slots__ = ("_at", "_digests", "_ended", "_granted", "_hashes", "_parts", "_until", "direction", "id", "size")

    def __init__(
        self, direction: pb.Direction, id: int, parts: Sequence[memoryview], digests: Sequence[bytes | None]
    ) -> None:
        self.direction, self.id = direction, id
        self._parts = [(end - part.nbytes, end, part) for end, part in _placed(parts)]
        self.size = sum(part.nbytes for _, _, part in self._parts)
        self._digests = list(digests)
        self._hashes = [(hashlib.sha256(), 0) for _ in self._parts]
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
            digests = b"".join(self._digest(index) for index in range(len(self._parts)))
            return pb.End(direction=self.direction, id=self.id, digests=digests)
        for index, (start, end, part) in enumerate(self._parts):
            if self._at < end:  # a chunk ends with its part, so that it is one piece of memory
                stop = min(end, self._until, self._at + most_bytes)
                chunk = Chunk(self.direction, self.id, self._at, part[self._at - start : stop - start])
                self._hash(index, stop - start)
                self._at = stop
                return chunk
        raise AssertionError("parts cover the payload")

    def _hash(self, index: int, end: int) -> None:
        """Hash a part up to `end` while it is in the processor's cache; what was sent before is not hashed again."""
        if self._digests[index] is None:
            hashed, at = self._hashes[index]
            if at < end:
                hashed.update(self._parts[index][2][at:end])
                self._hashes[index] = hashed, end

    def _digest(self, index: int) -> bytes:
        self._hash(index, self._parts[index][2].nbytes)
        known = self._digests[index]
        return self._hashes[index][0].digest() if known is None else known


class Inbound:
    """A payload on its way in, into `targets`, one for each part. `window` is how far ahead the sender may go."""

    __slots__ = ("_at", "_hashes", "_open", "_targets", "_until", "_window", "direction", "id", "size")

    def __init__(self, direction: pb.Direction, id: int, targets: Sequence[memoryview], window: int) -> None:
        self.direction, self.id, self._window = direction, id, window
        self._targets = [(end - part.nbytes, end, part) for end, part in _placed(targets)]
        self.size = sum(part.nbytes for _, _, part in self._targets)
        self._hashes = [hashlib.sha256() for _ in self._targets]
        self._at = self._until = 0
        self._open = False

    def close(self) -> None:
        """The stream is another: what still comes of the old grant is refused."""
        self._open = False

    def grant(self) -> pb.Grant:
        """Where it is, and how far the sender may go."""
        self._open = True
        self._until = min(self.size, self._at + self._window)
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
        for hashed, (start, stop, target) in zip(self._hashes, self._targets, strict=True):
            if start <= at < stop:
                piece = data[: stop - at]
                target[at - start : at - start + len(piece)] = piece
                hashed.update(piece)
                at, data = at + len(piece), data[len(piece) :]
        self._at = end
        if self._until < self.size and self._until - self._at <= self._window // 2:
            return self.grant()
        return None

    def finish(self, end: pb.End) -> list[bytes]:
        """The SHA-256 of each part, which are those of the sender. Raises RemoteError where they or the size differ."""
        if not self._open or self._at != self.size:
            raise RemoteError(f"link: expected {self.size} bytes before the end, got {self._at}")
        digests = self._digests()
        if end.digests != b"".join(digests):
            raise RemoteError("link: expected a payload with the digests that its sender gives, got another")
        self._open = False
        return digests

    def fill(self, payload: bytes) -> list[bytes]:
        """Take a payload that came in one piece; the SHA-256 of each part."""
        if len(payload) != self.size or self._at:
            raise ValueError(f"expected {self.size} bytes at the start, got {len(payload)} at {self._at}")
        self._open, self._until = True, self.size
        if payload:
            self.take(Chunk(self.direction, self.id, 0, memoryview(payload)))
        self._open = False
        return self._digests()

    def _digests(self) -> list[bytes]:
        return [hashed.digest() for hashed in self._hashes]


def _placed(parts: Sequence[memoryview]) -> list[tuple[int, memoryview]]:
    """Each part, seen as bytes, with where it ends in the payload."""
    made, end = [], 0
    for part in parts:
        view = part.cast("B") if part.nbytes else memoryview(b"")  # what is empty cannot be cast
        end += view.nbytes
        made.append((end, view))
    return made
