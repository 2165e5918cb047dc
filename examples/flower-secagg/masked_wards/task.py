"""Logistic regression on the breast cancer data, in numpy."""

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

Floats = NDArray[np.float32]


def initial_arrays() -> ArrayRecord:
    """The model that the first round starts from: 30 weights and a bias."""
    return ArrayRecord({"weight": Array(np.zeros(30, np.float32)), "bias": Array(np.zeros(1, np.float32))})


def load_data(partition_id: int, num_partitions: int) -> tuple[Floats, Floats, Floats, Floats]:
    """A partition's rows: 80 % to train on, 20 % to test on."""
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    mine = np.random.default_rng(0).permutation(len(y))[partition_id::num_partitions]
    train, test = np.split(mine, [len(mine) * 4 // 5])
    x, y = x.astype(np.float32), y.astype(np.float32)
    return x[train], y[train], x[test], y[test]


def logits(arrays: ArrayRecord, x: Floats) -> Floats:
    return x @ arrays["weight"].numpy() + arrays["bias"].numpy()


def train(arrays: ArrayRecord, x: Floats, y: Floats, lr: float, steps: int = 10) -> ArrayRecord:
    """Gradient descent on the mean cross-entropy."""
    weight, bias = arrays["weight"].numpy(), arrays["bias"].numpy()
    for _ in range(steps):
        error = 1 / (1 + np.exp(-(x @ weight + bias))) - y
        weight = weight - np.float32(lr) * (x.T @ error) / np.float32(len(y))
        bias = bias - np.float32(lr) * error.mean(keepdims=True)
    return ArrayRecord({"weight": Array(weight), "bias": Array(bias)})


def accuracy(arrays: ArrayRecord, x: Floats, y: Floats) -> float:
    return float(np.mean((logits(arrays, x) > 0) == (y > 0.5)))
