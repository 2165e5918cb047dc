"""The way to a real server: what works, and every way in which it does not, each with its name."""

import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.client.doctor.inspecting_proxy import INSPECTOR, inspecting
from tests.client.doctor.served_site import ServedSite
from tests.client.enrolment.https_server import proxying, server_tls, serving
from tests.server.pki.federation import Clock, Federation
from wardround.client.doctor.finding import Finding, Level
from wardround.client.doctor.network import check_network, judge_clock
from wardround.client.link.target import split_target
from wardround.clock import utc_now
from wardround.server.pki.tls_authority import issue_site
from wardround.tls_identity import TlsKey, pem_of

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
IN_ORDER = ["proxy", "name", "https", "tls", "clock", "link", "tls"]


def problems(findings: list[Finding]) -> list[Finding]:
    found = [one for one in findings if one.level is Level.PROBLEM]
    assert all(one.fix for one in found)
    return found


def test_a_site_that_has_joined_reaches_both_ports(served: ServedSite) -> None:
    found = served.network()
    assert [one.check for one in found] == IN_ORDER
    assert {one.level for one in found} == {Level.OK}
    assert found[1].text == "localhost is 127.0.0.1" or "::1" in found[1].text
    assert all("TLSv1.3, a certificate of the authority of this federation" in found[at].text for at in (3, 6))


def test_it_is_looked_at_before_joining_too_and_no_more_is_said_than_is_known(served: ServedSite) -> None:
    found = served.network(joined=False)
    assert [one.check for one in found] == IN_ORDER
    assert {one.level for one in found} == {Level.OK}
    assert "the authority that it names; join checks which" in found[3].text


def test_each_port_is_reached_through_the_proxy(served: ServedSite) -> None:
    with proxying() as (port, asked):
        served.environment = {"HTTPS_PROXY": f"http://anna:geheim@127.0.0.1:{port}"}
        found = served.network(host="localhost")
    assert {one.level for one in found} == {Level.OK, Level.SKIPPED}
    assert [one.text for one in found if one.level is Level.SKIPPED] == ["localhost: left to the proxy"]
    assert set(asked) == {f"localhost:{served.https}", f"localhost:{served.link}"}
    assert f"localhost:{served.link} through 127.0.0.1:{port}" in found[0].text
    assert "geheim" not in "".join(one.line() for one in found)


@pytest.mark.parametrize("joined", [True, False])
def test_a_proxy_that_opens_tls_is_named_on_both_ports(served: ServedSite, joined: bool) -> None:
    with inspecting() as port:
        served.environment = {"HTTPS_PROXY": f"http://127.0.0.1:{port}"}
        found = served.network(joined=joined)
    bad = problems(found)
    assert [one.check for one in bad] == ["tls", "tls"]
    for one in bad:
        assert f"got one of CN={INSPECTOR}" in one.text and "TLS-inspecting proxy" in one.text
        assert "unopened" in str(one.fix)
    [clock] = [one for one in found if one.check == "clock"]
    assert "what answers in the server's place" in clock.text


def test_a_proxy_that_refuses_says_why(served: ServedSite) -> None:
    with proxying(login="Basic bm9ib2R5") as (port, _):
        served.environment = {"HTTPS_PROXY": f"http://127.0.0.1:{port}"}
        assert {one.fix for one in problems(served.network())} == {"put its login into HTTPS_PROXY"}
    with proxying(status=403) as (port, _):
        served.environment = {"HTTPS_PROXY": f"http://127.0.0.1:{port}"}
        found = problems(served.network())
    assert [one.check for one in found] == ["https", "link"]
    assert found[1].fix == f"have it allow CONNECT to localhost:{served.link}"
    served.environment = {"HTTPS_PROXY": f"http://127.0.0.1:{port}"}  # it is gone now
    assert all("cannot be reached" in one.text and one.fix == "check HTTPS_PROXY" for one in problems(served.network()))
    served.environment = {"HTTPS_PROXY": "socks5://127.0.0.1:1"}
    [bad] = served.network()
    assert (bad.check, bad.level) == ("proxy", Level.PROBLEM)


@pytest.mark.parametrize(("minutes", "level"), [(6, Level.PROBLEM), (-6, Level.PROBLEM), (2, Level.WARNING)])
def test_a_wrong_clock(served: ServedSite, minutes: int, level: Level) -> None:
    served.now = lambda: utc_now() + timedelta(minutes=minutes)
    [clock] = [one for one in served.network() if one.check == "clock"]
    assert clock.level is level
    assert ("ahead of the server's" if minutes > 0 else "behind the server's") in clock.text


def test_five_minutes_are_allowed_as_for_join() -> None:
    assert judge_clock(NOW, NOW + timedelta(seconds=300)).level is Level.WARNING
    assert judge_clock(NOW, NOW + timedelta(seconds=301)).level is Level.PROBLEM
    assert judge_clock(NOW, NOW).level is Level.OK


def test_a_name_without_an_address(served: ServedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = served.network(host="fl.example.org")
    assert [(one.check, one.level) for one in found] == [("proxy", Level.OK), ("name", Level.PROBLEM)]
    assert "fl.example.org: has no address (Name or service not known)" in found[1].text


def test_name_servers_that_do_not_answer(served: ServedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answered.wait(60) and [])
    try:
        [_, name] = check_network(replace(served.situation(host="fl.example.org"), timeout_s=0.05))
    finally:
        answered.set()
    assert name.level is Level.PROBLEM and "give no answer within 0.05 s" in name.text


def test_a_port_that_is_closed_and_one_that_is_silent(served: ServedSite) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        served.link = closed.getsockname()[1]
        [bad] = problems(served.network())
    assert bad.check == "link" and "cannot be reached (Connection refused)" in bad.text and "firewall" in str(bad.fix)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        situation = replace(served.situation(), link=("localhost", silent.getsockname()[1]), timeout_s=1.0)
        [bad] = problems(list(check_network(situation)))
    assert bad.check == "link" and "is cut off when TLS begins" in bad.text


def test_something_without_tls_answers(served: ServedSite) -> None:
    with proxying() as (port, _):  # speaks HTTP, without TLS
        served.https = port
        bad = problems(served.network())
    assert bad[0].check == "tls" and "but not with TLS" in bad[0].text


def test_the_port_for_people_in_place_of_the_one_for_sites(served: ServedSite) -> None:
    served.link = served.https
    [bad] = problems(served.network())
    assert bad.check == "tls" and "but not its port for sites" in bad.text


def test_a_server_that_does_not_know_this_sites_certificate(served: ServedSite) -> None:
    """Another federation's site, say: the server refuses it after the handshake, which a client sees late."""
    stranger, key = Federation(served.site.folder.parent / "other", Clock(utc_now())), TlsKey.make()
    try:
        made = issue_site(
            stranger.authority,
            stranger.keyring.tls_authority,
            name="Hospital A",
            public=key.public,
            now=utc_now(),
            random=lambda n: bytes(range(n)),
        )
    finally:
        stranger.close()
    served.folder.write("tls-identity.pem", key.pem + pem_of(made))
    [bad] = problems(served.network())
    assert bad.check == "tls" and "does not take this site's certificate" in bad.text
    served.folder.write("tls-identity.pem", b"nothing")
    assert not problems(served.network())  # of the network; the check of certificates says what is wrong


def test_a_server_for_another_name_and_an_old_tls(served: ServedSite) -> None:
    [bad, other] = problems(served.network(host="127.0.0.1"))
    assert "is of this federation, but not for 127.0.0.1" in bad.text and other.check == "tls"
    federation = served.site.federation
    with serving(served.site.routes, lambda: server_tls(federation), newest=False) as port:
        situation = replace(served.situation(), server=("localhost", port))
        bad = problems(list(check_network(situation)))[0]
    assert "no connection with TLS 1.3" in bad.text and "TLSv1.2" in bad.text


def test_without_a_server_nothing_is_called(served: ServedSite) -> None:
    [only] = check_network(replace(served.situation(), server=None))
    assert only.level is Level.SKIPPED and "--server" in only.text
    assert split_target(served.folder.facts.target) == ("localhost", served.link)
