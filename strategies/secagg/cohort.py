"""The cohort of an epoch: who is in it under which signing key, in which group, and whose committee is whose.

Members are indices of the roster. Up to 255 of them are one committee, number 0; of more, each group is a committee of
its own, with the group's number.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from wardround.strategies.secagg.key_agreement import encode_index
from wardround.strategies.secagg.messages import Group, GroupTable, Roster, digest_of
from wardround.strategies.secagg.parameters import MAX_COMMITTEE, Parameters

__all__ = ["Cohort", "cohort_of", "digest_of_parameters", "draw_groups", "sign_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Of one epoch: `names`, `keys` (signing keys) and `numbers` (of their group) by member, `groups` by number.

    A group is empty where all have left it. `sizes` are those of the groups when their table was made, by which
    colluders are reckoned.
    """

    run: str
    epoch: int
    roster: bytes
    group_table: bytes | None
    parameters: Parameters
    names: tuple[str, ...]
    keys: tuple[bytes, ...]
    groups: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Members of the roster."""
        return len(self.names)

    @property
    def committees(self) -> tuple[int, ...]:
        """Their numbers."""
        if self.size <= MAX_COMMITTEE:
            return (0,)
        return tuple(number for number, group in enumerate(self.groups) if group)

    def group_of(self, member: int) -> int:
        """The number of its group."""
        return self.numbers[member]

    def committee_of(self, member: int) -> int:
        """The number of its committee."""
        return 0 if self.size <= MAX_COMMITTEE else self.group_of(member)

    def holders(self, committee: int) -> tuple[int, ...]:
        """The committee's members, ascending: holder l of a share is the l-th of them."""
        return tuple(range(self.size)) if self.size <= MAX_COMMITTEE else self.groups[committee]

    def groups_in(self, committee: int) -> tuple[int, ...]:
        """The numbers of the groups, not empty, that the committee decides on."""
        if self.size > MAX_COMMITTEE:
            return (committee,)
        return tuple(number for number, group in enumerate(self.groups) if group)

    def peers(self, member: int) -> tuple[int, ...]:
        """The other members of its group, ascending: the order of its pair seeds."""
        group = self.groups[self.group_of(member)]
        at = group.index(member)
        return group[:at] + group[at + 1 :]

    def colluders(self, group: int) -> int:
        """Colluders possible in the group."""
        return self.parameters.colluders_in(self.sizes[group], sum(self.sizes))

    def reports_needed(self, committee: int) -> int:
        """Reports that prove a dealer bad: one more than there may be colluders."""
        if self.size <= MAX_COMMITTEE:
            return self.parameters.colluding + 1
        return self.colluders(committee) + 1

    def threshold(self, committee: int) -> int:
        """Signatures, and shares, that are needed."""
        holders = self.holders(committee)
        colluders = 0 if self.size <= MAX_COMMITTEE else self.colluders(committee)
        return self.parameters.committee_of(self.size, len(holders), colluders).threshold


def cohort_of(roster: Roster, keys: Iterable[bytes], table: GroupTable | None, parameters: Parameters) -> Cohort:
    """The cohort of a checked roster, whose members sign with `keys`; without a table it is one group.

    Raises ValueError for a member who is in no group: a newcomer waits for the next run, since whom it is grouped with
    was settled before it came; and where a committee may be all colluders.
    """
    names = tuple(hello.entry.name for hello in roster.hellos)
    index = {name: member for member, name in enumerate(names)}
    groups: tuple[tuple[int, ...], ...] = (tuple(range(len(names))),)
    sizes: tuple[int, ...] = (len(names),)
    if table is not None:
        grouped = {name for group in table.groups for name in group.names}
        if newcomers := [name for name in names if name not in grouped]:
            raise ValueError(f"expected members of the group table, got {newcomers[0]}; it waits for the next run")
        groups = tuple(tuple(sorted(index[one] for one in group.names if one in index)) for group in table.groups)
        sizes = tuple(len(group.names) for group in table.groups)
    numbers = {member: number for number, group in enumerate(groups) for member in group}
    cohort = Cohort(
        run=roster.run,
        epoch=roster.epoch,
        roster=digest_of(roster),
        group_table=None if table is None else digest_of(table),
        parameters=parameters,
        names=names,
        keys=tuple(keys),
        groups=groups,
        numbers=tuple(numbers[member] for member in range(len(names))),
        sizes=sizes,
    )
    for committee in cohort.committees:
        cohort.threshold(committee)
    return cohort


def draw_groups(roster: Roster, beacon: bytes, groups: int) -> GroupTable:
    """The table that a beacon deals: members in the order of SHA-256(beacon ‖ index), dealt out one by one.

    So sizes differ by one at most, and as long as one honest member's nonce was not known when the roster was fixed,
    the groups are a uniform choice (SHA-256 as a random oracle).
    """
    names = [hello.entry.name for hello in roster.hellos]
    order = sorted(range(len(names)), key=lambda member: hashlib.sha256(beacon + encode_index(member)).digest())
    dealt = [sorted((names[member] for member in order[g::groups]), key=str.encode) for g in range(groups)]
    return GroupTable(run=roster.run, groups=tuple(Group(names=tuple(group)) for group in dealt))


def sign_of(member: int, peer: int) -> int:
    """The sign with which `member` adds the mask that it shares with `peer`: the lower index adds."""
    return 1 if peer > member else -1


def digest_of_parameters(parameters: Parameters) -> bytes:
    """SHA-256 of `wardround secagg parameters 1`, a zero byte, and the fields as JSON with sorted keys, no blanks."""
    text = json.dumps(asdict(parameters), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(b"wardround secagg parameters 1\0" + text.encode()).digest()
