import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.client.job.handover import PIECES as ROWS_PIECES
from wardround.client.job.handover import RowsSpec
from wardround.client.job.messages import (
    Answer,
    Count,
    Counted,
    Describe,
    Described,
    Evaluate,
    Export,
    Exported,
    Failed,
    Fit,
    Fitted,
    Load,
    Loaded,
    Request,
    Take,
    Taken,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    tally_in,
)
from wardround.errors import RemoteError
from wardround.local_channel import Shared
from wardround.tally import ClassificationSpec, MeansSpec, RegressionSpec, Tally

TEXT = st.text(st.characters(codec="utf-8"))
ROWS = st.integers(0, 1 << 32)
SPECS = st.sampled_from([MeansSpec(names=("loss",)), ClassificationSpec(classes=3), RegressionSpec(low=0.0, high=2.0)])
ROWS_SPECS = st.builds(
    RowsSpec,
    rows=st.tuples(ROWS, ROWS, ROWS),
    inputs=st.lists(ROWS, max_size=4).map(tuple),
    classes=st.booleans(),
    patients=st.booleans(),
    gone_rows=ROWS,
    gone_patients=ROWS,
)
REQUESTS: st.SearchStrategy[Request] = st.one_of(
    st.builds(
        Describe,
        plan=TEXT,
        digest=TEXT,
        code_files=st.lists(st.tuples(TEXT, TEXT)).map(tuple),
        site=TEXT,
        table=TEXT,
        format=TEXT,
    ),
    st.just(Export()),
    st.builds(
        Take,
        plan=TEXT,
        digest=TEXT,
        code_files=st.lists(st.tuples(TEXT, TEXT)).map(tuple),
        site=TEXT,
        rows=ROWS_SPECS,
    ),
    st.builds(Load, files=st.dictionaries(TEXT, st.binary())),
    st.just(Count()),
    st.builds(Fit, order=st.binary(), seed=st.integers(0, (1 << 63) - 1)),
    st.builds(Evaluate, order=st.binary()),
)
ANSWERS: st.SearchStrategy[Answer] = st.one_of(
    st.lists(ROWS, min_size=3, max_size=3).map(lambda r: Described(rows=max(r), train=sorted(r)[1], patients=min(r))),
    ROWS.map(lambda rows: Described(rows=rows, train=rows, patients=None)),
    st.builds(Exported, rows=ROWS_SPECS),
    st.just(Taken()),
    st.just(Loaded()),
    st.builds(Counted, spec=SPECS),
    st.builds(Fitted, num_examples=ROWS, spec=SPECS),
    st.builds(Failed, text=st.text("abc ", max_size=20).map(lambda text: " ".join(text.split()))),
)
PIECES: dict[type[Any], int] = {
    Fit: 2,
    Evaluate: 2,
    Counted: 1,
    Fitted: 3,
    Exported: ROWS_PIECES,
    Take: ROWS_PIECES,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(REQUESTS)
def test_requests_survive_the_channel(request: Request) -> None:
    header = json.loads(json.dumps(encode_request(request)))
    assert decode_request(header, PIECES.get(type(request), 0)) == request


@given(ANSWERS)
def test_answers_survive_the_channel(answer: Answer) -> None:
    header = json.loads(json.dumps(encode_answer(answer)))
    assert decode_answer(header, PIECES.get(type(answer), 0)) == answer


@given(ANSWERS, st.integers(0, 16))
def test_an_answer_with_other_memory_is_refused(answer: Answer, pieces: int) -> None:
    if pieces != PIECES.get(type(answer), 0):
        with pytest.raises(RemoteError):
            decode_answer(encode_answer(answer), pieces)


@given(ANSWERS, st.data(), JSON)
def test_an_answer_with_any_field_changed_is_refused_or_valid(answer: Answer, data: st.DataObject, value: Any) -> None:
    header = encode_answer(answer)
    header[data.draw(st.sampled_from(sorted(header)))] = value
    _decodes_or_refuses(header, PIECES.get(type(answer), 0))


@given(st.dictionaries(st.sampled_from(["is", "spec", "rows", "train", "patients", "num_examples", "text"]), JSON))
def test_no_answer_is_worse_than_refused(header: dict[str, Any]) -> None:
    for kind in ("described", "counted", "fitted", "failed", "loaded", "exported", "taken"):
        for pieces in range(4):
            _decodes_or_refuses({"is": kind, **header}, pieces)


def _decodes_or_refuses(header: dict[str, Any], pieces: int) -> None:
    try:
        answer = decode_answer(header, pieces)
    except RemoteError:
        return
    if isinstance(answer, Described):
        assert 0 <= (answer.patients or 0) <= answer.train <= answer.rows <= 1 << 32
    if isinstance(answer, Failed):
        assert answer.text.isprintable() and len(answer.text) <= 1000


@given(st.dictionaries(st.sampled_from(["do", "plan", "files", "order", "seed", "code_files"]), JSON))
def test_no_request_is_worse_than_refused(header: dict[str, Any]) -> None:
    for kind in ("describe", "load", "count", "fit", "evaluate", "export", "take"):
        try:
            decode_request({"do": kind, **header}, 0)
        except RemoteError:
            pass


def test_more_patients_than_rows_are_refused() -> None:
    for rows, train, patients in ((10, 11, None), (10, 5, 6)):
        with pytest.raises(RemoteError):
            decode_answer({"is": "described", "rows": rows, "train": train, "patients": patients}, 0)


def test_a_failure_is_told_on_one_short_line() -> None:
    header = encode_answer(Failed(text="first\nsecond\x1b[31m" + "x" * 10_000))
    assert header["text"].isprintable() and len(header["text"]) == 1000


@pytest.mark.parametrize("counts", [[3, 1 << 20], [0, 0]])
def test_a_tally_is_read_from_memory(counts: list[int]) -> None:
    tally = Tally(MeansSpec(names=("loss",)), np.array(counts, dtype=np.int64))
    found = tally_in(tally.spec, Shared.of(tally.counts.data.cast("B")))
    assert found.spec == tally.spec
    np.testing.assert_array_equal(found.counts, tally.counts)


@pytest.mark.parametrize("counts", [[3], [3, 1, 1], [], [-1, 0], [1 << 40, 0], [1, 1 << 60]])
def test_a_tally_that_cannot_be_is_refused(counts: list[int]) -> None:
    with pytest.raises(RemoteError):
        tally_in(MeansSpec(names=("loss",)), Shared.of(np.array(counts, dtype="<i8").data.cast("B")))
