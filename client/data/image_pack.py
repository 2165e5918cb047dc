"""A folder of images and its label file as one stream of bytes: what is registered, and what a job is given.

    "wardround images 1\\n"
    for each file: 4 bytes length of its name, the name in UTF-8, 8 bytes length, content    (big-endian)

The label file comes first, then each image that it names, in its order, once. An image that is not there is left out.
The digest of the data set is the SHA-256 of this stream, so that it covers every pixel.
"""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from wardround.client.data.schema import DataSchema
from wardround.errors import LocalError

__all__ = ["label_file", "pack_chunks", "unpacked"]

_FIRST_LINE = b"wardround images 1\n"
_MOST_LABELS = 1 << 28
_MOST_IMAGE = 1 << 28
_DELIMITERS = ",;\t"


def label_file(path: Path) -> Path:
    """The label file of a folder of images: labels.csv in it, or the file itself."""
    return path / "labels.csv" if path.is_dir() else path


def pack_chunks(labels: Path, schema: DataSchema) -> Iterator[bytes]:
    """The stream, piece by piece. Raises LocalError for what cannot be read."""
    if schema.images is None:
        raise ValueError("expected a schema of images")
    content = _content(labels, _MOST_LABELS)
    if content is None:
        raise LocalError(f"{labels}: expected the label file of a folder of images, got none")
    yield _FIRST_LINE
    yield from _entry(labels.name, content)
    for name in _names(labels, content, schema.images.column, schema.delimiter):
        image = _content(labels.parent / name, _MOST_IMAGE)
        if image is not None:
            yield from _entry(name, image)


def _entry(name: str, content: bytes) -> Iterator[bytes]:
    encoded = name.encode()
    yield len(encoded).to_bytes(4, "big") + encoded + len(content).to_bytes(8, "big")
    yield content


def _content(path: Path, most: int) -> bytes | None:
    """The content of a file; None where there is none of this name."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise LocalError(f"{path.parent}: an image cannot be read ({error.strerror})") from None
    if len(data) > most:
        raise LocalError(f"{path.parent}: expected files of at most {most} bytes")
    return data


def _names(labels: Path, content: bytes, column: str, delimiter: str | None) -> Iterator[str]:
    """The images that a label file names, each once; none outside its folder."""
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        line = text.readline()
        text.seek(0)
        rows = csv.DictReader(text, delimiter=delimiter or max(_DELIMITERS, key=line.count))
        if column not in (rows.fieldnames or ()):
            raise LocalError(f"{labels}: expected a column {column!r} with the images' names")
        seen: set[str] = set()
        for row in rows:
            name = (row[column] or "").strip()
            path = PurePosixPath(name)
            if not name or path.is_absolute() or ".." in path.parts or name in seen:
                continue
            seen.add(name)
            yield name
    except UnicodeDecodeError:
        raise LocalError(f"{labels}: expected text in UTF-8; save the file in this encoding") from None
    except csv.Error:
        raise LocalError(f"{labels}: expected a CSV file") from None


def unpacked(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a stream, the label file first. Raises LocalError for another stream."""
    if file.read(len(_FIRST_LINE)) != _FIRST_LINE:
        raise LocalError("expected packed images, got something else")
    while head := file.read(4):
        name = _exactly(file, int.from_bytes(head, "big"), 1 << 16)
        content = _exactly(file, int.from_bytes(_exactly(file, 8, 8), "big"), _MOST_LABELS)
        yield os.fsdecode(name), content


def _exactly(file: BinaryIO, size: int, most: int) -> bytes:
    data = file.read(size) if size <= most else b""
    if len(data) != size:
        raise LocalError("expected packed images that are whole")
    return data
