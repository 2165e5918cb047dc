"""Orders (what the server asks of a site), jobs (what the site's guard lets its trainer do) and their results."""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from wardround.decoding import PlanError, check_bounds, decode, encode, key
from wardround.errors import RemoteError
from wardround.site_id import SiteId
from wardround.tally import Tally
from wardround.vector import F32

__all__ = [
    "MAX_ORDER_BYTES",
    "EvalJob",
    "FitJob",
    "LocalResult",
    "Order",
    "OrderKind",
    "SiteId",
    "Split",
    "Statistics",
    "derive_seed",
    "digest",
]

MAX_ORDER_BYTES = 4 << 20
"""Every order has the means and deviations of all number columns in it."""
_SMALL_BYTES = 1 << 16


class OrderKind(StrEnum):
    STATISTICS = "statistics"
    FIT = "fit"
    EVALUATE = "evaluate"


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Mean and standard deviation of each number column, in plan order, from sums over all sites."""

    mean: tuple[float, ...] = key(doc="means")
    std: tuple[float, ...] = key(doc="standard deviations, all above 0")

    def __post_init__(self) -> None:
        check_bounds(self)
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise PlanError("std", "as many positive values as there are means")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request of the server to a cohort; the same bytes for every member.

    `round` counts training rounds from 1 (0: before training). `attempt` counts tries at one round.
    `model_digest` is the SHA-256 of the model's bytes, empty when no model is sent.
    """

    run_id: str = key(doc="run")
    plan_digest: str = key(doc="digest of the plan")
    kind: OrderKind = key(doc="what is asked")
    round: int = key(doc="training round", ge=0)
    attempt: int = key(0, doc="try at this round", ge=0)
    split: Split = key(Split.TRAIN, doc="rows to evaluate on")
    model_digest: str = key("", doc="SHA-256 of the model's bytes")
    statistics: Statistics | None = key(None, doc="standardisation agreed on in round 0")
    clip_norm: float | None = key(None, doc="norm to clip the update to, where it adapts from round to round", gt=0)
    records_digest: str | None = key(None, doc="SHA-256 of what a Flower app is sent with the model")

    def __post_init__(self) -> None:
        check_bounds(self)

    def encode(self) -> bytes:
        """The wire form: canonical JSON."""
        return json.dumps({"v": 1, **encode(self)}, sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def decode(data: bytes) -> "Order":
        """The inverse of `encode`. Raises RemoteError for anything else."""
        if len(data) > MAX_ORDER_BYTES:
            raise RemoteError(f"order: expected at most {MAX_ORDER_BYTES} bytes, got {len(data)}")
        return _decoded(data) if len(data) <= _SMALL_BYTES else _decoded_large(data)


def _decode_new(data: bytes) -> Order:
    try:
        table = json.loads(data)
        if table.pop("v") != 1:
            raise RemoteError("order: expected version 1")
        return decode(Order, table)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PlanError) as error:
        raise RemoteError(f"order: expected a valid order ({error})") from None


# a whole cohort of a simulation has the same order; of large ones no more than the last is kept
_decoded = lru_cache(maxsize=16)(_decode_new)
_decoded_large = lru_cache(maxsize=1)(_decode_new)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """What a trainer is to do: train `site`'s rows from the order's model with this seed."""

    order: Order
    site: SiteId
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalJob:
    """What a trainer is to count: the order's model on the order's split of `site`'s rows."""

    order: Order
    site: SiteId


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """What local training made: the raw update (local − global, shape (d,)) and a tally of the training loss.

    The update may be a view into a buffer that is overwritten by the next block of jobs.
    """

    update: F32
    num_examples: int
    tally: Tally


@lru_cache(maxsize=1 << 14)  # executor and guard ask for the same ones
def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose, from the plan's seed and the purpose's name (SHA-256).

    For what needs reproducibility and no secrecy: shuffles, partitions, cohorts. Never for noise, masks or keys.
    """
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@lru_cache(maxsize=4)
def digest(data: bytes) -> str:
    """SHA-256 of `data`, hex; remembered for the few buffers that a whole cohort shares."""
    return hashlib.sha256(data).hexdigest()
