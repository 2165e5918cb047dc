"""Invitations, joins, renewals, revocations: what is let in, and every way in which it is not."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.postgresql import Cluster, running
from tests.server.pki.federation import NOW, Asker, Clock, Federation
from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import RESERVED_SERVER_NAME
from wardround.identity import Authority, Revocations
from wardround.invitation import Invitation, read_invitation, token_hash
from wardround.join_messages import JoinAnswer, JoinRefusal, JoinRequest, LeaveRequest, join_statement
from wardround.orders import SiteId
from wardround.server.pki.enrolment import Enrolment, ServerAddress
from wardround.server.pki.join_verdict import JoinRefusedError
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.invitations import Invitations
from wardround.server.state.settings import CRL_NUMBER, Settings
from wardround.server.state.sites import Sites, SiteState
from wardround.signing_key import SigningKey, fingerprint_of
from wardround.tls_identity import TlsAuthority, TlsKey

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
A = SiteId("Hospital A")


def joined(federation: Federation, asker: Asker, name: str = A) -> JoinAnswer:
    return federation.enrolment.join(asker.request(federation.enrolment.invite(name, by="anna")))


def refusal_of(federation: Federation, asked: JoinRequest) -> JoinRefusal:
    with pytest.raises(JoinRefusedError) as caught:
        federation.enrolment.join(asked)
    return caught.value.refusal


def test_an_invitation_is_one_line_of_which_only_a_hash_is_kept(federation: Federation, tmp_path: Path) -> None:
    made = federation.enrolment.invite(A, by="anna")
    assert read_invitation(made.text()) == made
    assert made.authority == TlsAuthority(federation.authority).fingerprint
    [row] = Invitations(federation.database).list()
    assert (row.site, row.token_hash, row.expires, row.created_by) == (
        A,
        token_hash(made.token),
        NOW + 72 * HOUR,
        "anna",
    )
    files = [path.read_bytes() for path in (tmp_path / "server").iterdir()]
    assert files
    assert not any(made.token in data or made.token.hex().encode() in data for data in files)


def test_a_join_gives_certificates_for_both_keys_under_the_name_of_the_invitation(federation: Federation) -> None:
    asker = Asker()
    answer = joined(federation, asker)
    found = TlsAuthority(federation.authority).verify_site(answer.certificate, now=NOW)
    assert (found.name, found.public) == (A, asker.tls.public)
    assert found.not_after == NOW + 30 * DAY
    trusted = Authority(answer.identity_authority)
    revoked = trusted.revocations(answer.revocations, NOW)
    assert trusted.verify(answer.identity, name=A, now=NOW, revocations=revoked).public == asker.signing.public
    assert (answer.server, answer.target, answer.time) == (federation.keyring.signing.public, "localhost:8444", NOW)
    site = Sites(federation.database).get(A)
    assert site is not None
    assert (site.state, site.fingerprint) == (SiteState.ACTIVE, fingerprint_of(asker.signing.public))
    assert federation.enrolment.gate.admit(answer.certificate) == A
    [event] = federation.events("site.joined")
    assert (event["by"], event["fingerprint"]) == ("anna", site.fingerprint)


def test_a_join_whose_answer_was_lost_is_answered_the_same_even_after_a_restart(federation: Federation) -> None:
    asker = Asker()
    asked = asker.request(federation.enrolment.invite(A, by="anna"))
    first = federation.enrolment.join(asked)
    federation.clock.forward(80 * HOUR)  # longer than an invitation is good for
    second = federation.again().join(asked)
    assert (second.certificate, second.identity) == (first.certificate, first.identity)
    assert len(federation.events("site.joined")) == 1
    federation.clock.forward(30 * DAY)
    assert refusal_of(federation, asked) is JoinRefusal.USED  # there is nothing good to give any more


def stolen(invitation: Invitation, asker: Asker) -> JoinRequest:
    return Asker().request(invitation)


def other_tls_key(invitation: Invitation, asker: Asker) -> JoinRequest:
    thief = Asker()
    thief.signing = asker.signing
    return thief.request(invitation)


def other_signing_key(invitation: Invitation, asker: Asker) -> JoinRequest:
    thief = Asker()
    thief.tls = asker.tls
    return thief.request(invitation)


@pytest.mark.parametrize("attack", [stolen, other_tls_key, other_signing_key])
def test_a_used_token_with_another_key_is_refused_and_said_when_it_was_used(
    federation: Federation, attack: Callable[[Invitation, Asker], JoinRequest]
) -> None:
    asker = Asker()
    invitation = federation.enrolment.invite(A, by="anna")
    federation.enrolment.join(asker.request(invitation))
    asked = attack(invitation, asker)
    federation.clock.forward(HOUR)
    with pytest.raises(JoinRefusedError) as caught:
        federation.enrolment.join(asked)
    assert (caught.value.refusal, caught.value.used_at) == (JoinRefusal.USED, NOW)
    [event] = federation.events("site.join_refused")
    assert (event["refusal"], event["fingerprint"]) == ("used", fingerprint_of(asked.signing_public))
    site = Sites(federation.database).get(A)
    assert site is not None
    assert site.signing_public == asker.signing.public


def test_who_holds_a_token_cannot_fill_the_timeline(federation: Federation) -> None:
    asker = Asker()
    invitation = federation.enrolment.invite(A, by="anna")
    federation.enrolment.join(asker.request(invitation))
    for _ in range(12):
        assert refusal_of(federation, stolen(invitation, asker)) is JoinRefusal.USED
    assert len(federation.events("site.join_refused")) == 10


def test_a_token_that_nobody_was_given_leaves_nothing(federation: Federation) -> None:
    made = federation.enrolment.invite(A, by="anna")
    asked = Asker().request(replace(made, token=bytes(16)))
    assert refusal_of(federation, asked) is JoinRefusal.UNKNOWN
    assert not federation.events("site.join_refused")


def test_an_expired_token_is_refused_to_the_second(federation: Federation) -> None:
    early, late = federation.enrolment.invite(A, by="anna"), federation.enrolment.invite("Hospital B", by="anna")
    federation.clock.forward(72 * HOUR - timedelta(seconds=1))
    federation.enrolment.join(Asker().request(early))
    federation.clock.forward(timedelta(seconds=1))
    assert refusal_of(federation, Asker().request(late)) is JoinRefusal.EXPIRED


def test_a_withdrawn_token_is_refused_and_a_new_invitation_withdraws_the_old(federation: Federation) -> None:
    first = federation.enrolment.invite(A, by="anna")
    second = federation.enrolment.invite(A, by="anna")
    assert refusal_of(federation, Asker().request(first)) is JoinRefusal.WITHDRAWN
    newest = Invitations(federation.database).find_by_hash(token_hash(second.token))
    assert newest is not None
    assert federation.enrolment.withdraw(newest.id, by="anna")
    assert not federation.enrolment.withdraw(newest.id, by="anna")
    assert not federation.enrolment.withdraw("no such invitation", by="anna")
    assert refusal_of(federation, Asker().request(second)) is JoinRefusal.WITHDRAWN
    assert len(federation.events("site.invitation_withdrawn")) == 1


def test_a_used_invitation_is_not_withdrawn_by_a_new_one(federation: Federation) -> None:
    asker = Asker()
    first = federation.enrolment.invite(A, by="anna")
    federation.enrolment.join(asker.request(first))
    federation.enrolment.revoke(A, by="anna")
    federation.enrolment.invite(A, by="anna")
    assert refusal_of(federation, Asker().request(first)) is JoinRefusal.USED


def test_no_site_gets_the_servers_own_name_in_signatures(federation: Federation) -> None:
    for name in (RESERVED_SERVER_NAME, "Wardround Server"):
        with pytest.raises(LocalError, match="is the server's own name"):
            federation.enrolment.invite(name, by="ada")
    invited = federation.enrolment.invite(A, by="ada")
    with federation.database.transaction() as connection:  # from before the name was reserved
        connection.exec_driver_sql(f"UPDATE invitations SET site = '{RESERVED_SERVER_NAME}'")  # noqa: S608
    asked = Asker().request(invited)
    assert refusal_of(federation, asked) is JoinRefusal.NAME_TAKEN
    assert Sites(federation.database).list() == []


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", " a"])
def test_only_names_of_sites_are_invited(federation: Federation, name: str) -> None:
    with pytest.raises(LocalError, match="invitation: expected a site's name"):
        federation.enrolment.invite(name, by="anna")


def test_a_name_that_takes_part_is_neither_invited_nor_joined_again(federation: Federation) -> None:
    joined(federation, Asker())
    with pytest.raises(LocalError, match="Hospital A: takes part already"):
        federation.enrolment.invite(A, by="anna")
    # an invitation that was open all along: as after a restored backup
    other = replace(federation.enrolment.invite("Hospital B", by="anna"), token=os.urandom(16))
    Invitations(federation.database).add(
        site=A, token_hash=token_hash(other.token), expires=NOW + HOUR, created_by="anna", now=NOW
    )
    assert refusal_of(federation, Asker().request(other)) is JoinRefusal.NAME_TAKEN


def test_a_request_for_another_name_than_the_invitations_is_refused_unused(federation: Federation) -> None:
    invitation = federation.enrolment.invite(A, by="anna")
    assert refusal_of(federation, Asker().request(invitation, "Hospital B")) is JoinRefusal.WRONG_NAME
    assert federation.enrolment.join(Asker().request(invitation, A)).name == A


def forged_proof(asked: JoinRequest, asker: Asker) -> JoinRequest:
    return replace(asked, proof=SigningKey(bytes(32)).sign(join_statement(asked.token, asked.request)))


def other_token(asked: JoinRequest, asker: Asker) -> JoinRequest:
    return replace(asked, token=bytes(16))


def other_request(asked: JoinRequest, asker: Asker) -> JoinRequest:
    return replace(asked, request=TlsKey.make().request())


def altered_request(asked: JoinRequest, asker: Asker) -> JoinRequest:
    altered = asked.request[:-1] + bytes([asked.request[-1] ^ 1])
    return replace(asked, request=altered, proof=asker.signing.sign(join_statement(asked.token, altered)))


def somebody_elses_signing_key(asked: JoinRequest, asker: Asker) -> JoinRequest:
    return replace(asked, signing_public=SigningKey(bytes(32)).public)


def key_of_small_order(asked: JoinRequest, asker: Asker) -> JoinRequest:
    return replace(asked, signing_public=bytes(32))


@pytest.mark.parametrize(
    "attack",
    [forged_proof, other_token, other_request, altered_request, somebody_elses_signing_key, key_of_small_order],
)
def test_keys_that_are_not_the_askers_are_refused_before_the_token_counts(
    federation: Federation, attack: Callable[[JoinRequest, Asker], JoinRequest]
) -> None:
    asker = Asker()
    invitation = federation.enrolment.invite(A, by="anna")
    assert refusal_of(federation, attack(asker.request(invitation), asker)) is JoinRefusal.MALFORMED
    assert federation.enrolment.join(asker.request(invitation)).name == A


def test_a_signing_key_is_one_sites(federation: Federation) -> None:
    first, second = Asker(), Asker()
    joined(federation, first)
    second.signing = first.signing
    asked = second.request(federation.enrolment.invite("Hospital B", by="anna"))
    assert refusal_of(federation, asked) is JoinRefusal.KEY_TAKEN
    assert Sites(federation.database).get(SiteId("Hospital B")) is None


def test_of_many_joins_at_once_with_one_token_one_is_let_in(federation: Federation) -> None:
    invitation = federation.enrolment.invite(A, by="anna")
    asked = [Asker().request(invitation) for _ in range(6)]
    start, results = threading.Barrier(len(asked)), list[str]()

    def ask(one: JoinRequest) -> None:
        enrolment = federation.again()  # without the lock of one object: the database alone decides
        start.wait()
        try:
            results.append(enrolment.join(one).name)
        except JoinRefusedError as error:
            results.append(error.refusal.value)

    threads = [threading.Thread(target=ask, args=(one,)) for one in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [A, *["used"] * 5]


# -- renewal ------------------------------------------------------------------------------------------


def test_a_renewal_gives_new_certificates_and_the_same_again_for_the_same_request(federation: Federation) -> None:
    asker, key = Asker(), TlsKey.make()
    first = joined(federation, asker)
    federation.clock.forward(20 * DAY)
    asked = asker.renewal(A, key)
    second = federation.enrolment.renew(A, asked)
    found = TlsAuthority(federation.authority).verify_site(second.certificate, now=federation.clock())
    assert (found.name, found.public) == (A, key.public)
    assert found.not_after == NOW + 50 * DAY
    assert second.identity != first.identity
    assert federation.enrolment.renew(A, asked) == second
    assert federation.enrolment.gate.admit(first.certificate) == A  # until it ends: a connection goes over in peace
    assert federation.enrolment.gate.admit(second.certificate) == A


def test_a_renewal_needs_the_signing_key_a_new_key_and_its_own_name(federation: Federation) -> None:
    asker, thief = Asker(), Asker()
    joined(federation, asker)
    joined(federation, thief, "Hospital B")
    federation.clock.forward(20 * DAY)
    with pytest.raises(RemoteError, match="Hospital A, renewal: expected a valid signature"):
        federation.enrolment.renew(A, thief.renewal(A, TlsKey.make()))
    with pytest.raises(RemoteError, match="expected a request for this name, got Hospital B"):
        federation.enrolment.renew(A, asker.renewal("Hospital B", TlsKey.make()))
    federation.clock.forward(11 * DAY)
    with pytest.raises(RemoteError, match="expected a new key"):
        federation.enrolment.renew(A, asker.renewal(A, asker.tls))
    with pytest.raises(RemoteError, match="expected a site that takes part"):
        federation.enrolment.renew(SiteId("Hospital C"), asker.renewal("Hospital C", TlsKey.make()))


def test_certificates_are_not_collected(federation: Federation) -> None:
    asker = Asker()
    joined(federation, asker)
    with pytest.raises(RemoteError, match="one renewal an hour"):
        federation.enrolment.renew(A, asker.renewal(A, TlsKey.make()))
    federation.clock.forward(HOUR)
    federation.enrolment.renew(A, asker.renewal(A, TlsKey.make()))
    assert len(Certificates(federation.database).of_site(A)) == 4


# -- revocation ---------------------------------------------------------------------------------------


def test_a_revoked_site_is_out_at_once_and_everywhere(federation: Federation) -> None:
    asker, stays = Asker(), Asker()
    answer, other = joined(federation, asker), joined(federation, stays, "Hospital B")
    gate = federation.enrolment.gate
    assert gate.admit(answer.certificate) == A
    gate.admit(other.certificate)
    assert gate.still(answer.certificate)
    assert federation.enrolment.revoke(A, by="anna", reason="left\nthe study")
    assert not gate.still(answer.certificate)
    assert gate.still(other.certificate)
    for enrolment in (federation.enrolment, federation.again()):
        with pytest.raises(RemoteError, match="Hospital A: expected a site that takes part"):
            enrolment.gate.admit(answer.certificate)
    trusted = Authority(federation.identity_authority)
    revoked = trusted.revocations(federation.enrolment.revocations(), NOW)
    with pytest.raises(RemoteError, match="is revoked"):
        trusted.verify(answer.identity, name=A, now=NOW, revocations=revoked)
    assert federation.revocations[-1] == federation.enrolment.revocations()
    with pytest.raises(RemoteError, match="expected a site that takes part"):
        federation.enrolment.renew(A, asker.renewal(A, TlsKey.make()))
    [event] = federation.events("site.revoked")
    assert event == {"reason": "left\ufffdthe study", "revocations": revoked.number}
    assert not federation.enrolment.revoke(A, by="anna")
    with pytest.raises(LocalError, match="expected a site that has joined"):
        federation.enrolment.revoke("Hospital C", by="anna")


def goodbye(federation: Federation, asker: Asker, name: SiteId = A, time: datetime | None = None) -> LeaveRequest:
    return asker.goodbye(name, federation.keyring.signing.public, time or federation.clock())


def test_a_site_that_says_so_itself_is_out_at_once_and_twice_is_once(federation: Federation) -> None:
    asker, stays = Asker(), Asker()
    answer, other = joined(federation, asker), joined(federation, stays, "Hospital B")
    gate = federation.enrolment.gate
    gate.admit(answer.certificate)
    gate.admit(other.certificate)
    asked = goodbye(federation, asker)
    assert federation.enrolment.leave(asked)
    assert not gate.still(answer.certificate) and gate.still(other.certificate)
    trusted = Authority(federation.identity_authority)
    revoked = trusted.revocations(federation.enrolment.revocations(), NOW)
    with pytest.raises(RemoteError, match="is revoked"):
        trusted.verify(answer.identity, name=A, now=NOW, revocations=revoked)
    assert not federation.enrolment.leave(asked) and not federation.enrolment.leave(goodbye(federation, asker))
    assert federation.events("site.left") == [{"revocations": revoked.number}]
    assert not federation.enrolment.revoke(A, by="anna") and federation.events("site.revoked") == []


@pytest.mark.parametrize("again", [False, True])
def test_nobody_else_puts_a_site_out(federation: Federation, again: bool) -> None:
    """Not another site, nor a word for another federation, site or time; nor the old key of a site with a new one."""
    asker, other, now = Asker(), Asker(), federation.clock()
    if again:
        joined(federation, asker)
        federation.enrolment.revoke(A, by="anna")
    old = goodbye(federation, asker)
    asker = Asker() if again else asker
    answer = joined(federation, asker)
    joined(federation, other, "Hospital B")
    good, server = goodbye(federation, asker), federation.keyring.signing.public
    forged = [
        replace(good, proof=bytes(64)),
        goodbye(federation, other),
        replace(goodbye(federation, other, SiteId("Hospital B")), name=A),
        replace(good, time=now + timedelta(seconds=1)),
        asker.goodbye(A, other.signing.public, now),
        replace(good, proof=asker.renewal(A, TlsKey.make()).proof),
        replace(good, proof=asker.signing.sign(join_statement(bytes(16), server))),
        replace(good, name=SiteId("Hospital C")),
        LeaveRequest(name=SiteId("Hospital C"), time=now, proof=federation.keyring.signing.sign(b"")),
    ]
    for one in (*forged, *([old] if again else [])):
        with pytest.raises(RemoteError, match="expected the word of a site that has joined here"):
            federation.enrolment.leave(one)
    assert federation.enrolment.gate.admit(answer.certificate) == A
    assert federation.events("site.left") == []


@pytest.mark.parametrize("off", [timedelta(minutes=-6), timedelta(minutes=6), timedelta(days=300)])
def test_an_old_word_does_not_count(federation: Federation, off: timedelta) -> None:
    asker = Asker()
    answer = joined(federation, asker)
    with pytest.raises(RemoteError, match=r"within 5 minutes of 2026-01-05 12:00 .*set the clock right"):
        federation.enrolment.leave(goodbye(federation, asker, time=federation.clock() - off))
    assert federation.enrolment.gate.admit(answer.certificate) == A
    assert federation.enrolment.leave(goodbye(federation, asker, time=federation.clock() + timedelta(minutes=4)))


def test_a_revoked_site_comes_back_by_a_new_invitation_and_with_new_keys_alone(federation: Federation) -> None:
    asker = Asker()
    first_invitation = federation.enrolment.invite(A, by="anna")
    first = federation.enrolment.join(asker.request(first_invitation))
    federation.clock.forward(DAY)
    federation.enrolment.revoke(A, by="anna")
    assert refusal_of(federation, asker.request(first_invitation)) is JoinRefusal.USED
    invitation = federation.enrolment.invite(A, by="anna")
    assert refusal_of(federation, asker.request(invitation)) is JoinRefusal.KEY_TAKEN
    assert refusal_of(federation, other_signing_key(invitation, asker)) is JoinRefusal.KEY_TAKEN
    assert refusal_of(federation, other_tls_key(invitation, asker)) is JoinRefusal.KEY_TAKEN
    second = federation.enrolment.join(Asker().request(invitation))
    for enrolment in (federation.enrolment, federation.again()):
        assert enrolment.gate.admit(second.certificate) == A
        with pytest.raises(RemoteError, match="a certificate that is not revoked"):
            enrolment.gate.admit(first.certificate)


def test_revocation_lists_go_up_are_made_again_daily_and_forget_what_has_ended(federation: Federation) -> None:
    trusted = Authority(federation.identity_authority)

    def newest() -> Revocations:
        return trusted.revocations(federation.enrolment.revocations(), federation.clock())

    asker = Asker()
    joined(federation, asker)
    first = newest()
    assert newest() == first
    federation.enrolment.revoke(A, by="anna")
    second = newest()
    assert second.number > first.number
    assert len(second.serials) == 1
    federation.clock.forward(23 * HOUR)
    assert newest() == second
    federation.clock.forward(HOUR)
    third = newest()
    assert third.number > second.number
    assert third.serials == second.serials
    federation.clock.forward(31 * DAY)
    assert not newest().serials


def test_a_restored_server_gives_no_number_of_a_list_twice(federation: Federation) -> None:
    trusted = Authority(federation.identity_authority)
    joined(federation, Asker())
    seen = trusted.revocations(federation.enrolment.revocations(), NOW).number
    Settings(federation.database).put(CRL_NUMBER, "1")  # of an old backup
    federation.clock.forward(2 * DAY)
    trusted.revocations(federation.enrolment.revocations(), federation.clock(), newest=seen + 1)


def test_a_certificate_that_a_restored_database_has_forgotten_is_good_unless_its_site_joined_anew(
    federation: Federation,
) -> None:
    asker, key = Asker(), TlsKey.make()
    joined(federation, asker)
    federation.clock.forward(20 * DAY)
    renewed = federation.enrolment.renew(A, asker.renewal(A, key))
    with federation.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM certificates WHERE not_after > '2026-02-10'")
    assert federation.again().gate.admit(renewed.certificate) == A
    federation.clock.forward(HOUR)
    federation.enrolment.revoke(A, by="anna")
    federation.enrolment.join(Asker().request(federation.enrolment.invite(A, by="anna")))
    with pytest.raises(RemoteError, match="not revoked"):
        federation.again().gate.admit(renewed.certificate)


def test_a_revocation_that_cannot_be_written_is_none(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = joined(federation, Asker())
    federation.enrolment.gate.admit(answer.certificate)

    def full(*args: object, **kwargs: object) -> None:
        raise LocalError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("wardround.server.state.events.Events.add", full)
        with pytest.raises(LocalError, match="the disk is full"):
            federation.enrolment.revoke(A, by="anna")
    assert federation.enrolment.gate.still(answer.certificate)
    assert Certificates(federation.database).all_revoked(CertificateKind.TLS) == frozenset()
    assert federation.enrolment.revoke(A, by="anna")


# -- the same on PostgreSQL ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running() as found:
        yield found


def test_on_postgresql_too_one_token_lets_one_site_in_and_a_revoked_one_stays_out(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.database() as url:
        federation = Federation(tmp_path / "server", Clock(), url=url)
        try:
            test_of_many_joins_at_once_with_one_token_one_is_let_in(federation)
            federation.enrolment.revoke(A, by="anna")
            test_a_signing_key_is_one_sites(federation)
            test_a_renewal_gives_new_certificates_and_the_same_again_for_the_same_request(reopened(federation))
        finally:
            federation.close()


def reopened(federation: Federation) -> Federation:
    """With the first site out, so that its name is free."""
    federation.enrolment.revoke(A, by="anna")
    federation.clock.now = NOW
    return federation


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a:1", "a:1"),
        ("https://a", "a:1"),
        ("https://A:1", "a:1"),
        ("https://a:1", "a"),
        ("https://a:1", "a:99999"),
        ("https://a:1/x", "a:1"),
        ("https://a:1", "a:1/x"),
    ],
)
def test_an_address_is_a_host_and_a_port(url: str, target: str) -> None:
    with pytest.raises(LocalError, match="expected https://HOST:PORT and HOST:PORT"):
        ServerAddress(url=url, target=target)


def test_an_address_of_ipv6_has_brackets() -> None:
    found = ServerAddress.at("::1", https_port=8443, grpc_port=8444)
    assert (found.url, found.target) == ("https://[::1]:8443", "[::1]:8444")


def test_nothing_of_the_keyring_is_shown_by_what_holds_it(federation: Federation) -> None:
    made: Enrolment = federation.enrolment
    assert federation.keyring.tls_authority.hex() not in repr(made) + repr(made.gate) + repr(federation.keyring)
