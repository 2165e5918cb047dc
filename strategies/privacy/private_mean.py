"""The mean of clipped updates with Gaussian noise, added by the server."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from wardround.contribution import Contribution, Evidence, Report, Verdict
from wardround.orders import SiteId
from wardround.strategies.privacy.adaptive_clip import AdaptiveClip
from wardround.strategies.privacy.noise_source import NoiseSource
from wardround.strategies.privacy.secure_random import GRID, GRID_PER_UNIT
from wardround.strategies.privacy.unit_clip import BLOCK, check_clip, factor, layer_pieces, wide_square
from wardround.strategies.rules.rule import Aggregate, Memory, Needs, RoundContext
from wardround.vector import F32, I64, VectorSource

__all__ = ["LEAST_NOISE", "MOST_NOISE", "PrivateMean"]

LEAST_NOISE, MOST_NOISE = 2.0**-10, 2.0**40
"""Of noise over the clip norm. With less nobody is hidden; and no value of a clipped update has over 2^30 steps, so
that 2^32 of them (more sites than can be told apart in memory) and the noise fit 64 bits."""

_CLIP = "clip_norm"
_LARGEST_PART = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMean:
    """(Σ clipped updates + noise) / `denominator`: the Gaussian mechanism of a server that is trusted to add the noise.

    What a client moves the sum by is exactly at most `clip_norm` in L2, by its presence or by its update becoming
    zero. All sums are of whole numbers: a finite update is scaled so that its norm is under `clip_norm` as a real
    number, divided by the noise's standard deviation and cut to a multiple of GRID *toward zero*, which lengthens no
    vector. Integers add up to the same in every order, so nothing beside that sum depends on a client. The noise is
    a Gaussian rounded to the same grid: rounding a number that is on the grid plus a Gaussian gives that number plus
    the rounded Gaussian, so what is released is computed from what the Gaussian mechanism releases, and keeps its
    guarantee (post-processing). Division by the `denominator`, the cohort that was planned, is such a computation too.

    The noise is full whatever survives: of no contribution at all the aggregate is noise alone. A contribution is
    tested by itself and by constants of the plan only: shape, finite values, weight 1, one client, once. One that
    fails is zero in the sum and refused in the report, which tells neither norms nor scores.

    `layers`: sizes of L tensors, each of which is clipped to clip_norm / √L. `adaptive`: the clip norm follows the
    clients' norms, `noise_std` / `clip_norm` being the noise multiplier of updates and count together; the one in
    force is kept in the rule's memory.

    Source: Dwork and Roth 2014, "The Algorithmic Foundations of Differential Privacy", Proposition 2.1 and Appendix A;
    McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", Algorithm 1.
    """

    clip_norm: float
    noise_std: float
    denominator: float
    noise: NoiseSource
    layers: tuple[int, ...] | None = None
    adaptive: AdaptiveClip | None = None
    passes: int = 2
    """Once for its norm, then to add it up."""
    needs: Needs = Needs.SUM

    def __post_init__(self) -> None:
        check_clip(self.clip_norm)
        multiplier = self.noise_std / self.clip_norm
        if not LEAST_NOISE <= multiplier <= MOST_NOISE:
            limits = f"{LEAST_NOISE:.1g} to {MOST_NOISE:.1g}"
            raise ValueError(f"expected noise of {limits} times the clip norm, got {multiplier:.3g} times")
        if not 0 < self.denominator < math.inf:
            raise ValueError(f"expected a denominator above 0, got {self.denominator}")
        if self.layers is not None and not (self.layers and min(self.layers) > 0):
            raise ValueError(f"expected layers of at least one value, got {self.layers}")
        if self.adaptive is not None:
            if self.layers is not None:
                raise ValueError("expected no layers with an adaptive clip norm, which is one for all")
            self.adaptive.update_multiplier(multiplier)

    def clip_in_force(self, memory: Memory) -> float:
        """The clip norm of the round that begins with this memory."""
        if self.adaptive is None or _CLIP not in memory:
            return self.clip_norm
        clip_norm = float(memory[_CLIP].item())
        check_clip(clip_norm)
        return clip_norm

    def apply(self, contributions: Iterable[Contribution], context: RoundContext) -> Aggregate:
        """The noisy mean, shape (d,); never none. Asks `noise` exactly once."""
        clip_norm, multiplier = self.clip_in_force(context.memory), self.noise_std / self.clip_norm
        if self.adaptive is not None:
            multiplier = self.adaptive.update_multiplier(multiplier)
        summed = _ClippedSum((context.size,) if self.layers is None else self.layers, clip_norm, multiplier)
        if summed.size != context.size:
            raise ValueError(f"expected layers of {context.size} values, got {summed.size}")
        lines: list[Evidence] = []
        seen: set[SiteId] = set()
        votes = 0
        for contribution in contributions:
            reason = _fault(contribution, seen)
            norm = None if reason else summed.add(contribution.vector)
            if norm is None:
                reason = reason or f"expected {context.size} finite values of float32"
                lines.append(
                    Evidence(
                        members=contribution.members, weight=0.0, norm=None, verdict=Verdict.REFUSED, reason=reason
                    )
                )
                continue
            votes += 0 if self.adaptive is None else self.adaptive.vote(norm, clip_norm)
            seen.update(contribution.members)
            lines.append(Evidence(members=contribution.members, weight=1.0, norm=None, verdict=Verdict.ACCEPTED))
        noise = self._noise(context.size + (self.adaptive is not None))
        vector = summed.released(noise[: context.size], self.denominator)
        memory: Memory = {}
        if self.adaptive is not None:
            following = self.adaptive.next_clip(clip_norm, votes + int(noise[-1]), self.denominator)
            memory = {_CLIP: np.array([following])}
        return Aggregate(vector=vector, report=Report(tuple(lines)), memory=memory)

    def _noise(self, size: int) -> I64:
        noise = self.noise.draw(size)
        if noise.shape != (size,) or noise.dtype != np.int64:
            raise ValueError(f"expected noise of {size} integers, got {noise.dtype} of shape {noise.shape}")
        return noise


def _fault(contribution: Contribution, seen: set[SiteId]) -> str:
    """Why a contribution would break the bound on what one client adds; empty when it does not."""
    if contribution.weight != 1:
        return "expected a weight of 1, since others would let one client add more"
    if len(contribution.members) != 1:
        return "expected the update of one client"
    if contribution.members[0] in seen:
        return "expected one update of each client"
    return ""


class _ClippedSum:
    """Σ of clipped vectors over the noise's standard deviation, in steps of GRID, each rounded toward zero."""

    def __init__(self, layers: tuple[int, ...], clip_norm: float, multiplier: float) -> None:
        self.size = sum(layers)
        self._layers, self._bound = layers, clip_norm / math.sqrt(len(layers))
        self._noise_std = multiplier * clip_norm
        self._total: I64 = np.zeros(self.size, dtype=np.int64)
        # 32 bits are added up in half the time of 64; they hold so many contributions
        self._part = np.zeros(self.size, dtype=np.int32)
        self._most = int(_LARGEST_PART * multiplier / GRID_PER_UNIT * (1 - 1e-6))
        self._room = self._most
        self._scaled: F32 = np.empty(min(BLOCK, self.size), dtype=np.float32)
        self._steps = np.empty(self._scaled.size, dtype=np.int32)

    def add(self, vector: VectorSource) -> float | None:
        """Add one vector and return its norm before clipping; None, and nothing is added, where it is no good."""
        squares = [0.0] * len(self._layers)
        try:
            for layer, _, piece in layer_pieces(vector.chunks(BLOCK), self._layers):
                squares[layer] += wide_square(piece)
            factors = [factor(value, self._bound) for value in squares]
        except ValueError:
            return None
        if not self._room:
            self._settle()
        self._room -= 1
        scales = [_below(value * GRID_PER_UNIT / self._noise_std) for value in factors]
        for layer, start, piece in layer_pieces(vector.chunks(BLOCK), self._layers):
            scaled, steps = self._scaled[: piece.size], self._steps[: piece.size]
            np.multiply(piece, scales[layer], out=scaled)
            np.copyto(steps, scaled, casting="unsafe")  # toward zero
            self._part[start : start + piece.size] += steps
        return math.sqrt(sum(squares))

    def released(self, noise: I64, denominator: float) -> F32:
        """(sum + noise) / denominator, in float32."""
        self._settle()
        self._total += noise
        unit = GRID * self._noise_std / denominator
        return (self._total * unit).astype(np.float32)

    def _settle(self) -> None:
        self._total += self._part
        self._part[:] = 0
        self._room = self._most


def _below(scale: float) -> np.float32:
    """The largest float32 that is not above `scale`: the vector must not become longer."""
    rounded = np.float32(scale)
    return rounded if float(rounded) <= scale else np.nextafter(rounded, np.float32(0.0))
