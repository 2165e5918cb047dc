"""The server's side of a round of homomorphic aggregation: ciphertexts in, one list, and a sum that members open.

The server has no key. It adds each update's ciphertexts to one running sum as it comes and keeps none of them; that it
passes the sum of the listed updates on, and nothing else, members prove by tags (`tags`). A sum is opened by two
members, where two are there: one tells it, the other whether it got the same. Nothing is kept for a restart: a round
that was broken off is another try.
"""

import hashlib
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
)
from wardround.strategies.he.packing import Packing
from wardround.strategies.he.scheme import KeylessSum, PublicContext
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


class EncryptedServerRound:
    """The machine of the server in one round; the same phases as `ServerRound`, MASKS for the encrypted updates.

    `results` is there when phase is DONE, `abort` when it is ABORTED. `bad_dealers` is empty: nobody deals.
    """

    def __init__(self, setting: RoundSetting, start: RoundStart, packing: Packing, context: PublicContext) -> None:
        self._setting, self._start, self._packing = setting, start, packing
        self._h = digest_of(start.descriptor)
        self._sum = KeylessSum(context, packing.chunks)
        self.phase = ServerRoundPhase.MASKS
        self.abort: Abort | None = None
        self.results: tuple[GroupResult, ...] = ()
        self.bad_dealers: frozenset[int] = frozenset()
        self._offered: dict[int, OfferedUpdate] = {}
        self._votes: dict[int, SurvivorSignature] = {}
        self._survivors = b""
        self._total: tuple[tuple[int, ...], bytes] = (), b""
        self._openers: list[int] = []
        self._opened: dict[int, Opened] = {}
        self._told: Opened | None = None

    @classmethod
    def begin(cls, setting: RoundSetting, descriptor: Descriptor, packing: Packing, context: PublicContext) -> Self:
        """A new round; `outgoing` is its M0. Raises LocalError unless its number is above those of rounds before."""
        start = RoundStart(descriptor=descriptor, signature=setting.signing_key.sign(descriptor_input(descriptor)))
        setting.store.advance(f"secagg-server/{descriptor.run}/0/round/{descriptor.epoch}", descriptor.round)
        return cls(setting, start, packing, context)

    def end(self) -> None:
        """Let go of the sum."""
        self._total = (), b""

    def receive(self, sender: str, message: Record, now: datetime) -> list[Outgoing]:
        """Take a message of the member `sender`. Raises RemoteError, and changes nothing, for one not in order."""
        return handler_for(_TABLE, self.phase, message)(self, sender, message, now)

    def outgoing(self) -> list[Outgoing]:
        """What this phase sends."""
        everybody = range(self._setting.cohort.size)
        if self.phase is ServerRoundPhase.MASKS:
            return self._to(everybody, self._start)
        if self.phase is ServerRoundPhase.SIGNATURES:
            listed = tuple(self._offered[member] for member in sorted(self._offered))
            return self._to(everybody, EncryptedOffer(h=self._h, members=listed))
        if self.phase is ServerRoundPhase.OPENINGS:
            told = self._told is not None
            words = self._openers[: 0 if told else 1]
            digest = self._openers[len(words) : 2 - len(self._opened)]
            return [*self._to(words, self._request(Wanted.WORDS)), *self._to(digest, self._request(Wanted.DIGEST))]
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
        return self._ask() if len(self._votes) == self._setting.cohort.size else []

    def _ask(self) -> list[Outgoing]:
        needed = self._setting.cohort.threshold(0)
        if len(self._votes) < needed:
            return self._stop(
                Cause.TOO_FEW_SIGNATURES,
                [member for member in range(self._setting.cohort.size) if member not in self._votes],
                f"expected {needed} signatures of the list, got {len(self._votes)}",
            )
        sums = list(self._sum.serialized())
        self._total = tuple(map(len, sums)), b"".join(sums)
        voters = sorted(self._votes)
        first = self._start.descriptor.round % len(voters)
        self._openers = voters[first:] + voters[:first]
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
            told = hashlib.sha256(message.words)
            told.update(message.scalars)
            sizes = len(message.words), len(message.scalars)
            if told.digest() != message.sum or sizes != (4 * self._packing.size, 8 * self._packing.scalars):
                raise RefusedError(Cause.MALFORMED, sender, "expected the sum whose digest it has signed")
            self._told = message
        self._opened[member] = message
        self._openers = [one for one in self._openers if one != member]
        return self._finish() if self._told is not None and len(self._opened) > 1 else []

    def _next_openers(self) -> list[Outgoing]:
        """Ask others in the place of those who were asked and did not answer; finish where nobody is left."""
        self._openers = self._openers[len(self.outgoing()) :]
        if self._openers:
            return self.outgoing()
        if self._told is not None:  # nobody else is there to say whether it is so
            return self._finish()
        silent = [member for member in self._votes if member not in self._opened]
        return self._stop(Cause.FORGED_SUM, silent, "expected a member to open the sum, got none that did")

    def _finish(self) -> list[Outgoing]:
        told = self._told
        assert told is not None  # noqa: S101  else it would not have been called
        sums = {one.sum for one in self._opened.values()}
        if len(sums) > 1:
            return self._stop(
                Cause.FORGED_SUM, list(self._opened), "expected the same sum from all openers: one of them lies"
            )
        result = GroupResult(
            group=0,
            members=tuple(sorted(self._offered)),
            vector=np.frombuffer(told.words, dtype="<u4"),
            scalars=np.frombuffer(told.scalars, dtype="<u8"),
        )
        self.results, self.phase = (result,), ServerRoundPhase.DONE
        return []

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
