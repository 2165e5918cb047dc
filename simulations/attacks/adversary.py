"""The attackers of a simulation: who they are, what they train on, what they send."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.site_data import SiteData
from wardround.contribution import Contribution
from wardround.decoding import PlanError
from wardround.orders import LocalResult, Order, SiteId, derive_seed
from wardround.pieces import make_piece
from wardround.plan import Plan
from wardround.simulations.attacks.attack import GROUP, Attack, Knowledge, Poisoner
from wardround.strategies.rules.rule import RoundContext, Rule
from wardround.tally import Tally
from wardround.vector import F32, MemoryVector

__all__ = ["ATTACKERS", "Adversary", "attackers_of", "load_attack", "poisoned"]


ATTACKERS = SiteId("(attackers)")
"""The name under which a checkpoint carries what they keep."""


def load_attack(plan: Plan) -> Attack | None:
    """The plan's attack; None when everybody is honest. Raises PlanError for options that do not fit."""
    settings = plan.simulation.attack
    if not settings.attackers:
        return None
    attack: Attack = make_piece(GROUP, settings.name, settings.options, "simulation.attack.options")
    return attack


def attackers_of(plan: Plan, sites: Sequence[SiteId]) -> tuple[SiteId, ...]:
    """The sites that attack: drawn from the plan's seed, in the order of `sites`."""
    generator = np.random.Generator(np.random.Philox(key=derive_seed(plan.seed, "attackers")))
    chosen = generator.choice(len(sites), size=plan.simulation.attack.attackers, replace=False)
    return tuple(sites[index] for index in sorted(chosen.tolist()))


def poisoned(
    plan: Plan, attack: Attack, data: Sequence[SiteData], attackers: Sequence[SiteId]
) -> dict[SiteId, SiteData]:
    """What each attacker trains on instead of its own rows; held-out rows stay as they are.

    Raises PlanError for options that do not fit the data, e.g. a label that there is not.
    """
    found = {}
    for site in data:
        if site.site in attackers:
            seed = derive_seed(plan.seed, "poison", site.site)
            poisoner = Poisoner(plan=plan, index=attackers.index(site.site), attackers=len(attackers), seed=seed)
            try:
                rows = attack.poison(site.train, poisoner)
            except ValueError as error:
                raise PlanError("simulation.attack.options", f"options that fit ({error})") from None
            found[site.site] = replace(site, train=rows)
    return found


@dataclass(slots=True, kw_only=True)
class Adversary:
    """All attackers as one mind. `memory` is what they keep between rounds; a checkpoint carries it.

    `rule` and `context` are the server's, which an attack may know whole: what holds against it holds against less.
    """

    attack: Attack
    plan: Plan
    sites: tuple[SiteId, ...]
    rule: Rule
    context: Callable[[], RoundContext | None] = lambda: None
    memory: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    striking: bool = False
    """Whether the attackers lie in the round at work."""

    def begin(self, order: Order) -> frozenset[SiteId]:
        """The sites that lie in the order's round."""
        self.striking = order.round >= self.plan.simulation.attack.from_round
        return frozenset(self.sites) if self.striking else frozenset()

    def craft(self, order: Order, own: Sequence[LocalResult], honest: Sequence[F32], model: F32) -> list[LocalResult]:
        """What the attackers of a cohort send instead of their `own` results, in that order."""
        size = model.size
        knowledge = Knowledge(
            own=np.array([result.update for result in own], dtype=np.float32).reshape(-1, size),
            honest=np.array(honest, dtype=np.float32).reshape(-1, size),
            model=model,
            round=order.round,
            seed=derive_seed(self.plan.seed, "attack", order.round),
            aggregate=self._aggregate,
            num_byzantine=self.plan.robust.num_byzantine,
            memory=self.memory,
        )
        crafted = self.attack.craft(knowledge)
        if crafted.updates.shape != knowledge.own.shape:
            raise ValueError(f"attack: expected updates of shape {knowledge.own.shape}, got {crafted.updates.shape}")
        self.memory = dict(crafted.memory)
        claim = self.plan.simulation.attack.claim
        return [
            replace(result, update=update, num_examples=result.num_examples if claim is None else claim)
            for result, update in zip(own, crafted.updates.astype(np.float32, copy=False), strict=True)
        ]

    def _aggregate(self, rows: F32) -> F32 | None:
        """What the server's rule would make of `rows`, shape (n, d)."""
        context = self.context() or RoundContext(size=rows.shape[1])
        nothing = Tally.of_means(0, {})
        contributions = [
            Contribution(members=(SiteId(f"{at:06}"),), weight=1, vector=MemoryVector(row), tally=nothing)
            for at, row in enumerate(np.ascontiguousarray(rows, dtype=np.float32))
        ]
        return self.rule.apply(contributions, context).vector
