"""Folders of images: what is packed, decoded, counted, and given to a plan."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from tests.client.data.tables import counts
from wardround.client.data.encoding import encode_table
from wardround.client.data.image_files import ImageShapeError, decode_image
from wardround.client.data.image_pack import pack_chunks, unpacked
from wardround.client.data.image_rows import read_good_images
from wardround.client.data.open_data import digest_of_data, open_data
from wardround.client.data.report import Rule, ValidationReport
from wardround.client.data.schema import DataSchema, parse_schema
from wardround.client.data.validate_file import validate_file
from wardround.errors import LocalError
from wardround.plan import parse_plan

SCHEMA = """
format = "images"
patient = "who"
[images]
column = "file"
shape = [1, 4, 6]
range = [0, 255]
[[columns]]
name = "file"
type = "text"
[[columns]]
name = "who"
type = "text"
identifier = true
identifier_use = "hash"
[[columns]]
name = "finding"
type = "category"
categories = ["no", "yes"]
"""
PLAN = """
name = "x"
rounds = 1
[task]
name = "image-classifier"
[data]
source = "csv"
path = "x"
image = { shape = [1, 4, 6] }
target = { name = "finding", classes = ["no", "yes"] }
[simulation]
sites = 2
"""


def png(pixels: NDArray[Any], filters: bytes | None = None) -> bytes:
    """An image as PNG, its lines filtered as asked (an encoder of its own, after the standard's formulas)."""
    channels, height, width = pixels.shape
    depth = 8 * pixels.dtype.itemsize
    step = channels * depth // 8
    lines = pixels.transpose(1, 2, 0).astype(f">u{depth // 8}").tobytes()
    size, out, above = width * step, b"", bytes(width * step)
    for row in range(height):
        line, kind = lines[row * size : (row + 1) * size], (filters or bytes(height))[row]
        left = bytes(step) + line[:-step]
        corner = bytes(step) + above[:-step]
        guess = [
            (0, a, b, (a + b) // 2, min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2])[kind]
            for a, b, c in zip(left, above, corner, strict=True)
        ]
        out += bytes([kind]) + bytes((x - g) % 256 for x, g in zip(line, guess, strict=True))
        above = line
    header = struct.pack(">IIBBBBB", width, height, depth, 0 if channels == 1 else 2, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(out)), (b"IEND", b"")):
        made += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return made


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@given(
    npst.arrays(
        npst.unsigned_integer_dtypes(endianness="=", sizes=(8, 16)),
        st.tuples(st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6)),
    ),
    st.data(),
)
def test_a_png_is_what_was_written(pixels: NDArray[Any], data: st.DataObject) -> None:
    channels, height, width = pixels.shape
    filters = bytes(data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height)))
    np.testing.assert_array_equal(decode_image(png(pixels, filters), (channels, height, width)), pixels)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (1, 4, 6)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_is_what_was_written(shape: tuple[int, ...], order: Any) -> None:
    array = np.arange(24, dtype=np.int16).reshape(shape, order=order)
    np.testing.assert_array_equal(decode_image(npy(array), (1, 4, 6)).ravel(), array.ravel())


def test_no_image_and_one_of_another_shape_are_told_apart() -> None:
    for data in (b"", b"\xff\xd8\xff JPEG", npy(np.zeros((1, 4, 6)))[:-1], png(np.zeros((1, 4, 6), np.uint8))[:40]):
        with pytest.raises(ValueError) as caught:
            decode_image(data, (1, 4, 6))
        assert not isinstance(caught.value, ImageShapeError)
    with pytest.raises(ImageShapeError):
        decode_image(npy(np.zeros((6, 4), np.uint8)), (1, 4, 6))
    with pytest.raises(ValueError, match="an array of numbers"):
        decode_image(npy(np.zeros((1, 4, 6), dtype="S1")), (1, 4, 6))
    with pytest.raises(ImageShapeError):
        decode_image(png(np.zeros((1, 6, 4), np.uint8)), (1, 4, 6))
    with pytest.raises(ValueError):  # no pickle is read
        decode_image(npy(np.array([None] * 24, dtype=object)), (1, 4, 6))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six rows: two good images, one damaged, one of another shape, one out of range, one missing."""
    images = {
        "a.png": png(np.full((1, 4, 6), 7, np.uint8)),
        "sub/b.npy": npy(np.full((4, 6), 255.0)),
        "c.png": b"not an image",
        "d.npy": npy(np.zeros((5, 6), np.uint8)),
        "e.npy": npy(np.full((4, 6), np.nan)),
    }
    (tmp_path / "sub").mkdir()
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    rows = [f"{name},p{number},{'no' if number % 2 else 'yes'}" for number, name in enumerate([*images, "f.png"])]
    (tmp_path / "labels.csv").write_text("\n".join(["file,who,finding", *rows]) + "\n")
    return tmp_path


def schema(head: str = "") -> DataSchema:
    return parse_schema((head + SCHEMA).encode())


def test_every_row_without_a_good_image_is_counted(folder: Path) -> None:
    report = validate_file(schema(), folder / "labels.csv")
    assert (report.rows, report.bad, report.kept, report.fits) == (6, 4, 2, False)
    assert counts(report) == {("file", Rule.IMAGE): 2, ("file", Rule.SHAPE): 1, ("file", Rule.RANGE): 1}
    assert ValidationReport.decode(report.encode()) == report


def test_the_good_images_of_a_plan(folder: Path) -> None:
    dropping = schema('on_bad_rows = "drop"\n')
    with os.fdopen(open_data(folder / "labels.csv", dropping), "rb") as file:
        found = read_good_images(dropping, parse_plan(PLAN).data, file, "labels.csv", key=b"k")
    rows = encode_table(parse_plan(PLAN).data, found.table).rows
    assert rows.x.shape == (2, 1, 4, 6) and rows.y.tolist() == [1, 0]
    np.testing.assert_allclose(rows.x[:, 0, 0, 0], [7 / 255, 1.0], rtol=1e-6)
    assert found.ids is not None and len(set(found.ids)) == 2


def test_the_digest_covers_labels_and_pixels(folder: Path) -> None:
    labels = folder / "labels.csv"
    first = digest_of_data(labels, schema())
    (folder / "unrelated.png").write_bytes(b"x")
    assert digest_of_data(labels, schema()) == first
    (folder / "a.png").write_bytes(png(np.full((1, 4, 6), 8, np.uint8)))
    second = digest_of_data(labels, schema())
    assert second != first
    labels.write_text(labels.read_text().replace("p0,yes", "p0,no"))
    assert digest_of_data(labels, schema()) not in (first, second)


def test_a_label_file_reaches_no_file_outside_its_folder(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "secret.npy").write_bytes(npy(np.full((4, 6), 1.0)))
    labels = folder / "inner" / "labels.csv"
    names = ["../secret.npy", str(folder / "secret.npy"), "x/../../secret.npy", ""]
    labels.write_text("file,who,finding\n" + "".join(f"{name},p,no\n" for name in names))
    packed = io.BytesIO(b"".join(pack_chunks(labels, schema())))
    assert [name for name, _ in unpacked(packed)] == ["labels.csv"]


def test_another_stream_is_no_pack(folder: Path) -> None:
    data = b"".join(pack_chunks(folder / "labels.csv", schema()))
    for changed in (b"", data[:10], data[:-1], data[:30] + b"\xff" * 8 + data[38:]):
        with pytest.raises(LocalError, match="packed images"):
            list(unpacked(io.BytesIO(changed)))
    with pytest.raises(LocalError, match="expected the label file"):
        list(pack_chunks(folder / "nothing.csv", schema()))
