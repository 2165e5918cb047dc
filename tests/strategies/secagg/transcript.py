"""One epoch and one round of six members in two groups, with fixed seeds: what the test vectors record.

Member 2 never sends its M1. `python -m tests.strategies.secagg.transcript FILE` writes the vectors anew.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from wardround.identity import issue_certificate, make_authority
from wardround.signing_key import SigningKey
from wardround.strategies.secagg import commitments, key_agreement, keystream, sealing, shamir
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    Endorsement,
    Entry,
    EpochStart,
    Fault,
    Group,
    GroupOffer,
    GroupSum,
    GroupTable,
    Header,
    Hello,
    Masked,
    OfferedMember,
    Opening,
    Published,
    Refusal,
    Report,
    Roster,
    RosterSignature,
    RosterSignatures,
    RoundStart,
    SurvivorOffer,
    SurvivorSignature,
    SurvivorVote,
    Task,
    UnmaskAnswer,
    UnmaskRequest,
    beacon_of,
    commit_nonce,
    digest_of,
    encode,
    survivors_of,
)
from wardround.strategies.secagg.signing_inputs import (
    descriptor_input,
    header_input,
    hello_input,
    reports_input,
    result_input,
    roster_input,
    survivors_input,
)
from wardround.strategies.secagg.wire import Record, bytes_of

RUN, EPOCH, ROUND, THRESHOLD, SIZE = "stroke-2026", 3, 7, 4, 5
NAMES = ("Basel", "Graz", "Köln", "Lyon", "Malmö", "Porto")
GROUPS = ((0, 2, 4), (1, 3, 5))
DROPPED = 2
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def stream(label: str) -> Callable[[int], bytes]:
    """Fixed bytes in the place of the operating system's."""
    count = 0

    def random(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{label} {count}".encode()).digest(size)

    return random


@dataclass
class Transcript:
    """Every message by its name, and the secrets that they came from."""

    messages: dict[str, Record] = field(default_factory=dict)
    secrets: dict[str, object] = field(default_factory=dict)


def make() -> Transcript:
    """The whole transcript; the same on every call."""
    made = Transcript()
    authority_key, server = SigningKey.make(stream("authority")), SigningKey.make(stream("server"))
    signing = [SigningKey.make(stream(f"signing {name}")) for name in NAMES]
    agreement = [key_agreement.generate(stream(f"agreement {name}")) for name in NAMES]
    nonces = [stream(f"nonce {name}")(32) for name in NAMES]
    year = timedelta(days=365)
    authority = make_authority(
        authority_key, "coordinator", not_before=NOW, not_after=NOW + 5 * year, random=stream("serial")
    )

    hellos = []
    for i, name in enumerate(NAMES):
        certificate = issue_certificate(
            authority,
            authority_key,
            name=name,
            public=signing[i].public,
            not_before=NOW,
            not_after=NOW + year,
            random=stream(f"serial {name}"),
        )
        entry = Entry(
            run=RUN,
            epoch=EPOCH,
            authority=hashlib.sha256(authority).digest(),
            plan=hashlib.sha256(b"plan").digest(),
            parameters=hashlib.sha256(b"parameters").digest(),
            name=name,
            public_key=agreement[i].public,
            certificate=certificate,
            nonce_commitment=commit_nonce(RUN, EPOCH, name, nonces[i]),
        )
        hellos.append(Hello(entry=entry, signature=signing[i].sign(hello_input(entry))))
    roster = Roster(hellos=tuple(hellos))
    roster_hash = digest_of(roster)
    endorsements = tuple(
        Endorsement(member=i, nonce=nonces[i], signature=signing[i].sign(roster_input(RUN, EPOCH, roster_hash)))
        for i in range(len(NAMES))
    )
    table = GroupTable(run=RUN, groups=tuple(Group(names=tuple(NAMES[i] for i in group)) for group in GROUPS))
    made.messages |= {
        "epoch_start": EpochStart(run=RUN, epoch=EPOCH),
        "hello": hellos[0],
        "roster": roster,
        "roster_signature": RosterSignature(run=RUN, epoch=EPOCH, roster=roster_hash, endorsement=endorsements[1]),
        "roster_signatures": RosterSignatures(run=RUN, epoch=EPOCH, roster=roster_hash, endorsements=endorsements),
        "group_table": table,
    }

    descriptor = Descriptor(
        run=RUN,
        epoch=EPOCH,
        round=ROUND,
        task=Task.FIT,
        model=hashlib.sha256(b"model").digest(),
        order=hashlib.sha256(b"order").digest(),
        roster=roster_hash,
        group_table=digest_of(table),
        deadline_ms=1_767_614_400_000,
    )
    h = digest_of(descriptor)
    made.messages["descriptor"] = descriptor
    made.messages["round_start"] = RoundStart(
        descriptor=descriptor, signature=server.sign(descriptor_input(descriptor))
    )

    prks = {
        (i, j): key_agreement.pair_key(agreement[i].private, agreement[j].public, roster_hash)
        for i in range(len(NAMES))
        for j in range(len(NAMES))
        if i != j
    }
    masked: dict[int, Masked] = {}
    dealt: dict[int, list[list[bytes]]] = {}  # by dealer and holder: the shares, in the order of the secrets
    inputs: dict[int, list[int]] = {}
    for group in GROUPS:
        for i in group:
            if i == DROPPED:
                continue
            peers = [j for j in group if j != i]
            own = stream(f"own {NAMES[i]}")(32)
            pairs = [key_agreement.pair_seed(prks[i, j], h, min(i, j), max(i, j)) for j in peers]
            dealings = shamir.split(b"".join((own, *pairs)), THRESHOLD, len(NAMES), stream(f"shares {NAMES[i]}"))
            dealt[i] = [[one[at : at + 32] for at in range(0, len(one), 32)] for one in dealings]
            inputs[i] = [(1000 * i + k) * (-1) ** k for k in range(SIZE)]
            words = np.array([value % 2**32 for value in inputs[i]], dtype=np.uint32)
            signs = [1 if j > i else -1 for j in peers]
            keystream.add_masks(words, [(own, 1), *zip(pairs, signs, strict=True)])
            lane = np.array([10 + i], dtype=np.uint64) + keystream.scalar_mask(own, 1)
            for seed, sign in zip(pairs, signs, strict=True):
                lane = lane + keystream.scalar_mask(seed, 1) if sign > 0 else lane - keystream.scalar_mask(seed, 1)
            vector, scalars = bytes_of(words), bytes_of(lane)
            sealed = tuple(
                sealing.seal(
                    key_agreement.share_key(prks[i, j], h, i, j), b"".join(dealt[i][j]), sealing.bundle_aad(h, i, j)
                )
                for j in range(len(NAMES))
                if j != i
            )
            header = Header(
                h=h,
                committee=0,
                member=i,
                vector=hashlib.sha256(vector).digest(),
                scalars=hashlib.sha256(scalars).digest(),
                ciphertexts=tuple(hashlib.sha256(one).digest() for one in sealed),
                commitments=(
                    commitments.commit_own_seed(h, i, own),
                    *(
                        commitments.commit_pair_seed(h, min(i, j), max(i, j), seed)
                        for j, seed in zip(peers, pairs, strict=True)
                    ),
                ),
                roots=tuple(commitments.share_root(h, i, j, dealt[i][j]) for j in range(len(NAMES))),
            )
            masked[i] = Masked(
                header=header,
                signature=signing[i].sign(header_input(descriptor, header)),
                vector=vector,
                scalars=scalars,
                sealed=sealed,
            )
    made.messages |= {f"masked_{i}": masked[i] for i in sorted(masked)}

    def offer_for(receiver: int) -> SurvivorOffer:
        def offered(i: int) -> OfferedMember:
            at = receiver - (receiver > i)  # bundles are in the order of the committee without the dealer
            sealed = b"" if i == receiver else masked[i].sealed[at]
            return OfferedMember(header=masked[i].header, signature=masked[i].signature, sealed=sealed)

        groups = tuple(
            GroupOffer(group=g, members=tuple(offered(i) for i in group if i in masked))
            for g, group in enumerate(GROUPS)
        )
        return SurvivorOffer(h=h, committee=0, receiver=receiver, groups=groups)

    survivors = survivors_of(one.header for one in masked.values())
    listed = digest_of(survivors)
    votes = tuple(
        SurvivorVote(member=i, signature=signing[i].sign(survivors_input(descriptor, 0, listed))) for i in (0, 1, 3, 4)
    )
    reports = (Report(dealer=0, fault=Fault.WRONG_SHARES), Report(dealer=5, fault=Fault.UNREADABLE))
    made.messages |= {
        "survivor_offer": offer_for(1),
        "survivor_list": survivors,
        "survivor_signature": SurvivorSignature(
            h=h,
            committee=0,
            member=1,
            survivors=listed,
            signature=votes[1].signature,
            reports=reports,
            reports_signature=signing[1].sign(reports_input(descriptor, 0, reports)),
        ),
        "unmask_request": UnmaskRequest(h=h, committee=0, survivors=listed, votes=votes),
    }

    for holder in (0, 1, 3, 4):
        openings = []
        for i in sorted(masked):
            group = next(group for group in GROUPS if i in group)
            secrets = [i, *(j for j in group if j != i)]
            opened = [0, *(at for at, j in enumerate(secrets) if j == DROPPED)]
            proofs = commitments.ShareTree(dealt[i][holder]).proofs(opened)
            openings += [
                Opening(dealer=i, peer=secrets[at], share=dealt[i][holder][at], proof=proof)
                for at, proof in zip(opened, proofs, strict=True)
            ]
        openings.sort(key=lambda one: (one.dealer, one.peer))
        made.messages[f"unmask_answer_{holder}"] = UnmaskAnswer(
            h=h, committee=0, member=holder, survivors=listed, openings=tuple(openings)
        )

    sums = []
    for g, group in enumerate(GROUPS):
        alive = tuple(i for i in group if i in masked)
        total = [sum(inputs[i][k] for i in alive) % 2**32 for k in range(SIZE)]
        digest = hashlib.sha256(bytes_of(np.array(total, dtype=np.uint32))).digest()
        sums.append(GroupSum(group=g, members=alive, sum=digest))
    made.messages["published"] = Published(
        h=h, committee=0, groups=tuple(sums), signature=server.sign(result_input(descriptor, 0, sums))
    )
    made.messages["refusal"] = Refusal(
        run=RUN,
        epoch=EPOCH,
        round=ROUND,
        cause=Cause.OTHER_LIST,
        party=NAMES[4],
        reason="expected the list that was signed, got another; the round ends here",
    )
    made.secrets = {
        "authority": authority.hex(),
        "server_public": server.public.hex(),
        "beacon": beacon_of(roster_hash, nonces).hex(),
        "threshold": THRESHOLD,
        "groups": GROUPS,
        "x25519_private": [pair.private.hex() for pair in agreement],
        "inputs": {str(i): values for i, values in inputs.items()},
        "scalar_inputs": {str(i): [10 + i] for i in inputs},
    }
    return made


def plain(value: object) -> object:
    """A message's fields as JSON: bytes are hexadecimal, and a record is its fields by name."""
    if isinstance(value, Record):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}  # type: ignore[attr-defined]
    if isinstance(value, bytes | memoryview):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(one) for one in value]
    return value


def as_json() -> str:
    """The vectors' file."""
    made = make()
    messages = [
        {"name": name, "kind": type(message).__name__, "hex": encode(message).hex(), "fields": plain(message)}
        for name, message in made.messages.items()
    ]
    return json.dumps({"version": 1, "context": plain(made.secrets), "messages": messages}, indent=1) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(as_json())
