"""Certificates that are renewed: when, for which key, and that none is ever without its key."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.enrolment.site import Site
from tests.server.pki.federation import NOW, Asker
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.enrolment import site_files
from wardround.client.enrolment.renewal import Renewal, renew_at
from wardround.client.enrolment.site_files import SiteFiles
from wardround.durable_file import replace_file
from wardround.errors import LocalError, RemoteError
from wardround.identity import issue_certificate
from wardround.join_messages import RenewalAnswer, RenewalRequest
from wardround.orders import SiteId
from wardround.server.pki.endpoints import handle_renewal
from wardround.tls_identity import TlsAuthority, TlsIdentity, TlsKey, der_of, read_request

A = SiteId("Hospital A")
DAY = timedelta(days=1)


@given(st.floats(0, 1), st.integers(1, 10**8))
def test_a_site_renews_after_two_thirds_of_the_time_with_a_quarter_left(fraction: float, seconds: int) -> None:
    lifetime = timedelta(seconds=seconds)
    at = renew_at(NOW, NOW + lifetime, fraction) - NOW
    slack = timedelta(milliseconds=1)
    assert lifetime * 2 / 3 - slack <= at <= lifetime * 3 / 4 + slack


def test_a_fraction_is_one() -> None:
    with pytest.raises(ValueError, match="expected a fraction from 0 to 1"):
        renew_at(NOW, NOW + DAY, 1.5)


def joined(site: Site) -> Renewal:
    site.join()
    site.federation.clock.forward(21 * DAY)
    return Renewal(SiteFolder(site.folder), fraction=0.5)


def tls_of(site: Site) -> tuple[TlsIdentity, TlsKey]:
    tls = SiteFiles(site.folder).tls()
    return TlsAuthority(site.federation.authority).read_site(der_of(tls.certificate)), TlsKey.read(tls.key)


def answered(site: Site, body: bytes) -> bytes:
    return handle_renewal(site.federation.enrolment, A, body)


def test_a_site_renews_its_certificates_with_a_new_key(site: Site) -> None:
    site.join()
    clock = site.federation.clock
    renewal = Renewal(SiteFolder(site.folder), fraction=0)
    before, _ = tls_of(site)
    assert not renewal.is_due(before.not_before + 20 * DAY - timedelta(seconds=1))
    clock.forward(20 * DAY + timedelta(minutes=1))
    assert renewal.is_due(clock())
    identity = SiteFolder(site.folder).read("identity.der")
    body = answered(site, renewal.request())
    assert renewal.accept(body, clock())
    after, key = tls_of(site)
    assert after.public == key.public != before.public
    assert after.not_after == renewal.not_after
    assert SiteFolder(site.folder).read("identity.der") != identity
    assert not renewal.is_due(clock())
    assert site.federation.enrolment.gate.admit(der_of(SiteFiles(site.folder).tls().certificate)) == A
    assert not (site.folder / "tls-next.pem").exists()
    assert not renewal.accept(body, clock())  # told twice
    assert tls_of(site)[0] == after


def test_the_same_is_asked_until_it_is_answered_and_after_a_restart(site: Site) -> None:
    renewal = joined(site)

    def key_in(body: bytes) -> bytes:
        return read_request(RenewalRequest.read(json.loads(body)).request).public

    first = key_in(renewal.request())
    assert key_in(renewal.request()) == first
    restarted = Renewal(SiteFolder(site.folder), fraction=0.1)
    assert key_in(restarted.request()) == first
    assert (site.folder / "tls-next.pem").stat().st_mode & 0o777 == 0o600
    assert restarted.accept(answered(site, restarted.request()), site.federation.clock())
    assert key_in(restarted.request()) != first


class Killed(BaseException):
    """The process ends here, as far as its files are concerned."""


@pytest.mark.parametrize("step", range(3))
def test_wherever_it_is_killed_there_is_a_key_with_its_certificate_and_a_way_on(
    site: Site, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewal = joined(site)
    body = answered(site, renewal.request())
    done: list[Path] = []

    def writing(path: Path, data: bytes, *, mode: int) -> None:
        if len(done) == step:
            raise Killed
        replace_file(path, data, mode=mode)
        done.append(path)

    def removing(files: SiteFiles, name: str) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(site_files, "replace_file", writing)
        patched.setattr(SiteFiles, "remove", removing)
        renewal.accept(body, site.federation.clock())
    found, key = tls_of(site)
    assert found.public == key.public
    assert site.federation.enrolment.gate.admit(der_of(SiteFiles(site.folder).tls().certificate)) == A
    again = Renewal(SiteFolder(site.folder), fraction=0)
    assert again.is_due(site.federation.clock()) == (step < 2)
    if step < 2:
        assert again.accept(answered(site, again.request()), site.federation.clock())
    else:  # what was left behind is not asked for again
        site.federation.clock.forward(21 * DAY)
        assert again.accept(answered(site, again.request()), site.federation.clock())
    found, key = tls_of(site)
    assert found.public == key.public


def test_after_a_join_that_was_killed_at_its_end_a_new_key_is_asked_for(site: Site) -> None:
    site.join()
    _, key = tls_of(site)
    SiteFiles(site.folder).write("tls-next.pem", key.pem)
    site.federation.clock.forward(21 * DAY)
    renewal = Renewal(SiteFolder(site.folder), fraction=0)
    assert renewal.accept(answered(site, renewal.request()), site.federation.clock())
    assert tls_of(site)[1].public != key.public


def test_a_key_without_its_certificate_is_refused(site: Site) -> None:
    site.join()
    tls = SiteFiles(site.folder).tls()
    SiteFiles(site.folder).write("tls-identity.pem", TlsKey.make().pem + tls.certificate)
    with pytest.raises(LocalError, match="expected a key and its certificate"):
        Renewal(SiteFolder(site.folder), fraction=0)
    SiteFiles(site.folder).write("tls-identity.pem", tls.certificate)
    with pytest.raises(LocalError, match=r"tls-identity\.pem: expected a P-256 key.*restore it"):
        SiteFiles(site.folder).tls()


def changed(site: Site, body: bytes, **parts: bytes) -> bytes:
    answer = RenewalAnswer.read(json.loads(body))
    values = {"certificate": answer.certificate, "identity": answer.identity} | parts
    return json.dumps(RenewalAnswer(**values).encode()).encode()


def certificate_for_another_key(site: Site, body: bytes) -> bytes:
    asker = Asker()
    other = site.federation.enrolment.join(asker.request(site.federation.enrolment.invite("Hospital B", by="anna")))
    return changed(site, body, certificate=other.certificate)


def identity_for_another_key(site: Site, body: bytes) -> bytes:
    federation = site.federation
    other = issue_certificate(
        federation.identity_authority,
        federation.keyring.identity_authority,
        name=A,
        public=Asker().signing.public,
        not_before=federation.clock(),
        not_after=federation.clock() + DAY,
        random=lambda size: bytes(size),
    )
    return changed(site, body, identity=other)


@pytest.mark.parametrize(
    "attack",
    [
        certificate_for_another_key,
        identity_for_another_key,
        lambda site, body: changed(site, body, certificate=b"nothing"),
        lambda site, body: changed(site, body, identity=b"nothing"),
        lambda site, body: b"",
        lambda site, body: b"[]",
        lambda site, body: b"[" * 100_000,
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(site: Site, attack: Callable[[Site, bytes], bytes]) -> None:
    renewal = joined(site)
    body = answered(site, renewal.request())
    before = {path.name: path.read_bytes() for path in site.folder.iterdir() if path.is_file()}
    with pytest.raises(RemoteError):
        renewal.accept(attack(site, body), site.federation.clock())
    assert {path.name: path.read_bytes() for path in site.folder.iterdir() if path.is_file()} == before
    assert renewal.accept(body, site.federation.clock())


def test_a_certificate_that_has_ended_is_not_taken(site: Site) -> None:
    renewal = joined(site)
    body = answered(site, renewal.request())
    site.federation.clock.forward(31 * DAY)
    with pytest.raises(RemoteError, match="is valid on"):
        renewal.accept(body, site.federation.clock())


def test_a_site_that_was_away_longer_than_its_revocation_list_is_good_for_renews_all_the_same(site: Site) -> None:
    renewal = joined(site)  # 21 days, while the list is good for 7
    assert renewal.accept(answered(site, renewal.request()), site.federation.clock())


def test_asking_reads_nothing_until_it_is_due(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    renewal = joined(site)
    site.federation.clock.forward(DAY)

    def reading(*args: Any) -> bytes:
        raise AssertionError("read")

    monkeypatch.setattr(SiteFiles, "read", reading)
    assert renewal.is_due(site.federation.clock())
