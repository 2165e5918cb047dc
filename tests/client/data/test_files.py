"""Files: what is read, and one clear line for each way in which a file can be wrong."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wardround.client.data.encoding import encode_rows, encode_table
from wardround.client.data.files import read_table
from wardround.decoding import PlanError, decode
from wardround.errors import LocalError, MissingExtraError
from wardround.plan_sections import Data

VALUE = "pr1vate"  # a patient's value: no message may show it


def data(**more: object) -> Data:
    table = {
        "source": "csv",
        "path": "x.csv",
        "target": {"name": "sick", "classes": ["no", "yes"]},
        "columns": [
            {"name": "age", "unit": "years", "range": [0, 120]},
            {"name": "blood", "type": "category", "categories": ["0", "A", "NA"]},
        ],
    }
    return decode(Data, {**table, **more})


def write(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "id,age,blood,sick\n1,30,0,no\n2,40.5,A,yes\n3,+5e1,NA,no\n"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("id,", '"id, of the patient",', 1),
        GOOD.replace("2,40.5", '"two\nlines", 40.5 '),
        GOOD + "\n",
    ],
)
def test_csv_dialects_read_alike(tmp_path: Path, text: str) -> None:
    table = read_table(data(), write(tmp_path, text))
    assert set(table.columns) == {"age", "blood"}
    rows = encode_rows(data(), table)
    assert rows.x.tolist() == [[30, 1, 0, 0], [40.5, 0, 1, 0], [50, 0, 0, 1]]
    assert rows.y.tolist() == [0, 1, 0]


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    columns = {
        "age": pa.array([30, 40.5, 50]),
        "blood": pa.array(["0", "A", "NA"]).dictionary_encode(),
        "sick": ["no", "yes", "no"],
        "id": [VALUE] * 3,
    }
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    table = read_table(data(), path)
    from_csv = encode_rows(data(), read_table(data(), write(tmp_path, GOOD)))
    rows = encode_rows(data(), table)
    assert np.array_equal(rows.x, from_csv.x) and np.array_equal(rows.y, from_csv.y)
    assert table.row(0) == 1


def test_parquet_integers_bools_and_nulls(tmp_path: Path) -> None:
    plan = data(
        target={"name": "sick", "classes": ["false", "true"]},
        columns=[{"name": "age"}, {"name": "ward", "type": "category", "categories": ["1", "2"]}],
        missing="drop-row",
    )
    path = tmp_path / "rows.pq"
    pq.write_table(pa.table({"age": [1, None, 3], "ward": [1, 2, 2], "sick": [True, False, False]}), path)
    encoded = encode_table(plan, read_table(plan, path))
    assert encoded.rows.x.tolist() == [[1, 1, 0], [3, 0, 1]] and encoded.rows.y.tolist() == [1, 0]
    assert encoded.dropped == 1 and encoded.kept.tolist() == [0, 2]


def test_a_target_and_further_columns_are_optional(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    table = read_table(data(), path, target=False, extra=["id"])
    assert table.target is None and table.column("id").tolist() == ["1", "2", "3"]
    assert read_table(data(), path, extra=["sick", "age"]).column("sick").tolist() == ["no", "yes", "no"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"rows.csv: expected a header and rows, got an empty file"),
        ("age,blood,sick\n", r"rows.csv: expected rows, got an empty file \(a header only\)"),
        (GOOD.replace("age", "agee"), r"rows.csv: expected a column 'age'; did you mean 'agee'\?"),
        (GOOD.replace("id", "age", 1), r"rows.csv: expected the column 'age' once, got it 2 times"),
        (f"{GOOD}4,{VALUE},A,no\n", r"rows.csv: column 'age': expected numbers, got text in 1 row, first in row 5"),
        (f"{GOOD}4,1_0,A,no\n", r"column 'age': expected numbers, got text in 1 row, first in row 5"),
        (f"{GOOD}4,,A,no\n5,n/a,A,no\n", r"column 'age': expected a value in every row .*2 rows, first in row 5"),
        (f"{GOOD}4,50,{VALUE},no\n", r"column 'blood': expected one of '0', 'A', 'NA', got another .* first in row 5"),
        (f"{GOOD}4,50,A,{VALUE}\n", r"column 'sick': expected one of 'no', 'yes', got another value .* in row 5"),
        (f"{GOOD}4,50,A,\n", r"column 'sick': expected a value in every row .* in row 5"),
        (f"{GOOD}4,{120.5},A,no\n", r"column 'age': expected values from 0 to 120 years, got one outside .* in row 5"),
        (f"{GOOD}4,inf,A,no\n", r"column 'age': expected finite numbers, got infinity in 1 row, first in row 5"),
        (f"{GOOD}4,{VALUE}\n", r"rows.csv: row 5: expected 4 values, got 2"),
    ],
)
def test_bad_files_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(LocalError, match=expected) as caught:
        encode_rows(data(), read_table(data(), path))
    assert VALUE not in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"none\.csv: expected a readable file \(No such file"):
        read_table(data(), tmp_path / "none.csv")
    with pytest.raises(LocalError, match=r"none\.pq: expected a readable file"):
        read_table(data(), tmp_path / "none.pq")
    with pytest.raises(LocalError, match="expected a readable file"):
        read_table(data(), tmp_path)
    (tmp_path / "latin.csv").write_bytes(GOOD.replace("no", "né").encode("latin-1"))
    with pytest.raises(LocalError, match="UTF-8"):
        read_table(data(), tmp_path / "latin.csv")
    (tmp_path / "false.parquet").write_text(VALUE)
    with pytest.raises(LocalError, match="expected a valid Parquet file") as caught:
        read_table(data(), tmp_path / "false.parquet")
    assert VALUE not in str(caught.value)
    with pytest.raises(LocalError, match=r"expected a plan with data\.columns"):
        read_table(data(source="arrays", path=None, columns=[]), tmp_path / "latin.csv")


def test_patients_are_read_from_csv_and_parquet_and_are_no_input(tmp_path: Path) -> None:
    named = data(patient="id")
    text = GOOD.replace("\n2,", "\n01,").replace("\n3,", "\n 1 ,")
    path = tmp_path / "rows.parquet"
    columns = {"id": [1, 7, 1], "age": [30, 40.5, 50], "blood": ["0", "A", "NA"], "sick": ["no", "yes", "no"]}
    pq.write_table(pa.table(columns), path)
    for table in (read_table(named, write(tmp_path, text)), read_table(named, path)):
        found = encode_table(named, table)
        assert found.patients is not None and found.patients[0] == found.patients[2] != found.patients[1]
        assert found.rows.x.shape == (3, 4)
    assert set(read_table(named, path, target=False).columns) == {"age", "blood"}, "predicting needs no patients"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("nobody", ["", "NA", None])
def test_a_row_that_is_nobodys_is_refused_by_its_number_or_dropped(
    tmp_path: Path, kind: str, nobody: str | None
) -> None:
    named, ids = data(patient="id"), ["a", VALUE, nobody]
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        path.write_text("id,age,blood,sick\n" + "".join(f"{each or ''},30,A,no\n" for each in ids))
    else:
        pq.write_table(pa.table({"id": ids, "age": [30] * 3, "blood": ["A"] * 3, "sick": ["no"] * 3}), path)
    row = 4 if kind == "csv" else 3
    with pytest.raises(
        LocalError, match=rf"column 'id': expected a value in every row .* first in row {row}"
    ) as caught:
        encode_table(named, read_table(named, path))
    assert VALUE not in str(caught.value)
    dropping = data(patient="id", missing="drop-row")
    found = encode_table(dropping, read_table(dropping, path))
    assert found.dropped == 1 and found.kept.tolist() == [0, 1]
    assert found.patients is not None and len(set(found.patients.tolist())) == len(found.rows) == 2


def test_a_column_of_patients_that_is_not_there_or_is_an_input(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(LocalError, match=r"expected a column 'di'"):
        read_table(data(patient="di"), path)
    for name in ("age", "sick"):
        with pytest.raises(PlanError, match=r"patient: expected .*, got '(age|sick)'"):
            encode_table(data(patient=name), read_table(data(patient=name), path))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"wardround\[job\]"):
        read_table(data(), write(tmp_path, GOOD))
