"""The patients who have withdrawn from a population: keyed hashes of their ids, and never an id.

The key is made here when it is needed first, and stays with the site, also when it leaves a federation: equal ids must
stay equal for as long as the hashes are kept. Whoever has the key and an id can tell whether that patient withdrew.
"""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from wardround.client.agent.site_folder import SiteFolder
from wardround.durable_file import TEMPORARY, replace_file, sync_folder
from wardround.errors import LocalError

__all__ = ["Withdrawals"]

_FOLDER, _KEY = "withdrawn", "id-key"
_KEY_BYTES = 32
_MOST = 40_000
"""Hashes of a population: as many as an agent can tell its job in one message."""


class Withdrawals:
    """The withdrawals at the site of `folder`, by population."""

    __slots__ = ("_folder", "_random")

    def __init__(self, folder: SiteFolder, random: Callable[[int], bytes] = os.urandom) -> None:
        self._folder, self._random = folder, random

    def key(self) -> bytes:
        """The key that ids are hashed under at this site."""
        place = self._folder.folder(_FOLDER) / _KEY
        if not place.exists():
            if any(place.parent.glob("*.json")):
                raise LocalError(f"{place}: is missing, and what has withdrawn is hashed under it; restore it")
            self._make(place)
        key = self._folder.read(f"{_FOLDER}/{_KEY}")
        if len(key) != _KEY_BYTES:
            raise LocalError(f"{place}: expected {_KEY_BYTES} bytes; restore it from a copy")
        return key

    def _make(self, place: Path) -> None:
        """A new key, unless another process, a command or the agent, has made one meanwhile."""
        made = place.with_name(f"{TEMPORARY}{_KEY}-{os.getpid()}")
        try:
            replace_file(made, self._random(_KEY_BYTES), mode=0o600)
            with suppress(FileExistsError):
                os.link(made, place)
            made.unlink()
            sync_folder(place.parent)
        except OSError as error:
            raise LocalError(f"{place}: cannot be written ({error.strerror})") from None

    def hashes(self, population: str) -> tuple[str, ...]:
        """The hashes of those who have withdrawn, in order."""
        if self.stamp(population) is None:
            return ()
        try:
            table = json.loads(self._folder.read(self._name(population)))
            if table["version"] != 1 or not all(len(bytes.fromhex(one)) == 32 for one in table["hashes"]):
                raise ValueError("expected hashes of 32 bytes")
            return tuple(table["hashes"])
        except (ValueError, KeyError, TypeError) as error:
            raise LocalError(
                f"{self._folder.path / self._name(population)}: expected what was withdrawn ({error}); restore it"
            ) from None

    def add(self, population: str, hashes: Iterable[str]) -> int:
        """Keep more hashes, durably, and tell the agent; how many are new."""
        known = self.hashes(population)
        together = sorted({*known, *hashes})
        if len(together) > _MOST:
            raise LocalError(f"{population}: expected at most {_MOST} withdrawals; take those rows out of the file")
        if len(together) > len(known):
            self._folder.folder(_FOLDER)
            self._folder.write(self._name(population), json.dumps({"version": 1, "hashes": together}).encode())
            self._folder.touch()
        return len(together) - len(known)

    def forget(self, population: str) -> None:
        """Delete the hashes of a population. Twice is once."""
        (self._folder.path / self._name(population)).unlink(missing_ok=True)

    def stamp(self, population: str) -> tuple[int, int] | None:
        """Another value after each change; None where nobody has withdrawn. It costs one look at the file."""
        try:
            found = os.stat(self._folder.path / self._name(population))
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    @staticmethod
    def _name(population: str) -> str:
        return f"{_FOLDER}/{population}.json"
