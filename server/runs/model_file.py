"""model.safetensors: the released model, its tensors by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wardround.decoding import PlanError, decode, encode
from wardround.errors import LocalError
from wardround.orders import Statistics
from wardround.server.runs.tensor_file import decode_tensors, encode_tensors, read_tensors
from wardround.vector import F32, Layout, TensorSpec

__all__ = ["ModelFile", "decode_model", "encode_model", "read_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A model, shape (layout.size,), of round `round`, and what is needed to use it.

    `statistics` standardise the inputs when the plan says `federated`.
    """

    layout: Layout
    model: F32
    round: int
    run_id: str
    plan_digest: str
    statistics: Statistics | None = None


def encode_model(model: ModelFile) -> bytes:
    """The file: one float32 tensor per name of the layout, everything else in the metadata."""
    metadata = {
        "run_id": model.run_id,
        "plan_digest": model.plan_digest,
        "round": model.round,
        "layout": [encode(tensor) for tensor in model.layout.tensors],
        "statistics": None if model.statistics is None else encode(model.statistics),
    }
    return encode_tensors(model.layout.split(model.model), metadata)


def read_model(path: Path) -> ModelFile:
    """The model in a file. Raises LocalError when it is missing or something else."""
    return _model(*read_tensors(path), str(path))


def decode_model(data: bytes, where: str) -> ModelFile:
    """The inverse of `encode_model`. Raises LocalError, naming `where`, for anything else."""
    return _model(*decode_tensors(data, where), where)


def _model(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any], where: str) -> ModelFile:
    try:
        layout = Layout(tuple(TensorSpec(**entry | {"shape": tuple(entry["shape"])}) for entry in metadata["layout"]))
        statistics = metadata["statistics"]
        return ModelFile(
            layout=layout,
            model=layout.flatten(tensors),
            round=metadata["round"],
            run_id=metadata["run_id"],
            plan_digest=metadata["plan_digest"],
            statistics=None if statistics is None else decode(Statistics, statistics),
        )
    except (KeyError, TypeError, ValueError, PlanError) as error:
        raise LocalError(f"{where}: expected a model made by wardround ({error!r})") from None
