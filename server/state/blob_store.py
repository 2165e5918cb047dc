"""Sealed files that are written once: first models and models, in `models/` of the state folder."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from wardround.errors import LocalError
from wardround.server.state.ids import new_id
from wardround.server.state.vault import SealedFile, Vault, opened_size

__all__ = ["BlobStore", "BlobWriter"]

_NAME = re.compile(r"[0-9a-f]{32}")


class BlobStore:
    """Files under names that it gives; each opens only under its own name, whoever renames it.

    A file is there before the row that names it, so what a killed server leaves is at most a file that no row names.
    """

    __slots__ = ("_folder", "_label", "_vault")

    def __init__(self, folder: Path, vault: Vault) -> None:
        self._folder, self._vault = folder, vault
        self._label = folder.name

    def put(self, data: bytes | memoryview) -> str:
        """Keep `data`, durably; its name. Raises LocalError where it cannot be written."""
        with self.receive() as writer:
            writer.write(data)
            return writer.commit()

    def receive(self) -> "BlobWriter":
        """A file to be written piece by piece, for `with`; without `commit` nothing of it stays."""
        name = new_id()
        return BlobWriter(self._vault, f"{self._label}/{name}", self._folder / name)

    def get(self, name: str) -> bytes:
        """What is kept under `name`. Raises LocalError where there is none, or it was changed from outside."""
        return self._vault.open_file(self._label_of(name), self._folder / name)

    def get_into(self, name: str, out: memoryview) -> None:
        """Fill `out` with it; its length has to be `size(name)`."""
        self._vault.open_file_into(self._label_of(name), self._folder / name, out)

    def parts(self, name: str) -> Iterator[bytes]:
        """What is kept under `name`, part by part; all of it only once the last has come. Raises as `get` does."""
        path = self._folder / name
        label = self._label_of(name)
        try:
            with path.open("rb") as file:
                yield from self._vault.parts(label, file)
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None

    def size(self, name: str) -> int:
        """How many bytes are kept under `name`."""
        self._label_of(name)
        try:
            return opened_size((self._folder / name).stat().st_size)
        except OSError as error:
            raise LocalError(f"{self._folder / name}: cannot be read ({error.strerror})") from None

    def delete(self, name: str) -> None:
        """Delete it, where it is there; no row may name it."""
        self._label_of(name)
        (self._folder / name).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Every name."""
        return {name for name in os.listdir(self._folder) if _NAME.fullmatch(name)}

    def _label_of(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise LocalError(f"{self._folder}: expected the name of a kept file, got {name[:40]!r}")
        return f"{self._label}/{name}"


class BlobWriter:
    """A kept file in the making."""

    __slots__ = ("_digest", "_file", "_name", "_path")

    def __init__(self, vault: Vault, label: str, path: Path) -> None:
        self._path, self._name = path, path.name
        self._digest = hashlib.sha256()
        try:
            self._file = SealedFile(vault, label, path)
        except OSError as error:
            raise self._refused(error) from None

    @property
    def size(self) -> int:
        """The bytes that were written so far."""
        return self._file.size

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of the bytes that were written so far."""
        return self._digest.digest()

    def write(self, data: bytes | memoryview) -> None:
        """Add `data`. Raises LocalError where it cannot be written."""
        try:
            self._file.write(data)
        except OSError as error:
            raise self._refused(error) from None
        self._digest.update(data)

    def commit(self) -> str:
        """Keep the file, durably; its name."""
        try:
            self._file.commit()
        except OSError as error:
            raise self._refused(error) from None
        return self._name

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(self, *ended: object) -> None:
        self._file.close()

    def _refused(self, error: OSError) -> LocalError:
        return LocalError(f"{self._path}: cannot be written ({error.strerror}); nothing was kept")
