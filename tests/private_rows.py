"""Plans that hide rows or patients, streams of a fixed key, and an oracle: one row at a time, in float64."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.sites_of_rows import rows_plan
from wardround.client.data.site_data import Rows
from wardround.plan import Plan
from wardround.plan_privacy import Privacy, Unit
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.task import Batch, Task
from wardround.vector import F64


def private_plan(
    training: Mapping[str, Any] | None = None,
    *,
    task: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    simulation: Mapping[str, Any] | None = None,
    **privacy: Any,
) -> Plan:
    """`rows_plan` with rows hidden by a noise multiplier of 1, unless `privacy` says otherwise."""
    section = Privacy(**{"unit": Unit.ROW, "noise_multiplier": 1.0, **privacy})
    return dataclasses.replace(rows_plan(training, task, data, simulation), privacy=section)


def keyed(number: int = 0) -> SecureRandom:
    """A stream of a fixed key: the same numbers in every run."""
    return SecureRandom(hashlib.sha256(f"test {number}".encode()).digest())


def batch_of(rows: Rows) -> Batch:
    return Batch(torch.from_numpy(rows.x), torch.from_numpy(rows.y))


def gradients_one_by_one(task: Task, module: nn.Module, rows: Batch) -> list[list[F64]]:
    """The gradient of every row with respect to each trained tensor, by plain autograd."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    found = []
    for at in range(len(rows.y)):
        one = Batch(rows.x[at : at + 1], rows.y[at : at + 1])
        made = torch.autograd.grad(task.loss(module(one.x), one).sum(), trained, allow_unused=True)
        found.append([_wide(gradient, tensor) for gradient, tensor in zip(made, trained, strict=True)])
    return found


def _wide(gradient: Tensor | None, tensor: Tensor) -> F64:
    return (torch.zeros_like(tensor) if gradient is None else gradient).double().numpy().reshape(-1)


def clipped(gradient: Sequence[F64], clip_norm: float, *, per_layer: bool = False) -> F64:
    """A row's gradient as one vector, cut to the clip norm as the papers have it."""
    if per_layer:
        share = clip_norm / len(gradient) ** 0.5
        return np.concatenate([part * min(1.0, share / max(np.linalg.norm(part), 1e-300)) for part in gradient])
    whole = np.concatenate(gradient)
    return whole * min(1.0, clip_norm / max(float(np.linalg.norm(whole)), 1e-300))
