"""Unmasking: the server checks what members open, puts the seeds together again, and takes the masks from the sums.

Each opening is proven against the root that its dealer signed, so a wrong one names the member that sent it; each seed
is compared with the dealer's commitment, so shares that do not fit each other name the dealer.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", figure 4, round 4.
"""

from collections.abc import Collection, Mapping, Sequence

from wardround.strategies.secagg import commitments, shamir
from wardround.strategies.secagg.cohort import Cohort, sign_of
from wardround.strategies.secagg.keystream import GROUP_SEED_BYTES
from wardround.strategies.secagg.masked_update import shares_in
from wardround.strategies.secagg.messages import Cause, Header, UnmaskAnswer
from wardround.strategies.secagg.phases import RefusedError
from wardround.strategies.secagg.survivor_check import opened_peers

__all__ = ["check_answer", "masks_to_remove", "recover_seeds"]


def check_answer(
    cohort: Cohort,
    headers: Mapping[int, Header],
    lists: Mapping[int, Sequence[int]],
    reported: Collection[int],
    answer: UnmaskAnswer,
) -> dict[int, bytes]:
    """The shares of a member's answer, end to end by dealer, for the survivors by group in `lists`.

    Raises RefusedError, naming the member, unless all that is to be opened is there, except what `reported` dealers
    dealt, no more, and each share is the one that its dealer's header is committed to.
    """
    name = cohort.names[answer.member]
    expected = {
        dealer: opened_peers(cohort, dealer, survivors)
        for survivors in lists.values()
        for dealer in survivors
        if dealer not in reported
    }
    given = {(one.dealer, one.peer): one for one in answer.openings}
    wanted = {(dealer, peer) for dealer, peers in expected.items() for peer in peers}
    if given.keys() != wanted:
        raise RefusedError(
            Cause.MALFORMED, name, f"expected {len(wanted)} openings of this list, got {len(given)} or others"
        )
    at = cohort.holders(answer.committee).index(answer.member)
    secrets = {dealer: {peer: k for k, peer in enumerate([dealer, *cohort.peers(dealer)])} for dealer in expected}
    for (dealer, peer), one in given.items():
        header, secret = headers[dealer], secrets[dealer][peer]
        number = len(header.commitments)
        try:
            root = commitments.proved_root(answer.h, dealer, answer.member, number, secret, one.share, list(one.proof))
        except ValueError as error:
            raise RefusedError(Cause.MALFORMED, name, str(error)) from None
        if root != header.roots[at]:
            raise RefusedError(
                Cause.BAD_DEALING, name, f"expected the share that {cohort.names[dealer]} dealt, got another"
            )
    return {dealer: b"".join(given[dealer, peer].share for peer in peers) for dealer, peers in expected.items()}


def recover_seeds(
    cohort: Cohort,
    headers: Mapping[int, Header],
    lists: Mapping[int, Sequence[int]],
    shares: Mapping[int, Mapping[int, bytes]],
) -> tuple[dict[tuple[int, int], bytes], tuple[int, ...]]:
    """The opened seeds by (dealer, peer), the own seed under (dealer, dealer), and dealers whose shares do not fit.

    `shares`: by dealer and member of the committee; at least t members for each dealer.
    """
    seeds, bad = {}, []
    for survivors in lists.values():
        for dealer in survivors:
            header = headers[dealer]
            holders = cohort.holders(header.committee)
            found = shamir.combine(
                {holders.index(member): share for member, share in shares[dealer].items()},
                cohort.threshold(header.committee),
            )
            secrets = [dealer, *cohort.peers(dealer)]
            for peer, seed in zip(opened_peers(cohort, dealer, survivors), shares_in(found), strict=True):
                if not is_committed(header, secrets.index(peer), peer, seed):
                    bad.append(dealer)
                    break
                seeds[dealer, peer] = seed
    return seeds, tuple(bad)


def is_committed(header: Header, secret: int, peer: int, seed: bytes) -> bool:
    """Whether `seed` is the one that the header's dealer is committed to, as its secret of this number."""
    if len(seed) != GROUP_SEED_BYTES:
        return False
    dealer = header.member
    if peer == dealer:
        made = commitments.commit_own_seed(header.h, dealer, seed)
    else:
        made = commitments.commit_pair_seed(header.h, min(dealer, peer), max(dealer, peer), seed)
    return made == header.commitments[secret]


def masks_to_remove(seeds: Mapping[tuple[int, int], bytes], survivors: Sequence[int]) -> list[tuple[bytes, int]]:
    """Seed and sign of each mask that is left in the sum of the survivors' masked updates."""
    return [
        (seed, 1 if dealer == peer else sign_of(dealer, peer))
        for (dealer, peer), seed in seeds.items()
        if dealer in survivors
    ]
