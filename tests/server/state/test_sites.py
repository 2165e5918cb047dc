"""Sites and their certificates."""

import pytest

from tests.server.state.at_once import at_once
from tests.server.state.rows import NOW, add_sites, later, public_key
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.database import Database, TakenError
from wardround.server.state.sites import Sites, SiteState
from wardround.signing_key import fingerprint_of

A, B = SiteId("Hospital A"), SiteId("Hospital B")
TLS, IDENTITY = CertificateKind.TLS, CertificateKind.IDENTITY


def test_a_name_and_a_key_are_one_sites(database: Database) -> None:
    sites = Sites(database)
    site = sites.add(A, public_key(1), now=NOW, software="0.1")
    assert sites.get(A) == site
    assert (site.fingerprint, site.state, site.software) == (fingerprint_of(public_key(1)), SiteState.ACTIVE, "0.1")
    for name, key in ((A, 2), (B, 1), (A, 1)):
        with pytest.raises(TakenError, match="revoke that site first"):
            sites.add(name, public_key(key), now=NOW)
    assert sites.list() == [site]


def test_a_name_is_given_once_however_many_ask(database: Database, url: str) -> None:
    def add(one: Database, number: int) -> bool:
        try:
            Sites(one).add(A, public_key(number), now=NOW)
        except TakenError:
            return False
        return True

    assert sum(at_once(url, 8, add)) == 1


def test_a_revoked_site_joins_again_once(database: Database, url: str) -> None:
    sites = Sites(database)
    sites.add(A, public_key(1), now=NOW)
    assert sites.revoke(A, later())
    assert not sites.revoke(A, later(2))
    assert not sites.revoke(B, later())
    found = sites.get(A)
    assert found is not None
    assert (found.state, found.revoked_at) == (SiteState.REVOKED, later())

    def join(one: Database, number: int) -> bool:
        try:
            Sites(one).add(A, public_key(number + 2), now=later(3))
        except TakenError:
            return False
        return True

    assert sum(at_once(url, 4, join)) == 1
    found = sites.get(A)
    assert found is not None
    assert (found.state, found.revoked_at, found.joined) == (SiteState.ACTIVE, None, later(3))


def test_the_time_of_the_last_connection_only_goes_on(database: Database) -> None:
    sites = Sites(database)
    sites.add(A, public_key(), now=NOW)
    sites.seen(A, later(2), "0.2")
    sites.seen(A, later(1), "0.1")
    sites.seen(A, later(3))
    found = sites.get(A)
    assert found is not None
    assert (found.last_seen, found.software) == (later(3), "0.2")


def test_certificates_are_revoked_one_by_one_and_by_site(database: Database) -> None:
    add_sites(database, A, B)
    certificates = Certificates(database)
    big = (1 << 159) - 1
    for kind, serial, site, hours in ((TLS, big, A, 5), (TLS, 2, A, 3), (IDENTITY, big, A, 9), (TLS, 4, B, 5)):
        certificates.add(kind, serial, site=site, der=b"der", not_after=later(hours))
    assert [one.serial for one in certificates.of_site(A)] == [2, big, big]
    assert [one.serial for one in certificates.of_site(A, TLS)] == [2, big]
    assert certificates.get(TLS, 5) is None
    assert certificates.revoke(TLS, 4, NOW)
    assert not certificates.revoke(TLS, 4, later())
    assert certificates.revoke_site(A, later()) == 3
    assert certificates.revoke_site(A, later(2)) == 0
    assert certificates.all_revoked(TLS) == {big, 2, 4}
    assert certificates.all_revoked(IDENTITY) == {big}
    assert certificates.all_revoked(TLS, ending_after=later(4)) == {big, 4}
    found = certificates.get(TLS, big)
    assert found is not None
    assert (found.kind, found.site, found.der, found.revoked_at) == (TLS, A, b"der", later())


def test_a_serial_number_is_given_once_within_its_kind(database: Database) -> None:
    add_sites(database, A)
    certificates = Certificates(database)
    certificates.add(TLS, 7, site=A, der=b"1", not_after=NOW)
    certificates.add(IDENTITY, 7, site=A, der=b"2", not_after=NOW)
    with pytest.raises(TakenError):
        certificates.add(TLS, 7, site=A, der=b"3", not_after=NOW)
    with pytest.raises(LocalError):
        certificates.add(TLS, 8, site=B, der=b"of nobody", not_after=NOW)
