"""Which way to find the gradients of rows: the fastest of those that are right about a model."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from wardround.client.trainer.private_gradient import Mode, PrivateGradient
from wardround.task import Batch

__all__ = ["ModeChoice", "time_modes"]

_COMPARED = 4
"""Rows that each way is compared on with one forward and backward pass for each of them."""
_AGREEMENT = 1e-5
"""Largest difference in any value of the two sums, over the length of the sum."""
_NEGLIGIBLE = 1e-6
"""Sums that are shorter, in clip norms, are rounding errors: nothing can be compared."""
_REPEATS = 5
_HOPELESS = 2.0
"""A way that took so many times the best one's time is not timed again."""

_Kind = tuple[str, torch.Size, int, int]
_fastest: dict[_Kind, Mode] = {}
_lock = threading.Lock()


class ModeChoice:
    """The mode for one `PrivateGradient`, chosen when it is first asked for.

    A mode is left out unless its sum over a few rows is that of each row on its own: what a layer does beyond its type,
    such as mixing rows, shows here. Of the others the fastest is taken, by a trial that the process remembers for
    models of this form and batches of about this size. Nobody but the site learns the mode, and all clip alike, so that
    rows may have a part in the choice.
    """

    def __init__(self, gradient: PrivateGradient) -> None:
        self._gradient = gradient
        self._chosen: dict[_Kind, Mode] = {}

    def __call__(
        self, rows: Batch, shares: Tensor | None, size: int, *, clock: Callable[[], float] | None = None
    ) -> Mode:
        """The mode for batches of about `size` of `rows`.

        Where nothing can be compared (gradients are next to 0, or one is not finite), `vmap` keeps rows apart this
        time, where it can.
        """
        size = min(size, len(rows.y))
        # two rows may mix where one cannot
        kind = (repr(self._gradient.module), rows.x.shape[1:], size.bit_length(), min(len(rows.y), _COMPARED))
        if kind not in self._chosen:
            with _lock, torch.random.fork_rng(devices=[]):  # other threads wait and do not disturb the timing
                right = _right_modes(self._gradient, rows, shares)
                if right is None:
                    return Mode.VMAP if self._gradient.can_vmap(rows, shares) else Mode.ALONE
                if _fastest.get(kind) not in right:
                    times = time_modes(self._gradient, rows, shares, size, right, clock=clock)
                    _fastest[kind] = min(times, key=times.__getitem__)
                self._chosen[kind] = _fastest[kind]
        return self._chosen[kind]


def time_modes(
    gradient: PrivateGradient,
    rows: Batch,
    shares: Tensor | None,
    size: int,
    modes: Sequence[Mode] = tuple(Mode),
    *,
    clock: Callable[[], float] | None = None,
) -> dict[Mode, float]:
    """Seconds that each mode takes for a batch of the first `size` of `rows`: the least of a few, taken in turn.

    They are this thread's own where torch uses one, so that a machine with other work decides alike.
    """
    if clock is None:
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    index = torch.arange(min(size, len(rows.y)))
    total = gradient.views(torch.zeros(gradient.size, dtype=torch.float64))
    times = dict.fromkeys(modes, float("inf"))
    for _ in range(_REPEATS):
        best = min(times.values())
        for mode in modes:
            if times[mode] <= _HOPELESS * best:
                start = clock()
                gradient.add_to(total, rows, index, shares, mode)
                times[mode] = min(times[mode], clock() - start)
    return times


def _right_modes(gradient: PrivateGradient, rows: Batch, shares: Tensor | None) -> list[Mode] | None:
    """The modes that agree with rows one by one, or that way itself; None when comparing tells nothing.

    Each of a few rows is asked for by giving the others no weight, under a clip that shortens it: whoever takes a part
    of one row for another's finds another length. Nothing is refused here: an error that depends on rows would tell of
    them.
    """
    rows = Batch(rows.x[:_COMPARED], rows.y[:_COMPARED])
    index = torch.arange(len(rows.y))
    given = torch.ones(len(rows.y)) if shares is None else shares[: len(rows.y)]
    right = [Mode.GHOST, Mode.HOOKS, Mode.VMAP]
    told = False
    with _not_dropping(gradient.module):
        for at in range(len(rows.y)):
            one = Batch(rows.x[at : at + 1], rows.y[at : at + 1])
            length, wild = gradient.length_of(one, given[at : at + 1])
            if wild or length <= _NEGLIGIBLE * gradient.clip_norm:
                continue
            told = True
            with gradient.clipping_at(length / 2):
                alone = torch.zeros(gradient.size, dtype=torch.float64)
                gradient.add_one_by_one(gradient.views(alone), one, given[at : at + 1])
                weights = torch.zeros(len(rows.y)).index_fill(0, torch.tensor([at]), float(given[at]))
                right = [mode for mode in right if _agrees(gradient, rows, index, weights, mode, alone)]
    if not told:
        return None
    return right or [Mode.ALONE]


def _agrees(gradient: PrivateGradient, rows: Batch, index: Tensor, weights: Tensor, mode: Mode, alone: Tensor) -> bool:
    found = torch.zeros(gradient.size, dtype=torch.float64)
    try:
        gradient.add_to(gradient.views(found), rows, index, weights, mode)
    except Exception:  # what a user's layers, vmap and Opacus's formulas cannot do
        return False
    return float((found - alone).abs().max()) <= _AGREEMENT * float(alone.norm())


@contextmanager
def _not_dropping(module: nn.Module) -> Iterator[None]:
    """As in training, but without dropout, whose draws no two ways share."""
    dropping = [part for part in module.modules() if isinstance(part, _DropoutNd | nn.RReLU)]
    for part in dropping:
        part.eval()
    try:
        yield
    finally:
        module.train()
