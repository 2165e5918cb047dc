import numpy as np
import pytest

from wardround.strategies.rules.fltrust import FlTrust
from wardround.strategies.rules.robust import Robust
from wardround.strategies.rules.rule import Aggregate, RoundContext
from wardround.vector import F32


def rows_of(n: int, size: int, seed: int) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=(n, size)).astype(np.float32)


def vector_of(made: Aggregate) -> F32:
    assert made.vector is not None
    return made.vector


def trusted(rows: F32, root: F32) -> Aggregate:
    context = RoundContext(size=rows.shape[1], references={"root": root})
    return Robust(FlTrust(), norm_factor=np.inf).aggregate(rows, context)


@pytest.mark.parametrize("size", [3, 40, 3000])
def test_is_its_definition(size: int) -> None:
    rows, root = rows_of(8, size, 1), rows_of(1, size, 2)[0]
    wide, server = rows.astype(np.float64), root.astype(np.float64)
    norms, length = np.linalg.norm(wide, axis=1), np.linalg.norm(server)
    trust = np.maximum(wide @ server / norms / length, 0.0)
    expected = (trust / norms * length) @ wide / trust.sum()
    made = trusted(rows, root)
    np.testing.assert_allclose(vector_of(made), expected, rtol=0, atol=2e-6 * float(length))
    cosines = wide @ server / norms / length
    assert [line.score for line in made.report.lines] == pytest.approx((1 - cosines).tolist(), abs=1e-6)


def test_is_never_longer_than_the_root_whoever_is_bad() -> None:
    rows, root = rows_of(6, 30, 3), rows_of(1, 30, 4)[0]
    rows[:5] = root * np.float32(1e12)
    made = trusted(rows, root)
    assert np.linalg.norm(vector_of(made)) <= np.linalg.norm(root) * (1 + 1e-6)


def test_takes_nothing_from_who_points_away() -> None:
    root = rows_of(1, 30, 4)[0]
    made = trusted(np.stack([root * np.float32(2), -root, -5 * root]), root)
    np.testing.assert_allclose(vector_of(made), root, rtol=1e-5)
    assert [line.weight > 0 for line in made.report.lines] == [True, False, False]


def test_when_nobody_is_trusted_it_is_the_servers_own_update() -> None:
    root = rows_of(1, 30, 4)[0]
    np.testing.assert_array_equal(vector_of(trusted(np.stack([-root, -2 * root]), root)), root)
    np.testing.assert_array_equal(vector_of(trusted(np.zeros((3, 30), np.float32), root)), root)


def test_with_a_zero_root_nothing_moves() -> None:
    made = trusted(rows_of(4, 9, 1), np.zeros(9, np.float32))
    np.testing.assert_array_equal(vector_of(made), np.zeros(9))


@pytest.mark.parametrize(
    ("references", "said"),
    [
        ({}, r'expected the server\'s own update as references\["root"\], got none'),
        ({"root": np.zeros(3, np.float32)}, r"of shape \(4,\), got \(3,\)"),
        ({"root": np.full(4, np.nan, np.float32)}, "expected finite"),
    ],
    ids=["missing", "of another size", "not finite"],
)
def test_a_root_is_demanded(references: dict[str, F32], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Robust(FlTrust()).aggregate(rows_of(3, 4, 1), RoundContext(size=4, references=references))
