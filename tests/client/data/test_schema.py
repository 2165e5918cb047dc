"""Schemas: what is refused, with the key's path, and one digest for one meaning."""

import dataclasses

import pytest

from tests.client.data.tables import SCHEMA, schema_of
from wardround.client.data.schema import DEFAULT_MISSING, DataSchema, IdentifierUse, SchemaError, parse_schema

AGE = '[[columns]]\nname = "age"\ntype = "integer"\n'


def test_a_schema_is_read_and_encoded_again() -> None:
    schema = schema_of()
    assert [column.name for column in schema.columns] == ["mrn", "age", "crea", "sex", "smoker", "admitted"]
    assert DataSchema.decode(schema.encode()) == schema and schema.missing_texts == DEFAULT_MISSING
    assert schema_of(SCHEMA + "\n# only a comment\n").digest == schema.digest
    assert schema_of(SCHEMA.replace("[0, 120]", "[0.0, 120.0]")).digest == schema.digest
    assert schema_of(SCHEMA.replace("[0, 120]", "[0, 121]")).digest != schema.digest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "columns: expected a value"),
        ("columns = []", "columns: expected at least one column"),
        ("x = 1\n" + AGE, r"\.x: expected a known key"),
        ("[[columns]]\ntype = 'number'", r"columns\[0\]\.name: expected a value"),
        (AGE + "widht = 1", r"columns\[0\]\.widht: expected a known key"),
        (AGE + AGE, r"columns\[1\]\.name: expected every column once"),
        (AGE.replace("integer", "int"), r"columns\[0\]\.type: expected one of 'number', 'integer'"),
        (AGE + "range = [5, 1]", r"columns\[0\]\.range: expected \[smallest, largest\]"),
        (AGE + "range = [0, inf]", r"columns\[0\]\.range\[1\]: expected a finite number"),
        (AGE + "range = 5", r"columns\[0\]\.range: expected \[a number, a number\]"),
        (AGE + "categories = ['a']", r"columns\[0\]\.categories: expected none"),
        (AGE.replace("integer", "category"), r"columns\[0\]\.categories: expected every value"),
        (AGE.replace("integer", "category") + "categories = ['a', 'a']", r"categories: expected every value"),
        (AGE.replace("integer", "text") + "unit = 'a'", r"columns\[0\]\.unit: expected none"),
        (AGE.replace("integer", "date") + "earliest = '1.1.2000'", r"earliest: expected a date as YYYY-MM-DD"),
        (AGE.replace("integer", "date") + "date_format = '%A'", r"date_format: expected %Y"),
        (AGE.replace("integer", "boolean") + "true = ['x']\nfalse = ['x']", r"true: expected texts for true"),
        (AGE + "identifier_use = 'hash'", r"identifier_use: expected only where identifier = true"),
        ("patient = 'who'\n" + AGE, r"patient: expected a column of the table"),
        ("patient = 'age'\n" + AGE + "identifier = true", r"patient: expected a column that is read"),
        ("patient = 'age'\n" + AGE.replace("integer", "number"), r"patient: expected a column of text, whole numbers"),
        ("delimiter = ';;'\n" + AGE, r"delimiter: expected one character"),
        ("decimal = ','\n" + AGE, r"decimal: expected"),
        ("min_rows = 0\n" + AGE, r"min_rows: expected at least 1"),
        ("population = '../x'\n" + AGE, r"population: expected a name"),
        ("format = 'images'\n" + AGE, r"images: expected the images"),
        (f"{AGE}[images]\ncolumn = 'age'\nshape = [1, 2, 2]", r"images: expected the images where format"),
        ("columns = [", "expected TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(SchemaError, match=expected) as caught:
        parse_schema(text.encode(), "ehr.toml")
    assert str(caught.value).startswith("ehr.toml") and "\n" not in str(caught.value)


def test_other_bytes_are_no_schema() -> None:
    with pytest.raises(SchemaError, match="expected TOML"):
        parse_schema(b"\xff\xfe")
    with pytest.raises(SchemaError, match="expected at most"):
        parse_schema(b" " * (1 << 21))
    with pytest.raises(SchemaError, match="canonical form"):
        DataSchema.decode("{")


def test_a_category_may_be_called_what_means_missing_elsewhere() -> None:
    schema = schema_of(SCHEMA.replace('["f", "m"]', '["f", "m", "None"]'))
    sex = schema.column("sex")
    assert sex is not None and "None" not in schema.missing_in(sex) and "" in schema.missing_in(sex)


def test_a_dropped_identifier_is_not_read() -> None:
    mrn = schema_of().column("mrn")
    assert mrn is not None and mrn.is_read
    assert not dataclasses.replace(mrn, identifier_use=IdentifierUse.DROP).is_read
