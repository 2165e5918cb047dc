import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.rules.detectors.foolsgold import FoolsGold, foolsgold_weights
from wardround.strategies.rules.detectors.sketch import cosines
from wardround.strategies.rules.rule import Memory, RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64, MemoryVector


def by_the_paper(similarity: F64, confidence: float) -> list[float]:
    """Algorithm 1, lines 7 to 18, one number at a time."""
    n = len(similarity)
    highest = [max(similarity[i][j] for j in range(n) if j != i) for i in range(n)]
    highest = [max(one, 0.0) for one in highest]
    alpha = []
    for i in range(n):
        largest = 0.0
        for j in range(n):
            if j != i:
                pardon = highest[i] / highest[j] if highest[j] > highest[i] else 1.0
                largest = max(largest, float(similarity[i][j]) * pardon)
        alpha.append(min(max(1.0 - largest, 0.0), 1.0))
    weights = []
    for one in alpha:
        scaled = min(one / max(alpha), 0.99)
        logit = -math.inf if scaled == 0 else confidence * (math.log(scaled / (1 - scaled)) + 0.5)
        weights.append(min(max(logit, 0.0), 1.0))
    return weights


@given(st.integers(4, 12), st.integers(2, 20), st.integers(0, 10**6), st.floats(0.05, 3.0))
def test_weights_are_those_of_the_paper(n: int, size: int, seed: int, confidence: float) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))
    rows = generator.normal(size=(n, size)) + generator.normal(size=size)
    rows[1] = rows[0] + 1e-3 * generator.normal(size=size)
    similarity = cosines(rows)
    expected = by_the_paper(similarity, confidence)
    np.testing.assert_allclose(foolsgold_weights(similarity, confidence), expected, atol=1e-9)


def test_when_all_have_twins_none_is_suspicious() -> None:
    np.testing.assert_array_equal(foolsgold_weights(np.ones((4, 4))), 1.0)


def play(detector: FoolsGold, rounds: int, sybils: int, absent: int = -1) -> tuple[list[bool], tuple[str, ...], Memory]:
    """Honest sites, each with a direction of its own, and sybils that share one behind much noise."""
    generator = np.random.Generator(np.random.Philox(key=11))
    own = generator.normal(size=(9, 500))
    own[:sybils] = own[0]
    memory: Memory = {}
    for number in range(1, rounds + 1):
        rows = (own + 2.0 * generator.normal(size=own.shape)).astype(np.float32)
        here = [index for index in range(9) if number % 2 or index != absent]
        vectors = Vectors.of([MemoryVector(rows[index]) for index in here])
        found = detector.inspect(
            vectors, [f"s{index}" for index in here], RoundContext(size=500, round=number, memory=memory)
        )
        memory = found.memory
    return found.flagged.tolist(), found.reasons, memory


def test_sybils_are_found_by_what_they_send_over_the_rounds() -> None:
    assert not any(play(FoolsGold(), 1, 3)[0])
    flagged, reasons, _ = play(FoolsGold(), 31, 3)
    assert flagged == [True] * 3 + [False] * 6
    assert reasons[0].startswith("its updates so far have cosine 0.90 with those of another (weight 0")
    assert play(FoolsGold(), 31, 3, absent=1)[0] == flagged


@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0])
def test_the_threshold_is_on_the_weight(threshold: float) -> None:
    random = np.random.Generator(np.random.Philox(key=3))
    rows = (random.normal(size=4) + random.normal(size=(12, 4))).astype(np.float32)
    vectors = Vectors.of([MemoryVector(row) for row in rows])
    found = FoolsGold(threshold=threshold, confidence=0.3).inspect(vectors, list("abcdefghijkl"), RoundContext(size=4))
    weights = foolsgold_weights(cosines(rows.astype(np.float64)), 0.3)
    np.testing.assert_allclose(1.0 - found.scores, weights, atol=1e-6)
    assert found.flagged.tolist() == (weights < threshold).tolist()
    assert ((weights > 0.1) & (weights < 1.0)).any()


def test_a_sketch_finds_them_as_well() -> None:
    flagged, _, memory = play(FoolsGold(width=256), 31, 3)
    assert flagged == [True] * 3 + [False] * 6
    assert {len(array) for array in memory.values()} == {257}


def test_what_is_kept_is_the_sum_of_a_sites_updates() -> None:
    rows = np.random.Generator(np.random.Philox(key=12)).normal(size=(2, 5, 30)).astype(np.float32)
    memory: Memory = {}
    for number, one in enumerate(rows, 1):
        vectors = Vectors.of([MemoryVector(row) for row in one])
        memory = FoolsGold().inspect(vectors, list("abcde"), RoundContext(size=30, round=number, memory=memory)).memory
    np.testing.assert_allclose(memory["sum/b"], [2.0, *(rows[0, 1].astype(float) + rows[1, 1])], rtol=1e-6)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.5}, {"confidence": 0.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < threshold <= 1 and confidence > 0"):
        FoolsGold(**options)  # type: ignore[arg-type]


def test_a_width_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="power of 2"):
        FoolsGold(width=1000)
