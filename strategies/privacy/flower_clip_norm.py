"""How a Flower server tells its clients the clip norm of a round, where it adapts."""

import math

from flwr.app import ConfigRecord, RecordDict

__all__ = ["CLIP_NORM", "MARGIN", "tell_clip_norm", "told_clip_norm"]

CLIP_NORM = "clip-norm"
"""The key in the ConfigRecord of a training message."""

MARGIN = 1.0 + 2.0**-10
"""Clients clip to so many clip norms, so that the server, which clips once more, still counts whom it clips."""


def tell_clip_norm(config: ConfigRecord, clip_norm: float) -> None:
    """Put the norm of this round into the configuration that goes to all nodes."""
    config[CLIP_NORM] = clip_norm


def told_clip_norm(content: RecordDict) -> float | None:
    """The norm in a training message, or None. Raises ValueError for one that is not above 0 and finite."""
    for config in content.config_records.values():
        if CLIP_NORM in config:
            told = config[CLIP_NORM]
            if not isinstance(told, float) or not (told > 0 and math.isfinite(told)):
                raise ValueError(f"expected a {CLIP_NORM} above 0, got {str(told)[:40]}")
            return told
    return None
