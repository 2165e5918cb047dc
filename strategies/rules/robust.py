"""A robust aggregation from its pieces: checks, detectors, pre-aggregators, a rule, and the evidence of all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wardround.contribution import Contribution, Evidence, Report, Verdict
from wardround.orders import SiteId
from wardround.strategies.rules.detectors.detector import Detector
from wardround.strategies.rules.ingest import check_vector, outsize
from wardround.strategies.rules.preaggregators.preaggregator import PreAggregator
from wardround.strategies.rules.rule import Aggregate, Memory, Needs, RoundContext, VectorRule
from wardround.strategies.rules.vectors import Combined, Vectors
from wardround.tally import Tally
from wardround.vector import F32, F64, MemoryVector, squared_norm

__all__ = ["NORM_FACTOR", "Robust", "chain"]

Part = TypeVar("Part", PreAggregator, VectorRule)

NORM_FACTOR = 100.0
"""A norm above so many times the median one is refused unless a plan says otherwise."""


def chain(*parts: PreAggregator | VectorRule) -> "Robust":
    """Pre-aggregators, if any, and then a rule: `chain(Nnm(2), TrimmedMean(2))`."""
    *pre, rule = parts
    if not isinstance(rule, VectorRule) or not all(isinstance(part, PreAggregator) for part in pre):
        raise ValueError(f"expected pre-aggregators and then one rule, got {[type(part).__name__ for part in parts]}")
    return Robust(rule, tuple(part for part in pre if isinstance(part, PreAggregator)))


@dataclass(frozen=True, slots=True)
class Robust:
    """A `Rule` on contributions: refuse, inspect, mix, combine, and report.

    `detectors` are given by name. What a detector or the rule keeps between rounds is in the memory under its name.
    """

    rule: VectorRule
    pre: tuple[PreAggregator, ...] = ()
    detectors: tuple[tuple[str, Detector], ...] = ()
    norm_factor: float = NORM_FACTOR
    passes: int = 2
    needs: Needs = Needs.MATRIX

    def check(self, n: int) -> None:
        """Raise ValueError, saying which piece, unless every piece works for `n` contributions."""
        parts: tuple[PreAggregator | VectorRule, ...] = (*self.pre, self.rule)
        for part in parts:
            try:
                part.check(n)
            except ValueError as error:
                raise ValueError(f"{type(part).__name__}: {error}") from None
            n = part.mixtures(n) if isinstance(part, PreAggregator) else n

    def obstacle(self, n: int) -> str:
        """Why it does not work for `n` contributions; empty when it does."""
        try:
            self.check(n)
        except ValueError as error:
            return str(error)
        return ""

    def aggregate(self, vectors: F32, context: RoundContext | None = None) -> Aggregate:
        """The same on plain arrays of shape (n, d): line i of the report is row i, its only member the row's number."""
        rows = np.asarray(vectors)
        if rows.ndim != 2:
            raise ValueError(f"expected vectors of shape (n, d), got {rows.shape}")
        rows = rows.astype(np.float32, copy=False)
        context = context or RoundContext(size=rows.shape[1])
        nothing, width = Tally.of_means(0, {}), len(str(len(rows)))
        contributions = [
            Contribution(members=(SiteId(f"{index:0{width}}"),), weight=1, vector=MemoryVector(row), tally=nothing)
            for index, row in enumerate(rows)
        ]
        return self.apply(contributions, context)

    def apply(self, contributions: Iterable[Contribution], context: RoundContext) -> Aggregate:
        """The aggregate of what is left after the checks; none, with the reason, when that is too little.

        Contributions are taken in the order of their members' names, so that the order of arrival changes no bit. Where
        too few are left for `num_byzantine` bad ones among them, those that were refused or left out are counted as
        such: the pieces then work for so many less.
        """
        given = sorted(contributions, key=lambda one: one.members)
        lines = _checked(given, context, self.norm_factor if self.rule.trusts_majority else math.inf)
        kept = [index for index, line in enumerate(lines) if line.verdict is not Verdict.REFUSED]
        memory: dict[str, NDArray[np.float64]] = dict(context.memory)
        reason = "" if kept else "none of the contributions is usable"
        vector: F32 | None = None
        if kept:
            vectors = Vectors.of([given[index].vector for index in kept], self._own_references(context))
            self._inspect(vectors, kept, lines, context, memory)
            working, reason = self._for(len(kept), len(given) - len(kept) + context.left_out)
        if not reason:
            vector = working._combine(vectors, kept, lines, context, memory)
        return Aggregate(vector=vector, report=Report(tuple(lines)), memory=memory, reason=reason)

    def _for(self, n: int, found: int) -> tuple["Robust", str]:
        """What to apply to `n` contributions when `found` bad ones are not among them, and why nothing can be."""
        obstacle = self.obstacle(n)
        if obstacle and found:
            fewer = replace(
                self, rule=_tolerating(self.rule, found), pre=tuple(_tolerating(part, found) for part in self.pre)
            )
            if not fewer.obstacle(n):
                return fewer, ""
        return self, obstacle

    def _own_references(self, context: RoundContext) -> Mapping[str, F32]:
        return self.rule.references(_for_part(context, "rule"))

    def _inspect(
        self,
        vectors: Vectors,
        kept: Sequence[int],
        lines: list[Evidence],
        context: RoundContext,
        memory: dict[str, NDArray[np.float64]],
    ) -> None:
        """Ask the detectors; note what they found in `lines` and what they keep in `memory`."""
        keys = ["\x1f".join(lines[index].members) for index in kept]
        for name, detector in self.detectors:
            found = detector.inspect(vectors, keys, _for_part(context, name))
            _keep(memory, name, found.memory)
            for at, index in enumerate(kept):
                if found.flagged[at]:
                    line = lines[index]
                    reason = f"{name}: {found.reasons[at]}"
                    lines[index] = replace(line, flags=(*line.flags, name), reason=_joined(line.reason, reason))

    def _combine(
        self,
        vectors: Vectors,
        kept: Sequence[int],
        lines: list[Evidence],
        context: RoundContext,
        memory: dict[str, NDArray[np.float64]],
    ) -> F32:
        """The aggregate; what the rule thought of each contribution is noted in `lines`."""
        mixed = vectors
        for part in self.pre:
            mixed = mixed.mix(part.mix(mixed, context))
        own = _for_part(context, "rule")
        decision = self.rule.decide(mixed, own)
        if decision.columns is None:
            made = mixed.weighted_sum(decision.weights, decision.references)
        else:
            made = mixed.by_columns(decision.columns, decision.weights)
        scores = None if decision.scores is None else _of_sources(decision.scores, mixed.mixing, len(kept))
        for index, line in zip(kept, _judged([lines[i] for i in kept], made, scores), strict=True):
            lines[index] = line
        _keep(memory, "rule", self.rule.remember(own, made.vector))
        return made.vector


def _tolerating(part: Part, fewer: int) -> Part:
    """The piece for a num_byzantine that is lower by `fewer`, but not below 0."""
    if "num_byzantine" not in {field.name for field in fields(part)}:  # type: ignore[arg-type]
        return part
    changed: Part = replace(part, num_byzantine=max(0, part.num_byzantine - fewer))  # type: ignore[type-var]
    return changed


def _for_part(context: RoundContext, part: str) -> RoundContext:
    """The context with the memory of one part only."""
    prefix = f"{part}/"
    own = {name.removeprefix(prefix): array for name, array in context.memory.items() if name.startswith(prefix)}
    return replace(context, memory=own)


def _keep(memory: dict[str, NDArray[np.float64]], part: str, own: Memory) -> None:
    """Replace what `part` kept by `own`."""
    for name in [name for name in memory if name.startswith(f"{part}/")]:
        del memory[name]
    memory.update({f"{part}/{name}": array for name, array in own.items()})


def _checked(contributions: Sequence[Contribution], context: RoundContext, factor: float) -> list[Evidence]:
    """A line for each contribution: its norm, and why it is refused."""
    checked = [check_vector(one.vector, context.size, context.longest) for one in contributions]
    late = iter(outsize([norm for norm, reason in checked if norm is not None and not reason], factor))
    lines = []
    for one, (norm, reason) in zip(contributions, checked, strict=True):
        reason = reason or next(late)
        verdict = Verdict.REFUSED if reason else Verdict.ACCEPTED
        lines.append(Evidence(members=one.members, weight=0.0, norm=norm, verdict=verdict, reason=reason))
    return lines


def _of_sources(scores: F64, mixing: F64, sources: int) -> F64:
    """Scores of mixtures as scores of what they were mixed from: row by row, or averaged over a source's mixtures."""
    if len(scores) == sources:
        return scores
    part = np.abs(mixing[:, :sources])
    spread: F64 = scores @ part / np.maximum(part.sum(axis=0), 1e-300)
    return spread


def _judged(lines: Sequence[Evidence], made: Combined, scores: F64 | None) -> list[Evidence]:
    """The lines with the rule's weights, cosines, scores and verdicts."""
    norms = np.array([line.norm or 0.0 for line in lines])
    length = math.sqrt(squared_norm(made.vector))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.clip(made.products / (norms * length), -1.0, 1.0)
    if scores is None:
        scores = np.sqrt(np.maximum(norms**2 - 2 * made.products + length**2, 0.0))
    shares = np.abs(made.shares)
    equal = float(shares.sum()) / len(lines)
    judged = []
    for line, share, cosine, score in zip(lines, shares.tolist(), cosines.tolist(), scores.tolist(), strict=True):
        verdict, why = Verdict.ACCEPTED, ""
        if share <= 1e-9 * equal:
            verdict, why = Verdict.REJECTED, f"the rule took nothing of it (score {score:.3g})"
        elif share < equal / 2:
            verdict = Verdict.DOWN_WEIGHTED
            why = f"the rule gave it {share / equal:.2g} of an equal share (score {score:.3g})"
        judged.append(
            replace(
                line,
                weight=share,
                cosine=cosine if math.isfinite(cosine) else None,
                score=score if math.isfinite(score) else None,
                verdict=verdict,
                reason=_joined(line.reason, why),
            )
        )
    return judged


def _joined(*reasons: str) -> str:
    return "; ".join(reason for reason in reasons if reason)
