"""Opening a data set: a descriptor to read all of it from, and the digest of what is read there."""

import hashlib
import os
from pathlib import Path

from wardround.client.data.image_pack import pack_chunks
from wardround.client.data.schema import DataSchema, Format
from wardround.durable_file import write_all
from wardround.errors import LocalError

__all__ = ["digest_of_data", "digest_of_open", "open_data"]

_MOST_PACKED = 8 << 30


def open_data(path: Path, schema: DataSchema | None) -> int:
    """A new descriptor at the beginning of the data. Raises LocalError for what cannot be read.

    A table is its file. The images of a folder are packed into memory, `client/data/image_pack.py`.
    """
    if schema is not None and schema.format is Format.IMAGES:
        return _packed(path, schema)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None


def digest_of_data(path: Path, schema: DataSchema | None) -> str:
    """SHA-256, hex, of what `open_data` gives, without keeping it. Raises LocalError for what cannot be read."""
    if schema is not None and schema.format is Format.IMAGES:
        digest = hashlib.sha256()
        for chunk in pack_chunks(path, schema):
            digest.update(chunk)
        return digest.hexdigest()
    descriptor = open_data(path, schema)
    try:
        return digest_of_open(descriptor)
    finally:
        os.close(descriptor)


def digest_of_open(descriptor: int) -> str:
    """SHA-256, hex, of an open file from its beginning, where it is left. Raises LocalError."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError as error:
        raise LocalError(f"the data cannot be read ({error.strerror})") from None
    return digest


def _packed(path: Path, schema: DataSchema) -> int:
    size = 0
    memory = os.memfd_create("images", os.MFD_CLOEXEC)
    try:
        for chunk in pack_chunks(path, schema):
            size += len(chunk)
            if size > _MOST_PACKED:
                raise LocalError(f"{path.parent}: expected images of at most {_MOST_PACKED} bytes together")
            write_all(memory, chunk)
        os.lseek(memory, 0, os.SEEK_SET)
    except BaseException as error:
        os.close(memory)
        if isinstance(error, OSError):
            raise LocalError(f"{path.parent}: cannot be read into memory ({error.strerror})") from None
        raise
    return memory
