"""A site that leaves: the server, and nobody else, is told before the keys are erased."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.client.enrolment.https_server import Routes, server_tls, serving
from tests.client.enrolment.site import Site
from tests.server.pki.federation import Clock, Federation
from wardround.client.agent import departure
from wardround.client.agent.departure import depart
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.commands import app
from wardround.client.enrolment.leaving import say_goodbye
from wardround.errors import LocalError
from wardround.join_messages import LEAVE_PATH
from wardround.orders import SiteId
from wardround.server.state.sites import Sites, SiteState

A = SiteId("Hospital A")


@pytest.fixture
def joined(site: Site) -> SiteFolder:
    site.join()
    site.routes.asked.clear()
    return SiteFolder(site.folder)


def state_of(site: Site) -> SiteState:
    found = Sites(site.federation.database).get(A)
    assert found is not None
    return found.state


def leave(site: Site, *more: str, answer: str | None = None) -> tuple[str, str]:
    """What the command prints, and its error."""
    environment = {"WARDROUND_CLIENT_STATE": str(site.folder), "HTTPS_PROXY": "", "https_proxy": ""}
    result = CliRunner().invoke(app, ["client", "leave", *more], env=environment, input=answer)
    return result.output, "" if result.exception is None else str(result.exception)


def test_the_server_is_told_and_then_the_keys_are_erased(site: Site, joined: SiteFolder) -> None:
    secrets = [joined.signing_key._key.private_bytes_raw(), joined.state_key]
    output, error = leave(site, "--yes")
    assert error == "" and output.endswith("The server has ended its certificates.\n")
    assert state_of(site) is SiteState.REVOKED
    assert not (site.folder / "site.json").exists() and not (site.folder / "signing-key").exists()
    [(path, body)] = site.routes.asked
    assert path == LEAVE_PATH and json.loads(body).keys() == {"version", "name", "time", "proof"}
    assert not any(secret in body for secret in secrets)
    [event] = site.federation.events("site.left")
    assert event.keys() == {"revocations"}


def test_a_server_that_is_not_there_is_said_and_nothing_is_erased_unless_asked(site: Site, joined: SiteFolder) -> None:
    facts = json.loads(joined.read("site.json"))
    joined.write("site.json", json.dumps(facts | {"url": "https://localhost:1"}).encode())
    _, error = leave(site, "--yes")
    assert "localhost:1: cannot be reached" in error and "Nothing was erased" in error and "--offline" in error
    assert SiteFolder(site.folder).signing_key.public == joined.signing_key.public
    output, error = leave(site, "--yes", "--offline")
    assert error == "" and "wardround server revoke" in output.replace("\n", " ")
    assert not (site.folder / "signing-key").exists() and state_of(site) is SiteState.ACTIVE
    assert site.routes.asked == []


def test_no_is_no(site: Site, joined: SiteFolder) -> None:
    leave(site, answer="n\n")
    assert site.routes.asked == [] and state_of(site) is SiteState.ACTIVE
    assert (site.folder / "signing-key").exists()


def test_while_the_agent_runs_nobody_is_told(site: Site, joined: SiteFolder) -> None:
    with joined.lock():
        assert "an agent runs here already" in leave(site, "--yes")[1]
    assert site.routes.asked == []


def test_after_a_kill_it_is_said_again_and_that_is_fine(
    site: Site, joined: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(folder: object) -> None:
        raise Killed

    def goodbye() -> None:
        say_goodbye(joined, environment={}, now=site.federation.clock)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(departure, "PlanStore", killed)
        depart(joined, goodbye)
    assert state_of(site) is SiteState.REVOKED and (site.folder / "signing-key").exists()
    depart(joined, goodbye)
    assert not (site.folder / "signing-key").exists()
    assert len(site.federation.events("site.left")) == 1


def test_a_site_that_was_revoked_may_say_so_too(site: Site, joined: SiteFolder) -> None:
    site.federation.enrolment.revoke(A, by="anna")
    assert leave(site, "--yes")[1] == ""
    assert site.federation.events("site.left") == []


@pytest.mark.parametrize("attack", ["another authority", "no server", "old TLS"])
def test_nobody_but_the_server_hears_it(site: Site, joined: SiteFolder, tmp_path: Path, attack: str) -> None:
    other = Federation(tmp_path / "other", Clock(site.federation.clock()))
    try:
        routes, federation = Routes.of(other), other if attack == "another authority" else site.federation
        names = ("elsewhere",) if attack == "no server" else ("localhost",)
        with serving(routes, lambda: server_tls(federation, *names), newest=attack != "old TLS") as port:
            facts = json.loads(joined.read("site.json"))
            joined.write("site.json", json.dumps(facts | {"url": f"https://localhost:{port}"}).encode())
            _, error = leave(site, "--yes")
    finally:
        other.close()
    assert "expected a server with a certificate of this federation" in error and "Nothing was erased" in error
    assert routes.asked == [] and (site.folder / "signing-key").exists()


Answer = tuple[int, dict[str, object]]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda body: (403, {"error": "refused", "message": "no\nsuch"}), "refuses .HTTP 403.: no\ufffdsuch"),
        (lambda body: (429, {"error": "busy", "message": "later"}), "refuses .HTTP 429.: later"),
        (lambda body: (404, {}), "refuses .HTTP 404.: no reason given"),
        (lambda body: (500, {"message": ["x"]}), "HTTP 500"),
    ],
)
def test_what_is_no_yes_erases_nothing(
    site: Site, joined: SiteFolder, answer: Callable[[object], Answer], said: str
) -> None:
    site.routes.leave = answer
    _, error = leave(site, "--yes")
    assert re.search(said, error), error
    assert "Nothing was erased" in error and (site.folder / "signing-key").exists()


def test_a_clock_that_is_off_is_named(site: Site, joined: SiteFolder) -> None:
    late = site.federation.clock()
    with pytest.raises(LocalError, match="within 5 minutes"):
        say_goodbye(joined, environment={}, now=lambda: late.replace(year=late.year - 1))
    assert state_of(site) is SiteState.ACTIVE
