"""What holds for every detector."""

import copy
from collections.abc import Mapping

import numpy as np
import pytest

from wardround.strategies.rules.detectors.cosine import CosineOutliers
from wardround.strategies.rules.detectors.detector import Detector, Findings
from wardround.strategies.rules.detectors.flame import Flame
from wardround.strategies.rules.detectors.fldetector import FlDetector
from wardround.strategies.rules.detectors.foolsgold import FoolsGold
from wardround.strategies.rules.detectors.norm import NormOutliers
from wardround.strategies.rules.rule import Memory, RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, MemoryVector

DETECTORS: tuple[Detector, ...] = (NormOutliers(), CosineOutliers(), Flame(), FoolsGold(), FlDetector(window=4))
SIZE = 40

each = pytest.mark.parametrize("detector", DETECTORS, ids=lambda one: type(one).__name__)


def normal(seed: int, *shape: int) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=shape).astype(np.float32)


def inspect(
    detector: Detector, rows: F32, round: int = 1, memory: Memory | None = None, keys: list[str] | None = None
) -> Findings:
    context = RoundContext(
        size=rows.shape[1], round=round, memory=memory or {}, model=normal(round, rows.shape[1]), seed=round
    )
    names = keys or [f"site {index}" for index in range(len(rows))]
    found = detector.inspect(Vectors.of([MemoryVector(row) for row in rows]), names, context)
    assert found.scores.shape == found.flagged.shape == (len(rows),)
    assert found.flagged.dtype == np.bool_ and np.isfinite(found.scores).all()
    assert [bool(reason) for reason in found.reasons] == found.flagged.tolist()
    assert all(array.dtype == np.float64 and array.ndim == 1 for array in found.memory.values())
    return found


def run(detector: Detector, rows: F32, rounds: int = 6) -> Findings:
    memory: Memory = {}
    for number in range(1, rounds + 1):
        found = inspect(detector, rows, number, memory)
        memory = found.memory
    return found


@each
@pytest.mark.parametrize("n", [1, 2, 3])
def test_flags_nothing_among_few(detector: Detector, n: int) -> None:
    rows = normal(1, n, SIZE)
    rows[0] *= -50
    assert not run(detector, rows).flagged.any()


@each
def test_flags_nothing_among_identical_vectors(detector: Detector) -> None:
    rows = np.tile(normal(2, 1, SIZE), (8, 1))
    assert not run(detector, rows).flagged.any()
    assert not run(detector, rows * np.float32(1e-20)).flagged.any()


@each
def test_flags_nothing_among_zero_vectors(detector: Detector) -> None:
    assert not run(detector, np.zeros((8, SIZE), np.float32)).flagged.any()


@each
@pytest.mark.parametrize("zeros", [1, 5, 7])
def test_a_zero_vector_is_passed_over(detector: Detector, zeros: int) -> None:
    rows = normal(3, 1, SIZE) + 0.3 * normal(4, 8, SIZE)
    rows[:zeros] = 0.0
    assert not run(detector, rows, 1).flagged[:zeros].any()


@each
def test_findings_do_not_depend_on_the_order(detector: Detector) -> None:
    rows = normal(5, 1, SIZE) + normal(6, 9, SIZE)
    rows[2] *= -4
    order = np.random.Generator(np.random.Philox(key=7)).permutation(9)
    names = [f"site {index}" for index in range(9)]
    one: Mapping[str, np.ndarray] = {}
    other: Mapping[str, np.ndarray] = {}
    for number in range(1, 6):
        first = inspect(detector, rows, number, one, names)
        second = inspect(detector, rows[order], number, other, [names[index] for index in order])
        one, other = first.memory, second.memory
        np.testing.assert_allclose(first.scores[order], second.scores, rtol=1e-4, atol=1e-4)


@each
def test_what_is_given_is_not_changed_and_the_same_is_found_again(detector: Detector) -> None:
    rows = normal(8, 1, SIZE) + normal(9, 7, SIZE)
    memory = run(detector, rows, 4).memory
    before, rows_before = copy.deepcopy(dict(memory)), rows.copy()
    first = inspect(detector, rows, 5, memory)
    np.testing.assert_array_equal(rows, rows_before)
    assert memory.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(memory[name], array)
    second = inspect(detector, rows, 5, memory)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.flagged, second.flagged)


@each
def test_names_may_be_anything(detector: Detector) -> None:
    rows = normal(10, 5, SIZE)
    keys = ["a\x1fb", "a/b", "Zürich", "", "model/1"]
    memory: Memory = {}
    for number in range(1, 5):
        memory = inspect(detector, rows, number, memory, keys).memory


@each
def test_memory_of_another_size_is_as_good_as_none(detector: Detector) -> None:
    memory = run(detector, normal(11, 6, SIZE), 6).memory
    rows = normal(12, 6, SIZE + 3)
    np.testing.assert_array_equal(inspect(detector, rows, 7, memory).scores, inspect(detector, rows, 7).scores)


@pytest.mark.parametrize("detector", [FoolsGold(), FlDetector(window=4)], ids=lambda one: type(one).__name__)
def test_sites_that_are_away_are_remembered(detector: Detector) -> None:
    rows = normal(13, 6, SIZE)
    memory = inspect(detector, rows, 1).memory
    later = inspect(detector, rows[:4], 2, memory).memory
    kind = "sum/" if isinstance(detector, FoolsGold) else "update/"
    np.testing.assert_array_equal(later[f"{kind}site 5"], memory[f"{kind}site 5"])


# -- honest sites ---------------------------------------------------------------------------------


def share_flagged(detector: Detector, make: str, n: int, rounds: int = 200) -> float:
    """The share of honest sites that is flagged in a round."""
    flagged = 0
    for seed in range(rounds):
        generator = np.random.Generator(np.random.Philox(key=seed))
        if make == "gaussian":
            rows = generator.normal(size=300) + generator.normal(size=(n, 300))
        elif make == "noise":
            rows = generator.normal(size=(n, 300))
        else:  # ten classes in the proportions of a Dirichlet distribution, sites of unequal size
            classes = generator.normal(size=(10, 300))
            shares = generator.dirichlet(np.full(10, 0.5), size=n)
            rows = shares @ classes + 0.3 * generator.normal(size=300) + 0.1 * generator.normal(size=(n, 300))
            rows *= np.exp(0.5 * generator.normal(size=(n, 1)))
        flagged += int(inspect(detector, rows.astype(np.float32)).flagged.sum())
    return flagged / rounds / n


@pytest.mark.parametrize("detector", [NormOutliers(), CosineOutliers()], ids=["norm", "cosine"])
@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize(("make", "most"), [("gaussian", 0.005), ("noise", 0.005), ("dirichlet", 0.03)])
def test_honest_sites_are_rarely_flagged(detector: Detector, n: int, make: str, most: float) -> None:
    assert share_flagged(detector, make, n) <= most


@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize(
    ("attack", "by"),
    [("scaled sign flip", "norm"), ("scaled sign flip", "cosine"), ("sign flip", "cosine"), ("noise", "cosine")],
)
def test_attackers_are_flagged_in_every_round(attack: str, by: str, n: int) -> None:
    detector: Detector = NormOutliers() if by == "norm" else CosineOutliers()
    f = n // 5
    for seed in range(20):
        rows = normal(seed, 1, 300) + normal(100 + seed, n, 300)
        if attack == "noise":
            rows[:f] = np.sqrt(2) * normal(200 + seed, f, 300)
        else:
            rows[:f] *= -5 if attack == "scaled sign flip" else -1
        found = inspect(detector, rows)
        assert found.flagged[:f].all() and not found.flagged[f:].any()
