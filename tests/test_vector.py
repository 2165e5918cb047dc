"""Layouts and vectors."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.vector import F32, FileVector, Layout, MemoryVector, TensorSpec, squared_norm

SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=6)


@given(SHAPES, st.integers(0, 6))
def test_flatten_and_split_are_inverse(shapes: list[tuple[int, ...]], parameters: int) -> None:
    layout = Layout(tuple(TensorSpec(name=f"t{i}", shape=s, buffer=i >= parameters) for i, s in enumerate(shapes)))
    arrays = {f"t{i}": np.random.Generator(np.random.Philox(key=i)).normal(size=s) for i, s in enumerate(shapes)}
    vector = layout.flatten(arrays)
    assert vector.dtype == np.float32
    assert vector.shape == (layout.size,) == (sum(math.prod(s) for s in shapes),)
    assert layout.num_parameters == sum(math.prod(s) for s in shapes[:parameters])
    views = layout.split(vector)
    assert list(views) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(views[name], array.astype(np.float32))
        assert views[name].size == 0 or np.shares_memory(views[name], vector)
    assert np.array_equal(layout.flatten(views), vector)


LAYOUT = Layout((TensorSpec(name="w", shape=(2, 3)), TensorSpec(name="running_mean", shape=(3,), buffer=True)))
W, MEAN = np.zeros((2, 3)), np.zeros(3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"w": W}, r"tensor 'running_mean': expected shape \(3,\), got none"),
        ({"w": W.T, "running_mean": MEAN}, r"tensor 'w': expected shape \(2, 3\), got \(3, 2\)"),
        ({"w": W, "running_mean": MEAN, "b": MEAN}, "expected no tensor 'b'"),
    ],
)
def test_flatten_refuses_what_does_not_fit(arrays: dict[str, F32], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LAYOUT.flatten(arrays)


@pytest.mark.parametrize("shape", [(8,), (10,), (1, 9), (9, 1)])
def test_split_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a vector of shape \(9,\)"):
        LAYOUT.split(np.zeros(shape, dtype=np.float32))


def test_names_are_distinct_and_buffers_come_last() -> None:
    with pytest.raises(ValueError, match="every tensor name once"):
        Layout((TensorSpec(name="w", shape=()), TensorSpec(name="w", shape=(1,))))
    with pytest.raises(ValueError, match="parameters before buffers"):
        Layout((TensorSpec(name="m", shape=(), buffer=True), TensorSpec(name="w", shape=())))


@given(st.integers(0, 50), st.integers(1, 60))
def test_chunks_are_the_vector_in_order_and_again(size: int, floats: int) -> None:
    vector = MemoryVector(np.arange(size, dtype=np.float32))
    for _ in range(2):
        chunks = list(vector.chunks(floats))
        assert all(0 < len(chunk) <= floats for chunk in chunks)
        assert np.array_equal(np.concatenate([np.zeros(0, np.float32), *chunks]), vector.values)
    assert vector.size == size


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=20))
def test_the_squared_norm(values: list[float]) -> None:
    exact = math.fsum(value * value for value in values)
    assert squared_norm(np.array(values, dtype=np.float32)) == pytest.approx(exact, rel=1e-5, abs=1e-30)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_squared_norm_is_not_finite_exactly_when_a_value_is_not(bad: float) -> None:
    assert math.isfinite(squared_norm(np.full(1000, 3e38, dtype=np.float32)))
    assert not math.isfinite(squared_norm(np.array([0, bad, 3e38], dtype=np.float32)))


@given(st.integers(0, 40), st.integers(0, 9), st.integers(1, 50))
def test_a_vector_in_a_file_comes_in_pieces_as_often_as_one_likes(
    tmp_path_factory: pytest.TempPathFactory, size: int, offset: int, floats: int
) -> None:
    values = np.arange(size, dtype=np.float32) - 7.5
    path = tmp_path_factory.mktemp("vector") / "v"
    path.write_bytes(b"x" * offset + values.astype("<f4").tobytes() + b"rest")
    vector = FileVector(path, size, offset)
    for _ in range(2):
        pieces = [piece.copy() for piece in vector.chunks(floats)]
        assert [len(piece) for piece in pieces] == [len(piece) for piece in MemoryVector(values).chunks(floats)]
        assert all(piece.dtype == np.float32 for piece in pieces)
        assert np.array_equal(np.concatenate([*pieces, np.empty(0, np.float32)]), values)


def test_a_file_that_ends_too_early_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_bytes(b"\0" * 39)
    pieces = FileVector(path, 8, 8).chunks(4)
    assert len(next(pieces)) == 4
    with pytest.raises(ValueError, match="v: expected at least 40 bytes, got 39"):
        next(pieces)
    with pytest.raises(ValueError, match="expected size >= 0 and offset >= 0, got 4 and -1"):
        FileVector(path, 4, -1)
