"""FLDetector: sites whose updates do not follow from their last ones and the model's movement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from wardround.strategies.rules.detectors.detector import Detector, Findings
from wardround.strategies.rules.detectors.norm import FEWEST
from wardround.strategies.rules.detectors.sketch import WIDTH, CountSketch, Histories, check_width
from wardround.strategies.rules.rule import RoundContext
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F64

__all__ = ["FlDetector", "hessian_product", "split_1d", "suspects"]

_MODEL, _UPDATE, _ERROR = "model", "update", "error"
_MOST_CLUSTERS = 8
_TINY = 1e-12


def hessian_product(steps: F64, changes: F64, vector: F64) -> F64:
    """L-BFGS's B·v in compact form, shape (k,): how far the gradient changes along `vector`, shape (k,).

    From m past steps s of the model and changes y of the gradient along them, both of shape (m, k), oldest first:
    B·v = σv − [σS Y] M⁻¹ [σSᵀv; Yᵀv] with M = [[σSᵀS, L], [Lᵀ, −D]], σ = ⟨y, s⟩/⟨s, s⟩ of the latest, L the part of
    SᵀY below its diagonal D. The pseudo-inverse where M is singular. Zero without history.

    Source: Byrd, Nocedal, Schnabel 1994, Theorem 2.3; Zhang et al. 2022, Algorithm 1.
    """
    if not len(steps):
        return np.zeros_like(vector)
    sigma = float(changes[-1] @ steps[-1]) / float(steps[-1] @ steps[-1])
    products = steps @ changes.T
    lower = np.tril(products, -1)
    middle = np.block([[sigma * (steps @ steps.T), lower], [lower.T, -np.diag(np.diag(products))]])
    right = np.concatenate((sigma * (steps @ vector), changes @ vector))
    solved = np.linalg.pinv(middle, rcond=1e-10) @ right
    found: F64 = sigma * vector - np.concatenate((sigma * steps, changes)).T @ solved
    return found


def split_1d(values: F64, clusters: int) -> tuple[NDArray[np.intp], F64]:
    """The best partition of n numbers into `clusters` and its cost for every smaller number of clusters.

    Labels, shape (n,), ascending with the values; costs, shape (clusters,): the least sum of squared distances to the
    clusters' means for 1, 2, … clusters. Exact, by dynamic programming over the sorted values.

    Source: Wang, Song 2011, "Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming".
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order] - values.mean()
    n = len(values)
    sums, squares = (np.concatenate(([0.0], np.cumsum(part))) for part in (ordered, ordered**2))
    start, end = np.arange(n)[:, None], np.arange(1, n + 1)[None, :]
    count = np.maximum(end - start, 1)
    cost = squares[end] - squares[start] - (sums[end] - sums[start]) ** 2 / count
    cost = np.where(end > start, np.maximum(cost, 0.0), np.inf)  # of the values from `start` to before `end`
    best, cuts, costs = cost[0], [], [float(cost[0, -1])]
    for _ in range(1, clusters):
        before = np.concatenate(([np.inf], best[:-1]))[:, None] + cost
        cuts.append(np.argmin(before, axis=0))
        best = before.min(axis=0)
        costs.append(float(best[-1]))
    labels, last = np.zeros(n, dtype=np.intp), n
    for cluster in range(clusters - 1, 0, -1):
        first = int(cuts[cluster - 1][last - 1])
        labels[order[first:last]] = cluster
        last = first
    return labels, np.array(costs)


def suspects(scores: F64, references: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which of n scores belong to the worse of two clusters, shape (n,); none when one cluster describes them as well.

    One or more is decided by the gap statistic: the smallest k with gap(k) >= gap(k+1) − s(k+1), against `references`
    uniform samples. Half of the scores or more are never suspects.

    Source: Tibshirani, Walther, Hastie 2001, "Estimating the number of clusters in a data set via the gap statistic";
    Zhang et al. 2022, Algorithms 2 and 3.
    """
    n, nobody = len(scores), np.zeros(len(scores), dtype=np.bool_)
    if n < FEWEST or np.ptp(scores) <= _TINY:
        return nobody
    scaled = (scores - scores.min()) / np.ptp(scores)
    most = min(_MOST_CLUSTERS, n - 1)
    own = np.log(np.maximum(split_1d(scaled, most)[1], _TINY))
    drawn = generator.random((references, n))
    uniform = np.log(np.maximum([split_1d(row, most)[1] for row in drawn], _TINY))
    gaps, spread = uniform.mean(axis=0) - own, np.sqrt(1.0 + 1.0 / references) * uniform.std(axis=0)
    enough = np.flatnonzero(gaps[:-1] >= gaps[1:] - spread[1:])
    if len(enough) and enough[0] == 0:
        return nobody
    worse = split_1d(scaled, 2)[0] == 1
    return worse if 2 * np.count_nonzero(worse) < n else nobody


@dataclass(frozen=True, slots=True)
class FlDetector(Detector):
    """Flags sites whose updates are predicted worse than the others' from what they sent before.

    A site's update is predicted as its last one plus the Hessian's product with the model's movement since (L-BFGS
    over the last `window` movements of the global model). The error's length, divided by the round's mean one, is
    averaged over the site's last `window` rounds: that is the score, 1 for an average site. Flagged are those in the
    worse of two clusters, when the gap statistic finds more than one and they are fewer than half. It finds attacks
    that change from round to round; one that always lies alike is predictable.

    Measured in training for 30 rounds (digits n = 20, breast cancer n = 10, Dirichlet 0.5): without an attack 0 to 2 %
    of honest sites flagged per round, but a single hospital in up to 63 % of its rounds; noise found in every round
    after the first six, updates × −5 in most.
    In the paper gradients of the whole data are exact; here the global update of a round, the model's movement, stands
    for the aggregated gradient, which is right up to the server's optimiser. Everything is kept as `CountSketch`es of
    `width` values, so the errors' lengths are off by about √(2/width) of themselves. A site whose last update is older
    than the kept models is not predicted, its score is 0 until it is. Flags begin when a site has window/2 errors.
    Without `context.model` nothing is found.
    """

    window: int = 10
    references: int = 20
    width: int = WIDTH

    summary: ClassVar[str] = "sites whose updates do not follow from their last ones and the model's movement"
    cost: ClassVar[str] = "O(n d), and 32 KiB kept for each site and each of `window` models"
    source: ClassVar[str] = "Zhang et al. 2022, Algorithms 1-3"

    def __post_init__(self) -> None:
        if self.window < 2 or self.references < 2:
            raise ValueError(f"expected window >= 2 and references >= 2, got {self.window} and {self.references}")
        check_width(self.width)

    def inspect(self, vectors: Vectors, keys: Sequence[str], context: RoundContext) -> Findings:
        scores, flagged, reasons = np.zeros(vectors.n), np.zeros(vectors.n, dtype=np.bool_), [""] * vectors.n
        if context.model is None:
            return Findings(scores=scores, flagged=flagged, reasons=tuple(reasons), memory=context.memory)
        sketch = CountSketch(vectors.size, self.width)
        models = _models(context, sketch.length)
        now = sketch.of_one(context.model)
        updates = sketch.of(vectors)
        past = Histories.read(context.memory, _UPDATE, sketch.length)
        errors = self._errors(models, now, updates, keys, past)
        records = self._records(errors, keys, context)
        for index, key in enumerate(keys):
            record = records.get(key)
            if index in errors and record is not None:
                scores[index] = float(record[1].mean())
        ripe = [index for index in errors if len(records.rows[keys[index]][1]) >= max(self.window // 2, 1)]
        generator = np.random.Generator(np.random.Philox(key=context.seed))
        flagged[ripe] = suspects(scores[ripe], self.references, generator)
        for index in np.flatnonzero(flagged).tolist():
            reasons[index] = f"its updates are off from their prediction by {scores[index]:.3g} times the average"
        kept = dict(sorted({**models, context.round: now}.items())[-(self.window + 1) :])
        memory = {
            **{f"{_MODEL}/{number}": array for number, array in kept.items()},
            **past.updated(context.round, dict(zip(keys, updates, strict=True))).memory(_UPDATE),
            **records.memory(_ERROR),
        }
        return Findings(scores=scores, flagged=flagged, reasons=tuple(reasons), memory=memory)

    def _errors(
        self, models: Mapping[int, F64], now: F64, updates: F64, keys: Sequence[str], past: Histories
    ) -> dict[int, float]:
        """By index the length of the prediction's error, in units of the round's mean; only where there is one."""
        track = [*models.values(), now]
        moves = [after - before for before, after in pairwise(track)]
        pairs = [(s, y - s) for s, y in pairwise(moves) if s.any()][-self.window :]
        steps, changes = (np.array([pair[part] for pair in pairs]).reshape(-1, len(now)) for part in (0, 1))
        expected: dict[int, F64] = {}
        lengths: dict[int, float] = {}
        for index, key in enumerate(keys):
            before = past.get(key)
            if pairs and before is not None and before[0] in models:
                seen, update = before
                if seen not in expected:
                    expected[seen] = hessian_product(steps, changes, now - models[seen])
                lengths[index] = float(np.linalg.norm(updates[index] - update - expected[seen]))
        mean = sum(lengths.values()) / max(len(lengths), 1)
        return {index: length / mean for index, length in lengths.items()} if mean > 0.0 else {}

    def _records(self, errors: Mapping[int, float], keys: Sequence[str], context: RoundContext) -> Histories:
        """Each site's latest errors."""
        before = Histories.read(context.memory, _ERROR)
        rows = {}
        for index, error in errors.items():
            known = before.get(keys[index])
            rows[keys[index]] = np.append([] if known is None else known[1], error)[-self.window :]
        return before.updated(context.round, rows)


def _models(context: RoundContext, length: int) -> dict[int, F64]:
    """The kept models of earlier rounds, oldest first."""
    prefix = f"{_MODEL}/"
    found = {
        int(name.removeprefix(prefix)): array
        for name, array in context.memory.items()
        if name.startswith(prefix) and len(array) == length
    }
    return {number: found[number] for number in sorted(found) if number < context.round}
