"""What wardround uses of flwr beyond its public surface; run against every supported minor version."""

import importlib.metadata
import os
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.server.utils.validator import validate_message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from wardround import _flower
from wardround.errors import LocalError, RemoteError


@pytest.fixture(autouse=True)
def identity() -> None:
    _flower.set_identity(run_id=7, node_id=1)


def request(model: bytes | None = b"\0" * 8) -> Message:
    return Message(_flower.pack_order(b"order", model), 5, "train", group_id="3")


def test_the_version_is_one_that_was_tested() -> None:
    assert importlib.metadata.version("flwr").split(".")[:2] in (["1", "41"], ["1", "42"])


def test_flower_neither_phones_home_nor_looks_for_updates() -> None:
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_messages_take_their_sender_from_the_identity() -> None:
    message = request()
    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.dst_node_id) == (7, 1, 5)


def test_message_ids_reach_the_reply() -> None:
    message = request()
    _flower.set_message_id(message, "42")
    assert message.metadata.message_id == "42"
    assert _flower.reply(message, b"frame").metadata.reply_to_message_id == "42"


def test_orders_models_and_frames_survive_flowers_wire_form() -> None:
    message = request(b"\1\2\3\4")
    content = message.content
    inflated = RecordDict({name: type(record).inflate(*_deflated(record)) for name, record in content.items()})
    copy = Message(inflated, 5, "train")
    assert _flower.read_order(copy) == b"order"
    assert _flower.read_model(copy) == b"\1\2\3\4"
    assert _flower.read_frame(_flower.reply(message, b"some frame")) == b"some frame"


def _deflated(record: Any) -> tuple[bytes, Any]:
    """A record's bytes and its children, inflated the same way, as a SuperLink stores them."""
    children = {
        object_id: type(child).inflate(*_deflated(child)) for object_id, child in (record.children or {}).items()
    }
    return record.deflate(), children


def plain(message: Message) -> dict[str, object]:
    """All that a message is made of, without the moments when it was made."""
    metadata = dict(message.metadata.__dict__)
    for moment in ("_created_at", "_ttl"):
        assert isinstance(metadata.pop(moment), int | float)
    return {**metadata, "content": dict(message.content), "error": message.has_error(), "keys": set(message.__dict__)}


def test_messages_made_without_checks_are_those_that_flwr_makes() -> None:
    content = _flower.pack_order(b"order", b"\0" * 8)
    made = list(_flower.requests(content, [5, 6, 7], "train", "3"))
    assert [plain(m) for m in made] == [plain(Message(content, node, "train", group_id="3")) for node in (5, 6, 7)]
    _flower.set_message_id(made[1], "9")
    made[1].metadata.delivered_at = "now"  # as a SuperLink does before it hands the message out
    frame = b"some frame"
    array = Array("uint8", (len(frame),), "wardround", frame)
    expected = Message(RecordDict({"wardround.frame": ArrayRecord({"data": array})}), reply_to=made[1])
    answer = _flower.reply(made[1], frame)
    assert plain(answer) == plain(expected)
    assert abs(answer.metadata.ttl - expected.metadata.ttl) < 1
    _flower.set_message_id(answer, "10")
    assert validate_message(answer, is_reply_message=True) == []
    assert answer.content.object_id == expected.content.object_id  # the same on the wire


def test_a_request_is_fresh_though_the_first_of_its_cohort_was_sent_already() -> None:
    requests = _flower.requests(_flower.pack_order(b"order"), [5, 6], "train", "3")
    first = next(requests)
    _flower.set_message_id(first, "9")
    first.metadata.delivered_at = "now"
    assert plain(next(requests)) == plain(Message(_flower.pack_order(b"order"), 6, "train", group_id="3"))


def test_what_is_missing_is_named() -> None:
    empty = Message(RecordDict(), 5, "train")
    for read, what in ((_flower.read_order, "an order"), (_flower.read_model, "model"), (_flower.read_frame, "frame")):
        with pytest.raises(RemoteError, match=what):
            read(empty)
    with pytest.raises(RemoteError, match="a site's name"):
        _flower.read_hello(empty)
    wrong = Message(RecordDict({"wardround.order": ArrayRecord()}), 5, "train")
    with pytest.raises(RemoteError, match="an order"):
        _flower.read_order(wrong)


def test_errors_carry_their_reason_and_absences_are_told_apart() -> None:
    message = request()
    refused = _flower.error_reply(message, LocalError("why not"))
    assert refused.has_error() and refused.error.reason == "why not" and not _flower.is_gone(refused)
    assert _flower.is_gone(_flower.gone_reply(message, "dropped out"))
    assert not _flower.is_gone(_flower.reply(message, b"x"))


def test_client_apps_route_messages_by_type_before_their_mods_run() -> None:
    app, seen = ClientApp(), list[str]()

    @app.query("hello")
    def hello(message: Message, _: Context) -> Message:
        seen.append(message.metadata.message_type)
        return _flower.hello_reply(message, "north")

    context = Context(run_id=7, node_id=5, node_config={}, state=RecordDict(), run_config={})
    reply = app(Message(_flower.pack_order(b""), 5, _flower.HELLO), context)
    assert _flower.read_hello(reply) == "north" and seen == ["query.hello"]
    with pytest.raises(ValueError, match="No train function registered"):
        app(request(), context)


def test_the_abstract_methods_are_those_that_are_implemented() -> None:
    assert Grid.__abstractmethods__ == {
        "create_message",
        "get_node_ids",
        "pull_messages",
        "push_messages",
        "run",
        "send_and_receive",
        "set_run",
    }
    assert Strategy.__abstractmethods__ == {
        "aggregate_evaluate",
        "aggregate_train",
        "configure_evaluate",
        "configure_train",
        "summary",
    }
