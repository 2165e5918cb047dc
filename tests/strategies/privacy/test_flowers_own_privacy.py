"""What flwr 1.41's own wrappers for differential privacy do, in figures: those of docs/privacy-flower.md.

A test that fails here after an update of flwr says that a sentence of that page is no longer true.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Krum,
    Strategy,
)
from flwr.supercore.privacy_accounting import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyConfig,
    SamplingMethod,
)
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant
from numpy.typing import NDArray

from tests.grid_of_apps import GridOfApps
from wardround import _flower
from wardround.strategies.privacy.flower_strategy import PrivateStrategy
from wardround.strategies.privacy.gaussian_dp import epsilon_of_mu

Vector = NDArray[np.float32]
SIZE = 4000
GLOBAL: Vector = np.zeros(SIZE, np.float32)


@pytest.fixture(autouse=True)
def quiet_flower() -> Iterator[None]:
    _flower.set_identity(run_id=1, node_id=1)
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def along(by: float, axis: int = 0) -> Vector:
    """A model that is `by` away from the global one."""
    made = GLOBAL.copy()
    made[axis] = by
    return made


def reply_of(made: Vector, node: int, examples: float = 10, **metrics: Any) -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(made)}),
            "metrics": MetricRecord({"num-examples": examples, **metrics}),
        }
    )
    return Message(content, reply_to=Message(RecordDict(), node, "train"))


def all_of(made: Iterable[Vector], **metrics: Any) -> list[Message]:
    return [reply_of(one, 100 + index, **metrics) for index, one in enumerate(made)]


def round_of(strategy: Strategy, replies: Iterable[Message], nodes: int = 10, number: int = 1) -> Vector | None:
    """The model after a round, or None when there is no new one."""
    grid = GridOfApps(lambda message, context: message, nodes, {})
    sent = ArrayRecord({"w": Array(GLOBAL)})
    list(strategy.configure_train(number, sent, ConfigRecord(), grid))
    made, _ = strategy.aggregate_train(number, replies)
    return None if made is None else made["w"].numpy()


def model_of(strategy: Strategy, replies: Sequence[Message], nodes: int = 10) -> Vector:
    made = round_of(strategy, replies, nodes)
    assert made is not None
    return made


def fedavg(**settings: Any) -> FedAvg:
    return FedAvg(min_train_nodes=1, min_available_nodes=1, **settings)


def fixed(noise_multiplier: float = 1.0, **settings: Any) -> Strategy:
    return DifferentialPrivacyServerSideFixedClipping(fedavg(), noise_multiplier, 1.0, 10, **settings)


def adaptive(noise_multiplier: float = 1e-6, count_noise: float = 1e-3, clip: float = 1.0) -> Any:
    return DifferentialPrivacyServerSideAdaptiveClipping(
        fedavg(), noise_multiplier, 100, clip, clipped_count_stddev=count_noise
    )


# -- the clip -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_passes_the_clip_into_the_model(value: float) -> None:
    for strategy in (fixed(), DifferentialPrivacyServerSideAdaptiveClipping(fedavg(), 0.1, 10)):
        with np.errstate(invalid="ignore"):
            assert np.isnan(model_of(strategy, all_of([along(value)] + [along(1.0)] * 9))).any()


def test_a_client_that_learned_nothing_ends_the_run() -> None:
    for strategy in (fixed(), DifferentialPrivacyServerSideAdaptiveClipping(fedavg(), 0.1, 10)):
        with pytest.raises(ZeroDivisionError):
            round_of(strategy, all_of([GLOBAL] + [along(1.0)] * 9))


def test_nobody_clips_for_a_client_without_the_mod() -> None:
    strategy = DifferentialPrivacyClientSideFixedClipping(fedavg(), 1.0, 1.0, 10)
    assert model_of(strategy, all_of([along(1e6)] + [along(1.0)] * 9))[0] > 9e4, "the noise is 0.1"


def test_a_client_that_claims_many_examples_moves_the_mean_by_the_whole_clip() -> None:
    """Noise of 0.1 is made for the tenth part of it."""

    def replies() -> list[Message]:
        return [reply_of(along(5.0), 100, examples=10**12), *all_of([along(1.0, 1)] * 10)[1:]]

    assert model_of(fixed(1e-9), replies())[0] == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="equal client weights"):
        round_of(fixed(accountant=accountant()), replies())


# -- the noise ----------------------------------------------------------------------------------------


def noise_of(strategy: Strategy, clients: int) -> float:
    """Its standard deviation, over what one of so many clients moves the model by."""
    np.random.seed(11)
    return float(model_of(strategy, all_of([along(1.0)] * clients))[1:].std() * clients)


def test_with_fewer_replies_than_planned_the_noise_is_too_small_for_the_claim() -> None:
    """It divides by the number that came, and adds the noise of the number that was planned."""
    for clients, noise_multiplier in ((10, 1.0), (5, 0.5), (1, 0.1)):
        assert noise_of(fixed(), clients) == pytest.approx(noise_multiplier, rel=0.05)


def test_adaptive_noise_is_of_the_next_clip_norm_and_not_of_the_one_that_clipped() -> None:
    """All clipped at 1.0: the norm falls to 0.905 before the noise is added, which is then 9.5 % too small."""
    np.random.seed(11)
    strategy = adaptive(noise_multiplier=1.0, count_noise=5.0)
    needed = strategy.noise_multiplier
    noise = float(model_of(strategy, all_of([along(5.0)] * 100), nodes=100)[1:].std() * 100)
    assert strategy.clipping_norm == pytest.approx(0.905, abs=0.02)
    assert noise / needed == pytest.approx(strategy.clipping_norm, rel=0.05)


def test_a_seed_anywhere_in_the_app_gives_the_noise_away() -> None:
    np.random.seed(42)
    released = model_of(fixed(), all_of([along(1.0)] * 10))
    np.random.seed(42)
    noise = np.random.normal(0, 0.1, SIZE).astype(np.float32)
    np.testing.assert_allclose(released - noise, along(1.0), atol=1e-6)


# -- adaptive clipping --------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "after"), [(5.0, 0.135), (0.01, 7.389)])
def test_adaptive_clipping_counts_the_clipped_and_runs_the_wrong_way(norm: float, after: float) -> None:
    """Andrew et al. count who is not clipped. Where all are, the norm has to grow; here it falls, and the reverse."""
    strategy = adaptive()
    for number in range(1, 21):
        round_of(strategy, all_of([along(norm)] * 100), 100, number)
    assert strategy.clipping_norm == pytest.approx(after, rel=0.01)
    ours = PrivateStrategy(
        fedavg(), population=100, rounds=20, noise_multiplier=0.1, count_noise=0.25, clipping="adaptive"
    )
    for number in range(1, 21):
        round_of(ours, all_of([along(norm)] * 100), 100, number)
    clip_norm = ours.central.clip_norm(ours.memory)
    assert clip_norm is not None and (4.0 < clip_norm < 6.5 if norm > 1 else clip_norm < 0.2)


def test_so_does_adaptive_clipping_on_the_clients() -> None:
    strategy = DifferentialPrivacyClientSideAdaptiveClipping(fedavg(), 1e-6, 100, 1.0, clipped_count_stddev=1e-3)
    for number in range(1, 21):
        round_of(strategy, all_of([along(1.0)] * 100, norm_bit=1), 100, number)
    assert strategy.clipping_norm == pytest.approx(0.135, rel=0.01)


def test_replies_that_are_an_iterator_are_used_up_before_they_are_read() -> None:
    with pytest.raises(ZeroDivisionError):
        round_of(adaptive(), iter(all_of([along(1.0)] * 100)), 100)


def test_a_reply_without_the_bit_ends_the_run() -> None:
    strategy = DifferentialPrivacyClientSideAdaptiveClipping(fedavg(), 0.1, 10)
    with pytest.raises(AggregationError):
        round_of(strategy, all_of([along(0.1)] * 10))


# -- rounds and accounts ------------------------------------------------------------------------------


def accountant(population: int = 10, delta: float = 1e-5, **settings: Any) -> RdpAccountant:
    relation, method = NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
    return RdpAccountant(PrivacyConfig(delta, population, relation, method, **settings))


def test_one_client_that_reports_an_error_stops_training() -> None:
    failed = Message(Error(code=1, reason="no rows"), reply_to=Message(RecordDict(), 109, "train"))
    assert round_of(fixed(), [*all_of([along(1.0)] * 9), failed]) is None


def test_with_an_accountant_one_client_that_is_missing_stops_training() -> None:
    assert round_of(fixed(accountant=accountant()), all_of([along(1.0)] * 9)) is None
    assert round_of(fixed(accountant=accountant()), all_of([along(1.0)] * 10)) is not None


def test_an_accountant_is_checked_with_fixed_clipping_alone() -> None:
    with pytest.raises(ValueError, match="using FedAvg"):
        DifferentialPrivacyServerSideFixedClipping(Krum(), 1.0, 1.0, 10, accountant=accountant())
    kinds: list[Any] = [DifferentialPrivacyServerSideAdaptiveClipping, DifferentialPrivacyClientSideAdaptiveClipping]
    for kind in kinds:
        with pytest.raises(TypeError):
            kind(fedavg(), 0.1, 10, accountant=accountant())
        kind(Krum(), 0.1, 10)  # without an accountant any strategy is taken
    DifferentialPrivacyServerSideFixedClipping(Krum(), 1.0, 1.0, 10)


def test_metrics_are_released_as_the_clients_send_them() -> None:
    strategy = fixed(accountant=accountant())
    grid = GridOfApps(lambda message, context: message, 10, {})
    list(strategy.configure_train(1, ArrayRecord({"w": Array(GLOBAL)}), ConfigRecord(), grid))
    _, metrics = strategy.aggregate_train(1, all_of([along(1.0)] * 10, patients_with_hiv=3))
    assert metrics is not None and metrics["patients_with_hiv"] == pytest.approx(3)


@pytest.mark.parametrize(
    ("clients", "delta", "rounds", "epsilon", "theirs", "ours"),
    [
        (280, 1e-3, 50, 1.0, 20.517, 18.206),
        (280, 1e-5, 50, 1.0, 28.605, 26.380),
        (1000, 1e-6, 100, 1.0, 45.309, 42.247),
        (100, 1e-6, 20, 3.0, 7.351, 6.904),
        (100, 1e-6, 50, 8.0, 4.874, 4.617),
    ],
)
def test_flowers_accountant_asks_for_more_noise(
    clients: int, delta: float, rounds: int, epsilon: float, theirs: float, ours: float
) -> None:
    """RDP under full participation: 20.5 where the exact multiplier is 18.2."""
    for multiplier, fits in ((theirs * 1.0005, True), (theirs * 0.9995, False)):
        spent = accountant(clients, delta)
        spent.compose(GaussianPrivacyEvent(multiplier, clients, clients), rounds)
        assert (spent.get_epsilon(delta) <= epsilon) is fits
        exact = epsilon_of_mu(math.sqrt(rounds) / (multiplier * ours / theirs), delta)
        assert (exact <= epsilon) is fits
