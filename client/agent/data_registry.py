"""The data sets that a site has registered: where a table is, what it was, and never a value of it."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_log import note
from wardround.errors import LocalError, MissingExtraError

if TYPE_CHECKING:
    from wardround.client.guard.ledger import Ledger
    from wardround.plan_privacy import Unit

__all__ = ["DataRegistry", "DataSet"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DELIMITERS = ",;\t"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A registered table: `format` is csv or parquet, `digest` the SHA-256 of its file, hex."""

    name: str
    path: str
    format: str
    digest: str
    size_bytes: int
    rows: int
    columns: tuple[str, ...]
    added: str
    anchor: str | None = None
    """Where the head of its ledger is kept besides."""

    def check_unchanged(self) -> None:
        """Raise LocalError unless the file is what was registered."""
        if file_digest(Path(self.path)) != self.digest:
            raise LocalError(
                f"data {self.name}: the file has changed since it was registered; register it again (wardround client "
                "data add) and approve the next run with it"
            )


class DataRegistry:
    """The data sets and the ledgers of the site of `folder`."""

    __slots__ = ("_folder",)

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder

    def add(self, path: Path, name: str, now: datetime, *, anchor: Path | None = None) -> DataSet:
        """Register a table, or again after it changed; what was spent on it stays spent.

        Raises LocalError for what is no table with a header and rows, and for the file of another name.
        """
        if not _NAME.fullmatch(name):
            raise LocalError(f"{name[:80]!r}: expected a name of letters, digits, _ . and -")
        path = path.resolve()
        digest = file_digest(path)
        form = "parquet" if path.suffix.lower() in (".parquet", ".pq") else "csv"
        try:
            columns, rows = _parquet_facts(path) if form == "parquet" else _csv_facts(path)
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror or 'not Parquet'})") from None
        except UnicodeDecodeError:
            raise LocalError(f"{path}: expected text in UTF-8; save the file in this encoding") from None
        except csv.Error as error:
            raise LocalError(f"{path}: expected a CSV file ({error})") from None
        if not rows or not columns:
            raise LocalError(f"{path}: expected a header and rows")
        for other in self.all():
            if other.name != name and (other.digest == digest or other.path == str(path)):
                raise LocalError(f"{path}: is registered as {other.name!r} already, with its budget")
        for other_name, budget in self.ledgers().items():
            if other_name != name and digest in budget.account().digests:
                raise LocalError(f"{path}: belongs to {other_name!r}, with the budget that was spent there")
        known = self.get(name)
        if anchor is None and known is not None and known.anchor is not None:
            anchor = Path(known.anchor)
        found = DataSet(
            name=name,
            path=str(path),
            format=form,
            digest=digest,
            size_bytes=path.stat().st_size,
            rows=rows,
            columns=tuple(columns),
            added=now.isoformat(timespec="seconds"),
            anchor=None if anchor is None else str(anchor.resolve()),
        )
        ledger = self.ledger(name, known)
        if ledger is not None:
            ledger.admit_data(digest)  # before it is registered: whatever became of the rows inherits what was spent
        note(
            self._folder,
            "data.added",
            name,
            sha256=digest,
            rows=rows,
        )
        self._folder.folder("data")
        table = {"version": 1, **asdict(found)}
        self._folder.write(f"data/{name}.json", json.dumps(table, ensure_ascii=False).encode())
        self._folder.touch()
        return found

    def make_ledger(
        self, data: DataSet, *, epsilon: float, delta: float, unit: "Unit", by: str, disjoint: str | None
    ) -> "Ledger":
        """The ledger of a registered data set; its caps stay as they are for ever.

        Raises LocalError where it has one, and, beside other ledgers, without the reason why no patient is in both.
        """
        from wardround.client.guard.ledger import Ledger
        from wardround.client.guard.ledger_anchor import FileAnchor
        from wardround.plan_privacy import Relation

        others = self.ledgers()
        if data.name in others:
            raise LocalError(f"data {data.name}: has a budget already; its caps stay as they are")
        if others and not disjoint:
            raise LocalError(
                f"data {data.name}: expected --disjoint with the reason why no patient is in {', '.join(others)}, too"
            )
        path = self.ledger_path(data.name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if data.anchor is not None and Path(data.anchor).is_relative_to(self._folder.path.resolve()):
            raise LocalError(f"{data.anchor}: expected a place outside {self._folder.path}, which one backup holds")
        note(
            self._folder,
            "budget.made",
            data.name,
            by=by,
            epsilon=epsilon,
            delta=delta,
            unit=unit.value,
            disjoint=disjoint,
        )
        made = Ledger.create(
            path,
            name=data.name,
            unit=unit,
            relation=Relation.REPLACE_ONE,
            epsilon=epsilon,
            delta=delta,
            digest=data.digest,
            anchor=None if data.anchor is None else FileAnchor(Path(data.anchor)),
        )
        os.chmod(path, 0o600)
        for other in others.values():
            made.declare_disjoint(other, by=by, reason=disjoint or "")
        return made

    def ledger(self, name: str, data: DataSet | None = None) -> "Ledger | None":
        """The ledger of a data set, where it has one."""
        from wardround.client.guard.ledger import Ledger
        from wardround.client.guard.ledger_anchor import FileAnchor

        path = self.ledger_path(name)
        if not path.exists():
            return None
        data = data or self.get(name)
        anchor = None if data is None or data.anchor is None else FileAnchor(Path(data.anchor))
        return Ledger.open(path, anchor=anchor)

    def ledgers(self) -> "dict[str, Ledger]":
        """Every ledger there is, those of data sets that were removed included."""
        names = sorted(path.stem for path in self._folder.folder("ledgers").glob("*.ledger"))
        return {name: ledger for name in names if (ledger := self.ledger(name)) is not None}

    def ledger_path(self, name: str) -> Path:
        return self._folder.path / "ledgers" / f"{name}.ledger"

    def has_ledger(self, name: str) -> bool:
        return self.ledger_path(name).exists()

    def all(self) -> list[DataSet]:
        names = sorted(path.stem for path in self._folder.folder("data").glob("*.json"))
        return [data for name in names if (data := self.get(name)) is not None]

    def get(self, name: str) -> DataSet | None:
        if not _NAME.fullmatch(name) or not (self._folder.path / "data" / f"{name}.json").exists():
            return None
        try:
            table: dict[str, Any] = json.loads(self._folder.read(f"data/{name}.json"))
            if table.pop("version") != 1:
                raise ValueError("expected version 1")
            return DataSet(**{**table, "columns": tuple(table["columns"])})
        except (ValueError, KeyError, TypeError) as error:
            raise LocalError(f"data {name}: expected what was registered ({error}); register it again") from None

    def find(self, name: str) -> DataSet:
        """The data set of this name. Raises LocalError where there is none."""
        found = self.get(name)
        if found is None:
            known = ", ".join(one.name for one in self.all()) or "none"
            raise LocalError(f"data {name!r}: expected a registered data set ({known}); see: wardround client data add")
        return found

    def remove(self, name: str) -> None:
        """Forget where a data set is; its ledger stays, since what was spent stays spent."""
        self.find(name)
        note(self._folder, "data.removed", name)
        (self._folder.path / "data" / f"{name}.json").unlink()
        self._folder.touch()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None


def _csv_facts(path: Path) -> tuple[Sequence[str], int]:
    """The header, and how many records follow; empty lines do not count."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline()
        delimiter = max(_DELIMITERS, key=line.count)
        file.seek(0)
        records = csv.reader(file, delimiter=delimiter)
        header = next(records, [])
        return header, sum(1 for record in records if record)


def _parquet_facts(path: Path) -> tuple[Sequence[str], int]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError("job", "pyarrow") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.schema_arrow.names, file.metadata.num_rows
    except pyarrow.ArrowInvalid:
        raise LocalError(f"{path}: expected a valid Parquet file") from None
