import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from wardround import _flower
from wardround.client.app import client_app
from wardround.client.guard.guard import SiteGuard, fit_job
from wardround.client.trainer.flower_app import FlowerApp, load_flower_app
from wardround.client.trainer.flower_trainer import FlowerTrainer
from wardround.errors import LocalError
from wardround.orders import EvalJob, FitJob, Order, OrderKind, SiteId, Split
from wardround.plan import Plan, PlanError, load_plan, parse_plan
from wardround.simulations.grid import LocalGrid, LocalNode
from wardround.simulations.prefetched_trainer import PrefetchedTrainer
from wardround.state_store import MemoryStore
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.plain import Plain
from wardround.strategies.records import RunState
from wardround.strategies.rules.mean import Mean

EXAMPLE = Path(__file__).parents[3] / "examples" / "flower-app" / "plan.toml"
SITE = SiteId("north")
INITIAL = {
    "w": np.array([[1.0, 2.0]], dtype=np.float32),
    "bn.num_batches_tracked": np.array(7),
    "bn.running_var": np.array([3.0], dtype=np.float32),
    "steps": np.array([4, 5]),
    "b": np.array(0.5),
}
"""In vector order: w, b (float64), then the running statistic."""


def plan_of(**task: object) -> Plan:
    section = {"flower_app": "m:app", "flower_initial": "m:initial", "code": ".", **task}
    return parse_plan(
        {
            "name": "flower",
            "rounds": 4,
            "task": section,
            "data": {"source": "app"},
            "training": {"lr": 0.5, "schedule": "step", "schedule_every": 2},
            "simulation": {"sites": 3},
        },
        folder=EXAMPLE.parent / "app" / "wards",
    )


PLAN = plan_of(options={"local-epochs": 2})


def fit_order(number: int = 3) -> Order:
    return Order(run_id="run", plan_digest=PLAN.digest, kind=OrderKind.FIT, round=number)


def eval_job(split: Split = Split.VALIDATION) -> EvalJob:
    return EvalJob(order=replace(fit_order(), kind=OrderKind.EVALUATE, split=split), site=SITE)


def trainer_of(app: ClientApp, initial: dict[str, Any] = INITIAL) -> FlowerTrainer:
    return FlowerTrainer(FlowerApp(app, initial), PLAN, SITE, 1)


Train = Callable[[Message, Context], Message]


def answering(train: Callable[[dict[str, Any], Message, Context], tuple[dict[str, Any], dict[str, Any]]]) -> ClientApp:
    """A ClientApp whose `train` maps arrays to arrays and metrics."""
    app = ClientApp()

    @app.train()
    def _(message: Message, context: Context) -> Message:
        arrays = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
        made, metrics = train(arrays, message, context)
        record = ArrayRecord({name: Array(np.asarray(value)) for name, value in made.items()})
        content = RecordDict({"arrays": record, "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    return app


MODEL = np.array([10.0, 20.0, 30.0, 40.0], dtype=np.float32)


def fit(app: ClientApp, initial: dict[str, Any] = INITIAL) -> Any:
    return trainer_of(app, initial).fit(FitJob(order=fit_order(), site=SITE, seed=9), MODEL)


def test_the_app_gets_its_own_names_types_and_settings() -> None:
    seen: dict[str, Any] = {}

    def train(arrays: dict[str, Any], message: Message, context: Context) -> tuple[dict[str, Any], dict[str, Any]]:
        seen.update(arrays=arrays, config=dict(message.content["config"]), context=context)
        return arrays, {"num-examples": 5}

    fit(answering(train))
    assert list(seen["arrays"]) == list(INITIAL)
    assert {name: array.dtype for name, array in seen["arrays"].items()} == {k: v.dtype for k, v in INITIAL.items()}
    assert seen["arrays"]["w"].tolist() == [[10, 20]] and seen["arrays"]["b"] == 30
    assert seen["arrays"]["bn.running_var"] == [40] and seen["arrays"]["steps"].tolist() == [4, 5]
    assert seen["config"] == {"local-epochs": 2, "server-round": 3, "lr": 0.25, "seed": 9, "split": "train"}
    assert seen["context"].node_config == {"partition-id": 1, "num-partitions": 3, "site": "north"}
    assert seen["context"].run_config == {"local-epochs": 2}


def test_the_update_is_the_reply_minus_the_model_and_metrics_are_means_over_examples() -> None:
    def train(arrays: dict[str, Any], *_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        made = {**arrays, "w": arrays["w"] + 1, "b": arrays["b"] * 2, "bn.num_batches_tracked": np.array(99)}
        return dict(reversed(made.items())), {"train_loss": 0.25, "acc": 0.75, "each": [0.1], "num-examples": 8}

    result = fit(answering(train))
    assert result.update.dtype == np.float32
    assert result.update.tolist() == [1, 1, 30, 0]
    assert result.num_examples == 8
    assert result.tally.metrics() == {"loss": 0.25, "acc": 0.75}


def test_a_counter_is_a_constant_and_layout_puts_running_statistics_last() -> None:
    flower = FlowerApp(ClientApp(), INITIAL)
    assert [(t.name, t.shape, t.buffer) for t in flower.layout.tensors] == [
        ("w", (1, 2), False),
        ("b", (), False),
        ("bn.running_var", (1,), True),
    ]
    assert flower.vector(INITIAL).tolist() == [1, 2, 0.5, 3]


@pytest.mark.parametrize(
    ("change", "metrics", "message"),
    [
        (
            {"steps": np.array([4, 6])},
            {"num-examples": 1},
            "array 'steps' of int64 is no float: expected it back unchanged",
        ),
        ({"w": np.zeros(2)}, {"num-examples": 1}, r"tensor 'w': expected shape \(1, 2\), got \(2,\)"),
        ({"v": np.zeros(2)}, {"num-examples": 1}, "expected no tensor 'v'"),
        ({}, {"loss": 1.0}, "expected a whole number 'num-examples' in the reply's MetricRecord"),
        ({}, {"num-examples": 1.5}, "expected a whole number 'num-examples' .*, got 1.5"),
        ({}, {"num-examples": -1}, "got -1"),
        ({}, {"num-examples": 3, "auc": float("nan")}, "expected a finite value of 'auc', got nan"),
        ({}, {"num-examples": 3, "auc": float("inf")}, "expected a finite value of 'auc', got inf"),
    ],
)
def test_a_reply_that_does_not_fit_is_refused(change: dict[str, Any], metrics: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalError, match=rf"^site north: the Flower app m:app: .*{message}"):
        fit(answering(lambda arrays, *_: ({**arrays, **change}, metrics)))


def test_a_loss_that_diverged_counts_as_a_large_one() -> None:
    result = fit(answering(lambda arrays, *_: (arrays, {"num-examples": 3, "train_loss": float("nan")})))
    assert result.tally.metrics()["loss"] > 1e6


def test_what_the_app_raises_is_one_line_with_the_site() -> None:
    def train(arrays: dict[str, Any], *_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        raise KeyError("ward\nround")

    with pytest.raises(LocalError, match=r"^site north, round 3: the Flower app's train failed: KeyError: ") as caught:
        fit(answering(train))
    assert "\n" not in str(caught.value)
    with pytest.raises(LocalError, match="train failed: ValueError: No train function registered"):
        fit(ClientApp())


def test_an_error_reply_and_a_reply_of_another_kind_are_refused() -> None:
    failing, silent = ClientApp(), ClientApp()
    failing.train()(lambda message, _: Message(Error(code=0, reason="no rows"), reply_to=message))
    silent.train()(lambda message, _: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(LocalError, match="site north, round 3: the Flower app's train replied with an error: no rows"):
        fit(failing)
    with pytest.raises(LocalError, match="expected a Message as the reply to train, got 'NoneType'"):
        fit(silent)


def test_global_generators_start_from_the_jobs_seed_and_are_put_back() -> None:
    def train(arrays: dict[str, Any], *_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        drawn = [float(torch.rand(1)), np.random.random(), random.random()]  # noqa: S311
        return {"w": np.array(drawn)}, {"num-examples": 1}

    trainer = trainer_of(answering(train), {"w": np.zeros(3)})
    model = np.zeros(3, dtype=np.float32)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    first, second, third = (trainer.fit(FitJob(order=fit_order(), site=SITE, seed=s), model) for s in (1, 1, 2))
    assert np.array_equal(first.update, second.update)
    assert (first.update != third.update).all()
    assert torch.equal(before[0], torch.random.get_rng_state()) and before[2] == random.getstate()
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


def counting_app() -> ClientApp:
    def train(arrays: dict[str, Any], _: Message, context: Context) -> tuple[dict[str, Any], dict[str, Any]]:
        layer = context.state.array_records.get("layer", ArrayRecord([np.zeros(2)]))["0"].numpy() + 1
        context.state["layer"], context.state["mine"] = ArrayRecord([layer]), ConfigRecord({"n": 1})
        return {"w": arrays["w"] + layer[0]}, {"num-examples": 1}

    return answering(train)


def test_what_the_app_keeps_in_its_state_survives_rounds_and_a_restart() -> None:
    initial = {"w": np.zeros(1)}
    model = np.zeros(1, dtype=np.float32)
    job = FitJob(order=fit_order(), site=SITE, seed=1)
    trainer = trainer_of(counting_app(), initial)
    assert [float(trainer.fit(job, model).update[0]) for _ in range(3)] == [1, 2, 3]
    kept = trainer.state
    assert kept is not None
    restarted = trainer_of(counting_app(), initial)
    assert restarted.state is None
    restarted.state = kept
    assert restarted.state["context.state"].tolist() == kept["context.state"].tolist()
    assert float(restarted.fit(job, model).update[0]) == 4
    with pytest.raises(ValueError, match="expected encoded records"):
        restarted.state = {"context.state": np.frombuffer(b"no records", dtype=np.uint8)}
    restarted.state = None
    assert float(restarted.fit(job, model).update[0]) == 1


def test_evaluation_is_told_the_split_and_summed_over_examples() -> None:
    app = ClientApp()

    @app.evaluate()
    def _(message: Message, context: Context) -> Message:
        split = message.content["config"]["split"]
        metrics = MetricRecord({"eval_loss": {"validation": 0.5, "test": 1.0}[str(split)], "num-examples": 4})
        return Message(RecordDict({"m": metrics}), reply_to=message)

    tally = trainer_of(app).evaluate(eval_job(), MODEL) + trainer_of(app).evaluate(eval_job(Split.TEST), MODEL)
    assert tally.n == 8
    assert tally.metrics() == {"loss": 0.75}


def test_an_app_without_evaluate_counts_nothing_and_has_no_columns() -> None:
    trainer = trainer_of(ClientApp())
    assert trainer.evaluate(eval_job(), MODEL).n == 0
    with pytest.raises(LocalError, match="site north: expected no request for statistics"):
        trainer.statistics()


class Legacy(NumPyClient):
    def fit(self, parameters: Any, config: Any) -> Any:
        return [parameters[0] + config["lr"], parameters[1]], 6, {"acc": 0.5, "note": "text"}

    def evaluate(self, parameters: Any, config: Any) -> Any:
        return float(parameters[0].sum()), 2, {"acc": 1.0}


class NothingYet(NumPyClient):
    pass


def test_a_client_fn_app_trains_and_evaluates_with_arrays_in_order() -> None:
    initial = {"weight": np.array([[1.0, 2.0]], dtype=np.float32), "bias": np.array([0.0])}
    model = np.array([1, 2, 3], dtype=np.float32)
    trainer = trainer_of(ClientApp(client_fn=lambda context: Legacy().to_client()), initial)
    result = trainer.fit(FitJob(order=fit_order(), site=SITE, seed=1), model)
    assert (result.update.tolist(), result.num_examples, result.tally.metrics()) == ([0.25, 0.25, 0], 6, {"acc": 0.5})
    tally = trainer.evaluate(eval_job(), model)
    assert (tally.n, tally.metrics()) == (2, {"loss": 3.0, "acc": 1.0})


def test_a_client_fn_app_that_implements_nothing() -> None:
    trainer = trainer_of(ClientApp(client_fn=lambda context: NothingYet().to_client()), {"w": np.zeros(1)})
    model = np.zeros(1, dtype=np.float32)
    assert trainer.evaluate(eval_job(), model).n == 0
    with pytest.raises(LocalError, match="expected a client that implements fit"):
        trainer.fit(FitJob(order=fit_order(), site=SITE, seed=1), model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["training.epochs=3"],
            r"plan\.training\.epochs: expected no value, since task\.flower_app decides it itself, got 3",
        ),
        (["data.missing=drop-row"], r"plan\.data\.missing: expected no value"),
        (["simulation.partition.kind=dirichlet"], r"plan\.simulation\.partition\.kind: expected no value"),
        (["task.options.lr=1"], r"plan\.task\.options\.lr: expected another name"),
        (
            ["task.flower_app=wards.client_app:train"],
            r"flower_app: expected a flwr\.clientapp\.ClientApp, got 'function'",
        ),
        (
            ["task.flower_initial=wards.task:Net"],
            r"flower_initial: expected a function that returns an ArrayRecord, got 'Net'",
        ),
        (
            ["task.flower_initial=wards.task:train"],
            r"flower_initial: wards\.task:train\(\) failed: TypeError: train\(\) missing",
        ),
    ],
)
def test_a_plan_that_does_not_fit_a_flower_app_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(PlanError if "failed" not in message else LocalError, match=message):
        load_flower_app(load_plan(EXAMPLE).override(settings))


def test_the_tutorials_app_trains_as_flowers_own_fedavg_would() -> None:
    """Oracle: the app called directly, its replies averaged by Flower."""
    plan = load_plan(EXAMPLE).override(["rounds=2", "simulation.sites=3"])
    flower = load_flower_app(plan)
    start = flower.vector(flower.initial)
    nodes = []
    for partition in range(3):
        site = SiteId(f"site-{partition}")
        trainer = FlowerTrainer(flower, plan, site, partition)
        app = client_app(trainer, SiteGuard(plan, site, MemoryStore()))
        nodes.append(LocalNode(site=site, app=app, trainer=PrefetchedTrainer(trainer), partition=partition))
    strategy = FederatedStrategy(
        plan, run_id="run", protection=Plain(plan), rule=Mean(), num_parameters=flower.layout.num_parameters
    )
    model = strategy.run(LocalGrid(plan, nodes), RunState(round=0, model=start)).model

    expected = ArrayRecord({name: Array(np.asarray(array)) for name, array in flower.initial.items()})
    for number in (1, 2):
        replies = []
        for partition in range(3):
            seed = fit_job(plan, replace(fit_order(number), plan_digest=plan.digest), SiteId(f"site-{partition}")).seed
            config = ConfigRecord({"lr": 0.1, "server-round": number})
            context = Context(1, 1, {"partition-id": partition, "num-partitions": 3}, RecordDict(), {"local-epochs": 1})
            torch.manual_seed(seed)
            replies.append(flower.app(_flower.app_request(flower.app, "train", expected, config, node_id=1), context))
        expected = aggregate_arrayrecords([reply.content for reply in replies], "num-examples")
    wanted = {name: array.numpy() for name, array in expected.items() if "num_batches" not in name}
    np.testing.assert_allclose(model, flower.layout.flatten(wanted), rtol=1e-5, atol=1e-6)
    assert np.abs(model - start).max() > 0.01
