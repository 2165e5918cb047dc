"""Messages between server and worker: there and back, and nothing but RemoteError for anything else."""

import asyncio
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.link.messages import Call, Fault, Reply
from wardround.local_channel import Shared
from wardround.orders import SiteId
from wardround.server.runs.timeline import timeline, timeline_text
from wardround.server.runs.worker_messages import CallMessage, Ended, ReplyMessage, RunPart, Start
from wardround.server.runs.worker_process import WorkerProcess
from wardround.server.state.events import Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)
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
    pulse_s=10.0,
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
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from((10**400, -(1 << 63), 1 << 63))
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=5),
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


def worker(call: Any, rounds: Any) -> WorkerProcess:
    return WorkerProcess(
        START,
        python="",
        call=call,
        refused=lambda site: "",
        rounds=rounds,
        clock=lambda: NOW,
        stuck_s=60.0,
        away=lambda site: False,
        look_s=60.0,
    )


LINE = {
    "round": 1,
    "void": False,
    "aggregation": "",
    "cohort": ["A", "B"],
    "absences": [{"site": "B", "reason": "away"}],
    "protection": {"groups": [{"survivors": 1}], "aborts": []},
    "privacy": {"epsilon": 0.5},
    "train": {"metrics": {"loss": 0.1}},
    "validation": {"metrics": {"auc": None}},
    "quarantined": [],
    "seconds": 1.0,
}
HEADERS = (
    CALL.to_header(),
    {"type": "cancel", "ids": [1, 2]},
    {"type": "forget", "model": 2},
    {"type": "round", "line": LINE},
    ENDED.to_header(),
    {"type": "ready", "round": 0},
)


@st.composite
def _changed(draw: st.DrawFn, value: Any) -> Any:
    """`value` with something in it, at any depth, replaced or taken away."""
    if draw(st.integers(0, 3)) == 0 or not isinstance(value, dict | list) or not value:
        return draw(_JSON)
    if isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(_changed(value[at])), *value[at + 1 :]]
    name = draw(st.sampled_from(sorted(value)))
    if draw(st.integers(0, 5)) == 0:
        return {key: one for key, one in value.items() if key != name}
    return {**value, name: draw(_changed(value[name]))}


@given(st.data())
def test_whatever_a_worker_says_is_taken_or_refused(data: st.DataObject) -> None:
    wanted = data.draw(st.sampled_from(HEADERS))
    header = data.draw(_changed(wanted)) if data.draw(st.booleans()) else wanted
    if not isinstance(header, dict):
        return
    told: list[Mapping[str, Any]] = []

    async def call(site: SiteId, call: Call, **options: Any) -> Reply:
        assert -(1 << 63) < options["most_bytes"] < 1 << 63 and math.isfinite(options["timeout_s"])
        raise TimeoutError

    async def rounds(event: Mapping[str, Any]) -> None:
        told.append(event)

    async def scenario() -> Ended | None:
        incoming: asyncio.Queue[Any] = asyncio.Queue()
        for one in ({"type": "ready"}, header):
            incoming.put_nowait((one, [Shared.of(b"model")]))
        incoming.put_nowait(None)
        process = worker(call, rounds)
        try:
            return await process._serve(incoming)
        finally:
            await process._gather()

    try:
        ended = asyncio.run(scenario())
    except RemoteError:
        return
    for event in told:  # what the database and the pages do with it
        assert 0 < event["round"] < 1 << 31
        json.dumps(event, allow_nan=False)
        made = Event(id=1, at=NOW, kind="round.done", subject="", run_id="r", who="", detail=event)
        assert timeline_text(timeline([made])).encode()
    if ended is not None:
        kept = [ended.round, ended.blob, ended.released_round, dict(ended.metrics)]
        assert json.dumps(kept, allow_nan=False, ensure_ascii=False).encode()
