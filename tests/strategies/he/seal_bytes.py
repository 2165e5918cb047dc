"""What SEAL, TenSEAL and Zstandard write, made by hand: frames that say what a test wants them to say.

Formats: see `wardround.strategies.he.foreign_bytes`.
"""

import struct
from collections.abc import Iterable, Sequence

from wardround.strategies.he.he_plan import DEGREE

__all__ = ["BLOCK", "block", "ciphertext", "field", "seal_frame", "seal_part", "varint", "zstd", "zstd_frame"]

BLOCK = 1 << 17
VERSION = bytes((4, 3))
RAW, RLE, COMPRESSED = 0, 1, 2


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes((*parts, number))


def field(number: int, value: bytes | int) -> bytes:
    """A field of a message of protobuf: bytes, or a number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def seal_frame(body: bytes, mode: int, version: bytes = VERSION) -> bytes:
    """An object of SEAL: its header, and `body`, which is compressed where `mode` says so."""
    return struct.pack("<HB2sBHQ", 0xA15E, 16, version, mode, 0, 16 + len(body)) + body


def seal_part(chunk: bytes) -> bytes:
    """SEAL's object in a ciphertext or context of TenSEAL, from where it begins."""
    return chunk[chunk.index(b"\x5e\xa1\x10") :]


def block(data: bytes, kind: int = RAW, size: int | None = None, *, last: bool = False) -> bytes:
    """A block of Zstandard, which says that it has `size`."""
    size = len(data) if size is None else size
    return struct.pack("<I", last | kind << 1 | size << 3)[:3] + data


def zstd(blocks: Iterable[bytes], size: int | None, about: int = 0b10100000) -> bytes:
    """A frame of Zstandard: a single segment of `size` bytes, or one with a window, without a size."""
    front = bytes((0, 7 << 3)) if size is None else bytes((about,)) + struct.pack("<I", size)
    return b"\x28\xb5\x2f\xfd" + front + b"".join(blocks)


def zstd_frame(parts: Sequence[tuple[bytes, int]]) -> bytes:
    """A single segment of parts, each some bytes and then so many zeros: nearly nothing on the wire."""
    blocks: list[tuple[bytes, int, int]] = []
    for data, zeros in parts:
        blocks += [(data[at : at + BLOCK], RAW, len(data[at : at + BLOCK])) for at in range(0, len(data), BLOCK)]
        blocks += [(b"\0", RLE, min(BLOCK, zeros - at)) for at in range(0, zeros, BLOCK)]
    written = [block(data, kind, size, last=i == len(blocks) - 1) for i, (data, kind, size) in enumerate(blocks)]
    return zstd(written, sum(size for _, _, size in blocks))


def ciphertext(
    parms: Sequence[int], *, polynomials: int = 2, primes: int = 1, ntt: bool = False, version: bytes = VERSION
) -> bytes:
    """SEAL's ciphertext of zeros, compressed to a hundred bytes."""
    words = polynomials * DEGREE * primes
    form = struct.pack("<4Q?3QdQ", *parms, ntt, polynomials, DEGREE, primes, 1.0, 1)
    head = struct.pack("<HB2sBHQ", 0xA15E, 16, version, 0, 0, 24 + 8 * words) + struct.pack("<Q", words)
    return seal_frame(zstd_frame([(form + head, 8 * words)]), 2, version)
