"""A mod for Flower apps: an update is clipped where it was made, before anything leaves the node."""

import math
from dataclasses import dataclass
from typing import Self

from flwr.app import ArrayRecord, Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable, Mod

from wardround import _flower
from wardround.errors import LocalError
from wardround.strategies.flower_replies import GlobalModel
from wardround.strategies.privacy.flower_clip_norm import CLIP_NORM, MARGIN, told_clip_norm
from wardround.strategies.privacy.unit_clip import clip_update

__all__ = ["clip_mod"]


def clip_mod(clip_norm: float) -> Mod:
    """A mod that scales an update down to L2 norm `clip_norm`, before the server sees it.

    `ClientApp(mods=[clip_mod(1.0), ...])`: as the first it is the last to see a reply, whatever other mods do to it.
    The update is what the reply adds to the floating-point arrays of the message, all of them one vector. Other arrays
    (counters, masks) go back as they came.

    The server gets an error in place of the reply, and the reason: for arrays that are not those of the message, for
    values that are not finite (a NaN passes a comparison of norms), and for arrays in a reply to anything but training,
    which no clip would bound. Where the server's norm adapts from round to round, the message says it; the update is
    clipped to it, and a node takes no part in a round whose norm is above its own.
    """
    if not (clip_norm > 0 and math.isfinite(clip_norm)):
        raise ValueError(f"expected a clip_norm above 0, got {clip_norm}")

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            sent = _Sent.of(message, clip_norm)  # before the app can change it
        except (ValueError, LocalError) as error:
            return _refusal(message, error)
        reply = call_next(message, context)
        if not reply.has_content():
            return reply
        try:
            sent.clip(reply)
        except ValueError as error:
            return _refusal(message, error)
        return reply

    return mod


@dataclass(frozen=True, slots=True, eq=False)
class _Sent:
    """What came with a message: the model, None unless it is to be trained, and how long an update may be."""

    model: GlobalModel | None
    clip_norm: float

    @classmethod
    def of(cls, message: Message, own: float) -> Self:
        """Raises ValueError or LocalError for a message that no clipped reply can be made to."""
        if message.metadata.message_type.partition(".")[0] != MessageType.TRAIN:
            return cls(None, own)
        told = told_clip_norm(message.content)
        if told is not None and told > own:
            raise ValueError(f"expected a {CLIP_NORM} of at most {own:g}, which is this node's, got {told:g}")
        _, arrays = _only_record(message)
        return cls(GlobalModel.of(arrays), own if told is None else min(own, told * MARGIN))

    def clip(self, reply: Message) -> None:
        """Put the clipped arrays into the reply. Raises ValueError, and changes nothing, where that cannot be done."""
        if self.model is None:
            if reply.content.array_records:
                kind = reply.metadata.message_type
                raise ValueError(f"expected no arrays in a reply to {kind!r}, since only updates are clipped")
            return
        name, arrays = _only_record(reply)
        clipped = self.model.plus(clip_update(self.model.update(arrays), self.clip_norm))
        if clipped is None:  # never: it lies between two finite models
            raise ValueError("expected a finite model, got none after clipping")
        reply.content[name] = clipped


def _only_record(message: Message) -> tuple[str, ArrayRecord]:
    records = list(message.content.array_records.items())
    if len(records) != 1:
        raise ValueError(f"expected one ArrayRecord, got {len(records)}")
    return records[0]


def _refusal(message: Message, error: Exception) -> Message:
    return _flower.error_reply(message, LocalError(f"clip_mod: {error}"))
