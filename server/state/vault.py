"""Sealing of what lies on the server's disk: models, checkpoints, and the code of plans.

Data is sealed in segments of 1 MiB by the STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizár 2015, "Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance") over AES-256-GCM: the nonce of a segment is
its number and whether it is the last, so that segments that are missing, swapped or added are refused. Every sealing
has a key of its own, HKDF-SHA256 of the vault's key, 32 random bytes and the label; so nonces never meet, and data that
is put where another label belongs does not open.

    b"wardround sealed 1\\n"   32 random bytes   segments of 1 MiB + 16 bytes, the last of 16 bytes to 1 MiB + 16

The label of a file is its path inside the state folder, with `/` between the parts (`runs/RUN/checkpoints/NAME`,
`models/NAME`), by which a backup finds and checks it. What sealing does not see: a file that is set back to an older
one of the same label.
"""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.durable_file import TEMPORARY, sync_folder, write_all
from wardround.errors import LocalError

__all__ = ["SealedFile", "Sealer", "Vault", "is_sealed", "opened_size"]

_MAGIC = b"wardround sealed 1\n"
_SALT_BYTES, _KEY_BYTES, _TAG_BYTES = 32, 32, 16
_HEAD_BYTES = len(_MAGIC) + _SALT_BYTES
_SEGMENT = 1 << 20
_MOST_SEGMENTS = 1 << 32


class Vault:
    """Seals and opens under a key of 32 bytes; `random(n)` gives n bytes from the OS. Threads may share it."""

    __slots__ = ("_key", "_random")

    def __init__(self, key: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"expected a key of {_KEY_BYTES} bytes, got {len(key)}")
        self._key, self._random = key, random

    def seal(self, label: str, data: bytes | memoryview) -> bytes:
        """`data` sealed for `label`; beside both, one segment of memory."""
        out = io.BytesIO()
        sealer = self.sealer(label, out.write)
        sealer.write(data)
        sealer.finish()
        return out.getvalue()  # no copy: the buffer itself

    def open(self, label: str, data: bytes | memoryview) -> bytes:
        """What `seal` was given. Raises LocalError naming `label` for anything else."""
        out = io.BytesIO()
        for part in self.parts(label, io.BytesIO(data)):
            out.write(part)
        return out.getvalue()

    def sealer(self, label: str, write: Callable[[bytes], object]) -> "Sealer":
        """Hands to `write`, sealed, what is written to it; `write` has to take all of it."""
        salt = self._random(_SALT_BYTES)
        return Sealer(AESGCM(self._derived(salt, label)), _MAGIC + salt, write)

    def parts(self, label: str, sealed: BinaryIO) -> Iterator[bytes]:
        """What is in `sealed`, part by part, each checked before it is given; the whole only once the last has come.

        Raises LocalError for what was not sealed for `label` or is not all of it.
        """
        head = _read(sealed, _HEAD_BYTES)
        if not is_sealed(head) or len(head) != _HEAD_BYTES:
            raise LocalError(f"{label}: is damaged or was not sealed by wardround; restore it from a backup")
        cipher = AESGCM(self._derived(head[len(_MAGIC) :], label))
        segment = _read(sealed, _SEGMENT + _TAG_BYTES)
        for number in range(_MOST_SEGMENTS):
            after = _read(sealed, _SEGMENT + _TAG_BYTES) if len(segment) == _SEGMENT + _TAG_BYTES else b""
            try:
                yield cipher.decrypt(_nonce(number, last=not after), segment, None)
            except InvalidTag:
                raise LocalError(
                    f"{label}: does not open: it is damaged, cut, of another place, or sealed under another key; "
                    "restore it from a backup"
                ) from None
            if not after:
                return
            segment = after

    def seal_file(self, label: str, data: bytes | memoryview, path: Path) -> None:
        """Make `path` hold `data` sealed, durably, for its owner only; on a failure (OSError) it keeps what it held."""
        with SealedFile(self, label, path) as file:
            file.write(data)
            file.commit()

    def open_file(self, label: str, path: Path) -> bytes:
        """What the sealed file `path` holds. Raises LocalError for one that cannot be read or does not open."""
        try:
            with path.open("rb") as file:
                out = io.BytesIO()
                for part in self.parts(label, file):
                    out.write(part)
                return out.getvalue()
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None

    def open_file_into(self, label: str, path: Path, out: memoryview) -> None:
        """Fill `out` with what the sealed file holds. Raises LocalError unless it is all there and as long as `out`."""
        try:
            size = opened_size(path.stat().st_size)
            if size != len(out):
                raise LocalError(f"{path}: expected a sealed file of {len(out)} bytes, got {size}")
            at = 0
            with path.open("rb") as file:
                for part in self.parts(label, file):
                    out[at : at + len(part)] = part
                    at += len(part)
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None

    def _derived(self, salt: bytes, label: str) -> bytes:
        info = b"wardround vault 1\0" + label.encode()
        return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=salt, info=info).derive(self._key)

    def __reduce__(self) -> str:
        raise TypeError("a Vault is not copied or pickled")


class Sealer:
    """Seals what is written to it as it comes; nothing that needs all of it opens before `finish`."""

    __slots__ = ("_cipher", "_number", "_rest", "_write")

    def __init__(self, cipher: AESGCM, head: bytes, write: Callable[[bytes], object]) -> None:
        self._cipher, self._write = cipher, write
        self._number = 0
        self._rest = bytearray()
        write(head)

    def write(self, data: bytes | memoryview) -> None:
        """Add `data`."""
        rest = memoryview(data).cast("B")
        while rest:
            if len(self._rest) == _SEGMENT:  # only now is it certain that it is not the last
                self._emit(last=False)
            taken = rest[: _SEGMENT - len(self._rest)]
            self._rest += taken
            rest = rest[len(taken) :]

    def finish(self) -> None:
        """Seal what is left as the last segment; nothing may be written after."""
        self._emit(last=True)

    def _emit(self, *, last: bool) -> None:
        if self._number >= _MOST_SEGMENTS:
            raise ValueError("expected at most 4 PiB")
        self._write(self._cipher.encrypt(_nonce(self._number, last=last), self._rest, None))
        self._number += 1
        self._rest.clear()


class SealedFile:
    """A sealed file in the making: there, whole and durable, after `commit`; left without it, nothing has changed."""

    __slots__ = ("_committed", "_descriptor", "_path", "_sealer", "_temporary", "size")

    def __init__(self, vault: Vault, label: str, path: Path, *, head: bytes = b"") -> None:
        """`head` is put before what is sealed, as it is."""
        self._path, self._temporary = path, path.with_name(TEMPORARY + path.name)
        self._committed = False
        self.size = 0
        """The bytes that were written so far."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self._descriptor = os.open(self._temporary, flags, 0o600)
        try:
            write_all(self._descriptor, head)
            self._sealer = vault.sealer(label, lambda data: write_all(self._descriptor, data))
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Add `data`. Raises OSError where the disk is full."""
        self._sealer.write(data)
        self.size += len(data)

    def commit(self) -> None:
        """Make the file take its place, durably."""
        self._sealer.finish()
        os.fsync(self._descriptor)
        os.replace(self._temporary, self._path)
        self._committed = True
        sync_folder(self._path.parent)

    def close(self) -> None:
        """Give the file free, and take it away where it was not committed; the same again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            if not self._committed:
                self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_sealed(head: bytes) -> bool:
    """Whether a file that begins with `head` says that a vault has sealed it."""
    return head.startswith(_MAGIC)


def opened_size(sealed_size: int) -> int:
    """How many bytes there are in a sealed file of this size; for what cannot be such a size, perhaps below 0."""
    body = sealed_size - _HEAD_BYTES
    segments = max(1, -(-body // (_SEGMENT + _TAG_BYTES)))
    return body - segments * _TAG_BYTES


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _read(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, or what there is until the end."""
    data = file.read(size)
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data
