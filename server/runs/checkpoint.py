"""A checkpoint: everything that the next round depends on, as the bytes of a safetensors file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.decoding import PlanError, decode, encode
from wardround.errors import LocalError
from wardround.orders import SiteId, Statistics
from wardround.server.runs.tensor_file import decode_tensors, encode_tensors
from wardround.strategies.records import RunState
from wardround.strategies.reputation import Reputation

__all__ = ["Checkpoint", "SiteArrays", "decode_checkpoint", "encode_checkpoint"]

SiteArrays = Mapping[SiteId, Mapping[str, NDArray[Any]]]
"""What stays at each site between rounds, by site and name: running statistics of BatchNorm kept local."""

_FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of run `run_id` after a round, and its sites' own arrays."""

    run_id: str
    plan_digest: str
    state: RunState
    sites: SiteArrays = field(default_factory=dict)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The checkpoint's file; equal checkpoints have equal bytes. Arrays keep their bits and types.

    Tensors: `model`, `best_model`, `optimizer.<name>`, `memory.<name>`, `site.<number>.<name>`; numbers are places in
    the metadata's list of sites.
    """
    state = checkpoint.state
    tensors: dict[str, NDArray[Any]] = {"model": state.model}
    if state.best_model is not None:
        tensors["best_model"] = state.best_model
    tensors |= {f"optimizer.{name}": array for name, array in state.optimizer.items()}
    tensors |= {f"memory.{name}": array for name, array in state.rule_memory.items()}
    for number, arrays in enumerate(checkpoint.sites.values()):
        tensors |= {f"site.{number}.{name}": array for name, array in arrays.items()}
    metadata = {
        "format": _FORMAT,
        "run_id": checkpoint.run_id,
        "plan_digest": checkpoint.plan_digest,
        "round": state.round,
        "statistics": None if state.statistics is None else encode(state.statistics),
        "best_round": state.best_round,
        "best_loss": state.best_loss,
        "evaluations_without_gain": state.evaluations_without_gain,
        "void_rounds": state.void_rounds,
        "stopped": state.stopped,
        "reputation": state.reputation.to_json(),
        "sites": list(checkpoint.sites),
    }
    return encode_tensors(tensors, metadata)


def decode_checkpoint(data: bytes, where: str) -> Checkpoint:
    """The inverse of `encode_checkpoint`. Raises LocalError naming the file `where` for anything else."""
    tensors, metadata = decode_tensors(data, where)
    if metadata.get("format") != _FORMAT:
        raise LocalError(f"{where}: expected a checkpoint of format {_FORMAT}, got {metadata.get('format')!r}")
    try:
        statistics = metadata["statistics"]
        optimizer = {name[10:]: array for name, array in tensors.items() if name.startswith("optimizer.")}
        memory = {name[7:]: array for name, array in tensors.items() if name.startswith("memory.")}
        sites: dict[SiteId, dict[str, NDArray[Any]]] = {site: {} for site in metadata["sites"]}
        for name, array in tensors.items():
            if name.startswith("site."):
                _, number, of_site = name.split(".", 2)
                sites[metadata["sites"][int(number)]][of_site] = array
        state = RunState(
            round=metadata["round"],
            model=_vector(tensors["model"]),
            optimizer=optimizer,
            rule_memory=memory,
            reputation=Reputation.from_json(metadata["reputation"]),
            statistics=None if statistics is None else decode(Statistics, statistics),
            best_round=metadata["best_round"],
            best_loss=metadata["best_loss"],
            best_model=_vector(tensors["best_model"]) if "best_model" in tensors else None,
            evaluations_without_gain=metadata["evaluations_without_gain"],
            void_rounds=metadata["void_rounds"],
            stopped=metadata["stopped"],
        )
        return Checkpoint(run_id=metadata["run_id"], plan_digest=metadata["plan_digest"], state=state, sites=sites)
    except (KeyError, TypeError, ValueError, IndexError, PlanError) as error:
        raise LocalError(f"{where}: expected a checkpoint made by wardround ({error!r})") from None


def _vector(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype != np.float32 or array.ndim != 1:
        raise ValueError(f"expected a float32 vector, got {array.dtype} of shape {array.shape}")
    return array
