"""The clip on the client: what leaves a node of a Flower app, and what Flower's own mods let out."""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from wardround import _flower
from wardround.client.flower_clip_mod import clip_mod
from wardround.client.guard.guard import fit_job
from wardround.client.trainer.flower_app import FlowerApp
from wardround.client.trainer.flower_trainer import FlowerTrainer
from wardround.orders import EvalJob, Order, OrderKind, SiteId
from wardround.plan import parse_plan
from wardround.strategies.privacy.flower_clip_norm import CLIP_NORM, MARGIN, told_clip_norm
from wardround.strategies.privacy.gaussian_dp import delta_of_mu

Arrays = Mapping[str, NDArray[Any]]
SENT: Arrays = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scale": np.array([1.0, -2.0]),
    "count": np.array(7),
}
CONTEXT = Context(run_id=1, node_id=5, node_config={}, state=RecordDict(), run_config={})


@pytest.fixture(autouse=True)
def quiet_flower() -> Iterator[None]:
    _flower.set_identity(run_id=1, node_id=1)
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def record_of(given: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in given.items()})


def ask(
    mod: Mod,
    made: Arrays | RecordDict,
    config: Mapping[str, Any] | None = None,
    kind: str = "train",
    sent: Arrays = SENT,
) -> Message:
    """The answer of an app that returns `made` to a message with `sent`."""
    app = ClientApp(mods=[mod])
    content = made
    if not isinstance(made, RecordDict):
        content = RecordDict({"trained": record_of(made), "metrics": MetricRecord({"num-examples": 10})})

    @app.train()
    @app.evaluate()
    @app.query()
    def answer(message: Message, context: Context) -> Message:
        assert isinstance(content, RecordDict)
        return Message(content, reply_to=message)

    asked = RecordDict({"arrays": record_of(sent), "config": ConfigRecord(dict(config or {}))})
    return app(Message(asked, 5, kind), CONTEXT)


def moved(weight: float, scale: float = 0.0) -> dict[str, NDArray[Any]]:
    """What was sent, its first weight and its first scale moved."""
    made = {name: array.copy() for name, array in SENT.items()}
    made["weight"][0, 0] += weight
    made["scale"][0] += scale
    return made


def update_of(reply: Message, sent: Arrays = SENT) -> NDArray[np.float64]:
    [record] = reply.content.array_records.values()
    assert list(record) == list(sent)
    parts = [record[name].numpy().astype(np.float64) - sent[name] for name in sent if sent[name].dtype.kind == "f"]
    return np.concatenate([part.reshape(-1) for part in parts])


def reason_of(reply: Message) -> str:
    assert reply.has_error()
    return str(reply.error.reason)


def test_an_update_is_scaled_down_to_the_norm_as_one_vector() -> None:
    reply = ask(clip_mod(1.0), moved(30.0, 40.0))
    update = update_of(reply)
    assert np.linalg.norm(update) == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_allclose(update[[0, 6]], [0.6, 0.8], rtol=1e-6)


def test_a_short_update_leaves_as_it_is() -> None:
    reply = ask(clip_mod(1.0), moved(0.25, 0.5))
    np.testing.assert_array_equal(update_of(reply)[[0, 6]], [0.25, 0.5])
    assert reply.content["metrics"]["num-examples"] == 10


@given(
    arrays(np.float32, 6, elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(1e-3, 1e3),
)
def test_no_update_that_leaves_is_longer_than_the_norm(made: NDArray[np.float32], clip_norm: float) -> None:
    sent = {"w": np.zeros(6, np.float32)}
    update = update_of(ask(clip_mod(clip_norm), {"w": made}, sent=sent), sent)
    assert np.linalg.norm(update) <= clip_norm * (1 + 1e-6)
    before = float(np.linalg.norm(made.astype(np.float64)))
    if before > clip_norm:
        np.testing.assert_allclose(update * before / clip_norm, made, rtol=1e-5, atol=1e-5 * before)


def test_arrays_that_are_no_floats_go_back_as_they_came() -> None:
    reply = ask(clip_mod(1.0), {**moved(0.5), "count": np.array(999)})
    assert reply.content.array_records["trained"]["count"].numpy() == 7


def test_names_shapes_and_types_stay() -> None:
    record = ask(clip_mod(1.0), moved(30.0)).content.array_records["trained"]
    for name, before in SENT.items():
        assert (record[name].numpy().dtype, record[name].numpy().shape) == (before.dtype, before.shape)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_does_not_leave(value: float) -> None:
    assert "expected a finite update" in reason_of(ask(clip_mod(1.0), moved(value)))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"weight": SENT["weight"]}, "expected an array named 'count'"),
        ({**SENT, "scale": np.zeros(3)}, "expected float64 of shape (2,)"),
        ({**SENT, "more": np.zeros(3)}, "expected no array named 'more'"),
        (RecordDict({"metrics": MetricRecord({"loss": 1.0})}), "expected one ArrayRecord, got 0"),
        (RecordDict({"a": record_of(SENT), "b": record_of(SENT)}), "expected one ArrayRecord, got 2"),
    ],
    ids=["missing", "misshapen", "surplus", "none", "two"],
)
def test_other_arrays_than_were_sent_do_not_leave(made: Any, reason: str) -> None:
    assert reason in reason_of(ask(clip_mod(1.0), made))


def test_evaluation_without_arrays_passes_and_with_arrays_does_not() -> None:
    metrics = RecordDict({"metrics": MetricRecord({"loss": 1.0})})
    for kind in ("evaluate", "query"):
        assert ask(clip_mod(1.0), metrics, kind=kind).content["metrics"]["loss"] == 1.0
        assert "only updates are clipped" in reason_of(ask(clip_mod(1.0), moved(0.1), kind=kind))


def test_a_named_action_of_training_is_training() -> None:
    app = ClientApp(mods=[clip_mod(1.0)])

    @app.train("again")
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": record_of(moved(9.0))}), reply_to=message)

    reply = app(Message(RecordDict({"arrays": record_of(SENT)}), 5, "train.again"), CONTEXT)
    assert np.linalg.norm(update_of(reply)) == pytest.approx(1.0, rel=1e-6)


def test_an_app_that_changes_what_it_was_sent_does_not_move_the_origin() -> None:
    app = ClientApp(mods=[clip_mod(1.0)])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        message.content["arrays"] = record_of(moved(1e6))
        return Message(RecordDict({"arrays": record_of(moved(1e6))}), reply_to=message)

    reply = app(Message(RecordDict({"arrays": record_of(SENT)}), 5, "train"), CONTEXT)
    assert np.linalg.norm(update_of(reply)) == pytest.approx(1.0, rel=1e-6)


def test_what_the_app_raises_stays_what_it_is() -> None:
    app = ClientApp(mods=[clip_mod(1.0)])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise ValueError("no rows")

    with pytest.raises(ValueError, match=r"^no rows$"):
        app(Message(RecordDict({"arrays": record_of(SENT)}), 5, "train"), CONTEXT)


def test_as_the_first_of_mods_it_clips_what_the_others_do() -> None:
    def double(message: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        reply.content["arrays"] = record_of(moved(50.0))
        return reply

    app = ClientApp(mods=[clip_mod(1.0), double])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": record_of(SENT)}), reply_to=message)

    reply = app(Message(RecordDict({"arrays": record_of(SENT)}), 5, "train"), CONTEXT)
    assert np.linalg.norm(update_of(reply)) == pytest.approx(1.0, rel=1e-6)


def test_the_norm_of_a_round_is_heeded_with_a_margin_by_which_the_server_counts() -> None:
    update = update_of(ask(clip_mod(10.0), moved(30.0), {CLIP_NORM: 2.0}))
    assert 2.0 < np.linalg.norm(update) == pytest.approx(2.0 * MARGIN, rel=1e-6)
    assert MARGIN < 1.001
    np.testing.assert_array_equal(update_of(ask(clip_mod(10.0), moved(1.5), {CLIP_NORM: 2.0}))[0], 1.5)


def test_a_node_takes_no_part_in_a_round_whose_norm_is_above_its_own() -> None:
    assert "at most 1, which is this node's, got 2" in reason_of(ask(clip_mod(1.0), moved(0.1), {CLIP_NORM: 2.0}))
    assert np.linalg.norm(update_of(ask(clip_mod(2.0), moved(9.0), {CLIP_NORM: 2.0}))) <= 2.0 * (1 + 1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "1", 1], ids=repr)
def test_a_rounds_norm_that_is_none_is_refused(value: Any) -> None:
    assert f"expected a {CLIP_NORM} above 0" in reason_of(ask(clip_mod(1.0), moved(0.1), {CLIP_NORM: value}))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_norm_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="expected a clip_norm above 0"):
        clip_mod(value)


def test_a_message_without_a_norm_has_none() -> None:
    assert told_clip_norm(RecordDict({"config": ConfigRecord({"lr": 1.0})})) is None


def test_an_app_with_the_mod_trains_inside_a_plan() -> None:
    app = ClientApp(mods=[clip_mod(1.0)])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 10, "train_loss": 0.5})
        return Message(RecordDict({"arrays": record_of(moved(30.0, 40.0)), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 10, "eval_loss": 0.5})}), reply_to=message)

    plan = parse_plan(
        {
            "name": "flower",
            "rounds": 1,
            "task": {"flower_app": "m:app", "flower_initial": "m:initial"},
            "data": {"source": "app"},
        }
    )
    flower, order = FlowerApp(app, SENT), Order(run_id="r", plan_digest=plan.digest, kind=OrderKind.FIT, round=1)
    trainer, model = FlowerTrainer(flower, plan, SiteId("north"), 0), flower.vector(SENT)
    update = trainer.fit(fit_job(plan, order, SiteId("north")), model).update
    np.testing.assert_allclose(update[[0, 6]], [0.6, 0.8], rtol=1e-6)
    assert trainer.evaluate(EvalJob(order=order, site=SiteId("north")), model).n == 10


# -- Flower's own mods, flwr 1.41 ---------------------------------------------------------------------

FLOWERS = {"clipping_norm": 1.0}


@pytest.mark.parametrize("mod", [fixedclipping_mod, adaptiveclipping_mod], ids=["fixed", "adaptive"])
def test_a_nan_passes_flowers_clip(mod: Mod) -> None:
    assert np.isnan(update_of(ask(mod, moved(math.nan), FLOWERS))).any()


@pytest.mark.parametrize("mod", [fixedclipping_mod, adaptiveclipping_mod], ids=["fixed", "adaptive"])
def test_an_app_that_learned_nothing_breaks_flowers_clip(mod: Mod) -> None:
    with pytest.raises(ZeroDivisionError):
        ask(mod, moved(0.0), FLOWERS)
    assert not update_of(ask(clip_mod(1.0), moved(0.0))).any()


def test_flowers_mods_of_an_app_answer_every_evaluation_with_an_error() -> None:
    metrics = RecordDict({"metrics": MetricRecord({"loss": 1.0})})
    for mod in (fixedclipping_mod, adaptiveclipping_mod):
        assert "requires the key 'clipping_norm'" in reason_of(ask(mod, metrics, kind="evaluate"))
        assert "expects exactly one ArrayRecord" in reason_of(ask(mod, metrics, FLOWERS, kind="evaluate"))
    local = LocalDpMod(1.0, 1.0, 1.0, 1e-5)
    assert "expects exactly one ArrayRecord" in reason_of(ask(local, metrics, kind="evaluate"))


def test_the_server_can_lift_the_clip_of_flowers_mods() -> None:
    update = update_of(ask(fixedclipping_mod, moved(1e6), {"clipping_norm": math.inf}))
    assert np.linalg.norm(update) == pytest.approx(1e6)


def test_flowers_local_mod_takes_any_sensitivity_epsilon_and_delta() -> None:
    update = update_of(ask(LocalDpMod(1.0, 0.0, 1.0, 1e-5), moved(0.5)))
    assert update[0] == 0.5 and not update[1:].any(), "noise of standard deviation 0, at a claim of epsilon = 1"
    LocalDpMod(1.0, 1.0, math.nan, math.nan)
    LocalDpMod(1.0, 1.0, 1.0, 2.0)


def flowers_local_std(epsilon: float, delta: float) -> float:
    """The standard deviation that LocalDpMod adds at sensitivity 1, measured: 4000 values of a seeded generator."""
    sent = {"w": np.zeros(4000, np.float32)}
    made = {"w": np.full(4000, 1e-6, np.float32)}
    np.random.seed(7)
    return float(update_of(ask(LocalDpMod(1.0, 1.0, epsilon, delta), made, sent=sent), sent).std())


def test_flowers_local_noise_meets_its_delta_below_epsilon_1_only() -> None:
    for epsilon, std, delta in ((1.0, 4.84, 4.1e-8), (3.0, 1.61, 3.2e-7), (20.0, 0.242, 1.5e-3)):
        assert flowers_local_std(epsilon, 1e-5) == pytest.approx(std, rel=0.05)
        assert delta_of_mu(1 / std, epsilon) == pytest.approx(delta, rel=0.1)
    assert delta_of_mu(1 / 3.731, 1.0) <= 1e-5 < delta_of_mu(1 / 3.730, 1.0), "what would be enough"


def test_flowers_local_noise_is_repeated_by_a_seed_of_the_app() -> None:
    assert flowers_local_std(1.0, 1e-5) == flowers_local_std(1.0, 1e-5)
