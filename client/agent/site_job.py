"""What the agent needs of a job: it reads the site's data and trains, in a process without keys and network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wardround.client.agent.data_registry import DataSet
from wardround.client.trainer.trainer import Trainer
from wardround.plan import Plan

__all__ = ["JobFacts", "JobMaker", "SiteJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """What the job found in the data, before any code of the plan was loaded.

    `rows` are those that may be used. `train` is the number of rows that were dealt to training, `patients` that of the
    patients they belong to, where the plan says whose a row is; who has withdrawn since counts in both.
    """

    rows: int
    train: int
    patients: int | None = None


class SiteJob(Protocol):
    """One job of one run. Raises LocalError where it fails; it is started again for what is asked next."""

    @property
    def trainer(self) -> Trainer: ...

    def describe(self) -> JobFacts:
        """Read the data, and say what is there."""
        ...

    def state(self) -> bytes:
        """What the site keeps between rounds, to be given to the next job; empty where there is nothing."""
        ...

    def restore(self, state: bytes) -> None:
        """Put back what `state` gave."""
        ...

    def close(self) -> None:
        """End it and what it started, from any thread: the question under way fails, and nothing is started again."""
        ...


JobMaker = Callable[[str, Plan, DataSet], SiteJob]
"""Makes the job of a run (its id), its plan and the data it is bound to."""
