"""Asking a model without showing the rows, and without the model's owner learning the answer.

    owner   describe()                  a file of what may be known of the model
    asker   keygen()                    a secret key, and a context, which goes to the owner
    asker   encrypt()                   a query
    owner   run()                       an answer, which the owner cannot read
    asker   decrypt()                   classes and probabilities; they never go to the owner

Every function reads and writes files. It raises LocalError or RemoteError, which name the file, and then has written
nothing. Neither torch nor the model's plan is needed by an asker.
"""

import csv
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.encoding import encode_inputs
from wardround.client.data.files import read_table
from wardround.client.data.table import Table
from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority
from wardround.plain_text import plain_text
from wardround.plan_sections import Data
from wardround.simulations.inference_model import data_of, read_owned_model
from wardround.standardization import standardize
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
from wardround.strategies.he.inference_plan import ParameterSet
from wardround.strategies.he.private_inference import (
    Asker,
    Owner,
    ciphertext_bytes,
    measured_error,
    new_key,
    refuse_secret_key,
)
from wardround.vector import F64, I64

__all__ = ["PROBABILITY_DIGITS", "PrivatePrediction", "decrypt", "describe", "encrypt", "keygen", "run"]

PROBABILITY_DIGITS = 4
"""Decimals of a probability; of a number to predict, its step is at most this many decimals of its range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivatePrediction:
    """What a model says about rows: `outputs` of shape (n, len(names)), rounded to `digits`, and each row's class.

    `rows`, shape (n,), are numbers as the source counts them (a CSV file's header is row 1; an array begins with 0).
    `classes`, found before rounding, is empty for a number to predict.
    """

    rows: I64
    names: tuple[str, ...]
    outputs: F64
    digits: int
    classes: tuple[str, ...] = ()

    def to_csv(self) -> str:
        """A line per row, as that of `wardround predict`: `row`, the outputs, `prediction` where there is one."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", *self.names, *(["prediction"] if self.classes else [])])
        for index, row in enumerate(self.rows.tolist()):
            shown = (f"{value:.{self.digits}f}" for value in self.outputs[index].tolist())
            writer.writerow([row, *shown, *self.classes[index : index + 1]])
        return text.getvalue()


def describe(model: str | Path, out: str | Path, *, authority: Authority | None = None) -> ModelInfo:
    """Write what an asker needs to know of a model: a run's directory, or a released one (.wardmodel).

    The bound on the error is tried first, on rows of the whole range and a key that is thrown away. Raises LocalError
    where the model cannot be evaluated on encrypted rows, no parameters have an error below the limit, or this
    machine's TenSEAL does not keep the bound.
    """
    owned = read_owned_model(Path(model), authority)
    found, box = owned.assurance, owned.box
    measured = measured_error(found.parameters, owned.network, box.low + _shares(len(box.low)) * (box.high - box.low))
    if not measured <= found.error:
        raise LocalError(
            f"{model}: expected outputs that are off by at most {found.error:.2g}, got {measured:.2g} with this "
            "machine's TenSEAL; install tenseal 0.3.18"
        )
    info = owned.info()
    write_file(Path(out), info)
    return info


def _shares(inputs: int) -> F64:
    """Rows in the unit box, shape (256, inputs): corners, half of them, and points within."""
    shares = np.random.default_rng(0).random((256, inputs))
    shares[::2] = np.rint(shares[::2])
    return shares


def keygen(info: str | Path, key: str | Path, context: str | Path) -> str:
    """Write a new secret key (mode 0600) and its context, for the parameters of a model; what the key is called."""
    key, context = Path(key), Path(context)
    for path in (key, context):
        if path.exists():
            raise LocalError(f"{path}: is there already; name another file")
    known, _, _ = read_file(Path(info), ModelInfo)
    secret, public = new_key(parameters_of(known.parameters), squares=known.squares > 0)
    key_id = write_file(context, ContextHead(nonce=os.urandom(16).hex(), parameters=known.parameters), public)
    try:
        write_file(key, KeyHead(key_id=key_id, parameters=known.parameters), secret)
    except BaseException:
        context.unlink()
        raise
    return key_id


def encrypt(info: str | Path, key: str | Path, rows: str | Path | NDArray[Any], out: str | Path) -> int:
    """Write a query for the rows of a CSV or Parquet file, or of an array (n, columns); the number of rows.

    Raises LocalError for rows that do not fit the model's columns: a missing column or value, one out of its range.
    """
    known, head, asker = _asker(Path(info), Path(key))
    data = data_of(known.columns, known.target, known.standardize)
    table = _table(data, rows) if isinstance(rows, np.ndarray) else read_table(data, Path(rows), target=False)
    if len(table) > MAX_ROWS:
        raise LocalError(f"{table.source}: expected at most {MAX_ROWS} rows in a query, got {len(table)}; split them")
    inputs = standardize(data, encode_inputs(data, table).x, known.statistics).astype(np.float64)
    query = QueryHead(
        key_id=head.key_id,
        model=known.model,
        encoding=known.encoding,
        rows=len(inputs),
        first_row=table.row(0),
        inputs=inputs.shape[1],
    )
    write_file(Path(out), query, join_parts(asker.encrypt(inputs)))
    return len(inputs)


def run(
    model: str | Path,
    query: str | Path,
    context: str | Path,
    out: str | Path,
    *,
    max_rows: int | None = None,
    authority: Authority | None = None,
) -> int:
    """Write the model's answer to a query; the number of rows. What is in query and answer stays unknown here.

    Raises RemoteError for a context with a secret key, a query of another key or another model, one whose rows were
    encoded by other columns or statistics than the model's, or one of more than `max_rows` rows.
    """
    query, owned = Path(query), read_owned_model(Path(model), authority)
    parameters, network = owned.assurance.parameters, owned.network
    known, public, key_id = read_file(Path(context), ContextHead)
    with _naming(context):
        refuse_secret_key(public)
    if known.parameters != str(parameters):
        raise RemoteError(f"{context}: expected a context of CKKS {parameters}, got one of {known.parameters}")
    with _naming(context):
        owner = Owner(parameters, public, network)
    most = _payload_bytes(parameters, MAX_ROWS if max_rows is None else min(max_rows, MAX_ROWS), network.inputs)
    head, payload, digest = read_file(query, QueryHead, most)
    _check_same(query, "model", head.model, owned.digest)
    _check_same(query, "key", head.key_id, key_id)
    _check_same(query, "model info", head.encoding, owned.info().encoding)
    if head.inputs != network.inputs:
        raise RemoteError(f"{query}: expected {network.inputs} inputs, the model's, got {head.inputs}")
    if max_rows is not None and head.rows > max_rows:
        raise RemoteError(f"{query}: expected at most {max_rows} rows, got {head.rows}")
    batches = -(-head.rows // parameters.slots)
    parts = split_parts(payload, batches * head.inputs, str(query))
    answers: list[bytes] = []
    with _naming(query):
        for start in range(0, len(parts), head.inputs):
            answers += owner.answer(parts[start : start + head.inputs])
    answer = AnswerHead(key_id=head.key_id, model=head.model, query=digest, rows=head.rows, outputs=network.outputs)
    write_file(Path(out), answer, join_parts(answers))
    return head.rows


def decrypt(info: str | Path, key: str | Path, query: str | Path, answer: str | Path) -> PrivatePrediction:
    """What the model says about the rows of `query`, from the `answer` to it.

    Raises RemoteError for an answer to another query, of another model or key, or with outputs that the model cannot
    give. Neither the result nor such an error may become known to the model's owner.
    """
    query, answer = Path(query), Path(answer)
    known, mine, asker = _asker(Path(info), Path(key))
    asked, _, digest = read_file(query, QueryHead)
    head, payload, _ = read_file(answer, AnswerHead, _payload_bytes(asker.parameters, asked.rows, known.outputs))
    for path, found in ((query, asked.model), (answer, head.model)):
        _check_same(path, "model", found, known.model)
    for path, found in ((query, asked.key_id), (answer, head.key_id)):
        _check_same(path, "key", found, mine.key_id)
    _check_same(query, "model info", asked.encoding, known.encoding)
    _check_same(answer, "query", head.query, digest)
    if (head.rows, head.outputs) != (asked.rows, known.outputs):
        raise RemoteError(
            f"{answer}: expected {known.outputs} outputs of {asked.rows} rows, got {head.outputs} of {head.rows}"
        )
    parts = split_parts(payload, -(-head.rows // asker.parameters.slots) * head.outputs, str(answer))
    with _naming(answer):
        outputs = asker.decrypt(parts, rows=head.rows, outputs=head.outputs, squares=known.squares)
    most = known.output + known.error
    if not np.abs(outputs).max() <= most:  # NaN is refused as well
        raise RemoteError(
            f"{answer}: expected outputs of at most {most:.3g}, the most that the model can give, got others; it is no "
            "answer of the model's"
        )
    rows = np.arange(asked.first_row, asked.first_row + asked.rows, dtype=np.int64)
    return _prediction(known, rows, outputs)


def _prediction(known: ModelInfo, rows: I64, outputs: F64) -> PrivatePrediction:
    target = known.target
    if target.range is not None:
        low, high = target.range
        digits = max(0, math.ceil(PROBABILITY_DIGITS - math.log10(high - low)))
        values = np.round(low + outputs * (high - low), digits)
        return PrivatePrediction(rows=rows, names=(target.name,), outputs=values, digits=digits)
    logits = np.concatenate((np.zeros((len(outputs), 1)), outputs), axis=1)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return PrivatePrediction(
        rows=rows,
        names=tuple(f"probability_{label}" for label in target.classes),
        outputs=np.round(shares, PROBABILITY_DIGITS),
        digits=PROBABILITY_DIGITS,
        classes=tuple(target.classes[index] for index in logits.argmax(axis=1).tolist()),
    )


def _asker(info: Path, key: Path) -> tuple[ModelInfo, KeyHead, Asker]:
    known, _, _ = read_file(info, ModelInfo)
    head, secret, _ = read_file(key, KeyHead)
    if os.name == "posix" and key.stat().st_mode & 0o077:
        raise LocalError(f"{key}: expected a file that its owner alone may read, as a secret key is; chmod 600 {key}")
    if head.parameters != known.parameters:
        raise LocalError(
            f"{key}: expected a key for CKKS {known.parameters}, which the model needs, got one for "
            f"{head.parameters}; make one: wardround infer keygen --model-info {info}"
        )
    with _naming(key):
        return known, head, Asker(parameters_of(head.parameters), secret)


def _payload_bytes(parameters: ParameterSet, rows: int, width: int) -> int:
    """Above what so many rows take, with `width` ciphertexts a batch."""
    return -(-rows // parameters.slots) * width * (ciphertext_bytes(parameters) + 4)


def _check_same(path: Path, what: str, found: str, expected: str) -> None:
    if found != expected:
        shown = plain_text(found[:12])
        raise RemoteError(f"{path}: expected one of the {what} {expected[:12]}, got one of {shown}")


class _naming:
    """Puts the name of a file in front of a RemoteError's text, for `with`."""

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RemoteError):
            raise RemoteError(f"{self._path}: {error}") from None


def _table(data: Data, array: NDArray[Any]) -> Table:
    if array.shape[1:] != (len(data.columns),) or not len(array):
        raise LocalError(f"array: expected shape (n, {len(data.columns)}), the model's columns, got {array.shape}")
    return Table(source="array", columns={one.name: array[:, at] for at, one in enumerate(data.columns)})
