"""Messages between two processes of this machine: a JSON header, and memory that both may map.

    offset  size  field
         0     4  length of the header   uint32, little-endian, at most `most_bytes`
         4     4  how many pieces of shared memory come along, as descriptors (SCM_RIGHTS)
         8        the header, a JSON object in UTF-8

There is no port and no name: whoever holds the other end of the socket pair is the peer. It need not be trusted. What
it sends is bounded, and memory is taken only sealed (memfd_create(2), fcntl(2)), so that it can neither change under
the reader nor shrink, which would kill it.
"""

import fcntl
import json
import mmap
import os
import select
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from wardround.errors import LocalError, RemoteError

__all__ = ["Channel", "Shared"]

_PREFIX_BYTES = 8
_MOST_SHARED = 16
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_KEEP_SEALS = fcntl.F_SEAL_SEAL


class Shared:
    """Memory that another process may map. Writable by this one until it is sealed, by nobody afterwards."""

    __slots__ = ("_descriptor", "_map", "_sealed", "size")

    def __init__(self, descriptor: int, size: int, *, sealed: bool) -> None:
        self._descriptor, self.size, self._sealed = descriptor, size, sealed
        self._map: mmap.mmap | None = None

    @classmethod
    def make(cls, size_bytes: int) -> Self:
        """New memory of this size, all zero. Raises LocalError where there is not so much."""
        if size_bytes < 0:
            raise ValueError(f"expected a size of at least 0 bytes, got {size_bytes}")
        descriptor = os.memfd_create("wardround", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size_bytes)
        except OSError as error:
            os.close(descriptor)
            raise LocalError(f"expected {size_bytes} bytes of memory to share, got none ({error.strerror})") from None
        return cls(descriptor, size_bytes, sealed=False)

    @classmethod
    def of(cls, data: bytes | memoryview) -> Self:
        """A sealed copy of `data`."""
        view = memoryview(data).cast("B")
        made = cls.make(view.nbytes)
        if view.nbytes:
            with made.view() as target:
                target[:] = view
        made.seal()
        return made

    @classmethod
    def received(cls, descriptor: int) -> Self:
        """What a peer sent. Raises RemoteError, and closes it, unless it is sealed memory."""
        try:
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise RemoteError("local channel: expected memory that is sealed, got some that its sender may change")
            return cls(descriptor, os.fstat(descriptor).st_size, sealed=True)
        except (OSError, RemoteError) as error:
            os.close(descriptor)
            if isinstance(error, OSError):  # a file, a socket
                raise RemoteError("local channel: expected sealed memory, got a descriptor of another kind") from None
            raise

    def view(self) -> memoryview:
        """The bytes, in place; they can be written until the memory is sealed. Release it before that."""
        if self._descriptor < 0:
            raise LocalError("expected shared memory that is open, got one that was closed")
        if self.size == 0:
            return memoryview(b"" if self._sealed else bytearray())
        if self._map is None:
            protection = mmap.PROT_READ if self._sealed else mmap.PROT_READ | mmap.PROT_WRITE
            self._map = mmap.mmap(self._descriptor, self.size, flags=mmap.MAP_SHARED, prot=protection)
        return memoryview(self._map)

    def seal(self) -> None:
        """Nobody can change it any more. Raises LocalError while a writable view of it is held."""
        if self._sealed:
            return
        try:
            if self._map is not None:
                self._map.close()
        except BufferError:
            raise LocalError("expected every view of shared memory to be released before it is sealed") from None
        self._map = None
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS | _KEEP_SEALS)
        self._sealed = True

    def close(self) -> None:
        """Give the memory back once no view of it is left."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._map = None  # unmapped with its last view

    def fileno(self) -> int:
        return self._descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Channel:
    """One end of a connected pair of stream sockets. Threads may send at the same time; one receives."""

    __slots__ = ("_most_bytes", "_most_shared_bytes", "_sending", "_socket")

    def __init__(self, sock: socket.socket, *, most_bytes: int = 1 << 23, most_shared_bytes: int = 1 << 40) -> None:
        self._socket, self._most_bytes, self._most_shared_bytes = sock, most_bytes, most_shared_bytes
        self._socket.setblocking(True)
        self._sending = threading.Lock()

    @classmethod
    def pair(cls) -> tuple["Channel", socket.socket]:
        """A channel, and the socket of its other end, for a child process to inherit."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours), theirs

    def send(self, header: Mapping[str, Any], shared: Sequence[Shared] = ()) -> None:
        """Send `header` and the memory `shared`, which is sealed by that. Raises EOFError where the peer is gone."""
        data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(data) > self._most_bytes or len(shared) > _MOST_SHARED:
            raise ValueError(
                f"expected at most {self._most_bytes} bytes and {_MOST_SHARED} pieces of memory, got {len(data)} and "
                f"{len(shared)}"
            )
        for one in shared:
            one.seal()
        prefix = len(data).to_bytes(4, "little") + len(shared).to_bytes(4, "little")
        try:
            with self._sending:
                sent = socket.send_fds(self._socket, [prefix], [one.fileno() for one in shared])
                self._socket.sendall(prefix[sent:] + data)
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError("local channel: the other process is gone") from None

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], list[Shared]]:
        """The next message. Raises EOFError at the end, TimeoutError, and RemoteError for what is malformed.

        After a TimeoutError in the middle of a message, or a RemoteError, the channel is of no more use.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        descriptors: list[int] = []
        found: list[Shared] = []
        try:
            prefix = self._take(_PREFIX_BYTES, deadline, descriptors)
            length, count = int.from_bytes(prefix[:4], "little"), int.from_bytes(prefix[4:], "little")
            if length > self._most_bytes or count != len(descriptors):
                raise RemoteError(
                    f"local channel: expected at most {self._most_bytes} bytes and the descriptors announced, got "
                    f"{length} bytes and {len(descriptors)} of {count} descriptors"
                )
            header = _parsed(self._take(length, deadline, descriptors))
            while descriptors:
                found.append(Shared.received(descriptors.pop(0)))
            if sum(one.size for one in found) > self._most_shared_bytes:
                raise RemoteError(f"local channel: expected at most {self._most_shared_bytes} bytes of memory")
            return header, found
        except BaseException:
            for one in found:
                one.close()
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def _take(self, size: int, deadline: float | None, descriptors: list[int]) -> bytes:
        parts: list[bytes] = []
        while size:
            if deadline is not None:
                waiting = select.poll()
                waiting.register(self._socket, select.POLLIN)
                if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise TimeoutError("local channel: no message in time")
            try:
                data, found, flags, _ = socket.recv_fds(
                    self._socket, min(size, 1 << 20), _MOST_SHARED, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                data, found, flags = b"", [], 0
            descriptors += found
            if flags & socket.MSG_CTRUNC or len(descriptors) > _MOST_SHARED:
                raise RemoteError(f"local channel: expected at most {_MOST_SHARED} pieces of memory")
            if not data:
                raise EOFError("local channel: the other process is gone")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end; the peer sees the end of what was sent."""
        self._socket.close()


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except (ValueError, RecursionError):
        raise RemoteError("local channel: expected a header in JSON") from None
    if not isinstance(header, dict):
        raise RemoteError("local channel: expected a JSON object as header")
    return header
