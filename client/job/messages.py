"""What an agent and its job tell each other over their local channel: one request at a time, and its answer.

    request                                     answer                       memory that goes with them
    Describe     plan, digests, site, table     Described   what is there
    Load         the files of the plan's code   Loaded
    Count                                       Counted     a kind of tally  · counts
    Fit          order, seed                    Fitted      examples, tally  model, state · update, counts, state
    Evaluate     order                          Counted     a kind of tally  model, state · counts

An answer may be a `Failed` instead. `state` is what the site keeps between rounds; only the job understands it. The
agent trusts nothing that a job says, whose process has run the plan's code: what is decoded here has the right form and
honest sizes, no more.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wardround.client.data.table_rules import TableRules
from wardround.errors import RemoteError
from wardround.local_channel import Shared
from wardround.plain_text import plain_text
from wardround.tally import Tally, TallySpec, decode_spec, encode_spec

__all__ = [
    "Answer",
    "Count",
    "Counted",
    "Describe",
    "Described",
    "Evaluate",
    "Failed",
    "Fit",
    "Fitted",
    "Load",
    "Loaded",
    "Request",
    "decode_answer",
    "decode_request",
    "encode_answer",
    "encode_request",
    "tally_in",
]

_MOST_ROWS = 1 << 32
_MOST_TEXT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe:
    """Read the table with the plan (TOML). No file of its code is there yet; `code_files` says what they will be.

    `table` is what messages call the table.
    """

    plan: str
    digest: str
    code_files: tuple[tuple[str, str], ...]
    site: str
    table: str
    format: str
    rules: TableRules = field(default_factory=TableRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The plan's code: bytes by path below `task.code`."""

    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Count what federated standardisation needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    order: bytes
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    order: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    rows: int
    train: int
    patients: int | None
    withdrawn: int = 0
    """How many of the rows are not used any more; they count in the other numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The plan's code is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    spec: TallySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    num_examples: int
    spec: TallySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Why there is no answer, on one line: it may tell of rows."""

    text: str


Request = Describe | Load | Count | Fit | Evaluate
Answer = Described | Loaded | Counted | Fitted | Failed
_MEMORY: dict[str, int] = {"fit": 2, "evaluate": 2, "fitted": 3, "counted": 1}


def encode_request(request: Request) -> dict[str, Any]:
    """The header of a request."""
    match request:
        case Describe():
            names = ("plan", "digest", "site", "table", "format")
            files = [list(pair) for pair in request.code_files]
            rules = {
                "schema": request.rules.schema,
                "key": b64encode(request.rules.key).decode(),
                "withdrawn": list(request.rules.withdrawn),
            }
            return {"do": "describe", "code_files": files, **{name: getattr(request, name) for name in names}, **rules}
        case Load():
            return {"do": "load", "files": {path: b64encode(data).decode() for path, data in request.files.items()}}
        case Count():
            return {"do": "count"}
        case Fit():
            return {"do": "fit", "order": b64encode(request.order).decode(), "seed": request.seed}
        case Evaluate():
            return {"do": "evaluate", "order": b64encode(request.order).decode()}


def decode_request(header: Mapping[str, Any], pieces: int) -> Request:
    """The inverse of `encode_request`, with so many pieces of memory. Raises RemoteError for anything else."""
    try:
        kind = _kind(header, "do", pieces)
        match kind:
            case "describe":
                files = tuple((_text(path), _text(digest)) for path, digest in header["code_files"])
                names = ("plan", "digest", "site", "table", "format")
                rules = TableRules(
                    schema=None if header["schema"] is None else _text(header["schema"]),
                    key=_bytes(header["key"]),
                    withdrawn=tuple(_text(one) for one in header["withdrawn"]),
                )
                return Describe(code_files=files, rules=rules, **{name: _text(header[name]) for name in names})
            case "load":
                return Load(files={path: _bytes(text) for path, text in header["files"].items()})
            case "count":
                return Count()
            case "fit":
                return Fit(order=_bytes(header["order"]), seed=_number(header["seed"], (1 << 63) - 1))
            case "evaluate":
                return Evaluate(order=_bytes(header["order"]))
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    raise RemoteError("expected a request with all its parts, got another message")


def encode_answer(answer: Answer) -> dict[str, Any]:
    """The header of an answer."""
    match answer:
        case Described():
            numbers = ("rows", "train", "patients", "withdrawn")
            return {"is": "described", **{name: getattr(answer, name) for name in numbers}}
        case Loaded():
            return {"is": "loaded"}
        case Counted():
            return {"is": "counted", "spec": encode_spec(answer.spec).decode()}
        case Fitted():
            return {"is": "fitted", "num_examples": answer.num_examples, "spec": encode_spec(answer.spec).decode()}
        case Failed():
            return {"is": "failed", "text": plain_text(answer.text, _MOST_TEXT)}


def decode_answer(header: Mapping[str, Any], pieces: int) -> Answer:
    """The inverse of `encode_answer`, with so many pieces of memory. Raises RemoteError for anything else."""
    try:
        kind = _kind(header, "is", pieces)
        match kind:
            case "described":
                patients = header["patients"]
                found = Described(
                    rows=_number(header["rows"], _MOST_ROWS),
                    train=_number(header["train"], _MOST_ROWS),
                    patients=None if patients is None else _number(patients, _MOST_ROWS),
                    withdrawn=_number(header["withdrawn"], _MOST_ROWS),
                )
                if not (found.patients or 0) <= found.train <= found.rows or found.withdrawn > found.rows:
                    raise ValueError("more patients than rows, or more rows in training than there are")
                return found
            case "loaded":
                return Loaded()
            case "counted":
                return Counted(spec=decode_spec(_text(header["spec"]).encode()))
            case "fitted":
                spec = decode_spec(_text(header["spec"]).encode())
                return Fitted(num_examples=_number(header["num_examples"], _MOST_ROWS), spec=spec)
            case "failed":
                return Failed(text=plain_text(_text(header["text"]), _MOST_TEXT))
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    raise RemoteError("expected an answer with all its parts, got another message")


def _kind(header: Mapping[str, Any], name: str, pieces: int) -> str:
    kind = _text(header[name])
    if pieces != _MEMORY.get(kind, 0):
        raise ValueError("other memory than goes with this")
    return kind


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    value.encode()  # a lone surrogate is a ValueError
    return value


def _bytes(value: object) -> bytes:
    return b64decode(_text(value), validate=True)


def _number(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError("no number in its bounds")
    return value


def tally_in(spec: TallySpec, counts: Shared) -> Tally:
    """The tally of this kind in memory. Raises RemoteError for another size, and for what cannot be counted."""
    if counts.size != 8 * spec.size:
        raise RemoteError(f"expected a tally of {8 * spec.size} bytes, got {counts.size}")
    tally = Tally(spec, np.frombuffer(counts.view(), dtype="<i8").astype(np.int64))
    if fault := tally.fault():
        raise RemoteError(f"tally: {fault}")
    return tally
