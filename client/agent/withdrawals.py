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

_FOLDER, _KEY, _LOCK = "withdrawn", "id-key", "withdrawn.lock"
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

    def add(self, population: str, hashes: Iterable[str], *, before: Callable[[], None] = lambda: None) -> int:
        """Keep more hashes, durably, and tell the agent; how many are new. Two at once come one after another.

        `before` is called once nothing speaks against it any more, and before anything is kept.
        """
        with self._folder.alone(_LOCK):
            known = self.hashes(population)
            together = sorted({*known, *hashes})
            if len(together) > _MOST:
                raise LocalError(f"{population}: expected at most {_MOST} withdrawals; take those rows out of the file")
            before()
            if len(together) > len(known):
                self._folder.folder(_FOLDER)
                self._folder.write(self._name(population), json.dumps({"version": 1, "hashes": together}).encode())
                self._folder.touch()
        return len(together) - len(known)

    def remember(self, population: str, name: str, digest: str, patient: tuple[str, str]) -> None:
        """Keep that a file belongs to the population, and which column of the data set `name` has the ids (and type).

        Both outlive the data set: under another name or read in another way, the same ids would not be found.
        """
        with self._folder.alone(_LOCK):
            digests, patients = self._files(population)
            if digest in digests and patients.get(name) == patient:
                return
            self._folder.folder(_FOLDER)
            table = {"version": 1, "digests": sorted({*digests, digest}), "patients": {**patients, name: patient}}
            self._folder.write(self._files_name(population), json.dumps(table, ensure_ascii=False).encode())

    def digests(self, population: str) -> tuple[str, ...]:
        """The files that belonged to the population since the first withdrawal."""
        return self._files(population)[0]

    def patient_columns(self, population: str) -> dict[str, tuple[str, str]]:
        """By data set, those that were removed included: the column with the ids, and its type."""
        return self._files(population)[1]

    def populations(self) -> list[str]:
        """Those from which somebody has withdrawn."""
        return sorted(path.name.removesuffix(".json") for path in (self._folder.path / _FOLDER).glob("*.json"))

    def forget(self, population: str) -> None:
        """Delete the hashes of a population. Twice is once."""
        with self._folder.alone(_LOCK):
            (self._folder.path / self._name(population)).unlink(missing_ok=True)
            (self._folder.path / self._files_name(population)).unlink(missing_ok=True)

    def stamp(self, population: str) -> tuple[int, int] | None:
        """Another value after each change; None where nobody has withdrawn. It costs one look at the file."""
        try:
            found = os.stat(self._folder.path / self._name(population))
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _files(self, population: str) -> tuple[tuple[str, ...], dict[str, tuple[str, str]]]:
        name = self._files_name(population)
        if not (self._folder.path / name).exists():
            return (), {}
        try:
            table = json.loads(self._folder.read(name))
            if table["version"] != 1:
                raise ValueError("expected version 1")
            patients = {data: (str(column), str(kind)) for data, (column, kind) in table["patients"].items()}
            return tuple(map(str, table["digests"])), patients
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LocalError(
                f"{self._folder.path / name}: expected files of a population ({error}); restore it"
            ) from None

    @staticmethod
    def _name(population: str) -> str:
        return f"{_FOLDER}/{population}.json"

    @staticmethod
    def _files_name(population: str) -> str:
        return f"{_FOLDER}/{population}.files"
