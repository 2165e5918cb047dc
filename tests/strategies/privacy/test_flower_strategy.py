"""Clients hidden in Flower apps: the mechanism, what is refused, the account; and what Flower's own wrappers do."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedXgbBagging,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from numpy.typing import NDArray

from tests.grid_of_apps import GridOfApps
from wardround import _flower
from wardround.client.flower_clip_mod import clip_mod
from wardround.contribution import Verdict
from wardround.errors import LocalError
from wardround.state_store import MemoryStore
from wardround.strategies.privacy.flower_clip_norm import CLIP_NORM
from wardround.strategies.privacy.flower_strategy import PrivateStrategy
from wardround.strategies.privacy.gaussian_dp import epsilon_of_mu
from wardround.strategies.robust_strategy import RobustStrategy
from wardround.strategies.rules.median import Median

Arrays = Mapping[str, NDArray[Any]]
SIZE = 2000
GLOBAL: Arrays = {
    "weight": np.linspace(-1, 1, SIZE, dtype=np.float32).reshape(40, -1),
    "count": np.array(7),
    "scale": np.array([0.5, -2.0]),
}


@pytest.fixture(autouse=True)
def log() -> Iterator[list[str]]:
    """Flower's log, which is kept off the screen."""
    _flower.set_identity(run_id=1, node_id=1)
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("flwr"), Keep()
    before = logger.handlers[:]
    logger.handlers[:] = [handler]
    yield lines
    logger.handlers[:] = before


def fedavg(**settings: Any) -> FedAvg:
    return FedAvg(min_train_nodes=1, min_available_nodes=1, **settings)


def private(strategy: Strategy | None = None, *, population: int = 10, **settings: Any) -> PrivateStrategy:
    settings = {"rounds": 100, "noise_multiplier": 1.0, **settings}
    return PrivateStrategy(strategy or fedavg(), population=population, **settings)


def record_of(given: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in given.items()})


def moved(by: float, given: Arrays = GLOBAL) -> dict[str, NDArray[Any]]:
    """`given` with the first weight moved."""
    weight = given["weight"].copy()
    weight[0, 0] += np.float32(by)
    return {**given, "weight": weight}


def reply_of(made: Arrays, node: int, examples: float = 10, **metrics: Any) -> Message:
    metric = MetricRecord({"num-examples": examples, "loss": 1.0, **metrics})
    content = RecordDict({"arrays": record_of(made), "metrics": metric})
    return Message(content, reply_to=Message(RecordDict(), node, "train"))


def round_of(
    strategy: Strategy, replies: Sequence[Message], *, given: Arrays = GLOBAL, number: int = 1, nodes: int = 10
) -> dict[str, NDArray[Any]] | None:
    """A round of `nodes` nodes (100, 101, ...), of which these replies come: the new arrays."""
    grid = GridOfApps(lambda message, context: message, nodes, {})
    strategy.configure_train(number, record_of(given), ConfigRecord(), grid)
    made, metrics = strategy.aggregate_train(number, replies)
    if isinstance(strategy, PrivateStrategy):
        assert metrics is None
    return None if made is None else {name: array.numpy() for name, array in made.items()}


def all_of(made: Iterable[Arrays]) -> list[Message]:
    return [reply_of(one, 100 + index) for index, one in enumerate(made)]


def change(made: Mapping[str, NDArray[Any]] | None, given: Arrays = GLOBAL) -> NDArray[np.float64]:
    """What a round added to the learned arrays, in one row."""
    assert made is not None
    parts = [made[name].astype(np.float64) - given[name] for name in given if given[name].dtype.kind == "f"]
    return np.concatenate([part.reshape(-1) for part in parts])


ALMOST_NONE = 2.0**-9
"""A noise multiplier below which the mean shows: noise of 0.002 clip norms on the sum."""


# -- the mechanism ------------------------------------------------------------------------------------


def test_updates_are_clipped_added_up_and_divided_by_the_planned_number() -> None:
    strategy = private(noise_multiplier=ALMOST_NONE, clip_norm=2.0)
    mean = change(round_of(strategy, all_of([moved(0.5), moved(100.0), *[GLOBAL] * 8])))
    assert mean[0] == pytest.approx((0.5 + 2.0) / 10, abs=8 * ALMOST_NONE * 2.0 / 10)
    assert np.abs(mean[1:]).max() < 8 * ALMOST_NONE * 2.0 / 10


@pytest.mark.parametrize("replies", [10, 5, 1, 0])
def test_noise_is_that_of_the_plan_whatever_comes_back(replies: int) -> None:
    strategy = private(noise_multiplier=3.0, clip_norm=2.0)
    mean = change(round_of(strategy, all_of([moved(1.0)] * replies)))
    # standard deviation of the deviation of SIZE + 1 values is 1.6 %; 6.5 of them: false alarms below 1e-9
    assert mean[1:].std() == pytest.approx(3.0 * 2.0 / 10, rel=6.5 / math.sqrt(2 * SIZE))
    assert mean[0] == pytest.approx(replies / 10, abs=6.5 * 0.6)


def test_noise_is_fresh_in_each_round_and_each_strategy() -> None:
    np.random.seed(0)
    first = private()
    one, two = (change(round_of(first, all_of([GLOBAL] * 10), number=number)) for number in (1, 2))
    np.random.seed(0)
    other = change(round_of(private(), all_of([GLOBAL] * 10)))
    for left, right in ((one, two), (one, other)):
        assert abs(np.corrcoef(left, right)[0, 1]) < 6.5 / math.sqrt(SIZE)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_counts_as_zero(value: float, log: list[str]) -> None:
    strategy = private(noise_multiplier=ALMOST_NONE)
    mean = change(round_of(strategy, all_of([moved(value), moved(0.5), *[GLOBAL] * 8])))
    assert mean[0] == pytest.approx(0.05, abs=8 * ALMOST_NONE / 10)
    assert [line.verdict for line in strategy.reports[1].lines].count(Verdict.REFUSED) == 1
    assert any("The reply of node 100 counts as zero: expected" in line for line in log)


def test_other_arrays_a_second_reply_and_errors_count_as_zero() -> None:
    strategy = private(noise_multiplier=ALMOST_NONE)
    failed = Message(Error(code=1, reason="no rows"), reply_to=Message(RecordDict(), 102, "train"))
    twice = [reply_of(moved(1.0), 103), reply_of(moved(1.0), 103)]
    stranger = reply_of(moved(1.0), 999)
    odd = {name: array for name, array in moved(1.0).items() if name != "scale"}
    mean = change(round_of(strategy, [reply_of(odd, 100), reply_of(moved(0.5), 101), failed, *twice, stranger]))
    assert mean[0] == pytest.approx(0.05, abs=8 * ALMOST_NONE / 10)
    assert strategy.reports[1].refused == 4


def test_examples_that_a_node_claims_change_nothing() -> None:
    strategy = private(noise_multiplier=ALMOST_NONE)
    made = [reply_of(moved(1.0), 100, examples=10**12), *all_of([GLOBAL] * 10)[1:]]
    assert change(round_of(strategy, made))[0] == pytest.approx(0.1, abs=8 * ALMOST_NONE / 10)


def test_names_shapes_types_and_counters_stay() -> None:
    made = round_of(private(), all_of([{**moved(1.0), "count": np.array(999)}] * 10))
    assert made is not None and list(made) == list(GLOBAL)
    for name, before in GLOBAL.items():
        assert (made[name].dtype, made[name].shape) == (before.dtype, before.shape)
    assert made["count"] == 7


def test_server_optimisers_step_along_the_noisy_mean() -> None:
    def after(inner: Strategy, rounds: int = 2) -> NDArray[np.float64]:
        strategy, given = private(inner, noise_multiplier=ALMOST_NONE), dict(GLOBAL)
        for number in range(1, rounds + 1):
            given = round_of(strategy, all_of([moved(1.0, given)] * 10), given=given, number=number) or given
        return change(given)

    nodes: dict[str, Any] = {"min_train_nodes": 1, "min_available_nodes": 1}
    assert after(fedavg())[0] == pytest.approx(2.0, abs=0.01)
    assert after(FedProx(proximal_mu=0.1, **nodes))[0] == pytest.approx(2.0, abs=0.01)
    assert after(FedAvgM(server_momentum=0.9, **nodes))[0] == pytest.approx(1.0 + 1.9, abs=0.01)
    assert after(FedAvgM(server_learning_rate=0.5, **nodes))[0] == pytest.approx(1.0, abs=0.01)
    for kind in (FedAdam, FedYogi, FedAdagrad):
        assert after(kind(eta=0.1, **nodes))[0] > 0.01


def test_a_strategy_of_the_users_own_sees_the_noisy_mean_and_no_reply() -> None:
    class Curious(FedAvg):
        seen: Sequence[Message] = ()

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            self.seen = list(replies)
            return super().aggregate_train(server_round, self.seen)

    inner = Curious(min_train_nodes=1, min_available_nodes=1, weighted_by_key="rows", arrayrecord_key="model")
    made = round_of(private(inner), all_of([moved(1.0)] * 10))
    [message] = inner.seen
    assert set(message.content) == {"model", "metrics"} and dict(message.content["metrics"]) == {"rows": 1}
    assert made is not None
    np.testing.assert_array_equal(message.content.array_records["model"]["weight"].numpy(), made["weight"])


def test_a_model_that_noise_would_make_infinite_stays(log: list[str]) -> None:
    given = {"w": np.full(8, np.finfo(np.float16).max, np.float16)}
    strategy = private(clip_norm=1e6)
    assert round_of(strategy, all_of([given] * 10), given=given) is None
    assert any("stays as it was" in line for line in log)
    assert strategy.epsilon() > 0


# -- the account --------------------------------------------------------------------------------------


def test_epsilon_is_that_of_the_begun_rounds() -> None:
    strategy = private(noise_multiplier=5.0, rounds=50, delta=1e-5)
    assert strategy.epsilon() == 0.0
    assert strategy.epsilon(50) == pytest.approx(6.573, abs=0.001)
    grid = GridOfApps(lambda message, context: message, 10, {})
    for number in (1, 2, 3):
        strategy.configure_train(number, record_of(GLOBAL), ConfigRecord(), grid)  # and nothing comes back
    assert strategy.epsilon() == strategy.epsilon(3) == pytest.approx(epsilon_of_mu(math.sqrt(3) / 5, 1e-5), rel=1e-9)


def test_noise_is_computed_from_epsilon() -> None:
    strategy = private(population=280, noise_multiplier=None, epsilon=1.0, delta=1e-3, rounds=50, research_delta=True)
    assert strategy.central.terms.noise_multiplier == pytest.approx(18.206, rel=2e-4)
    assert strategy.epsilon(50) <= 1.0


def test_after_its_rounds_it_asks_nobody_and_the_model_stays(log: list[str]) -> None:
    strategy = private(rounds=2)
    for number in (1, 2):
        assert round_of(strategy, all_of([GLOBAL] * 10), number=number) is not None
    grid = GridOfApps(lambda message, context: message, 10, {})
    assert list(strategy.configure_train(3, record_of(GLOBAL), ConfigRecord(), grid)) == []
    assert strategy.aggregate_train(3, []) == (None, None)
    assert strategy.epsilon() == strategy.epsilon(2)
    assert any("the privacy budget is spent" in line for line in log)


def test_with_epsilon_and_noise_it_stops_before_epsilon_is_exceeded() -> None:
    strategy = private(noise_multiplier=5.0, epsilon=2.0, delta=1e-5, rounds=50)
    allowed = strategy.central.terms.rounds
    assert 0 < allowed < 50
    assert strategy.epsilon(allowed) <= 2.0 < strategy.epsilon(allowed + 1)


def test_a_store_keeps_the_account_over_restarts() -> None:
    store = MemoryStore()
    for number in (1, 2):
        round_of(private(store=store, rounds=2), all_of([GLOBAL] * 10), number=number)
    third = private(store=store, rounds=2)
    assert third.epsilon() == third.epsilon(2) and round_of(third, all_of([GLOBAL] * 10), number=3) is None


def test_a_round_is_released_once() -> None:
    strategy = private()
    with pytest.raises(LocalError, match="expected configure_train before it"):
        strategy.aggregate_train(1, [])
    round_of(strategy, all_of([GLOBAL] * 10))
    with pytest.raises(LocalError, match="and once in a round"):
        strategy.aggregate_train(1, all_of([GLOBAL] * 10))
    assert strategy.epsilon() == strategy.epsilon(1)


def test_what_raises_before_a_round_is_not_charged() -> None:
    strategy = private()
    with pytest.raises(LocalError, match="at 10 nodes at most"):
        round_of(strategy, [], nodes=11)
    with pytest.raises(LocalError, match="expected finite arrays"):
        round_of(strategy, [], given={"w": np.array([math.nan], np.float32)})
    assert strategy.epsilon() == 0.0


def test_the_claim_names_unit_relation_and_adversary() -> None:
    words = private(population=200, rounds=50, noise_multiplier=None, epsilon=3.0).claim().words()
    for part in ("epsilon 3 at delta 1e-06", "for every client (zero-out)", "server is trusted", "takes part in every"):
        assert part.replace("1e-06", "1e-6") in words
    sampled = private(population=200, num_clients=20, sampling="poisson").claim().words()
    assert "do not learn who took part" in sampled and "(Poisson)" in sampled


def test_the_summary_has_claim_noise_and_the_warning_of_few_clients(log: list[str]) -> None:
    private(noise_multiplier=2.0).summary()
    text = "\n".join(log)
    for part in ("Privacy: epsilon", "Noise multiplier: 2", "10 planned of 10", "only 10 clients", "Keys in records"):
        assert part in text


def test_replace_one_costs_twice_the_sensitivity() -> None:
    strategy = private(noise_multiplier=5.0, rounds=50, delta=1e-5, relation="replace-one")
    assert strategy.epsilon(50) == pytest.approx(15.456, abs=0.001)


# -- sampling -----------------------------------------------------------------------------------------


def test_a_poisson_sample_is_drawn_in_secret_from_all_nodes() -> None:
    strategy = private(population=400, num_clients=100, sampling="poisson", rounds=10)
    grid = GridOfApps(lambda message, context: message, 400, {})
    asked = []
    for number in range(1, 11):
        messages = list(strategy.configure_train(number, record_of(GLOBAL), ConfigRecord(), grid))
        asked.append({message.metadata.dst_node_id for message in messages})
    sizes = [len(one) for one in asked]
    assert len(set(sizes)) > 1, "a Poisson sample's size varies"
    assert abs(sum(sizes) - 1000) < 6.5 * math.sqrt(4000 * 0.25 * 0.75)
    assert len({frozenset(one) for one in asked}) == 10


def test_amplification_lowers_epsilon_and_the_mean_is_of_the_expected_number() -> None:
    settings: dict[str, Any] = {"population": 400, "rounds": 10, "noise_multiplier": 1.0, "num_clients": 40}
    sampled, full = private(sampling="poisson", **settings), private(**settings)
    assert sampled.epsilon(10) < 0.5 * full.epsilon(10)
    assert sampled.central.mean.denominator == full.central.mean.denominator == 40


def test_a_reply_of_a_node_that_was_not_drawn_counts_as_zero() -> None:
    strategy = private(population=10, num_clients=1, sampling="poisson", noise_multiplier=1.0)
    round_of(strategy, all_of([moved(1.0)] * 10))
    lines = strategy.reports[1].lines
    assert len(lines) == 10 and strategy.reports[1].refused > 0
    assert {line.reason for line in lines if line.verdict is Verdict.REFUSED} == {
        "expected no reply from a node that was not asked"
    }


def test_an_empty_sample_is_a_round_of_noise() -> None:
    strategy = private(population=1000, num_clients=1, sampling="poisson")
    mean = change(round_of(strategy, [], nodes=1))
    assert mean.std() == pytest.approx(1.0, rel=6.5 / math.sqrt(2 * SIZE))


# -- adaptive clipping --------------------------------------------------------------------------------


def adaptive(**settings: Any) -> PrivateStrategy:
    return private(population=100, clipping="adaptive", noise_multiplier=0.1, count_noise=0.25, **settings)


def test_the_clip_follows_the_median_norm() -> None:
    strategy = adaptive(clip_norm=1.0)
    replies = [moved(5.0)] * 100
    for number in range(1, 21):
        round_of(strategy, all_of(replies), number=number, nodes=100)
    norm = strategy.central.clip_norm(strategy.memory)
    assert norm is not None and 4.0 < norm < 6.5


def test_the_norm_of_the_round_goes_to_the_nodes_and_the_memory_can_be_put_back() -> None:
    strategy, config = adaptive(clip_norm=1.0), ConfigRecord()
    grid = GridOfApps(lambda message, context: message, 100, {})
    strategy.configure_train(1, record_of(GLOBAL), config, grid)
    assert config[CLIP_NORM] == 1.0
    strategy.aggregate_train(1, all_of([moved(5.0)] * 100))
    again = adaptive(clip_norm=1.0)
    again.memory = strategy.memory
    again.configure_train(2, record_of(GLOBAL), config, grid)
    followed = strategy.central.clip_norm(strategy.memory)
    assert followed is not None and config[CLIP_NORM] == followed > 1.0
    flat = ConfigRecord()
    private().configure_train(1, record_of(GLOBAL), flat, GridOfApps(lambda message, context: message, 10, {}))
    assert CLIP_NORM not in flat


@pytest.mark.parametrize("with_mod", [False, True])
def test_a_clip_on_the_nodes_does_not_lead_the_adaptive_norm_astray(with_mod: bool) -> None:
    app = ClientApp(mods=[clip_mod(100.0)] if with_mod else [])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": record_of(moved(5.0, arrays)), "metrics": metrics}), reply_to=message)

    strategy = adaptive(clip_norm=1.0)
    given = {**GLOBAL, "weight": GLOBAL["weight"] * 2000}  # so long that float32 rounds a clipped update
    result = strategy.start(GridOfApps(app, 100, {}), record_of(given), num_rounds=20)
    norm = strategy.central.clip_norm(strategy.memory)
    assert norm is not None and 4.0 < norm < 6.5
    assert sorted(result.train_metrics_clientapp) == sorted(result.evaluate_metrics_clientapp) == []


def test_too_few_clients_for_a_noisy_count_are_refused() -> None:
    with pytest.raises(ValueError, match="clients in a round"):
        private(population=10, clipping="adaptive", noise_multiplier=2.0)


# -- what is refused ----------------------------------------------------------------------------------


class Own(RobustStrategy):
    pass


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (RobustStrategy(Median(1)), "lets one client steer which others count"),
        (Own(Median(1)), "rule goes with noise that the clients add"),
        (FedMedian(), "lets one client steer"),
        (FedTrimmedAvg(), "lets one client steer"),
        (Krum(), "lets one client steer"),
        (MultiKrum(), "lets one client steer"),
        (QFedAvg(client_learning_rate=0.1), "unequal weights"),
        (FedXgbBagging(), "trees are no arrays"),
        (DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 10), "a second time"),
        (DifferentialPrivacyClientSideAdaptiveClipping(FedAvg(), 1.0, 100), "a second time"),
        ("FedAvg", "expected a Flower strategy to wrap, got str"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:12],
)
def test_a_strategy_that_breaks_the_claim_is_refused(inner: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        private(inner)


def test_a_private_strategy_is_not_wrapped_again() -> None:
    with pytest.raises(ValueError, match="got a PrivateStrategy"):
        private(private())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"population": 0}, "population: expected a number of at least 1"),
        ({"population": 2.5}, "population: expected a number of at least 1"),
        ({"rounds": 0}, "rounds: expected a number of at least 1"),
        ({"num_clients": 11}, "num_clients: expected at most the population of 10"),
        ({"unit": "row"}, "unit: expected no key"),
        ({"noise_multiplier": None}, "privacy.epsilon: expected a number"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": 1e-9}, "noise"),
        ({"noise_multiplier": None, "epsilon": math.inf}, "epsilon"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1e-3}, "research_delta"),
        ({"sampling": "shuffle"}, "shuffled batches are no Poisson samples"),
        ({"sampling": "fixed-size", "relation": "replace-one", "num_clients": 5}, "more than their share"),
        ({"sampling": "poisson"}, "fewer than all sites"),
        ({"clipping": "per-layer"}, 'clipping: expected "flat" or "adaptive"'),
        ({"mechanism": "banded-mf", "bands": 2, "num_clients": 5}, 'mechanism: expected "gaussian"'),
        ({"weighting": "examples"}, "weighting"),
        ({"clipp_norm": 1.0}, "clipp_norm"),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_settings_that_break_the_claim_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        private(**settings)


def test_flowers_own_draw_lowers_no_epsilon() -> None:
    inner = fedavg(fraction_train=0.5)
    with pytest.raises(ValueError, match="lowers no epsilon"):
        private(inner, population=100, num_clients=50, sampling="poisson")
    assert private(inner, num_clients=5).epsilon(10) == private().epsilon(10)
    with pytest.raises(ValueError, match="every round would be noise alone"):
        private(fedavg(fraction_train=0.0))


# -- metrics ------------------------------------------------------------------------------------------


def test_metrics_leave_only_where_they_are_declared_to_be_in_clear() -> None:
    grid = GridOfApps(lambda message, context: message, 10, {})
    closed, clear = private(), private(evaluation="clear")
    replies = [reply_of(GLOBAL, 100 + index) for index in range(10)]
    assert list(closed.configure_evaluate(1, record_of(GLOBAL), ConfigRecord(), grid)) == []
    assert closed.aggregate_evaluate(1, replies) is None
    assert len(list(clear.configure_evaluate(1, record_of(GLOBAL), ConfigRecord(), grid))) == 10
    averaged = clear.aggregate_evaluate(1, replies)
    assert averaged is not None and averaged["loss"] == pytest.approx(1.0)
    assert "evaluation patients are not covered" in clear.claim().words()
