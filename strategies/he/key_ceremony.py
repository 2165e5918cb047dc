"""The key ceremony of an epoch: one member makes the key, and seals it to each other member of the roster.

The dealer draws a BFV key and a tag key, and seals both to every member under the secret that the two agreed on when
the epoch began (X25519, bound to the roster), so that a member who has left, or whose certificate is revoked, cannot
open what it had no part in. The server passes sealed boxes on, and the public parameters, in which it makes sure that
there is no secret key. Each epoch has its own key: after half a day, a hundred rounds, or another roster there is a new
one, and the old one is erased with the epoch.

What is durable at a member, sealed, under `secagg/<run>/he-key`: epoch, form, tag key, key, and the deal, where the
member is the dealer. It is stored before anything is sent, so that a dealer that is asked again sends the same boxes: a
second plaintext under the key of a box would break both. For the same reason the epoch's number stays when its key is
erased: in that epoch no key is made or accepted any more, whatever the server has the member believe.
"""

import hashlib
import logging
from dataclasses import dataclass, field

from wardround.errors import LocalError, RemoteError
from wardround.extras import require
from wardround.signing_key import check_signature
from wardround.state_store import StateStore
from wardround.strategies.he.he_plan import Form, HEPlan
from wardround.strategies.he.messages import KeyAccepted, KeyDeal, KeyHeader, KeyOffer, KeyRequest
from wardround.strategies.he.scheme import KeyHolder, check_form, new_key
from wardround.strategies.he.sealed_model import ArchiveKey
from wardround.strategies.he.tags import TAG_KEY_BYTES
from wardround.strategies.secagg import key_agreement, sealing
from wardround.strategies.secagg.client_epoch import Agreement
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import Cause, decode, encode
from wardround.strategies.secagg.phases import RefusedError
from wardround.strategies.secagg.signing_inputs import key_input

__all__ = ["EpochKey", "accept_key", "check_deal", "check_machine", "deal_key", "erase_key", "forget_key", "stored_key"]

_log = logging.getLogger("wardround")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochKey:
    """What a member opens the sums of an epoch with. `fingerprint` may be told to anybody."""

    epoch: int
    form: Form
    key: bytes = field(repr=False)
    tag_key: bytes = field(repr=False)

    def archive(self, run: str) -> ArchiveKey:
        """What models are opened with that a server has sealed to this epoch's members."""
        private = ArchiveKey.derive(self.tag_key)
        return ArchiveKey(run=run, epoch=self.epoch, fingerprint=self.fingerprint, private=private)

    @property
    def fingerprint(self) -> bytes:
        return hashlib.sha256(b"wardround he key 1\0" + self.tag_key + self.key).digest()


def deal_key(mine: Membership, agreement: Agreement, plan: HEPlan, request: KeyRequest) -> KeyDeal:
    """A new key of the epoch, or the one that was dealt before, the same bytes.

    Raises RefusedError for another epoch, where somebody else's key was accepted in this one or its key was erased, and
    where this machine can encrypt in none of the forms that the proof holds for.
    """
    cohort = agreement.cohort
    if (request.run, request.epoch, request.roster) != (mine.run, cohort.epoch, cohort.roster):
        raise RefusedError(Cause.STALE, None, "expected a key for the epoch that has begun here, got another")
    parts = _not_erased(mine, cohort.epoch)
    if parts:
        if not parts[4]:
            raise RefusedError(Cause.TWICE, mine.name, "has accepted another member's key for this epoch")
        return _stored_deal(parts[4])
    form = _form(mine, plan)
    secret = EpochKey(epoch=cohort.epoch, form=form, key=new_key(plan, form), tag_key=mine.random(TAG_KEY_BYTES))
    others = [member for member in cohort.holders(0) if member != agreement.member]
    boxes = tuple(
        sealing.seal(
            _box_key(agreement.secrets[other], cohort.roster, agreement.member, other),
            secret.tag_key + secret.key,
            sealing.bundle_aad(_domain(cohort.roster), agreement.member, other),
        )
        for other in others
    )
    header = KeyHeader(
        run=mine.run,
        epoch=cohort.epoch,
        roster=cohort.roster,
        dealer=agreement.member,
        form=form,
        context=KeyHolder(plan, form, secret.key).public,
        fingerprint=secret.fingerprint,
        archive=secret.archive(mine.run).public,
        boxes=tuple(hashlib.sha256(box).digest() for box in boxes),
    )
    deal = KeyDeal(header=header, signature=mine.signing_key.sign(key_input(header)), boxes=boxes)
    _keep(mine, secret, encode(deal))
    return deal


def accept_key(mine: Membership, agreement: Agreement, plan: HEPlan, offer: KeyOffer) -> KeyAccepted:
    """Open and keep the key that another member deals; the same offer again is answered the same.

    Raises RefusedError, and keeps nothing, for a box that its dealer did not seal for this member and epoch, for other
    parameters than the plan's, for a second key in an epoch, and where the epoch's key was erased.
    """
    cohort, header = agreement.cohort, offer.header
    name = _check_header(cohort, header, offer.signature)
    accepted = KeyAccepted(run=mine.run, epoch=cohort.epoch, fingerprint=header.fingerprint)
    _not_erased(mine, cohort.epoch)
    if (kept := stored_key(mine, cohort.epoch)) is not None:
        if kept.fingerprint != header.fingerprint:
            raise RefusedError(Cause.TWICE, name, "expected one key in an epoch, got another")
        return accepted
    at = agreement.member - (agreement.member > header.dealer)
    if header.dealer == agreement.member or hashlib.sha256(offer.box).digest() != header.boxes[at]:
        raise RefusedError(Cause.MALFORMED, None, f"expected the box that {name} sealed for this member, got another")
    try:
        opened = sealing.open_sealed(
            _box_key(agreement.secrets[header.dealer], cohort.roster, header.dealer, agreement.member),
            offer.box,
            sealing.bundle_aad(_domain(cohort.roster), header.dealer, agreement.member),
        )
    except ValueError as error:
        raise RefusedError(Cause.BAD_DEALING, name, str(error)) from None
    secret = EpochKey(epoch=cohort.epoch, form=header.form, tag_key=opened[:TAG_KEY_BYTES], key=opened[TAG_KEY_BYTES:])
    try:
        check_form(plan, header.form)
    except LocalError as error:
        raise RefusedError(Cause.FORM, mine.name, str(error)) from None
    try:
        public = KeyHolder(plan, header.form, secret.key).public
    except RemoteError as error:
        raise RefusedError(Cause.BAD_DEALING, name, str(error)) from None
    told = (secret.fingerprint, secret.archive(mine.run).public, public)
    if told != (header.fingerprint, header.archive, header.context):
        raise RefusedError(Cause.BAD_DEALING, name, "expected the key whose fingerprint and parameters it signed")
    _keep(mine, secret, b"")
    return accepted


def check_deal(cohort: Cohort, deal: KeyDeal) -> str:
    """The dealer's name. Raises RefusedError unless a member signed this deal for this epoch, with a box for each."""
    name = _check_header(cohort, deal.header, deal.signature)
    try:
        deal.check_contents()
    except RemoteError as error:
        raise RefusedError(Cause.MALFORMED, name, str(error)) from None
    return name


def stored_key(mine: Membership, epoch: int) -> EpochKey | None:
    """The key of this epoch, where this member has it."""
    parts = _parts(mine, epoch)
    if len(parts) < 2:
        return None
    return EpochKey(epoch=epoch, form=Form(parts[1][0]), tag_key=parts[2], key=parts[3])


def erase_key(mine: Membership) -> bool:
    """Forget the key: its epoch is over, or a sum was forged. Durable on return; whether there was one."""
    parts = mine.state.get(_at(mine))
    if len(parts) < 2:
        return False
    mine.state.put(_at(mine), parts[:1])
    return True


def forget_key(store: StateStore, run: str) -> bool:
    """The same at the end of a run, in the store of its state, which nobody has open then."""
    if not store.get(_key_of(run)):
        return False
    store.put(_key_of(run), b"")
    return True


def check_machine(plan: HEPlan) -> None:
    """Raises LocalError, with the reason, where this machine can encrypt in none of the plan's forms."""
    require("he")
    errors = []
    for form in plan.forms:
        try:
            check_form(plan, form)
        except LocalError as error:
            errors.append(error)
    if len(errors) == len(plan.forms):
        raise errors[0]


def _form(mine: Membership, plan: HEPlan) -> Form:
    """The first form that this machine can encrypt in."""
    reasons = []
    for form in plan.forms:
        try:
            check_form(plan, form)
        except LocalError as error:
            reasons.append(str(error))
            continue
        if reasons:
            _log.warning("%s; this epoch uses bfv-%s: updates take twice the bytes", reasons[0], form.name.lower())
        return form
    raise RefusedError(Cause.FORM, mine.name, reasons[0])


def _check_header(cohort: Cohort, header: KeyHeader, signature: bytes) -> str:
    if (header.run, header.epoch, header.roster) != (cohort.run, cohort.epoch, cohort.roster):
        raise RefusedError(Cause.STALE, None, "expected a key for this epoch and roster, got another")
    if header.dealer >= cohort.size or len(header.boxes) != cohort.size - 1:
        raise RefusedError(Cause.MALFORMED, None, f"expected a member's key in {cohort.size - 1} boxes, got another")
    name = cohort.names[header.dealer]
    try:
        check_signature(cohort.keys[header.dealer], signature, key_input(header), name)
    except RemoteError as error:
        raise RefusedError(Cause.SIGNATURE, name, str(error)) from None
    return name


def _domain(roster: bytes) -> bytes:
    """In the place of a round's hash, so that no box has the key of a round's bundle."""
    return hashlib.sha256(b"wardround he key box 1\0" + roster).digest()


def _box_key(secret: bytes, roster: bytes, dealer: int, receiver: int) -> bytes:
    return key_agreement.share_key(secret, _domain(roster), dealer, receiver)


def _parts(mine: Membership, epoch: int) -> list[bytes]:
    """What is stored of this epoch: nothing, its number alone where its key was erased, or all of it."""
    parts = mine.state.get(_at(mine))
    return parts if parts and int.from_bytes(parts[0], "big") == epoch else []


def _not_erased(mine: Membership, epoch: int) -> list[bytes]:
    """The same. Raises RefusedError where the key was erased."""
    parts = _parts(mine, epoch)
    if len(parts) == 1:
        raise RefusedError(Cause.STALE, mine.name, "has erased the key of this epoch, and has no other; start another")
    return parts


def _keep(mine: Membership, secret: EpochKey, deal: bytes) -> None:
    parts = [secret.epoch.to_bytes(4, "big"), bytes((secret.form,)), secret.tag_key, secret.key, deal]
    mine.state.put(_at(mine), parts)


def _stored_deal(data: bytes) -> KeyDeal:
    deal = decode(data)
    if not isinstance(deal, KeyDeal):
        raise LocalError("expected a stored key deal")
    return deal


def _at(mine: Membership) -> str:
    return _key_of(mine.run)


def _key_of(run: str) -> str:
    return f"secagg/{run}/he-key"
