"""Every model's predictions for the test rows of a simulated federation, and what they are worth."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from wardround.client.data.site_data import Rows, SiteData
from wardround.client.trainer.bundle import foreign_code
from wardround.client.trainer.flat_model import SiteState
from wardround.client.trainer.workspace import Workspace
from wardround.orders import SiteId, derive_seed
from wardround.plan import Plan
from wardround.plan_sections import Target
from wardround.server.runs.comparison import Comparison, Predictions, compare
from wardround.server.runs.metrics import Kind
from wardround.simulations.baselines import Baselines, TrainedModel, judged_sites
from wardround.standardization import standardize
from wardround.task import Task
from wardround.vector import F64

__all__ = ["judge"]

_MOST_PREDICTIONS = 2_000_000


def judge(
    plan: Plan,
    task: Task,
    sites: Sequence[SiteData],
    federated: TrainedModel,
    baselines: Baselines | None = None,
    states: Mapping[SiteId, SiteState | None] | None = None,
) -> Comparison | None:
    """Compare the models on the test rows of the judged hospitals; None where there are none.

    `states` is what each hospital keeps beside the federated model (BatchNorm statistics that stay local). A hospital
    with very many test rows is judged on a draw of them. Raises LocalError when the task's code fails.
    """
    target, judged, baselines = plan.data.target, judged_sites(plan, sites), baselines or Baselines()
    if target is None or not judged:
        return None
    alone = {site.site: baselines.alone[site.site] for site in judged if site.site in baselines.alone}
    outputs = (2 + len(alone)) * max(len(target.classes), 1)
    tests = [_drawn(plan, site, _MOST_PREDICTIONS // (outputs * len(judged)) + 1) for site in judged]
    everyone = Rows(np.concatenate([rows.x for rows in tests]), np.concatenate([rows.y for rows in tests]))
    oracle = _Oracle(plan, task, target)
    at_sites = [
        oracle.predict(_at_site(federated, states, site.site), rows) for site, rows in zip(judged, tests, strict=True)
    ]
    predictions = Predictions(
        sites=tuple(site.site for site in judged),
        sizes=tuple(map(len, tests)),
        y=oracle.labels(everyone),
        federated=np.concatenate(at_sites),
        pooled=None if baselines.pooled is None else oracle.predict(baselines.pooled, everyone),
        alone={site: oracle.predict(model, everyone) for site, model in alone.items()},
    )
    return compare(target, predictions, resamples=plan.simulation.bootstrap, seed=derive_seed(plan.seed, "bootstrap"))


def _at_site(federated: TrainedModel, states: Mapping[SiteId, SiteState | None] | None, site: SiteId) -> TrainedModel:
    state = federated.state if states is None else states.get(site, federated.state)
    return TrainedModel(model=federated.model, statistics=federated.statistics, state=state)


def _drawn(plan: Plan, site: SiteData, most: int) -> Rows:
    if len(site.test) <= most:
        return site.test
    generator = np.random.Generator(np.random.Philox(key=derive_seed(plan.seed, "test rows", site.site)))
    return site.test.take(np.sort(generator.choice(len(site.test), most, replace=False)))


class _Oracle:
    """Predicts with one model after another in the same workspace; in float64, so that large scores do not tie."""

    def __init__(self, plan: Plan, task: Task, target: Target) -> None:
        self._plan, self._task, self._target = plan, task, target
        self._workspace = Workspace(task, plan)

    def predict(self, trained: TrainedModel, rows: Rows) -> F64:
        """Shape (rows,), or (rows, classes) for more than two; see `metrics`."""
        self._workspace.model.load(trained.model, trained.state, training=False)
        x = standardize(self._plan.data, rows.x, trained.statistics)
        with foreign_code("prediction of test rows"):
            outputs = self._workspace.outputs(torch.from_numpy(np.ascontiguousarray(x)))
            predicted: F64 = torch.cat([self._task.predict(part.double()) for part in outputs]).numpy()
        kind = Kind.of(self._target)
        return predicted if kind is Kind.MULTICLASS else predicted[:, -1]

    def labels(self, rows: Rows) -> F64:
        """Class indices, or targets in their unit; shape (rows,)."""
        y = rows.y.astype(np.float64)
        low, high = self._target.range or (0.0, 1.0)
        return low + (high - low) * y
