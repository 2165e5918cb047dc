"""The one place that touches what Flower does not make public, and builds the messages that wardround sends.

A contract test per minor version of flwr covers every name used here.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from wardround.errors import RemoteError, WardroundError

__all__ = [
    "HELLO",
    "STATISTICS",
    "error_reply",
    "gone_reply",
    "hello_reply",
    "is_gone",
    "local_run",
    "pack_order",
    "read_frame",
    "read_hello",
    "read_model",
    "read_order",
    "reply",
    "set_identity",
    "set_message_id",
]

HELLO = "query.hello"
STATISTICS = "query.statistics"

_ORDER, _MODEL, _FRAME, _SITE = "wardround.order", "wardround.model", "wardround.frame", "wardround.site"
_SERIAL_TYPE = "wardround"
_REFUSED, _GONE = 1000, 1001


def set_identity(*, run_id: int, node_id: int, task_id: int = 1) -> None:
    """Say who this process is; flwr's messages take their sender from there. One run per process."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, task_id


def local_run(run_id: int) -> Run:
    """Flower's description of a run that no SuperLink knows."""
    return Run.create_empty(run_id)


def set_message_id(message: Message, message_id: str) -> None:
    """Number a message, as a SuperLink would."""
    message.metadata.__dict__["_message_id"] = message_id


def _array(data: bytes, dtype: str, items: int) -> ArrayRecord:
    """Bytes as a record that Flower sends in chunks; built key by key, which is half the cost of a dict."""
    record = ArrayRecord()
    record["data"] = Array(dtype, (items,), _SERIAL_TYPE, data)
    return record


def pack_order(order: bytes, model: bytes | None = None) -> RecordDict:
    """The content of a request; one object serves a whole cohort. `model` is little-endian float32."""
    content = RecordDict()
    content[_ORDER] = ConfigRecord({"order": order})
    if model is not None:
        content[_MODEL] = _array(model, "float32", len(model) // 4)
    return content


def read_order(message: Message) -> bytes:
    """The order's bytes. Raises RemoteError when there is none."""
    record = message.content.get(_ORDER)
    data = record.get("order") if isinstance(record, ConfigRecord) else None
    if not isinstance(data, bytes):
        raise RemoteError("message: expected an order")
    return data


def _read_array(message: Message, key: str) -> bytes:
    record = message.content.get(key)
    if not isinstance(record, ArrayRecord) or "data" not in record:
        raise RemoteError(f"message: expected {key}")
    return record["data"].data


def read_model(message: Message) -> bytes:
    """The model's bytes. Raises RemoteError when there is none."""
    return _read_array(message, _MODEL)


def read_frame(message: Message) -> bytes:
    """The frame in a reply. Raises RemoteError when there is none."""
    return _read_array(message, _FRAME)


def reply(message: Message, frame: bytes) -> Message:
    """The answer to `message` that carries `frame`."""
    content = RecordDict()
    content[_FRAME] = _array(frame, "uint8", len(frame))
    return Message(content, reply_to=message)


def error_reply(message: Message, error: WardroundError) -> Message:
    """The answer to `message` that says why there is none."""
    return Message(Error(code=_REFUSED, reason=str(error)), reply_to=message)


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
