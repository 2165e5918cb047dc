"""The attackers among the participants of a simulation."""

from typing import cast

from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.orders import SiteId
from wardround.plan import Plan
from wardround.simulations.attacks.adversary import Adversary, attackers_of, load_attack, poisoned
from wardround.simulations.attacks.poisoned_trainer import PoisonedTrainer
from wardround.simulations.executors.flat_loop import TrainerOf
from wardround.simulations.participants import Participants
from wardround.strategies.rules.rule import Rule

__all__ = ["gather_adversary"]


def gather_adversary(plan: Plan, participants: Participants, rule: Rule) -> tuple[Adversary | None, TrainerOf]:
    """The plan's attackers, None when everybody is honest, and which trainer an executor trains a site with."""
    honest = cast(TrainerOf, participants.trainers.__getitem__)  # those of a task are TorchTrainers
    attack = load_attack(plan)
    if attack is None:
        return None, honest
    sites = attackers_of(plan, tuple(participants.trainers))
    adversary = Adversary(attack=attack, plan=plan, sites=sites, rule=rule)
    liars: dict[SiteId, TorchTrainer] = {}
    if attack.poisons:
        rows = poisoned(plan, attack, participants.data, sites)
        liars = {site: PoisonedTrainer(honest(site), rows[site]) for site in sites}

    def trainer_of(site: SiteId) -> TorchTrainer:
        return liars[site] if adversary.striking and site in liars else honest(site)

    return adversary, trainer_of
