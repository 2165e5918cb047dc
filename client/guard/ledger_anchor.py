"""The anchor of a ledger: its head, kept where whoever restores an old copy of the file does not reach.

It follows the file: a line is durable first, anchored next, and only then anything is released. A crash between the
two leaves an anchor that is behind, which the next transaction mends; an anchor that is ahead means that lines were
lost.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wardround.durable_file import replace_file
from wardround.errors import LocalError

__all__ = ["Anchor", "AnchorUnavailableError", "FileAnchor", "Grace", "Head"]

Head = tuple[int, str]
"""The number of lines and the hash of the last."""


class AnchorUnavailableError(LocalError):
    """The anchor cannot be asked now; it says nothing about the ledger."""


class Anchor(Protocol):
    """Holds the last head that it was given, for one ledger."""

    def get(self) -> Head | None:
        """The head; None if none was ever given. Raises AnchorUnavailableError when it cannot be reached."""
        ...

    def put(self, index: int, digest: str) -> None:
        """Keep the head; durable on return. Raises AnchorUnavailableError when that is not sure."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grace:
    """How many lines may be unanchored, and for how long, while jobs still run; by default none may.

    A process that has not reached the anchor itself goes by the file, where each line says which earlier one was
    anchored when it was written.
    """

    max_unanchored: int = 0
    max_age_s: float = 86400.0

    def __post_init__(self) -> None:
        if self.max_unanchored < 0 or not self.max_age_s >= 0:
            raise ValueError(f"expected a grace of at least 0, got {self.max_unanchored} lines, {self.max_age_s} s")


class FileAnchor:
    """An anchor in a file: in another folder, on another disk, so that one backup does not restore both."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self) -> Head | None:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            if self.path.parent.is_dir():
                return None
            raise AnchorUnavailableError(f"{self.path}: its folder is not there") from None
        except OSError as error:
            raise AnchorUnavailableError(f"{self.path}: cannot be read ({error.strerror})") from None
        try:
            table = json.loads(text)
            index, digest = table["index"], table["hash"]
        except (ValueError, KeyError, TypeError):
            index, digest = None, None
        if type(index) is not int or not isinstance(digest, str):
            raise LocalError(f"{self.path}: expected the anchor of a ledger, got something else; restore it")
        return index, digest

    def put(self, index: int, digest: str) -> None:
        try:
            replace_file(self.path, json.dumps({"index": index, "hash": digest}).encode())
        except OSError as error:
            raise AnchorUnavailableError(f"{self.path}: cannot be written ({error.strerror})") from None
