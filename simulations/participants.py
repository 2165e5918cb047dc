"""The sites of a simulation, ready to train: their trainers, the model's layout and its first values."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.site_data import SiteData
from wardround.client.trainer.trainer import Trainer
from wardround.errors import LocalError
from wardround.orders import SiteId, derive_seed
from wardround.plan import Plan
from wardround.task import Task
from wardround.vector import F32, Layout

__all__ = ["Participants", "StatefulTrainer", "data_digest", "gather_app", "gather_task"]

_log = logging.getLogger("wardround")


class StatefulTrainer(Trainer, Protocol):
    """A trainer whose site may keep something between rounds; a checkpoint carries it."""

    state: dict[str, NDArray[np.generic]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Participants:
    """Trainers by site, in the order of the sites. `task` and `data` are absent when a Flower app has its own."""

    trainers: Mapping[SiteId, StatefulTrainer]
    layout: Layout
    initial: F32
    task: Task | None = None
    data: tuple[SiteData, ...] = ()

    def states(self) -> dict[SiteId, dict[str, NDArray[np.generic]]]:
        """What the sites keep between rounds; sites that keep nothing are left out."""
        return {site: trainer.state for site, trainer in self.trainers.items() if trainer.state}

    def restore(self, states: Mapping[SiteId, Mapping[str, NDArray[Any]]]) -> None:
        """Put back what `states` returned. Raises LocalError for a site that is not here."""
        for site, state in states.items():
            if site not in self.trainers:
                raise LocalError(f"checkpoint: expected the sites of this plan, got {site!r}")
            self.trainers[site].state = dict(state)


def gather_task(plan: Plan, data: tuple[SiteData, ...], task: Task | None = None) -> Participants:
    """Sites that train `task`, by default the plan's, on `data`."""
    from wardround.client.trainer.bundle import load_task
    from wardround.client.trainer.flat_model import initial_vector, layout_of
    from wardround.client.trainer.private_model import replacements
    from wardround.client.trainer.private_trainer import PrivateTrainer
    from wardround.client.trainer.torch_trainer import TorchTrainer
    from wardround.client.trainer.workspace import Workspace

    task = load_task(plan) if task is None else task
    if plan.privacy.on:
        for notice in replacements(task.model(0)):
            _log.warning("%s", notice)
    workspace = Workspace(task, plan)  # for evaluations, which run one after another
    kind = PrivateTrainer if plan.privacy.per_example else TorchTrainer
    trainers: dict[SiteId, StatefulTrainer] = {site.site: kind(task, plan, site, workspace) for site in data}
    initial = initial_vector(task, plan, derive_seed(plan.seed, "model"))
    return Participants(trainers=trainers, layout=layout_of(task, plan), initial=initial, task=task, data=data)


def gather_app(plan: Plan) -> Participants:
    """Sites that run the plan's Flower app, one per partition."""
    from wardround.client.trainer.flower_app import load_flower_app
    from wardround.client.trainer.flower_trainer import FlowerTrainer

    flower = load_flower_app(plan)
    width = max(2, len(str(plan.simulation.sites)))
    sites = [SiteId(f"site-{number + 1:0{width}}") for number in range(plan.simulation.sites)]
    trainers: dict[SiteId, StatefulTrainer] = {
        site: FlowerTrainer(flower, plan, site, partition) for partition, site in enumerate(sites)
    }
    return Participants(trainers=trainers, layout=flower.layout, initial=flower.vector(flower.initial))


def data_digest(data: Sequence[SiteData]) -> str:
    """SHA-256 over every site's rows, so that a resumed run notices other data; hex."""
    total = hashlib.sha256()
    for site in data:
        if site.patients is not None:
            total.update(site.patients.tobytes())
        for rows in (site.train, site.validation, site.test):
            total.update(f"{site.site}\x1f{rows.x.shape}\x1f{rows.y.dtype}".encode())
            total.update(rows.x.tobytes())
            total.update(rows.y.tobytes())
    return total.hexdigest()
