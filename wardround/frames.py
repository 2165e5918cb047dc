"""Frames: the versioned, bounded binary form of what a site sends back for an order.

    offset  size  field
         0     4  magic "WRF1"
         4     4  round            uint32
         8     4  attempt          uint32
        12     4  length of site   uint32, at most 255, UTF-8
        16     8  weight           uint64, below 2^53
        24     8  length of vector uint64, in float32 values
        32     8  length of tally  uint64, in int64 values
        40     8  length of spec   uint64, at most 64 KiB (the tally's spec, JSON)
        48        vector (little-endian float32), tally (little-endian int64), site, spec

Sizes are checked against the bytes at hand before anything is allocated; decoding copies nothing.
"""

import struct
from dataclasses import dataclass

import numpy as np

from wardround.errors import RemoteError
from wardround.orders import SiteId
from wardround.tally import Tally, decode_spec, encode_spec
from wardround.vector import F32

__all__ = ["MAX_WEIGHT", "Frame", "decode_frame", "encode_frame"]

_HEADER = struct.Struct("<4sIIIQQQQ")
_MAGIC = b"WRF1"
_MAX_SITE_BYTES = 255
_MAX_SPEC_BYTES = 1 << 16
MAX_WEIGHT = (1 << 53) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A decoded reply. `vector` has shape (d,), or (0,) when the order asked for a tally only."""

    round: int
    attempt: int
    site: SiteId
    weight: int
    vector: F32
    tally: Tally


def encode_frame(frame: Frame) -> bytes:
    """The bytes of `frame`. Raises ValueError when a field is out of its bounds."""
    site, spec = frame.site.encode(), encode_spec(frame.tally.spec)
    if not 0 < len(site) <= _MAX_SITE_BYTES or len(spec) > _MAX_SPEC_BYTES:
        raise ValueError(
            f"expected a site name of 1 to {_MAX_SITE_BYTES} bytes and a spec of at most {_MAX_SPEC_BYTES}"
        )
    if not 0 <= frame.weight <= MAX_WEIGHT:
        raise ValueError(f"expected a weight from 0 to {MAX_WEIGHT}, got {frame.weight}")
    if not (0 <= frame.round < 1 << 32 and 0 <= frame.attempt < 1 << 32):
        raise ValueError(f"expected a round and an attempt of 32 bits, got {frame.round} and {frame.attempt}")
    if frame.vector.ndim != 1:
        raise ValueError(f"expected a vector of shape (d,), got {frame.vector.shape}")
    header = _HEADER.pack(
        _MAGIC,
        frame.round,
        frame.attempt,
        len(site),
        frame.weight,
        frame.vector.shape[0],
        frame.tally.counts.shape[0],
        len(spec),
    )
    vector = np.ascontiguousarray(frame.vector, dtype="<f4").data
    counts = np.ascontiguousarray(frame.tally.counts, dtype="<i8").data
    return b"".join((header, vector, counts, site, spec))


def decode_frame(data: bytes | memoryview) -> Frame:
    """The frame in `data`; its arrays are read-only views. Raises RemoteError for anything malformed."""
    if len(data) < _HEADER.size or data[:4] != _MAGIC:
        raise RemoteError(f"frame: expected {_MAGIC!r} and a header of {_HEADER.size} bytes, got {bytes(data[:4])!r}")
    _, round_, attempt, site_len, weight, vector_len, tally_len, spec_len = _HEADER.unpack_from(data)
    expected = _HEADER.size + 4 * vector_len + 8 * tally_len + site_len + spec_len
    if expected != len(data):
        raise RemoteError(f"frame: expected {expected} bytes by its header, got {len(data)}")
    if not 0 < site_len <= _MAX_SITE_BYTES or spec_len > _MAX_SPEC_BYTES or weight > MAX_WEIGHT:
        raise RemoteError("frame: expected site, spec and weight within their bounds")
    at = _HEADER.size
    vector = np.frombuffer(data, dtype="<f4", count=vector_len, offset=at)
    at += 4 * vector_len
    # the int64 part may be unaligned when the vector has an odd length; numpy reads it all the same
    counts = np.frombuffer(data, dtype="<i8", count=tally_len, offset=at)
    at += 8 * tally_len
    try:
        site = SiteId(bytes(data[at : at + site_len]).decode())
        tally = Tally(decode_spec(bytes(data[at + site_len :])), counts)
    except ValueError as error:
        raise RemoteError(f"frame: expected a UTF-8 site and counts that fit their spec ({error})") from None
    return Frame(round=round_, attempt=attempt, site=site, weight=weight, vector=vector, tally=tally)
