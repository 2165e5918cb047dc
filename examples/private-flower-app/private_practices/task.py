"""Logistic regression on the breast cancer data, in numpy."""

from functools import cache

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

Floats = NDArray[np.float32]
CLIP_NORM = 0.5
"""The same for the server and every practice. Trying others on the practices' rows would be a charge for each trial."""


def initial_arrays() -> ArrayRecord:
    """The model that the first round starts from: 30 weights and a bias."""
    return ArrayRecord({"weight": Array(np.zeros(30, np.float32)), "bias": Array(np.zeros(1, np.float32))})


@cache
def _load() -> tuple[Floats, Floats, int]:
    """All rows, public ones first, and how many those are: a fifth, which the server has for itself.

    Columns are scaled by what the public rows show. A scale from the practices' rows would tell of them, unaccounted.
    """
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y, public = x[order], y[order], len(y) // 5
    x = (x - x[:public].mean(axis=0)) / x[:public].std(axis=0)
    return x.astype(np.float32), y.astype(np.float32), public


def public_rows() -> tuple[Floats, Floats]:
    x, y, public = _load()
    return x[:public], y[:public]


def practice_rows(partition_id: int, num_partitions: int) -> tuple[Floats, Floats]:
    """The patients of a practice; with 100 practices four or five."""
    x, y, public = _load()
    return x[public + partition_id :: num_partitions], y[public + partition_id :: num_partitions]


def train(arrays: ArrayRecord, x: Floats, y: Floats, lr: float, steps: int = 5) -> ArrayRecord:
    """Gradient descent on the mean cross-entropy."""
    weight, bias = arrays["weight"].numpy(), arrays["bias"].numpy()
    for _ in range(steps):
        error = 1 / (1 + np.exp(-(x @ weight + bias))) - y
        weight = weight - np.float32(lr) * (x.T @ error) / np.float32(len(y))
        bias = bias - np.float32(lr) * error.mean(keepdims=True)
    return ArrayRecord({"weight": Array(weight), "bias": Array(bias)})


def accuracy(arrays: ArrayRecord, x: Floats, y: Floats) -> float:
    logits = x @ arrays["weight"].numpy() + arrays["bias"].numpy()
    return float(np.mean((logits > 0) == (y > 0.5)))
