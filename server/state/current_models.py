"""Which version of a model is the current one: the newest, or the one that a person has set it to."""

from wardround.server.state.database import Database
from wardround.server.state.models import Models, StoredModel
from wardround.server.state.settings import Settings

__all__ = ["CurrentModels"]


class CurrentModels:
    """The current versions. Setting one deletes nothing, and stays until another is set, newer models or not."""

    __slots__ = ("_models", "_settings")

    def __init__(self, database: Database) -> None:
        self._models, self._settings = Models(database), Settings(database)

    def get(self, name: str) -> StoredModel | None:
        """The current version of a model; None where there is none of this name."""
        chosen = self._settings.get(_key(name))
        return self._models.get(name, None if chosen is None else int(chosen))

    def set(self, model: StoredModel) -> None:
        """Let this be the current version of its name."""
        self._settings.put(_key(model.name), str(model.version))


def _key(name: str) -> str:
    return f"models.current {name}"
