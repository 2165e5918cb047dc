"""The data sets that a site has registered: where a table is, what it was, and never a value of it."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wardround.client.agent.plan_store import PlanStore
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_log import note
from wardround.client.agent.withdrawals import Withdrawals
from wardround.errors import LocalError, MissingExtraError

if TYPE_CHECKING:
    from wardround.client.data.report import ValidationReport
    from wardround.client.data.schema import DataSchema
    from wardround.client.guard.ledger import Ledger
    from wardround.plan_privacy import Unit

__all__ = ["DataRegistry", "DataSet"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DELIMITERS = ",;\t"
_LOCK = "data.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A registered table: `format` is csv, parquet or images, `digest` the SHA-256 of what is read of it, hex."""

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
    schema: str | None = None
    """In its canonical form (`DataSchema.encode`); None where no schema checks the table."""
    schema_digest: str | None = None
    named_population: str | None = None
    report: Mapping[str, Any] | None = None
    """What the validation counted at the registration (`ValidationReport.encode`)."""

    @property
    def population(self) -> str:
        """The people in it, who share a ledger and their withdrawals with the other data sets of this name."""
        return self.named_population or self.name

    @property
    def binding(self) -> str:
        """What an approval is bound to: the digest of the file, and that of the schema where there is one."""
        if self.schema_digest is None:
            return self.digest
        return hashlib.sha256(f"{self.digest} {self.schema_digest}".encode()).hexdigest()

    def parsed_schema(self) -> "DataSchema | None":
        """The schema. Raises LocalError where this version does not read what was registered."""
        from wardround.client.data.schema import DataSchema

        return None if self.schema is None else DataSchema.decode(self.schema)

    def check_unchanged(self) -> None:
        """Raise LocalError unless the file is what was registered."""
        self._check(file_digest(Path(self.path), self._images))

    def open_unchanged(self) -> int:
        """A new descriptor of the file as it was registered. Raises LocalError where it is not any more."""
        from wardround.client.data.open_data import digest_of_open, open_data

        descriptor = open_data(Path(self.path), self._images)
        try:
            self._check(digest_of_open(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @property
    def _images(self) -> "DataSchema | None":
        """The schema, where it says which images belong to the file."""
        return self.parsed_schema() if self.format == "images" else None

    def _check(self, digest: str) -> None:
        if digest != self.digest:
            raise LocalError(
                f"data {self.name}: the file has changed since it was registered; register it again (wardround client "
                "data add) and approve the next run with it"
            )


class DataRegistry:
    """The data sets and the ledgers of the site of `folder`."""

    __slots__ = ("_folder",)

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder

    def add(
        self,
        path: Path,
        name: str,
        now: datetime,
        *,
        anchor: Path | None = None,
        schema: "DataSchema | None" = None,
        report: "ValidationReport | None" = None,
        by: str | None = None,
    ) -> DataSet:
        """Register a table, or again after it changed; what was spent on it stays spent.

        With a schema, `report` is what the validation found (`validate_file`). Raises LocalError for data that do not
        fit it, for what is no table with a header and rows, and for the file of another name.
        """
        if not _NAME.fullmatch(name):
            raise LocalError(f"{name[:80]!r}: expected a name of letters, digits, _ . and -")
        path = path.resolve()
        digest = file_digest(path, schema)
        if schema is None:
            form, columns, rows = _facts(path)
        else:
            if report is None or schema.draft is not None:
                raise LocalError("schema: expected one that a person has finished; delete its line draft = ...")
            report.check(str(path))
            form, columns, rows = schema.format.value, tuple(one.name for one in schema.columns), report.rows
        facts = (form, tuple(columns), rows)
        with self._folder.alone(_LOCK):  # two at once would not see each other's name, budget and withdrawals
            return self._add(path, name, now, digest, facts, anchor=anchor, schema=schema, report=report, by=by)

    def _add(
        self,
        path: Path,
        name: str,
        now: datetime,
        digest: str,
        facts: tuple[str, tuple[str, ...], int],
        *,
        anchor: Path | None,
        schema: "DataSchema | None",
        report: "ValidationReport | None",
        by: str | None,
    ) -> DataSet:
        """What was read of the file (`facts`: format, columns, rows) as a data set. The lock is held."""
        form, columns, rows = facts
        population = name if schema is None else schema.population or name
        for other in self.all():
            if other.name != name and (other.digest == digest or other.path == str(path)):
                raise LocalError(f"{path}: is registered as {other.name!r} already, with its budget")
        for other_name, budget in self.ledgers().items():
            if other_name != population and digest in budget.account().digests:
                raise LocalError(f"{path}: belongs to {other_name!r}, with the budget that was spent there")
        known = self.get(name)
        if known is not None and known.population != population:
            self._check_movable(known)
        self._check_ids(name, population, schema)
        self._check_withdrawn(name, population, digest, schema)
        anchored = self._anchor_of(population)
        if anchor is not None and anchored is not None and anchor.resolve() != anchored:
            raise LocalError(f"{anchor}: expected the anchor of population {population!r}, {anchored}")
        anchor = anchor or anchored
        found = DataSet(
            name=name,
            path=str(path),
            format=form,
            digest=digest,
            size_bytes=path.stat().st_size,
            rows=rows,
            columns=columns,
            added=now.isoformat(timespec="seconds"),
            anchor=None if anchor is None else str(anchor.resolve()),
            schema=None if schema is None else schema.encode(),
            schema_digest=None if schema is None else schema.digest,
            named_population=None if schema is None else schema.population,
            report=None if report is None else report.encode(),
        )
        ledger = self._ledger_of(population, anchored)
        if ledger is not None:
            ledger.admit_data(digest)  # before it is registered: whatever became of the rows inherits what was spent
        if schema is not None and self.withdrawals.stamp(population) is not None:
            self.withdrawals.remember(population, name, digest, _patient_of(schema))
        note(self._folder, "data.added", name, by=by, sha256=digest, rows=rows, schema=found.schema_digest)
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
        if data.population in others:
            raise LocalError(f"data {data.name}: has a budget already; its caps stay as they are")
        if others and not disjoint:
            raise LocalError(
                f"data {data.name}: expected --disjoint with the reason why no patient is in {', '.join(others)}, too"
            )
        path = self._place_of(data.population)
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
            name=data.population,
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
        """The ledger of a data set's population, where it has one."""
        data = data or self.get(name)
        population = name if data is None else data.population
        return self._ledger_of(population, self._anchor_of(population))

    def _ledger_of(self, population: str, anchor: Path | None) -> "Ledger | None":
        from wardround.client.guard.ledger import Ledger
        from wardround.client.guard.ledger_anchor import FileAnchor

        path = self._place_of(population)
        if not path.exists():
            return None
        return Ledger.open(path, anchor=None if anchor is None else FileAnchor(anchor))

    def _anchor_of(self, population: str) -> Path | None:
        """The one anchor of all data sets of a population."""
        found = (one.anchor for one in self.all() if one.population == population and one.anchor is not None)
        anchor = next(found, None)
        return None if anchor is None else Path(anchor)

    def ledgers(self) -> "dict[str, Ledger]":
        """Every population's ledger, those of data sets that were removed included."""
        names = sorted(path.stem for path in self._folder.folder("ledgers").glob("*.ledger"))
        found = {name: self._ledger_of(name, self._anchor_of(name)) for name in names}
        return {name: ledger for name, ledger in found.items() if ledger is not None}

    def _place_of(self, population: str) -> Path:
        return self._folder.path / "ledgers" / f"{population}.ledger"

    def ledger_path(self, name: str) -> Path:
        """The file of the ledger of a data set's population, there or not."""
        data = self.get(name)
        return self._place_of(name if data is None else data.population)

    def has_ledger(self, name: str) -> bool:
        return self.ledger_path(name).exists()

    def has_budget(self, population: str) -> bool:
        return self._place_of(population).exists()

    def _check_movable(self, data: DataSet) -> None:
        """Raise LocalError where its people have a budget or withdrawals, which they would leave behind."""
        if self.has_budget(data.population) or self.withdrawals.stamp(data.population) is not None:
            raise LocalError(
                f"data {data.name}: expected population {data.population!r}, whose budget and withdrawals are kept"
            )

    def _check_ids(self, name: str, population: str, schema: "DataSchema | None") -> None:
        """Raise LocalError where the same id would be another text than in the population's other data sets: who
        withdraws is to be found in all of them."""
        if schema is None or schema.patient is None:
            return
        kind = _patient_of(schema)[1]
        for other in self.all():
            its = other.parsed_schema() if other.name != name and other.population == population else None
            if its is not None and its.patient is not None and _patient_of(its)[1] != kind:
                raise LocalError(
                    f"data {name}: expected a patient column of type {_patient_of(its)[1]}, as {other.name!r} of the "
                    f"same population has it, got {kind}"
                )

    def _check_withdrawn(self, name: str, population: str, digest: str, schema: "DataSchema | None") -> None:
        """Raise LocalError where those who have withdrawn would not be found in what is registered."""
        kept = self.withdrawals
        for other in kept.populations():
            if other != population and digest in kept.digests(other):
                raise LocalError(f"data {name}: belongs to population {other!r}, from which patients have withdrawn")
        if kept.stamp(population) is None:
            return
        if schema is None or schema.patient is None:
            raise LocalError(
                f"data {name}: expected a schema that says whose a row is (patient), since patients have withdrawn "
                f"from {population!r}"
            )
        patient, before = _patient_of(schema), kept.patient_columns(population)
        known = self.get(name)
        if known is not None and (own := known.parsed_schema()) is not None and own.patient is not None:
            before.setdefault(name, _patient_of(own))
        if name in before and before[name] != patient:
            expected = " of type ".join(before[name])
            raise LocalError(
                f"data {name}: expected patient {expected}, by which patients have withdrawn, got "
                f"{' of type '.join(patient)}"
            )
        for other, (_, kind) in before.items():
            if kind != patient[1]:
                raise LocalError(
                    f"data {name}: expected a patient column of type {kind}, as {other!r} has it, by which patients "
                    f"have withdrawn, got {patient[1]}"
                )

    def withdrawn_elsewhere(self, data: DataSet) -> list[tuple[str, int]]:
        """(population, patients) of the others from which somebody has withdrawn: may be the same people."""
        kept = self.withdrawals
        return [(one, len(kept.hashes(one))) for one in kept.populations() if one != data.population]

    @property
    def withdrawals(self) -> Withdrawals:
        return Withdrawals(self._folder)

    def withdraw(self, data: DataSet, hashes: Sequence[str], *, by: str | None = None) -> int:
        """Use the rows of these patients no more, here and in all data sets of the population; how many are new."""

        def before() -> None:
            note(self._folder, "data.withdrawn", data.name, by=by, patients=len(hashes))

        with self._folder.alone(_LOCK):
            for one in self.all():
                schema = one.parsed_schema() if one.population == data.population else None
                if schema is not None and schema.patient is not None:
                    self.withdrawals.remember(data.population, one.name, one.digest, _patient_of(schema))
            return self.withdrawals.add(data.population, hashes, before=before)

    def users_of(self, name: str) -> list[str]:
        """The runs that are bound to a data set, those that have ended included."""
        plans = PlanStore(self._folder)
        decided = ((run, plans.decision(run)) for run in plans.runs())
        return [run for run, decision in decided if decision is not None and decision.data == name]

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

    def remove(self, name: str, *, by: str | None = None) -> None:
        """Forget where a data set is; its ledger stays, since what was spent stays spent.

        Raises LocalError while a run that is bound to it goes on.
        """
        self.find(name)
        self._check_unused(name, self.users_of(name))
        note(self._folder, "data.removed", name, by=by)
        (self._folder.path / "data" / f"{name}.json").unlink()
        self._folder.touch()

    def _check_unused(self, name: str, users: Sequence[str]) -> None:
        if going_on := set(users) & set(PlanStore(self._folder).open_runs()):
            raise LocalError(
                f"data {name}: expected no run that goes on with it, got {', '.join(sorted(going_on))}; end it first: "
                "wardround client plan deny ID"
            )

    def purge(self, name: str, *, by: str | None = None) -> None:
        """Forget a data set with all that tells of its rows: schema, report, withdrawals, and what its jobs printed.

        Its ledger stays. Withdrawals stay with the other data sets of the population, if there are any. Raises
        LocalError while a run that is bound to it goes on.
        """
        data, users = self.find(name), self.users_of(name)
        self._check_unused(name, users)
        note(self._folder, "data.purged", name, by=by)
        for run in users:
            for ending in ("log", "errors"):
                (self._folder.path / "jobs" / f"{run}.{ending}").unlink(missing_ok=True)
        self.remove(name, by=by)  # first: what fails in between must leave no data set without its withdrawals
        if all(one.population != data.population for one in self.all()):
            self.withdrawals.forget(data.population)


def file_digest(path: Path, schema: "DataSchema | None" = None) -> str:
    """SHA-256 of a table's file, hex; of a label file with its images where `schema` is one of those."""
    from wardround.client.data.open_data import digest_of_data

    return digest_of_data(path, schema)


def _patient_of(schema: "DataSchema") -> tuple[str, str]:
    """The column that says whose a row is, and its type: together they say which text of an id is hashed."""
    column = schema.column(schema.patient or "")
    return ("", "") if column is None else (column.name, column.type.value)


def _facts(path: Path) -> tuple[str, Sequence[str], int]:
    """Format, columns and number of rows of a table that no schema describes."""
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
    return form, columns, rows


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
