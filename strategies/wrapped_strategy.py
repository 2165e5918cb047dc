"""What strategies that wrap another Flower strategy share: which ones they refuse inside, and what they hand to it."""

from collections.abc import Sequence

from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
    MultiKrum,
    Strategy,
)

from wardround.strategies.robust_strategy import RobustStrategy

__all__ = ["PRIVATE", "ROBUST", "TREES", "Kinds", "as_reply", "check_wrapped"]

Kinds = tuple[type[Strategy], ...]

ROBUST: Kinds = (RobustStrategy, Krum, MultiKrum, Bulyan, FedMedian, FedTrimmedAvg)
"""They pick or weigh replies by what is in them."""
TREES: Kinds = (FedXgbBagging, FedXgbCyclic)
PRIVATE: Kinds = (
    DifferentialPrivacyServerSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyClientSideAdaptiveClipping,
)
"""They clip and add noise themselves."""


def check_wrapped(strategy: Strategy, own: type[Strategy], without: str, refused: Sequence[tuple[Kinds, str]]) -> None:
    """Raise ValueError unless `strategy` is one, not an `own` again (it should be `without` that), nor `refused`."""
    if not isinstance(strategy, Strategy):
        raise ValueError(f"expected a Flower strategy to wrap, got {type(strategy).__name__}")
    if isinstance(strategy, own):
        raise ValueError(f"expected a strategy without {without} to wrap, got a {own.__name__}")
    for kinds, reason in refused:
        if isinstance(strategy, kinds):
            raise ValueError(f"expected another strategy than {type(strategy).__name__} to wrap: {reason}")


def as_reply(strategy: Strategy, arrays: ArrayRecord, weight: int = 1) -> Message:
    """`arrays` as the reply of one client with so many examples, under the names that `strategy` reads."""
    weighted_by = getattr(strategy, "weighted_by_key", "num-examples")
    key = getattr(strategy, "arrayrecord_key", "arrays")
    content = RecordDict({key: arrays, "metrics": MetricRecord({weighted_by: weight})})
    return Message(content, reply_to=Message(RecordDict(), 1, MessageType.TRAIN))
