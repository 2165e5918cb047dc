"""Wire: how a message's fields become bytes, one encoding for each value, and bounded before anything is allocated.

A message is a frozen `Record` whose fields carry their codec in the annotation: `epoch: U32`. The fields follow each
other in the order of their declaration, without names or padding; all numbers are little-endian and unsigned.

    codec       bytes
    Number(n)   n
    Choice(E)   1, a member of E
    Fixed(n)    n
    Text        2 for the length, UTF-8: not empty, printable, no blanks at the ends or doubled
    Blob        4 for the length, the bytes
    Bulk        8 for the length, the bytes; read as a view, never copied
    Blocks      2 for the number, 4 for the size that all have (0 where there are none), the blocks
    Maybe(c)    1 that is 0, or 1 that is 1 and then c
    Many(c)     4 for the number, then each
    Nested(R)   the fields of R

A codec's `check` raises ValueError for a value that has no encoding, so that a record that exists can be written;
`read` raises RemoteError, and compares every length with the bytes at hand first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from wardround.errors import RemoteError
from wardround.plain_text import plain_text

__all__ = [
    "U8",
    "U16",
    "U32",
    "U64",
    "Blob",
    "Blocks",
    "Buffer",
    "Bulk",
    "Choice",
    "Codec",
    "Digest",
    "Fixed",
    "Many",
    "Maybe",
    "Name",
    "Nested",
    "Number",
    "Reader",
    "Record",
    "Signature",
    "Text",
    "bytes_of",
    "check_ascending",
    "read_record",
    "write_record",
    "written",
]

Buffer = bytes | memoryview
"""What travels: bytes, or a read-only view of them."""

R = TypeVar("R", bound="Record")


class Reader:
    """The bytes of a message that are not read yet."""

    __slots__ = ("_at", "_data", "_size")

    def __init__(self, data: Buffer) -> None:
        self._data, self._size, self._at = memoryview(data), len(data), 0

    @property
    def left(self) -> int:
        """How many bytes are not read yet."""
        return self._size - self._at

    def take(self, size: int) -> memoryview:
        """The next `size` bytes, without a copy. Raises RemoteError where there are fewer."""
        at, end = self._at, self._at + size
        if end > self._size:
            raise RemoteError(f"expected {size} bytes, got {self.left}")
        self._at = end
        return self._data[at:end]

    def number(self, size: int) -> int:
        """The number in the next `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def length(self, size: int, most: int, each: int = 1) -> int:
        """A number of `size` bytes that counts what follows: at most `most`, of at least `each` bytes, all at hand."""
        length = self.number(size)
        if length > most:
            raise RemoteError(f"expected a length of at most {most}, got {length}")
        if length * each > self.left:
            raise RemoteError(f"expected at least {length * each} bytes, got {self.left}")
        return length


class Codec(Protocol):
    """How one field is checked, written and read. `least` is the size in bytes of the smallest value."""

    @property
    def least(self) -> int: ...

    def check(self, value: Any) -> None: ...

    def write(self, value: Any, out: list[Buffer]) -> None: ...

    def read(self, reader: Reader) -> Any: ...


class Record:
    """What all messages and their parts are: frozen dataclasses that are checked when they are made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, codec in _codecs(type(self)):
            try:
                codec.check(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}.{name}: {error}") from None
        self.check_invariants()

    def check_invariants(self) -> None:
        """Raises ValueError where fields that are valid alone do not fit together."""


def write_record(record: Record, out: list[Buffer]) -> None:
    """Append the encoding of the fields; a `Bulk` is appended as it is."""
    for name, codec in _codecs(type(record)):
        codec.write(getattr(record, name), out)


def written(record: Record) -> bytes:
    """The encoding of the fields in one piece."""
    out: list[Buffer] = []
    write_record(record, out)
    return b"".join(out)


def read_record(kind: type[R], reader: Reader) -> R:
    """The record of `kind` that comes next. Raises RemoteError for anything that `write_record` does not write."""
    values: dict[str, Any] = {}
    for name, codec in _codecs(kind):
        try:
            values[name] = codec.read(reader)
        except RemoteError as error:
            raise RemoteError(f"{kind.__name__}.{name}: {error}") from None
    try:
        return kind(**values)
    except ValueError as error:
        raise RemoteError(str(error)) from None


def check_ascending(what: str, keys: Sequence[Any]) -> None:
    """Raises ValueError unless `keys` ascend: else one set would have many encodings, or one member many votes."""
    if not all(a < b for a, b in pairwise(keys)):
        raise ValueError(f"expected {what} in ascending order, each once")


def bytes_of(words: NDArray[np.unsignedinteger[Any]]) -> memoryview:
    """A read-only view of the words' bytes, little-endian, for a `Bulk`; no copy where they lie so already."""
    little = np.ascontiguousarray(words, dtype=words.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data.toreadonly()


@dataclass(frozen=True, slots=True)
class Number:
    """An unsigned number of `size` bytes."""

    size: int

    @property
    def least(self) -> int:
        return self.size

    def check(self, value: object) -> None:
        if type(value) is not int or not 0 <= value < 1 << 8 * self.size:
            raise ValueError(f"expected a number from 0 to {(1 << 8 * self.size) - 1}, got {_shown(value)}")

    def write(self, value: int, out: list[Buffer]) -> None:
        out.append(value.to_bytes(self.size, "little"))

    def read(self, reader: Reader) -> int:
        return reader.number(self.size)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a closed list, whose numbers are from 0 to 255."""

    kind: type[IntEnum]
    least: int = 1

    def check(self, value: object) -> None:
        if not isinstance(value, self.kind):
            raise ValueError(f"expected a {self.kind.__name__}, got {_shown(value)}")

    def write(self, value: IntEnum, out: list[Buffer]) -> None:
        out.append(bytes((value,)))

    def read(self, reader: Reader) -> IntEnum:
        number = reader.number(1)
        try:
            return self.kind(number)
        except ValueError:
            raise RemoteError(f"expected a {self.kind.__name__}, got {number}") from None


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exactly `size` bytes."""

    size: int

    @property
    def least(self) -> int:
        return self.size

    def check(self, value: object) -> None:
        if type(value) is not bytes or len(value) != self.size:
            raise ValueError(f"expected {self.size} bytes, got {_shown(value)}")

    def write(self, value: bytes, out: list[Buffer]) -> None:
        out.append(value)

    def read(self, reader: Reader) -> bytes:
        return bytes(reader.take(self.size))


@dataclass(frozen=True, slots=True)
class Text:
    """Words for a person, on one line of at most `most` bytes: the rule of a site's name."""

    most: int
    least: int = 3

    def check(self, value: object) -> None:
        if not isinstance(value, str) or not value or not _is_plain(value, self.most):
            raise ValueError(f"expected 1 to {self.most} printable bytes, got {_shown(value)}")
        if len(value.encode()) > self.most:
            raise ValueError(f"expected at most {self.most} bytes, got {len(value.encode())}")

    def write(self, value: str, out: list[Buffer]) -> None:
        text = value.encode()
        out += (len(text).to_bytes(2, "little"), text)

    def read(self, reader: Reader) -> str:
        data = bytes(reader.take(reader.length(2, self.most)))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise RemoteError("expected UTF-8") from None


@dataclass(frozen=True, slots=True)
class Blob:
    """At most `most` bytes, copied out of the message."""

    most: int
    least: int = 4

    def check(self, value: object) -> None:
        if type(value) is not bytes or len(value) > self.most:
            raise ValueError(f"expected at most {self.most} bytes, got {_shown(value)}")

    def write(self, value: bytes, out: list[Buffer]) -> None:
        out += (len(value).to_bytes(4, "little"), value)

    def read(self, reader: Reader) -> bytes:
        return bytes(reader.take(reader.length(4, self.most)))


@dataclass(frozen=True, slots=True)
class Bulk:
    """At most `most` bytes that are too many to copy; a view keeps the whole message in memory."""

    most: int
    least: int = 8

    def check(self, value: object) -> None:
        # a view that somebody can write through would change under its digest
        view = isinstance(value, memoryview) and value.readonly and value.format == "B" and value.ndim == 1
        if not (type(value) is bytes or (view and value.c_contiguous)):  # type: ignore[attr-defined]
            raise ValueError(f"expected bytes or a read-only view of bytes, got {_shown(value)}")
        if len(value) > self.most:  # type: ignore[arg-type]
            raise ValueError(f"expected at most {self.most} bytes, got {_shown(value)}")

    def write(self, value: Buffer, out: list[Buffer]) -> None:
        out += (len(value).to_bytes(8, "little"), value)

    def read(self, reader: Reader) -> memoryview:
        return reader.take(reader.length(8, self.most)).toreadonly()


@dataclass(frozen=True, slots=True)
class Blocks:
    """At most `most` blocks of one size: `size`, or 1 to `largest` bytes where `size` is None."""

    most: int
    size: int | None = None
    largest: int = 0
    least: int = 6

    def check(self, value: object) -> None:
        if type(value) is not tuple or len(value) > self.most:
            raise ValueError(f"expected a tuple of at most {self.most} blocks, got {_shown(value)}")
        if not value:
            return
        size = len(value[0]) if self.size is None and type(value[0]) is bytes else self.size
        if size is None or not self._fits(size):
            raise ValueError(f"expected blocks of 1 to {self.largest} bytes, got {_shown(value[0])}")
        if set(map(type, value)) != {bytes} or set(map(len, value)) != {size}:
            raise ValueError(f"expected blocks of {size} bytes each")

    def write(self, value: tuple[bytes, ...], out: list[Buffer]) -> None:
        size = len(value[0]) if value else 0
        out += (len(value).to_bytes(2, "little"), size.to_bytes(4, "little"), *value)

    def read(self, reader: Reader) -> tuple[bytes, ...]:
        number, size = reader.length(2, self.most), reader.number(4)
        if size if number == 0 else not self._fits(size):
            expected = self.size or f"1 to {self.largest}"
            raise RemoteError(f"expected blocks of {expected if number else 0} bytes, got {size}")
        data = bytes(reader.take(number * size))
        return tuple([data[at : at + size] for at in range(0, len(data), size or 1)])

    def _fits(self, size: int) -> bool:
        return 1 <= size <= self.largest if self.size is None else size == self.size


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value, or None where it is absent."""

    codec: Any  # what carries it: a codec, or a type that is annotated with one
    least: int = 1

    def check(self, value: object) -> None:
        if value is not None:
            codec_of(self.codec).check(value)

    def write(self, value: object, out: list[Buffer]) -> None:
        out.append(b"\0" if value is None else b"\1")
        if value is not None:
            codec_of(self.codec).write(value, out)

    def read(self, reader: Reader) -> Any:
        present = reader.number(1)
        if present > 1:
            raise RemoteError(f"expected 0 or 1 for absent or present, got {present}")
        return codec_of(self.codec).read(reader) if present else None


@dataclass(frozen=True, slots=True)
class Many:
    """At most `most` values of one kind, `fewest` at least."""

    codec: Any
    most: int
    fewest: int = 0
    least: int = 4

    def check(self, value: object) -> None:
        if type(value) is not tuple or not self.fewest <= len(value) <= self.most:
            raise ValueError(f"expected a tuple of {self.fewest} to {self.most}, got {_shown(value)}")
        check = codec_of(self.codec).check
        for one in value:
            check(one)

    def write(self, value: tuple[object, ...], out: list[Buffer]) -> None:
        out.append(len(value).to_bytes(4, "little"))
        write = codec_of(self.codec).write
        for one in value:
            write(one, out)

    def read(self, reader: Reader) -> tuple[Any, ...]:
        codec = codec_of(self.codec)
        return tuple([codec.read(reader) for _ in range(reader.length(4, self.most, codec.least))])


@dataclass(frozen=True, slots=True)
class Nested:
    """The fields of another record."""

    kind: type[Record]

    @property
    def least(self) -> int:
        least = 0
        for _, codec in _codecs(self.kind):
            least += codec.least
        return least

    def check(self, value: object) -> None:
        if type(value) is not self.kind:
            raise ValueError(f"expected a {self.kind.__name__}, got {_shown(value)}")

    def write(self, value: Record, out: list[Buffer]) -> None:
        write_record(value, out)

    def read(self, reader: Reader) -> Record:
        return read_record(self.kind, reader)


U8 = Annotated[int, Number(1)]
U16 = Annotated[int, Number(2)]
U32 = Annotated[int, Number(4)]
U64 = Annotated[int, Number(8)]
Digest = Annotated[bytes, Fixed(32)]
Signature = Annotated[bytes, Fixed(64)]
Name = Annotated[str, Text(255)]


def codec_of(annotated: Any) -> Codec:
    """The codec that a type is annotated with, or the codec itself."""
    codec: Codec = get_args(annotated)[1] if get_args(annotated) else annotated
    return codec


_known: dict[type[Record], tuple[tuple[str, Codec], ...]] = {}


def _codecs(kind: type[Record]) -> tuple[tuple[str, Codec], ...]:
    """Name and codec of each field; kept, since the annotations of ten thousand hellos are the same."""
    if kind not in _known:
        hints = get_type_hints(kind, include_extras=True)
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a Record is a dataclass
        _known[kind] = tuple((name, codec_of(hints[name])) for name in names)
    return _known[kind]


@lru_cache(maxsize=1 << 14)
def _is_plain(text: str, most: int) -> bool:
    """Kept, since every message of an epoch names the same run and members."""
    return plain_text(text, most) == text


def _shown(value: object) -> str:
    """What a refusal may say of a value: never its bytes, which may be secret or long."""
    if isinstance(value, bytes | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, tuple):
        return f"{len(value)}"
    return repr(value)[:80] if isinstance(value, int | str) else type(value).__name__
