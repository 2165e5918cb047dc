"""Attackers that train on other rows: what changes, and what must not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.simulations.attacked_federation import SITES, attackers, hospitals, plan, run
from tests.sites_of_rows import fit_jobs
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.tasks.tabular import TabularClassifier
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.plan import Plan
from wardround.server.runs.run_directory import RunDirectory
from wardround.simulations.attacks.adversary import attackers_of, load_attack, poisoned
from wardround.simulations.attacks.gather import gather_adversary
from wardround.simulations.attacks.poisoned_trainer import PoisonedTrainer
from wardround.simulations.federation import build_federation, with_inputs
from wardround.simulations.participants import data_digest, gather_task
from wardround.simulations.simulate import simulate
from wardround.strategies.rules.build import build_rule

POISONING = ["label_flip", "scaling_backdoor", "dba"]


def shaped(chosen: Plan) -> Plan:
    return with_inputs(chosen, build_federation(chosen, hospitals()))


@pytest.mark.parametrize("name", POISONING)
def test_only_the_training_rows_of_attackers_change(name: str) -> None:
    chosen = plan(attack=name).override(["simulation.attack.attackers=2", "robust.num_byzantine=2"])
    data = build_federation(chosen, hospitals())
    before = data_digest(data)
    attack, liars = load_attack(chosen), attackers_of(chosen, SITES)
    assert attack is not None and attack.poisons
    rows = poisoned(chosen, attack, data, liars)
    assert set(rows) == set(liars) and data_digest(data) == before
    for site in data:
        if site.site in liars:
            other = rows[site.site]
            assert len(other.train) == len(site.train) and other.train.y.dtype == site.train.y.dtype
            assert (other.train.y != site.train.y).any() or (other.train.x != site.train.x).any()
            assert other.validation is site.validation and other.test is site.test
    again = poisoned(chosen, attack, data, liars)
    assert data_digest([rows[site] for site in liars]) == data_digest([again[site] for site in liars])


def test_the_run_keeps_its_digest_its_held_out_rows_and_its_baselines(tmp_path: Path) -> None:
    common = ("rounds=2", "simulation.baselines=true")
    honest = simulate(plan(*common), data=hospitals(), out=tmp_path / "honest")
    attacked = simulate(plan(*common, attack="label_flip"), data=hospitals(), out=tmp_path / "attacked")
    with RunDirectory.open(tmp_path / "honest") as one, RunDirectory.open(tmp_path / "attacked") as other:
        assert one.info.engine["data"] == other.info.engine["data"]
    assert honest.comparison is not None and attacked.comparison is not None
    for model in ("pooled", "alone"):
        assert honest.comparison.overall.get(model) == attacked.comparison.overall.get(model)
    assert [site.test_rows for site in honest.comparison.sites] == [
        site.test_rows for site in attacked.comparison.sites
    ]
    assert honest.model.tobytes() != attacked.model.tobytes()


def test_an_attacker_trains_on_its_own_rows_until_it_strikes() -> None:
    chosen = shaped(plan("simulation.attack.from_round=3", attack="label_flip"))
    participants = gather_task(chosen, build_federation(chosen, hospitals()))
    adversary, trainer_of = gather_adversary(chosen, participants, build_rule(chosen.robust))
    assert adversary is not None
    (liar,) = attackers(chosen)
    honest = next(site for site in SITES if site != liar)
    for striking in (False, True):
        adversary.striking = striking
        assert isinstance(trainer_of(liar), PoisonedTrainer) == striking
        assert trainer_of(honest) is participants.trainers[honest]


def test_without_an_attack_every_trainer_is_the_sites_own() -> None:
    chosen = shaped(plan())
    participants = gather_task(chosen, build_federation(chosen, hospitals()))
    adversary, trainer_of = gather_adversary(chosen, participants, build_rule(chosen.robust))
    assert adversary is None and all(trainer_of(site) is participants.trainers[site] for site in SITES)


def test_an_attack_on_updates_alone_needs_no_other_trainer() -> None:
    chosen = shaped(plan(attack="sign_flip"))
    participants = gather_task(chosen, build_federation(chosen, hospitals()))
    adversary, trainer_of = gather_adversary(chosen, participants, build_rule(chosen.robust))
    assert adversary is not None
    adversary.striking = True
    assert all(trainer_of(site) is participants.trainers[site] for site in SITES)


class Normed(TabularClassifier):
    """A task whose sites keep their BatchNorm statistics."""

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(super().model(seed), nn.BatchNorm1d(2))


def test_what_stays_at_the_site_is_one_with_the_honest_trainer() -> None:
    chosen = shaped(plan('training.batch_norm="local"', attack="label_flip"))
    data = build_federation(chosen, hospitals())
    honest = TorchTrainer(Normed(chosen), chosen, data[0])
    liar = PoisonedTrainer(honest, data[1])
    model = gather_task(chosen, data, Normed(chosen)).initial
    (job,) = fit_jobs(data[:1])
    first = liar.fit(job, model)
    assert honest.state is not None and liar.state is honest.state
    alone = TorchTrainer(Normed(chosen), chosen, data[1])
    np.testing.assert_array_equal(first.update, alone.fit(job, model).update)
    kept = {name: array.copy() for name, array in honest.state.items()}
    honest.state = None
    assert liar.state is None
    liar.state = kept
    assert honest.state is kept


def test_a_poisoned_trainer_trains_on_the_rows_that_it_was_given() -> None:
    chosen = shaped(plan(attack="label_flip"))
    data = build_federation(chosen, hospitals())
    task = load_task(chosen)
    model = gather_task(chosen, data, task).initial
    (job,) = fit_jobs(data[:1])
    flipped = load_attack(chosen)
    assert flipped is not None
    rows = poisoned(chosen, flipped, data, (data[0].site,))[data[0].site]
    liar = PoisonedTrainer(TorchTrainer(task, chosen, data[0]), rows)
    expected = TorchTrainer(task, chosen, rows).fit(job, model)
    np.testing.assert_array_equal(liar.fit(job, model).update, expected.update)
    honest = TorchTrainer(task, chosen, data[0]).fit(job, model)
    # Two classes and a cross entropy: with every label turned round the first step goes the other way.
    assert float(expected.update @ honest.update) < 0


def test_label_flip_harms_the_mean() -> None:
    mean: dict[str, Any] = {"robust": {"rule": "mean"}}
    common = ("rounds=6", "training.lr=0.5")
    honest = run(plan(*common, **mean))
    attacked = run(plan(*common, attack="label_flip", **mean).override(["simulation.attack.attackers=2"]))
    assert honest.metrics["auc"] > 0.9 and attacked.metrics["loss"] > honest.metrics["loss"] + 0.05
