"""The workload that every party trains: data, first weights and hyper-parameters, as plain numpy.

The same seed gives the same bytes to every party. A party builds the model in its own way, loads
``initial_parameters`` into it and trains the clients of each round one epoch over their samples, in the order
given, with plain SGD; the server takes the mean of the clients' models. ``probe`` is a fixed sample of all
training data on which the final loss is measured, to show that the parties learned the same.

This file imports numpy and nothing else: it is read in the peers' environments too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
I64: TypeAlias = NDArray[np.int64]

SEED = 20260401
LOSS_ROUND = 8  # the loss that every party reports is that of the model after this round


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One model and the federation that trains it."""

    name: str
    clients: int
    cohort: int
    samples: int  # a client
    batch_size: int
    learning_rate: float
    input_shape: tuple[int, ...]
    classes: int
    shapes: Mapping[str, tuple[int, ...]]  # parameter name -> shape, in the order of a torch state dict

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _convolution(name: str, inputs: int, outputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


_MLP = Workload(
    name="mlp",
    clients=1000,
    cohort=100,
    samples=200,
    batch_size=20,
    learning_rate=0.1,
    input_shape=(30,),
    classes=2,
    shapes=MappingProxyType({**_linear("fc1", 30, 64), **_linear("fc2", 64, 32), **_linear("fc3", 32, 2)}),
)

# The CNN is the two-convolution network of pfl-research's CIFAR-10 benchmark without its dropout: 3x3 kernels
# without padding, one 2x2 max pool, 64 * 14 * 14 = 12,544 features into a dense layer: 1,626,442 parameters.
# Data for 100 clients (61 MB) stand for the federation: its size changes nothing in a round.
WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "mlp": _MLP,
        "logistic": replace(_MLP, name="logistic", shapes=MappingProxyType(_linear("fc", 30, 2))),
        # For the memory of a large cohort: if the updates of all its clients were kept, those of the MLP would fill
        # 165 MB, those of the wide one 3 GB.
        "many": replace(_MLP, name="many", clients=10_000, cohort=10, samples=20),
        "wide": replace(
            _MLP,
            name="wide",
            clients=10_000,
            cohort=10,
            samples=20,
            shapes=MappingProxyType({**_linear("fc1", 30, 256), **_linear("fc2", 256, 256), **_linear("fc3", 256, 2)}),
        ),
        "cnn": Workload(
            name="cnn",
            clients=100,
            cohort=10,
            samples=50,
            batch_size=10,
            learning_rate=0.05,
            input_shape=(3, 32, 32),
            classes=10,
            shapes=MappingProxyType(
                {
                    **_convolution("conv1", 3, 32, 3),
                    **_convolution("conv2", 32, 64, 3),
                    **_linear("fc1", 64 * 14 * 14, 128),
                    **_linear("fc2", 128, 10),
                }
            ),
        ),
    }
)


def initial_parameters(workload: Workload) -> dict[str, F32]:
    """The first global model: uniform in ±1/sqrt(fan-in), torch's own default for these layers."""
    rng = np.random.default_rng([SEED, 1])
    parameters: dict[str, F32] = {}
    bound = 1.0
    for name, shape in workload.shapes.items():
        if name.endswith(".weight"):
            bound = 1.0 / float(np.sqrt(np.prod(shape[1:])))
        parameters[name] = rng.uniform(-bound, bound, size=shape).astype(np.float32)
    return parameters


def client_data(workload: Workload) -> tuple[F32, I64]:
    """Inputs (clients, samples, *input_shape) and labels (clients, samples) of the whole federation."""
    rng = np.random.default_rng([SEED, 2])
    if len(workload.input_shape) == 1:
        return _tabular(workload, rng)
    return _images(workload, rng)


def _tabular(workload: Workload, rng: np.random.Generator) -> tuple[F32, I64]:
    """A quadratic teacher with noise; each client's inputs are shifted a little."""
    (features,) = workload.input_shape
    size = (workload.clients, workload.samples)
    shift = 0.3 * rng.standard_normal((workload.clients, 1, features), dtype=np.float32)
    x = rng.standard_normal((*size, features), dtype=np.float32) + shift
    linear = rng.standard_normal(features, dtype=np.float32)
    bend = rng.standard_normal((features, features), dtype=np.float32) / np.float32(features)
    score = x @ linear + np.einsum("csf,fg,csg->cs", x, bend, x, optimize=True)
    noise = rng.standard_normal(size, dtype=np.float32)
    return x, (score + noise > np.median(score)).astype(np.int64)


def _images(workload: Workload, rng: np.random.Generator) -> tuple[F32, I64]:
    """A coarse random pattern per class beside noise; pixels from 0 to 1."""
    size = (workload.clients, workload.samples)
    channels, height, width = workload.input_shape
    coarse = rng.standard_normal((workload.classes, channels, height // 8, width // 8), dtype=np.float32)
    pattern = np.kron(coarse, np.ones((8, 8), dtype=np.float32))
    y = rng.integers(0, workload.classes, size=size)
    x = rng.standard_normal((*size, *workload.input_shape), dtype=np.float32)
    x += np.float32(0.4) * pattern[y]
    return np.clip(np.float32(0.5) + np.float32(0.25) * x, 0, 1), y.astype(np.int64)


def probe(x: F32, y: I64, samples: int = 2000) -> tuple[F32, I64]:
    """A fixed sample of the training data, the same clients' share each."""
    each = max(1, samples // len(x))
    return x[:, :each].reshape(-1, *x.shape[2:]), y[:, :each].reshape(-1)
