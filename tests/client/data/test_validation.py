"""Validation of tables: every rule, the same for CSV and Parquet, counts and never a value."""

import hashlib
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.data.tables import GOOD, SCHEMA, as_csv, as_parquet, counts, report_of, schema_of
from wardround.client.data.column_check import ColumnCheck
from wardround.client.data.report import Rule, ValidationReport
from wardround.client.data.schema import BadRows, DataSchema, parse_schema
from wardround.client.data.site_rows import read_site_rows
from wardround.client.data.table_rules import TableRules
from wardround.client.data.validation import TablePass, hash_of_id, read_good_rows, validate
from wardround.errors import LocalError
from wardround.plan import parse_plan
from wardround.plan_sections import Data

KEY = b"k" * 32
PLAN_DATA = '{ name = "age", range = [0, 120] }, { name = "crea", range = [0, 50] }'


def plan_data(columns: str, target: str = '{ name = "sex", classes = ["f", "m"] }', more: str = "") -> Data:
    text = f'name = "x"\nrounds = 1\n[task]\nname = "tabular-classifier"\n[data]\nsource = "csv"\npath = "x"\n{more}'
    return parse_plan(f"{text}\ntarget = {target}\ncolumns = [{columns}]\n[simulation]\nsites = 2\n").data


def with_cell(column: str, row: int, cell: str) -> dict[str, list[Any]]:
    table = {name: [*cells] for name, cells in GOOD.items()}
    table[column][row] = cell
    return table


def test_a_table_that_fits() -> None:
    report = report_of(GOOD)
    assert report.fits and (report.rows, report.bad, report.dropped, report.kept) == (4, 0, 0, 4)
    assert report.faults == () and report.lines()[-1] == "the data fit the schema"


@pytest.mark.parametrize(
    ("column", "cell", "rule"),
    [
        ("age", "secret", Rule.NUMBER),
        ("age", "inf", Rule.NUMBER),
        ("age", "1_0", Rule.NUMBER),
        ("age", "0x1A", Rule.NUMBER),
        ("age", "50.5", Rule.WHOLE),
        ("age", "121", Rule.RANGE),
        ("age", "", Rule.MISSING),
        ("age", "NA", Rule.MISSING),
        ("crea", "NA", Rule.NUMBER),  # its own texts are others
        ("crea", "nan", Rule.NUMBER),
        ("crea", "1e400", Rule.NUMBER),
        ("crea", "0", Rule.RANGE),
        ("sex", "x", Rule.CATEGORY),
        ("sex", "F", Rule.CATEGORY),
        ("smoker", "perhaps", Rule.BOOLEAN),
        ("admitted", "2021-02-29", Rule.DATE),
        ("admitted", "01.02.2021", Rule.DATE),
        ("admitted", "1999-12-31", Rule.RANGE),
        ("admitted", "2031-01-01", Rule.RANGE),
        ("mrn", "", Rule.MISSING),
    ],
)
def test_one_bad_cell_is_counted_under_its_rule(column: str, cell: str, rule: Rule) -> None:
    report = report_of(with_cell(column, 2, cell))
    assert counts(report) == {(column, rule): 1}
    assert (report.rows, report.bad, report.kept, report.fits) == (4, 1, 3, False)
    text = "\n".join(report.lines())
    assert "secret" not in text and column in text
    with pytest.raises(LocalError, match=r"expected no bad row, got 1 of 4 \(column '") as caught:
        report.check("ehr")
    assert "secret" not in str(caught.value)
    assert ValidationReport.decode(report.encode()) == report


def test_a_row_is_bad_once_however_much_it_breaks() -> None:
    table = with_cell("age", 1, "200")
    table["sex"][1], table["age"][3] = "?", "-1"
    report = report_of(table, head='on_bad_rows = "drop"\n')
    assert counts(report) == {("age", Rule.RANGE): 2, ("sex", Rule.CATEGORY): 1}
    assert (report.bad, report.kept, report.fits) == (2, 2, True)


def test_a_missing_value_is_allowed_bad_or_drops_its_row() -> None:
    table = with_cell("smoker", 0, " ")
    table["smoker"][1] = " "
    report = report_of(table)
    assert counts(report) == {("smoker", Rule.MISSING): 2}
    assert (report.bad, report.dropped, report.kept, report.fits) == (0, 2, 2, True)
    assert not report_of(table, head="min_rows = 3\n").fits


def test_space_around_a_value_is_no_part_of_it() -> None:
    assert report_of({name: [f"  {cell} " for cell in cells] for name, cells in GOOD.items()}).fits


def test_numbers_of_parquet_are_those_of_csv() -> None:
    """Typed cells, among them a code for missing, and whole numbers as ids."""
    table: dict[str, Sequence[Any]] = {
        "mrn": [1, 1, 2, 3],
        "age": [50, 51, None, 200],
        "crea": [1.1, -9.0, None, 99.0],
        "sex": ["f", "m", "m", "m"],
        "smoker": [True, False, None, True],
        "admitted": [date(2020, 1, 1), date(1990, 1, 1), None, date(2020, 1, 1)],
    }
    kinds = {"mrn": pa.int64(), "age": pa.int16(), "crea": pa.float64(), "smoker": pa.bool_(), "admitted": pa.date32()}
    typed = validate(schema_of(parquet=True), as_parquet(table, kinds), "x")
    text = {
        name: ["" if cell is None else str(cell).replace("True", "yes").replace("False", "no") for cell in cells]
        for name, cells in table.items()
    }
    assert typed == validate(schema_of(), as_csv(text), "x")
    assert counts(typed) == {
        ("age", Rule.MISSING): 1,
        ("age", Rule.RANGE): 1,
        ("crea", Rule.RANGE): 1,
        ("smoker", Rule.MISSING): 1,
        ("admitted", Rule.MISSING): 1,
        ("admitted", Rule.RANGE): 1,
    }


@pytest.mark.parametrize(
    ("column", "kind", "cells"),
    [
        ("age", pa.bool_(), [True, True, None, False]),
        ("age", pa.date32(), [date(2020, 1, 1)] * 4),
        ("sex", pa.list_(pa.string()), [["f"], ["m"], [], None]),
        ("admitted", pa.float64(), [1.0, 2.0, 3.0, 4.0]),
        ("mrn", pa.binary(), [b"a", b"b", b"c", b"d"]),
    ],
)
def test_a_column_of_another_type_is_counted_whole(column: str, kind: pa.DataType, cells: list[Any]) -> None:
    report = validate(schema_of(parquet=True), as_parquet({**GOOD, column: cells}, {column: kind}), "x")
    present = sum(cell is not None for cell in cells)
    assert counts(report)[column, Rule.TYPE] == present and not report.fits


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("age", "years"), "expected a column 'age', as the schema says"),
        (lambda text: text.replace("crea", "age"), "expected the column 'age' once, got it 2 times"),
        (lambda text: "", "expected a header and rows"),
        (lambda text: text.splitlines()[0] + "\n", "expected rows, got a header only"),
    ],
)
def test_a_file_that_is_not_the_schemas_is_named(change: Any, expected: str) -> None:
    text = change(as_csv(GOOD).getvalue().decode())
    with pytest.raises(LocalError, match=expected):
        validate(schema_of(), io.BytesIO(text.encode()), "ehr.csv")


def test_an_encoding_and_a_format_that_are_others_are_named() -> None:
    text = "mrn,age,crea,sex,smoker,admitted\nMüller,1,1,f,0,2020-01-01\n"
    with pytest.raises(LocalError, match="UTF-8"):
        validate(schema_of(), io.BytesIO(text.encode("cp1252")), "x")
    with pytest.raises(LocalError, match="expected a valid Parquet file"):
        validate(schema_of(parquet=True), as_csv(GOOD), "x")


def test_a_row_of_another_shape_is_counted_and_may_be_dropped() -> None:
    text = as_csv(GOOD).getvalue() + b"D4,1\n"
    report = validate(schema_of(), io.BytesIO(text), "x")
    assert counts(report) == {("", Rule.FIELDS): 1} and report.rows == 5 and not report.fits
    dropping = validate(schema_of(head='on_bad_rows = "drop"\n'), io.BytesIO(text), "x")
    assert dropping.fits and dropping.kept == 4


def test_a_comma_may_be_the_decimal_mark_and_a_point_is_then_none() -> None:
    table = {**GOOD, "crea": ["1,1", "2,25", "", "1.000"]}
    report = validate(schema_of(head='delimiter = ";"\ndecimal = ","\n'), as_csv(table, ";"), "x")
    assert counts(report) == {("crea", Rule.NUMBER): 1}


def test_dates_in_another_format() -> None:
    text = SCHEMA.replace('type = "date"', 'type = "date"\ndate_format = "%d.%m.%Y"')
    report = report_of({**GOOD, "admitted": ["28.02.2021", "30.02.2021", "", "2021-01-01"]}, text)
    assert counts(report) == {("admitted", Rule.MISSING): 1, ("admitted", Rule.DATE): 2}


def test_columns_that_are_not_listed_and_dropped_identifiers_are_never_read() -> None:
    """Whatever is in them: here something that no column may hold."""
    text = SCHEMA.replace('identifier_use = "hash"\n', "").replace('patient = "mrn"\n', "")
    cells = {**GOOD, "mrn": [[1], [2], [3], [4]], "note": [[1], [2], [3], [4]]}
    kinds = {"mrn": pa.list_(pa.int8()), "note": pa.list_(pa.int8())}
    report = validate(schema_of(text, parquet=True), as_parquet(cells, kinds), "x")
    assert report.fits and report.unlisted == 1


# -- rows for a plan ----------------------------------------------------------------------------------


def test_the_good_rows_of_a_plan() -> None:
    schema, table = schema_of(head='on_bad_rows = "drop"\n'), with_cell("age", 0, "-1")
    found = read_good_rows(schema, plan_data(PLAN_DATA), as_csv(table), "x", key=KEY)
    assert set(found.table.columns) == {"age", "crea"} and found.table.target is not None
    np.testing.assert_array_equal(found.table.columns["age"], [51, 34, 77])
    np.testing.assert_array_equal(found.table.columns["crea"], [np.nan, np.nan, 0.9])
    assert found.table.target.tolist() == ["f", "m", "m"]
    assert found.ids is not None and found.ids.tolist() == [hash_of_id(KEY, one) for one in ("A1", "B2", "C3")]
    other = read_good_rows(DataSchema.decode(schema.encode()), plan_data(PLAN_DATA), as_csv(table), "x", key=b"o")
    assert other.ids is not None and not set(other.ids) & set(found.ids)


def test_no_identifier_reaches_training() -> None:
    for column in ('{ name = "mrn", type = "category", categories = ["A1", "B2"] }', '{ name = "mrn" }'):
        with pytest.raises(LocalError, match="'mrn' is an identifier; it is no input and no target"):
            read_good_rows(schema_of(), plan_data(column), as_csv(GOOD), "x", key=KEY)
    found = read_good_rows(schema_of(), plan_data(PLAN_DATA, more='patient = "mrn"'), as_csv(GOOD), "x", key=KEY)
    assert not {"A1", "B2", "C3"} & set(found.table.columns["mrn"])
    assert found.table.columns["mrn"][0] == found.table.columns["mrn"][1]


def test_a_plan_may_name_no_column_that_the_schema_does_not_have() -> None:
    table = {**GOOD, "note": GOOD["age"]}
    with pytest.raises(LocalError, match="expected a column of the schema, got 'note'"):
        read_good_rows(schema_of(), plan_data('{ name = "note" }'), as_csv(table), "x", key=KEY)


@pytest.mark.parametrize("categories", [("false", "true"), ("no", "yes"), ("1", "0")])
def test_booleans_are_what_they_mean_not_how_they_are_written(categories: tuple[str, str]) -> None:
    listed = ", ".join(f'"{one}"' for one in categories)
    data = plan_data(f'{{ name = "smoker", type = "category", categories = [{listed}] }}')
    found = read_good_rows(schema_of(), data, as_csv(GOOD), "x", key=KEY).table.columns["smoker"]
    truth = {"false": 0, "no": 0, "0": 0, "true": 1, "yes": 1, "1": 1}
    assert [truth[one] for one in found] == [1, 0, 1, 0]
    numbers = read_good_rows(schema_of(), plan_data('{ name = "smoker" }'), as_csv(GOOD), "x", key=KEY)
    np.testing.assert_array_equal(numbers.table.columns["smoker"], [1, 0, 1, 0])


def test_data_that_do_not_fit_give_no_rows() -> None:
    with pytest.raises(LocalError, match=r"do not fit their schema: .*column 'age': out of its range in 1 row\)"):
        read_good_rows(schema_of(), plan_data(PLAN_DATA), as_csv(with_cell("age", 3, "999")), "x", key=KEY)


CELLS = st.one_of(
    st.sampled_from(["", "NA", "-9", "f", "m", "ja", "0", "1", "nan", "inf", "2020-02-30", "2020-01-01", " 7 ", "7.5"]),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\0\r\n"'), max_size=8),
)


@given(st.lists(st.tuples(*[CELLS] * 6), min_size=1, max_size=12))
def test_csv_and_parquet_are_one_to_the_rules(rows: list[tuple[str, ...]]) -> None:
    columns = {name: [row[at] for row in rows] for at, name in enumerate(GOOD)}
    report = report_of(columns)
    assert report.rows == len(rows) == report.bad + report.dropped + report.kept
    assert all(0 < one.count <= len(rows) for one in report.faults)
    assert (report.bad > 0) == any(one.column != "smoker" or one.rule is not Rule.MISSING for one in report.faults)


def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "x.csv", plan_data('{ name = "age", range = [0, 120] }')
    path.write_text("age,sex\n1,f\n2,m\n")
    rules = TableRules(digest=hashlib.sha256(path.read_bytes()).hexdigest())
    with path.open("rb") as file:
        assert len(read_site_rows(data, file, "x", "csv", rules).rows) == 2
        path.write_text("age,sex\n1,f\n3,m\n")
        with pytest.raises(LocalError, match="has changed while it was read"):
            read_site_rows(data, file, "x", "csv", rules)


def test_an_id_is_the_same_whatever_else_is_in_its_batch() -> None:
    """Else a patient would be two, and who withdraws would be found in some rows only."""
    schema = parse_schema(
        b'format = "parquet"\npatient = "id"\n[[columns]]\nname = "id"\ntype = "text"\nidentifier = true\n'
        b'identifier_use = "hash"\nmissing = "allow"\n'
    )
    found = []
    for other in (1.0, 0.5, 2.0**60, float("nan")):
        check = ColumnCheck.of(schema, schema.columns[0])
        found.append(check(pa.array([9876543210123.0, 40000000000.0, other])).values.to_pylist()[:2])
    assert found == [["9876543210123", "40000000000"]] * 4


def test_an_id_is_the_same_however_its_letters_are_composed() -> None:
    composed, apart = (unicodedata.normalize(form, "M\u00fcller-7") for form in ("NFC", "NFD"))
    assert composed != apart and hash_of_id(KEY, composed) == hash_of_id(KEY, apart) != hash_of_id(KEY, "Muller-7")


def test_nothing_is_kept_of_data_that_are_refused() -> None:
    table = with_cell("age", 1, "999")
    for bad, kept in ((BadRows.REFUSE, 0), (BadRows.DROP, 3)):
        passed = TablePass(replace(schema_of(), on_bad_rows=bad), as_csv(table), "x", ["age"])
        assert passed.run().bad == 1 and len(passed.column("age")) == kept
