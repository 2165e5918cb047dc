"""Baselines against plain torch and against a federation of one; who is judged, on which rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.sites_of_rows import INPUTS, rows_of, rows_plan
from wardround.client.data.site_data import SiteData
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import initial_vector
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.orders import LocalResult, SiteId
from wardround.plan import Plan
from wardround.simulations import baselines, judgement
from wardround.simulations.baselines import Baselines, TrainedModel, judged_sites, train_baselines
from wardround.simulations.judgement import judge
from wardround.standardization import statistics_of, statistics_tally
from wardround.vector import F32

COLUMNS = [{"name": f"x{place}", "range": [-9, 9]} for place in range(INPUTS)]


def plan_of(*, rounds: int = 3, evaluation: dict[str, Any] | None = None, **sections: Any) -> Plan:
    """Logistic regression on two classes, standardised by federated sums, a whole site in each batch."""
    data = {"target": {"name": "y", "classes": ["a", "b"]}, "columns": COLUMNS, "standardize": "federated"}
    plan = rows_plan(
        training={"lr": 0.5, "batch_size": 1000, "schedule": "step", "schedule_every": 2},
        task={"name": "tabular-classifier", "model": "logistic"},
        data=data | sections.pop("data", {}),
        simulation={"bootstrap": 50},
        rounds=rounds,
    )
    return plan.override([f"evaluation.{name}={value}" for name, value in (evaluation or {}).items()])


def site(name: str, seed: int, *, train: int = 30, validation: int = 10, test: int = 12) -> SiteData:
    parts = [rows_of(n, seed * 10 + k, classes=2) for k, n in enumerate((train, validation, test))]
    return SiteData(site=SiteId(name), train=parts[0], validation=parts[1], test=parts[2])


def learned(plan: Plan, sites: list[SiteData], initial: F32) -> Baselines:
    return train_baselines(plan, load_task(plan), sites, initial)


def first_model(plan: Plan) -> F32:
    return initial_vector(load_task(plan), plan, 1)


def by_hand(plan: Plan, initial: F32, x: F32, y: np.ndarray[Any, Any]) -> F32:
    """Gradient descent on all rows, one step a round, in torch."""
    weight = torch.tensor(initial[: 2 * INPUTS].reshape(2, INPUTS), requires_grad=True)
    bias = torch.tensor(initial[2 * INPUTS :], requires_grad=True)
    mean, std = x.mean(axis=0), x.std(axis=0)
    inputs = torch.tensor((x - mean) / std)
    for round_number in range(1, plan.rounds + 1):
        loss = nn.functional.cross_entropy(inputs @ weight.T + bias, torch.tensor(y))
        gradients = torch.autograd.grad(loss, (weight, bias))
        with torch.no_grad():
            for parameter, gradient in zip((weight, bias), gradients, strict=True):
                parameter -= plan.training.lr_at(round_number, plan.rounds) * gradient
    return torch.cat((weight.flatten(), bias)).detach().numpy()


def test_alone_is_gradient_descent_on_the_hospitals_own_rows_and_pooled_on_all() -> None:
    plan, sites = plan_of(), [site("a", 1), site("b", 2, train=50)]
    initial = first_model(plan)
    found = learned(plan, sites, initial)
    assert list(found.alone) == ["a", "b"]
    for one in sites:
        expected = by_hand(plan, initial, one.train.x, one.train.y)
        assert found.alone[one.site].model == pytest.approx(expected, abs=2e-4)
        own = statistics_of(plan.data, statistics_tally(plan.data, one.train.x))
        assert found.alone[one.site].statistics == own
    x, y = (np.concatenate([getattr(one.train, part) for one in sites]) for part in "xy")
    assert found.pooled is not None
    assert found.pooled.model == pytest.approx(by_hand(plan, initial, x, y), abs=2e-4)


def test_baselines_are_deterministic_and_leave_the_first_model_alone() -> None:
    plan = replace(plan_of(), training=replace(plan_of().training, batch_size=7))
    sites, initial = [site("a", 1), site("b", 2)], first_model(plan)
    before = initial.copy()
    first, second = learned(plan, sites, initial), learned(plan, sites, initial)
    assert (initial == before).all()
    assert all((first.alone[s.site].model == second.alone[s.site].model).all() for s in sites)
    other = learned(replace(plan, seed=plan.seed + 1), sites, initial)
    assert (first.alone[SiteId("a")].model != other.alone[SiteId("a")].model).any()


def test_threads_change_no_bit() -> None:
    plan = replace(plan_of(), training=replace(plan_of().training, batch_size=7))
    sites, initial = [site(f"h{k}", k) for k in range(5)], first_model(plan)
    one = train_baselines(plan, load_task(plan), sites, initial)
    two = train_baselines(plan, load_task(plan), sites, initial, workers=2)
    assert list(one.alone) == list(two.alone)
    assert all((one.alone[s.site].model == two.alone[s.site].model).all() for s in sites)
    assert one.pooled is not None and two.pooled is not None
    assert (one.pooled.model == two.pooled.model).all()


def test_an_interruption_ends_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, sites, trained = plan_of(rounds=300), [site(f"h{k}", k) for k in range(30)], 0
    original = TorchTrainer.fit_in

    def counted(*given: Any) -> LocalResult:
        nonlocal trained
        trained += 1
        return original(*given)

    monkeypatch.setattr(TorchTrainer, "fit_in", counted)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_baselines(plan, load_task(plan), sites, first_model(plan), interrupt)
    assert 300 <= trained < 10 * 300


def test_progress_is_told() -> None:
    plan, seen = plan_of(rounds=1), []
    train_baselines(plan, load_task(plan), [site("a", 1), site("b", 2)], first_model(plan), lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def overfitting() -> SiteData:
    """Labels of the validation rows are flipped: every step on the training rows makes their loss worse."""
    one = site("a", 1)
    return replace(one, validation=type(one.train)(one.train.x, 1 - one.train.y))


def test_select_best_takes_the_round_with_the_lowest_validation_loss() -> None:
    plan, data = plan_of(rounds=6), overfitting()
    initial = first_model(plan)
    best = learned(plan_of(rounds=6, evaluation={"select": "best"}), [data], initial).alone[data.site]
    after_one = learned(plan_of(rounds=1), [data], initial).alone[data.site]
    last = learned(plan, [data], initial).alone[data.site]
    assert (best.model == after_one.model).all()
    assert (best.model != last.model).any()


def test_patience_stops_when_the_validation_loss_does_not_fall() -> None:
    data, initial = overfitting(), first_model(plan_of())
    patient = plan_of(rounds=9, evaluation={"patience": 2})
    stopped = learned(patient, [data], initial).alone[data.site]
    expected = learned(plan_of(rounds=3), [data], initial).alone[data.site]
    assert stopped.model == pytest.approx(expected.model, abs=1e-6)


def test_without_validation_rows_nothing_is_chosen() -> None:
    data, initial = site("a", 1, validation=0), first_model(plan_of())
    chosen = learned(plan_of(evaluation={"select": "best", "patience": 1}), [data], initial).alone[data.site]
    assert (chosen.model == learned(plan_of(), [data], initial).alone[data.site].model).all()


def test_hospitals_without_test_rows_are_not_judged_but_their_rows_are_pooled() -> None:
    plan, initial = plan_of(), first_model(plan_of())
    sites = [site("a", 1), site("b", 2, test=0)]
    found = learned(plan, sites, initial)
    assert list(found.alone) == ["a"]
    assert found.pooled is not None
    assert (found.pooled.model != found.alone[SiteId("a")].model).any()


def test_of_many_hospitals_a_draw_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_ALONE", 5)
    plan, sites = plan_of(), [site(f"h{k:02}", k, train=5, validation=0, test=2) for k in range(20)]
    drawn = [one.site for one in judged_sites(plan, sites)]
    assert len(drawn) == 5
    assert drawn == sorted(drawn)
    assert drawn == [one.site for one in judged_sites(plan, sites)]
    assert drawn != [one.site for one in judged_sites(replace(plan, seed=plan.seed + 1), sites)]


def judged(plan: Plan, sites: list[SiteData]) -> tuple[Any, Baselines]:
    initial = first_model(plan)
    found = learned(plan, sites, initial)
    assert found.pooled is not None
    result = judge(plan, load_task(plan), sites, found.pooled, found)
    assert result is not None
    return result, found


def test_every_model_is_judged_with_its_own_standardisation() -> None:
    plan, sites = plan_of(rounds=8), [site("a", 1), site("b", 2, test=20)]
    result, found = judged(plan, sites)
    assert [(one.site, one.test_rows) for one in result.sites] == [("a", 12), ("b", 20)]
    x, y = (np.concatenate([getattr(one.test, part) for one in sites]) for part in "xy")
    for model, trained in (("federated", found.pooled), ("b", found.alone[SiteId("b")])):
        assert trained is not None and trained.statistics is not None
        inputs = (x - trained.statistics.mean) / trained.statistics.std
        scores = inputs @ trained.model[: 2 * INPUTS].reshape(2, INPUTS).T + trained.model[2 * INPUTS :]
        margin = scores[:, 1] - scores[:, 0]
        area = (margin[y == 1][:, None] > margin[y == 0]).mean()
        shown = result.overall["federated"] if model == "federated" else result.sites[1].elsewhere
        assert shown["auc"].value == pytest.approx(area)
        assert shown["accuracy"].value == pytest.approx(((margin > 0) == y).mean())


def test_a_hospital_with_very_many_test_rows_is_judged_on_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgement, "_MOST_PREDICTIONS", 2 * 4 * 2 * 9)
    result, _ = judged(plan_of(), [site("a", 1, test=50), site("b", 2, test=6)])
    assert [one.test_rows for one in result.sites] == [10, 6]


def test_without_baselines_only_the_federation_is_judged() -> None:
    plan, sites = plan_of(), [site("a", 1)]
    result = judge(plan, load_task(plan), sites, TrainedModel(model=first_model(plan), statistics=statistics_of(
        plan.data, statistics_tally(plan.data, sites[0].train.x))))  # fmt: skip
    assert result is not None
    assert list(result.overall) == ["federated"]
    assert result.alone_models == 0
    assert judge(plan, load_task(plan), [site("a", 1, test=0)], TrainedModel(model=first_model(plan))) is None
