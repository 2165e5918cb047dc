"""One invitation, one command: the site that comes of it, every refusal, and every place to break off."""

import base64
import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.client.enrolment.https_server import Answer, Routes, proxying, server_tls, serving
from tests.client.enrolment.site import Site
from tests.server.pki.federation import Asker, Federation
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.enrolment import site_files
from wardround.client.enrolment.exit_codes import JoinError, JoinExit
from wardround.client.enrolment.join import join
from wardround.client.enrolment.site_files import SiteFiles
from wardround.durable_file import replace_file
from wardround.errors import LocalError
from wardround.identity import issue_certificate, issue_revocations, site_name
from wardround.invitation import read_invitation, token_hash
from wardround.join_messages import JoinAnswer
from wardround.server.pki.tls_authority import issue_site
from wardround.server.state.invitations import Invitations
from wardround.server.state.sites import Sites
from wardround.signing_key import SigningKey, fingerprint_of
from wardround.tls_identity import TlsAuthority, TlsKey, certificate_fingerprint, der_of, pem_of, read_request

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
A = "Hospital A"


def test_a_site_joins_with_one_command(site: Site) -> None:
    joined = site.join()
    folder = SiteFolder(site.folder)
    federation = site.federation
    assert (joined.name, folder.name, folder.facts.target) == (A, A, "localhost:8444")
    assert folder.facts.url == joined.url == federation.address.url
    assert folder.server == federation.keyring.signing.public
    tls = SiteFiles(site.folder).tls()
    found = TlsAuthority(der_of(tls.authority)).verify_site(der_of(tls.certificate), now=federation.clock())
    assert (found.name, found.public) == (A, TlsKey.read(tls.key).public)
    assert federation.enrolment.gate.admit(der_of(tls.certificate)) == A
    revoked = folder.authority.revocations(folder.read("revocations.der"), federation.clock())
    identity = folder.authority.verify(folder.read("identity.der"), name=A, now=federation.clock(), revocations=revoked)
    assert identity.public == folder.signing_key.public
    assert len(folder.state_key) == 32


def test_both_sides_name_the_same_fingerprints(site: Site) -> None:
    joined = site.join()
    [known] = Sites(site.federation.database).list()
    assert known.fingerprint == joined.fingerprint == SiteFolder(site.folder).fingerprint
    assert joined.server_fingerprint == fingerprint_of(site.federation.keyring.signing.public)
    assert joined.authority_fingerprint == certificate_fingerprint(site.federation.authority).hex()
    enrolment = site.federation.enrolment
    assert (joined.server_fingerprint, joined.authority_fingerprint) == (
        enrolment.server_fingerprint,
        enrolment.authority_fingerprint,
    )
    text = "\n".join(joined.lines())
    assert A in text
    for one in (joined.fingerprint, joined.server_fingerprint, joined.authority_fingerprint):
        assert one in text.replace(" ", "") and f" {one[:4]} {one[4:8]} " in text


def test_every_file_is_its_owners_alone_whatever_the_mask(site: Site) -> None:
    before = os.umask(0)
    try:
        site.join()
    finally:
        os.umask(before)
    assert stat.S_IMODE(site.folder.stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in site.folder.iterdir()}
    assert files == dict.fromkeys(
        [
            "identity-authority.der",
            "identity.der",
            "lock",
            "revocations.der",
            "signing-key",
            "site.json",
            "state-key",
            "tls-authority.pem",
            "tls-identity.pem",
        ],
        0o600,
    )


def test_no_key_is_sent_and_the_token_only_to_a_verified_server(site: Site) -> None:
    site.join()
    (first, nothing), (second, sent) = site.routes.asked
    assert (first, nothing, second) == ("/api/v1/authority", b"", "/api/v1/join")
    secrets = [
        SiteFiles(site.folder).read("signing-key")[-32:],
        SiteFiles(site.folder).read("state-key"),
        TlsKey.read(SiteFiles(site.folder).tls().key).pem,
    ]
    for secret in secrets:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
            assert form not in sent


# -- invitations that do not count --------------------------------------------------------------------


def test_a_line_that_is_no_invitation(site: Site) -> None:
    assert site.refused(site.invitation()[:-1]).exit_code is JoinExit.INVITATION
    assert not site.folder.exists()
    assert not site.routes.asked


def test_an_unknown_token(site: Site) -> None:
    made = replace(read_invitation(site.invitation()), token=bytes(16))
    error = site.refused(made.text())
    assert (error.exit_code, "the server has not given it" in str(error)) == (JoinExit.UNKNOWN_TOKEN, True)


def test_a_used_token_says_when(site: Site) -> None:
    invitation = site.invitation()
    used = site.federation.clock()
    site.federation.enrolment.join(Asker().request(read_invitation(invitation)))
    error = site.refused(invitation)
    assert error.exit_code is JoinExit.USED
    assert f"was used on {used:%Y-%m-%d %H:%M} UTC, with other keys" in str(error)
    [event] = site.federation.events("site.join_refused")
    assert event["refusal"] == "used"


def test_an_expired_token(site: Site) -> None:
    invitation = site.invitation()
    with site.federation.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE invitations SET expires = '2020-01-01 00:00:00.000000'")
    error = site.refused(invitation)
    assert (error.exit_code, "has expired" in str(error)) == (JoinExit.EXPIRED, True)


def test_a_withdrawn_token(site: Site) -> None:
    invitation = site.invitation()
    row = Invitations(site.federation.database).find_by_hash(token_hash(read_invitation(invitation).token))
    assert row is not None
    site.federation.enrolment.withdraw(row.id, by="anna")
    error = site.refused(invitation)
    assert (error.exit_code, "was withdrawn" in str(error)) == (JoinExit.WITHDRAWN, True)


def test_an_invitation_for_another_name_than_the_one_that_is_expected(site: Site) -> None:
    site.name = "Hospital B"
    invitation = site.invitation()
    error = site.refused(invitation)
    assert (error.exit_code, "It was not used" in str(error)) == (JoinExit.NAME, True)
    site.name = A
    assert site.join(invitation).name == A


def test_a_name_that_takes_part_already(site: Site) -> None:
    invitation = site.invitation()
    Sites(site.federation.database).add(site_name(A), SigningKey(bytes(32)).public, now=site.federation.clock())
    assert site.refused(invitation).exit_code is JoinExit.NAME


# -- who answers --------------------------------------------------------------------------------------


def test_another_authority_than_the_invitations(site: Site) -> None:
    error = site.refused(site.invitation(authority=bytes(32)))
    assert error.exit_code is JoinExit.WRONG_AUTHORITY
    assert "nothing secret was sent" in str(error)
    assert site.sent_tokens == 0


def test_a_man_in_the_middle_with_another_authority_hears_no_token(site: Site, tmp_path: Path) -> None:
    other = Federation(tmp_path / "other", site.federation.clock)
    routes = Routes.of(other)
    with serving(routes, lambda: server_tls(other)) as port:
        error = site.refused(site.invitation(port=port))
    other.close()
    assert error.exit_code is JoinExit.WRONG_AUTHORITY
    assert [path for path, _ in routes.asked] == ["/api/v1/authority"]


def test_a_man_in_the_middle_who_passes_the_authority_on_hears_no_token(site: Site, tmp_path: Path) -> None:
    """As a proxy that opens connections would: what it passes on is true, its certificate is its own."""
    other = Federation(tmp_path / "other", site.federation.clock)
    routes = Routes.of(site.federation)
    invitation = site.invitation()
    with serving(routes, lambda: server_tls(other)) as port:
        made = replace(read_invitation(invitation), url=f"https://localhost:{port}")
        error = site.refused(made.text())
    other.close()
    assert error.exit_code is JoinExit.INTERCEPTED
    assert "something between opens the connection" in str(error)
    assert "cardio" in str(error)  # whose certificate it is
    assert [path for path, _ in routes.asked] == ["/api/v1/authority"]
    assert site.join(invitation).name == A  # it was not used


def test_a_server_of_the_federation_under_another_name(site: Site) -> None:
    with serving(site.routes, lambda: server_tls(site.federation, "other.example.org")) as port:
        error = site.refused(site.invitation(port=port))
    assert error.exit_code is JoinExit.ANSWER
    assert "not for localhost" in str(error)
    assert site.sent_tokens == 0


def test_a_site_of_the_federation_that_stands_for_its_server_hears_no_token(site: Site) -> None:
    asker = Asker()
    answer = site.federation.enrolment.join(asker.request(site.federation.enrolment.invite("Hospital B", by="anna")))
    tls = replace(
        server_tls(site.federation),
        certificate_chain=pem_of(answer.certificate),
        private_key=asker.tls.pem,
    )
    with serving(site.routes, lambda: tls) as port:
        error = site.refused(site.invitation(port=port))
    assert error.exit_code in (JoinExit.INTERCEPTED, JoinExit.ANSWER)
    assert site.sent_tokens == 0


def test_less_than_tls_1_3_hears_no_token(site: Site) -> None:
    with serving(site.routes, lambda: server_tls(site.federation), newest=False) as port:
        error = site.refused(site.invitation(port=port))
    assert (error.exit_code, "no connection with TLS 1.3" in str(error)) == (JoinExit.INTERCEPTED, True)
    assert site.sent_tokens == 0


@pytest.mark.parametrize("off", [timedelta(minutes=6), -timedelta(minutes=6)])
def test_a_clock_that_is_off_is_named_before_anything_is_sent(site: Site, off: timedelta) -> None:
    invitation = site.invitation()
    honest = site.routes.authority
    site.routes.authority = lambda: (200, honest()[1] | {"time": (site.federation.clock() + off).isoformat()})
    error = site.refused(invitation)
    assert (error.exit_code, "got 6 (here" in str(error)) == (JoinExit.CLOCK, True)
    assert site.sent_tokens == 0
    site.routes.authority = honest
    assert site.join(invitation).name == A


def test_a_clock_that_is_a_little_off_is_not(site: Site) -> None:
    honest = site.routes.authority
    late = (site.federation.clock() + timedelta(minutes=4)).isoformat()
    site.routes.authority = lambda: (200, honest()[1] | {"time": late})
    assert site.join().name == A


def test_a_server_whose_certificate_is_not_of_now_is_a_matter_of_clocks(site: Site) -> None:
    federation = site.federation
    honest = federation.clock.now
    federation.clock.now = honest - 60 * DAY
    tls = server_tls(federation)
    federation.clock.now = honest
    with serving(site.routes, lambda: tls) as port:
        error = site.refused(site.invitation(port=port))
    assert (error.exit_code, "is not valid on" in str(error)) == (JoinExit.CLOCK, True)
    assert site.sent_tokens == 0


# -- what is answered ---------------------------------------------------------------------------------


Change = Callable[[JoinAnswer, Federation, dict[str, Any]], JoinAnswer]


def certificate(federation: Federation, *, name: str = A, public: bytes | None = None, days: int = 0) -> bytes:
    return issue_site(
        federation.authority,
        federation.keyring.tls_authority,
        name=name,
        public=public or TlsKey.make().public,
        now=federation.clock() + days * DAY,
        random=os.urandom,
    )


def identity(federation: Federation, *, name: str = A, public: bytes) -> bytes:
    return issue_certificate(
        federation.identity_authority,
        federation.keyring.identity_authority,
        name=name,
        public=public,
        not_before=federation.clock(),
        not_after=federation.clock() + DAY,
        random=os.urandom,
    )


def everything_revoked(answer: JoinAnswer, federation: Federation, body: dict[str, Any]) -> JoinAnswer:
    der = issue_revocations(
        federation.identity_authority,
        federation.keyring.identity_authority,
        serials=[x509.load_der_x509_certificate(answer.identity).serial_number],
        number=9,
        now=federation.clock(),
        valid_for=DAY,
    )
    return replace(answer, revocations=der)


def own_key(body: dict[str, Any]) -> bytes:
    return base64.b64decode(body["signing_public"])


@pytest.mark.parametrize(
    "change",
    [
        lambda answer, federation, body: replace(answer, certificate=certificate(federation)),
        lambda answer, federation, body: replace(answer, name="Hospital B"),
        lambda answer, federation, body: replace(
            answer, certificate=certificate(federation, public=Asker().tls.public, days=-60)
        ),
        lambda answer, federation, body: replace(answer, certificate=b"nothing"),
        lambda answer, federation, body: replace(
            answer, identity=identity(federation, public=SigningKey(bytes(32)).public)
        ),
        lambda answer, federation, body: replace(
            answer, identity=identity(federation, name="Hospital B", public=own_key(body))
        ),
        lambda answer, federation, body: replace(answer, identity=b"nothing"),
        lambda answer, federation, body: replace(answer, identity_authority=federation.authority),
        lambda answer, federation, body: replace(answer, revocations=b"nothing"),
        everything_revoked,
        lambda answer, federation, body: replace(answer, server=bytes(32)),
        lambda answer, federation, body: replace(answer, server=own_key(body)),
        lambda answer, federation, body: replace(answer, target="fl.example.org"),
        lambda answer, federation, body: replace(answer, target="a/b:1"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_and_written_nowhere(site: Site, change: Change) -> None:
    invitation = site.invitation()
    honest = site.routes.join
    site.routes.join = lambda body: (200, change(JoinAnswer.read(honest(body)[1]), site.federation, body).encode())
    assert site.refused(invitation).exit_code is JoinExit.ANSWER
    assert {path.name for path in site.folder.iterdir()} == {
        "joining.json",
        "lock",
        "signing-key",
        "state-key",
        "tls-next.pem",
    }
    site.routes.join = honest
    assert site.join(invitation).name == A


def test_a_name_that_was_not_asked_for_is_refused_even_where_all_fits(site: Site) -> None:
    site.name = A
    honest, federation = site.routes.join, site.federation

    def other_name(body: dict[str, Any]) -> Answer:
        answer = JoinAnswer.read(honest(body)[1])
        asked = read_request(base64.b64decode(body["csr"]))
        name = site_name("Hospital B")
        lie = replace(
            answer,
            name=name,
            certificate=certificate(federation, name=name, public=asked.public),
            identity=identity(federation, name=name, public=own_key(body)),
        )
        return 200, lie.encode()

    site.routes.join = other_name
    error = site.refused()
    assert (error.exit_code, "expected to join as Hospital A" in str(error)) == (JoinExit.ANSWER, True)


def test_a_clock_that_only_the_verified_answer_shows_to_be_off_is_named(site: Site) -> None:
    honest, invitation = site.routes.join, site.invitation()
    late = (site.federation.clock() + timedelta(minutes=6)).isoformat(timespec="seconds")
    site.routes.join = lambda body: (200, honest(body)[1] | {"time": late})
    assert site.refused(invitation).exit_code is JoinExit.CLOCK
    site.routes.join = honest
    assert site.join(invitation).name == A


@pytest.mark.parametrize(
    ("status", "body", "exit_code"),
    [
        (500, {}, JoinExit.ANSWER),
        (404, {"detail": "Not Found"}, JoinExit.ANSWER),
        (200, {}, JoinExit.ANSWER),
        (200, {"certificate": 1}, JoinExit.ANSWER),
        (400, {"error": "version", "message": "x"}, JoinExit.VERSION),
        (409, {"error": "key_taken"}, JoinExit.KEYS),
        (410, {"error": "used", "used_at": "no time\x1b[2J"}, JoinExit.USED),
        (418, {"error": "teapot", "message": "a\nb\x1b[2J"}, JoinExit.ANSWER),
        (418, {"error": ["x"], "message": {"a": 1}}, JoinExit.ANSWER),
    ],
)
def test_any_answer_has_an_exit_code(site: Site, status: int, body: dict[str, Any], exit_code: JoinExit) -> None:
    site.routes.join = lambda asked: (status, body)
    error = site.refused()
    assert error.exit_code is exit_code
    assert str(error).isprintable()


def test_a_server_of_something_else(site: Site) -> None:
    site.routes.authority = lambda: (404, {})
    assert site.refused().exit_code is JoinExit.ANSWER
    site.routes.authority = lambda: (200, {"authority": "AA=="})
    assert site.refused().exit_code is JoinExit.ANSWER
    site.routes.authority = lambda: (200, {"padding": "x" * (3 << 20)})
    error = site.refused()
    assert (error.exit_code, "at most" in str(error)) == (JoinExit.ANSWER, True)


# -- the way there ------------------------------------------------------------------------------------


def test_nobody_listens(site: Site) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        error = site.refused(site.invitation(port=taken.getsockname()[1]))
    assert (error.exit_code, "cannot be reached" in str(error)) == (JoinExit.UNREACHABLE, True)


def test_somebody_listens_and_says_nothing(site: Site) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        text = site.invitation(port=silent.getsockname()[1])
        with pytest.raises(JoinError, match=r"no answer within 0\.2 s") as caught:
            join(text, site.folder, environment={}, now=site.federation.clock, timeout_s=0.2)
    assert caught.value.exit_code is JoinExit.UNREACHABLE


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n\r\nhello", b"SSH-2.0-OpenSSH_9\r\n"])
def test_somebody_listens_who_speaks_no_tls(site: Site, said: bytes) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as plain:

        def speak() -> None:
            end, _ = plain.accept()
            with end:
                end.sendall(said)
                end.recv(1 << 16)

        thread = threading.Thread(target=speak)
        thread.start()
        error = site.refused(site.invitation(port=plain.getsockname()[1]))
        thread.join()
    assert (error.exit_code, "no TLS connection" in str(error)) == (JoinExit.UNREACHABLE, True)


def test_a_proxy_is_used_where_the_environment_says_so(site: Site) -> None:
    with proxying(login="Basic YW5uYTpzZWNyZXQ=") as (port, asked):
        site.environment = {"HTTPS_PROXY": f"http://anna:secret@localhost:{port}"}
        joined = site.join()
    assert joined.name == A
    assert asked == [joined.url.removeprefix("https://")] * 2


def test_and_not_where_it_says_otherwise(site: Site) -> None:
    site.environment = {"HTTPS_PROXY": "http://localhost:1", "NO_PROXY": "example.org,localhost"}
    assert site.join().name == A


@pytest.mark.parametrize(
    ("status", "login", "message"),
    [
        (403, None, r"refuses \(403 .*\); have it allow CONNECT to localhost:\d+"),
        (200, "Basic x", r"refuses \(407 .*\); put its login into HTTPS_PROXY"),
    ],
)
def test_a_proxy_that_refuses(site: Site, status: int, login: str | None, message: str) -> None:
    with proxying(status=status, login=login) as (port, _):
        site.environment = {"https_proxy": f"http://anna:secret@localhost:{port}"}
        error = site.refused()
    assert error.exit_code is JoinExit.PROXY
    assert "secret" not in str(error)
    with pytest.raises(JoinError, match=message):
        raise error


@pytest.mark.parametrize(
    "proxy", ["http://localhost:1", "socks5://localhost:1", "http://", "http://a:99999", "http://a:x"]
)
def test_a_proxy_that_is_none(site: Site, proxy: str) -> None:
    site.environment = {"HTTPS_PROXY": proxy}
    assert site.refused().exit_code is JoinExit.PROXY


# -- the folder ---------------------------------------------------------------------------------------


def test_a_site_that_has_joined_does_not_join_again(site: Site) -> None:
    site.join()
    before = {path.name: path.read_bytes() for path in site.folder.iterdir()}
    with pytest.raises(JoinError, match="has joined a federation already") as caught:
        site.join(site.invitation(name="Hospital B"))
    assert caught.value.exit_code is JoinExit.FOLDER
    assert {path.name: path.read_bytes() for path in site.folder.iterdir()} == before


def test_a_folder_of_other_content_or_of_others_is_left_alone(site: Site) -> None:
    site.folder.mkdir(parents=True, mode=0o700)
    (site.folder / "patients.csv").write_text("x")
    error = site.refused()
    assert (error.exit_code, "patients.csv" in str(error)) == (JoinExit.FOLDER, True)
    assert not (site.folder / "signing-key").exists()
    (site.folder / "patients.csv").unlink()
    site.folder.chmod(0o755)
    error = site.refused()
    assert (error.exit_code, "chmod 700" in str(error)) == (JoinExit.FOLDER, True)


def test_a_file_where_the_folder_should_be(site: Site) -> None:
    site.folder.parent.mkdir(parents=True)
    site.folder.write_text("x")
    assert site.refused().exit_code is JoinExit.FOLDER


def test_keys_that_somebody_else_may_read_are_not_used(site: Site) -> None:
    site.routes.join = lambda asked: (500, {})
    site.refused()
    for name in ("signing-key", "tls-next.pem"):
        (site.folder / name).chmod(0o644)
        error = site.refused()
        assert (error.exit_code, "others may read" in str(error)) == (JoinExit.FOLDER, True)
        (site.folder / name).chmod(0o600)


def test_what_was_begun_for_one_federation_is_not_gone_on_with_for_another(site: Site) -> None:
    site.routes.join = lambda asked: (500, {})
    site.refused()
    error = site.refused(site.invitation(authority=bytes(32)))
    assert (error.exit_code, "joining another federation was begun" in str(error)) == (JoinExit.FOLDER, True)


def test_two_at_once_do_not_work_in_one_folder(site: Site) -> None:
    found: list[JoinError] = []
    honest = site.routes.join

    def meanwhile(body: dict[str, Any]) -> Answer:
        with pytest.raises(JoinError) as caught:
            site.join(invitation)
        found.append(caught.value)
        return honest(body)

    invitation = site.invitation()
    site.routes.join = meanwhile
    assert site.join(invitation).name == A
    assert [error.exit_code for error in found] == [JoinExit.FOLDER]


class Killed(BaseException):
    """The process ends here, as far as its files are concerned."""


def writes_of(monkeypatch: pytest.MonkeyPatch, *, end_after: int | None) -> list[str]:
    """Counts durable writes and deletions of the client, and ends the process after one of them."""
    done: list[str] = []

    def counted(kind: str, act: Callable[..., None]) -> Callable[..., None]:
        def counting(*args: Any, **kwargs: Any) -> None:
            if end_after is not None and len(done) >= end_after:
                raise Killed
            act(*args, **kwargs)
            done.append(f"{kind} {Path(args[0]).name if not isinstance(args[0], SiteFiles) else args[1]}")

        return counting

    counting_writes = counted("write", replace_file)
    monkeypatch.setattr(site_files, "replace_file", counting_writes)
    monkeypatch.setattr("wardround.signing_key.replace_file", counting_writes)
    monkeypatch.setattr(SiteFiles, "remove", counted("remove", SiteFiles.remove))
    return done


def test_wherever_it_is_killed_the_same_command_goes_on_with_the_same_keys(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        done = writes_of(patched, end_after=None)
        site.join(site.invitation(name="whole"))
    assert len(done) >= 10
    for step in range(len(done)):
        name = f"Hospital {step}"
        site.folder = tmp_path / f"client-{step}"
        invitation = site.invitation(name=name)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            writes_of(patched, end_after=step)
            site.join(invitation)
        kept = {key: (site.folder / key).read_bytes() for key in ("signing-key",) if (site.folder / key).exists()}
        if not (site.folder / "site.json").exists():
            assert site.join(invitation).name == name
        folder = SiteFolder(site.folder)
        assert folder.name == name
        for key, data in kept.items():
            assert folder.read(key) == data
        tls = SiteFiles(site.folder).tls()
        assert site.federation.enrolment.gate.admit(der_of(tls.certificate)) == name
        known = Sites(site.federation.database).get(site_name(name))
        assert known is not None
        assert known.fingerprint == folder.fingerprint


def test_an_answer_that_is_lost_is_asked_for_again(site: Site) -> None:
    invitation = site.invitation()
    honest = site.routes.join
    site.routes.join = lambda body: (honest(body), (502, {}))[1]
    assert site.refused(invitation).exit_code is JoinExit.ANSWER
    site.routes.join = honest
    assert site.join(invitation).name == A
    assert len(site.federation.events("site.joined")) == 1


def test_a_folder_that_cannot_be_written_is_one_line(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    invitation = site.invitation()

    def full(path: Path, data: bytes, *, mode: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(site_files, "replace_file", full)
        error = site.refused(invitation)
    assert (error.exit_code, "No space left on device" in str(error)) == (JoinExit.FOLDER, True)
    assert isinstance(error, LocalError)
    assert site.join(invitation).name == A
