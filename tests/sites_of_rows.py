"""Sites with random rows, plans that train on them, and an oracle: plain torch on the same batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from wardround.client.data.site_data import Rows, SiteData
from wardround.client.trainer.batches import Batches, seed_array
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.orders import FitJob, Order, OrderKind, SiteId, Statistics
from wardround.plan import Plan, parse_plan
from wardround.task import Task
from wardround.vector import F32

INPUTS = 6


def rows_plan(
    training: Mapping[str, Any] | None = None,
    task: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    simulation: Mapping[str, Any] | None = None,
    rounds: int = 10,
) -> Plan:
    """A plan for arrays of `INPUTS` inputs and three classes, unless `task` and `data` say otherwise."""
    return parse_plan(
        {
            "name": "rows",
            "rounds": rounds,
            "task": task or {"name": "tabular-classifier", "hidden": [5, 4], "options": {"inputs": INPUTS}},
            "data": {"source": "arrays", "target": {"name": "y", "classes": ["a", "b", "c"]}, **(data or {})},
            "training": dict(training or {}),
            "simulation": {"sites": 8, **(simulation or {})},
        }
    )


def rows_of(n: int, seed: int, *, classes: int = 3, shape: Sequence[int] = (INPUTS,)) -> Rows:
    """Random rows; `classes` 0: targets in [0, 1]."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *shape)).astype(np.float32)
    if classes:
        return Rows(x, rng.integers(0, classes, n))
    return Rows(x, rng.random(n).astype(np.float32))


def site_of(name: str, n: int, seed: int, *, classes: int = 3, shape: Sequence[int] = (INPUTS,)) -> SiteData:
    """A site with n training rows, 7 validation rows and no test rows."""
    train = rows_of(n, seed, classes=classes, shape=shape)
    validation = rows_of(7, seed + 1000, classes=classes, shape=shape)
    return SiteData(site=SiteId(name), train=train, validation=validation, test=train.take(np.arange(0)))


def sites_of(sizes: Sequence[int], **kind: Any) -> list[SiteData]:
    return [site_of(f"site-{place}", n, place, **kind) for place, n in enumerate(sizes)]


def fit_jobs(sites: Sequence[SiteData], *, round_number: int = 1, statistics: Statistics | None = None) -> list[FitJob]:
    order = Order(run_id="r", plan_digest="p", kind=OrderKind.FIT, round=round_number, statistics=statistics)
    return [FitJob(order=order, site=data.site, seed=7 + place) for place, data in enumerate(sites)]


def trainers_of(task: Task, plan: Plan, sites: Sequence[SiteData]) -> dict[SiteId, TorchTrainer]:
    return {data.site: TorchTrainer(task, plan, data) for data in sites}


def plain_training(
    module: nn.Module, plan: Plan, rows: Rows, seed: int, lr: float, weights: torch.Tensor | None = None
) -> F32:
    """The update of textbook torch on the same batches: torch.optim, autograd on each tensor, a written-out loss."""
    training = plan.training
    decay, betas = training.weight_decay, (training.beta1, training.beta2)
    optimizers: dict[str, Any] = {
        "sgd": lambda p: torch.optim.SGD(
            p, lr=lr, momentum=training.momentum, nesterov=training.nesterov, weight_decay=decay
        ),
        "adam": lambda p: torch.optim.Adam(p, lr=lr, betas=betas, eps=training.eps, weight_decay=decay),
        "adamw": lambda p: torch.optim.AdamW(p, lr=lr, betas=betas, eps=training.eps, weight_decay=decay),
    }
    parameters = list(module.parameters())
    optimizer = optimizers[training.optimizer](parameters)
    start = [parameter.detach().clone() for parameter in parameters]
    batches = Batches.of(training, len(rows))
    index = batches.index(seed_array(seed), 0, batches.steps)[0]
    x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
    for places, size in zip(index, batches.sizes(0, batches.steps), strict=True):
        batch = torch.from_numpy(places[:size])
        outputs = module(x[batch])
        if rows.y.dtype == np.int64:
            loss = nn.CrossEntropyLoss(weight=weights)(outputs, y[batch])
        else:
            loss = 0.5 * nn.MSELoss()(outputs[:, 0], y[batch])
        for parameter, origin in zip(parameters, start, strict=True):
            loss = loss + training.proximal_mu / 2 * (parameter - origin).pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        if training.gradient_clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, training.gradient_clip_norm)
        optimizer.step()
    return torch.cat([(p.detach() - s).reshape(-1) for p, s in zip(parameters, start, strict=True)]).numpy()
