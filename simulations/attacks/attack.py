"""The interface of an attack."""

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.site_data import Rows
from wardround.plan import Plan
from wardround.vector import F32

__all__ = ["GROUP", "Attack", "Crafted", "Knowledge", "Poisoner"]

GROUP = "wardround.attacks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the attackers of a round know, all together.

    `own`, shape (f, d): what their own training gave; `honest`, shape (h, d): what the honest members of the cohort
    send, no rows unless the attack `knows_others`. `model`, shape (d,), is the global model. `aggregate` is what the
    server's rule would make of any rows (honest ones first), None where it makes nothing. `seed` is of this round.
    """

    own: F32
    honest: F32
    model: F32
    round: int
    seed: int
    aggregate: Callable[[F32], F32 | None]
    num_byzantine: int = 0
    memory: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def generator(self) -> np.random.Generator:
        """Reproducible draws of this round."""
        return np.random.Generator(np.random.Philox(key=self.seed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Crafted:
    """What the attackers send, shape (f, d), and what they keep for the next round."""

    updates: F32
    memory: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisoner:
    """One attacker who changes its own data: its place among the attackers, and a seed."""

    plan: Plan
    index: int
    attackers: int
    seed: int


class Attack(ABC):
    """Lies about updates (`craft`), or about data (`poison`), or both.

    A subclass is a frozen dataclass registered in the entry-point group `wardround.attacks`, its fields are options
    of `[simulation.attack]`. `summary` is one line for people, `source` the paper.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    knows_others: ClassVar[bool] = False
    """Whether `craft` needs what honest sites send in the same round."""
    poisons: ClassVar[bool] = False
    """Whether the attackers train on other rows than they have."""
    has_trigger: ClassVar[bool] = False
    """Whether it plants a backdoor: then `trigger` says where."""

    def craft(self, knowledge: Knowledge) -> Crafted:
        """What to send instead of `knowledge.own`; by default just that."""
        return Crafted(updates=knowledge.own)

    def poison(self, rows: Rows, poisoner: Poisoner) -> Rows:
        """The training rows to use instead of `rows`, which are not changed."""
        return rows

    def trigger(self, rows: Rows, plan: Plan) -> Rows:
        """For a backdoor: rows that the poisoned model should mistake, with the label that it should give them.

        `rows` with the whole trigger in them and the target label; rows that have that label anyway are left out.
        """
        raise ValueError(f"{type(self).__name__} has no trigger")
