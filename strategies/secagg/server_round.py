"""The server's side of one committee's round: masked updates in, one list of survivors, openings, and a sum per group.

What is durable, under `secagg-server/<run>/<committee>/`: `round/<epoch>`, a counter; `start`, the signed descriptor;
`m1/<member>`; `list`, the survivors, before anybody is asked to sign. So after a crash the same round goes on with the
same list; what members signed and answered they send again. `end` erases all but the counter.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Self

import numpy as np

from wardround.errors import RemoteError
from wardround.signing_key import check_signature
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.masked_update import remove_masks
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    GroupOffer,
    GroupSum,
    Header,
    Masked,
    OfferedMember,
    Published,
    RoundStart,
    SurvivorList,
    SurvivorOffer,
    SurvivorSignature,
    SurvivorVote,
    UnmaskAnswer,
    UnmaskRequest,
    decode,
    digest_of,
    encode,
    survivors_of,
)
from wardround.strategies.secagg.phases import Outgoing, RefusedError, ServerRoundPhase, handler_for
from wardround.strategies.secagg.round_setting import Abort, GroupResult, RoundSetting
from wardround.strategies.secagg.sealing import TAG_BYTES
from wardround.strategies.secagg.signing_inputs import descriptor_input, reports_input, result_input, survivors_input
from wardround.strategies.secagg.survivor_check import check_header
from wardround.strategies.secagg.unmasking import check_answer, masks_to_remove, recover_seeds
from wardround.strategies.secagg.wire import Record, bytes_of

__all__ = ["ServerRound"]


class ServerRound:
    """The machine of the server in one committee's round; made by `begin`, or by `resume` after a crash.

    `results` is there when phase is DONE, `abort` when it is ABORTED, or DONE without some of the groups on the list.
    `bad_dealers`: proven, to be excluded from the next round.
    """

    def __init__(self, setting: RoundSetting, start: RoundStart) -> None:
        self._setting, self._start = setting, start
        self._h = digest_of(start.descriptor)
        self.phase = ServerRoundPhase.MASKS
        self.abort: Abort | None = None
        self.results: tuple[GroupResult, ...] = ()
        self.bad_dealers: frozenset[int] = frozenset()
        self._offered: dict[int, tuple[Header, bytes, tuple[bytes, ...]]] = {}
        self._sums: dict[int, tuple[U32, U64]] = {}
        self._lists: dict[int, tuple[int, ...]] = {}
        self._votes: dict[int, SurvivorSignature] = {}
        self._answers: dict[int, dict[int, bytes]] = {}
        self._listed = b""  # digest of the list that this committee signs

    @classmethod
    def begin(cls, setting: RoundSetting, descriptor: Descriptor) -> Self:
        """A new round; `outgoing` is its M0. Raises LocalError unless its number is above those of rounds before."""
        start = RoundStart(descriptor=descriptor, signature=setting.signing_key.sign(descriptor_input(descriptor)))
        at = _at(setting)
        setting.store.advance(f"{at}/round/{descriptor.epoch}", descriptor.round)
        setting.store.put(f"{at}/start", encode(start))
        return cls(setting, start)

    @classmethod
    def resume(cls, setting: RoundSetting) -> Self | None:
        """The last round as it is stored, with the same list where there is one; None where no round was begun."""
        stored = setting.store.get(f"{_at(setting)}/start")
        start = decode(stored) if stored else None
        if not isinstance(start, RoundStart) or start.descriptor.roster != setting.cohort.roster:
            return None
        machine = cls(setting, start)
        for member in setting.cohort.holders(setting.committee):
            data = setting.store.get(f"{_at(setting)}/m1/{member}")
            masked = decode(data) if data else None
            if isinstance(masked, Masked) and masked.header.h == machine._h:
                machine._add(masked)
        data = setting.store.get(f"{_at(setting)}/list")
        if data and data[:32] == machine._h:
            found = decode(data[32:])
            listed = {one.member for one in found.survivors} if isinstance(found, SurvivorList) else set()
            machine._settle(frozenset(listed))
        return machine

    def end(self) -> None:
        """Erase what is stored of the round, which is not resumed any more; `results` and `abort` stay as they are."""
        for key in ("start", "list", *(f"m1/{member}" for member in self._holders())):
            self._setting.store.put(f"{_at(self._setting)}/{key}", b"")

    def receive(self, sender: str, message: Record, now: datetime) -> list[Outgoing]:
        """Take a message of the member `sender`. Raises RemoteError, and changes nothing, for one not in order."""
        return handler_for(_TABLE, self.phase, message)(self, sender, message, now)

    def outgoing(self) -> list[Outgoing]:
        """What this phase has sent, for those who lost it."""
        if self.phase is ServerRoundPhase.MASKS:
            return self._to(self._holders(), self._start)
        if self.phase is ServerRoundPhase.SIGNATURES:
            return [Outgoing(self._name(member), self._offer_for(member)) for member in self._holders()]
        if self.phase is ServerRoundPhase.OPENINGS:
            return self._to(tuple(sorted(self._votes)), self._request())
        if self.phase is ServerRoundPhase.DONE and self._setting.published:
            return self._to(self._holders(), self._result())
        return []

    def close(self) -> list[Outgoing]:
        """The time of this phase is over: go on with those who came, or abort where they are too few."""
        if self.phase is ServerRoundPhase.MASKS:
            return self._list()
        if self.phase is ServerRoundPhase.SIGNATURES:
            return self._ask()
        if self.phase is ServerRoundPhase.OPENINGS:
            return self._finish()
        return []

    def _take(self, sender: str, masked: Masked, now: datetime) -> list[Outgoing]:
        setting, header = self._setting, masked.header
        check_header(setting.cohort, self._start.descriptor, header, masked.signature)
        name = setting.cohort.names[header.member]
        if name != sender or header.committee != setting.committee:
            raise RefusedError(Cause.SIGNATURE, sender, f"expected its own update, got one of {name}")
        if header.member in setting.excluded:
            raise RefusedError(Cause.BAD_DEALING, sender, "dealt badly before, and is left out of this round")
        if (len(masked.vector), len(masked.scalars)) != (4 * setting.size, 8 * setting.scalars):
            raise RefusedError(
                Cause.MALFORMED,
                sender,
                f"expected {setting.size} words and {setting.scalars} scalars, got {len(masked.vector)} and "
                f"{len(masked.scalars)} bytes",
            )
        try:
            masked.check_contents()
        except RemoteError as error:
            raise RefusedError(Cause.MALFORMED, sender, str(error)) from None
        if any(len(one) != 32 * len(header.commitments) + TAG_BYTES for one in masked.sealed):
            raise RefusedError(Cause.MALFORMED, sender, f"expected bundles of {len(header.commitments)} shares")
        if header.member in self._offered:
            if self._offered[header.member][0] != header:
                raise RefusedError(Cause.TWICE, sender, "expected one update in a round, got another")
            return []
        setting.store.put(f"{_at(setting)}/m1/{header.member}", encode(masked))
        self._add(masked)
        return []

    def _add(self, masked: Masked) -> None:
        header, group = masked.header, self._setting.cohort.group_of(masked.header.member)
        if group not in self._sums:
            self._sums[group] = (
                np.zeros(self._setting.size, dtype=np.uint32),
                np.zeros(self._setting.scalars, dtype=np.uint64),
            )
        vector, scalars = self._sums[group]
        vector += np.frombuffer(masked.vector, dtype="<u4")
        scalars += np.frombuffer(masked.scalars, dtype="<u8")
        self._offered[header.member] = header, masked.signature, masked.sealed

    def _list(self) -> list[Outgoing]:
        """Fix U: every group with enough updates, as a whole, and nobody of the others."""
        cohort, least = self._setting.cohort, self._setting.cohort.parameters.min_survivors
        listed, full = set[int](), 0
        for group in cohort.groups_in(self._setting.committee):
            came = [member for member in cohort.groups[group] if member in self._offered]
            if len(came) >= least:
                listed.update(came)
                full += 1
        if full < self._setting.least_groups:
            missing = [member for member in self._holders() if member not in self._offered]
            groups = self._setting.least_groups
            return self._stop(
                Cause.TOO_FEW_MEMBERS,
                missing,
                f"expected {least} updates each in {groups} group{'s'[: groups > 1]}, got so many in {full}",
            )
        survivors = survivors_of(self._offered[member][0] for member in listed)
        self._setting.store.put(f"{_at(self._setting)}/list", self._h + encode(survivors))
        self._settle(frozenset(listed))
        return self.outgoing()

    def _settle(self, listed: frozenset[int]) -> None:
        cohort = self._setting.cohort
        self._lists = {
            group: tuple(member for member in cohort.groups[group] if member in listed)
            for group in cohort.groups_in(self._setting.committee)
        }
        members = [member for members in self._lists.values() for member in members]
        self._listed = digest_of(survivors_of(self._offered[member][0] for member in members))
        self.phase = ServerRoundPhase.SIGNATURES

    def _vote(self, sender: str, message: SurvivorSignature, now: datetime) -> list[Outgoing]:
        self._check_sender(sender, message)
        descriptor, committee = self._start.descriptor, self._setting.committee
        key = self._setting.cohort.keys[message.member]
        try:
            check_signature(key, message.signature, survivors_input(descriptor, committee, message.survivors), sender)
            if message.reports_signature is not None:
                signed = reports_input(descriptor, committee, message.reports)
                check_signature(key, message.reports_signature, signed, sender)
        except RemoteError as error:
            raise RefusedError(Cause.SIGNATURE, sender, str(error)) from None
        if message.member in self._votes and self._votes[message.member] != message:
            raise RefusedError(Cause.TWICE, sender, "expected one signature in a round, got another")
        self._votes[message.member] = message
        reports = [report.dealer for vote in self._votes.values() for report in vote.reports]
        needed = self._setting.cohort.reports_needed(committee)
        self.bad_dealers = frozenset(
            dealer for dealer in reports if dealer in self._offered and reports.count(dealer) >= needed
        )
        return self._ask() if len(self._votes) == len(self._holders()) else []

    def _ask(self) -> list[Outgoing]:
        if len(self._votes) < self._threshold:
            return self._stop(
                Cause.TOO_FEW_SIGNATURES,
                [member for member in self._holders() if member not in self._votes],
                f"expected {self._threshold} signatures of the list, got {len(self._votes)}",
            )
        held = {
            dealer: len(self._votes) - sum(dealer in _reported(vote) for vote in self._votes.values())
            for members in self._lists.values()
            for dealer in members
        }
        if hopeless := [dealer for dealer, shares in held.items() if shares < self._threshold]:
            if len(self._groups_without(hopeless)) < self._setting.least_groups:
                return self._give_up(hopeless)  # before anybody answers: the same model serves once more
        self.phase = ServerRoundPhase.OPENINGS
        return self.outgoing()

    def _open(self, sender: str, answer: UnmaskAnswer, now: datetime) -> list[Outgoing]:
        self._check_sender(sender, answer)
        if answer.member not in self._votes:
            raise RefusedError(Cause.OTHER_LIST, sender, "expected an answer of those who signed the list")
        reported = _reported(self._votes[answer.member])
        shares = check_answer(self._setting.cohort, self._headers(), self._lists, reported, answer)
        self._answers[answer.member] = shares
        return self._finish() if len(self._answers) == len(self._votes) or not self._scarce() else []

    def _finish(self) -> list[Outgoing]:
        """The sums of the groups whose seeds are there; a group with a dealer whose are not has none."""
        scarce, shares = self._scarce(), self._shares()
        whole = self._groups_without(scarce)
        seeds, bad = recover_seeds(self._setting.cohort, self._headers(), whole, shares)
        self.bad_dealers |= frozenset(bad)
        results = []
        for group, members in whole.items():
            if not set(bad).intersection(members):
                vector, scalars = self._sums[group]
                remove_masks(vector, scalars, masks_to_remove(seeds, members))
                results.append(GroupResult(group=group, members=members, vector=vector, scalars=scalars))
        if bad:
            self._stop(Cause.BAD_DEALING, list(bad), "expected shares of the seeds that they are committed to")
        elif scarce:
            self._give_up(scarce)
        if results:
            self.results, self.phase = tuple(results), ServerRoundPhase.DONE
        return self.outgoing()

    def _give_up(self, scarce: list[int]) -> list[Outgoing]:
        """Name who is silent; else the dealers that are proven bad; else both sides of reports that prove nothing."""
        reason = f"expected shares of {self._threshold} members for each survivor"
        silent = [member for member in self._votes if member not in self._answers]
        if silent and self.phase is ServerRoundPhase.OPENINGS:
            return self._stop(Cause.TOO_FEW_SIGNATURES, silent, f"{reason}, got fewer for {len(scarce)}")
        if proven := [dealer for dealer in scarce if dealer in self.bad_dealers]:
            return self._stop(Cause.BAD_DEALING, proven, f"{reason}, got reports of bad ones")
        reporting = [m for m, vote in self._votes.items() if _reported(vote).intersection(scarce)]
        names = ", ".join(map(self._name, reporting))
        return self._stop(
            Cause.TOO_FEW_SIGNATURES, [*reporting, *scarce], f"{reason}, got reports of {names} that prove nothing"
        )

    def _groups_without(self, dealers: list[int]) -> dict[int, tuple[int, ...]]:
        """The groups on the list, with their survivors, that need no seeds of these."""
        return {g: members for g, members in self._lists.items() if members and not set(dealers).intersection(members)}

    def _headers(self) -> dict[int, Header]:
        return {member: header for member, (header, _, _) in self._offered.items()}

    def _shares(self) -> dict[int, dict[int, bytes]]:
        """By dealer among the survivors and member of the committee: what was opened."""
        return {
            dealer: {member: shares[dealer] for member, shares in self._answers.items() if dealer in shares}
            for members in self._lists.values()
            for dealer in members
        }

    def _come_late(self, sender: str, answer: UnmaskAnswer, now: datetime) -> list[Outgoing]:
        self._check_sender(sender, answer)
        return []

    def _scarce(self) -> list[int]:
        """Survivors whose seeds cannot be put together yet."""
        return [dealer for dealer, shares in self._shares().items() if len(shares) < self._threshold]

    def _check_sender(self, sender: str, message: SurvivorSignature | UnmaskAnswer) -> None:
        cohort = self._setting.cohort
        if message.member not in self._holders() or cohort.names[message.member] != sender:
            raise RefusedError(Cause.SIGNATURE, sender, f"expected its own message, got one of {message.member}")
        if (message.h, message.committee) != (self._h, self._setting.committee):
            raise RefusedError(Cause.STALE, sender, "expected a message of this round and committee, got another")
        if message.survivors != self._listed:
            raise RefusedError(Cause.OTHER_LIST, sender, "expected the list of this round, got another")

    def _offer_for(self, receiver: int) -> SurvivorOffer:
        holders = self._holders()

        def offered(member: int) -> OfferedMember:
            header, signature, sealed = self._offered[member]
            at = holders.index(receiver) - (receiver > member)  # bundles leave out the dealer
            return OfferedMember(header=header, signature=signature, sealed=b"" if member == receiver else sealed[at])

        groups = tuple(
            GroupOffer(group=group, members=tuple(offered(member) for member in members))
            for group, members in self._lists.items()
        )
        return SurvivorOffer(h=self._h, committee=self._setting.committee, receiver=receiver, groups=groups)

    def _request(self) -> UnmaskRequest:
        votes = tuple(
            SurvivorVote(member=member, signature=self._votes[member].signature) for member in sorted(self._votes)
        )
        return UnmaskRequest(h=self._h, committee=self._setting.committee, survivors=self._listed, votes=votes)

    def _result(self) -> Published:
        sums = tuple(
            GroupSum(group=one.group, members=one.members, sum=hashlib.sha256(bytes_of(one.vector)).digest())
            for one in self.results
        )
        signed = result_input(self._start.descriptor, self._setting.committee, sums)
        return Published(
            h=self._h,
            committee=self._setting.committee,
            groups=sums,
            signature=self._setting.signing_key.sign(signed),
        )

    def _stop(self, cause: Cause, members: list[int], reason: str) -> list[Outgoing]:
        self.abort = Abort(cause=cause, parties=tuple(self._name(member) for member in members), reason=reason)
        self.phase = ServerRoundPhase.ABORTED
        return []

    @property
    def _threshold(self) -> int:
        return self._setting.cohort.threshold(self._setting.committee)

    def _holders(self) -> tuple[int, ...]:
        return self._setting.cohort.holders(self._setting.committee)

    def _name(self, member: int) -> str:
        return self._setting.cohort.names[member]

    def _to(self, members: tuple[int, ...], message: Record) -> list[Outgoing]:
        return [Outgoing(self._name(member), message) for member in members]


def _reported(vote: SurvivorSignature) -> set[int]:
    return {report.dealer for report in vote.reports}


def _at(setting: RoundSetting) -> str:
    return f"secagg-server/{setting.cohort.run}/{setting.committee}"


_Handler = Callable[[ServerRound, str, Any, datetime], list[Outgoing]]
_TABLE: Mapping[tuple[ServerRoundPhase, type[Record]], _Handler] = {
    (ServerRoundPhase.MASKS, Masked): ServerRound._take,
    (ServerRoundPhase.SIGNATURES, SurvivorSignature): ServerRound._vote,
    (ServerRoundPhase.OPENINGS, UnmaskAnswer): ServerRound._open,
    **{(phase, UnmaskAnswer): ServerRound._come_late for phase in (ServerRoundPhase.DONE, ServerRoundPhase.ABORTED)},
}
