"""A member's checks of a roster, and of the signatures that others gave it.

The server says who takes part. What keeps it from inventing members, swapping keys or showing two rosters is here: the
authority's certificates, the member's own pins, its own entry, and more than (n + f) / 2 signatures of the same bytes.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", section 6.2 (a
server that is active in the key exchange), and its consistency check.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from wardround.errors import RemoteError
from wardround.identity import Authority, Revocations
from wardround.pins import AcceptedKeys
from wardround.signing_key import check_signature
from wardround.strategies.secagg import key_agreement
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import Cause, Hello, Roster, RosterSignatures, commit_nonce, digest_of
from wardround.strategies.secagg.phases import RefusedError
from wardround.strategies.secagg.signing_inputs import hello_input, roster_input

__all__ = ["check_endorsements", "check_hello", "check_pin", "check_roster"]


def check_hello(hello: Hello, authority: Authority, revocations: Revocations, now: datetime) -> bytes:
    """The signing key of a hello, whose certificate, signature and X25519 key are in order. Raises RefusedError."""
    entry = hello.entry
    try:
        unrevoked = replace(revocations, serials=frozenset())  # to tell what is revoked from what is no certificate
        identity = authority.verify(entry.certificate, name=entry.name, now=now, revocations=unrevoked)
    except RemoteError as error:
        raise RefusedError(Cause.CERTIFICATE, entry.name, str(error)) from None
    if identity.serial in revocations.serials:
        raise RefusedError(Cause.REVOKED, entry.name, "expected a certificate that is not revoked")
    try:
        check_signature(identity.public, hello.signature, hello_input(entry), entry.name)
    except RemoteError as error:
        raise RefusedError(Cause.SIGNATURE, entry.name, str(error)) from None
    try:
        key_agreement.check_public_key(entry.public_key)
    except ValueError as error:
        raise RefusedError(Cause.MALFORMED, entry.name, str(error)) from None
    return identity.public


def check_pin(accepted: AcceptedKeys, name: str, public: bytes) -> None:
    """Raises RefusedError unless this site's administrator has accepted `public` as the key of `name`."""
    try:
        accepted.check(name, public)
    except RemoteError as error:
        raise RefusedError(Cause.NOT_PINNED, name, str(error)) from None


def check_roster(
    member: Membership, own: Hello, table: bytes | None, roster: Roster, now: datetime
) -> tuple[bytes, ...]:
    """The signing keys of a roster that `member` may sign, in its order; `table` is the group table's digest.

    Raises RefusedError with the cause and the member who is the reason. That no name and no X25519 key is there twice,
    and that all entries have one run, epoch, authority, plan and parameters, is in the form of a Roster; since the own
    entry is among them unchanged, they are this member's.
    """
    least = max(member.parameters.min_roster, member.min_roster)
    if own not in roster.hellos:
        raise RefusedError(Cause.PARAMETERS, member.name, "expected the own entry in the roster as it was sent")
    if not least <= len(roster.hellos) <= member.parameters.clients:
        raise RefusedError(
            Cause.TOO_FEW_MEMBERS if len(roster.hellos) < least else Cause.PARAMETERS,
            None,
            f"expected a roster of {least} to {member.parameters.clients} members, got {len(roster.hellos)}",
        )
    if roster.group_table != table:
        raise RefusedError(Cause.PARAMETERS, None, "expected a roster for the group table of this run, got another")
    keys: dict[bytes, str] = {}
    for hello in roster.hellos:
        name = hello.entry.name
        key = check_hello(hello, member.authority, member.revocations, now)
        check_pin(member.accepted, name, key)
        if key in keys:
            raise RefusedError(Cause.TWICE, name, f"expected a signing key of its own, got that of {keys[key]}")
        keys[key] = name
    return tuple(keys)


def check_endorsements(roster: Roster, keys: Sequence[bytes], needed: int, message: RosterSignatures) -> None:
    """Raises RefusedError unless at least `needed` members signed this roster, with their nonces where it has any."""
    digest = digest_of(roster)
    if (message.run, message.epoch, message.roster) != (roster.run, roster.epoch, digest):
        raise RefusedError(Cause.OTHER_LIST, None, "expected signatures of the roster that was signed here")
    signed = roster_input(roster.run, roster.epoch, digest)
    for one in message.endorsements:
        if one.member >= len(keys):
            raise RefusedError(
                Cause.SIGNATURE, None, f"expected members 0 to {len(keys) - 1} to sign, got {one.member}"
            )
        entry = roster.hellos[one.member].entry
        try:
            check_signature(keys[one.member], one.signature, signed, entry.name)
        except RemoteError as error:
            raise RefusedError(Cause.SIGNATURE, entry.name, str(error)) from None
        promised = entry.nonce_commitment
        given = None if one.nonce is None else commit_nonce(roster.run, roster.epoch, entry.name, one.nonce)
        if given != promised:
            raise RefusedError(Cause.NONCE, entry.name, "expected the nonce that was committed to")
    if len(message.endorsements) < needed:
        raise RefusedError(
            Cause.TOO_FEW_SIGNATURES,
            None,
            f"expected {needed} signatures of the roster of {len(keys)}, got {len(message.endorsements)}; the epoch is "
            "void, start another",
        )
