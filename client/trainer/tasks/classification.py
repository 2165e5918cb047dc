"""What all classifiers share: cross-entropy, the tally of scores, and probabilities."""

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from wardround.plan import Plan, PlanError
from wardround.tally import LOGIT_LIMIT, ClassificationSpec, Tally, fixed_point
from wardround.task import Batch

__all__ = ["Classification"]


class Classification(ABC):
    """Outputs are logits, shape (n, classes). Raises PlanError when the plan's target has no classes."""

    def __init__(self, plan: Plan) -> None:
        target = plan.data.target
        if target is None or not target.classes:
            raise PlanError("data.target", "a target with classes, since the task is a classifier")
        self.labels = target.classes

    @abstractmethod
    def model(self, seed: int) -> nn.Module: ...

    @property
    def tally_spec(self) -> ClassificationSpec:
        return ClassificationSpec(classes=len(self.labels))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy, shape (n,)."""
        return functional.cross_entropy(outputs, batch.y, reduction="none")

    def tally(self, outputs: Tensor, batch: Batch) -> Tally:
        """Counts in the plan of `ClassificationSpec`; a score that is not a number counts as an even chance."""
        spec = self.tally_spec
        log_p = functional.log_softmax(outputs.detach().double(), dim=1).numpy()
        y = batch.y.numpy()
        rows = np.arange(len(y))
        loss = fixed_point(float(-log_p[rows, y].sum()))
        confusion = np.bincount(y * spec.classes + log_p.argmax(1), minlength=spec.classes**2)
        # The log-odds of a class against the rest; infinite where it is certain, and cut by the bins then.
        if spec.classes == 2:
            odds, positive = log_p[:, 1:] - log_p[:, :1], y[:, None] == 1
        else:
            with np.errstate(divide="ignore"):
                odds = log_p - np.log(-np.expm1(log_p))
            positive = y[:, None] == np.arange(spec.classes)
        odds = np.nan_to_num(odds, nan=0.0, posinf=LOGIT_LIMIT, neginf=-LOGIT_LIMIT).clip(-LOGIT_LIMIT, LOGIT_LIMIT)
        scaled = (odds + LOGIT_LIMIT) * (spec.bins / (2 * LOGIT_LIMIT))
        cell = np.minimum(scaled.astype(np.int64), spec.bins - 1)
        curve = np.arange(spec.curves)
        histograms = np.bincount(
            ((curve * 2 + positive) * spec.bins + cell).ravel(), minlength=spec.curves * 2 * spec.bins
        )
        return Tally(spec, np.concatenate(([len(y), loss], confusion, histograms)))

    def predict(self, outputs: Tensor) -> Tensor:
        """Probabilities, shape (n, classes)."""
        return functional.softmax(outputs, dim=1)

    def output_names(self) -> tuple[str, ...]:
        return tuple(f"probability_{label}" for label in self.labels)
