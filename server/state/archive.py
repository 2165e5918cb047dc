"""One encrypted file that holds many: the form of a backup.

    b"wardround backup 1\\n"   cost of scrypt, 1 byte   salt, 16 bytes   a sealed tar archive (vault.py)

The key is scrypt's of the secret that also opens the keyring. The last member, `manifest.json`, names every other with
its size and SHA-256. Reading gives the members one by one; only after the last one is it known that all are there.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from wardround.errors import LocalError
from wardround.plain_text import plain_text
from wardround.server.state.keyring import stretched
from wardround.server.state.vault import SealedFile, Vault

__all__ = ["ArchiveWriter", "Member", "read_archive"]

_MAGIC = b"wardround backup 1\n"
_SALT_BYTES = 16
_COST, _MOST_COST = 17, 20
_LABEL = "backup"
_MANIFEST = "manifest.json"
_MOST_MANIFEST_BYTES = 256 << 20
_PIECE = 1 << 20


class ArchiveWriter:
    """A new archive at `path`, for `with`: there, whole and durable, after `commit`; left without it, there is none.

    LocalError where there is a file already, or it cannot be written.
    """

    __slots__ = ("_file", "_members", "_path", "_tar")

    def __init__(self, path: Path, secret: bytes, random: Callable[[int], bytes]) -> None:
        if os.path.lexists(path):
            raise LocalError(f"{path}: is there already; name another file for the backup")
        salt = random(_SALT_BYTES)
        vault = Vault(stretched(secret, salt, _COST), random)
        self._path = path
        self._members: dict[str, tuple[int, str]] = {}
        try:
            self._file = SealedFile(vault, _LABEL, path, head=_MAGIC + bytes([_COST]) + salt)
        except OSError as error:
            raise self._refused(error) from None
        self._tar = tarfile.open(fileobj=_Output(self._file), mode="w|", format=tarfile.PAX_FORMAT, bufsize=_PIECE)

    def add(self, name: str, data: bytes) -> None:
        """Add a member."""
        self._add(name, len(data), io.BytesIO(data))

    def add_file(self, name: str, file: BinaryIO, size: int | None = None) -> None:
        """Add what an open file holds now, or its first `size` bytes; what is appended meanwhile is left out.

        LocalError where it gets shorter.
        """
        self._add(name, os.fstat(file.fileno()).st_size if size is None else size, file)

    def commit(self, about: Mapping[str, Any]) -> None:
        """Add the manifest, which also holds `about`, and make the file take its place."""
        members = [[name, size, digest] for name, (size, digest) in self._members.items()]
        self.add(_MANIFEST, json.dumps({"about": dict(about), "members": members}).encode())
        try:
            self._tar.close()
            self._file.commit()
        except OSError as error:
            raise self._refused(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _add(self, name: str, size: int, file: BinaryIO) -> None:
        if name in self._members:
            raise ValueError(f"expected each member once, got {name!r} twice")
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        source = _Hashed(file)
        try:
            self._tar.addfile(info, source)
        except OSError as error:
            if source.short:
                raise LocalError(f"{name}: got shorter while it was copied; begin again") from None
            raise self._refused(error) from None
        self._members[name] = (size, source.digest.hexdigest())

    def _refused(self, error: OSError) -> LocalError:
        return LocalError(f"{self._path}: cannot be written ({error.strerror or 'the disk fails'}); there is no backup")


class Member:
    """A member that is being read; its bytes are to be trusted once the archive was read to its end."""

    __slots__ = ("_file", "name", "size")

    def __init__(self, name: str, size: int, file: "_Hashed") -> None:
        self.name, self.size, self._file = name, size, file

    def pieces(self) -> Iterator[bytes]:
        """What is in it."""
        while piece := self._file.read(_PIECE):
            yield piece

    def read(self, most_bytes: int) -> bytes:
        """All that is in it. LocalError for more than `most_bytes`."""
        if self.size > most_bytes:
            raise LocalError(f"{self.name}: expected at most {most_bytes} bytes, got {self.size}")
        return b"".join(self.pieces())


def read_archive(path: Path, secret: bytes, take: Callable[[Member], None]) -> dict[str, Any]:
    """Hand every member to `take`, in order, and give what the manifest says about the whole.

    LocalError for another secret, for a file that is damaged, cut, or no archive, and for members that the manifest
    does not name as they are. Names are not checked here: `take` has to.
    """
    try:
        with path.open("rb") as file:
            vault = _vault_for(path, file.read(len(_MAGIC) + 1 + _SALT_BYTES), secret)
            return _members_read(path, vault, file, take)
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None


def _members_read(path: Path, vault: Vault, file: BinaryIO, take: Callable[[Member], None]) -> dict[str, Any]:
    found: dict[str, tuple[int, str]] = {}
    manifest = b""
    source = _Input(vault.parts(_LABEL, file))
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=_PIECE) as tar:
            for info in tar:
                content = tar.extractfile(info) if info.isreg() else None
                if content is None or manifest or info.name in found:
                    raise LocalError(f"{path}: expected files alone, each once, and the manifest at the end")
                hashed = _Hashed(content)
                if info.name == _MANIFEST:
                    manifest = Member(info.name, info.size, hashed).read(_MOST_MANIFEST_BYTES)
                    continue
                take(Member(info.name, info.size, hashed))
                for _ in Member(info.name, info.size, hashed).pieces():
                    pass  # what `take` left
                found[info.name] = (info.size, hashed.digest.hexdigest())
        while source.read(_PIECE):
            pass  # to the last segment, which says that nothing was cut off
    except tarfile.TarError as error:
        raise LocalError(f"{path}: expected a backup made by wardround ({plain_text(str(error))})") from None
    try:
        said = json.loads(manifest)
    except (ValueError, RecursionError):
        said = None
    about = said.get("about") if isinstance(said, dict) else None
    members = [[name, size, digest] for name, (size, digest) in found.items()]
    if not isinstance(about, dict) or said.get("members") != members:
        raise LocalError(f"{path}: expected what its manifest names, got something else; take another backup")
    return about


def _vault_for(path: Path, head: bytes, secret: bytes) -> Vault:
    if not head.startswith(_MAGIC) or len(head) != len(_MAGIC) + 1 + _SALT_BYTES:
        raise LocalError(f"{path}: expected a backup made by wardround; take another file")
    cost = head[len(_MAGIC)]
    if not _COST <= cost <= _MOST_COST:
        raise LocalError(f"{path}: expected a cost of 2^{_COST} to 2^{_MOST_COST}, got 2^{cost}; take another backup")
    return Vault(stretched(secret, head[-_SALT_BYTES:], cost))


class _Output(io.RawIOBase):
    """A sealed file as tarfile writes to it."""

    def __init__(self, file: SealedFile) -> None:
        self._to = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._to.write(data)
        return len(data)


class _Input(io.RawIOBase):
    """Parts as tarfile reads from them."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest = parts, memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._rest = memoryview(part)
        data = bytes(self._rest[:size] if size >= 0 else self._rest)
        self._rest = self._rest[len(data) :]
        return data


class _Hashed(io.RawIOBase):
    """A file that notes the digest of what was read from it."""

    def __init__(self, file: Any) -> None:
        self._from = file
        self.digest = hashlib.sha256()
        self.short = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._from.read(size)
        self.short = 0 <= len(data) < size
        self.digest.update(data)
        return data
