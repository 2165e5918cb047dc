"""Images as files have them: NPY arrays, and PNG of 8 or 16 bits, grey or RGB, without interlacing.

Nothing larger than the schema's shape is ever unpacked. Source of PNG: W3C Recommendation, Portable Network Graphics
(Third Edition), section 9 (filtering).
"""

import ast
import re
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageShapeError", "decode_image"]

_PNG = b"\x89PNG\r\n\x1a\n"
_NPY = b"\x93NUMPY"
_CHANNELS = {0: 1, 2: 3}
_NUMBERS = re.compile(r"[<>|](u[1248]|i[1248]|f[248])")
_MOST_HEADER = 1 << 16


class ImageShapeError(ValueError):
    """The image is one, of another shape."""


def decode_image(data: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
    """The pixels of an image file, shape [channels, height, width] as expected.

    Raises ImageShapeError for another shape, ValueError for a file that is no such image.
    """
    if data.startswith(_PNG):
        return _png(data, shape)
    if data.startswith(_NPY):
        return _npy(data, shape)
    raise ValueError("expected PNG or NPY")


def _npy(data: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
    """(channels, height, width); (height, width) and (height, width, channels) are turned into it.

    Source: NumPy Enhancement Proposal 1. Its header is read here, since NumPy's own reader guesses at damaged ones.
    """
    wide = 4 if data[6:8] == b"\2\0" else 2
    if data[6:8] not in (b"\1\0", b"\2\0"):
        raise ValueError("expected NPY 1.0 or 2.0")
    start = 8 + wide + int.from_bytes(data[8 : 8 + wide], "little")
    if start > min(len(data), _MOST_HEADER):
        raise ValueError("expected a header that is whole")
    try:
        header = ast.literal_eval(data[8 + wide : start].decode("latin-1").strip())
        kind, fortran, found = header["descr"], header["fortran_order"], header["shape"]
    except (SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise ValueError("expected a header of an array") from None
    channels, height, width = shape
    allowed = [shape, (height, width, channels)] + [(height, width)] * (channels == 1)
    if not isinstance(kind, str) or not _NUMBERS.fullmatch(kind) or not isinstance(fortran, bool):
        raise ValueError("expected an array of numbers")
    if found not in allowed:
        raise ImageShapeError("another shape")
    pixels = np.frombuffer(data[start:], dtype=kind)
    if pixels.size != channels * height * width:
        raise ValueError("expected as many pixels as its header says")
    pixels = pixels.reshape(found, order="F" if fortran else "C")
    return pixels if found == shape else pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _png(data: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
    header, packed = b"", []
    for kind, content in _chunks(data):
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            packed.append(content)
    if len(header) != 13:
        raise ValueError("expected a header")
    width, height = (int.from_bytes(header[at : at + 4], "big") for at in (0, 4))
    depth, colour, *rest = header[8:]
    if depth not in (8, 16) or colour not in _CHANNELS or any(rest):
        raise ValueError("expected 8 or 16 bits, grey or RGB, not interlaced")
    if (_CHANNELS[colour], height, width) != shape:
        raise ImageShapeError("another shape")
    step = _CHANNELS[colour] * depth // 8
    size = height * (1 + width * step)
    unpack = zlib.decompressobj()
    try:
        lines = unpack.decompress(b"".join(packed), size)
    except zlib.error:
        raise ValueError("expected packed pixels") from None
    if len(lines) != size:
        raise ValueError("expected all pixels")
    rows = np.frombuffer(lines, dtype=np.uint8).reshape(height, 1 + width * step)
    pixels = _unfiltered(rows[:, 0], rows[:, 1:].reshape(height, width, step))
    values = pixels.reshape(height, width, _CHANNELS[colour], depth // 8)
    found: NDArray[Any] = values[..., 0] if depth == 8 else values.astype(np.uint16) @ np.array([256, 1], np.uint16)
    return found.transpose(2, 0, 1)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        content, check = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if len(check) != 4 or zlib.crc32(kind + content) != int.from_bytes(check, "big"):
            raise ValueError("expected whole chunks")
        yield kind, content
        at += 12 + length


def _unfiltered(filters: NDArray[np.uint8], lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels of shape (height, width, bytes), from a line's filter and what it left.

    A pixel is known once those to the left and above are: a diagonal is worked out at a time.
    """
    height, width, step = lines.shape
    if filters.max(initial=0) > 4:
        raise ValueError("expected known filters")
    if not filters.any():
        return lines
    out = np.zeros((height + 1, width + 1, step), dtype=np.int16)
    for diagonal in range(height + width - 1):
        row = np.arange(max(0, diagonal - width + 1), min(height - 1, diagonal) + 1)
        column = diagonal - row
        left, above, corner = out[row + 1, column], out[row, column + 1], out[row, column]
        kind = filters[row][:, None]
        to_left, to_above, to_corner = np.abs(above - corner), np.abs(left - corner), np.abs(left + above - 2 * corner)
        nearest = np.where(
            (to_left <= to_above) & (to_left <= to_corner), left, np.where(to_above <= to_corner, above, corner)
        )
        guess = np.choose(kind, (np.zeros_like(left), left, above, (left + above) // 2, nearest))
        out[row + 1, column + 1] = (lines[row, column] + guess) % 256
    return out[1:, 1:].astype(np.uint8)
