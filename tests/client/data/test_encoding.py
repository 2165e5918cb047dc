"""Encoding: every cell lands where the plan says, or its column and row are named."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.client.data.encoding import encode_inputs, encode_rows, encode_table, texts
from wardround.client.data.table import Table
from wardround.decoding import decode
from wardround.errors import LocalError
from wardround.plan_sections import Data

CLASSES = {"name": "y", "classes": ["b", "a"]}


def data(columns: list[dict[str, Any]] | None = None, target: dict[str, Any] | None = None, **more: Any) -> Data:
    table = {"source": "arrays", "target": target or CLASSES, "columns": columns or []}
    return decode(Data, {**table, **more})


def table(y: Any, array: Any = None, **columns: Any) -> Table:
    return Table(
        source="rows",
        columns={name: np.asarray(column) for name, column in columns.items()},
        array=None if array is None else np.asarray(array),
        target=np.asarray(y),
        target_name="y",
    )


cells = st.tuples(st.floats(-5, 5), st.sampled_from(["red", "green", "blue"]), st.sampled_from(["a", "b"]))


@settings(deadline=None)
@given(st.lists(cells, min_size=1, max_size=20))
def test_rows_against_a_loop(rows: list[tuple[float, str, str]]) -> None:
    plan = data(
        [{"name": "c", "type": "category", "categories": ["red", "green", "blue"]}, {"name": "n", "range": [-5, 5]}]
    )
    encoded = encode_rows(plan, table([y for *_, y in rows], n=[n for n, *_ in rows], c=[c for _, c, _ in rows]))
    expected = [[float(c == "red"), float(c == "green"), float(c == "blue"), np.float32(n)] for n, c, _ in rows]
    assert encoded.x.tolist() == expected
    assert encoded.y.tolist() == [0 if y == "b" else 1 for *_, y in rows]


@pytest.mark.parametrize(
    ("raw", "classes"),
    [
        (np.array([0, 1, 1]), ["0", "1"]),
        (np.array([0.0, 1.0, 1.0]), ["0", "1"]),
        (np.array([False, True, True]), ["false", "true"]),
        (np.array([0.5, 2.25, 2.25]), ["0.5", "2.25"]),
        (np.array(["no", " yes", "yes "]), ["no", "yes"]),
        (np.array(["NA", "x", "x"], dtype=object), ["NA", "x"]),
        (np.array([-1, 1, 1], dtype=np.int8), ["-1", "1"]),
    ],
)
def test_classes_compare_as_text(raw: Any, classes: list[str]) -> None:
    plan = data([{"name": "n"}], {"name": "y", "classes": classes})
    assert encode_rows(plan, table(raw, n=[1, 2, 3])).y.tolist() == [0, 1, 1]


def test_targets_are_scaled_from_their_range() -> None:
    plan = data([{"name": "n"}], {"name": "y", "range": [10, 30], "unit": "kg"})
    rows = encode_rows(plan, table([10.0, 30, 25], n=[1, 2, 3]))
    assert rows.y.dtype == np.float32 and rows.y.tolist() == [0, 1, 0.75]
    with pytest.raises(
        LocalError, match="column 'y': expected values from 10 to 30 kg, got one outside in 2 rows, fir"
    ):
        encode_rows(plan, table([10.0, 31, 9], n=[1, 2, 3]))


def test_missing_values_are_refused_or_dropped() -> None:
    columns: list[dict[str, Any]] = [{"name": "n"}, {"name": "c", "type": "category", "categories": ["u", "v"]}]
    raw = table(
        np.array(["a", "b", None, "b", ""], dtype=object),
        n=[1, np.nan, 3, 4, 5],
        c=np.array(["u", "v", "u", None, "v"], dtype=object),
    )
    with pytest.raises(
        LocalError, match=r"north, rows: column 'n': expected a value in every row .*, got none in 1 row"
    ):
        encode_rows(data(columns), raw, "north")
    encoded = encode_table(data(columns, missing="drop-row"), raw)
    assert encoded.dropped == 4 and encoded.kept.tolist() == [0]
    assert encoded.rows.x.tolist() == [[1, 1, 0]] and encoded.rows.y.tolist() == [1]
    inputs = encode_inputs(data(columns, missing="drop-row"), raw)
    assert inputs.kept.tolist() == [0, 2, 4] and inputs.x.tolist() == [[1, 1, 0], [3, 1, 0], [5, 0, 1]]


def test_a_range_is_checked_before_it_is_rounded() -> None:
    plan = data([{"name": "n", "range": [0, 1]}])
    just_over = np.nextafter(1, 2)
    assert np.float32(just_over) == 1
    with pytest.raises(LocalError, match="first in row 1"):
        encode_rows(plan, table(["a", "b"], n=[1, just_over]))


@pytest.mark.parametrize("value", [1e39, -1e39, np.inf, -np.inf])
def test_numbers_without_a_range_fit_float32(value: float) -> None:
    with pytest.raises(LocalError, match=r"column 'n': expected .* in 1 row, first in row 1"):
        encode_rows(data([{"name": "n"}]), table(["a", "b"], n=[1, value]))


def test_images_are_scaled_to_one() -> None:
    plan = data(image={"shape": [1, 1, 2], "range": [10, 20]})
    rows = encode_rows(plan, table(["a", "b"], [[[[10, 20]]], [[[15, 12]]]]))
    assert np.allclose(rows.x.reshape(-1), [0, 1, 0.5, 0.2])
    for bad in (np.nan, np.inf, 21, 9):
        with pytest.raises(LocalError, match=r"expected pixels from 10 to 20 .* first in row 1"):
            encode_rows(plan, table(["a", "b"], [[[[10, 20]]], [[[15, bad]]]]))
    with pytest.raises(LocalError, match=r"expected images of shape \(1, 1, 2\) \(data.image.shape\), got \(1, 2, 1\)"):
        encode_rows(plan, table(["a"], [[[[1], [2]]]]))
    with pytest.raises(LocalError, match="got no images"):
        encode_rows(plan, table(["a"], n=[1]))


def test_an_array_without_columns_is_taken_as_it_is() -> None:
    rows = encode_rows(data(), table(["a", "b"], [[1, 2], [3, 4]]))
    assert rows.x.dtype == np.float32 and rows.x.tolist() == [[1, 2], [3, 4]]
    for bad in (np.nan, np.inf, 1e39):
        with pytest.raises(LocalError, match=r"expected finite float32 inputs, got NaN, .* in 1 row, first in row 1"):
            encode_rows(data(), table(["a", "b"], [[1, 2], [3, bad]]))
    with pytest.raises(LocalError, match="expected an array of inputs"):
        encode_rows(data(), table(["a"], n=[1]))


def test_a_missing_column_is_named_with_the_nearest() -> None:
    with pytest.raises(LocalError, match=r"rows: expected a column 'age'; did you mean 'Age'\?"):
        encode_rows(data([{"name": "age"}]), table(["a"], Age=[1]))


@pytest.mark.parametrize(
    "parts",
    [
        {"y": ["a", "b"], "n": [1]},
        {"y": [["a"]], "n": [1]},
        {"y": ["a"], "n": np.array(["2020-01-01"], dtype="datetime64[D]")},
        {"y": ["a"], "array": [1.0]},
        {"y": ["a"], "array": [["text"]]},
    ],
)
def test_tables_refuse_what_is_no_table(parts: dict[str, Any]) -> None:
    with pytest.raises(LocalError, match=r"^rows: .*expected .*, got "):
        table(**parts)


def test_texts_of_a_mixed_column() -> None:
    values, missing = texts(np.array([1, "x ", None, np.nan], dtype=object))
    assert values.tolist() == ["1", "x", "", ""] and missing.tolist() == [False, False, True, True]


def test_patients_compare_as_text_and_are_dropped_with_their_rows() -> None:
    plan = data([{"name": "n"}], patient="id", missing="drop-row")
    raw = table(["a", "b", "a", "b", "a"], n=[1, 2, np.nan, 4, 5], id=np.array([7, "7 ", "8", None, "x"], dtype=object))
    found = encode_table(plan, raw)
    assert found.kept.tolist() == [0, 1, 4] and found.patients is not None
    assert found.patients[0] == found.patients[1] != found.patients[2]
    assert encode_table(data([{"name": "n"}]), table(["a"], n=[1])).patients is None


def test_a_registered_data_set_names_its_patients_by_a_column() -> None:
    plan = data(patient="id")
    assert encode_table(plan, table(["a", "b"], [[1], [2]], id=["p", "q"])).patients is not None
    with pytest.raises(LocalError, match="rows: expected a column 'id'"):
        encode_table(plan, table(["a", "b"], [[1], [2]]))
