"""The adaptive attack: a search for what does most damage to the rule that the server runs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from wardround.simulations.attacks.alie import Alie
from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.collusion import narrow, sample
from wardround.simulations.attacks.fang import Fang
from wardround.simulations.attacks.ipm import Ipm
from wardround.simulations.attacks.mimic import Mimic
from wardround.simulations.attacks.min_max import MinMax
from wardround.simulations.attacks.min_sum import MinSum
from wardround.simulations.attacks.perturbation import Perturbation
from wardround.simulations.attacks.scaled_sign_flip import ScaledSignFlip
from wardround.simulations.attacks.sign_flip import SignFlip
from wardround.vector import F32, F64

__all__ = ["Adaptive", "damage"]

_KNOWN: tuple[Attack, ...] = (
    SignFlip(),
    ScaledSignFlip(),
    Alie(),
    Ipm(),
    MinMax(),
    MinMax(perturbation=Perturbation.UNIT),
    MinSum(),
    Mimic(),
    Fang(),
    Fang(krum=True),
)
_LENGTHS = (0.5, 1.5, 5.0, 25.0)
"""Tried first, in units of the typical distance of an honest update to the mean."""
_FURTHEST = 1e4
"""No attack is longer than this many units: against the plain mean there is no end to it."""
_FINEST = 1.02
"""The search for a length ends when a step changes it by less than this factor."""
_KEPT = 4
"""How many of the moves found first are searched further."""


def damage(aggregate: F32, mean: F64) -> float:
    """How far the aggregate is from the honest mean, not counting what merely goes further in the mean's direction."""
    off = aggregate.astype(np.float64) - mean
    square = float(mean @ mean)
    if square > 0:
        off -= max(float(off @ mean) / square, 0.0) * mean
    return float(np.linalg.norm(off))


@dataclass(frozen=True, slots=True)
class Adaptive(Attack):
    """The worst that was found with at most `evaluations` tries of the server's own rule on the round's updates.

    First the known attacks as they are, then vectors mean + t u: for several directions u (against the mean, its
    sign, the spread; along the rule's own bias, the principal component, the outermost honest update, one column)
    and for several shares of the attackers that go there, a few lengths t each. The best are lengthened, shortened and
    at last turned a little at random. A try for which the rule makes no aggregate counts as no damage, so the rule
    cannot be made to give up the round; `damage` says what is maximised. What it finds is a lower bound of the worst
    case, and never less than what the known attacks do with the same rule and seed.

    Source: the distance that is maximised and the search for a length are those of Allouah et al. 2023, "Fixing by
    Mixing", and of Shejwalkar & Houmansadr 2021, attacks tailored to a known rule.
    """

    evaluations: int = 150

    summary: ClassVar[str] = "a search for the updates that do most damage to this very rule"
    source: ClassVar[str] = "after Shejwalkar & Houmansadr 2021 and Allouah et al. 2023"
    knows_others: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise ValueError(f"expected evaluations >= 1, got {self.evaluations}")

    def craft(self, knowledge: Knowledge) -> Crafted:
        if not len(knowledge.own):
            return Crafted(updates=knowledge.own)
        search = _Search(knowledge, self.evaluations)
        for attack in _KNOWN:
            search.try_updates(attack.craft(knowledge).updates)
        moves = search.scan()
        for place, move in enumerate(moves):
            # an equal share of what is left for each, and one for turning
            search.lengthen(move, until=search.left - search.left // (len(moves) - place + 1))
        search.turn(knowledge.generator)
        return Crafted(updates=search.best)


@dataclass(frozen=True, slots=True)
class _Move:
    """Attacker i goes `length` · `factors`[i] units from the mean along `direction`, a unit vector of shape (d,)."""

    direction: F64
    factors: F64
    length: float
    damage: float = -1.0


@dataclass(slots=True)
class _Search:
    """The best updates so far, and how many evaluations are left."""

    knowledge: Knowledge
    left: int
    rows: F64 = field(init=False)
    mean: F64 = field(init=False)
    unit: float = field(init=False)
    best: F32 = field(init=False)
    most: float = field(init=False, default=-1.0)
    move: _Move | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.rows = sample(self.knowledge)
        self.mean = self.rows.mean(axis=0)
        spread = math.sqrt(float(np.square(self.rows - self.mean).sum()) / len(self.rows))
        self.unit = spread or float(np.linalg.norm(self.mean)) or 1.0
        self.best = self.knowledge.own.copy()

    def try_updates(self, updates: F32) -> float:
        """The damage that they do, −1 for none; kept if it is the most. Nothing when no evaluation is left."""
        if self.left <= 0:
            return -1.0
        self.left -= 1
        aggregate = self.knowledge.aggregate(np.concatenate((narrow(self.rows), updates)))
        if aggregate is None or not np.isfinite(aggregate).all():
            return -1.0
        found = damage(aggregate, self.mean)
        if found > self.most:
            self.most, self.best = found, updates
        return found

    def try_move(self, direction: F64, factors: F64, length: float) -> _Move:
        offsets = np.outer(length * self.unit * factors, direction)
        found = self.try_updates(narrow(self.mean + offsets))
        move = _Move(direction, factors, length, found)
        if self.move is None or found > self.move.damage:
            self.move = move
        return move

    def scan(self) -> list[_Move]:
        """All directions with all attackers, the best two with other patterns; the best moves, one of a kind."""
        together, *others = _patterns(len(self.knowledge.own))
        found = [self._first(direction, together) for direction in self._directions()]
        found.sort(key=lambda move: -move.damage)
        found += [self._first(move.direction, pattern) for move in found[:2] for pattern in others]
        found.sort(key=lambda move: -move.damage)
        return found[:_KEPT]

    def _first(self, direction: F64, factors: F64) -> _Move:
        return max((self.try_move(direction, factors, t) for t in _LENGTHS), key=lambda move: move.damage)

    def lengthen(self, move: _Move, until: int) -> None:
        """Search for the best length of a move, in ever smaller steps, while more than `until` evaluations are left."""
        step = 2.0
        while step > _FINEST and self.left > until:
            before = move
            for length in (move.length * step, move.length / step):
                if length <= _FURTHEST and self.left > until:
                    other = self.try_move(move.direction, move.factors, length)
                    move = other if other.damage > move.damage else move
                    if move is other:
                        break
            if move is before:
                step = math.sqrt(step)

    def turn(self, generator: np.random.Generator) -> None:
        """Turn the best move a little, towards and away from honest updates at random, while that makes it better."""
        angle = 0.5
        while self.left > 0 and self.move is not None:
            best = self.move
            aside = _unit(generator.standard_normal(len(self.rows)) @ (self.rows - self.mean))
            direction = _unit(best.direction + angle * aside)
            self.try_move(direction, best.factors, best.length)
            angle = max(0.9 * angle, 0.05) if self.move is best else angle

    def _directions(self) -> Iterator[F64]:
        """Unit vectors, none of them twice; a direction that would help the model is turned round."""
        seen: list[F64] = []
        for direction in self._candidates():
            direction = _unit(direction)
            if direction.any() and all(float(direction @ other) < 0.9999 for other in seen):
                seen.append(direction)
                yield direction

    def _candidates(self) -> Iterator[F64]:
        mean, centred = self.mean, self.rows - self.mean
        std, signs = self.rows.std(axis=0), np.sign(mean)
        yield -mean
        yield -signs
        yield -std
        yield -std * signs
        yield self._bias()
        values, vectors = np.linalg.eigh(centred @ centred.T)
        yield self._against(vectors[:, int(np.argmax(values))] @ centred)
        yield self._against(centred[int(np.argmax(np.einsum("ij,ij->i", centred, centred)))])
        column = np.zeros_like(mean)
        at = int(np.argmax(std)) if std.any() else int(np.argmax(np.abs(mean)))
        column[at] = -1.0 if mean[at] >= 0 else 1.0
        yield column

    def _against(self, direction: F64) -> F64:
        return -direction if float(direction @ self.mean) > 0 else direction

    def _bias(self) -> F64:
        """Where the rule goes on its own when the attackers all send the honest mean."""
        if self.left <= 0:
            return np.zeros_like(self.mean)
        self.left -= 1
        quiet = narrow(np.tile(self.mean, (len(self.knowledge.own), 1)))
        aggregate = self.knowledge.aggregate(np.concatenate((narrow(self.rows), quiet)))
        if aggregate is None or not np.isfinite(aggregate).all():
            return np.zeros_like(self.mean)
        off: F64 = aggregate.astype(np.float64) - self.mean
        # rounding is no bias
        return off if float(np.linalg.norm(off)) > 1e-4 * self.unit else -aggregate.astype(np.float64)


def _patterns(f: int) -> list[F64]:
    """How far each of f attackers goes, as a share of the length: all together, spread out, half of them, one."""
    half, one = np.zeros(f), np.zeros(f)
    half[: (f + 1) // 2] = 1.0
    one[0] = 1.0
    patterns = [np.ones(f)]
    for pattern in (np.linspace(0.5, 1.5, f), half, one) if f > 1 else ():
        if not any(np.array_equal(pattern, other) for other in patterns):
            patterns.append(pattern)
    return patterns


def _unit(vector: F64) -> F64:
    found: F64 = vector / (float(np.linalg.norm(vector)) or 1.0)
    return found
