"""`wardround client data`: the tables and images that may be trained on. What is heavy is imported by its command."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.command_line import By, Json, State, site_of, user
from wardround.errors import LocalError

if TYPE_CHECKING:
    from wardround.client.data.schema import DataSchema

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)
data_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The data sets that may be trained on.")
app.add_typer(data_app, name="data")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered data set.")]
_MOST_IDS_BYTES = 1 << 24


@data_app.command("add")
def add_data(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV, Parquet, or a folder of images; it stays where it is.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call it.  [default: the file's name]")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(metavar="TOML", help="What its columns are; the data are checked against it.")
    ] = None,
    infer: Annotated[
        bool, typer.Option("--infer", help="Write a draft of a schema to --schema, and register nothing.")
    ] = False,
    max_epsilon: Annotated[
        float | None, typer.Option(metavar="E", help="The most privacy that may ever be spent on it.")
    ] = None,
    delta: Annotated[float | None, typer.Option(metavar="D", help="The failure probability that goes with it.")] = None,
    unit: Annotated[str, typer.Option(metavar="patient|row", help="Whose presence is hidden.")] = "patient",
    anchor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the ledger's head there too, on another disk."),
    ] = None,
    disjoint: Annotated[
        str | None, typer.Option(metavar="REASON", help="Why no patient is in another data set that has a budget.")
    ] = None,
    by: By = None,
    state: State = None,
) -> None:
    """Register a data set, or again after it changed. With --max-epsilon it gets a privacy budget, for ever."""
    from wardround.client.agent.data_registry import DataRegistry
    from wardround.client.data.image_pack import label_file
    from wardround.clock import utc_now
    from wardround.plan_privacy import Unit

    if infer:
        _draft(file, schema)
        return
    if (max_epsilon is None) != (delta is None):
        raise LocalError("expected --max-epsilon and --delta together")
    if unit not in ("patient", "row"):
        raise LocalError(f"--unit: expected patient or row, got {unit[:80]!r}")
    registry = DataRegistry(site_of(state))
    name, file = name or file.resolve().stem, label_file(file)
    checked = None if schema is None else _read(schema)
    population = name if checked is None else checked.population or name
    if max_epsilon is not None and registry.has_budget(population):
        raise LocalError(f"data {name}: has a budget already; its caps stay as they are")
    report = None
    if checked is not None:
        from wardround.client.data.validate_file import validate_file

        report = validate_file(checked, file)
        for line in report.lines():
            typer.echo(line)
    again = registry.get(name) is not None
    data = registry.add(file, name, utc_now(), anchor=anchor, schema=checked, report=report, by=by or user())
    typer.echo(f"{data.name}: {data.rows} rows, {len(data.columns)} columns, SHA-256 {data.digest[:12]}...")
    if checked is None:
        typer.echo(f"{data.name}: no schema checks it; --infer drafts one, --schema TOML registers with it")
    for other, patients in [] if again else registry.withdrawn_elsewhere(data):
        typer.echo(
            f"{patients} patients have withdrawn from {other!r}: the same people? then set population in the schema"
        )
    if max_epsilon is not None and delta is not None:
        registry.make_ledger(
            data, epsilon=max_epsilon, delta=delta, unit=Unit(unit), by=by or user(), disjoint=disjoint
        )
        typer.echo(f"{data.name}: epsilon {max_epsilon:g} at delta {delta:g} for every {unit}, for ever")


def _draft(file: Path, target: Path | None) -> None:
    from wardround.client.data.draft import draft_schema

    target = target or file.with_suffix(".toml")
    if target.exists():
        raise LocalError(f"{target}: is there already; name another file for the draft: --schema TOML")
    with file.open("rb") as opened:
        text = draft_schema(opened, str(file), parquet=file.suffix.lower() in (".parquet", ".pq"))
    target.write_text(text, encoding="utf-8")
    typer.echo(f"{target}: a draft; read and finish it, then: wardround client data add {file} --schema {target}")


def _read(path: Path) -> "DataSchema":
    from wardround.client.data.schema import parse_schema

    return parse_schema(path.read_bytes(), str(path))


@data_app.command("list")
def list_data(state: State = None, as_json: Json = False) -> None:
    """List the registered data sets."""
    from dataclasses import asdict

    from wardround.client.agent.data_registry import DataRegistry

    registry = DataRegistry(site_of(state))
    found = registry.all()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], ensure_ascii=False))
        return
    for one in found:
        has = "with a budget" if registry.has_ledger(one.name) else "no budget"
        checked = "schema" if one.schema is not None else "no schema"
        typer.echo(f"{one.name:16} {one.rows:>8} rows  {len(one.columns):>4} columns  {checked}, {has}  {one.path}")
    if not found:
        typer.echo("none (wardround client data add FILE)")


@data_app.command("show")
def show_data(name: Name, state: State = None, as_json: Json = False) -> None:
    """Show a data set: where it is, what its schema says, what its last validation counted. Never a value."""
    from dataclasses import asdict

    from wardround.client.agent.data_registry import DataRegistry
    from wardround.client.data.report import ValidationReport

    registry = DataRegistry(site_of(state))
    data = registry.find(name)
    withdrawn, runs = len(registry.withdrawals.hashes(data.population)), registry.users_of(name)
    if as_json:
        table = {**asdict(data), "population": data.population, "withdrawn": withdrawn, "runs": runs}
        typer.echo(json.dumps(table, ensure_ascii=False))
        return
    typer.echo(f"data         {data.name}, {data.rows} rows, registered {data.added[:16]}")
    typer.echo(f"file         {data.path}, {data.format}, SHA-256 {data.digest}")
    typer.echo(f"population   {data.population}{'' if registry.has_ledger(name) else ', without a budget'}")
    typer.echo(f"withdrawn    {withdrawn} patients")
    typer.echo(f"runs         {', '.join(run[:12] for run in runs) or 'none'}")
    schema = data.parsed_schema()
    if schema is None:
        typer.echo("schema       none")
        return
    typer.echo(f"schema       SHA-256 {data.schema_digest}, whose a row is: {schema.patient or 'not said'}")
    for column in schema.columns:
        about = [column.type.value, *([column.unit] if column.unit else [])]
        about += [f"{column.range[0]:g} to {column.range[1]:g}"] if column.range is not None else []
        about += [", ".join(column.categories)] if column.categories else []
        about += ["identifier, hashed" if column.is_read else "identifier, never read"] if column.identifier else []
        typer.echo(f"  {column.name:20} {'; '.join(about)}")
    if data.report is not None:
        typer.echo("as it was registered:")
        for line in ValidationReport.decode(dict(data.report)).lines():
            typer.echo(f"  {line}")


@data_app.command("validate")
def validate_data(name: Name, state: State = None, as_json: Json = False) -> None:
    """Check a data set against its schema now, as every job does: counts for each column and rule, never a value."""
    from wardround.client.agent.data_registry import DataRegistry
    from wardround.client.data.validate_file import validate_file

    data = DataRegistry(site_of(state)).find(name)
    schema = data.parsed_schema()
    if schema is None:
        raise LocalError(f"data {name}: expected a schema; register it with one: wardround client data add --schema")
    report = validate_file(schema, Path(data.path))
    if as_json:
        typer.echo(json.dumps({**report.encode(), "fits": report.fits}, ensure_ascii=False))
    else:
        for line in report.lines():
            typer.echo(line)
    report.check(f"data {name}")
    data.check_unchanged()


@data_app.command("withdraw")
def withdraw(
    name: Name,
    patient: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Who withdraws; - reads ids from standard input. May be repeated."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="LIST", help="Ids of those who withdraw, one a line.")
    ] = None,
    by: By = None,
    state: State = None,
) -> None:
    """Use a patient's rows no more, from the next order of any run on. Only keyed hashes of ids are kept."""
    import sys

    from wardround.client.agent.data_registry import DataRegistry
    from wardround.client.data.patient_rows import count_patients

    registry = DataRegistry(site_of(state))
    data = registry.find(name)
    schema = data.parsed_schema()
    if schema is None or schema.patient is None:
        raise LocalError(f'data {name}: expected a schema that says whose a row is (patient = "column")')
    ids = [one for one in patient or [] if one != "-"]
    texts = [sys.stdin.read(_MOST_IDS_BYTES)] if "-" in (patient or []) else []
    if file is not None:
        with file.open(encoding="utf-8-sig") as opened:
            texts.append(opened.read(_MOST_IDS_BYTES))
    ids += [line for text in texts for line in text.splitlines()]
    ids = [one for one in dict.fromkeys(one.strip() for one in ids) if one]
    if not ids:
        raise LocalError("expected --patient ID or --file LIST")
    found = count_patients(schema, Path(data.path), ids, key=registry.withdrawals.key())
    new = registry.withdraw(data, found.hashes, by=by or user())
    typer.echo(f"{name}: {new} patients have withdrawn, {len(ids) - new} had before")
    typer.echo(f"{found.rows} rows are used no more, from the next order of a run on")
    if found.unknown:
        typer.echo(f"{found.unknown} of the ids are in no row of this data set: is that how the file writes them?")
    for other in registry.all():
        its = other.parsed_schema() if other.name != name and other.population == data.population else None
        if its is None or its.patient is None:  # no job reads such a one
            continue
        try:
            there = count_patients(its, Path(other.path), ids, key=registry.withdrawals.key())
        except LocalError as error:
            typer.echo(f"{other.name}, of the same people: {error}")
            continue
        typer.echo(f"{other.name}, of the same people: {there.rows} rows, {there.unknown} of the ids in none")
    typer.echo("what runs have learned so far stays learned; what was spent stays spent")


@data_app.command("remove")
def remove_data(name: Name, by: By = None, state: State = None) -> None:
    """Forget where a data set is, once no run uses it; the file, its ledger, and who has withdrawn stay."""
    from wardround.client.agent.data_registry import DataRegistry

    DataRegistry(site_of(state)).remove(name, by=by or user())
    typer.echo(f"{name}: forgotten; the file and what was spent on it stay")


@data_app.command("purge")
def purge(
    name: Name,
    file: Annotated[bool, typer.Option("--file", help="Delete the file itself, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    by: By = None,
    state: State = None,
) -> None:
    """Forget a data set for good: path, schema, report, withdrawals, logs of its jobs. The ledger stays."""
    from wardround.client.agent.data_registry import DataRegistry

    registry = DataRegistry(site_of(state))
    data = registry.find(name)
    if file and data.format == "images":
        raise LocalError(f"data {name}: expected a table; delete a folder of images yourself: {Path(data.path).parent}")
    if not yes:
        also = f" AND DELETE {data.path}" if file else ""
        typer.confirm(f"Forget {name!r}, its schema and who has withdrawn{also}?", abort=True)
    registry.purge(name, by=by or user())
    if file:
        Path(data.path).unlink(missing_ok=True)
    typer.echo(f"{name}: forgotten{f', {data.path} is deleted' if file else ''}; what was spent on it stays spent")
