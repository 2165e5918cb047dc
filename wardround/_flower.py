"""The one place that touches what Flower does not make public, and builds the messages that wardround sends.

A contract test per minor version of flwr covers every name used here.
"""

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import (
    DEFAULT_TTL,
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from wardround.errors import BudgetError, RemoteError, WardroundError

__all__ = [
    "HELLO",
    "PROTOCOL",
    "STATISTICS",
    "app_request",
    "bare_request",
    "bundle_files",
    "carry",
    "decode_records",
    "encode_records",
    "error_reply",
    "gone_reply",
    "handles",
    "hello_reply",
    "is_gone",
    "local_run",
    "pack_order",
    "pack_protocol",
    "read_frame",
    "read_hello",
    "read_metrics",
    "read_model",
    "read_order",
    "read_protocol",
    "read_spec",
    "read_status",
    "reply",
    "requests",
    "set_identity",
    "set_message_id",
]

HELLO = "query.hello"
STATISTICS = "query.statistics"
PROTOCOL = "query.secagg"

_ORDER, _MODEL, _FRAME, _SITE = "wardround.order", "wardround.model", "wardround.frame", "wardround.site"
_PROTOCOL = "wardround.protocol"
_SERIAL_TYPE = "wardround"
_REFUSED, _GONE, _SPENT = 1000, 1001, 1002


def set_identity(*, run_id: int, node_id: int, task_id: int = 1) -> None:
    """Say who this process is; flwr's messages take their sender from there. One run per process."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, task_id


def local_run(run_id: int) -> Run:
    """Flower's description of a run that no SuperLink knows."""
    return Run.create_empty(run_id)


def set_message_id(message: Message, message_id: str) -> None:
    """Number a message, as a SuperLink would."""
    message.metadata.__dict__["_message_id"] = message_id


_NO_ARRAYS, _NO_RECORDS = ArrayRecord(), RecordDict()


def _array(data: bytes | memoryview, dtype: str, items: int) -> ArrayRecord:
    """Bytes as a record that Flower sends in chunks. Made without flwr's checks, which cost ten times as much.

    A memoryview is for grids that hand it over in this process: Flower itself cannot send one.
    """
    array = Array.__new__(Array)
    array.__dict__.update(dtype=dtype, shape=(items,), stype=_SERIAL_TYPE, data=data)
    record = _NO_ARRAYS.copy()
    record.__dict__["_data"]["data"] = array
    return record


def _message(metadata: Metadata, content: RecordDict, **changes: object) -> Message:
    """A new message whose metadata are a copy of `metadata` with `changes`, without flwr's checks.

    A SuperLink numbers a message and notes when it was delivered, and takes no message that has either already.
    """
    copy, message = Metadata.__new__(Metadata), Message.__new__(Message)
    copy.__dict__.update(metadata.__dict__, _message_id="", _delivered_at="", **changes)
    message.__dict__.update(_metadata=copy, _content=content, _error=None)
    return message


def requests(content: RecordDict, nodes: Iterable[int], message_type: str, group: str) -> Iterator[Message]:
    """One message to each node, all with the same content; made as they are asked for."""
    first: Message | None = None
    for node in nodes:
        if first is None:
            first = Message(content, node, message_type, group_id=group)
            yield first
        else:
            yield _message(first.metadata, content, _dst_node_id=node, _created_at=time.time())


def pack_order(order: bytes, model: bytes | None = None, protocol: bytes = b"", spec: bytes = b"") -> RecordDict:
    """The content of a request; one object serves a whole cohort. `model` is little-endian float32.

    Under secure aggregation `protocol` is the round's start, and `spec` the kind of tally that is added up.
    """
    content = RecordDict()
    content[_ORDER] = ConfigRecord({"order": order})
    if model is not None:
        content[_MODEL] = _array(model, "float32", len(model) // 4)
    if protocol:
        content[_PROTOCOL] = ConfigRecord({"message": protocol, "spec": spec})
    return content


def carry(content: RecordDict, records: RecordDict) -> None:
    """Put an app's own `records` into the content of a request, in the place of the model."""
    content.pop(_MODEL, None)
    content.update(records)


def pack_protocol(message: bytes) -> RecordDict:
    """The content of a request that is nothing but a message of secure aggregation."""
    content = RecordDict()
    content[_PROTOCOL] = ConfigRecord({"message": message})
    return content


def _read_bytes(message: Message, record: str, key: str) -> bytes:
    found = message.content.get(record)
    data = found.get(key) if isinstance(found, ConfigRecord) else None
    return data if isinstance(data, bytes) else b""


def read_protocol(message: Message) -> bytes:
    """The message of secure aggregation in a request; empty where there is none."""
    return _read_bytes(message, _PROTOCOL, "message")


def read_spec(message: Message) -> bytes:
    """The kind of tally that the server adds up; empty where it does not say."""
    return _read_bytes(message, _PROTOCOL, "spec")


def read_order(message: Message) -> bytes:
    """The order's bytes. Raises RemoteError when there is none."""
    data = _read_bytes(message, _ORDER, "order")
    if not data:
        raise RemoteError("message: expected an order")
    return data


def _read_array(message: Message, key: str) -> bytes:
    record = message.content.get(key) if message.has_content() else None
    if not isinstance(record, ArrayRecord) or "data" not in record:
        raise RemoteError(f"message: expected {key}")
    return record["data"].data


def read_model(message: Message) -> bytes:
    """The model's bytes. Raises RemoteError when there is none."""
    return _read_array(message, _MODEL)


def read_frame(message: Message) -> bytes | memoryview:
    """The frame in a reply, where our own grid made it not copied. Raises RemoteError when there is none."""
    return _read_array(message, _FRAME)


def reply(message: Message, frame: bytes | memoryview) -> Message:
    """The answer to `message` that carries `frame`."""
    content = _NO_RECORDS.copy()
    content.__dict__["_data"][_FRAME] = _array(frame, "uint8", len(frame))
    asked, now = message.metadata.__dict__, time.time()
    return _message(
        message.metadata,
        content,
        _src_node_id=asked["_dst_node_id"],
        _dst_node_id=asked["_src_node_id"],
        _src_task_id=asked["_dst_task_id"],
        _dst_task_id=asked["_src_task_id"],
        _reply_to_message_id=asked["_message_id"],
        _created_at=now,
        _ttl=asked["_created_at"] + asked["_ttl"] - now,
    )


def error_reply(message: Message, error: WardroundError) -> Message:
    """The answer to `message` that says why there is none."""
    code = _SPENT if isinstance(error, BudgetError) else _REFUSED
    return Message(Error(code=code, reason=str(error)), reply_to=message)


def is_spent(message: Message) -> bool:
    """Whether the site says that it has no privacy budget left."""
    return message.has_error() and message.error.code == _SPENT


def gone_reply(message: Message, reason: str) -> Message:
    """In a simulation: stands for the answer that never came, and says why."""
    return Message(Error(code=_GONE, reason=reason), reply_to=message)


def is_gone(message: Message) -> bool:
    """Whether `message` only stands for an answer that never came."""
    return message.has_error() and message.error.code == _GONE


def hello_reply(message: Message, site: str) -> Message:
    """The answer to a hello: the site's name."""
    return Message(RecordDict({_SITE: ConfigRecord({"site": site})}), reply_to=message)


def read_hello(message: Message) -> str:
    """The site's name in the answer to a hello. Raises RemoteError when there is none."""
    record = message.content.get(_SITE)
    site = record.get("site") if isinstance(record, ConfigRecord) else None
    if not isinstance(site, str) or not site:
        raise RemoteError("message: expected a site's name")
    return site


# -- a user's own ClientApp ---------------------------------------------------------------------------


def _is_legacy(app: ClientApp) -> bool:
    """Whether `app` was made from a `client_fn` (Client, NumPyClient), with messages of their own form."""
    return app._call is not None


def handles(app: ClientApp, kind: str) -> bool:
    """Whether `app` has a function for messages of type `kind`; a `client_fn` says so only in its reply."""
    return _is_legacy(app) or f"{kind}.default" in app._registered_funcs


def app_request(app: ClientApp, kind: str, arrays: ArrayRecord, config: ConfigRecord, *, node_id: int) -> Message:
    """What Flower's FedAvg would send to `app`: the records "arrays" and "config", or their legacy names."""
    ins = "fitins." if kind == MessageType.TRAIN else "evaluateins."
    names = (ins + "parameters", ins + "config") if _is_legacy(app) else ("arrays", "config")
    content = RecordDict(dict(zip(names, (arrays, config), strict=True)))
    # written out, since Message would ask the process for its identity, which may be another on stock Flower
    metadata = Metadata(1, "1", 1, node_id, "", str(config["server-round"]), time.time(), DEFAULT_TTL, kind)
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload, no-any-return]


def bare_request(message: Message, records: RecordDict) -> Message:
    """The request `message` with these records, and nothing else that its sender could choose."""
    asked = message.metadata
    metadata = Metadata(1, "1", 1, asked.dst_node_id, "", "", time.time(), DEFAULT_TTL, asked.message_type)
    return Message(content=records, metadata=metadata)  # type: ignore[call-overload, no-any-return]


def read_metrics(content: RecordDict) -> dict[str, object]:
    """All metrics of an app's reply in one table; a legacy reply's number of examples becomes "num-examples"."""
    found: dict[str, object] = {}
    for name, record in content.items():
        if isinstance(record, MetricRecord) or name in ("fitres.metrics", "evaluateres.metrics"):
            found.update(record)
    if read_status(content) is not None:
        found["num-examples"] = found.pop("num_examples", None)
    return found


def read_status(content: RecordDict) -> int | None:
    """The status code of a legacy reply (0: fine, else: not implemented); None for any other."""
    for name in ("fitres.status", "evaluateres.status"):
        if name in content.config_records:
            return int(content.config_records[name]["code"])  # type: ignore[arg-type]
    return None


def encode_records(records: RecordDict) -> bytes:
    """Records as bytes (protobuf)."""
    data: bytes = recorddict_to_proto(records).SerializeToString()
    return data


def decode_records(data: bytes) -> RecordDict:
    """The inverse of `encode_records`. Raises ValueError for anything else."""
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(data))
    except DecodeError as error:
        raise ValueError(f"expected encoded records ({error})") from None


def bundle_files(folder: Path) -> set[str]:
    """The files of the app in `folder` that Flower sends along. Raises ValueError when Flower does not take the app."""
    from flwr.cli.build import build_fab_from_disk

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of what flwr itself uses
        data = build_fab_from_disk(folder)
    with ZipFile(BytesIO(data)) as bundle:
        return set(bundle.namelist())
