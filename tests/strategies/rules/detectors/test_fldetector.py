from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.strategies.rules.detectors.fldetector import FlDetector, hessian_product, split_1d, suspects
from wardround.strategies.rules.detectors.sketch import KEPT
from wardround.strategies.rules.rule import Memory, RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64, MemoryVector


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


# -- L-BFGS ---------------------------------------------------------------------------------------


def dense_bfgs(steps: F64, changes: F64) -> F64:
    """B by the updates of rank two, from σI."""
    found: F64 = np.eye(steps.shape[1]) * (changes[-1] @ steps[-1]) / (steps[-1] @ steps[-1])
    for s, y in zip(steps, changes, strict=True):
        moved = found @ s
        found = found - np.outer(moved, moved) / (s @ moved) + np.outer(y, y) / (y @ s)
    return found


@pytest.mark.parametrize("sign", [1.0, -1.0])  # changes of gradients, and of updates, which go against them
@pytest.mark.parametrize("pairs", [1, 2, 5])
def test_the_product_is_that_of_the_dense_bfgs_matrix(pairs: int, sign: float) -> None:
    random = generator(pairs)
    root = random.normal(size=(12, 12))
    hessian = root @ root.T + np.eye(12)
    steps = random.normal(size=(pairs, 12))
    changes = sign * steps @ hessian
    vector = random.normal(size=12)
    np.testing.assert_allclose(hessian_product(steps, changes, vector), dense_bfgs(steps, changes) @ vector, rtol=1e-6)


def test_the_latest_step_is_reproduced() -> None:
    random = generator(7)
    steps = random.normal(size=(4, 30))
    changes = steps * np.linspace(1, 3, 30)
    np.testing.assert_allclose(hessian_product(steps, changes, 2.0 * steps[-1]), 2.0 * changes[-1], rtol=1e-6)


def test_without_history_nothing_changes() -> None:
    np.testing.assert_array_equal(hessian_product(np.zeros((0, 5)), np.zeros((0, 5)), np.ones(5)), np.zeros(5))


def test_repeated_steps_do_no_harm() -> None:
    steps = np.tile(generator(8).normal(size=(1, 6)), (3, 1))
    assert np.isfinite(hessian_product(steps, 2.0 * steps, np.ones(6))).all()


# -- clusters -------------------------------------------------------------------------------------


def best_by_trying(values: F64, clusters: int) -> float:
    ordered = np.sort(values)
    costs = []
    for cuts in combinations(range(1, len(values)), clusters - 1):
        parts = np.split(ordered, cuts)
        costs.append(sum(float(((part - part.mean()) ** 2).sum()) for part in parts))
    return min(costs)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.data())
def test_the_split_is_the_best_of_all(numbers: list[float], data: st.DataObject) -> None:
    values = np.array(numbers)
    clusters = data.draw(st.integers(1, len(values)))
    labels, costs = split_1d(values, clusters)
    for k in range(1, clusters + 1):
        assert costs[k - 1] == pytest.approx(best_by_trying(values, k), abs=1e-9)
    parts = [values[labels == label] for label in range(clusters)]
    assert all(len(part) for part in parts)
    assert sum(float(((part - part.mean()) ** 2).sum()) for part in parts) == pytest.approx(costs[-1], abs=1e-9)
    assert all(one.max() <= other.min() for one, other in pairwise(parts))


def test_a_distant_minority_is_suspect() -> None:
    scores = np.concatenate((generator(1).normal(1.0, 0.05, 15), generator(2).normal(3.0, 0.05, 4)))
    assert suspects(scores, 20, generator(3)).tolist() == [False] * 15 + [True] * 4


def test_a_majority_is_not() -> None:
    scores = np.concatenate((generator(1).normal(1.0, 0.05, 4), generator(2).normal(3.0, 0.05, 15)))
    assert not suspects(scores, 20, generator(3)).any()


def test_few_or_equal_scores_are_not() -> None:
    assert not suspects(np.array([1.0, 1.0, 9.0]), 20, generator(1)).any()
    assert not suspects(np.ones(10), 20, generator(1)).any()
    assert suspects(np.zeros(0), 20, generator(1)).shape == (0,)


def test_even_scores_are_rarely_split() -> None:
    split = sum(suspects(generator(seed).random(15), 20, generator(1000 + seed)).any() for seed in range(100))
    assert split <= 20


# -- rounds ---------------------------------------------------------------------------------------


def train(
    detector: FlDetector, attack: str = "", rounds: int = 16, size: int = 60, absent: int = -1, model: bool = True
) -> tuple[F64, Memory]:
    """How often each of 10 sites is flagged; quadratic losses that share a Hessian, sites 0 and 1 may attack."""
    random = generator(21)
    curvature = np.linspace(0.2, 1.0, size)
    optima = random.normal(size=size) + 0.3 * random.normal(size=(10, size))
    weights, memory, flagged = np.zeros(size), dict[str, F64](), np.zeros(10)
    for number in range(1, rounds + 1):
        updates = -0.1 * curvature * (weights - optima) * (1 + 0.02 * random.normal(size=(10, size)))
        if attack == "noise":
            updates[:2] = 0.3 * random.normal(size=(2, size))
        if attack == "turning":
            updates[:2] *= -1.0 if number % 2 else 1.0
        here = [index for index in range(10) if number % 3 or index != absent]
        context = RoundContext(
            size=size,
            round=number,
            seed=number,
            memory=memory,
            model=weights.astype(np.float32) if model else None,
        )
        vectors = Vectors.of([MemoryVector(updates[index].astype(np.float32)) for index in here])
        found = detector.inspect(vectors, [f"s{index}" for index in here], context)
        memory = dict(found.memory)
        flagged[here] += found.flagged
        weights = weights + np.median(updates, axis=0)
    return flagged, memory


@pytest.mark.parametrize("attack", ["noise", "turning"])
@pytest.mark.parametrize("width", [4096, 32])
def test_attackers_that_change_from_round_to_round_are_flagged(attack: str, width: int) -> None:
    flagged, _ = train(FlDetector(window=4, width=width), attack)
    assert flagged[:2].min() >= 11  # of 12 rounds after the first four
    assert flagged[2:].max() == 0


@pytest.mark.parametrize("window", [2, 4])
def test_errors_are_those_of_the_dense_prediction(window: int) -> None:
    """The last update and B times the movement since, B from the latest movements; also for a site that was away."""
    random, detector, size = generator(31), FlDetector(window=window), 20
    curvature, optima = np.linspace(0.2, 1.0, size), random.normal(size=(5, size))
    models, sent, memory = [np.zeros(size)], dict[str, tuple[int, F64]](), dict[str, F64]()
    for number in range(1, 10):
        now = models[-1].astype(np.float32).astype(float)
        models[-1] = now
        updates = (-0.3 * curvature * (now - optima) * (1 + 0.1 * random.normal(size=(5, size)))).astype(np.float32)
        here = [index for index in range(5) if index or number not in (6, 7)]
        context = RoundContext(size=size, round=number, memory=memory, model=now.astype(np.float32))
        vectors = Vectors.of([MemoryVector(updates[index]) for index in here])
        memory = dict(detector.inspect(vectors, [f"s{index}" for index in here], context).memory)
        moves = np.diff(np.array(models), axis=0)[-(window + 1) :]
        if len(moves) >= 2:
            matrix = dense_bfgs(moves[:-1], np.diff(moves, axis=0))
            found, expected = [], []
            for index in here:
                then, last = sent[f"s{index}"]
                if number - then <= window + 1:
                    predicted = last + matrix @ (now - models[then - 1])
                    expected.append(float(np.linalg.norm(updates[index] - predicted)))
                    found.append(memory[f"error/s{index}"][-1])
            np.testing.assert_allclose(found, np.array(expected) / np.mean(expected), rtol=1e-4)
        sent.update({f"s{index}": (number, updates[index].astype(float)) for index in here})
        models.append(now + np.median(updates, axis=0))


def test_honest_sites_are_not_flagged_and_one_that_is_away_does_no_harm() -> None:
    assert train(FlDetector(window=4))[0].max() == 0
    flagged, memory = train(FlDetector(window=4), "noise", absent=4)
    assert flagged[:2].min() >= 10 and flagged[2:].max() == 0
    assert len(memory["error/s4"]) > 2


def test_nobody_is_flagged_before_half_a_window_of_errors() -> None:
    assert not train(FlDetector(window=8), "noise", rounds=5)[0].any()
    assert train(FlDetector(window=8), "noise", rounds=6)[0][:2].all()


def test_a_round_that_is_inspected_again_predicts_nothing_from_itself() -> None:
    detector = FlDetector(window=4)
    _, memory = train(detector, rounds=6)
    rows = generator(40).normal(size=(5, 60)).astype(np.float32)
    context = RoundContext(size=60, round=6, memory=memory, model=rows[0])
    found = detector.inspect(
        Vectors.of([MemoryVector(row) for row in rows]), [f"s{index}" for index in range(5)], context
    )
    assert not found.scores.any()
    np.testing.assert_array_equal(found.memory["error/s1"], memory["error/s1"])
    np.testing.assert_array_equal(found.memory["model/6"], rows[0])


def test_what_is_kept_is_bounded() -> None:
    detector = FlDetector(window=4, width=32)
    _, memory = train(detector, rounds=20)
    models = sorted(int(name.removeprefix("model/")) for name in memory if name.startswith("model/"))
    assert models == [16, 17, 18, 19, 20]
    assert {len(array) for name, array in memory.items() if name.startswith("model/")} == {32}
    assert {len(array) for name, array in memory.items() if name.startswith("update/")} == {33}
    assert {len(array) for name, array in memory.items() if name.startswith("error/")} == {5}
    for number in range(1, 4):
        rows = generator(number).normal(size=(KEPT, 8)).astype(np.float32)
        context = RoundContext(size=8, round=number, memory=memory, model=rows[0])
        keys = [f"{number} {index}" for index in range(KEPT)]
        memory = dict(detector.inspect(Vectors.of([MemoryVector(row) for row in rows]), keys, context).memory)
    assert len([name for name in memory if name.startswith("update/")]) == KEPT


def test_a_site_that_was_away_too_long_begins_anew() -> None:
    detector = FlDetector(window=2)
    _, memory = train(detector, rounds=4)
    memory = {**memory, "update/s3": np.concatenate(([1.0], memory["update/s3"][1:]))}
    rows = generator(30).normal(size=(5, 60)).astype(np.float32)
    context = RoundContext(size=60, round=5, memory=memory, model=rows[0])
    found = detector.inspect(
        Vectors.of([MemoryVector(row) for row in rows]), [f"s{index}" for index in range(5)], context
    )
    np.testing.assert_array_equal(found.memory["error/s3"], memory["error/s3"])
    assert not np.array_equal(found.memory["error/s2"], memory["error/s2"])


def test_without_the_model_nothing_is_found_and_nothing_forgotten() -> None:
    flagged, memory = train(FlDetector(window=4), "noise", model=False)
    assert not flagged.any() and memory == {}


@pytest.mark.parametrize("options", [{"window": 1}, {"references": 1}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected window >= 2 and references >= 2"):
        FlDetector(**options)
