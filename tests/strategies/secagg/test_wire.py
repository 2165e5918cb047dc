"""Codecs: what is checked, written and read, each against bytes that are written out here."""

import tracemalloc
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.strategies.secagg.wire import (
    U8,
    U16,
    U32,
    U64,
    Blob,
    Blocks,
    Buffer,
    Bulk,
    Choice,
    Codec,
    Fixed,
    Many,
    Maybe,
    Name,
    Nested,
    Reader,
    Record,
    Text,
    bytes_of,
    check_ascending,
    read_record,
    write_record,
    written,
)


class Colour(IntEnum):
    RED = 1
    BLUE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Record):
    low: U8
    high: U16

    def check_invariants(self) -> None:
        if self.low > self.high:
            raise ValueError(f"Part.low: expected at most {self.high}, got {self.low}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole(Record):
    number: U32
    long: U64
    colour: Annotated[Colour, Choice(Colour)]
    two: Annotated[bytes, Fixed(2)]
    name: Name
    word: Annotated[str, Text(4)]
    blob: Annotated[bytes, Blob(5)]
    bulk: Annotated[Buffer, Bulk(6)]
    digests: Annotated[tuple[bytes, ...], Blocks(3, 2)]
    bundles: Annotated[tuple[bytes, ...], Blocks(3, largest=4)]
    absent: Annotated[int | None, Maybe(U16)]
    parts: Annotated[tuple[Part, ...], Many(Nested(Part), 2)]


GOOD: dict[str, Any] = {
    "number": 0x01020304,
    "long": 2**64 - 1,
    "colour": Colour.BLUE,
    "two": b"ab",
    "name": "Malmö",
    "word": "x",
    "blob": b"12345",
    "bulk": b"678",
    "digests": (b"cd", b"ef"),
    "bundles": (b"ghi",),
    "absent": 513,
    "parts": (Part(low=1, high=2),),
}
BYTES: dict[str, bytes] = {
    "number": b"\4\3\2\1",
    "long": b"\xff" * 8,
    "colour": b"\4",
    "two": b"ab",
    "name": b"\6\0Malm\xc3\xb6",
    "word": b"\1\0x",
    "blob": b"\5\0\0\0" + b"12345",
    "bulk": b"\3\0\0\0\0\0\0\0" + b"678",
    "digests": b"\2\0\2\0\0\0cdef",
    "bundles": b"\1\0\3\0\0\0ghi",
    "absent": b"\1\1\2",
    "parts": b"\1\0\0\0\1\2\0",
}


def read(data: bytes) -> Whole:
    reader = Reader(data)
    found = read_record(Whole, reader)
    assert reader.left == 0
    return found


def test_a_record_is_its_fields_in_order_in_the_bytes_of_the_description() -> None:
    data = b"".join(BYTES.values())
    assert written(Whole(**GOOD)) == data
    assert read(data) == Whole(**GOOD)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", 1 << 32),
        ("number", -1),
        ("number", 1.0),
        ("number", True),
        ("number", np.uint32(3)),
        ("long", 1 << 64),
        ("colour", 4),
        ("colour", None),
        ("two", b"abc"),
        ("two", bytearray(b"ab")),
        ("name", ""),
        ("name", "a\nb"),
        ("name", " a"),
        ("name", "a  b"),
        ("name", "\ud800"),
        ("name", "ö" * 128),
        ("name", b"a"),
        ("word", "12345"),
        ("word", "ööö"),
        ("blob", b"123456"),
        ("blob", memoryview(b"1")),
        ("bulk", b"1234567"),
        ("bulk", bytearray(b"1")),
        ("bulk", memoryview(bytearray(b"1"))),
        ("bulk", memoryview(b"1234").cast("I")),
        ("bulk", memoryview(b"1234")[::2]),
        ("digests", (b"abc",)),
        ("digests", [b"ab"]),
        ("digests", (b"ab",) * 4),
        ("digests", (b"ab", b"c")),
        ("bundles", (b"",)),
        ("bundles", (b"abcde",)),
        ("bundles", (b"a", b"bc")),
        ("bundles", ("a",)),
        ("absent", 1 << 16),
        ("parts", [Part(low=1, high=2)]),
        ("parts", (Part(low=1, high=2),) * 3),
        ("parts", ((1, 2),)),
    ],
)
def test_a_value_without_an_encoding_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^Whole\.{field}: expected .*"):
        Whole(**(GOOD | {field: value}))


@pytest.mark.parametrize(
    ("field", "data"),
    [
        ("colour", b"\0"),
        ("colour", b"\2"),
        ("name", b"\0\0"),
        ("name", b"\2\0\xc3\xb6"[:3] + b"\x28"),
        ("name", b"\2\0\xc0\xaf"),  # an overlong slash
        ("name", b"\2\0a\n"),
        ("name", b"\0\1" + b"a" * 256),
        ("blob", b"\6\0\0\0123456"),
        ("bulk", b"\7\0\0\0\0\0\0\0001234567"),
        ("digests", b"\2\0\1\0\0\0cd"),
        ("digests", b"\2\0\3\0\0\0cdefgh"),
        ("digests", b"\0\0\2\0\0\0"),
        ("bundles", b"\0\0\1\0\0\0"),
        ("bundles", b"\1\0\0\0\0\0"),
        ("bundles", b"\1\0\5\0\0\0ghijk"),
        ("bundles", b"\4\0\1\0\0\0ghij"),
        ("absent", b"\2\1\2"),
        ("absent", b"\xff\1\2"),
        ("parts", b"\3\0\0\0" + b"\1\2\0" * 3),
        ("parts", b"\1\0\0\0\3\2\0"),
    ],
)
def test_bytes_that_no_value_has_are_a_remote_error(field: str, data: bytes) -> None:
    with pytest.raises(RemoteError, match="expected"):
        read(b"".join((BYTES | {field: data}).values()))


def test_every_truncation_is_a_remote_error() -> None:
    data = b"".join(BYTES.values())
    for end in range(len(data)):
        with pytest.raises(RemoteError, match=r"expected (at least )?\d+ bytes, got \d+$"):
            read(data[:end])


@pytest.mark.parametrize("codec", [Text(3), Blob(3), Bulk(3), Many(U8, 3), Blocks(3, largest=9)])
def test_a_codec_refuses_what_is_too_long_before_it_reads_it(codec: Codec) -> None:
    with pytest.raises(RemoteError, match="expected a length of at most 3, got 4"):
        codec.read(Reader(b"\4\0" + bytes(100) if not isinstance(codec, Blocks) else b"\4\0\1\0\0\0abcd"))


def test_a_refusal_names_the_way_to_the_field_and_never_the_bytes() -> None:
    with pytest.raises(RemoteError, match=r"^Whole\.parts: Part\.low: expected at most 2, got 3$"):
        read(b"".join((BYTES | {"parts": b"\1\0\0\0\3\2\0"}).values()))
    with pytest.raises(ValueError, match=r"^Whole\.two: expected 2 bytes, got 6 bytes$"):
        Whole(**(GOOD | {"two": b"secret"}))


def test_records_of_any_kind_are_frozen_hashable_and_equal_by_value() -> None:
    one, same = Whole(**GOOD), Whole(**(GOOD | {"bulk": memoryview(b"678")}))
    assert one == same and hash(one) == hash(same)
    with pytest.raises(AttributeError):
        one.number = 5  # type: ignore[misc]


@given(st.binary(max_size=120))
def test_whatever_is_accepted_has_this_one_encoding(data: bytes) -> None:
    reader = Reader(data)
    try:
        found = read_record(Whole, reader)
    except RemoteError:
        return
    assert written(found) == data[: len(data) - reader.left]


@pytest.mark.parametrize("field", ["name", "blob", "bulk", "digests", "bundles", "parts"])
def test_a_length_is_compared_with_the_bytes_at_hand_before_anything_is_allocated(field: str) -> None:
    generous: dict[str, Any] = {
        "name": Text(65535),
        "blob": Blob(1 << 31),
        "bulk": Bulk(1 << 62),
        "digests": Blocks(65535, 1 << 20),
        "bundles": Blocks(65535, largest=1 << 31),
        "parts": Many(Nested(Part), 1 << 31),
    }
    size = b"\0\0\x10\0" if field == "digests" else b"\xff\xff\xff\x7f"
    data = {
        "name": b"\xff\xff",
        "blob": b"\xff\xff\xff\x7f",
        "bulk": b"\xff" * 7 + b"\0",
        "parts": b"\xff\xff\xff\x7f",
    }.get(field, b"\xff\xff" + size)
    peak = 0
    for _ in range(2):  # the second time, nothing of the interpreter's own is made for the first time
        tracemalloc.start()
        with pytest.raises(RemoteError, match=r"expected (at least )?\d+ bytes, got 6[04]"):
            generous[field].read(Reader(data + bytes(60)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100_000


def test_bulk_is_written_and_read_without_a_copy() -> None:
    words = np.arange(10, dtype=np.uint32)
    view = bytes_of(words)
    assert np.shares_memory(np.frombuffer(view, dtype=np.uint32), words)
    assert view.readonly and view == b"".join(i.to_bytes(4, "little") for i in range(10))

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Update(Record):
        vector: Annotated[Buffer, Bulk(100)]

    out: list[Buffer] = []
    write_record(Update(vector=view), out)
    assert out[1] is view
    data = b"".join(out)
    found = Bulk(100).read(Reader(data))
    assert found.readonly and np.shares_memory(
        np.frombuffer(found, dtype=np.uint8), np.frombuffer(data, dtype=np.uint8)
    )


def test_words_of_any_order_and_stride_are_written_little_endian() -> None:
    words = np.arange(1, 9, dtype=">u8")[::3]
    assert bytes_of(words) == b"".join(int(i).to_bytes(8, "little") for i in (1, 4, 7))
    assert len(bytes_of(np.empty(0, dtype=np.uint16))) == 0


def test_only_keys_that_ascend_are_in_order() -> None:
    check_ascending("members", [])
    check_ascending("members", [1, 5, 6])
    for bad in ([1, 1], [2, 1], [1, 3, 2]):
        with pytest.raises(ValueError, match="expected members in ascending order, each once"):
            check_ascending("members", bad)
