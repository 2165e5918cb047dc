"""Whom the gate admits, and how soon it does not any more."""

import os
import threading
from datetime import timedelta

import pytest

from tests.server.pki.federation import NOW, Clock
from wardround.errors import RemoteError
from wardround.orders import SiteId
from wardround.server.pki.site_gate import SiteGate
from wardround.server.pki.tls_authority import issue_site, make_tls_authority
from wardround.server.state.keyring import make_keyring
from wardround.tls_identity import TlsAuthority, TlsKey

KEY = make_keyring().tls_authority
CA = make_tls_authority(KEY, "cardio", now=NOW - timedelta(days=9), random=os.urandom)
A, B = SiteId("a"), SiteId("b")


def certificate(site: SiteId = A, *, ago: timedelta = timedelta(0)) -> bytes:
    return issue_site(CA, KEY, name=site, public=TlsKey.make().public, now=NOW - ago, random=os.urandom)


def gate(*joined: SiteId, clock: Clock | None = None) -> SiteGate:
    return SiteGate(TlsAuthority(CA), joined=[(site, NOW) for site in joined], now=clock or Clock())


def test_a_site_that_takes_part_is_admitted_and_stays_so() -> None:
    mine = certificate()
    found = gate(A)
    assert not found.still(mine)
    assert found.admit(mine) == A
    assert found.still(mine)


def test_one_that_never_joined_is_not() -> None:
    with pytest.raises(RemoteError, match="b: expected a site that takes part"):
        gate(A).admit(certificate(B))


def test_one_of_a_revoked_serial_number_is_not() -> None:
    mine = certificate()
    serial = TlsAuthority(CA).read_site(mine).serial
    found = SiteGate(TlsAuthority(CA), joined=[(A, NOW)], revoked=[serial], now=Clock())
    with pytest.raises(RemoteError, match="not revoked"):
        found.admit(mine)


def test_one_from_before_its_site_joined_is_not() -> None:
    found = gate(A)
    with pytest.raises(RemoteError, match="not revoked"):
        found.admit(certificate(ago=timedelta(seconds=1)))
    assert found.admit(certificate()) == A


def test_a_part_of_a_second_does_not_lock_a_site_out() -> None:
    clock = Clock(NOW + timedelta(milliseconds=900))
    found = SiteGate(TlsAuthority(CA), now=clock)
    found.let(A, clock())
    made = issue_site(CA, KEY, name=A, public=TlsKey.make().public, now=clock(), random=os.urandom)
    assert found.admit(made) == A


def test_a_certificate_that_ends_while_it_is_attached_is_out() -> None:
    clock, mine = Clock(), certificate()
    found = gate(A, clock=clock)
    found.admit(mine)
    clock.forward(timedelta(days=30))
    assert found.still(mine)
    clock.forward(timedelta(seconds=1))
    assert not found.still(mine)


def test_a_refusal_counts_at_once_for_all_certificates_of_the_site_and_for_no_others() -> None:
    mine, second, other = certificate(), certificate(), certificate(B)
    found = gate(A, B)
    for one in (mine, second, other):
        found.admit(one)
    found.refuse(A)
    assert [found.still(one) for one in (mine, second, other)] == [False, False, True]
    with pytest.raises(RemoteError, match="a: expected a site that takes part"):
        found.admit(mine)


def test_a_site_that_is_admitted_while_it_is_refused_does_not_slip_through() -> None:
    mine, found = certificate(), gate(A)
    at_the_check, refused = threading.Event(), threading.Event()
    verify = found._authority.verify_site

    class Slow:
        def verify_site(self, der: bytes, *, now: object) -> object:
            made = verify(der, now=NOW)
            at_the_check.set()
            refused.wait(10)
            return made

    found._authority = Slow()  # type: ignore[assignment]
    errors: list[RemoteError] = []

    def admit() -> None:
        try:
            found.admit(mine)
        except RemoteError as error:
            errors.append(error)

    thread = threading.Thread(target=admit)
    thread.start()
    assert at_the_check.wait(10)
    found.refuse(A)
    refused.set()
    thread.join()
    assert len(errors) == 1
    assert not found.still(mine)


def test_certificates_that_have_ended_are_forgotten() -> None:
    clock = Clock()
    found = gate(A, clock=clock)
    found.admit(certificate())
    clock.forward(timedelta(days=31))
    late = issue_site(CA, KEY, name=A, public=TlsKey.make().public, now=clock(), random=os.urandom)
    found.admit(late)
    assert list(found._admitted) == [late]
