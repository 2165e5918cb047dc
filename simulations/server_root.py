"""The server's own rows and what training on them gives: the root of trust of FLTrust."""

import numpy as np

from wardround.client.data.site_data import Rows, SiteData
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.orders import FitJob, Order, SiteId, derive_seed
from wardround.plan import Plan
from wardround.task import Task
from wardround.vector import F32

__all__ = ["SERVER", "ServerRoot"]

SERVER = SiteId("(server)")


class ServerRoot:
    """Trains the global model on the server's rows once a round, as a site would."""

    def __init__(self, task: Task, plan: Plan, rows: Rows) -> None:
        none = rows.take(np.empty(0, dtype=np.int64))
        self.trainer = TorchTrainer(task, plan, SiteData(site=SERVER, train=rows, validation=none, test=none))
        self._seed = plan.seed

    def __call__(self, order: Order, model: F32) -> F32:
        """The server's own update in the order's round, shape (d,)."""
        seed = derive_seed(self._seed, "root", order.round)
        return self.trainer.fit(FitJob(order=order, site=SERVER, seed=seed), model).update
