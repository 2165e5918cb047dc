"""What a peer may hand to TenSEAL's loader: looked at byte by byte before, since the loader takes whatever parses.

It reads any number of ciphertexts, of any number of polynomials, and keys of every kind, each unpacked into memory: of
half a megabyte, gigabytes. So a chunk has to be one ciphertext behind the bytes that ours begin with, and a context has
no field but parameters, public key and secret key; and what each of them unpacks to is bounded by its blocks.

Formats: TenSEAL's `tenseal/proto/tensors.proto` and `tensealcontext.proto` in protobuf's encoding; SEAL's header of 16
bytes (`native/src/seal/serialization.h`: magic, its own size, version, compression, reserved, total size); Zstandard
frames, RFC 8878, sections 3.1.1.1 and 3.1.1.2 (a block unpacks to at most 128 KiB).
"""

from collections.abc import Iterator

from wardround.errors import RemoteError
from wardround.strategies.he.he_plan import DEGREE

__all__ = ["MAX_CHUNK_BYTES", "check_chunk", "check_context", "holds_secret_key", "wrapped"]

MAX_CHUNK_BYTES = 1 << 17
"""Above what a chunk takes: two polynomials of 4096 coefficients of 54 bits in words of 64, and headers."""
_MAX_CONTEXT_BYTES = 1 << 18
_BLOCK = 1 << 17
_MOST_UNPACKED = 3 * _BLOCK
_SEAL = b"\x5e\xa1\x10"
_UNPACKED, _ZSTD = 0, 2
_RAW, _RLE, _COMPRESSED = 0, 1, 2
_PARAMETERS, _PUBLIC, _SECRET, _TYPE = 1, 2, 3, 4
_KEYS = {_PUBLIC: {1, 2, 3}, _SECRET: {1, 2, 3}}
"""Of the public part: public key, flags, scale; of the secret part: secret key, and whether there were others."""


def wrapped(ciphertext: bytes) -> bytes:
    """A ciphertext of SEAL as a vector of TenSEAL (BFVVectorProto)."""
    return _BEFORE + _varint(len(ciphertext)) + ciphertext


def check_chunk(data: bytes) -> None:
    """Raises RemoteError for what is not one ciphertext as `wrapped` writes it, of bounded size when it is unpacked."""
    if not 0 < len(data) <= MAX_CHUNK_BYTES:
        raise RemoteError(f"ciphertext: expected 1 to {MAX_CHUNK_BYTES} bytes, got {len(data)}")
    try:
        if not data.startswith(_BEFORE):
            raise ValueError("another beginning")
        length, at = _number(data, len(_BEFORE))
        if at + length != len(data):
            raise ValueError("another length")
        _check_object(data[at:])
    except (ValueError, IndexError) as error:
        raise RemoteError(f"ciphertext: expected one of this epoch's parameters ({error})") from None


def check_context(data: bytes) -> bytes:
    """The parameters of a context, as SEAL wrote them.

    Raises RemoteError for a context with other fields than ours have, or too large when it is unpacked.
    """
    parameters = b""
    try:
        if len(data) > _MAX_CONTEXT_BYTES:
            raise ValueError(f"{len(data)} bytes")
        seen = []
        for field, value in _fields(data):
            seen.append(field)
            if field == _PARAMETERS and isinstance(value, bytes):
                _check_object(value)
                parameters = value
            elif field in _KEYS and isinstance(value, bytes):
                _check_keys(_KEYS[field], value)
            elif field != _TYPE or isinstance(value, bytes):
                raise ValueError(f"field {field}")
        if not parameters or len(set(seen)) != len(seen):
            raise ValueError("a field twice, or no parameters")
    except (ValueError, IndexError) as error:
        raise RemoteError(f"context: expected parameters and keys of BFV alone ({error})") from None
    return parameters


def holds_secret_key(data: bytes) -> bool:
    """Whether these are the bytes of a context of TenSEAL with its secret key."""
    has_parameters = False
    try:
        for field, value in _fields(data):
            if isinstance(value, bytes) and field == _PARAMETERS:
                has_parameters = value.startswith(_SEAL)
            elif has_parameters and isinstance(value, bytes) and field == _SECRET:
                return bool(value)
    except (ValueError, IndexError):
        pass
    return False


def _check_keys(allowed: set[int], data: bytes) -> None:
    seen = []
    for field, value in _fields(data):
        seen.append(field)
        if field not in allowed or (isinstance(value, bytes) != (field == 1)):
            raise ValueError(f"key field {field}")
        if isinstance(value, bytes) and value:
            _check_object(value)
    if len(set(seen)) != len(seen):
        raise ValueError("a key twice")


def _check_object(data: bytes) -> None:
    """One object of SEAL, unpacked to at most 384 KiB."""
    if data[:3] != b"\x5e\xa1\x10" or int.from_bytes(data[8:16], "little") != len(data):
        raise ValueError("no object of SEAL")
    if data[5] == _UNPACKED:
        return
    if data[5] != _ZSTD:
        raise ValueError("another compression")
    if (size := sum(_blocks(data[16:]))) > _MOST_UNPACKED:
        raise ValueError(f"up to {size} bytes when it is unpacked")


def _blocks(frame: bytes) -> Iterator[int]:
    """To how many bytes each block of a Zstandard frame may unpack; nothing may follow the frame.

    SEAL writes single segments, whose size stands at the front and is all the memory that unpacking takes.
    """
    if frame[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("no Zstandard frame")
    about, width = frame[4], (1, 2, 4, 8)[frame[4] >> 6]
    if not about & 0b100000 or about & 0b11:
        raise ValueError("a frame with a window or a dictionary")
    at = 5 + width
    if int.from_bytes(frame[5:at], "little") > _MOST_UNPACKED:
        raise ValueError("a frame that is too large when it is unpacked")
    last = False
    while not last:
        header = int.from_bytes(frame[at : at + 3], "little")
        if at + 3 > len(frame):
            raise ValueError("a frame that is cut")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind not in (_RAW, _RLE, _COMPRESSED) or size > _BLOCK:
            raise ValueError("a block of another kind")
        yield _BLOCK if kind == _COMPRESSED else size
        at += 3 + (1 if kind == _RLE else size)
    if at + 4 * (about >> 2 & 1) != len(frame):
        raise ValueError("bytes after the frame")


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a message of protobuf."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            number, at = _number(data, at)
            yield field, number
            continue
        size, at = _number(data, at) if wire == 2 else ({1: 8, 5: 4}.get(wire, -1), at)
        if size < 0 or at + size > len(data):
            raise ValueError("a field that is cut")
        yield field, data[at : at + size] if wire == 2 else int.from_bytes(data[at : at + size], "little")
        at += size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The number of variable length at `at`, and where it ends."""
    number = 0
    for shift in range(0, 35, 7):
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a number of more than 5 bytes")


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes((*parts, number))


_BEFORE = b"\x0a" + _varint(len(_varint(DEGREE))) + _varint(DEGREE) + b"\x12"
"""The sizes of a vector's chunks, one of all slots, and the tag of its ciphertext."""
