"""Drafts of schemas: careful, and refused until a person has finished them."""

import io
import random

import pytest

from tests.client.data.tables import as_csv, as_parquet
from wardround.client.data.draft import draft_schema
from wardround.client.data.schema import ColumnKind, parse_schema
from wardround.client.data.validation import validate
from wardround.errors import LocalError

MADE = random.Random(1)  # noqa: S311 - a table
TABLE = {
    "MRN": [str(1000 + number) for number in range(200)],
    "PatientName": [f"Mr {number}" for number in range(200)],
    "age": [str(MADE.randint(18, 90)) for _ in range(200)],
    "crea": [f"{MADE.uniform(0.4, 3):.3f}" for _ in range(200)],
    "sex": [MADE.choice("fm") for _ in range(200)],
    "smoker": [MADE.choice(["ja", "nein", ""]) for _ in range(200)],
    "admitted": [f"{MADE.randint(1, 28):02}.03.2020" for _ in range(200)],
    "note": [f"seen by {number}" for number in range(200)],
    "ward": ["rare ward" if number == 7 else "A" for number in range(200)],
    "flag": [str(number % 2) for number in range(200)],
}


@pytest.mark.parametrize("parquet", [False, True])
def test_a_draft_fits_its_data_once_it_was_looked_at(parquet: bool) -> None:
    file = as_parquet(TABLE) if parquet else as_csv(TABLE, ";")
    text = draft_schema(file, "ehr", parquet=parquet)
    schema = parse_schema(text.encode())
    assert schema.draft is not None and "drawn from the data" in text
    kinds = {column.name: column.type for column in schema.columns}
    assert kinds["age"] is ColumnKind.INTEGER and kinds["crea"] is ColumnKind.NUMBER
    assert kinds["sex"] is ColumnKind.CATEGORY and kinds["smoker"] is kinds["flag"] is ColumnKind.BOOLEAN
    assert kinds["admitted"] is ColumnKind.DATE
    assert {column.name for column in schema.columns if column.identifier} == {"MRN", "PatientName", "note"}
    finished = parse_schema("\n".join(line for line in text.splitlines() if "draft =" not in line).encode())
    assert finished.draft is None and validate(finished, file, "ehr").fits


def test_ranges_are_wider_than_the_data_and_rare_words_are_not_copied() -> None:
    text = draft_schema(as_csv(TABLE), "ehr", parquet=False)
    crea = parse_schema(text.encode()).column("crea")
    assert crea is not None and crea.range is not None
    assert crea.range[0] <= min(map(float, TABLE["crea"])) and crea.range[1] >= max(map(float, TABLE["crea"]))
    assert min(TABLE["crea"]) not in text and max(TABLE["crea"]) not in text
    assert "rare ward" not in text and "Mr 5" not in text


@pytest.mark.parametrize("text", ["", "a,a\n1,2\n", "a,b\n", ",\n1,2\n"])
def test_what_is_no_table_has_no_draft(text: str) -> None:
    with pytest.raises(LocalError):
        draft_schema(io.BytesIO(text.encode()), "x", parquet=False)
    with pytest.raises(LocalError, match="Parquet"):
        draft_schema(io.BytesIO(text.encode()), "x", parquet=True)
