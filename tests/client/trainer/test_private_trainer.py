import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from tests.private_rows import batch_of, clipped, gradients_one_by_one, keyed, private_plan
from tests.sites_of_rows import INPUTS, fit_jobs, rows_of, site_of
from wardround.client.data.site_data import SiteData
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import FlatModel, initial_vector
from wardround.client.trainer.private_gradient import Mode, PrivateGradient
from wardround.client.trainer.private_trainer import PrivateTrainer
from wardround.client.trainer.private_workspace import PrivateWorkspace
from wardround.client.trainer.workspace import Workspace
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.orders import LocalResult
from wardround.plan import Plan
from wardround.plan_privacy import Privacy, PrivateStatistics, Relation, Sampling, Unit, UnitClipping
from wardround.plan_sections import BatchNorm
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.terms import site_terms
from wardround.task import Task
from wardround.vector import F64, I64


def _fit(
    plan: Plan, data: SiteData, random: SecureRandom | None, task: Task | None = None, **mode: Any
) -> tuple[PrivateTrainer, LocalResult]:
    task = load_task(plan) if task is None else task
    trainer = PrivateTrainer(task, plan, data, random=random, **({"mode": Mode.GHOST} | mode))
    return trainer, trainer.fit(fit_jobs([data])[0], initial_vector(task, plan, 4))


def _textbook(plan: Plan, task: Task, data: SiteData, random: SecureRandom, groups: list[I64]) -> F64:
    """DP-SGD as Abadi et al. write it: one row at a time, torch.optim, the same secret draws."""
    module, training, privacy = task.model(4), plan.training, plan.privacy
    decay, lr, m = training.weight_decay, training.lr, len(groups)
    make: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        "sgd": lambda p: torch.optim.SGD(p, lr, training.momentum, weight_decay=decay, nesterov=training.nesterov),
        "adam": lambda p: torch.optim.Adam(p, lr, weight_decay=decay),
        "adamw": lambda p: torch.optim.AdamW(p, lr, weight_decay=decay),
    }
    parameters = list(module.parameters())
    optimizer = make[training.optimizer](parameters)
    start = [parameter.detach().clone() for parameter in parameters]
    size = sum(parameter.numel() for parameter in parameters)
    full = privacy.sampling is Sampling.FULL
    expected = m if full else training.batch_size
    for _ in range(training.steps or (training.epochs or 1) * -(-m // expected)):
        random.words(624)  # the state of torch's generator
        taken = np.arange(m) if full else random.chosen(m, training.batch_size / m)
        rows = batch_of(data.train.take(np.concatenate([np.empty(0, np.int64), *(groups[unit] for unit in taken)])))
        per_layer = privacy.clipping is UnitClipping.PER_LAYER
        gradient = np.zeros(size)
        for one in gradients_one_by_one(task, module, rows):
            gradient += clipped(one, privacy.clip_norm, per_layer=per_layer)
        multiplier = privacy.noise_multiplier or 0.0
        gradient += multiplier * privacy.clip_norm * privacy.max_rows * random.normal(size)
        parts = torch.split(torch.from_numpy(gradient / expected).float(), [p.numel() for p in parameters])
        for parameter, part, origin in zip(parameters, parts, start, strict=True):
            drift = training.proximal_mu * (parameter.detach() - origin)
            parameter.grad = part.view(parameter.shape) + drift
        optimizer.step()
    moved = [(parameter.detach() - origin).reshape(-1) for parameter, origin in zip(parameters, start, strict=True)]
    return torch.cat(moved).double().numpy()


TRAININGS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.3, "batch_size": 8, "steps": 6},
    "epochs": {"lr": 0.3, "batch_size": 8, "epochs": 2},
    "momentum": {"lr": 0.1, "batch_size": 8, "steps": 5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
    "adam": {"lr": 0.01, "batch_size": 5, "steps": 5, "optimizer": "adam", "weight_decay": 0.05},
    "adamw": {"lr": 0.01, "batch_size": 5, "steps": 5, "optimizer": "adamw", "weight_decay": 0.05},
    "proximal": {"lr": 0.3, "batch_size": 8, "steps": 6, "proximal_mu": 0.7},
}


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
def test_training_is_dp_sgd_of_the_textbook(training: dict[str, Any], mode: Mode) -> None:
    plan, data = private_plan(training, clip_norm=0.4), site_of("a", 27, 1)
    task = load_task(plan)
    _, result = _fit(plan, data, keyed(), mode=mode)
    expected = _textbook(plan, task, data, keyed(), [np.array([row]) for row in range(27)])
    assert np.abs(result.update - expected).max() <= 2e-5


@pytest.mark.parametrize(
    "privacy",
    [{"clipping": UnitClipping.PER_LAYER}, {"sampling": Sampling.FULL}, {"relation": Relation.REPLACE_ONE}],
    ids=["per layer", "full", "replace-one"],
)
def test_variants_are_those_of_the_textbook(privacy: dict[str, Any]) -> None:
    plan, data = private_plan({"batch_size": 6, "steps": 4}, clip_norm=0.4, **privacy), site_of("a", 20, 1)
    _, result = _fit(plan, data, keyed())
    expected = _textbook(plan, load_task(plan), data, keyed(), [np.array([row]) for row in range(20)])
    assert np.abs(result.update - expected).max() <= 2e-5


PATIENTS = np.array([2, 0, 1, 2, 4, 0, 3, 2, 1, 4])


def _patients(patients: I64 = PATIENTS) -> SiteData:
    return dataclasses.replace(site_of("a", len(patients), 0), patients=patients)


def test_patients_are_drawn_with_all_their_rows_and_have_their_share_of_the_noise() -> None:
    plan = private_plan({"batch_size": 2, "steps": 5}, unit=Unit.PATIENT, max_rows=3, clip_norm=0.4)
    trainer, result = _fit(plan, _patients(), keyed())
    groups = [np.flatnonzero(PATIENTS == patient) for patient in range(5)]
    expected = _textbook(plan, load_task(plan), _patients(), keyed(), groups)
    assert np.abs(result.update - expected).max() <= 2e-5
    assert trainer.terms.noise_std == pytest.approx(3 * 0.4)
    assert trainer.terms.population == len(trainer.units) == 5


def test_a_patient_moves_the_sum_by_no_more_than_the_terms_say() -> None:
    plan = private_plan({"batch_size": 2}, unit=Unit.PATIENT, max_rows=3, clip_norm=0.4)
    data = _patients()
    data.train.x[PATIENTS == 2], data.train.y[PATIENTS == 2] = 3.0, 1  # three rows that pull the same way
    task = load_task(plan)
    model = FlatModel(task.model(0), BatchNorm.AVERAGE)
    gradient = PrivateGradient(task, plan, model)
    trainer = PrivateTrainer(task, plan, data)
    sums = []
    for patients in (np.arange(5), np.array([0, 1, 3, 4])):
        total = torch.zeros(gradient.size, dtype=torch.float64)
        index = torch.from_numpy(trainer.units.rows_of(patients))
        gradient.add_to(gradient.views(total), batch_of(data.train), index, None, Mode.GHOST)
        sums.append(total.double().numpy())
    moved = float(np.linalg.norm(sums[0] - sums[1]))
    assert 0.99 * trainer.terms.sensitivity < moved <= trainer.terms.sensitivity * (1 + 1e-6)


def test_a_patient_with_too_many_rows_stops_the_training() -> None:
    plan = private_plan({"batch_size": 2}, unit=Unit.PATIENT, max_rows=2)
    with pytest.raises(LocalError, match="at most 2 training rows of one patient"):
        _fit(plan, _patients(), keyed())


def test_the_noise_of_the_released_sum_has_the_claimed_size_and_is_normal_and_independent() -> None:
    wide = {"name": "tabular-classifier", "hidden": [80], "options": {"inputs": INPUTS}}
    training = {"lr": 1.0, "batch_size": 3, "steps": 1}
    plan = private_plan(training, task=wide, clip_norm=1e-4, noise_multiplier=3e4)
    task, data = load_task(plan), site_of("a", 30, 1)
    trainer = PrivateTrainer(task, plan, data, random=keyed(7), mode=Mode.GHOST)
    model, job = initial_vector(task, plan, 4), fit_jobs([data])[0]
    updates = np.stack([trainer.fit(job, model).update.astype(np.float64) for _ in range(20)]) * 3 / (1e-4 * 3e4)
    count = updates.size  # the rows' part is 1e-4 of 3: it does not show
    chance = stats.chi2(count).cdf((updates**2).sum())
    assert 1e-6 < chance < 1 - 1e-6  # an honest noise fails with a chance below 2e-6, and this one has a fixed key
    assert stats.kstest(updates.ravel(), "norm").pvalue > 1e-6
    between = np.asarray(np.corrcoef(updates)) - np.eye(20)
    assert np.abs(between).max() < 6 / updates.shape[1] ** 0.5
    along = float(np.mean(updates[:, :-1] * updates[:, 1:]))
    assert abs(along) < 6 / count**0.5


def test_every_trained_parameter_gets_noise_and_no_other() -> None:
    task: Any = _Own(_half_frozen)
    plan, data = private_plan({"lr": 1.0, "batch_size": 2, "steps": 1}), site_of("a", 20, 1)
    _, result = _fit(plan, data, keyed(), task)
    frozen = INPUTS * 4 + 4
    assert not result.update[:frozen].any()
    assert result.update[frozen:].all()


def test_an_empty_batch_is_a_step_of_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = private_plan({"lr": 1.0, "batch_size": 1, "steps": 3}, clip_norm=0.5, noise_multiplier=2.0)
    data, random = site_of("a", 50, 1), keyed()
    monkeypatch.setattr(SecureRandom, "chosen", lambda self, n, rate: np.empty(0, dtype=np.int64))
    trainer, result = _fit(plan, data, random)
    other, expected = keyed(), np.zeros(len(result.update))
    for _ in range(3):
        other.words(624)
        expected -= 2.0 * 0.5 * other.normal(len(expected))
    assert np.abs(result.update - expected).max() <= 1e-5
    assert trainer.clipped_share is None


def test_a_sum_is_divided_by_the_expected_batch_whatever_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = private_plan({"lr": 1.0, "batch_size": 4, "steps": 1}, clip_norm=0.5, noise_multiplier=1e-9)
    data, task = site_of("a", 50, 1), load_task(plan)
    for drawn in (1, 9):
        taken = np.arange(drawn)
        monkeypatch.setattr(SecureRandom, "chosen", lambda self, n, rate, taken=taken: taken)
        _, result = _fit(plan, data, keyed())
        each = gradients_one_by_one(task, task.model(4), batch_of(data.train.take(taken)))
        expected = -np.sum([clipped(one, 0.5) for one in each], axis=0) / 4
        assert np.abs(result.update - expected).max() <= 1e-6


def test_rows_are_drawn_with_the_claimed_chance() -> None:
    plan, data = private_plan({"batch_size": 8, "steps": 400}), site_of("a", 40, 1)
    trainer = PrivateTrainer(load_task(plan), plan, data, random=keyed(), mode=Mode.GHOST)
    drawn = np.zeros(40)
    original = PrivateGradient.add_to

    def counted(gradient: PrivateGradient, total: Any, rows: Any, index: Tensor, *others: Any) -> Any:
        np.add.at(drawn, index.numpy(), 1)
        return original(gradient, total, rows, index, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateGradient, "add_to", counted)
        trainer.fit(fit_jobs([data])[0], initial_vector(trainer.task, plan, 0))
    assert trainer.terms.rate == 0.2 and drawn.max() < 400
    # 7 standard deviations of a binomial: beyond with a chance below 1e-9 for forty of them
    assert np.abs(drawn / 400 - 0.2).max() < 7 * (0.2 * 0.8 / 400) ** 0.5


def test_a_row_of_a_huge_gradient_moves_the_update_by_the_clip_norm_over_the_batch_at_most() -> None:
    plan = private_plan({"lr": 1.0, "batch_size": 5, "steps": 1}, sampling=Sampling.FULL, clip_norm=0.5)
    data = site_of("a", 20, 1)
    far = copy.deepcopy(data)
    far.train.x[3] = 1e9
    updates = [_fit(plan, each, keyed())[1].update.astype(np.float64) for each in (data, far)]
    moved = float(np.linalg.norm(updates[0] - updates[1]))
    assert 0.01 < moved * 20 <= 2 * 0.5 * (1 + 1e-4)  # exchanged: twice the clip norm at most
    lost = copy.deepcopy(data)
    lost.train.x[3] = np.nan
    update = _fit(plan, lost, keyed())[1].update
    assert np.isfinite(update).all()
    assert np.linalg.norm(update - updates[0]) * 20 <= 0.5 * (1 + 1e-4)


def test_without_a_given_key_no_two_trainings_are_alike_whatever_the_plans_seed_is() -> None:
    plan, data = private_plan({"batch_size": 4, "steps": 2}), site_of("a", 20, 1)
    task = load_task(plan)
    model, job = initial_vector(task, plan, 4), fit_jobs([data])[0]
    first, second = (PrivateTrainer(task, plan, data, mode=Mode.GHOST) for _ in range(2))
    updates = [first.fit(job, model).update, first.fit(job, model).update, second.fit(job, model).update]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.count_nonzero(updates[one] == updates[other]) < 5
    same = [_fit(plan, data, keyed())[1].update for _ in range(2)]
    assert np.array_equal(same[0], same[1])
    seeded = PrivateTrainer(task, plan, data, random=keyed(), mode=Mode.GHOST)
    assert np.array_equal(seeded.fit(dataclasses.replace(job, seed=999), model).update, same[0])


def test_nothing_but_the_update_leaves() -> None:
    plan, data = private_plan({"batch_size": 4}), site_of("a", 20, 1)
    trainer, result = _fit(plan, data, keyed())
    assert result.tally.n == 0 and result.tally.counts.tolist() == [0] and result.num_examples == 1
    assert trainer.state is None
    public = private_plan({"batch_size": 4}, public_sizes=True)
    assert _fit(public, data, keyed())[1].num_examples == 20
    patients = private_plan({"batch_size": 2}, public_sizes=True, unit=Unit.PATIENT, max_rows=3)
    assert _fit(patients, _patients(), keyed())[1].num_examples == 5


def test_the_site_itself_sees_how_many_rows_were_clipped_and_how_gradients_were_found() -> None:
    data = site_of("a", 20, 1)
    trainer, _ = _fit(private_plan({"batch_size": 4}, clip_norm=1e-6), data, keyed())
    assert trainer.clipped_share == 1.0 and trainer.mode is Mode.GHOST
    trainer, _ = _fit(private_plan({"batch_size": 4}, clip_norm=1e6, noise_multiplier=1e-9), data, keyed())
    assert trainer.clipped_share == 0.0
    untrained = PrivateTrainer(trainer.task, trainer.plan, data)
    assert untrained.clipped_share is None and untrained.mode is None


def test_a_mode_is_chosen_where_none_is_given() -> None:
    plan, data = private_plan({"batch_size": 4}), site_of("a", 20, 1)
    trainer, result = _fit(plan, data, keyed(), mode=None)
    assert trainer.mode in set(Mode)
    expected = _textbook(plan, load_task(plan), data, keyed(), [np.array([row]) for row in range(20)])
    assert np.abs(result.update - expected).max() <= 2e-5


def test_one_unit_is_enough() -> None:
    plan, data = private_plan({"batch_size": 1, "steps": 3}), site_of("a", 1, 1)
    trainer, result = _fit(plan, data, keyed(), mode=None)
    assert trainer.terms.rate == 1.0 and np.isfinite(result.update).all()


def test_a_batch_larger_than_the_site_is_refused() -> None:
    plan, data = private_plan({"batch_size": 32}), site_of("a", 20, 1)
    with pytest.raises(PlanError, match=r"plan\.training\.batch_size: expected at most the 20 rows of a site, got 32"):
        _fit(plan, data, keyed())


def test_constant_class_weights_count_before_the_clip_and_balanced_ones_are_refused() -> None:
    training = {"lr": 1.0, "batch_size": 4, "steps": 1, "class_weights": [0.5, 2.0, 7.0]}
    plan = private_plan(training, sampling=Sampling.FULL, clip_norm=1.5, noise_multiplier=1e-9)
    data, task = site_of("a", 20, 1), load_task(plan)
    _, result = _fit(plan, data, keyed())
    each = gradients_one_by_one(task, task.model(4), batch_of(data.train))
    weights = np.array([0.5, 2.0, 7.0])[data.train.y]
    rows = [clipped([weight * part for part in one], 1.5) for weight, one in zip(weights, each, strict=True)]
    assert np.abs(result.update + np.sum(rows, axis=0) / 20).max() <= 1e-6
    with pytest.raises(PlanError, match="privacy hides how many rows a class has"):
        _fit(private_plan({"batch_size": 4, "class_weights": "balanced"}), data, keyed())


def test_the_learning_rate_follows_the_schedule() -> None:
    training = {"lr": 1.0, "batch_size": 4, "steps": 1, "schedule": "step", "schedule_every": 2}
    plan, data = private_plan(training, noise_multiplier=1e-9, sampling=Sampling.FULL), site_of("a", 20, 1)
    task = load_task(plan)
    model = initial_vector(task, plan, 4)
    trainer = PrivateTrainer(task, plan, data, mode=Mode.GHOST)
    first, third = (trainer.fit(fit_jobs([data], round_number=number)[0], model).update for number in (1, 3))
    assert np.abs(third - first / 2).max() <= 1e-6


class _Own:
    """A task with another model."""

    def __init__(self, model: Callable[[], nn.Module]) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(load_task(private_plan()), name)

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._model()


def _half_frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, 3))
    module[0].requires_grad_(False)
    return module


class _Remembering(nn.Module):
    """Keeps the sum of its inputs in a buffer, which a later step would see."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(INPUTS))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.get_buffer("seen").add_(x.detach().sum(0))
        return x


def test_a_model_that_keeps_something_of_its_rows_is_refused() -> None:
    task: Any = _Own(lambda: nn.Sequential(_Remembering(), nn.Linear(INPUTS, 3)))
    plan, data = private_plan({"batch_size": 4}), site_of("a", 20, 1)
    with pytest.raises(PlanError, match=r"layers that keep nothing of the rows they have seen, got '0\.seen: _Remem"):
        _fit(plan, data, keyed(), task)


def test_a_model_with_batch_norm_trains_with_group_norm() -> None:
    task: Any = _Own(lambda: nn.Sequential(nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    plan, data = private_plan({"batch_size": 4}), site_of("a", 20, 1)
    trainer, result = _fit(plan, data, keyed(), task)
    assert trainer.state is None and len(result.update) == INPUTS * 8 + 8 + 16 + 27  # no running statistics


@pytest.mark.parametrize("mode", Mode)
def test_dropout_draws_in_secret_and_leaves_torchs_generator_alone(mode: Mode) -> None:
    """Who knows the masks, which go by a row's place in its batch, sees one row more move those of all others."""
    task: Any = _Own(lambda: nn.Sequential(nn.Linear(INPUTS, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    plan, data = private_plan({"batch_size": 4}, noise_multiplier=1e-9), site_of("a", 20, 1)
    model, job = initial_vector(task, plan, 4), fit_jobs([data])[0]

    def update(random: SecureRandom, seed: int) -> list[float]:
        trainer = PrivateTrainer(task, plan, data, random=random, mode=mode)
        found: list[float] = trainer.fit(dataclasses.replace(job, seed=seed), model).update.tolist()
        return found

    first = update(keyed(), 1)
    torch.rand(1)
    before = torch.get_rng_state()
    assert update(keyed(), 2) == first, "the job's seed, which the server knows, decides nothing"
    assert update(SecureRandom(), 1) != first
    assert torch.equal(torch.get_rng_state(), before)


def test_each_round_starts_with_a_fresh_optimiser() -> None:
    plan, data = (
        private_plan({"batch_size": 4, "steps": 3, "momentum": 0.9}, noise_multiplier=1e-9),
        site_of("a", 20, 1),
    )
    plan = dataclasses.replace(plan, privacy=dataclasses.replace(plan.privacy, sampling=Sampling.FULL))
    task = load_task(plan)
    trainer, model, job = PrivateTrainer(task, plan, data), initial_vector(task, plan, 4), fit_jobs([data])[0]
    first, second = trainer.fit(job, model).update, trainer.fit(job, model).update
    assert np.abs(first - second).max() <= 1e-6


def test_trainers_share_a_private_workspace_and_evaluate_in_any() -> None:
    plan, data, other = private_plan({"batch_size": 4}), site_of("a", 20, 1), site_of("b", 30, 2)
    task = load_task(plan)
    model, (first, second) = initial_vector(task, plan, 4), fit_jobs([data, other])
    expected = _fit(plan, data, keyed())[1].update
    place = PrivateWorkspace(task, plan)
    PrivateTrainer(task, plan, other, place, random=keyed(3), mode=Mode.HOOKS).fit(second, model)
    again = PrivateTrainer(task, plan, data, place, random=keyed(), mode=Mode.GHOST).fit(first, model)
    assert np.array_equal(again.update, expected)
    plain = Workspace(task, plan)
    trainer = PrivateTrainer(task, plan, data, plain, random=keyed(), mode=Mode.GHOST)
    assert trainer.workspace is plain
    assert np.array_equal(trainer.fit(first, model).update, expected)
    with pytest.raises(LocalError, match="expected a PrivateWorkspace, got Workspace"):
        trainer.fit_in(plain, first, model, np.empty_like(model))


def test_statistics_leave_with_noise_and_only_once() -> None:
    columns = [{"name": f"c{place}", "range": [-8.0, 8.0]} for place in range(INPUTS)]
    plan = private_plan(
        {"batch_size": 4},
        task={"name": "tabular-classifier", "hidden": [4]},
        data={"columns": columns, "standardize": "federated"},
        statistics=PrivateStatistics.DP,
        statistics_noise_multiplier=5.0,
        public_sizes=True,
    )
    data = site_of("a", 400, 1)
    trainer = PrivateTrainer(load_task(plan), plan, data)
    first = trainer.statistics()
    assert trainer.statistics() is first
    again = PrivateTrainer(load_task(plan), plan, data).statistics()
    assert not np.array_equal(first.counts[1:], again.counts[1:])
    clear = dataclasses.replace(plan, privacy=Privacy(unit=Unit.ROW, noise_multiplier=1.0))
    with pytest.raises(PlanError, match=r"privacy\.statistics"):
        PrivateTrainer(load_task(plan), clear, data).statistics()


def test_terms_are_those_of_the_sites_own_size() -> None:
    plan = private_plan({"batch_size": 4}, noise_multiplier=None, epsilon=2.0)
    for rows in (20, 60):
        trainer = PrivateTrainer(load_task(plan), plan, site_of("a", rows, 1))
        assert trainer.terms == site_terms(plan, rows)
        assert trainer.terms.claim.epsilon <= 2.0


def test_rows_and_models_are_left_alone() -> None:
    plan, data = private_plan({"batch_size": 4}), site_of("a", 20, 1)
    task = load_task(plan)
    model = initial_vector(task, plan, 0)
    kept = [array.copy() for array in (data.train.x, data.train.y, model)]
    for array in (data.train.x, data.train.y, model):
        array.flags.writeable = False
    PrivateTrainer(task, plan, data).fit(fit_jobs([data])[0], model)
    for array, copied in zip((data.train.x, data.train.y, model), kept, strict=True):
        assert np.array_equal(array, copied)


def test_a_regression_trains_privately() -> None:
    table = {"target": {"name": "y", "range": [0.0, 10.0]}}
    task = {"name": "tabular-regressor", "hidden": [5], "options": {"inputs": INPUTS}}
    plan = private_plan({"batch_size": 4}, task=task, data=table)
    data = dataclasses.replace(site_of("a", 20, 1), train=rows_of(20, 1, classes=0))
    _, result = _fit(plan, data, keyed(), mode=None)
    assert np.isfinite(result.update).all() and result.update.any()
