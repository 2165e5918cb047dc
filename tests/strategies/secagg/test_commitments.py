"""Commitments against their written form and RFC 6962's tree; every field is bound; proofs have one length."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.secagg.commitments import (
    MAX_SECRETS,
    ShareTree,
    commit_own_seed,
    commit_pair_seed,
    proved_root,
    share_root,
)

H, OTHER = bytes(range(32)), bytes(32)
SEED = bytes(range(64, 96))


def dealt(number: int) -> list[bytes]:
    return [sha256(b"share" + bytes([k])).digest() for k in range(number)]


def tree(leaves: list[bytes]) -> bytes:
    """The tree of RFC 6962, section 2.1, by its recursion, with our tags."""
    if len(leaves) == 1:
        return leaves[0]
    left = max(2**k for k in range(9) if 2**k < len(leaves))
    return sha256(b"wr-node1" + tree(leaves[:left]) + tree(leaves[left:])).digest()


def test_seeds_are_committed_to_as_it_is_written_down() -> None:
    assert commit_own_seed(H, 258, SEED) == sha256(b"wr-own-1" + H + b"\x01\x02" + SEED).digest()
    assert commit_pair_seed(H, 3, 258, SEED) == sha256(b"wr-pair1" + H + b"\x00\x03\x01\x02" + SEED).digest()


def test_known_answers_for_another_decoder() -> None:
    assert commit_own_seed(H, 1, SEED).hex() == "6da3363a301520b26b7c76264bd8c2a1a6e3957aa20e6c6541dcc8bb24022c6e"
    assert commit_pair_seed(H, 1, 2, SEED).hex() == "ac8c13d8454dc72a65d27a9edda553d5d5edf6f0454d0426588a146f052537a0"
    assert share_root(H, 1, 2, dealt(11)).hex() == "de7e7ff1256b5ffbf2dcb8db46a2ca43ef9c8c9d4b79c0e66d5271f5818c2c93"


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 7, 8, 9, 100, 255, 256])
def test_a_root_is_that_of_the_tree_of_rfc_6962(number: int) -> None:
    shares = dealt(number)
    leaves = [sha256(b"wr-leaf1" + k.to_bytes(2, "big") + share).digest() for k, share in enumerate(shares)]
    bound = H + b"\x00\x01\x02\x03" + number.to_bytes(2, "big")
    assert share_root(H, 1, 0x0203, shares) == sha256(b"wr-root1" + bound + tree(leaves)).digest()


def test_every_field_changes_a_commitment() -> None:
    own = [commit_own_seed(H, 1, SEED), commit_own_seed(OTHER, 1, SEED), commit_own_seed(H, 2, SEED)]
    pair = [commit_pair_seed(h, lo, hi, SEED) for h, lo, hi in ((H, 1, 2), (OTHER, 1, 2), (H, 0, 2), (H, 1, 3))]
    seeds = [commit_own_seed(H, 1, OTHER), commit_pair_seed(H, 1, 2, OTHER)]
    shares = dealt(3)
    swapped = [shares[1], shares[0], shares[2]]
    roots = [share_root(h, i, j, shares) for h, i, j in ((H, 1, 2), (OTHER, 1, 2), (H, 2, 1), (H, 0, 2), (H, 1, 3))]
    trees = [share_root(H, 1, 2, other) for other in (swapped, shares[:2], [*shares, shares[0]])]
    made = own + pair + seeds + roots + trees
    assert len(set(made)) == len(made) and {len(one) for one in made} == {32}


@pytest.mark.parametrize("number", [1, 2, 3, 6, 11, 100, 255, 256])
def test_each_share_is_proven_by_at_most_8_hashes(number: int) -> None:
    shares = dealt(number)
    root, proofs = share_root(H, 1, 2, shares), ShareTree(shares).proofs(range(number))
    assert len(proofs) == number
    for secret, proof in enumerate(proofs):
        assert len(proof) <= 8
        assert proved_root(H, 1, 2, number, secret, shares[secret], proof) == root
    assert ShareTree(shares).proofs([number - 1, 0]) == [proofs[-1], proofs[0]]


@given(st.data())
def test_a_proof_fits_nothing_but_its_share(data: st.DataObject) -> None:
    number = data.draw(st.integers(2, 40))
    secret, other = data.draw(st.permutations(range(number)))[:2]
    shares = dealt(number)
    root, (proof, others) = share_root(H, 1, 2, shares), ShareTree(shares).proofs([secret, other])

    def root_of(
        h: bytes = H,
        dealer: int = 1,
        receiver: int = 2,
        number: int = number,
        secret: int = secret,
        share: bytes = shares[secret],
        proof: tuple[bytes, ...] = proof,
    ) -> bytes | None:
        try:
            return proved_root(h, dealer, receiver, number, secret, share, proof)
        except ValueError:
            return None

    assert root_of() == root
    at = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    bent = (int.from_bytes(proof[at], "big") ^ 1 << bit).to_bytes(32, "big")
    wrong = [
        root_of(h=OTHER),
        root_of(dealer=3),
        root_of(receiver=3),
        root_of(dealer=2, receiver=1),
        root_of(number=number + 1),
        root_of(number=number - 1),
        root_of(secret=other),
        root_of(share=shares[other]),
        root_of(proof=others),
        root_of(proof=(*proof[:at], bent, *proof[at + 1 :])),
        root_of(proof=proof[:-1]),
        root_of(proof=(*proof, OTHER)),
        root_of(proof=()),
    ]
    assert root not in wrong


def test_an_inner_hash_does_not_pass_for_a_share() -> None:
    """A node is of 64 bytes after another tag, so no tree has a leaf that is another tree's node."""
    shares = dealt(4)
    (proof,) = ShareTree(shares).proofs([0])
    root = share_root(H, 1, 2, shares)
    assert proved_root(H, 1, 2, 4, 0, shares[0], proof) == root
    assert proved_root(H, 1, 2, 2, 0, proof[0], proof[1:]) != root


def test_proofs_of_other_lengths_are_refused() -> None:
    shares = dealt(6)
    (proof,) = ShareTree(shares).proofs([2])
    assert len(proof) == 3
    with pytest.raises(ValueError, match="expected a SHA-256 digest of 32 bytes, got 0"):
        proved_root(H, 1, 2, 6, 2, shares[2], proof[:2])
    with pytest.raises(ValueError, match="expected fewer than 4 hashes in the proof of secret 2 of 6"):
        proved_root(H, 1, 2, 6, 2, shares[2], (*proof, OTHER))
    with pytest.raises(ValueError, match="digest of 32 bytes, got 31"):
        proved_root(H, 1, 2, 6, 2, shares[2], (*proof[:2], bytes(31)))


def test_secrets_that_are_not_there_are_refused() -> None:
    for secret in (-1, 6):
        with pytest.raises(ValueError, match=f"a secret of 0 to 5, got {secret}"):
            ShareTree(dealt(6)).proofs([0, secret])
        with pytest.raises(ValueError, match=f"a secret of 0 to 5, got {secret}"):
            proved_root(H, 1, 2, 6, secret, SEED, [])
    too_many = [SEED] * (MAX_SECRETS + 1)
    for shares in ([], too_many):
        with pytest.raises(ValueError, match=f"shares of 1 to 256 secrets, got {len(shares)}"):
            share_root(H, 1, 2, shares)
        with pytest.raises(ValueError, match=f"shares of 1 to 256 secrets, got {len(shares)}"):
            ShareTree(shares).proofs([0])
        with pytest.raises(ValueError, match=f"shares of 1 to 256 secrets, got {len(shares)}"):
            proved_root(H, 1, 2, len(shares), 0, SEED, [])


@pytest.mark.parametrize("size", [0, 31, 33])
def test_seeds_shares_and_hashes_of_other_lengths_are_refused(size: int) -> None:
    text = f"32 bytes, got {size}"
    with pytest.raises(ValueError, match=text):
        commit_own_seed(H, 1, bytes(size))
    with pytest.raises(ValueError, match=text):
        commit_pair_seed(H, 1, 2, bytes(size))
    with pytest.raises(ValueError, match=text):
        share_root(H, 1, 2, [SEED, bytes(size)])
    with pytest.raises(ValueError, match=text):
        proved_root(H, 1, 2, 1, 0, bytes(size), [])
    with pytest.raises(ValueError, match=text):
        commit_own_seed(bytes(size), 1, SEED)
    with pytest.raises(ValueError, match=text):
        share_root(bytes(size), 1, 2, [SEED])


def test_the_seed_of_a_pair_has_its_lower_index_first() -> None:
    for lo, hi in ((2, 1), (1, 1)):
        with pytest.raises(ValueError, match=f"lower index first, got {lo} and {hi}"):
            commit_pair_seed(H, lo, hi, SEED)
