"""The table of certificates does not grow without end, and forgets nothing that was revoked."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.server.pki.federation import Asker, Federation
from tests.server.state.rows import NOW, add_sites
from wardround.join_messages import JoinRefusal
from wardround.orders import SiteId
from wardround.server.pki.join_verdict import JoinRefusedError
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.database import Database

DAY = timedelta(days=1)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    yield made
    made.close()


def test_what_ended_long_ago_is_deleted_unless_it_was_revoked_or_is_a_sites_last(database: Database) -> None:
    a, b = add_sites(database, "A", "B")
    certificates = Certificates(database)
    for kind in CertificateKind:
        for serial, days in ((1, -30), (2, -30), (3, -20), (4, 1)):
            certificates.add(kind, serial, site=a, der=b"x", not_after=NOW + days * DAY)
        certificates.revoke(kind, 1, NOW - 40 * DAY)
        for serial in (5, 6):
            certificates.add(kind, serial, site=b, der=b"x", not_after=NOW - (100 - serial) * DAY)
    assert certificates.tidy(NOW - 20 * DAY) == 4
    assert certificates.tidy(NOW - 20 * DAY) == 0
    for kind in CertificateKind:
        assert [one.serial for one in certificates.of_site(a, kind)] == [1, 3, 4]
        assert [one.serial for one in certificates.of_site(b, kind)] == [6]
        assert certificates.all_revoked(kind) == {1}


def test_a_key_that_is_revoked_long_after_its_end_is_not_taken_again(federation: Federation) -> None:
    asker, site = Asker(), SiteId("A")
    federation.enrolment.join(asker.request(federation.enrolment.invite(site, by="anna")))
    federation.clock.forward(timedelta(days=1000))
    Certificates(federation.database).tidy(federation.clock())
    federation.enrolment.revoke(site, by="anna")
    with pytest.raises(JoinRefusedError) as refused:
        federation.enrolment.join(asker.request(federation.enrolment.invite(site, by="anna")))
    assert refused.value.refusal is JoinRefusal.KEY_TAKEN
