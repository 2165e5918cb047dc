"""Random corruptions of schemas, tables and packed images: each is named or harmless, and none gives a traceback."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.client.data.tables import GOOD, SCHEMA, as_csv, as_parquet, schema_of
from tests.client.data.test_image_rows import SCHEMA as IMAGES
from tests.client.data.test_image_rows import npy, png
from wardround.client.data.draft import draft_schema
from wardround.client.data.image_pack import pack_chunks
from wardround.client.data.image_rows import validate_images
from wardround.client.data.schema import DataSchema, parse_schema
from wardround.client.data.validation import validate
from wardround.errors import LocalError

EACH = 500
PIECES = (b"\0", b"\xff", b'"', b"\n", b",", b";", b"[", b"]", b"=", b"nan", b"-1", b"1e999", b"\xc3", b"[[columns]]\n")


def corrupted(data: bytes, made: random.Random) -> bytes:
    """With a byte flipped, a piece lost, doubled or moved, something put in, or an end cut off."""
    at, to = sorted((made.randrange(len(data) + 1), made.randrange(len(data) + 1)))
    to = min(to, at + 40)
    match made.randrange(6):
        case 0:
            at = min(at, len(data) - 1)
            return data[:at] + bytes([data[at] ^ (1 << made.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at] + data[to:]
        case 2:
            return data[:to] + data[at:]
        case 3:
            return data[:at] + made.choice(PIECES) * made.choice((1, 1, 3)) + data[at:]
        case 4:
            return data[:at]
        case _:
            other = made.randrange(len(data) + 1)
            kept = data[:at] + data[to:]
            return kept[:other] + data[at:to] + kept[other:]


def found_or_harmless(data: bytes, use: Callable[[bytes], object]) -> tuple[int, int]:
    """How many corruptions were named, and how many were harmless; any other exception fails."""
    made, named, harmless = random.Random(7), 0, 0  # noqa: S311 - a seed that repeats
    for _ in range(EACH):
        broken = corrupted(data, made)
        for _ in range(made.randrange(3)):
            broken = corrupted(broken, made) if broken else broken
        try:
            use(broken)
            harmless += 1
        except LocalError as error:
            named += 1
            assert "\n" not in str(error) and str(error).isprintable()
    return named, harmless


def test_schemas() -> None:
    named, harmless = found_or_harmless(SCHEMA.encode(), lambda data: parse_schema(data, "ehr.toml"))
    assert named > EACH / 3 and harmless > 0  # another number makes a schema, too


def test_canonical_schemas() -> None:
    data = schema_of().encode().encode()
    assert found_or_harmless(data, lambda broken: DataSchema.decode(broken.decode(errors="replace")))[0] > EACH / 3


def test_csv_tables() -> None:
    data = as_csv({name: [*cells] * 5 for name, cells in GOOD.items()}).getvalue()

    def use(broken: bytes) -> None:
        validate(schema_of(), io.BytesIO(broken), "ehr.csv").check("ehr.csv")

    assert found_or_harmless(data, use)[0] > EACH / 3
    found_or_harmless(data, lambda broken: draft_schema(io.BytesIO(broken), "ehr.csv", parquet=False))


def test_parquet_tables() -> None:
    data = as_parquet(GOOD).getvalue()

    def use(broken: bytes) -> None:
        validate(schema_of(parquet=True), io.BytesIO(broken), "ehr.parquet").check("ehr.parquet")

    assert found_or_harmless(data, use)[0] > EACH / 3
    found_or_harmless(data, lambda broken: draft_schema(io.BytesIO(broken), "ehr.parquet", parquet=True))


@pytest.fixture
def packed(tmp_path: Path) -> bytes:
    (tmp_path / "a.png").write_bytes(png(np.arange(24, dtype=np.uint8).reshape(1, 4, 6), b"\4\3\2\1"))
    (tmp_path / "b.npy").write_bytes(npy(np.arange(24, dtype=np.uint8).reshape(4, 6)))
    (tmp_path / "labels.csv").write_text("file,who,finding\na.png,p,no\nb.npy,q,yes\n")
    return b"".join(pack_chunks(tmp_path / "labels.csv", parse_schema(IMAGES.encode())))


def test_images(packed: bytes) -> None:
    schema = parse_schema(IMAGES.encode())

    def use(broken: bytes) -> None:
        validate_images(schema, io.BytesIO(broken), "labels.csv").check("labels.csv")

    assert found_or_harmless(packed, use)[0] > EACH / 3
