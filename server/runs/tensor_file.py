"""Named arrays with JSON metadata as the bytes of a safetensors file, and back, bit for bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.errors import LocalError, MissingExtraError
from wardround.released_model import is_sealed_model

__all__ = ["decode_arrays", "decode_tensors", "encode_tensors", "read_tensors"]

_KEY = "wardround"


def encode_tensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> bytes:
    """A safetensors file; the same input gives the same bytes.

    Metadata is one JSON text with sorted keys, for safetensors writes several keys in a random order.
    """
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    data: bytes = _safetensors().numpy.save(arrays, metadata={_KEY: text})
    return data


def decode_tensors(data: bytes, where: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The inverse of `encode_tensors`; arrays are writable. Raises LocalError naming the file `where`."""
    tensors, library = decode_arrays(data, where), _safetensors()
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = dict(json.loads(header["__metadata__"][_KEY]))
    except (library.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LocalError(f"{where}: expected a whole safetensors file made by wardround ({error})") from None
    return tensors, metadata


def decode_arrays(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, writable, whoever made it. Raises LocalError naming the file `where`."""
    if is_sealed_model(data):
        raise LocalError(
            f"{where}: is sealed to the members of its run; one of them opens it: wardround client model open {where} "
            "--out model.safetensors"
        )
    library = _safetensors()
    try:
        return {name: array.copy() for name, array in library.numpy.load(data).items()}
    except (library.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LocalError(f"{where}: expected a whole safetensors file made by wardround ({error})") from None


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The content of a file made by `encode_tensors`. Raises LocalError when it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
    return decode_tensors(data, str(path))


def _safetensors() -> ModuleType:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise MissingExtraError("job", "safetensors") from error
    return safetensors
