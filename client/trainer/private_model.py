"""Models that can be trained privately: each row's gradient depends on that row alone.

Opacus's validators look at layers with parameters only and so let BatchNorm without them pass; its replacement has one
channel to a group where there are 32 or fewer, which makes every output of a BatchNorm1d on columns 0.
"""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.task import Task

__all__ = ["check_supported", "model_of", "private_module", "replacements"]

_MOST_GROUPS = 32
_LEAST_CHANNELS = 4
"""Of a group, so that something is left of a row without height and width when its groups are normalised."""
_REPLACED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def model_of(task: Task, plan: Plan, seed: int) -> nn.Module:
    """The task's model with parameters drawn from `seed`, as `plan` trains it.

    Where rows or patients are hidden that is `private_module` of it. Where clients are, BatchNorm is replaced as well:
    noise makes nothing of its variances, and statistics that stay are of one client. Raises PlanError naming a layer
    that has no gradient for each row.
    """
    module = task.model(seed)
    if plan.privacy.per_client:
        return _replaced(module)
    return private_module(module) if plan.privacy.per_example else module


def private_module(module: nn.Module) -> nn.Module:
    """`module` with every BatchNorm replaced by a GroupNorm that takes over its parameters; changed in place.

    Nothing random is drawn. Raises PlanError as `check_supported` does.
    """
    module = _replaced(module)
    check_supported(module)
    return module


def _replaced(module: nn.Module) -> nn.Module:
    made: dict[int, nn.GroupNorm] = {}
    for path, norm in list(_batch_norms(module)):
        group_norm = made.setdefault(id(norm), _group_norm(norm))
        if not path:
            module = group_norm
            continue
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, group_norm)
    return module


def replacements(module: nn.Module) -> tuple[str, ...]:
    """What `private_module` would replace in `module`, a line for each layer, for people."""
    return tuple(
        f"{path or 'model'}: {type(norm).__name__} replaced by GroupNorm({_groups(norm.num_features)} groups of "
        f"{norm.num_features} channels), since batch statistics mix rows"
        for path, norm in _batch_norms(module)
    )


def check_supported(module: nn.Module) -> None:
    """Raise PlanError, naming the layer and its type, for one that has no gradient for each row.

    That is a layer that mixes rows, keeps something of them, or shares a parameter with another. What a layer's type
    does not tell is seen when it first trains (`PrivateGradient`).
    """
    for path, part in module.named_modules():
        if reason := _obstacle(part):
            raise _refused(f"{path or 'model'}: {type(part).__name__}", reason)
    owners: dict[int, tuple[str, str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owner = name.rpartition(".")[0]
        first, first_owner = owners.setdefault(id(parameter), (name, owner))
        # a layer may have names of its own for its parts' parameters, as those of opacus.layers have
        inside = not first_owner or owner.startswith(f"{first_owner}.")
        if first != name and not inside:
            kind = type(module.get_submodule(owner)).__name__
            raise _refused(f"{name}: {kind}", f"which shares its parameter with {first}")


def _refused(layer: str, reason: str) -> PlanError:
    return PlanError(
        "task.model", "layers with a gradient for each row, since privacy hides rows", layer, f", {reason}"
    )


def _batch_norms(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Every BatchNorm that can be replaced, under each of its names."""
    for path, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, _BatchNorm) and type(part) in _REPLACED:
            yield path, part


def _groups(channels: int) -> int:
    """How many groups: as many as go into `channels`, with a few channels in each (Wu and He 2018)."""
    most = min(_MOST_GROUPS, channels // _LEAST_CHANNELS)
    return next((groups for groups in range(most, 1, -1) if channels % groups == 0), 1)


def _group_norm(norm: _BatchNorm) -> nn.GroupNorm:
    channels = norm.num_features
    made = nn.GroupNorm(_groups(channels), channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        made.weight, made.bias = norm.weight, norm.bias
    return made.train(norm.training)


def _obstacle(part: nn.Module) -> str:
    """Why a layer cannot be trained privately; empty when its type does not speak against it."""
    if isinstance(part, _BatchNorm):
        return "whose statistics mix rows"
    if isinstance(part, _InstanceNorm) and part.track_running_stats:
        return "which keeps statistics of rows; track_running_stats = False helps"
    if isinstance(part, nn.RNNBase):
        return "whose steps are one operation; opacus.layers has DPRNN, DPGRU and DPLSTM"
    if isinstance(part, nn.MultiheadAttention):
        return "whose projections are one operation; opacus.layers has DPMultiheadAttention"
    if isinstance(part, nn.EmbeddingBag):
        return "which takes several rows as one"
    if isinstance(part, nn.Embedding) and (part.max_norm is not None or part.scale_grad_by_freq):
        return "whose max_norm and scale_grad_by_freq depend on other rows"
    own = list(part.parameters(recurse=False))
    if any(is_lazy(tensor) for tensor in own):
        return "whose shape is not known before it has seen rows"
    if any(parameter.requires_grad for parameter in own) and any(True for _ in part.buffers(recurse=False)):
        return "which has buffers beside its parameters"
    return ""
