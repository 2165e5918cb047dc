"""Frames: what goes in comes out, and nothing that a peer sends does worse than a RemoteError."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.frames import MAX_WEIGHT, Frame, decode_frame, encode_frame
from wardround.orders import SiteId
from wardround.tally import MeansSpec, Tally

UINT32 = st.integers(0, 2**32 - 1)
FLOATS = st.lists(st.floats(width=32), max_size=30).map(lambda values: np.array(values, dtype=np.float32))
SITES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).map(SiteId)


@st.composite
def tallies(draw: st.DrawFn) -> Tally:
    names = tuple(draw(st.lists(st.text(max_size=5), max_size=5)))
    cells = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(names) + 1, max_size=len(names) + 1))
    return Tally(MeansSpec(names=names), np.array(cells, dtype=np.int64))


FRAMES = st.builds(
    Frame,
    round=UINT32,
    attempt=UINT32,
    site=SITES,
    weight=st.integers(0, MAX_WEIGHT),
    vector=FLOATS,
    tally=tallies(),
)


def same(a: Frame, b: Frame) -> bool:
    return (
        (a.round, a.attempt, a.site, a.weight, a.tally.spec) == (b.round, b.attempt, b.site, b.weight, b.tally.spec)
        and a.vector.tobytes() == b.vector.tobytes()
        and np.array_equal(a.tally.counts, b.tally.counts)
    )


@given(FRAMES)
def test_a_frame_survives_the_wire(frame: Frame) -> None:
    again = decode_frame(encode_frame(frame))
    assert same(again, frame)
    assert not again.vector.flags.writeable
    assert again.vector.dtype == np.float32


@settings(max_examples=400)
@given(FRAMES, st.data())
def test_mutated_bytes_are_another_frame_or_a_remote_error(frame: Frame, data: st.DataObject) -> None:
    changed = bytearray(encode_frame(frame))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "insert", "cut", "delete"]))
        if kind == "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            changed[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "cut":
            del changed[max(at, 1) :]
        elif len(changed) > 1:
            del changed[at]
    try:
        found = decode_frame(bytes(changed))
    except RemoteError:
        return
    assert encode_frame(found)  # whatever is accepted is a whole, valid frame
    assert found.tally.metrics() is not None


@given(st.binary(max_size=200))
def test_other_bytes_are_a_remote_error(data: bytes) -> None:
    with pytest.raises(RemoteError):
        decode_frame(data)
    with pytest.raises(RemoteError):
        decode_frame(b"WRF1" + data[:40])


@pytest.mark.parametrize("at", [12, 24, 32, 40])
def test_a_length_beyond_the_bytes_at_hand_is_refused_before_anything_is_allocated(at: int) -> None:
    good = bytearray(encode_frame(FRAME))
    struct.pack_into("<I" if at == 12 else "<Q", good, at, 2**31 if at == 12 else 2**62)
    with pytest.raises(RemoteError, match=r"frame: expected \d+ bytes by its header"):
        decode_frame(bytes(good))


FRAME = Frame(
    round=3,
    attempt=1,
    site=SiteId("st. märy"),
    weight=569,
    vector=np.array([1.5, -2.0, 0.0], dtype=np.float32),
    tally=Tally.of_means(2, {"loss": 0.5}),
)


def test_the_bytes_are_those_of_the_description() -> None:
    """Built here field by field, so that another implementation could."""
    spec = b'{"kind": "means", "names": ["loss"]}'
    site = "st. märy".encode()
    expected = b"WRF1" + struct.pack("<IIIQQQQ", 3, 1, len(site), 569, 3, 2, len(spec))
    expected += struct.pack("<3f2q", 1.5, -2.0, 0.0, 2, 1 << 19) + site + spec
    assert encode_frame(FRAME) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"round": -1},
        {"round": 2**32},
        {"attempt": 2**32},
        {"weight": -1},
        {"weight": MAX_WEIGHT + 1},
        {"site": ""},
        {"site": "é" * 128},
        {"vector": np.zeros((2, 2), dtype=np.float32)},
        {"tally": Tally.empty(MeansSpec(names=("x" * 70_000,)))},
    ],
)
def test_a_field_out_of_its_bounds_is_refused(change: dict[str, object]) -> None:
    fields = {name: getattr(FRAME, name) for name in ("round", "attempt", "site", "weight", "vector", "tally")}
    with pytest.raises(ValueError, match="expected"):
        encode_frame(Frame(**(fields | change)))


def test_views_that_are_not_contiguous_are_written_in_order() -> None:
    counts = np.arange(4, dtype=np.int64)[::2]
    frame = Frame(
        round=1,
        attempt=0,
        site=SiteId("a"),
        weight=1,
        vector=np.arange(6, dtype=np.float32)[::3],
        tally=Tally(MeansSpec(names=("a",)), counts),
    )
    assert same(decode_frame(encode_frame(frame)), frame)
