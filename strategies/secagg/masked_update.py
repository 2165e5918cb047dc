"""M1: an encoded update under masks, the seeds of the masks dealt to the committee, and commitments to all of it.

    y_i = q_i + G(b_i) + Σ_{j>i} G(r_ij) − Σ_{j<i} G(r_ij)    mod 2^32 over i's group; the scalar lane mod 2^64

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", sections 4 and 6
(double masks: what protects a member that is slow, and what lets the others go on without it).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wardround.signing_key import SigningKey
from wardround.strategies.secagg import commitments, key_agreement, sealing, shamir
from wardround.strategies.secagg.cohort import Cohort, sign_of
from wardround.strategies.secagg.keystream import GROUP_SEED_BYTES, U32, U64, add_masks, scalar_mask
from wardround.strategies.secagg.messages import Descriptor, Header, Masked, digest_of
from wardround.strategies.secagg.signing_inputs import header_input
from wardround.strategies.secagg.wire import bytes_of

__all__ = ["Dealt", "mask_update", "remove_masks", "shares_in"]


@dataclass(frozen=True, slots=True)
class Dealt:
    """M1, and the dealer's own share of each of its secrets, end to end, which is never sent."""

    masked: Masked
    own_shares: bytes = field(repr=False)


def mask_update(
    cohort: Cohort,
    member: int,
    secrets: Mapping[int, bytes],
    descriptor: Descriptor,
    vector: U32,
    scalars: U64,
    signing_key: SigningKey,
    random: Callable[[int], bytes],
) -> Dealt:
    """M1 of `member` in the round of `descriptor`; the arguments are not changed.

    `secrets`: PRK by other member. `random` is asked for the own seed and then for Shamir's coefficients.
    """
    h = digest_of(descriptor)
    committee = cohort.committee_of(member)
    holders, peers = cohort.holders(committee), cohort.peers(member)
    own = random(GROUP_SEED_BYTES)
    pairs = [key_agreement.pair_seed(secrets[peer], h, min(member, peer), max(member, peer)) for peer in peers]
    seeds = [(own, 1), *((seed, sign_of(member, peer)) for peer, seed in zip(peers, pairs, strict=True))]
    words, lane = vector.copy(), scalars.copy()
    add_masks(words, seeds)
    for seed, sign in seeds:
        _add_scalar_mask(lane, seed, sign)
    dealt = shamir.split(b"".join((own, *pairs)), cohort.threshold(committee), len(holders), random)
    bundles = dict(zip(holders, dealt, strict=True))
    sealed = tuple(
        sealing.seal(
            key_agreement.share_key(secrets[holder], h, member, holder),
            bundle,
            sealing.bundle_aad(h, member, holder),
        )
        for holder, bundle in bundles.items()
        if holder != member
    )
    masked, masked_lane = bytes_of(words), bytes_of(lane)
    header = Header(
        h=h,
        committee=committee,
        member=member,
        vector=hashlib.sha256(masked).digest(),
        scalars=hashlib.sha256(masked_lane).digest(),
        ciphertexts=tuple(hashlib.sha256(one).digest() for one in sealed),
        commitments=(
            commitments.commit_own_seed(h, member, own),
            *(
                commitments.commit_pair_seed(h, min(member, peer), max(member, peer), seed)
                for peer, seed in zip(peers, pairs, strict=True)
            ),
        ),
        roots=tuple(commitments.share_root(h, member, holder, shares_in(bundle)) for holder, bundle in bundles.items()),
    )
    message = Masked(
        header=header,
        signature=signing_key.sign(header_input(descriptor, header)),
        vector=masked,
        scalars=masked_lane,
        sealed=sealed,
    )
    return Dealt(message, bundles[member])


def remove_masks(vector: U32, scalars: U64, seeds: list[tuple[bytes, int]]) -> None:
    """Take sign · G(seed) from sums of masked updates, in place, both lanes."""
    add_masks(vector, [(seed, -sign) for seed, sign in seeds])
    for seed, sign in seeds:
        _add_scalar_mask(scalars, seed, -sign)


def shares_in(bundle: bytes) -> list[bytes]:
    """The shares of a bundle, in the order of the dealer's commitments."""
    return [bundle[at : at + GROUP_SEED_BYTES] for at in range(0, len(bundle), GROUP_SEED_BYTES)]


def _add_scalar_mask(lane: U64, seed: bytes, sign: int) -> None:
    if sign > 0:
        lane += scalar_mask(seed, lane.size)
    else:
        lane -= scalar_mask(seed, lane.size)
