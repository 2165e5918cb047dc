"""What a protected Flower app answers, what it refuses, and what of it leaves the node."""

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp

from tests.flower_federation import RUN_CONFIG, SETTINGS, SIZE, Wards, model
from tests.grid_of_apps import GridOfApps
from wardround import _flower
from wardround.client.flower_protect import protect
from wardround.errors import LocalError, RemoteError
from wardround.file_store import FileStore
from wardround.orders import Order, OrderKind
from wardround.pins import Pins
from wardround.strategies.secagg.flower_plan import (
    digest_of_arrays,
    digest_of_records,
    flower_plan,
    own_records,
)
from wardround.strategies.secagg.flower_strategy import MaskingStrategy

Change = Callable[[Message], Message]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's log is kept off the screen, and no test here is about power cuts."""
    monkeypatch.setattr(logging.getLogger("flwr"), "handlers", [logging.NullHandler()])
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def wards(tmp_path: Path) -> Wards:
    return Wards(tmp_path / "wards", {**SETTINGS, "metrics": ["loss"]})


def meddle(wards: Wards, change: Change, kind: str = "train") -> list[Message]:
    """The replies to messages of one kind, each of which passes through `change` on its way; those who got none."""
    replies: list[Message] = []
    delivered = wards.grid.send_and_receive

    def send(messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        given = [change(one) if one.metadata.message_type == kind else one for one in messages]
        found = list(delivered(given, timeout=timeout))
        replies.extend(one for one in found if one.metadata.message_type == kind)
        return found

    wards.grid.send_and_receive = send  # type: ignore[method-assign]
    return replies


def one_round(wards: Wards, **named: Any) -> MaskingStrategy:
    strategy = wards.strategy(**named)
    try:
        strategy.configure_train(1, model(), ConfigRecord({"lr": 0.5}), wards.grid)
    finally:
        strategy.close()
    return strategy


def with_order(message: Message, **changes: Any) -> Message:
    """The message with another order, its own records, start and spec kept."""
    order = replace(Order.decode(_flower.read_order(message)), **changes)
    content = _flower.pack_order(order.encode(), None, _flower.read_protocol(message), _flower.read_spec(message))
    return Message(
        RecordDict({**content, **own_records(message.content)}),
        message.metadata.dst_node_id,
        message.metadata.message_type,
    )


def with_records(message: Message, arrays: ArrayRecord) -> Message:
    content = RecordDict({**message.content, "arrays": arrays})
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type)


def poisoned() -> ArrayRecord:
    arrays = {name: array.numpy() for name, array in model().items()}
    arrays["weight"] = arrays["weight"] + np.float32(1)
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def plain_message(message: Message) -> Message:
    return Message(own_records(message.content), message.metadata.dst_node_id, "train")


def without_start(message: Message) -> Message:
    content = _flower.pack_order(_flower.read_order(message))
    return Message(RecordDict({**content, **own_records(message.content)}), message.metadata.dst_node_id, "train")


def rebound(message: Message) -> Message:
    """Another model, and an order that names it: what is left is that the round's descriptor is about another."""
    message = with_records(message, poisoned())
    records = own_records(message.content)
    return with_order(
        message, model_digest=digest_of_arrays(records), records_digest=digest_of_records(records, RUN_CONFIG)
    )


def other_config(message: Message) -> Message:
    message.content.config_records["config"]["lr"] = 0.25
    return message


def other_spec(message: Message) -> Message:
    message.content.config_records["wardround.protocol"]["spec"] = b'{"kind": "means", "names": ["age"]}'
    return message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (plain_message, "message: expected an order"),
        (without_start, "expected a round of secure aggregation, got a plain message"),
        (lambda one: with_records(one, poisoned()), "whose digest is in the order, got others"),
        (other_config, "whose digest is in the order, got others"),
        (rebound, "descriptor"),
        (lambda one: with_order(one, run_id="another"), "expected an order of run"),
        (lambda one: with_order(one, kind=OrderKind.EVALUATE), "expected an order for train, got evaluate"),
        (lambda one: with_order(one, attempt=1), "expected a round without attempts"),
        (lambda one: with_order(one, plan_digest="0" * 64), "needs a new approval"),
        (other_spec, r"expected metrics of \['loss'\], got others"),
    ],
)
def test_what_is_not_in_order_is_refused_before_the_app_sees_it(wards: Wards, change: Change, reason: str) -> None:
    replies = meddle(wards, change)
    one_round(wards)
    assert len(replies) == 5 and wards.calls == 0
    for reply in replies:
        assert reply.has_error() and re.search(reason, str(reply.error.reason)), reply.error.reason


def test_a_message_that_comes_twice_gets_the_same_bytes_and_trains_once(wards: Wards) -> None:
    again: list[Message] = []

    def keep(message: Message) -> Message:
        again.append(Message(RecordDict(dict(message.content)), message.metadata.dst_node_id, "train"))
        return message

    replies = meddle(wards, keep)
    delivered = wards.grid.send_and_receive
    twice: list[Message] = []

    def send(messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        found = list(delivered(messages, timeout=timeout))
        if again and not twice:
            twice.extend(delivered(list(again), timeout=timeout))
        return found

    wards.grid.send_and_receive = send  # type: ignore[method-assign]
    one_round(wards)
    assert len(twice) == 5 and wards.calls == 5
    frames = {one.metadata.src_node_id: _flower.read_frame(one) for one in replies[:5]}
    assert {one.metadata.src_node_id: _flower.read_frame(one) for one in twice} == frames


def test_of_an_error_in_the_app_the_server_learns_that_there_was_one(wards: Wards) -> None:
    wards.gone, wards.spoilt = {1}, {2: np.full(SIZE, np.nan, dtype=np.float32)}
    replies = meddle(wards, lambda message: message)
    strategy = one_round(wards)
    said = {one.metadata.src_node_id: str(one.error.reason) for one in replies if one.has_error()}
    assert set(said) == {101, 102}
    assert all(reason.endswith("the job failed; the site's own log says why") for reason in said.values())
    assert [one.cause for one in strategy.records[1].aborts] == ["TOO_FEW_MEMBERS"]


def test_a_site_takes_no_part_beside_a_member_whose_key_it_has_not_pinned(wards: Wards) -> None:
    site, other = wards.site(1), wards.site(4).folder.fingerprint
    with FileStore(site.folder.path / "state") as store:
        Pins(store).remove("site-4", by="administrator", now=datetime.now(UTC))
    strategy = one_round(wards)
    [group] = strategy.records[1].groups
    assert group.survivors == ("site-0", "site-2", "site-3", "site-4") and wards.calls == 4
    with pytest.raises(LocalError, match="which it has had"):
        site.accept("site-4", other, by="administrator")


def test_a_site_that_approves_another_plan_takes_no_part(wards: Wards) -> None:
    wards.site(0).approve(flower_plan(**{**SETTINGS, "clip_norm": 3.0}))
    [abort] = one_round(wards).records[1].aborts
    assert "expected at least 5 members, got 4" in abort.reason
    assert wards.calls == 0


def test_no_other_message_reaches_the_app(wards: Wards) -> None:
    for kind in ("query.rows", "query", "train.other"):
        message = Message(RecordDict(), 100, kind)
        context = Context(1, 100, {"partition-id": 0}, RecordDict(), {})
        with pytest.raises(ValueError, match="function registered"):
            wards.app(message, context)


def test_an_app_of_a_client_fn_fails_at_its_node_and_nothing_leaves(wards: Wards) -> None:
    app = protect(ClientApp(lambda context: NumPyClient().to_client()), wards.folder)
    wards.grid = GridOfApps(app, 5, RUN_CONFIG)
    replies = meddle(wards, lambda message: message)
    one_round(wards)
    assert [str(one.error.reason).partition(": ")[2] for one in replies] == [
        "the job failed; the site's own log says why"
    ] * 5


def test_a_site_answers_one_message_at_a_time(wards: Wards) -> None:
    with wards.site(2).guard():
        [abort] = one_round(wards).records[1].aborts
    assert abort.parties == ("site-2",) and "is open in another process" in abort.reason


def test_a_node_whose_training_failed_still_helps_to_open_the_sum(wards: Wards) -> None:
    wards.gone = {3}
    trained: list[Message] = []
    delivered = wards.grid.send_and_receive

    def send(messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        given = list(messages)
        trained.extend(one for one in given if one.metadata.message_type == "train")
        if trained:  # site-2 is gone once its update is sent, so that all four others are needed
            lost = [
                one for one in given if (one.metadata.dst_node_id, one.metadata.message_type) == (102, "query.secagg")
            ]
            given = [one for one in given if one not in lost]
        return delivered(given, timeout=timeout)

    wards.grid.send_and_receive = send  # type: ignore[method-assign]
    [group] = one_round(wards).records[1].groups
    assert group.survivors == ("site-0", "site-1", "site-2", "site-4")


def test_a_clip_holds_whatever_the_app_sends(wards: Wards) -> None:
    wards.spoilt = {4: np.full(SIZE, 100.0, dtype=np.float32)}
    strategy = wards.strategy()
    arrays = strategy.start(wards.grid, model(), num_rounds=1).arrays
    moved = (arrays["weight"].numpy() - model()["weight"].numpy()).reshape(-1)
    weights = [10, 20, 30, 40, 50]
    assert np.linalg.norm(moved) < (0.9 * sum(weights[:4]) + 2.0 * 50) / sum(weights) + 1e-4


def test_sites_give_no_second_sum_over_one_model_that_differs_in_one_of_them(
    wards: Wards, caplog: pytest.LogCaptureFixture
) -> None:
    strategy, arrays = wards.strategy(), model()
    for number, gone in ((1, set[int]()), (2, {3}), (3, set[int]())):
        wards.gone = gone
        strategy.configure_train(number, arrays, ConfigRecord({"lr": 0.1 * number}), wards.grid)
    strategy.close()
    survivors = {number: [len(group.survivors) for group in one.groups] for number, one in strategy.records.items()}
    assert survivors == {1: [5], 2: [0], 3: [5]}
    [abort] = strategy.records[2].aborts
    assert abort.cause == "TOO_FEW_SIGNATURES"
    assert "secure aggregation: refused: " in caplog.text


def test_a_run_configuration_of_its_own_for_one_node_is_refused(wards: Wards) -> None:
    """A learning rate of 0 at all nodes but one would leave the sum to that one."""
    wards.grid = GridOfApps(wards.app, 5, {**RUN_CONFIG, "learning-rate": 0.0})
    replies = meddle(wards, lambda message: message)
    one_round(wards)
    assert wards.calls == 0
    assert all("the run's configuration whose digest is in the order" in str(one.error.reason) for one in replies)


def test_the_app_gets_nothing_that_no_digest_covers(wards: Wards) -> None:
    seen: list[Message] = []
    inner = ClientApp()

    @inner.train()
    def train(message: Message, context: Context) -> Message:
        seen.append(message)
        return wards.plain(message, context)

    wards.grid = GridOfApps(protect(inner, wards.folder), 5, RUN_CONFIG)

    def reordered(message: Message) -> Message:
        content = RecordDict(dict(reversed(list(message.content.items()))))
        return Message(content, message.metadata.dst_node_id, "train", group_id="victim", ttl=1000.0)

    meddle(wards, reordered)
    strategy = one_round(wards)
    assert [len(group.survivors) for group in strategy.records[1].groups] == [5] and len(seen) == 5
    for message in seen:
        assert list(message.content) == ["arrays", "config"] and message.metadata.group_id == ""
        assert message.metadata.ttl != 1000.0


def test_the_digest_of_records_is_of_every_name_and_value() -> None:
    def digest(**changes: Any) -> str:
        arrays = {"a": Array(np.zeros(2, np.float32)), "b": Array(np.ones(1))}
        config: dict[str, Any] = {"lr": 0.5, "flag": True, "names": ["x", "y"], "raw": b"1"}
        run_config = {"epochs": changes.pop("epochs", 1)}
        if changes.pop("swap", False):
            arrays = dict(reversed(arrays.items()))
        arrays.update(changes.pop("arrays", {}))
        records = RecordDict({"arrays": ArrayRecord(arrays), "config": ConfigRecord({**config, **changes})})
        found = digest_of_records(records, run_config)
        carried = own_records(_flower.decode_records(_flower.encode_records(records)))
        assert digest_of_records(carried, run_config) == found
        return found

    others = [
        digest(lr=0.25),
        digest(flag=False),
        digest(flag=1),
        digest(names=["x", "z"]),
        digest(raw="1"),
        digest(more=1),
        digest(swap=True),
        digest(arrays={"a": Array(np.zeros(2))}),
        digest(arrays={"b": Array(np.zeros(1))}),
        digest(epochs=2),
        digest(epochs=1.0),
    ]
    assert len({digest(), *others}) == 1 + len(others)


def test_a_certificate_of_another_key_or_authority_is_refused(tmp_path: Path, wards: Wards) -> None:
    own, other = wards.site(0), wards.site(1)
    read = own.folder.read
    given = {"authority": read("authority.der"), "revocations": read("revocations.der"), "server": own.folder.server}
    with pytest.raises(RemoteError, match="site-0: expected a certificate of this name, got one of 'site-1'"):
        own.join(certificate=other.folder.read("certificate.der"), **given)
    foreign = Wards(tmp_path / "foreign", SETTINGS)
    with pytest.raises(RemoteError, match="expected a certificate of the run's authority"):
        own.join(certificate=foreign.site(0).folder.read("certificate.der"), **given)
    again = type(own).make(tmp_path / "again", "site-0", now=lambda: datetime.now(UTC) + timedelta(minutes=1))
    with pytest.raises(LocalError, match="expected a certificate of this site's own key"):
        again.join(certificate=read("certificate.der"), **given)
