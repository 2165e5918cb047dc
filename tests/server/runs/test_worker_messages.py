"""Messages between server and worker: there and back, and nothing but RemoteError for anything else."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.link.messages import Fault
from wardround.orders import SiteId
from wardround.server.runs.worker_messages import CallMessage, Ended, ReplyMessage, RunPart, Start

START = Start(
    run_id="r",
    plan_toml="name = 'x'",
    code_files=(("a/b.py", "0" * 64),),
    plan_digest="1" * 64,
    created="2026-01-01T00:00:00+00:00",
    folder="/x",
    models="/y",
    first_blob="2" * 32,
    layout=(("weight", (3, 2)), ("bias", ())),
    spec="{}",
    sites=(RunPart(name=SiteId("Hospital A"), public=b"k" * 32, units=None),),
    identity_authority=b"der",
    revocations=b"crl",
    known_round=4,
    signing_secret=b"s" * 32,
    data_key=b"d" * 32,
)
CALL = CallMessage(
    id=1,
    site=SiteId("Hospital A"),
    kind="train",
    order=b"{}",
    protocol=b"",
    spec=b"",
    signature=b"s" * 64,
    model=2,
    model_digest=b"d" * 32,
    timeout_s=1.5,
    most_bytes=100,
)
REPLY = ReplyMessage(id=1, fault=Fault.SPENT, reason="why", signature=b"s")
ENDED = Ended(state="finished", round=3, blob="b", sha256=b"h", released_round=2, metrics={"auc": 0.9})
ALL = (START, CALL, REPLY, ENDED)


@pytest.mark.parametrize("message", ALL, ids=lambda one: type(one).__name__)
def test_there_and_back(message: Any) -> None:
    assert type(message).from_header(json.loads(json.dumps(message.to_header()))) == message


def test_secrets_are_not_shown() -> None:
    assert "ssss" not in repr(START) and "dddd" not in repr(START)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.data(), st.sampled_from(ALL))
def test_a_changed_header_is_another_message_or_refused(data: st.DataObject, message: Any) -> None:
    header: Mapping[str, Any] = message.to_header()
    name = data.draw(st.sampled_from(sorted(header)))
    changed = {**header, name: data.draw(_JSON)} if data.draw(st.booleans()) else {}
    try:
        found = type(message).from_header(changed)
    except RemoteError:
        return
    assert isinstance(found, type(message))
