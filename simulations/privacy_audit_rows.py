"""The mechanism that hides rows or patients, as a site trains, under test: its steps of samples, clip and noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround.client.data.site_data import Rows, SiteData
from wardround.client.trainer.flat_model import initial_vector
from wardround.client.trainer.private_model import model_of
from wardround.client.trainer.private_sample import Units
from wardround.client.trainer.private_trainer import PrivateTrainer
from wardround.client.trainer.private_workspace import PrivateWorkspace
from wardround.errors import LocalError
from wardround.orders import FitJob, Order, OrderKind, SiteId
from wardround.plan import Plan
from wardround.plan_privacy import Relation, Sampling, UnitClipping
from wardround.plan_sections import Data, Standardize, Target, Training
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.self_test import Draws, Probe
from wardround.strategies.privacy.terms import Terms
from wardround.tally import MeansSpec, Tally
from wardround.task import Batch, Task
from wardround.vector import F32, F64, I64

__all__ = ["RowsUnderTest"]

_SITE = SiteId("canaries")
_MOST_VALUES = 1 << 18
"""Of an update whose noise is tested; of a larger model, as large a share of each tensor."""
_MOST_LAYERS = 8
_UNITS, _MOST_STEPS, _DRAWN = 400, 2000, 20_000
_OTHERS = ((0, 10.0), (0, 10.0), (1, 1.0), (2, 1.0))
"""Of the rows beside a unit: which made-up row each is, and how many clip norms its gradient is long."""
_CANARY = 10.0
"""A canary's gradient is so many times as long as the clip norm."""
_WHISPER = 1e-9
"""Noise, over what a unit may add, where a sum is looked at as it is."""


class _TestedTrainer(PrivateTrainer):
    """A trainer that is given its units, its terms and the weights of its rows; it trains as every PrivateTrainer."""

    __slots__ = ("_given", "_shares")

    def __init__(
        self,
        place: PrivateWorkspace,
        plan: Plan,
        rows: Rows,
        given: tuple[Units, Terms],
        random: SecureRandom,
        shares: F32 | None = None,
    ) -> None:
        nobody = rows.take(np.arange(0))
        data = SiteData(site=_SITE, train=rows, validation=nobody, test=nobody)
        super().__init__(place.task, plan, data, place, random)
        self._given, self._shares = given, None if shares is None else torch.from_numpy(shares)

    @property
    def units(self) -> Units:
        return self._given[0]

    @property
    def terms(self) -> Terms:
        return self._given[1]

    def example_weights(self) -> Tensor | None:
        """What each row's loss, and so its gradient, is multiplied by."""
        return self._shares

    def sums(self, model: F32, round: int = 1) -> F64:
        """Noisy sums of gradients, all of a round's steps added up, over the unit that the plan's lr is made for."""
        order = Order(run_id="audit", plan_digest="", kind=OrderKind.FIT, round=round)
        update = self.fit(FitJob(order=order, site=_SITE, seed=0), model).update
        return -update.astype(np.float64)


class _DiracTask:
    """Canary k moves entry k of each of `layers` tensors, and nothing else, by as much as its own input says.

    The model is a sum of linear layers, and its output is the loss: a row's gradient is its input, in every layer.
    """

    tally_spec = MeansSpec()

    def __init__(self, width: int, layers: int) -> None:
        self._width, self._layers = width, layers

    def model(self, seed: int) -> nn.Module:
        return _SumOfLayers(self._width, self._layers)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs[:, 0]

    def tally(self, outputs: Tensor, batch: Batch) -> Tally:
        return Tally.empty(self.tally_spec)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs

    def output_names(self) -> Sequence[str]:
        return ("output",)


class _SumOfLayers(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.parts[0](x)
        for part in self.parts[1:]:
            outputs = outputs + part(x)
        return outputs


@dataclass(frozen=True, slots=True)
class RowsUnderTest:
    """How a site trains by `plan` under `terms`: the plan's own `task` on made-up rows `like` real ones, and canaries.

    `random` gives each trainer its secret randomness. The local optimiser is plain SGD, so that an update is the sum
    of the noisy sums; another one, momentum or a decay only computes on what these have released.
    """

    plan: Plan
    task: Task
    terms: Terms
    like: Rows
    random: Callable[[], SecureRandom] = SecureRandom

    @property
    def bound(self) -> float:
        """How far the claim lets a unit's presence move a sum."""
        return self.plan.privacy.max_rows * self.plan.privacy.clip_norm

    def probe(self) -> Probe:
        """The plan's own model for noise and clip; the canaries' for samples."""
        shown, groups = _shown(model_of(self.task, self.plan, 0))
        place = PrivateWorkspace(self.task, replace(self.plan, training=_plain(self.plan.training, 1.0)))
        return Probe(
            size=len(shown),
            groups=groups,
            releases=lambda n: self._releases(place, n)[:, shown],
            moved=partial(self._moved, place, self._lengths()),
            draws=self._draws(),
        )

    # -- the plan's own model ---------------------------------------------------------------------

    def _own(
        self, place: PrivateWorkspace, rows: Rows, given: tuple[Units, Terms], scale: float, shares: F32 | None = None
    ) -> _TestedTrainer:
        data = replace(self.plan.data, standardize=Standardize.NONE)
        plan = replace(self.plan, data=data, training=_plain(self.plan.training, given[1].drawn / scale))
        return _TestedTrainer(place, plan, rows, given, self.random(), shares)

    def _releases(self, place: PrivateWorkspace, n: int) -> F64:
        """Steps without any row, by two trainers in turn, so that noise that follows from the plan would show."""
        steps = min(self.terms.steps, 2)
        given = Units(np.arange(0), np.arange(1), 1), replace(self.terms, steps=steps)
        std = self.terms.noise_multiplier * self.bound * steps**0.5
        trainers = [self._own(place, self.like, given, std) for _ in range(2)]
        model = initial_vector(self.task, self.plan, 0)
        return np.array([trainers[at % 2].sums(model) for at in range(n)])

    def _moved(self, place: PrivateWorkspace, lengths: F64, length: float) -> float:
        """A unit of max_rows rows, each with a gradient of this many clip norms, beside a few others.

        The others are long in the opposite direction, so that it shows when rows are clipped together. `lengths` are
        those of the gradients of `like`, shape (n,).
        """
        most, others = self.plan.privacy.max_rows, len(_OTHERS)
        rows = np.concatenate((np.full(most, others), np.arange(others)))  # first, so that it moves all others' places
        starts = np.append(0, np.arange(most, most + others + 1))
        terms = replace(self.terms, steps=1, sampling=Sampling.FULL, noise_std=_WHISPER * self.bound)
        made = np.array([*_OTHERS, (0, -length)])
        index = made[:, 0].astype(np.int64)
        shares = (made[:, 1] * self.plan.privacy.clip_norm / lengths[index]).astype(np.float32)
        sums = []
        for units in (Units(rows[most:], np.arange(others + 1), 1), Units(rows, starts, most)):
            trainer = self._own(place, self.like.take(index), (units, terms), self.bound, shares)
            sums.append(trainer.sums(initial_vector(self.task, self.plan, 0)))
        return float(np.linalg.norm(sums[1] - sums[0]))

    def _lengths(self) -> F64:
        """Lengths of the gradients of `like`, by plain autograd. Raises LocalError where they cannot be scaled."""
        module = model_of(self.task, self.plan, 0).train()
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        found = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for at in range(len(self.like)):
                one = Batch(torch.from_numpy(self.like.x[at : at + 1]), torch.from_numpy(self.like.y[at : at + 1]))
                made = torch.autograd.grad(self.task.loss(module(one.x), one).sum(), trained, allow_unused=True)
                squares = (float(part.double().square().sum()) for part in made if part is not None)
                found.append(math.sqrt(sum(squares)))
        lengths = np.array(found)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise LocalError(
                f"expected gradients that can be scaled, to test the clip, got some of length {lengths.min():g} to "
                f"{lengths.max():g} for made-up rows"
            )
        return lengths

    # -- canaries ---------------------------------------------------------------------------------

    def _canaries(self, m: int, terms: Terms, units: Units, *, both: bool = False) -> _TestedTrainer:
        """Of m canaries, row k and, if `both`, row m + k with the opposite gradient."""
        layers = 1
        if self.plan.privacy.clipping is UnitClipping.PER_LAYER:
            trained = [tensor for tensor in model_of(self.task, self.plan, 0).parameters() if tensor.requires_grad]
            layers = min(_MOST_LAYERS, len(trained))
        x = np.eye(m, dtype=np.float32) * np.float32(_CANARY * self.plan.privacy.clip_norm)
        x = np.concatenate((x, -x)) if both else x
        data = Data(source="arrays", target=Target(name="none", range=(0.0, 1.0)))
        plan = replace(self.plan, data=data, training=_plain(self.plan.training, terms.drawn / self.bound))
        rows = Rows(x, np.zeros(len(x), dtype=np.float32))
        return _TestedTrainer(PrivateWorkspace(_DiracTask(m, layers), plan), plan, rows, (units, terms), self.random())

    def _summed(self, trainer: _TestedTrainer, m: int, round: int = 1) -> F64:
        """What a round's steps added for each canary, over what it may add to one; shape (m,)."""
        model = np.zeros(trainer.workspace.model.layout.size, dtype=np.float32)
        sums = trainer.sums(model, round).reshape(-1, m)
        return np.asarray(sums.sum(axis=0) / len(sums) ** 0.5)

    def _units(self, rows: I64) -> Units:
        """Units of max_rows equal rows each."""
        most = self.plan.privacy.max_rows
        return Units(np.repeat(rows, most), np.arange(len(rows) + 1) * most, most)

    def _draws(self) -> Draws | None:
        rate = self.terms.rate
        if self.terms.sampling is Sampling.FULL or rate >= 1:
            return None
        terms = replace(self.terms, steps=1, noise_std=_WHISPER * self.bound)
        trainer = self._canaries(_UNITS, terms, self._units(np.arange(_UNITS)))
        steps = min(_MOST_STEPS, max(64, round(_DRAWN / (_UNITS * rate))))
        return Draws(
            units=_UNITS,
            rate=rate,
            take=lambda n: np.array([self._summed(trainer, _UNITS) for _ in range(n)]),
            steps=steps,
        )

    def scores(self, included: NDArray[np.bool_]) -> F64:
        """A score for each canary, shape (m,), from all rounds of a training on those `included`.

        Sampling rate, clip, noise and steps are the plan's at a site of `terms.population` units. A canary that is left
        out is no row, or under replace-one the row with the opposite gradient.
        """
        m, terms = len(included), self.terms
        both = terms.relation is Relation.REPLACE_ONE
        rows = np.where(included, 0, m) + np.arange(m) if both else np.flatnonzero(included)
        trainer = self._canaries(m, terms, self._units(rows), both=both)
        scores = np.zeros(m)
        for round in range(1, terms.rounds + 1):
            scores += self._summed(trainer, m, round)
        return scores


def _plain(training: Training, lr: float) -> Training:
    """SGD without anything beside it."""
    return Training(lr=lr, steps=1, batch_size=training.batch_size, batch_norm=training.batch_norm)


def _shown(module: nn.Module) -> tuple[I64, tuple[int, ...]]:
    """Which values of an update are tested, and how many of each trained tensor; frozen ones get no noise."""
    parameters = list(module.parameters())
    total = sum(tensor.numel() for tensor in parameters if tensor.requires_grad)
    share = min(1.0, _MOST_VALUES / total)
    places, groups, at = [], [], 0
    for tensor in parameters:
        if tensor.requires_grad:
            groups.append(max(1, int(share * tensor.numel())))
            places.append(at + np.arange(groups[-1]))
        at += tensor.numel()
    return np.concatenate(places), tuple(groups)
