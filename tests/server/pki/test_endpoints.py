"""What comes over HTTPS and the link: any JSON is answered, and nothing of a token comes back."""

import base64
import itertools
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.pki.federation import NOW, Asker, Federation
from wardround.errors import RemoteError
from wardround.join_messages import AuthorityAnswer, JoinAnswer, RenewalAnswer
from wardround.orders import SiteId
from wardround.server.pki.endpoints import handle_authority, handle_join, handle_leave, handle_renewal
from wardround.tls_identity import TlsKey

A = SiteId("Hospital A")


def asked(federation: Federation, name: str = A) -> dict[str, Any]:
    return Asker().request(federation.enrolment.invite(name, by="anna")).encode()


def test_the_authority_and_the_time_are_public(federation: Federation) -> None:
    status, body = handle_authority(federation.enrolment)
    assert status == 200
    assert AuthorityAnswer.read(json.loads(json.dumps(body))) == AuthorityAnswer(
        authority=federation.authority, time=NOW
    )


def test_a_join_is_answered_with_json(federation: Federation) -> None:
    status, body = handle_join(federation.enrolment, json.loads(json.dumps(asked(federation))))
    assert status == 200
    assert JoinAnswer.read(json.loads(json.dumps(body))).name == A


def test_a_used_token_says_when(federation: Federation) -> None:
    invitation = federation.enrolment.invite(A, by="anna")
    handle_join(federation.enrolment, Asker().request(invitation).encode())
    status, body = handle_join(federation.enrolment, Asker().request(invitation).encode())
    assert (status, body["error"], body["used_at"]) == (410, "used", "2026-01-05T12:00:00+00:00")


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"token": base64.b64encode(bytes(16)).decode()}, 400, "malformed"),  # the proof is of another
        ({"version": 2}, 400, "version"),
        ({"version": True}, 400, "malformed"),
        ({"version": "1"}, 400, "malformed"),
        ({"more": 1}, 400, "malformed"),
        ({"csr": "A" * 10_000}, 400, "malformed"),
        ({"csr": "ä"}, 400, "malformed"),
        ({"csr": None}, 400, "malformed"),
        ({"token": ""}, 400, "malformed"),
        ({"software": "a\nb"}, 400, "malformed"),
        ({"software": "a" * 300}, 400, "malformed"),
        ({"proof": "AA=="}, 400, "malformed"),
    ],
)
def test_another_request_is_refused(federation: Federation, change: dict[str, Any], status: int, error: str) -> None:
    found, body = handle_join(federation.enrolment, asked(federation) | change)
    assert (found, body["error"]) == (status, error)


NUMBERS = itertools.count()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_no_json_ends_in_anything_but_an_answer_and_none_has_the_token(
    federation: Federation, data: st.DataObject
) -> None:
    body = asked(federation, f"Hospital {next(NUMBERS)}")
    for key in data.draw(st.sets(st.sampled_from(sorted(body)), min_size=1)):
        text = st.binary(max_size=100).map(lambda raw: base64.b64encode(raw).decode())
        body[key] = data.draw(json_values | text)
    status, answer = handle_join(federation.enrolment, body)
    assert status in (200, 400, 403, 409, 410)
    assert str(body["token"]) not in json.dumps(answer) or len(str(body["token"])) < 8
    assert (status == 200) == ("error" not in answer)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_no_json_lets_a_site_leave_but_its_own(federation: Federation, data: st.DataObject) -> None:
    asker, name = Asker(), SiteId(f"Hospital {next(NUMBERS)}")
    federation.enrolment.join(asker.request(federation.enrolment.invite(name, by="anna")))
    good = asker.goodbye(name, federation.keyring.signing.public, federation.clock()).encode()
    body: Any = dict(good)
    for key in data.draw(st.sets(st.sampled_from(sorted(body)), min_size=1)):
        body[key] = data.draw(json_values | st.binary(max_size=100).map(lambda raw: base64.b64encode(raw).decode()))
    others: list[Any] = [body, data.draw(json_values)]
    for wrong in others:
        if wrong != good:
            status, answer = handle_leave(federation.enrolment, wrong)
            assert status in (400, 403) and answer.keys() == {"error", "message"}
    assert handle_leave(federation.enrolment, good) == (200, {"name": name})
    assert handle_leave(federation.enrolment, good) == (200, {"name": name})


def test_a_renewal_over_the_link(federation: Federation) -> None:
    asker = Asker()
    federation.enrolment.join(asker.request(federation.enrolment.invite(A, by="anna")))
    federation.clock.forward(timedelta(days=20))
    body = json.dumps(asker.renewal(A, TlsKey.make()).encode()).encode()
    RenewalAnswer.read(json.loads(handle_renewal(federation.enrolment, A, body)))
    for wrong in (b"", b"[]", b"{}", b"[" * 100_000, body[:-1], b"\xff"):
        with pytest.raises(RemoteError, match="renew: expected"):
            handle_renewal(federation.enrolment, A, wrong)
