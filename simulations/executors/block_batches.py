"""The batches of many clients side by side: which rows each step takes, and how much each row counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wardround.client.trainer.batches import U64, Batches
from wardround.task import Batch
from wardround.vector import I64

__all__ = ["BlockBatches", "BlockRows"]


@dataclass(frozen=True, slots=True)
class BlockRows:
    """The rows of k clients one below the other; `weights` are their loss weights, if any. `offsets` has shape (k,)."""

    rows: Batch
    weights: Tensor | None
    offsets: I64

    @classmethod
    def of(cls, rows: Sequence[Batch], weights: Sequence[Tensor | None]) -> "BlockRows":
        together = Batch(torch.cat([batch.x for batch in rows]), torch.cat([batch.y for batch in rows]))
        given = [weight for weight in weights if weight is not None]
        lengths = np.array([len(batch.y) for batch in rows])
        return cls(together, torch.cat(given) if given else None, np.cumsum(lengths) - lengths)


@dataclass(frozen=True, slots=True)
class BlockBatches:
    """The steps [start, start + T) of k clients whose numbers of steps do not increase.

    x (T, k, b, ...), y and `share` (T, k, b): a row's share of its batch's weighted mean, 0 where a batch is smaller
    than b or its client has finished. `active` (T,): how many clients still train; `widths` (T,): rows of the
    largest batch among them.
    """

    x: Tensor
    y: Tensor
    share: Tensor
    active: list[int]
    widths: list[int]

    @classmethod
    def gather(cls, block: BlockRows, plans: Sequence[Batches], seeds: U64, start: int, stop: int) -> "BlockBatches":
        """The steps [start, stop) of clients dealt out as `plans`, each shuffled by its seed."""
        sizes = np.zeros((stop - start, len(plans)), dtype=np.int64)
        width = max(plan.batch_size for plan in plans)
        index = np.broadcast_to(block.offsets[:, None], (stop - start, len(plans), width)).copy()
        alike: dict[Batches, list[int]] = {}
        for client, plan in enumerate(plans):
            alike.setdefault(plan, []).append(client)
        for plan, clients in alike.items():
            end = min(stop, plan.steps)
            if end <= start:
                continue
            table = plan.index(seeds[clients], start, end) + block.offsets[clients, None, None]
            index[: end - start, clients, : plan.batch_size] = table.transpose(1, 0, 2)
            sizes[: end - start, clients] = plan.sizes(start, end)[:, None]
        return cls._of(block, index, sizes)

    @classmethod
    def _of(cls, block: BlockRows, index: I64, sizes: I64) -> "BlockBatches":
        def take(values: Tensor) -> Tensor:
            return values.index_select(0, flat).view(*index.shape, *values.shape[1:])

        flat = torch.from_numpy(index.reshape(-1))
        real = torch.from_numpy(np.arange(index.shape[2]) < sizes[:, :, None]).float()
        share = real if block.weights is None else real * take(block.weights)
        share = share / share.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        active = (sizes > 0).sum(1).tolist()
        return cls(take(block.rows.x), take(block.rows.y), share, active, sizes.max(1).tolist())
