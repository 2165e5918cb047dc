"""The files of private inference: a model's public facts, a key, a context, a query, an answer.

    offset  size  field
         0    22  magic, `wardround inference 1\\n`
        22     4  length of the header
        26     8  length of the payload
        34    32  SHA-256 of header and payload
        66        header (JSON), payload; then the end

Numbers are unsigned, little-endian. The digest finds what was cut or damaged on the way; it is no signature. A payload
is bytes of TenSEAL (a key), or a list of SEAL's objects, each after its length in 4 bytes: ciphertexts, or in a context
the parts of its keys for relinearisation, if any.
"""

import hashlib
import json
import os
import re
import struct
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from wardround.decoding import PlanError, check_bounds, decode, encode, key
from wardround.durable_file import TEMPORARY, sync_folder, write_all
from wardround.errors import LocalError, RemoteError
from wardround.orders import Statistics
from wardround.plain_text import plain_text
from wardround.plan_sections import Column, ColumnType, Standardize, Target
from wardround.strategies.he.inference_plan import CANDIDATES, MAX_ERROR, ParameterSet

__all__ = [
    "MAX_ROWS",
    "AnswerHead",
    "ContextHead",
    "KeyHead",
    "ModelInfo",
    "QueryHead",
    "join_parts",
    "parameters_of",
    "read_file",
    "split_parts",
    "write_file",
]

MAX_ROWS = 1 << 16
"""Rows of a query."""
_MAX_INPUTS = 1 << 14
_MAGIC = b"wardround inference 1\n"
_FIELDS = struct.Struct("<IQ32s")
_HEAD_BYTES = len(_MAGIC) + _FIELDS.size
_MAX_HEADER_BYTES = 1 << 21
_MAX_PAYLOAD_BYTES = 1 << 33
_LENGTH = struct.Struct("<I")
_FORMULA = re.compile(r"[=@]|[+-].*[(|!]", re.DOTALL)
"""What a spreadsheet computes where it should show text: of a table of predictions, it could send them away."""
_UNSEEN = ("Cc", "Cf", "Zl", "Zp")


class _Kind(StrEnum):
    MODEL = "model-info"
    KEY = "key"
    CONTEXT = "context"
    QUERY = "query"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What whoever asks needs to know of a model, and may: its columns and statistics; no weights.

    `error` and `output` are those of `Assurance`. Of classes, an output is the logit of a class less that of the first.
    It comes from the model's owner, so it is checked for what could harm the asker: a size that memory does not have,
    text that a terminal or a spreadsheet would obey.
    """

    name: str = key(doc="name of the plan")
    model: str = key(doc="SHA-256 of model.safetensors")
    plan: str = key(doc="digest of the plan")
    columns: tuple[Column, ...] = key(doc="the input columns")
    target: Target = key(doc="what is predicted")
    standardize: Standardize = key(doc="how number columns are standardised")
    statistics: Statistics | None = key(None, doc="by what, if over all sites")
    squares: int = key(doc="hidden layers", ge=0, le=1)
    parameters: str = key(doc="the parameters of CKKS")
    error: float = key(doc="the most that an output is off", gt=0, le=MAX_ERROR)
    output: float = key(doc="the most that an output is", ge=0)

    def __post_init__(self) -> None:
        check_bounds(self)
        _check_parameters(self.parameters)
        if not 1 <= self.inputs <= _MAX_INPUTS:
            raise PlanError("columns", f"1 to {_MAX_INPUTS} inputs", self.inputs)
        for index, column in enumerate(self.columns):
            if column.type is ColumnType.NUMBER and column.range is None:
                raise PlanError(f"columns[{index}].range", "a range for every number")
            _check_shown(f"columns[{index}].unit", column.unit)
        for label in (self.target.name, *self.target.classes):
            _check_shown("target", label)
        low, high = self.target.range or (0.0, 1.0)
        if not 1e-100 <= high - low <= 1e100:
            raise PlanError("target.range", "a width of 1e-100 to 1e100", high - low)

    @property
    def encoding(self) -> str:
        """SHA-256 of what rows are encoded and answers are named by: columns, target, standardisation.

        Two machines agree on it; on the last digit of `error` they may not.
        """
        said = {name: encode(getattr(self, name)) for name in ("columns", "target", "standardize", "statistics")}
        return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def inputs(self) -> int:
        return sum(column.width for column in self.columns)

    @property
    def outputs(self) -> int:
        return max(1, len(self.target.classes) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHead:
    """The secret key's file. `key_id` is the SHA-256 of the context's header and payload."""

    key_id: str = key(doc="SHA-256 of the context's header and payload")
    parameters: str = key(doc="the parameters of CKKS")

    def __post_init__(self) -> None:
        _check_parameters(self.parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextHead:
    """The file of a context without its secret key. `nonce` tells it from others: parameters alone are all the same."""

    nonce: str = key(doc="32 random hexadecimal digits")
    parameters: str = key(doc="the parameters of CKKS")

    def __post_init__(self) -> None:
        _check_parameters(self.parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryHead:
    """Encrypted rows of one key for one model. `first_row` is the number of the first in its file."""

    key_id: str = key(doc="SHA-256 of the context's header and payload")
    model: str = key(doc="SHA-256 of model.safetensors")
    encoding: str = key(doc="SHA-256 of what the rows were encoded by: `ModelInfo.encoding`")
    rows: int = key(doc="rows", ge=1, le=MAX_ROWS)
    first_row: int = key(doc="number of the first row", ge=0, le=2)
    inputs: int = key(doc="ciphertexts in a batch", ge=1, le=_MAX_INPUTS)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHead:
    """Encrypted outputs for the rows of one query."""

    key_id: str = key(doc="SHA-256 of the context's header and payload")
    model: str = key(doc="SHA-256 of model.safetensors")
    query: str = key(doc="SHA-256 of the query's header and payload")
    rows: int = key(doc="rows", ge=1, le=MAX_ROWS)
    outputs: int = key(doc="ciphertexts in a batch", ge=1, le=_MAX_INPUTS)

    def __post_init__(self) -> None:
        check_bounds(self)


Head = TypeVar("Head", bound=ModelInfo | KeyHead | ContextHead | QueryHead | AnswerHead)
_KINDS: dict[type[Any], _Kind] = {
    ModelInfo: _Kind.MODEL,
    KeyHead: _Kind.KEY,
    ContextHead: _Kind.CONTEXT,
    QueryHead: _Kind.QUERY,
    AnswerHead: _Kind.ANSWER,
}
_MOST_BYTES: dict[type[Any], int] = {ModelInfo: 0, KeyHead: 1 << 20, ContextHead: 1 << 22}
"""Payloads; a context with keys for relinearisation has 2.1 MB, a key 0.3 MB."""
_KEY_SENT = (
    "got the file of a secret key; it is not used. Whoever sent it can be read by everyone who has it: destroy this "
    "file, and let its owner make a new key and destroy the old one"
)


def parameters_of(name: str) -> ParameterSet:
    """The parameters of this name. Raises PlanError for any that the planner would not choose."""
    for one in CANDIDATES:
        if str(one) == name:
            return one
    raise PlanError("parameters", f"one of {', '.join(map(str, CANDIDATES))}", name)


def _check_parameters(name: str) -> None:
    parameters_of(name)


def _check_shown(path: str, text: str) -> None:
    if _FORMULA.match(text) or any(unicodedata.category(one) in _UNSEEN for one in text):
        raise PlanError(path, "text without control characters that no spreadsheet takes for a formula", text)


def join_parts(parts: Iterable[bytes]) -> bytes:
    """A payload of ciphertexts."""
    return b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))


def split_parts(payload: bytes, count: int, where: str, what: str = "ciphertexts") -> Sequence[bytes]:
    """The `count` ciphertexts of a payload. Raises RemoteError, naming `where`, for another number of them."""
    parts: list[bytes] = []
    at = 0
    while at < len(payload) and len(parts) < count:
        if at + _LENGTH.size > len(payload):
            break
        (length,) = _LENGTH.unpack_from(payload, at)
        at += _LENGTH.size
        parts.append(payload[at : at + length])
        at += length
    if len(parts) != count or at != len(payload):
        raise RemoteError(f"{where}: expected {count} {what} and nothing else, got others")
    return parts


def write_file(path: Path, head: Head, payload: bytes = b"") -> str:
    """Write a new file; the SHA-256 of header and payload. A key's file is its owner's alone to read (mode 0600).

    Raises LocalError, with nothing written, where `path` exists or cannot be written.
    """
    header = json.dumps({"kind": _KINDS[type(head)], **encode(head)}, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(header)
    digest.update(payload)
    data = b"".join((_MAGIC, _FIELDS.pack(len(header), len(payload), digest.digest()), header, payload))
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        temporary.unlink(missing_ok=True)  # of a killed process: its permissions may be others
        mode = 0o600 if isinstance(head, KeyHead) else 0o666
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(temporary, path)  # unlike a rename, replaces nothing
        sync_folder(path.parent)
    except FileExistsError:
        raise LocalError(f"{path}: is there already; name another file") from None
    except OSError as error:
        raise LocalError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):  # a folder that is none, a name that is too long: said above
            temporary.unlink(missing_ok=True)
    return digest.hexdigest()


def read_file(path: Path, kind: type[Head], most_bytes: int = _MAX_PAYLOAD_BYTES) -> tuple[Head, bytes, str]:
    """The header and the payload of a file of this kind, and the SHA-256 of both.

    Raises LocalError for a file that cannot be read, RemoteError for one that was cut, damaged, or is something else,
    and for one with a payload of more than `most_bytes`, which is not read.
    """
    try:
        data = _bytes_of(path, _HEAD_BYTES + _MAX_HEADER_BYTES + min(most_bytes, _MOST_BYTES.get(kind, most_bytes)))
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
    if not data.startswith(_MAGIC):
        raise RemoteError(f"{path}: expected a file of private inference ({_KINDS[kind]}), got something else")
    if len(data) < _HEAD_BYTES:
        raise RemoteError(f"{path}: expected at least {_HEAD_BYTES} bytes, got {len(data)}; the file was cut")
    length, rest, digest = _FIELDS.unpack_from(data, len(_MAGIC))
    if length > _MAX_HEADER_BYTES or _HEAD_BYTES + length + rest != len(data):
        raise RemoteError(
            f"{path}: expected {_HEAD_BYTES + length + rest} bytes, got {len(data)}; the file was cut or added to"
        )
    body = memoryview(data)[_HEAD_BYTES:]
    found = hashlib.sha256(body)
    if found.digest() != digest:
        raise RemoteError(f"{path}: expected what its digest says, got other bytes; the file was damaged")
    return _head(path, bytes(body[:length]), kind), bytes(body[length:]), found.hexdigest()


def _bytes_of(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise RemoteError(f"{path}: expected at most {most} bytes, got {size}")
        return file.read(size)


def _head(path: Path, header: bytes, kind: type[Head]) -> Head:
    try:
        table = json.loads(header)
        found = table.pop("kind")
        if found != _KINDS[kind]:
            if found == _Kind.KEY and kind in (ContextHead, QueryHead):
                raise RemoteError(f"{path}: expected a file of the kind {_KINDS[kind]}, {_KEY_SENT}")
            raise RemoteError(
                f"{path}: expected a file of the kind {_KINDS[kind]}, got one of {plain_text(str(found), 20)}"
            )
        return decode(kind, table)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # PlanError is a ValueError
        reason = plain_text(str(error).removeprefix("plan."), 200)
        raise RemoteError(f"{path}: expected a header that this version reads ({reason})") from None
