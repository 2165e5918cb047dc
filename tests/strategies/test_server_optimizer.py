"""Server optimisers against Algorithm 2 of Reddi et al. 2021, written out for one number at a time."""

import math

import numpy as np
import pytest

from wardround.plan_sections import ServerOptimizer, ServerOptimizerName
from wardround.strategies.server_optimizer import ServerStep
from wardround.vector import F64


def one_by_one(settings: ServerOptimizer, start: float, deltas: list[float]) -> float:
    x, m, v = start, 0.0, settings.tau**2
    for delta in deltas:
        if settings.name is ServerOptimizerName.FEDAVG:
            x += settings.lr * delta
            continue
        if settings.name is ServerOptimizerName.FEDAVGM:
            m = settings.momentum * m + delta
            x += settings.lr * m
            continue
        m = settings.beta1 * m + (1 - settings.beta1) * delta
        square = delta * delta
        if settings.name is ServerOptimizerName.FEDADAGRAD:
            v = v + square
        elif settings.name is ServerOptimizerName.FEDYOGI:
            sign = (v > square) - (v < square)
            v = v - (1 - settings.beta2) * square * sign
        else:
            v = settings.beta2 * v + (1 - settings.beta2) * square
        x += settings.lr * m / (math.sqrt(v) + settings.tau)
    return x


@pytest.mark.parametrize("name", list(ServerOptimizerName))
def test_agrees_with_the_algorithm(name: ServerOptimizerName) -> None:
    settings = ServerOptimizer(name=name, lr=0.3, tau=1e-2)
    generator = np.random.Generator(np.random.Philox(key=3))
    deltas = generator.normal(size=(7, 5)).astype(np.float32)
    model = generator.normal(size=5).astype(np.float32)
    step, state = ServerStep(settings=settings, num_parameters=5), model
    memory: dict[str, F64] = {}
    for delta in deltas:
        state, memory = step.apply(state, delta, memory)
    expected = [one_by_one(settings, float(x), [float(d) for d in deltas[:, i]]) for i, x in enumerate(model)]
    np.testing.assert_allclose(state, expected, rtol=2e-6, atol=2e-7)


def test_buffers_become_the_average_whatever_the_optimiser() -> None:
    settings = ServerOptimizer(name=ServerOptimizerName.FEDADAM, lr=0.01)
    model, update = np.array([1, 2, 3], np.float32), np.array([1, 10, 20], np.float32)
    after, memory = ServerStep(settings=settings, num_parameters=1).apply(model, update, {})
    np.testing.assert_array_equal(after[1:], [12, 23])
    assert memory["first"].shape == (1,)


def test_arguments_are_not_changed() -> None:
    settings = ServerOptimizer(name=ServerOptimizerName.FEDYOGI)
    step = ServerStep(settings=settings, num_parameters=2)
    model, update = np.ones(2, np.float32), np.ones(2, np.float32)
    _, memory = step.apply(model, update, {})
    before = {name: value.copy() for name, value in memory.items()}
    step.apply(model, update, memory)
    np.testing.assert_array_equal(model, [1, 1])
    assert all((memory[name] == before[name]).all() for name in before)
