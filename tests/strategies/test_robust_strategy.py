import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import FedAvg, FedMedian, MultiKrum
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from tests.grid_of_apps import GridOfApps
from wardround import _flower
from wardround.contribution import Verdict
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.strategies.robust_strategy import RobustStrategy
from wardround.strategies.rules.krum import Krum
from wardround.strategies.rules.median import Median
from wardround.strategies.rules.preaggregators.nnm import Nnm
from wardround.strategies.rules.robust import Robust, chain
from wardround.strategies.rules.rule import Decision, Memory, RoundContext, VectorRule
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32

Arrays = Mapping[str, NDArray[Any]]
GLOBAL: Arrays = {
    "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layer.count": np.array(7),
    "layer.mask": np.array([True, False]),
    "out": np.array([1e3, -2.0], dtype=np.float64),
    "scale": np.array(0.5, dtype=np.float16),
}
FLOATS = ("layer.weight", "out", "scale")


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The warnings in Flower's log."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logging.getLogger("flwr").addHandler(handler)
    yield lines
    logging.getLogger("flwr").removeHandler(handler)


def record_of(given: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in given.items()})


def content_of(given: Arrays, examples: float = 10, **metrics: Any) -> RecordDict:
    metric = MetricRecord({"num-examples": examples, "loss": 1.0, **metrics})
    return RecordDict({"arrays": record_of(given), "metrics": metric})


def reply_of(content: RecordDict, node: int) -> Message:
    _flower.set_identity(run_id=1, node_id=1)
    return Message(content, reply_to=Message(RecordDict(), node, "train"))


def moved(by: float, given: Arrays = GLOBAL) -> dict[str, NDArray[Any]]:
    """`given` with its floating-point arrays moved by `by`."""
    return {
        name: np.asarray(array + array.dtype.type(by)) if array.dtype.kind == "f" else array
        for name, array in given.items()
    }


def round_of(strategy: FedAvg, contents: Iterable[RecordDict], given: Arrays = GLOBAL, number: int = 1) -> Any:
    """One round of training with the replies of nodes 0, 1, …: the new arrays (or None), and the metrics."""
    contents = list(contents)
    grid = GridOfApps(lambda message, context: message, len(contents), {})
    strategy.configure_train(number, record_of(given), ConfigRecord(), grid)
    made, metrics = strategy.aggregate_train(number, [reply_of(one, node) for node, one in enumerate(contents)])
    return (None if made is None else {name: array.numpy() for name, array in made.items()}), metrics


def krum(num_byzantine: int = 1, **settings: Any) -> RobustStrategy:
    return RobustStrategy(Krum(num_byzantine), min_train_nodes=1, min_available_nodes=1, **settings)


def median(num_byzantine: int = 0, **settings: Any) -> RobustStrategy:
    return RobustStrategy(Median(num_byzantine), min_train_nodes=1, min_available_nodes=1, **settings)


# -- the arrays ---------------------------------------------------------------------------------------


def test_floats_are_combined_by_the_rule_and_keep_names_order_shapes_and_types() -> None:
    made, _ = round_of(median(1), [content_of(moved(by)) for by in (0.25, 0.5, 9.0)])
    assert list(made) == list(GLOBAL)
    for name, before in GLOBAL.items():
        assert (made[name].dtype, made[name].shape) == (before.dtype, before.shape)
    for name in FLOATS:
        np.testing.assert_array_equal(made[name], GLOBAL[name] + GLOBAL[name].dtype.type(0.5))


def test_arrays_that_are_no_floats_stay_as_they_are_in_the_global_model() -> None:
    odd = {**moved(1.0), "layer.count": np.array(999), "layer.mask": np.array([False, False])}
    strategy = median()
    made, _ = round_of(strategy, [content_of(odd)] * 3)
    assert made["layer.count"] == 7
    np.testing.assert_array_equal(made["layer.mask"], [True, False])
    assert strategy.reports[1].refused == 0


def test_flowers_mean_turns_counters_into_floats() -> None:
    made, _ = round_of(FedAvg(min_train_nodes=1), [content_of(moved(1.0))] * 2)
    assert made["layer.count"].dtype == np.float64


def test_small_updates_of_float64_arrays_are_not_lost_beside_large_values() -> None:
    given = {"w": np.array([1e9])}
    made, _ = round_of(median(), [content_of({"w": np.array([1e9 + 1e-3])})] * 3, given)
    assert made["w"][0] - 1e9 == pytest.approx(1e-3, rel=1e-3)


@given(
    arrays(
        st.sampled_from([np.float16, np.float32]),
        array_shapes(min_dims=0, max_dims=3, min_side=0),
        elements=st.floats(-1000, 1000, width=16),
    ),
    st.booleans(),
)
def test_what_a_single_node_sends_becomes_the_model(sent: NDArray[Any], in_columns: bool) -> None:
    given = {"anchor": np.zeros(1, dtype=np.float32), "w": np.zeros_like(sent)}
    made, _ = round_of(
        median(),
        [content_of({"anchor": np.ones(1, np.float32), "w": np.array(sent, order="F" if in_columns else "C")})],
        given,
    )
    np.testing.assert_array_equal(made["w"], sent)
    assert made["w"].dtype == sent.dtype


def test_a_chain_is_taken_like_a_rule() -> None:
    contents = [content_of(moved(by)) for by in (0.0, 0.25, 0.5, 0.75, 1e4)]
    strategy = RobustStrategy(chain(Nnm(1), Median(1)), 1.0)
    made, _ = round_of(strategy, contents)
    assert 0.0 < made["out"][0] - 1e3 < 0.75


def test_replies_in_another_order_give_the_same_bits() -> None:
    rng = np.random.default_rng(3)
    given = {"w": rng.standard_normal(40).astype(np.float32)}
    replies = [
        reply_of(
            content_of({"w": given["w"] + rng.standard_normal(40, np.float32)}, curve=rng.random(40).tolist()), node
        )
        for node in range(6)
    ]
    made = []
    for order in (range(6), (3, 5, 0, 1, 4, 2)):
        strategy = RobustStrategy(chain(Nnm(1), Krum(1)))
        strategy.configure_train(1, record_of(given), ConfigRecord(), GridOfApps(lambda m, c: m, 6, {}))
        arrays_, metrics = strategy.aggregate_train(1, iter([replies[index] for index in order]))
        assert arrays_ is not None and metrics is not None
        made.append((arrays_["w"].data, dict(metrics), strategy.reports[1]))
    assert made[0] == made[1]


# -- what is refused ----------------------------------------------------------------------------------

GOOD = moved(0.5)


def forged(**changes: Any) -> RecordDict:
    """A reply whose "out" is not what numpy would have made of it."""
    content = content_of(GOOD)
    array = Array(GOOD["out"])
    for name, value in changes.items():
        setattr(array, name, value(array) if callable(value) else value)
    content.array_records["arrays"]["out"] = array
    return content


def without(name: str) -> dict[str, NDArray[Any]]:
    return {key: array for key, array in GOOD.items() if key != name}


def with_two_records() -> RecordDict:
    content = content_of(GOOD)
    content["more"] = record_of(GOOD)
    return content


LYING = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
    + b"\n"
)
BAD = {
    "nan": (content_of({**GOOD, "out": np.array([np.nan, 0.0])}), "finite values, got 1"),
    "infinite": (content_of({**GOOD, "out": np.array([np.inf, -np.inf])}), "finite values, got 2"),
    "beyond float32": (content_of({**GOOD, "out": np.array([1e300, 0.0])}), "finite values, got 1"),
    "far away": (content_of({**GOOD, "out": np.array([1e8, 0.0])}), "times the median"),
    "missing": (content_of(without("scale")), "expected an array named 'scale'"),
    "surplus": (content_of({**GOOD, "x\n" * 99: np.zeros(2)}), r"expected no array named 'x\\nx\\n"),
    "shape": (content_of({**GOOD, "out": np.zeros(3)}), r"array 'out': expected float64 of shape \(2,\)"),
    "transposed": (content_of({**GOOD, "layer.weight": GOOD["layer.weight"].T}), "array 'layer.weight': expected"),
    "type": (content_of({**GOOD, "out": np.zeros(2, np.float32)}), "array 'out': expected float64"),
    "type of a constant": (content_of({**GOOD, "layer.count": np.array(7.0)}), "array 'layer.count': expected int64"),
    "other bytes": (forged(data=b"\x80\x04K\x01."), "array 'out': expected float64"),
    "no bytes": (forged(data=b""), "array 'out': expected float64"),
    "cut off": (forged(data=lambda array: array.data[:-1]), "array 'out': expected float64"),
    "too long": (forged(data=lambda array: array.data + b"\0"), "array 'out': expected float64"),
    "a size it made up": (forged(data=LYING, dtype="y" * 999), "named 'y{60}'"),
    "another serialization": (forged(stype="pickle"), "array 'out': expected float64"),
    "no arrays": (RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 5.0})}), "one ArrayRecord, got 0"),
    "two records": (with_two_records(), "one ArrayRecord, got 2"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_reply_is_refused_and_the_round_goes_on_without_it(kind: str, log: list[str]) -> None:
    content, reason = BAD[kind]
    content.metric_records["metrics"]["loss"] = 5.0
    others = [content_of(moved(by)) for by in (0.25, 0.5, 0.75)]
    strategy = median(1)
    made, metrics = round_of(strategy, [*others, content])
    expected, _ = round_of(median(1), others)
    for name in GLOBAL:
        np.testing.assert_array_equal(made[name], expected[name])
    line = next(line for line in strategy.reports[1].lines if line.members == ("3",))
    assert line.verdict is Verdict.REFUSED and strategy.reports[1].refused == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(line.reason)
    assert log == [f"\t> Refused the reply of node 3: {line.reason}"]
    assert metrics == {"loss": 1.0}


def test_a_node_that_answers_twice_is_refused_and_cannot_count_twice() -> None:
    strategy = median(1)
    strategy.configure_train(1, record_of(GLOBAL), ConfigRecord(), GridOfApps(lambda m, c: m, 3, {}))
    replies = [
        reply_of(content_of(moved(by)), node)
        for node, by in ((4, 0.5), (5, 0.5), (6, 0.5), (7, 9.0), (7, 9.0), (7, 9.0))
    ]
    made, _ = strategy.aggregate_train(1, replies)
    assert made is not None and made["out"].numpy()[0] == 1e3 + 0.5
    assert [line.reason for line in strategy.reports[1].lines if line.members == ("7",)] == [
        "expected one reply, got 3"
    ] * 3
    assert strategy.reports[1].refused == 3


def test_with_too_few_replies_the_model_stays_and_the_log_says_why(log: list[str]) -> None:
    strategy = krum(2)
    made, metrics = round_of(strategy, [content_of(GOOD, loss=value) for value in (1.0, 2.0, 3.0)])
    assert made is None
    assert metrics == pytest.approx({"loss": 2.0})
    why = "Krum: expected num_byzantine < (n − 2) / 2, got 2 of 3"
    assert log == [f"\t> Round 1: the global model stays as it was: {why}"]
    assert len(strategy.reports[1].lines) == 3


def test_a_model_that_would_overflow_stays(log: list[str]) -> None:
    given = {"w": np.array([6e4], dtype=np.float16)}
    assert round_of(mean_of(1.0), [content_of({"w": np.array([-6e4], dtype=np.float16)})] * 2, given)[0] is not None
    assert round_of(mean_of(-1.0), [content_of({"w": np.array([-6e4], dtype=np.float16)})] * 2, given)[0] is None
    assert log == ["\t> Round 1: the global model stays as it was: the new model would not be finite"]


def test_errors_and_empty_rounds_leave_the_model(log: list[str]) -> None:
    strategy = median()
    grid = GridOfApps(lambda m, c: m, 2, {})
    messages = list(strategy.configure_train(1, record_of(GLOBAL), ConfigRecord(), grid))
    failed = [Message(Error(1, "out of memory"), reply_to=message) for message in messages]
    assert strategy.aggregate_train(1, failed) == (None, None)
    assert log == ["\t> Round 1: the global model stays as it was: none of the contributions is usable"]
    idle = median(fraction_train=0.0)
    assert list(idle.configure_train(1, record_of(GLOBAL), ConfigRecord(), grid)) == []
    assert idle.aggregate_train(1, []) == (None, None)
    assert log[1:] == ["fraction_train is set to 0.0. Federated training will be skipped."]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"w": np.array([np.nan])}, "expected finite arrays, 'w' is not"),
        ({"w": np.array([1j])}, "expected floats, integers or booleans, array 'w' is complex128"),
        ({"w": np.array([1])}, "expected at least one floating-point array"),
    ],
)
def test_a_global_model_that_nothing_can_be_added_to_ends_the_run(given: Arrays, message: str) -> None:
    with pytest.raises(LocalError, match=message):
        round_of(median(), [content_of(given)], given)


def test_replies_without_a_global_model_are_an_error() -> None:
    with pytest.raises(LocalError, match="expected configure_train before it"):
        median().aggregate_train(1, [])


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="expected pre-aggregators and then one rule, got"):
        RobustStrategy(0.5)  # type: ignore[arg-type]


# -- what nodes claim about themselves ----------------------------------------------------------------


def test_claimed_numbers_of_examples_change_no_bit_of_the_arrays() -> None:
    updates = (0.25, 0.5, 0.75, 1.0, 64.0)
    honest, _ = round_of(krum(), [content_of(moved(by)) for by in updates])
    claimed, metrics = round_of(krum(), [content_of(moved(by), examples=1e12 if by == 64.0 else 10) for by in updates])
    for name in GLOBAL:
        np.testing.assert_array_equal(claimed[name], honest[name])
    assert metrics == pytest.approx({"loss": 1.0})


def test_a_node_that_claims_so_many_examples_becomes_flowers_mean_and_its_multi_krum() -> None:
    rng = np.random.default_rng(0)
    given = {"w": np.zeros(50)}
    sent = [{"w": rng.standard_normal(50)} for _ in range(6)]
    contents = [content_of(one, examples=1e12 if node == 5 else 10) for node, one in enumerate(sent)]
    for strategy in (FedAvg(), MultiKrum(num_malicious_nodes=1, num_nodes_to_select=6)):
        made, _ = round_of(strategy, contents, given)
        np.testing.assert_allclose(made["w"], sent[5]["w"], atol=1e-9)


@pytest.mark.parametrize(
    "metrics",
    [
        MetricRecord({"num-examples": 10, "loss": 5.0, "more": 1.0}),
        MetricRecord({"loss": 5.0}),
        MetricRecord({"num-examples": 10, "loss": [5.0]}),
        MetricRecord({"num-examples": [10], "loss": 5.0}),
        MetricRecord({"num-examples": 10, "loss": float("nan")}),
        MetricRecord({"num-examples": float("inf"), "loss": 5.0}),
        MetricRecord({"num-examples": -30, "loss": 5.0}),
        None,
    ],
)
def test_metrics_unlike_the_others_are_left_out_and_the_update_counts(
    metrics: MetricRecord | None, log: list[str]
) -> None:
    odd = RecordDict({"arrays": record_of(moved(0.5))})
    if metrics is not None:
        odd["metrics"] = metrics
    contents = [odd, *(content_of(moved(by)) for by in (0.25, 0.75))]
    strategy = median(1)
    made, averaged = round_of(strategy, contents)
    assert averaged == {"loss": 1.0}
    assert made["out"][0] == 1e3 + 0.5 and strategy.reports[1].refused == 0
    assert len(log) == 1 and log[0].startswith("\t> Left out the metrics of node 0: expected one MetricRecord")
    assert strategy.aggregate_evaluate(1, [reply_of(one, node) for node, one in enumerate(contents)]) == averaged


def test_one_odd_reply_ends_a_run_of_flowers_own_strategies() -> None:
    contents = [content_of(GOOD), content_of(GOOD), content_of(without("scale"))]
    for strategy in (FedAvg(), FedMedian(), MultiKrum()):
        with pytest.raises(InconsistentMessageReplies):
            round_of(strategy, contents)
    with pytest.raises(InconsistentMessageReplies):
        FedAvg().aggregate_evaluate(1, [reply_of(content_of({}), 1), reply_of(content_of({}, more=1.0), 2)])


def test_metrics_without_any_examples_are_none() -> None:
    made, metrics = round_of(median(), [content_of(GOOD, examples=0)] * 2)
    assert made is not None and metrics is None


def test_a_function_of_ones_own_averages_the_metrics() -> None:
    def count(contents: list[RecordDict], key: str) -> MetricRecord:
        return MetricRecord({key: len(contents)})

    strategy = median(train_metrics_aggr_fn=count)
    assert round_of(strategy, [content_of(GOOD), content_of(GOOD), content_of({})])[1] == {"num-examples": 2}


# -- what a rule is given -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keeping(VectorRule):
    """`step` times the mean, plus `root` times the server's own update; counts its rounds and notes what it saw."""

    seen: list[RoundContext]
    step: float = 1.0
    root: float = 0.0
    num_byzantine: int = 0

    summary: ClassVar[str] = ""
    tolerates: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    source: ClassVar[str] = ""

    def check(self, n: int) -> None: ...

    def references(self, context: RoundContext) -> Mapping[str, F32]:
        return {"root": context.references["root"]} if self.root else {}

    def decide(self, vectors: Vectors, context: RoundContext) -> Decision:
        self.seen.append(context)
        references = {"root": self.root} if self.root else {}
        return Decision(weights=np.full(vectors.n, self.step / vectors.n), references=references)

    def remember(self, context: RoundContext, vector: F32) -> Memory:
        return {"rounds": context.memory.get("rounds", np.zeros(1)) + 1}


def mean_of(step: float) -> RobustStrategy:
    return RobustStrategy(Keeping([], step), min_train_nodes=1)


def test_a_rule_keeps_its_memory_and_gets_round_seed_and_model() -> None:
    rule = Keeping([])
    strategy = RobustStrategy(rule, seed=11)
    for number in (1, 2, 3):
        round_of(strategy, [content_of(GOOD)] * 2, moved(number - 1), number)
    assert [dict(context.memory) for context in rule.seen] == [{}, {"rounds": 1.0}, {"rounds": 2.0}]
    assert strategy.memory == {"rule/rounds": 3.0}
    assert [(context.round, context.seed) for context in rule.seen] == [(1, 11), (2, 11), (3, 11)]
    for by, context in enumerate(rule.seen):
        assert context.model is not None
        np.testing.assert_array_equal(context.model, np.array([0, 1, 2, 3, 4, 5, 1e3, -2, 0.5]) + by)
    assert sorted(strategy.reports) == [1, 2, 3]


def test_seeds_are_drawn_where_none_is_given() -> None:
    assert median().seed != median().seed


def test_the_servers_own_update_is_a_reference() -> None:
    calls = []

    def root_update(server_round: int, arrays_: ArrayRecord) -> ArrayRecord:
        calls.append(server_round)
        return record_of({name: array.numpy() + np.float64(3.0) for name, array in arrays_.items()})

    given = {"w": np.array([10.0, 20.0])}
    strategy = RobustStrategy(Keeping([], step=0.5, root=2.0), root_update=root_update)
    made, _ = round_of(strategy, [content_of({"w": np.array([12.0, 20.0])})] * 2, given)
    np.testing.assert_allclose(made["w"], [10 + 1 + 6, 20 + 0 + 6])
    assert calls == [1]


def test_fltrust_goes_as_far_as_the_server_does_itself() -> None:
    given = {"w": np.array([1.0, 1.0])}
    strategy = RobustStrategy.named(
        "fltrust", num_byzantine=1, root_update=lambda number, arrays_: record_of({"w": np.array([1.0, 3.0])})
    )
    contents = [content_of({"w": np.array([1.0, 1.0 + by])}) for by in (10.0, 1.0, -50.0)]
    made, _ = round_of(strategy, contents, given)
    np.testing.assert_allclose(made["w"], [1.0, 3.0])
    assert [line.verdict for line in strategy.reports[1].lines][2] is Verdict.REJECTED
    with pytest.raises(ValueError, match="expected a root_update"):
        RobustStrategy.named("fltrust", num_byzantine=1)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"v": np.zeros(1)}, "root_update: expected no array named 'v'"),
        ({"w": np.array([np.nan])}, "root_update: expected finite"),
    ],
)
def test_a_root_update_of_another_model_is_an_error(returned: Arrays, message: str) -> None:
    strategy = RobustStrategy(Keeping([], root=1.0), root_update=lambda number, arrays_: record_of(returned))
    with pytest.raises(LocalError, match=message):
        round_of(strategy, [content_of({"w": np.zeros(1)})] * 2, {"w": np.zeros(1)})


# -- names --------------------------------------------------------------------------------------------


def test_registered_names_make_the_same_strategy() -> None:
    strategy = RobustStrategy.named("krum", 0.5, num_byzantine=2, pre=["nnm"], min_train_nodes=7)
    assert strategy.rule == Robust(Krum(2), (Nnm(2),))
    assert (strategy.fraction_train, strategy.min_train_nodes) == (0.5, 7)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(PlanError, match="did you mean 'krum'"):
        RobustStrategy.named("krumm", num_byzantine=1)
    with pytest.raises(PlanError, match="pre"):
        RobustStrategy.named("krum", num_byzantine=1, pre=["mixing"])
    with pytest.raises(PlanError, match="expected a known option"):
        RobustStrategy.named("krum", num_byzantine=1, options={"krum": {"radius": 1.0}})
    with pytest.raises(ValueError, match="expected a robust rule, got 'off'"):
        RobustStrategy.named("off", num_byzantine=0)


def test_the_summary_names_the_rule() -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("flwr").addHandler(handler)
    RobustStrategy(chain(Nnm(1), Krum(1))).summary()
    logging.getLogger("flwr").removeHandler(handler)
    assert lines[0] == "\t├──> Rule: Nnm(num_byzantine=1) | Krum(num_byzantine=1)"
    assert lines[1] == "\t├──> Sampling:"


# -- whole runs, beside Flower's own ------------------------------------------------------------------

START = {"w": np.zeros(3, dtype=np.float32)}


def approaching_one(message: Message, context: Context) -> Message:
    """Every node moves the model half way to 1; node 0 sends NaN."""
    model = message.content.array_records["arrays"]["w"].numpy()
    moved_ = model + (1 - model) / 2 if context.node_config["partition-id"] else model * np.nan
    return Message(content_of({"w": moved_}), reply_to=message)


def final(strategy: FedAvg, rounds: int = 4) -> NDArray[Any]:
    result = strategy.start(GridOfApps(approaching_one, 5, {}), record_of(START), rounds)
    return result.arrays["w"].numpy()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_node_that_sends_nan_takes_flowers_mean_and_median_and_not_ours() -> None:
    assert np.isnan(final(FedAvg())).all()
    assert np.isnan(final(FedMedian())).all()
    for rule in (Median(1), Krum(0)):
        np.testing.assert_allclose(final(RobustStrategy(rule)), 1 - 0.5**4)


def test_the_model_of_the_last_round_that_worked_goes_on() -> None:
    def fails_in_round_two(message: Message, context: Context) -> Message:
        now, node = message.content.config_records["config"]["server-round"], context.node_config["partition-id"]
        if now == 2 and int(node) < 3:
            return Message(Error(1, "lost"), reply_to=message)
        return approaching_one(message, context)

    grid = GridOfApps(fails_in_round_two, 5, {})
    strategy = RobustStrategy(Median(1), fraction_evaluate=0.0)
    result = strategy.start(grid, record_of(START), 3)
    np.testing.assert_allclose(result.arrays["w"].numpy(), 1 - 0.5**2)
    sent = [messages[0].content.array_records["arrays"]["w"].numpy()[0] for messages in grid.sent if messages]
    assert sent == [0.0, 0.5, 0.5]


def test_krum_picks_the_right_node_where_flowers_is_lost_in_rounding() -> None:
    """Updates of 1e-4 of the model's length: Flower takes float32 distances between models, not between updates."""
    theirs_right = ours_right = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        model = rng.standard_normal(20_000).astype(np.float32)
        sent = [(model + 1e-4 * rng.standard_normal(model.size)).astype(np.float32) for _ in range(10)]
        exact = np.array([[np.sum((a.astype(np.float64) - b) ** 2) for a in sent] for b in sent])
        best = int(np.argmin(np.sort(exact, axis=1)[:, 1 : 10 - 2 - 2 + 1].sum(axis=1)))
        contents = [content_of({"w": one}) for one in sent]
        ours, _ = round_of(krum(2), contents, {"w": model})
        theirs, _ = round_of(MultiKrum(num_malicious_nodes=2), contents, {"w": model})
        ours_right += np.allclose(ours["w"], sent[best], rtol=0, atol=1e-6)
        theirs_right += np.allclose(theirs["w"], sent[best], rtol=0, atol=1e-6)
    assert ours_right == 10
    assert theirs_right <= 2
