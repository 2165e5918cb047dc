"""Messages of joining, renewing and leaving: what was written is read, and any other JSON refused."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.join_messages import (
    AuthorityAnswer,
    JoinAnswer,
    JoinRequest,
    LeaveRequest,
    RenewalAnswer,
    RenewalRequest,
    VersionError,
    join_statement,
    renewal_statement,
)
from wardround.orders import SiteId

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
REQUEST = JoinRequest(token=bytes(16), request=b"r", signing_public=bytes(32), proof=bytes(64), software="w 1")
ANSWER = JoinAnswer(
    name=SiteId("Malmö"),
    certificate=b"c",
    identity=b"i",
    identity_authority=b"a",
    revocations=b"r" * 100_000,
    server=bytes(32),
    target="a:1",
    time=NOW,
)
ALL: list[tuple[Any, Callable[[Mapping[str, Any]], Any]]] = [
    (REQUEST, JoinRequest.read),
    (ANSWER, JoinAnswer.read),
    (AuthorityAnswer(authority=b"a", time=NOW), AuthorityAnswer.read),
    (RenewalRequest(request=b"r", proof=bytes(64)), RenewalRequest.read),
    (RenewalAnswer(certificate=b"c", identity=b"i"), RenewalAnswer.read),
    (LeaveRequest(name=SiteId("Malmö"), time=NOW, proof=bytes(64)), LeaveRequest.read),
]


@pytest.mark.parametrize(("message", "read"), ALL)
def test_what_was_written_is_read(message: Any, read: Callable[[Mapping[str, Any]], Any]) -> None:
    assert read(message.encode()) == message


@pytest.mark.parametrize(("message", "read"), ALL)
def test_a_message_has_all_its_parts_and_no_others(message: Any, read: Callable[[Mapping[str, Any]], Any]) -> None:
    good = message.encode()
    for key in good:
        with pytest.raises(RemoteError):
            read({name: value for name, value in good.items() if name != key})
    with pytest.raises(RemoteError, match="and nothing else"):
        read({**good, "more": 1})
    others: list[Any] = [None, [], "text", 1]
    for wrong in others:
        with pytest.raises(RemoteError):
            read(wrong)


values = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)


@given(st.data())
def test_any_other_value_is_read_or_refused(data: st.DataObject) -> None:
    message, read = data.draw(st.sampled_from(ALL))
    body = message.encode()
    key = data.draw(st.sampled_from(sorted(body)))
    body[key] = data.draw(values)
    try:
        found = read(body)
    except RemoteError:
        return
    assert read(found.encode()) == found


@pytest.mark.parametrize("text", ["YQ", "YQ==\n", "YR==", "YQ=", "", "\u00e4", "YQ" * 4000])
def test_base64_has_one_spelling_and_a_bound(text: str) -> None:
    with pytest.raises(RemoteError, match="renew: csr: expected base64"):
        RenewalRequest.read({"csr": text, "proof": RenewalRequest(request=b"r", proof=bytes(64)).encode()["proof"]})


@pytest.mark.parametrize("text", ["", "2026-01-05T12:00:00", "yesterday", "9999-12-31T23:59:59-23:00", "1"])
def test_a_time_has_a_zone(text: str) -> None:
    with pytest.raises(RemoteError, match="authority: time: expected"):
        AuthorityAnswer.read({"authority": "YQ==", "time": text})


def test_another_version_is_told_apart_whatever_else_it_has() -> None:
    with pytest.raises(VersionError, match="expected version 1"):
        JoinRequest.read({"version": 2, "other": "things"})


def test_nothing_shows_the_token_and_what_is_signed_differs() -> None:
    assert "token" not in repr(REQUEST)
    statements = {
        join_statement(bytes(16), b"r"),
        join_statement(b"\1" * 16, b"r"),
        join_statement(bytes(16), b"s"),
        renewal_statement(b"r"),
        renewal_statement(b"s"),
    }
    assert len(statements) == 5
