"""The replies of a run that were sent, or were about to be: sealed on disk, so that none is worked out twice.

A reply is durable before its first byte is sent. Whoever asks again with the same call gets the same bytes, and after
a crash the noise that was drawn is the noise that leaves. One file for each reply, named after the call's digest:

    offset  size  field
         0    23  magic, `wardround sent reply 1\\n`
        23     8  random part of the nonces
        31     8  length of the plaintext, little-endian
        39        chunks of 1 MiB, each AES-256-GCM with 16 bytes of tag; nonce: the random part, the chunk's number

The call's digest and the length are associated data of every chunk, so that no chunk passes for another and none can
be left out. A file's time of change is a counter, in steps of two seconds, which every file system keeps: the oldest
are forgotten, and a clock may be set back.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wardround.durable_file import TEMPORARY, remove_leftovers, sync_folder, write_all
from wardround.errors import LocalError

__all__ = ["Outbox"]

_MAGIC = b"wardround sent reply 1\n"
_RANDOM_BYTES, _LENGTH_BYTES, _TAG_BYTES = 8, 8, 16
_HEAD_BYTES = len(_MAGIC) + _RANDOM_BYTES + _LENGTH_BYTES
_CHUNK_BYTES = 1 << 20
_STEP_NS = 2_000_000_000


class Outbox:
    """The last `most` replies, in `folder`, sealed under `key` (32 bytes); `random(n)` gives n bytes for nonces."""

    __slots__ = ("_cipher", "_folder", "_most", "_random")

    def __init__(self, folder: Path, key: bytes, *, most: int = 4, random: Callable[[int], bytes] = os.urandom) -> None:
        self._folder, self._cipher, self._most, self._random = folder, AESGCM(_own_key(key)), most, random
        remove_leftovers(folder)

    def __contains__(self, call: bytes) -> bool:
        return self._path(call).exists()

    def get(self, call: bytes) -> bytes | None:
        """The reply to the call with this digest. Raises LocalError for one that does not open."""
        path = self._path(call)
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD_BYTES)
                length = int.from_bytes(head[-_LENGTH_BYTES:], "little")
                chunks = -(-length // _CHUNK_BYTES) or 1
                if not head.startswith(_MAGIC) or os.fstat(file.fileno()).st_size != (
                    _HEAD_BYTES + length + chunks * _TAG_BYTES
                ):
                    raise InvalidTag
                nonce, about = head[len(_MAGIC) : -_LENGTH_BYTES], call + head
                found = bytearray(length)
                for number in range(chunks):
                    sealed = file.read(_CHUNK_BYTES + _TAG_BYTES)
                    start = number * _CHUNK_BYTES
                    found[start : start + _CHUNK_BYTES] = self._cipher.decrypt(_nonce(nonce, number), sealed, about)
        except FileNotFoundError:
            return None
        except InvalidTag:
            raise LocalError(f"{path}: does not open with this site's key; the reply is not worked out again") from None
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
        return bytes(found)

    def put(self, call: bytes, reply: bytes) -> None:
        """Keep a reply; durable on return. The oldest beyond `most` are deleted."""
        path = self._path(call)
        temporary = path.with_name(TEMPORARY + path.name)
        nonce = self._random(_RANDOM_BYTES)
        head = _MAGIC + nonce + len(reply).to_bytes(_LENGTH_BYTES, "little")
        about, view = call + head, memoryview(reply)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                write_all(descriptor, head)
                for number in range(-(-len(reply) // _CHUNK_BYTES) or 1):
                    chunk = view[number * _CHUNK_BYTES : (number + 1) * _CHUNK_BYTES]
                    write_all(descriptor, self._cipher.encrypt(_nonce(nonce, number), chunk, about))
                count = max((one.stat().st_mtime_ns for one in self._kept()), default=0) + _STEP_NS
                os.utime(descriptor, ns=(count, count))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
            sync_folder(self._folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise LocalError(f"{path}: cannot be written ({error.strerror}); nothing was sent") from None
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        for path in sorted(self._kept(), key=lambda path: path.stat().st_mtime_ns)[: -self._most]:
            path.unlink(missing_ok=True)

    def _kept(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if not path.name.startswith(TEMPORARY)]

    def _path(self, call: bytes) -> Path:
        return self._folder / call.hex()


def _own_key(key: bytes) -> bytes:
    """A key for nothing but replies, since others count nonces of their own under the site's."""
    return hashlib.sha256(b"wardround sent reply 1\0" + key).digest()


def _nonce(random: bytes, number: int) -> bytes:
    return random + number.to_bytes(4, "big")
