"""The key ceremony: one key in an epoch, at members of its roster alone, and boxes that are sealed once."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest

from tests.strategies.he.encrypted_group import (
    PAIR,
    EncryptedGroup,
    check_sum,
    refused,
    refuses,
)
from tests.strategies.secagg.simulated_group import RUN, name_of, signing_key, stream
from wardround.errors import LocalError, RemoteError
from wardround.strategies.he import key_ceremony
from wardround.strategies.he.he_plan import Form, HEPlan
from wardround.strategies.he.key_ceremony import (
    EpochKey,
    accept_key,
    check_deal,
    deal_key,
    erase_key,
    stored_key,
)
from wardround.strategies.he.messages import KeyDeal, KeyHeader, KeyOffer
from wardround.strategies.he.scheme import KeyHolder, new_key
from wardround.strategies.secagg import sealing
from wardround.strategies.secagg.messages import Cause, encode
from wardround.strategies.secagg.signing_inputs import key_input

KEY_AT = f"secagg/{RUN}/he-key"


def agreed(epoch: int = 0) -> EncryptedGroup:
    group = EncryptedGroup()
    group.agree(epoch)
    assert not group.refused
    return group


def deal(group: EncryptedGroup, dealer: int = 0) -> KeyDeal:
    (outgoing,) = group.site(dealer).receive(group.request(), group.now)
    assert isinstance(outgoing.message, KeyDeal)
    return outgoing.message


def offer(group: EncryptedGroup, dealt: KeyDeal, receiver: int) -> KeyOffer:
    (message,) = [one.message for one in group.offers(dealt) if one.receiver == name_of(receiver)]
    assert isinstance(message, KeyOffer)
    return message


def accept(group: EncryptedGroup, message: KeyOffer, receiver: int) -> object:
    return group.site(receiver).receive(message, group.now)[0].message


def key_of(group: EncryptedGroup, member: int, epoch: int = 0) -> EpochKey | None:
    return stored_key(group.site(member).membership, epoch)


# -- one key, at everybody's, and nobody else's --------------------------------------------------------------


@pytest.mark.parametrize("dealer", [0, 2, 3])
def test_all_members_have_the_dealers_key_and_the_server_has_not(dealer: int) -> None:
    group = EncryptedGroup()
    group.start_epoch(dealer=dealer)
    keys = [key_of(group, member) for member in range(4)]
    (key,) = {(one.key, one.tag_key, one.form, one.fingerprint) for one in keys if one is not None}
    assert None not in keys and group.context is not None and group.deal is not None
    assert group.deal.header.fingerprint == key[3] and not group.context.context.has_secret_key()
    secret = KeyHolder(group.plan, key[2], key[0])._context.serialize(save_public_key=False, save_secret_key=True)
    passed = b"".join(encode(message) for _, _, message in group.sent)
    assert key[1] not in passed  # the tag key
    for at in range(1000, len(secret) - 64, 5000):
        assert secret[at : at + 64] not in passed
    assert hashlib.sha256(key[1]).digest() not in passed


def test_what_is_stored_is_sealed_and_not_shown() -> None:
    group = EncryptedGroup()
    group.start_epoch()
    for member in range(4):
        key = key_of(group, member)
        assert key is not None
        stored = b"".join(group.site(member).store._values.values())
        assert key.tag_key not in stored and key.key[2000:2064] not in stored
        assert key.tag_key.hex() not in repr(key) and "key=b" not in repr(key)


def test_each_epoch_has_another_key() -> None:
    group = EncryptedGroup()
    seen = set()
    for epoch in range(3):
        group.start_epoch(epoch)
        key = key_of(group, 1, epoch)
        assert key is not None
        seen |= {key.key, key.tag_key, key.fingerprint}
        assert key_of(group, 1, epoch - 1) is None
    assert len(seen) == 9


def test_a_member_who_is_not_in_the_roster_gets_no_key_and_could_not_open_it() -> None:
    """Who has left, or is revoked, has no part in the secrets of the epoch that boxes are sealed under."""
    parameters = replace(EncryptedGroup().parameters, min_roster=3, min_survivors=2, dropout=0.25)
    group = EncryptedGroup(parameters)
    group.start_epoch()
    group.start_epoch(1, absent=[name_of(3)])
    assert group.deal is not None and len(group.deal.boxes) == 2
    left = group.site(3)
    assert key_of(group, 3, 1) is None
    for box in group.deal.boxes:
        message = KeyOffer(header=group.deal.header, signature=group.deal.signature, box=box)
        refuses(Cause.STALE, lambda message=message: left.receive(message, group.now))
        for secret in left.epoch.agreement.secrets.values():
            for dealer, receiver in permutations(range(4), 2):
                box_key = key_ceremony._box_key(secret, group.deal.header.roster, dealer, receiver)
                aad = sealing.bundle_aad(key_ceremony._domain(group.deal.header.roster), dealer, receiver)
                with pytest.raises(ValueError, match="expected bytes sealed under this key"):
                    sealing.open_sealed(box_key, box, aad)


def test_two_members_are_enough() -> None:
    group = EncryptedGroup(PAIR)
    group.start_epoch(dealer=1)
    check_sum(group.run_round(), range(2))


# -- asked again ---------------------------------------------------------------------------------------------


def test_a_dealer_that_is_asked_again_sends_the_same_bytes_also_after_a_restart() -> None:
    group = agreed()
    first = deal(group)
    assert encode(deal(group)) == encode(first)
    group.site(0).restart()
    assert encode(deal(group)) == encode(first)


def test_a_dealer_killed_before_the_key_was_stored_has_sent_nothing_and_makes_another() -> None:
    group = agreed()
    group.site(0).killed_after(0)
    with pytest.raises(LocalError, match="killed"):
        deal(group)
    group.site(0).revived()
    assert key_of(group, 0) is None
    deal(group)


def test_a_dealer_killed_between_storing_and_sending_sends_what_it_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    group = agreed()
    made: list[bytes] = []
    seal = sealing.seal

    def count(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
        made.append(key)
        return seal(key, plaintext, aad)

    monkeypatch.setattr(sealing, "seal", count)
    deal(group)  # lost: it never arrives
    group.site(0).revived()
    dealt = deal(group)
    for member in range(1, 4):
        accept(group, offer(group, dealt, member), member)
    assert len(made) == len(set(made)) == 3  # no box key has sealed twice


def test_the_same_offer_is_accepted_again_also_after_a_restart() -> None:
    group = agreed()
    message = offer(group, deal(group), 2)
    first = accept(group, message, 2)
    assert accept(group, message, 2) == first
    group.site(2).restart()
    assert accept(group, message, 2) == first


def test_a_member_killed_before_it_stored_the_key_has_accepted_nothing() -> None:
    group = agreed()
    message = offer(group, deal(group), 2)
    group.site(2).killed_after(0)
    with pytest.raises(LocalError, match="killed"):
        accept(group, message, 2)
    group.site(2).revived()
    assert key_of(group, 2) is None
    accept(group, message, 2)
    assert key_of(group, 2) == key_of(group, 0)


# -- two keys in an epoch ------------------------------------------------------------------------------------


def test_a_second_dealer_s_key_is_refused() -> None:
    group = agreed()
    first, second = deal(group, 0), deal(group, 1)
    accept(group, offer(group, first, 2), 2)
    refuses(Cause.TWICE, lambda: accept(group, offer(group, second, 2), 2))
    assert key_of(group, 2) == key_of(group, 0)
    refuses(Cause.TWICE, lambda: accept(group, offer(group, second, 0), 0))
    refuses(Cause.TWICE, lambda: deal(group, 2))
    accept(group, offer(group, first, 2), 2)


def test_in_an_epoch_whose_key_was_erased_there_is_no_other() -> None:
    """A second key would be sealed under the box keys of the first, with the same nonce: both would be open."""
    group = agreed()
    dealt = deal(group)
    accept(group, offer(group, dealt, 1), 1)
    for member in (0, 1):
        assert erase_key(group.site(member).membership)
        assert not erase_key(group.site(member).membership)
    for restarted in (False, True):
        if restarted:
            group.site(0).restart()
            group.site(1).restart()
        refuses(Cause.STALE, lambda: deal(group, 0))
        refuses(Cause.STALE, lambda: deal(group, 1))
        refuses(Cause.STALE, lambda: accept(group, offer(group, dealt, 1), 1))
        assert key_of(group, 0) is None is key_of(group, 1)
        assert group.site(0).membership.state.get(KEY_AT) == [bytes(4)]
    group.start_epoch(1)


# -- boxes and headers that are not in order -----------------------------------------------------------------


def test_a_box_of_another_member_is_refused() -> None:
    group = agreed()
    dealt = deal(group)
    for other in (2, 3):
        refuses(Cause.MALFORMED, lambda other=other: accept(group, offer(group, dealt, other), 1))
    assert key_of(group, 1) is None
    accept(group, offer(group, dealt, 1), 1)


def test_a_dealer_does_not_take_its_own_key_as_another_s() -> None:
    group = agreed()
    dealt = deal(group)
    erased = group.site(0).membership
    erased.state.erase(KEY_AT)
    message = KeyOffer(header=dealt.header, signature=dealt.signature, box=dealt.boxes[0])
    refuses(Cause.MALFORMED, lambda: accept(group, message, 0))


@pytest.mark.parametrize("change", ["box", "signature", "fingerprint", "context", "epoch", "roster", "dealer", "boxes"])
def test_an_offer_that_the_dealer_did_not_sign_is_refused(change: str) -> None:
    group = agreed()
    good = offer(group, deal(group), 1)
    flipped = bytes((good.box[0] ^ 1,)) + good.box[1:]
    changed: dict[str, Callable[[], KeyOffer]] = {
        "box": lambda: replace(good, box=flipped),
        "signature": lambda: replace(good, signature=bytes(64)),
        "fingerprint": lambda: replace(good, header=replace(good.header, fingerprint=bytes(32))),
        "context": lambda: replace(good, header=replace(good.header, context=b"x")),
        "epoch": lambda: replace(good, header=replace(good.header, epoch=1)),
        "roster": lambda: replace(good, header=replace(good.header, roster=bytes(32))),
        "dealer": lambda: replace(good, header=replace(good.header, dealer=2)),
        "boxes": lambda: replace(good, header=replace(good.header, boxes=good.header.boxes[:2])),
    }
    causes = {"box": Cause.MALFORMED, "epoch": Cause.STALE, "roster": Cause.STALE, "boxes": Cause.MALFORMED}
    refuses(causes.get(change, Cause.SIGNATURE), lambda: accept(group, changed[change](), 1))
    assert key_of(group, 1) is None
    accept(group, good, 1)


@pytest.mark.parametrize("dealer", [4, 200, 65535])
def test_a_dealer_who_is_nobody_is_refused(dealer: int) -> None:
    group = agreed()
    good = offer(group, deal(group), 1)
    refuses(Cause.MALFORMED, lambda: accept(group, replace(good, header=replace(good.header, dealer=dealer)), 1))


def test_offers_and_requests_of_another_epoch_or_run_are_stale() -> None:
    group = agreed(1)
    old = offer(group, deal(group), 1)
    group.agree(2)
    refuses(Cause.STALE, lambda: accept(group, old, 1))
    good = group.request()
    for bad in (
        replace(good, epoch=1),
        replace(good, epoch=3),
        replace(good, run="another"),
        replace(good, roster=bytes(32)),
    ):
        refuses(Cause.STALE, lambda bad=bad: group.site(0).receive(bad, group.now))
    assert key_of(group, 0, 2) is None


# -- dealers that lie ----------------------------------------------------------------------------------------


def lying_deal(group: EncryptedGroup, sealed: bytes | None = None, **changes: object) -> KeyDeal:
    """A deal of member 0 that is signed as it should be, with other contents in its boxes or another header."""
    dealt = deal(group)
    boxes = dealt.boxes
    mine, agreement = group.site(0).membership, group.site(0).epoch.agreement
    if sealed is not None:
        roster = agreement.cohort.roster
        boxes = tuple(
            sealing.seal(
                key_ceremony._box_key(agreement.secrets[other], roster, 0, other),
                sealed,
                sealing.bundle_aad(key_ceremony._domain(roster), 0, other),
            )
            for other in (1, 2, 3)
        )
    boxes = changes.pop("sent", boxes)  # type: ignore[assignment]
    header: KeyHeader = replace(
        dealt.header,
        boxes=tuple(hashlib.sha256(box).digest() for box in boxes),
        **changes,  # type: ignore[arg-type]
    )
    return KeyDeal(header=header, signature=mine.signing_key.sign(key_input(header)), boxes=boxes)


def test_contents_that_are_no_key_are_the_dealers_fault() -> None:
    plan, tag_key = HEPlan(members=4), bytes(32)
    holder = KeyHolder(plan, Form.SEEDED, new_key(plan, Form.SEEDED))
    others = KeyHolder(HEPlan(members=64), Form.SEEDED, new_key(HEPlan(members=64), Form.SEEDED))
    relin = holder._context
    relin.generate_relin_keys()
    for sealed in (
        b"",
        b"short",
        tag_key,
        tag_key + b"not a context",
        tag_key + holder.public,  # no secret part
        tag_key + new_key(plan, Form.SEEDED),  # another key than the header's
        tag_key + others._context.serialize(save_secret_key=True),
        tag_key + relin.serialize(save_public_key=False, save_secret_key=True, save_relin_keys=True),
    ):
        group = agreed()
        bad = lying_deal(group, sealed)
        check_deal(group.site(1).epoch.agreement.cohort, bad)  # the server cannot know
        with pytest.raises(RemoteError) as error:
            accept(group, offer(group, bad, 1), 1)
        refused(Cause.BAD_DEALING, error.value)
        assert "site-00" in str(error.value)
        assert key_of(group, 1) is None


@pytest.mark.parametrize("field", ["context", "fingerprint"])
def test_a_header_that_is_not_of_the_sealed_key_is_the_dealers_fault(field: str) -> None:
    group = agreed()
    other = KeyHolder(HEPlan(members=4), Form.PUBLIC, new_key(HEPlan(members=4), Form.PUBLIC)).public
    changes = {"context": other, "fingerprint": bytes(32)}
    bad = lying_deal(group, **{field: changes[field]})
    with pytest.raises(RemoteError) as error:
        accept(group, offer(group, bad, 1), 1)
    refused(Cause.BAD_DEALING, error.value)
    assert key_of(group, 1) is None


def test_boxes_that_do_not_open_are_the_dealers_fault() -> None:
    group = agreed()
    bad = lying_deal(group, sent=tuple(bytes(100) for _ in range(3)))
    with pytest.raises(RemoteError) as error:
        accept(group, offer(group, bad, 2), 2)
    refused(Cause.BAD_DEALING, error.value)


def test_a_fingerprint_is_of_key_and_tag_key() -> None:
    one = EpochKey(epoch=0, form=Form.SEEDED, key=b"k" * 50, tag_key=b"t" * 32)
    others = replace(one, key=b"l" * 50), replace(one, tag_key=b"u" * 32)
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 3


# -- at the server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["signature", "boxes", "fewer", "header", "other"])
def test_the_server_refuses_a_deal_that_its_dealer_did_not_sign(change: str) -> None:
    group = agreed()
    dealt = deal(group)
    assert group.server is not None
    assert check_deal(group.server.cohort, dealt) == "site-00"
    bad: dict[str, tuple[Cause, Callable[[], KeyDeal]]] = {
        "signature": (Cause.SIGNATURE, lambda: replace(dealt, signature=signing_key("site-01").sign(b""))),
        "boxes": (Cause.MALFORMED, lambda: replace(dealt, boxes=(b"x", *dealt.boxes[1:]))),
        "fewer": (Cause.MALFORMED, lambda: replace(dealt, boxes=dealt.boxes[:2])),
        "header": (Cause.SIGNATURE, lambda: replace(dealt, header=replace(dealt.header, context=b"x"))),
        "other": (Cause.SIGNATURE, lambda: replace(dealt, header=replace(dealt.header, dealer=1))),
    }
    (cause, make), cohort = bad[change], group.server.cohort
    refuses(cause, lambda: check_deal(cohort, make()))


def test_a_deal_with_a_secret_key_in_its_context_is_refused_by_server_and_members() -> None:
    group = agreed()
    key = key_of(group, 0)
    deal(group)
    key = key_of(group, 0)
    assert key is not None
    bad = lying_deal(group, context=key.key)
    with pytest.raises(RemoteError, match="expected public parameters, got a secret key with them"):
        group._hand_out("site-00", bad)
    refuses(Cause.BAD_DEALING, lambda: accept(group, offer(group, bad, 1), 1))


# -- determinism of what matters -----------------------------------------------------------------------------


def test_keys_come_from_the_members_own_randomness() -> None:
    """The tag key from `random`, the BFV key from SEAL's: two dealers with the same draws have other keys."""
    groups = [agreed(), agreed()]
    keys = []
    for group in groups:
        site = group.site(0)
        site.membership = replace(site.membership, random=stream("same"))
        made = deal_key(site.membership, site.epoch.agreement, group.plan, group.request())
        accept_key(group.site(1).membership, group.site(1).epoch.agreement, group.plan, offer(group, made, 1))
        keys.append(key_of(group, 1))
    first, second = keys
    assert first is not None and second is not None
    assert first.tag_key == second.tag_key == stream("same")(32) and first.key != second.key
