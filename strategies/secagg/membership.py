"""What a member brings into a run: its keys and its certificate, whom it trusts, what it demands, and its state."""

from collections.abc import Callable
from dataclasses import dataclass, field

from wardround.identity import Authority, Revocations
from wardround.pins import AcceptedKeys
from wardround.signing_key import SigningKey
from wardround.strategies.secagg.messages import GroupTable
from wardround.strategies.secagg.parameters import Parameters, Tables
from wardround.strategies.secagg.sealed_state import SealedState

__all__ = ["Membership"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Of one site in one run.

    `plan` is the digest of the approved plan, `server` the public key that signs descriptors, `accepted` the pins.
    `group_table` is there where the plan fixes it. `min_roster` and `min_survivors` are the site's own policy, which
    only adds to the plan's; `min_difference` too: survivors of a group that differ from those of the round before in
    fewer members, and are not the same, are noted, or refused with `refuse_near_lists`. `noised`: training has
    differential privacy, so that repeated sums of it are bounded by what is charged. `random(n)` gives n bytes of the
    operating system.
    """

    run: str
    plan: bytes
    parameters: Parameters
    name: str
    signing_key: SigningKey
    certificate: bytes
    authority: Authority
    revocations: Revocations
    accepted: AcceptedKeys
    server: bytes
    state: SealedState
    random: Callable[[int], bytes] = field(repr=False)
    group_table: GroupTable | None = None
    min_roster: int = 0
    min_survivors: int = 0
    min_difference: int = 0
    refuse_near_lists: bool = False
    noised: bool = False

    def __post_init__(self) -> None:
        if self.parameters.tables is Tables.EACH_ROUND and not self.noised:
            raise ValueError(
                "parameters.tables: expected groups by the plan or drawn once, got a draw for each round without "
                "differential privacy: sums of ever other groups over nearly equal models tell single updates"
            )
        fixed = self.parameters.groups > 1 and not self.parameters.drawn
        if fixed != (self.group_table is not None):
            raise ValueError(f"group_table: expected {'the table of the plan' if fixed else 'none before it is drawn'}")
        if self.group_table is not None and (
            self.group_table.run != self.run or len(self.group_table.groups) != self.parameters.groups
        ):
            raise ValueError(f"group_table: expected {self.parameters.groups} groups of run {self.run}")
