"""Secure aggregation around a Flower strategy: the sum is right, and what breaks the guarantee is refused."""

import logging
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    FedXgbBagging,
    Krum,
    QFedAvg,
    Strategy,
)

from tests.flower_federation import SETTINGS, SIZE, Wards, change_of, examples_of, mean_of, model, weights_in
from tests.grid_of_apps import GridOfApps
from wardround import _flower
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.strategies.privacy.flower_strategy import PrivateStrategy
from wardround.strategies.robust_strategy import RobustStrategy
from wardround.strategies.rules.median import Median
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.flower_plan import flower_plan
from wardround.strategies.secagg.flower_strategy import MaskingStrategy
from wardround.strategies.secagg.messages import Masked, decode
from wardround.strategies.secagg.plan_terms import encoding_of


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts, and disks are slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def log() -> Iterator[list[str]]:
    """Flower's log, which is kept off the screen."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("flwr"), Keep()
    before = logger.handlers[:]
    logger.handlers[:] = [handler]
    yield lines
    logger.handlers[:] = before


def encoding(wards: Wards) -> Encoding:
    return encoding_of(flower_plan(**wards.settings), SIZE, seed=bytes(32))


def run(strategy: Strategy, grid: Grid, rounds: int = 1) -> tuple[ArrayRecord, Any]:
    result = strategy.start(grid, model(), num_rounds=rounds)
    return result.arrays, result


def test_the_model_is_that_of_fedavg_up_to_the_stated_error(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    wards.gone = {3}
    plain, _ = run(FedAvg(), GridOfApps(wards.plain_or_error, 5, {}))
    strategy = wards.strategy(**SETTINGS)
    masked, _ = run(strategy, wards.grid)
    left = [0, 1, 2, 4]
    bound = encoding(wards).error_bound(sum(map(examples_of, left)) / 4, largest=0.9)
    assert bound < 1e-5
    np.testing.assert_allclose(weights_in(masked), weights_in(plain), atol=bound + 2**-23)
    np.testing.assert_allclose(weights_in(masked) - weights_in(model()), mean_of(left), atol=bound + 2**-23)
    assert masked["count"].numpy() == 7 and masked["count"].dtype == "int64"
    [group] = strategy.records[1].groups
    assert group.survivors == ("site-0", "site-1", "site-2", "site-4")


def test_what_a_node_sends_is_one_masked_message_and_nothing_beside_it(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    seen: list[Message] = []
    delivered = wards.grid.send_and_receive

    def watch(messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = list(delivered(messages, timeout=timeout))
        seen.extend(reply for reply in replies if reply.metadata.message_type == "train")
        return replies

    wards.grid.send_and_receive = watch  # type: ignore[method-assign]
    run(wards.strategy(), wards.grid)
    assert len(seen) == 5
    for partition, reply in enumerate(sorted(seen, key=lambda one: one.metadata.src_node_id)):
        assert list(reply.content) == ["wardround.frame"]
        message = decode(_flower.read_frame(reply))
        assert isinstance(message, Masked)
        words = np.frombuffer(message.vector, dtype="<u4").view(np.int32).astype(np.float64)
        weight = examples_of(partition)
        plain = change_of(partition).astype(np.float64) * encoding(wards).scale * weight
        assert abs(np.corrcoef(words, plain)[0, 1]) < 0.3 and np.abs(words).mean() > 2**28 > np.abs(plain).max()


class Recording(FedAvg):
    """Notes what it is given."""

    given: list[Message]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        self.given = list(replies)
        return super().aggregate_train(server_round, self.given)


GROUPED = {"population": 9, "rounds": 4, "clip_norm": 2.0, "groups": 3, "colluding": 1, "timeout": 60.0}


def test_the_strategy_inside_gets_the_mean_of_each_group_with_its_weight(tmp_path: Path) -> None:
    wards, inside = Wards(tmp_path / "wards", {**GROUPED, "weight_cap": 60}), Recording()
    strategy = wards.strategy(inside)
    arrays, _ = run(strategy, wards.grid)
    groups = [[int(name[5:]) for name in group.survivors] for group in strategy.records[1].groups]
    assert sorted(one for group in groups for one in group) == list(range(9)) and len(groups) == 3

    def capped(partition: int) -> int:
        return min(60, examples_of(partition))

    assert len(inside.given) == 3
    for reply, members in zip(inside.given, groups, strict=True):
        assert reply.content["metrics"]["num-examples"] == sum(map(capped, members))
        got = weights_in(reply.content.array_records["arrays"]) - weights_in(model())
        np.testing.assert_allclose(got, mean_of(members, capped), atol=2e-6)
    np.testing.assert_allclose(weights_in(arrays) - weights_in(model()), mean_of(range(9), capped), atol=2e-6)


def test_a_robust_rule_over_group_means_withstands_an_attacker(tmp_path: Path) -> None:
    attack = np.ones(SIZE, dtype=np.float32)
    moved = {}
    for rule in (None, "median"):
        robust = {} if rule is None else {"rule": rule, "num_byzantine": 1}
        wards, inside = Wards(tmp_path / f"{rule}", {**GROUPED, "clip_norm": 20.0, **robust}), Recording()
        wards.spoilt = {4: attack}
        strategy = wards.strategy(inside)
        arrays, _ = run(strategy, wards.grid)
        moved[rule] = float((weights_in(arrays) - weights_in(model())) @ attack)
        if rule is not None:
            [reply] = inside.given
            assert reply.content["metrics"]["num-examples"] == 1
            assert [len(line.members) for line in strategy.reports[1].lines] == [3, 3, 3]
    assert moved["median"] < 0.3 * moved[None]


def test_a_server_optimiser_works_inside(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    arrays, _ = run(wards.strategy(FedAdam(eta=0.1)), wards.grid, rounds=2)
    assert np.abs(weights_in(arrays) - weights_in(model())).max() > 0.05 and arrays["count"].numpy() == 7


def test_metrics_leave_as_sums_of_those_that_were_approved(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", {**SETTINGS, "metrics": ["accuracy", "loss"]})
    _, result = run(wards.strategy(metrics=["accuracy"], train_metrics=["loss"], **SETTINGS), wards.grid)
    weights = [examples_of(partition) for partition in range(5)]
    accuracy = np.average([0.1 * partition for partition in range(5)], weights=weights)
    assert dict(result.evaluate_metrics_clientapp[1]) == {
        "accuracy": pytest.approx(accuracy, abs=1e-6),
        "num-examples": 150,
    }
    assert result.train_metrics_clientapp[1]["loss"] == pytest.approx(5 * accuracy, abs=1e-6)
    assert set(result.train_metrics_clientapp[1]) == {"loss", "num-examples"}
    with pytest.raises(ValueError, match="'age' is none of them"):
        wards.strategy(metrics=["age"])


def test_nobody_is_asked_twice_how_good_one_model_is(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", {**SETTINGS, "metrics": ["accuracy"]})
    strategy, arrays = wards.strategy(metrics=["accuracy"]), model()
    for number in (1, 2):
        strategy.configure_evaluate(number, arrays, ConfigRecord(), wards.grid)
        assert (strategy.aggregate_evaluate(number, []) is not None) == (number == 1)
    strategy.close()


def test_without_metrics_no_node_is_asked_to_evaluate(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    _, result = run(wards.strategy(), wards.grid)
    asked = {message.metadata.message_type for step in wards.grid.sent for message in step}
    assert asked == {"query.hello", "query.secagg", "train"}
    assert not result.evaluate_metrics_clientapp and not result.train_metrics_clientapp


def test_with_too_few_left_there_is_no_sum_and_the_model_stays(tmp_path: Path, log: list[str]) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    wards.gone = {0, 1}
    strategy = wards.strategy()
    arrays, config = model(), ConfigRecord()
    assert strategy.configure_train(1, arrays, config, wards.grid) == []
    assert strategy.aggregate_train(1, []) == (None, None)
    [abort] = strategy.records[1].aborts
    assert abort.cause == "TOO_FEW_MEMBERS" and set(abort.parties) == {"site-0", "site-1"}
    assert any("expected 4 updates each in 1 group" in line for line in log)
    wards.gone = set()
    strategy.configure_train(2, arrays, config, wards.grid)
    assert strategy.aggregate_train(2, [])[0] is not None
    strategy.close()


PRIVATE: dict[str, Any] = {
    "population": 6,
    "rounds": 2,
    "dropout": 0.1,
    "privacy": {"noise_multiplier": 2.0, "clip_norm": 1.0},
}


def test_clients_add_noise_and_rounds_are_charged_over_restarts(tmp_path: Path, log: list[str]) -> None:
    wards = Wards(tmp_path / "wards", PRIVATE)
    strategy = wards.strategy(**PRIVATE)
    claim = strategy.claim()
    assert claim is not None and "for every client (zero-out)" in claim.headline()
    arrays, _ = run(strategy, wards.grid)
    noise = weights_in(arrays) - weights_in(model()) - mean_of(range(6), lambda _: 1)
    # the noise that is charged is that of the fewest honest clients; here all six were there and honest
    expected = 2.0 / 6 * math.sqrt(6 / 5)
    assert 0.8 * expected < noise.std() < 1.25 * expected
    run(wards.strategy(**PRIVATE), wards.grid, rounds=3)
    assert wards.calls == 12  # the plan's two rounds, each once
    assert sum("the privacy budget is spent" in line for line in log) == 2


def test_with_privacy_no_means_of_training_are_asked_for(tmp_path: Path) -> None:
    settings = PRIVATE | {"privacy": PRIVATE["privacy"] | {"evaluation": "clear"}}
    wards = Wards(tmp_path / "wards", settings | {"metrics": ["loss"]})
    wards.strategy(metrics=["loss"], **settings).close()
    with pytest.raises(ValueError, match="train_metrics: expected none with privacy"):
        wards.strategy(train_metrics=["loss"], **settings)


def test_groups_a_rule_and_noise_go_together(tmp_path: Path) -> None:
    settings = {"rule": "median", "num_byzantine": 1, "privacy": {"noise_multiplier": 1.0, "clip_norm": 1.0}}
    wards = Wards(tmp_path / "wards", {"population": 9, "rounds": 3, "groups": 3, **settings})
    strategy, before = wards.strategy(), weights_in(model())
    claim = strategy.claim()
    assert claim is not None and "for every client" in claim.headline()
    arrays, _ = run(strategy, wards.grid)
    [*lines] = strategy.reports[1].lines
    assert [len(line.members) for line in lines] == [3, 3, 3]
    assert 0.1 < (weights_in(arrays) - before - mean_of(range(9), lambda _: 1)).std() < 1.0


def test_a_restarted_server_goes_on_with_rounds_that_sites_have_not_seen(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    for _ in range(2):
        strategy = wards.strategy()
        arrays, _ = run(strategy, wards.grid, rounds=2)
        assert not np.array_equal(weights_in(arrays), weights_in(model()))
    assert wards.calls == 20
    assert strategy.records[1].epoch == 1


def test_one_model_is_trained_again_by_the_same_sites_and_by_no_others(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    for gone in ([], [], [3], []):
        wards.gone = set(gone)
        strategy = wards.strategy()
        result = strategy.start(wards.grid, model(), num_rounds=1)
        [group] = strategy.records[1].groups
        assert len(group.survivors) == (0 if gone else 5)
        assert bool(result.arrays) is not bool(gone)


def test_one_server_at_a_time(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    first = wards.strategy()
    first.configure_train(1, model(), ConfigRecord(), wards.grid)
    with pytest.raises(LocalError, match="is open in another process"):
        wards.strategy().configure_train(1, model(), ConfigRecord(), wards.grid)
    first.close()


class Different(FedAvg):
    """Sends every node another learning rate."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        for node in grid.get_node_ids():
            yield Message(RecordDict({"arrays": arrays, "config": ConfigRecord({"lr": 0.1 * node})}), node, "train")


def test_messages_that_differ_from_node_to_node_are_refused(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    with pytest.raises(LocalError, match="expected the same message to every node"):
        run(wards.strategy(Different()), wards.grid)
    assert wards.calls == 0


def dp_wrapper() -> Strategy:
    return DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 5)


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        (lambda: Krum(num_malicious_nodes=1), 'give `rule="..."`'),
        (FedMedian, 'give `rule="..."`'),
        (lambda: RobustStrategy(Median(num_byzantine=1)), 'give `rule="..."`'),
        (lambda: QFedAvg(client_learning_rate=0.1), "which nobody sees here"),
        (FedXgbBagging, "trees are no arrays"),
        (dp_wrapper, "clip a sum of many clients as if one had sent it"),
        (lambda: PrivateStrategy(FedAvg(), population=5, rounds=2, epsilon=3.0), "clip a sum of many clients"),
        (lambda: FedAvg(fraction_train=0.5), "fraction_train: expected 1.0, got 0.5"),
        (lambda: "FedAvg", "expected a Flower strategy to wrap, got str"),
    ],
)
def test_what_would_break_the_guarantee_is_refused(tmp_path: Path, inside: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MaskingStrategy(inside(), identity=tmp_path, run_config={})


def test_settings_that_the_sites_did_not_approve_are_refused_by_name(tmp_path: Path) -> None:
    wards = Wards(tmp_path / "wards", SETTINGS)
    with pytest.raises(ValueError, match=r"clipping\.clip_norm: expected 2\.0 as in the plan .* got 3\.0"):
        wards.strategy(**{**SETTINGS, "clip_norm": 3.0})
    with pytest.raises(ValueError, match="expected a strategy without secure aggregation"):
        wards.strategy(wards.strategy())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_norm": None}, r"plan\.clipping\.clip_norm: expected a number"),
        ({"population": 3, "dropout": 0.5}, r"plan\.protection\."),
        ({"rule": "median", "num_byzantine": 1}, r"plan\."),
        ({"privacy": {"epsilon": 3.0, "mechanism": "gaussian"}}, r'plan\.privacy\.mechanism: expected "skellam"'),
        ({"colour": "red"}, r"plan\.protection\.colour"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_with_their_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        flower_plan(**{**SETTINGS, **settings})
