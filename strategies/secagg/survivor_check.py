"""What a committee's member does about a list of survivors: it checks the list, opens its bundles, and works out alone
what may be opened.

For a survivor i that is its share of b_i, and of r_ij for each j of i's group that is not on the list: never of r_ij
for two survivors, never of anything that one outside the list dealt. So for no member both kinds of mask come off, as
long as no second list is opened; a list needs the signatures of more than (L + c) / 2 of the committee, and an honest
member signs one.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", section 6.2 and
figure 4 (the consistency check before unmasking).
"""

import hashlib
from collections.abc import Mapping, Sequence

from wardround.errors import RemoteError
from wardround.signing_key import check_signature
from wardround.strategies.secagg import commitments, key_agreement, sealing
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.keystream import GROUP_SEED_BYTES
from wardround.strategies.secagg.masked_update import shares_in
from wardround.strategies.secagg.messages import (
    Cause,
    Descriptor,
    Fault,
    Header,
    OfferedMember,
    Opening,
    Report,
    SurvivorOffer,
    UnmaskRequest,
    digest_of,
)
from wardround.strategies.secagg.phases import RefusedError
from wardround.strategies.secagg.signing_inputs import header_input, survivors_input

__all__ = [
    "check_header",
    "check_offer",
    "check_votes",
    "open_bundles",
    "opened_peers",
    "openings_of",
]


def check_header(cohort: Cohort, descriptor: Descriptor, header: Header, signature: bytes) -> None:
    """Raises RefusedError unless a member of the committee made this header for this round, in the right sizes."""
    if header.member >= cohort.size:
        raise RefusedError(
            Cause.MALFORMED, None, f"expected a member below {cohort.size}, got the header of {header.member}"
        )
    name = cohort.names[header.member]
    if header.h != digest_of(descriptor) or header.committee != cohort.committee_of(header.member):
        raise RefusedError(Cause.STALE, name, "expected a header of this round and of its committee, got another")
    holders, secrets = len(cohort.holders(header.committee)), len(cohort.peers(header.member)) + 1
    if len(header.roots) != holders or len(header.commitments) != secrets:
        raise RefusedError(
            Cause.MALFORMED,
            name,
            f"expected {holders} roots and {secrets} commitments, got {len(header.roots)} and "
            f"{len(header.commitments)}",
        )
    try:
        check_signature(cohort.keys[header.member], signature, header_input(descriptor, header), name)
    except RemoteError as error:
        raise RefusedError(Cause.SIGNATURE, name, str(error)) from None


def check_offer(
    cohort: Cohort, member: int, descriptor: Descriptor, offer: SurvivorOffer, min_survivors: int
) -> dict[int, tuple[int, ...]]:
    """The survivors by group that `member` may sign. Raises RefusedError for any other offer."""
    committee = cohort.committee_of(member)
    if (offer.h, offer.committee, offer.receiver) != (digest_of(descriptor), committee, member):
        raise RefusedError(Cause.STALE, None, "expected an offer of this round, committee and receiver, got another")
    if tuple(group.group for group in offer.groups) != cohort.groups_in(committee):
        raise RefusedError(Cause.MALFORMED, None, "expected every group of the committee once in the offer")
    lists = {}
    for group in offer.groups:
        survivors = tuple(one.header.member for one in group.members)
        _check_number(group.group, len(survivors), min_survivors)
        for one in group.members:
            if one.header.member not in cohort.groups[group.group]:
                raise RefusedError(
                    Cause.MALFORMED, None, f"expected members of group {group.group}, got {one.header.member}"
                )
            check_header(cohort, descriptor, one.header, one.signature)
        lists[group.group] = survivors
    return lists


def check_votes(
    cohort: Cohort, descriptor: Descriptor, committee: int, survivors: bytes, request: UnmaskRequest
) -> None:
    """Raises RefusedError unless t members of the committee signed the list `survivors`, and nobody else did."""
    if (request.h, request.committee) != (digest_of(descriptor), committee):
        raise RefusedError(Cause.STALE, None, "expected a request of this round and committee, got another")
    if request.survivors != survivors:
        raise RefusedError(
            Cause.OTHER_LIST, None, "expected the list that was signed, got another; the round ends here"
        )
    holders, signed = cohort.holders(committee), survivors_input(descriptor, committee, survivors)
    for vote in request.votes:
        if vote.member not in holders:
            raise RefusedError(Cause.SIGNATURE, None, f"expected votes of the committee, got one of {vote.member}")
        try:
            check_signature(cohort.keys[vote.member], vote.signature, signed, cohort.names[vote.member])
        except RemoteError as error:
            raise RefusedError(Cause.SIGNATURE, cohort.names[vote.member], str(error)) from None
    if len(request.votes) < cohort.threshold(committee):
        raise RefusedError(
            Cause.TOO_FEW_SIGNATURES,
            None,
            f"expected {cohort.threshold(committee)} signatures of the list, got {len(request.votes)}",
        )


def open_bundles(
    cohort: Cohort, member: int, secrets: Mapping[int, bytes], own_shares: bytes, offer: SurvivorOffer
) -> tuple[dict[int, commitments.ShareTree], tuple[Report, ...]]:
    """The shares that `member` holds, by dealer among the survivors, and reports of the dealers whose are bad.

    Raises RefusedError for a bundle that is not the one whose digest its dealer signed: a server could make an honest
    dealer look bad with it.
    """
    at = cohort.holders(offer.committee).index(member)
    shares: dict[int, commitments.ShareTree] = {}
    reports = []
    for one in sorted((one for group in offer.groups for one in group.members), key=lambda one: one.header.member):
        dealer = one.header.member
        if dealer == member:
            shares[dealer] = commitments.ShareTree(shares_in(own_shares))
            continue
        opened = _opened(cohort, member, secrets[dealer], at, one)
        if isinstance(opened, Fault):
            reports.append(Report(dealer=dealer, fault=opened))
        else:
            shares[dealer] = opened
    return shares, tuple(reports)


def opened_peers(cohort: Cohort, dealer: int, survivors: Sequence[int]) -> list[int]:
    """Whose secrets with a survivor `dealer` are opened: its own, and those with members of its group that are lost."""
    alive = frozenset(survivors)
    return [dealer, *(peer for peer in cohort.peers(dealer) if peer not in alive)]


def openings_of(
    cohort: Cohort, shares: Mapping[int, commitments.ShareTree], lists: Mapping[int, Sequence[int]]
) -> tuple[Opening, ...]:
    """What a member opens for the survivors by group in `lists`, of the shares that it holds, with proofs."""
    openings = []
    for survivors in lists.values():
        for dealer in survivors:
            if dealer not in shares:
                continue
            secrets = [dealer, *cohort.peers(dealer)]
            peers = opened_peers(cohort, dealer, survivors)
            at = [secrets.index(peer) for peer in peers]
            tree = shares[dealer]
            for peer, secret, proof in zip(peers, at, tree.proofs(at), strict=True):
                openings.append(Opening(dealer=dealer, peer=peer, share=tree.shares[secret], proof=proof))
    return tuple(sorted(openings, key=lambda one: (one.dealer, one.peer)))


def _check_number(group: int, survivors: int, least: int) -> None:
    if 0 < survivors < least:
        raise RefusedError(
            Cause.TOO_FEW_MEMBERS,
            None,
            f"expected nobody or at least {least} survivors in group {group}, got {survivors}; nothing is opened",
        )


def _opened(cohort: Cohort, member: int, secret: bytes, at: int, one: OfferedMember) -> commitments.ShareTree | Fault:
    """The shares in one bundle for the holder number `at`, or what is wrong with it."""
    header = one.header
    before = at - (at > cohort.holders(header.committee).index(header.member))  # bundles leave out the dealer
    if hashlib.sha256(one.sealed).digest() != header.ciphertexts[before]:  # not the dealer's doing: it signed another
        raise RefusedError(
            Cause.MALFORMED, None, f"expected the bundle that {cohort.names[header.member]} sealed, got another"
        )
    try:
        bundle = sealing.open_sealed(
            key_agreement.share_key(secret, header.h, header.member, member),
            one.sealed,
            sealing.bundle_aad(header.h, header.member, member),
        )
    except ValueError:
        return Fault.UNREADABLE
    if len(bundle) != GROUP_SEED_BYTES * len(header.commitments):
        return Fault.WRONG_SHARES
    shares = commitments.ShareTree(shares_in(bundle))
    return shares if shares.root(header.h, header.member, member) == header.roots[at] else Fault.WRONG_SHARES
