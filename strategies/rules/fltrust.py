"""FLTrust: the server's own update, from data it trusts, says whom to believe and how far to go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wardround.strategies.rules.rule import Decision, RoundContext, VectorRule, require
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, F64

__all__ = ["FlTrust", "trust_scores"]

_ROOT = "root"


def trust_scores(cosines: F64) -> F64:
    """ReLU: who points away from the server's own update is not believed at all."""
    return np.maximum(cosines, 0.0)


@dataclass(frozen=True, slots=True)
class FlTrust(VectorRule):
    """Σ t_i (‖root‖ / ‖x_i‖) x_i / Σ t_i, where t_i is the cosine of x_i with `root`, or 0 if that is negative.

    "root" is the server's own update among the context's references, without which ValueError is raised. When nobody
    is trusted it is the root itself (the paper divides by zero). Never longer than the root, whoever is bad; but bad
    ones may still pull anywhere within a right angle of it. What it judges a vector by is 1 − cosine.

    Source: Cao et al. 2021, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", Algorithm 2.
    """

    num_byzantine: int = 0

    summary: ClassVar[str] = "the mean weighted by likeness to the server's own update, and as long as that"
    tolerates: ClassVar[str] = "num_byzantine < n"
    cost: ClassVar[str] = "O(n² d)"
    source: ClassVar[str] = "Cao et al. 2021, Algorithm 2"
    trusts_majority: ClassVar[bool] = False

    def check(self, n: int) -> None:
        require(self.num_byzantine < n, "num_byzantine < n", self.num_byzantine, n)

    def references(self, context: RoundContext) -> Mapping[str, F32]:
        """The server's own update."""
        root = context.references.get(_ROOT)
        if root is None:
            raise ValueError('expected the server\'s own update as references["root"], got none')
        if root.shape != (context.size,):
            raise ValueError(f'expected references["root"] of shape ({context.size},), got {root.shape}')
        if not np.isfinite(root).all():
            raise ValueError('expected finite references["root"], got values that are not')
        return {_ROOT: root}

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        norms, length = np.sqrt(vectors.squared_norms), vectors.reference_squared_norm(_ROOT) ** 0.5
        lengths = norms * length
        cosines = vectors.products_with(_ROOT) / np.where(lengths > 0, lengths, 1.0)
        cosines = np.clip(np.where(lengths > 0, cosines, 0.0), -1.0, 1.0)
        trust = trust_scores(cosines)
        if trust.sum() <= 0.0:
            return Decision(weights=np.zeros(vectors.n), references={_ROOT: 1.0}, scores=1.0 - cosines)
        weights = trust / trust.sum() * length / np.where(norms > 0, norms, 1.0)
        return Decision(weights=weights, scores=1.0 - cosines)
