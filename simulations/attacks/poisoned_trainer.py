"""The trainer of an attacker that trains on other rows than it has."""

from wardround.client.data.site_data import SiteData
from wardround.client.trainer.flat_model import SiteState
from wardround.client.trainer.torch_trainer import TorchTrainer

__all__ = ["PoisonedTrainer"]


class PoisonedTrainer(TorchTrainer):
    """Trains on `data` in the place of `honest`, whose state between rounds it shares."""

    __slots__ = ("_honest",)

    def __init__(self, honest: TorchTrainer, data: SiteData) -> None:
        self._honest = honest
        super().__init__(honest.task, honest.plan, data, honest.workspace)

    @property
    def state(self) -> SiteState | None:
        return self._honest.state

    @state.setter
    def state(self, state: SiteState | None) -> None:
        self._honest.state = state
