"""What the head of a first model's file says: a safetensors file, checked as it comes, before the numbers.

    8 bytes, the length of the header; the header, JSON; the numbers, float32, tensor after tensor in the layout's order

The header's metadata has, under `wardround`, JSON with `layout`, `evaluate_spec` and `plan_digest`.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from wardround.errors import RemoteError
from wardround.tally import decode_spec, encode_spec

__all__ = ["MOST_HEAD_BYTES", "FirstModelHead", "head_bytes", "read_head"]

MOST_HEAD_BYTES = 4 << 20
_LENGTH_BYTES = 8
_MOST_SIZE = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstModelHead:
    """`size` parameters in tensors by `layout`; the whole file has `file_bytes`. `spec` is JSON."""

    layout: tuple[tuple[str, tuple[int, ...]], ...]
    spec: str
    plan_digest: str
    size: int
    file_bytes: int


def head_bytes(data: bytes) -> int | None:
    """How long the head is; None while `data`, the start of a file, is too short to tell. RemoteError for no file."""
    if len(data) < _LENGTH_BYTES:
        return None
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if not 2 <= length <= MOST_HEAD_BYTES - _LENGTH_BYTES:
        raise RemoteError(f"first model: expected a safetensors file with a header of at most {MOST_HEAD_BYTES} bytes")
    return _LENGTH_BYTES + length


def read_head(data: bytes) -> FirstModelHead:
    """What the head `data` says. RemoteError for anything but a whole and consistent one."""
    try:
        header = json.loads(data[_LENGTH_BYTES:])
        metadata = json.loads(header.pop("__metadata__")["wardround"])
        layout = tuple((str(name), _shape(shape)) for name, shape in metadata["layout"])
        spec = encode_spec(decode_spec(json.dumps(metadata["evaluate_spec"]).encode())).decode()
        plan_digest = metadata["plan_digest"]
        if not isinstance(plan_digest, str):
            raise ValueError("plan_digest")
        size = _check_tensors(header, layout)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RemoteError) as error:
        raise RemoteError(
            f"first model: expected a file that this version of wardround makes ({type(error).__name__})"
        ) from None
    if not 0 < size <= _MOST_SIZE:
        raise RemoteError(f"first model: expected 1 to {_MOST_SIZE} parameters, got {size}")
    return FirstModelHead(layout=layout, spec=spec, plan_digest=plan_digest, size=size, file_bytes=len(data) + 4 * size)


def _shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(type(one) is int and 0 < one <= _MOST_SIZE for one in shape):
        raise ValueError("shape")
    if math.prod(shape) > _MOST_SIZE:
        raise ValueError("shape")
    return tuple(shape)


def _check_tensors(header: dict[str, Any], layout: tuple[tuple[str, tuple[int, ...]], ...]) -> int:
    """The number of parameters; ValueError unless the header's tensors are the layout's, each once and float32, and
    their bytes follow each other without a gap."""
    if len(header) != len(layout) or header.keys() != {name for name, _ in layout}:
        raise ValueError("tensors")
    spans = []
    for name, shape in layout:
        one = header[name]
        begin, end = one["data_offsets"]
        if one["dtype"] != "F32" or _shape(one["shape"]) != shape or end - begin != 4 * math.prod(shape):
            raise ValueError("tensor")
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError("offsets")
        at = end
    return at // 4
