import copy
from typing import Any

import numpy as np
import pytest
import torch
from opacus.layers import DPLSTM
from opacus.validators import ModuleValidator
from torch import nn

from tests.private_rows import private_plan
from tests.sites_of_rows import rows_plan
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.private_model import check_supported, model_of, private_module, replacements
from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.task import Task


def _network() -> nn.Sequential:
    features = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, eps=1e-3), nn.ReLU())
    return nn.Sequential(features, nn.Flatten(), nn.Linear(16 * 4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


def _part(module: nn.Module, path: str) -> Any:
    return module.get_submodule(path)


def test_batch_norm_becomes_group_norm_with_its_parameters_and_rows_no_longer_mix() -> None:
    original = _network()
    norm = _part(original, "0.1")
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    before = {name: tensor.detach().clone() for name, tensor in original.named_parameters()}
    module = private_module(original)
    after = dict(module.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert type(_part(module, "0.1")) is nn.GroupNorm and _part(module, "0.1").eps == 1e-3
    assert not list(module.buffers())
    x = torch.randn(5, 3, 4, 4)
    together, alone = module.train()(x), torch.cat([module(x[at : at + 1]) for at in range(5)])
    torch.testing.assert_close(together, alone)
    mixed = _network().train()
    assert not torch.allclose(mixed(x)[:2], mixed(x[:2]))


def test_every_replacement_is_told() -> None:
    assert replacements(_network()) == (
        "0.1: BatchNorm2d replaced by GroupNorm(4 groups of 16 channels), since batch statistics mix rows",
        "3: BatchNorm1d replaced by GroupNorm(2 groups of 8 channels), since batch statistics mix rows",
    )
    assert replacements(nn.BatchNorm1d(6))[0].startswith("model: BatchNorm1d replaced by GroupNorm(1 groups")
    assert replacements(private_module(_network())) == ()


@pytest.mark.parametrize("channels", [2, 3, 8, 32, 64, 100, 1000])
def test_a_norm_of_columns_still_lets_them_through(channels: int) -> None:
    module = private_module(nn.BatchNorm1d(channels))
    assert type(module) is nn.GroupNorm and channels % module.num_groups == 0
    outputs = module(torch.randn(4, channels))
    assert (outputs.abs() > 0.01).float().mean() > 0.9


def test_a_batch_norm_without_parameters_and_one_of_two_names_are_replaced_too() -> None:
    bare = private_module(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, affine=False)))
    assert type(_part(bare, "1")) is nn.GroupNorm and _part(bare, "1").weight is None
    shared = nn.BatchNorm1d(8, affine=False)
    twice = private_module(nn.Sequential(nn.Linear(8, 8), shared, nn.Linear(8, 8), shared))
    assert type(_part(twice, "1")) is nn.GroupNorm and _part(twice, "3") is _part(twice, "1")


def test_nothing_random_is_drawn_for_a_replacement() -> None:
    network = _network()
    torch.manual_seed(1)
    private_module(network)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), after)


class _Norm(nn.BatchNorm1d):
    pass


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros(1))


def _tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (lambda: nn.InstanceNorm2d(4, track_running_stats=True), "1: InstanceNorm2d"),
        (lambda: _Norm(4), "1: _Norm"),
        (lambda: nn.LazyBatchNorm1d(), "1: LazyBatchNorm1d"),
        (lambda: nn.LSTM(4, 4), "1: LSTM"),
        (lambda: nn.GRU(4, 4), "1: GRU"),
        (lambda: nn.RNN(4, 4), "1: RNN"),
        (lambda: nn.MultiheadAttention(4, 2), "1: MultiheadAttention"),
        (lambda: nn.TransformerEncoderLayer(4, 2), "1.self_attn: MultiheadAttention"),
        (lambda: nn.EmbeddingBag(4, 2), "1: EmbeddingBag"),
        (lambda: nn.Embedding(4, 2, max_norm=1.0), "1: Embedding"),
        (lambda: nn.Embedding(4, 2, scale_grad_by_freq=True), "1: Embedding"),
        (lambda: nn.LazyLinear(4), "1: LazyLinear"),
        (_Counting, "1: _Counting"),
        (_tied, "1.2.weight: Linear"),
    ],
    ids=lambda value: value.split(": ")[1] if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_an_unsupported_layer_is_named(layer: Any, named: str) -> None:
    module = nn.Sequential(nn.Linear(4, 4), layer())
    with pytest.raises(PlanError, match=r"plan\.task\.model: expected layers with a gradient for each row") as refused:
        private_module(module)
    assert f"'{named}'" in str(refused.value)


def test_whatever_opacus_validates_is_replaced_or_refused() -> None:
    made: dict[type, nn.Module] = {
        nn.BatchNorm1d: nn.BatchNorm1d(4),
        nn.BatchNorm2d: nn.BatchNorm2d(4),
        nn.BatchNorm3d: nn.BatchNorm3d(4),
        nn.SyncBatchNorm: nn.SyncBatchNorm(4),
        nn.InstanceNorm1d: nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
        nn.InstanceNorm2d: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.InstanceNorm3d: nn.InstanceNorm3d(4, affine=True, track_running_stats=True),
        nn.LSTM: nn.LSTM(4, 4),
        nn.GRU: nn.GRU(4, 4),
        nn.MultiheadAttention: nn.MultiheadAttention(4, 2),
    }
    assert set(ModuleValidator.VALIDATORS) == set(made)
    for module in made.values():
        assert ModuleValidator.validate(module)
        with pytest.raises(PlanError):
            check_supported(module)


def test_what_has_a_gradient_for_each_row_is_taken() -> None:
    module = nn.Sequential(
        nn.Embedding(5, 4), nn.Conv1d(4, 4, 1), nn.InstanceNorm1d(4), nn.LayerNorm(4), nn.Dropout(), DPLSTM(4, 4)
    )
    check_supported(module)


class _Normed:
    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("plan", "kind"),
    [(private_plan(), nn.GroupNorm), (rows_plan(), nn.BatchNorm1d), (private_plan(unit="client"), nn.BatchNorm1d)],
    ids=["rows", "off", "clients"],
)
def test_only_plans_that_hide_rows_change_the_model(plan: Plan, kind: type) -> None:
    task: Task = _Normed(load_task(plan))
    module, original = model_of(task, plan, 3), task.model(3)
    assert isinstance(module, nn.Sequential) and type(module[1]) is kind
    for one, other in zip(module.parameters(), original.parameters(), strict=True):
        assert np.array_equal(one.detach().numpy(), other.detach().numpy())


def test_a_private_module_is_left_as_it_is() -> None:
    module = private_module(_network())
    kept = copy.deepcopy(module)
    assert str(private_module(module)) == str(kept)
