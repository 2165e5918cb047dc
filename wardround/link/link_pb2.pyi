from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN: _ClassVar[Direction]
    TO_SITE: _ClassVar[Direction]
    TO_SERVER: _ClassVar[Direction]
UNKNOWN: Direction
TO_SITE: Direction
TO_SERVER: Direction

class Frame(_message.Message):
    __slots__ = ("hello", "welcome", "farewell", "call", "reply", "grant", "chunk", "end", "done", "cancel", "notice", "noted", "data")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    FAREWELL_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    NOTED_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    welcome: Welcome
    farewell: Farewell
    call: Call
    reply: Reply
    grant: Grant
    chunk: Chunk
    end: End
    done: Done
    cancel: Cancel
    notice: Notice
    noted: Noted
    data: bytes
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., farewell: _Optional[_Union[Farewell, _Mapping]] = ..., call: _Optional[_Union[Call, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., grant: _Optional[_Union[Grant, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., noted: _Optional[_Union[Noted, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("versions", "software")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    software: str
    def __init__(self, versions: _Optional[_Iterable[int]] = ..., software: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "software", "time_ms", "calls")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    version: int
    software: str
    time_ms: int
    calls: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, version: _Optional[int] = ..., software: _Optional[str] = ..., time_ms: _Optional[int] = ..., calls: _Optional[_Iterable[int]] = ...) -> None: ...

class Farewell(_message.Message):
    __slots__ = ("reason", "text")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    reason: int
    text: str
    def __init__(self, reason: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("id", "run", "kind", "signature", "order_bytes", "protocol_bytes", "spec_bytes", "model_bytes", "payload", "key")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ORDER_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SPEC_BYTES_FIELD_NUMBER: _ClassVar[int]
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    id: int
    run: str
    kind: str
    signature: bytes
    order_bytes: int
    protocol_bytes: int
    spec_bytes: int
    model_bytes: int
    payload: bytes
    key: bytes
    def __init__(self, id: _Optional[int] = ..., run: _Optional[str] = ..., kind: _Optional[str] = ..., signature: _Optional[bytes] = ..., order_bytes: _Optional[int] = ..., protocol_bytes: _Optional[int] = ..., spec_bytes: _Optional[int] = ..., model_bytes: _Optional[int] = ..., payload: _Optional[bytes] = ..., key: _Optional[bytes] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("id", "making", "fault", "reason", "signature", "frame_bytes", "payload", "key")
    ID_FIELD_NUMBER: _ClassVar[int]
    MAKING_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    id: int
    making: int
    fault: int
    reason: str
    signature: bytes
    frame_bytes: int
    payload: bytes
    key: bytes
    def __init__(self, id: _Optional[int] = ..., making: _Optional[int] = ..., fault: _Optional[int] = ..., reason: _Optional[str] = ..., signature: _Optional[bytes] = ..., frame_bytes: _Optional[int] = ..., payload: _Optional[bytes] = ..., key: _Optional[bytes] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("direction", "id", "offset", "until")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    direction: Direction
    id: int
    offset: int
    until: int
    def __init__(self, direction: _Optional[_Union[Direction, str]] = ..., id: _Optional[int] = ..., offset: _Optional[int] = ..., until: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("direction", "id", "offset", "crc32")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    direction: Direction
    id: int
    offset: int
    crc32: int
    def __init__(self, direction: _Optional[_Union[Direction, str]] = ..., id: _Optional[int] = ..., offset: _Optional[int] = ..., crc32: _Optional[int] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("direction", "id", "digest")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    direction: Direction
    id: int
    digest: bytes
    def __init__(self, direction: _Optional[_Union[Direction, str]] = ..., id: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("id", "kind", "body")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: str
    body: bytes
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class Noted(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...
