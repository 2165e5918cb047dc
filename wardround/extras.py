"""The optional dependencies, and a clear refusal where they are missing."""

from importlib.util import find_spec

from wardround.errors import MissingExtraError

__all__ = ["EXTRAS", "require"]

_JOB = ("torch", "flwr", "opacus", "safetensors", "pyarrow")
EXTRAS = {"job": _JOB, "simulation": (*_JOB, "sklearn", "plotly"), "he": ("tenseal",)}
"""What each extra of pyproject.toml installs, by the name under which it is imported."""


def require(extra: str) -> None:
    """Raise MissingExtraError unless all of `extra` is installed; imports none of it."""
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise MissingExtraError(extra, module)
