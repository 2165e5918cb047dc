"""The server's side of a round of homomorphic aggregation: ciphertexts in, one list, and a sum that members open.

The server has no key. It adds each update's ciphertexts to one running sum as it comes and keeps none of them; that it
passes the sum of the listed updates on, and nothing else, members prove by tags (`tags`). A sum counts where two
members open it alike: one tells it, the other whether it got the same; where they differ, a third decides. Nothing is
kept for a restart: a round that was broken off is another try.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Self

import numpy as np

from wardround.errors import RemoteError
from wardround.signing_key import check_signature
from wardround.strategies.he.client_round import check_update
from wardround.strategies.he.messages import (
    Encrypted,
    EncryptedOffer,
    OfferedUpdate,
    Opened,
    OpenRequest,
    Wanted,
    chunks_digest,
    chunks_in,
    sum_digest,
)
from wardround.strategies.he.packing import Packing
from wardround.strategies.he.scheme import KeylessSum, PublicContext, SpoiledSumError
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    RoundStart,
    SurvivorSignature,
    SurvivorVote,
    UnmaskRequest,
    digest_of,
    survivors_of,
)
from wardround.strategies.secagg.phases import Outgoing, RefusedError, ServerRoundPhase, handler_for
from wardround.strategies.secagg.round_setting import Abort, GroupResult, RoundSetting
from wardround.strategies.secagg.signing_inputs import descriptor_input, opened_input, survivors_input
from wardround.strategies.secagg.wire import Record

__all__ = ["EncryptedServerRound"]


_MOST_OFFERS = 2
"""Times that a list is shown to those who have not signed it."""


class EncryptedServerRound:
    """The machine of the server in one round; the same phases as `ServerRound`, MASKS for the encrypted updates.

    `results` is there when phase is DONE, `abort` when it is ABORTED. `bad_dealers` is empty: nobody deals. Members who
    `refused` the epoch's key are asked nothing, and nothing of theirs is taken: under another key an update would spoil
    the sum, and a sum would look forged.
    """

    def __init__(
        self,
        setting: RoundSetting,
        start: RoundStart,
        packing: Packing,
        context: PublicContext,
        refused: frozenset[str] = frozenset(),
    ) -> None:
        self._setting, self._start, self._packing, self._refused = setting, start, packing, refused
        self._h = digest_of(start.descriptor)
        self._sum = KeylessSum(context, packing.chunks)
        self.phase = ServerRoundPhase.MASKS
        self.abort: Abort | None = None
        self.results: tuple[GroupResult, ...] = ()
        self.bad_dealers: frozenset[int] = frozenset()
        self._offered: dict[int, OfferedUpdate] = {}
        self._votes: dict[int, SurvivorSignature] = {}
        self._offers = 1
        self._survivors = b""
        self._total: tuple[tuple[int, ...], bytes] = (), b""
        self._openers: list[int] = []
        self._asking: dict[int, Wanted] = {}
        self._tellers, self._asked_again = set[int](), set[int]()
        self._opened: dict[int, Opened] = {}

    @classmethod
    def begin(
        cls,
        setting: RoundSetting,
        descriptor: Descriptor,
        packing: Packing,
        context: PublicContext,
        refused: frozenset[str] = frozenset(),
    ) -> Self:
        """A new round; `outgoing` is its M0. Raises LocalError unless its number is above those of rounds before."""
        start = RoundStart(descriptor=descriptor, signature=setting.signing_key.sign(descriptor_input(descriptor)))
        setting.store.advance(f"secagg-server/{descriptor.run}/0/round/{descriptor.epoch}", descriptor.round)
        return cls(setting, start, packing, context, refused)

    def end(self) -> None:
        """Let go of the sum."""
        self._total = (), b""

    def receive(self, sender: str, message: Record, now: datetime) -> list[Outgoing]:
        """Take a message of the member `sender`. Raises RemoteError, and changes nothing, for one not in order."""
        handler = handler_for(_TABLE, self.phase, message)
        if sender in self._refused:
            raise RefusedError(Cause.FORM, sender, "expected a member with the epoch's key, which it has refused")
        return handler(self, sender, message, now)

    def outgoing(self) -> list[Outgoing]:
        """What this phase sends."""
        everybody = self._holders()
        if self.phase is ServerRoundPhase.MASKS:
            return self._to(everybody, self._start)
        if self.phase is ServerRoundPhase.SIGNATURES:
            listed = tuple(self._offered[member] for member in sorted(self._offered))
            silent = [member for member in everybody if member not in self._votes]
            return self._to(silent, EncryptedOffer(h=self._h, members=listed))
        if self.phase is ServerRoundPhase.OPENINGS:
            return [
                Outgoing(self._setting.cohort.names[member], self._request(wanted))
                for member, wanted in self._asking.items()
            ]
        return []

    def close(self) -> list[Outgoing]:
        """The time of this phase is over: go on with those who came, or abort where they are too few."""
        if self.phase is ServerRoundPhase.MASKS:
            return self._list()
        if self.phase is ServerRoundPhase.SIGNATURES:
            return self._ask()
        if self.phase is ServerRoundPhase.OPENINGS:
            return self._next_openers()
        return []

    def _take(self, sender: str, message: Encrypted, now: datetime) -> list[Outgoing]:
        setting, header = self._setting, message.header
        name = check_update(setting.cohort, self._start.descriptor, header, message.signature)
        if name != sender:
            raise RefusedError(Cause.SIGNATURE, sender, f"expected its own update, got one of {name}")
        if (header.size, header.scalars, len(message.sizes)) != (
            self._packing.size,
            self._packing.scalars,
            self._packing.chunks,
        ):
            raise RefusedError(
                Cause.MALFORMED,
                sender,
                f"expected {self._packing.size} words and {self._packing.scalars} scalars in {self._packing.chunks} "
                f"ciphertexts, got {header.size}, {header.scalars} and {len(message.sizes)}",
            )
        if chunks_digest(message.sizes, message.chunks) != header.chunks:
            raise RefusedError(Cause.MALFORMED, sender, "expected the ciphertexts whose digest its header has")
        if header.member in self._offered:
            if self._offered[header.member].header != header:
                raise RefusedError(Cause.TWICE, sender, "expected one update in a round, got another")
            return []
        try:
            self._sum.add(chunks_in(message.sizes, message.chunks))
        except SpoiledSumError as error:
            return self._stop(Cause.MALFORMED, [header.member], str(error))
        except RemoteError as error:
            raise RefusedError(Cause.MALFORMED, sender, str(error)) from None
        self._offered[header.member] = OfferedUpdate(header=header, signature=message.signature)
        return []

    def _list(self) -> list[Outgoing]:
        cohort, least = self._setting.cohort, self._setting.cohort.parameters.min_survivors
        if len(self._offered) < least:
            return self._stop(
                Cause.TOO_FEW_MEMBERS,
                [member for member in range(cohort.size) if member not in self._offered],
                f"expected {least} updates, got {len(self._offered)}",
            )
        self._survivors = digest_of(survivors_of(one.header for one in self._offered.values()))
        self.phase = ServerRoundPhase.SIGNATURES
        return self.outgoing()

    def _vote(self, sender: str, message: SurvivorSignature, now: datetime) -> list[Outgoing]:
        member = self._check_sender(sender, message.h, message.member, message.survivors)
        signed = survivors_input(self._start.descriptor, 0, message.survivors)
        self._check_signature(member, message.signature, signed)
        self._votes[member] = message
        return self._ask() if len(self._votes) == len(self._holders()) else []

    def _ask(self) -> list[Outgoing]:
        needed = self._setting.cohort.threshold(0)
        if len(self._votes) < needed and self._offers < _MOST_OFFERS:
            self._offers += 1  # who has signed lets no other list be opened over this model
            return self.outgoing()
        if len(self._votes) < needed:
            return self._stop(
                Cause.TOO_FEW_SIGNATURES,
                [member for member in range(self._setting.cohort.size) if member not in self._votes],
                f"expected {needed} signatures of the list, got {len(self._votes)}",
            )
        sums = list(self._sum.serialized())
        self._total = tuple(map(len, sums)), b"".join(sums)
        voters, descriptor = sorted(self._votes), self._start.descriptor
        first = (descriptor.epoch + descriptor.round) % len(voters)  # not the same two in each epoch's first rounds
        teller, witness, *self._openers = voters[first:] + voters[:first]
        self._asking = {teller: Wanted.WORDS, witness: Wanted.DIGEST}
        self.phase = ServerRoundPhase.OPENINGS
        return self.outgoing()

    def _request(self, wanted: Wanted) -> OpenRequest:
        votes = tuple(
            SurvivorVote(member=member, signature=self._votes[member].signature) for member in sorted(self._votes)
        )
        request = UnmaskRequest(h=self._h, committee=0, survivors=self._survivors, votes=votes)
        return OpenRequest(request=request, wanted=wanted, sizes=self._total[0], chunks=self._total[1])

    def _open(self, sender: str, message: Opened, now: datetime) -> list[Outgoing]:
        member = self._check_sender(sender, message.h, message.member, message.survivors)
        signed = opened_input(self._start.descriptor, message.survivors, message.sum)
        self._check_signature(member, message.signature, signed)
        if message.words or message.scalars:
            sizes = len(message.words), len(message.scalars)
            if sum_digest(message.words, message.scalars) != message.sum or sizes != (
                4 * self._packing.size,
                8 * self._packing.scalars,
            ):
                raise RefusedError(Cause.MALFORMED, sender, "expected the sum whose digest it has signed")
            self._tellers.add(member)
        self._opened[member] = message
        self._asking.pop(member, None)
        return self._finish()

    def _next_openers(self) -> list[Outgoing]:
        """Ask others in the place of those who did not answer, or who did not say the same."""
        self._asking = {}
        agreed = self._agreed
        if untold := [member for member in agreed if member not in self._asked_again]:
            self._asked_again.add(untold[0])  # it has only said what the digest is
            self._asking = {untold[0]: Wanted.WORDS}
        elif self._openers:
            self._asking = {self._openers.pop(0): Wanted.WORDS}
        if self._asking:
            return self.outgoing()
        # who says a sum alone may be the one who has spoiled it, so that the others refused: nobody is named without it
        parties = [member for member in self._votes if agreed and member not in self._opened] or sorted(self._votes)
        if len(self._opened) > 1 and not agreed:
            parties = list(self._opened)
        return self._stop(Cause.FORGED_SUM, parties, "expected two members to open the same sum, got none that did")

    @property
    def _agreed(self) -> list[int]:
        """Two members or more who say the same of the sum; nobody where all say something else."""
        sums = [one.sum for one in self._opened.values()]
        most = max(sums, key=sums.count, default=b"")
        return [] if sums.count(most) < 2 else [member for member, one in self._opened.items() if one.sum == most]

    def _finish(self) -> list[Outgoing]:
        """Done where two agree and one of them has told the sum; who says something else is named."""
        agreed = self._agreed
        told = next((self._opened[member] for member in agreed if member in self._tellers), None)
        if told is None:
            return []
        if liars := [member for member in self._opened if member not in agreed]:
            names = tuple(self._setting.cohort.names[member] for member in liars)
            reason = "expected the sum that two others have opened, got another"
            self.abort = Abort(cause=Cause.FORGED_SUM, parties=names, reason=reason)
        result = GroupResult(
            group=0,
            members=tuple(sorted(self._offered)),
            vector=np.frombuffer(told.words, dtype="<u4"),
            scalars=np.frombuffer(told.scalars, dtype="<u8"),
        )
        self.results, self.phase = (result,), ServerRoundPhase.DONE
        return []

    def _holders(self) -> list[int]:
        """The members who have the epoch's key, or may have."""
        return [member for member, name in enumerate(self._setting.cohort.names) if name not in self._refused]

    def _check_sender(self, sender: str, h: bytes, member: int, survivors: bytes) -> int:
        names = self._setting.cohort.names
        if member >= len(names) or names[member] != sender:
            raise RefusedError(Cause.SIGNATURE, sender, f"expected its own message, got one of member {member}")
        if (h, survivors) != (self._h, self._survivors):
            raise RefusedError(Cause.OTHER_LIST, sender, "expected an answer to the list of this round, got another")
        return member

    def _check_signature(self, member: int, signature: bytes, signed: bytes) -> None:
        name = self._setting.cohort.names[member]
        try:
            check_signature(self._setting.cohort.keys[member], signature, signed, name)
        except RemoteError as error:
            raise RefusedError(Cause.SIGNATURE, name, str(error)) from None

    def _stop(self, cause: Cause, parties: list[int], reason: str) -> list[Outgoing]:
        names = tuple(self._setting.cohort.names[member] for member in parties)
        self.abort, self.phase = Abort(cause=cause, parties=names, reason=reason), ServerRoundPhase.ABORTED
        return []

    def _to(self, members: Iterable[int], message: Record) -> list[Outgoing]:
        return [Outgoing(self._setting.cohort.names[member], message) for member in members]


_Handler = Callable[[EncryptedServerRound, str, Any, datetime], list[Outgoing]]
_TABLE: Mapping[tuple[ServerRoundPhase, type[Record]], _Handler] = {
    (ServerRoundPhase.MASKS, Encrypted): EncryptedServerRound._take,
    (ServerRoundPhase.SIGNATURES, SurvivorSignature): EncryptedServerRound._vote,
    (ServerRoundPhase.OPENINGS, Opened): EncryptedServerRound._open,
}
