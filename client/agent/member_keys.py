"""The other members' keys, as offers name them and as they were accepted here: what is new, and what has changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from wardround.client.agent.plan_store import StoredOffer
from wardround.pins import PinChange

__all__ = ["KeyState", "MemberKey", "member_keys"]


class KeyState(StrEnum):
    ACCEPTED = "accepted"
    NEW = "new"
    """No key of this member was accepted."""
    CHANGED = "changed"
    """Another key of this member is accepted: an attack, or a hospital that lost its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberKey:
    """`fingerprint` is the key that an offer names, or the accepted one of a member whom none does.

    `since` is when an offer named it first; `accepted`, `accepted_at` and `by` are of the key that was accepted.
    """

    name: str
    fingerprint: str
    state: KeyState
    since: str = ""
    accepted: str = ""
    accepted_at: str = ""
    by: str = ""

    def words(self) -> str:
        """What a person has to know of it, in one line."""
        if self.state is KeyState.NEW:
            return "NEW, not accepted"
        if self.state is KeyState.CHANGED:
            return (
                f"KEY CHANGED since {self.since[:10]}: another is accepted, by {self.by} on {self.accepted_at[:10]}; "
                "take it for an attack until that hospital confirms it"
            )
        return f"accepted by {self.by} on {self.accepted_at[:10]}" if self.by else "accepted"


def member_keys(
    offers: Sequence[StoredOffer], own: str, pinned: Mapping[str, str], log: Sequence[PinChange]
) -> list[MemberKey]:
    """Every key of another member than `own` that one of `offers` names or that was accepted, by name."""
    since: dict[tuple[str, str], str] = {}
    for offer in sorted(offers, key=lambda one: one.received):
        for one in offer.sites:
            if one.name != own:
                since.setdefault((one.name, one.fingerprint), offer.received)
    last = {one.name: one for one in log if one.new is not None}
    named = {name for name, _ in since}
    found = []
    for name, fingerprint in sorted(since.keys() | {one for one in pinned.items() if one[0] not in named}):
        pin = pinned.get(name)
        state = KeyState.NEW if pin is None else KeyState.ACCEPTED if pin == fingerprint else KeyState.CHANGED
        change = None if pin is None else last.get(name)
        found.append(
            MemberKey(
                name=name,
                fingerprint=fingerprint,
                state=state,
                since=since.get((name, fingerprint), ""),
                accepted=pin or "",
                accepted_at="" if change is None else change.time,
                by="" if change is None else change.by,
            )
        )
    return found
