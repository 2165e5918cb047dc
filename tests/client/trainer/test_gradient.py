import subprocess
import sys

import pytest
import torch
from torch import nn

from wardround.client.trainer.gradient import gradients_of
from wardround.errors import LocalError


def test_gradients_are_those_of_torch_autograd_grad() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.GroupNorm(1, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y, shares = torch.randn(7, 4), torch.randint(0, 3, (7,)), torch.rand(7)
    inputs = tuple(module.parameters())
    losses = nn.functional.cross_entropy(module(x), y, reduction="none")
    expected = torch.autograd.grad(losses, inputs, shares, retain_graph=True)
    for found, wanted in zip(gradients_of(losses, shares, inputs), expected, strict=True):
        assert torch.equal(found, wanted)
    assert all(parameter.grad is None for parameter in inputs)


def test_what_is_not_used_has_gradient_zero() -> None:
    used, idle = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    first, second = gradients_of(used * 2, torch.tensor([1.0, 0.0, 3.0]), (used, idle))
    assert first.tolist() == [2.0, 0.0, 6.0] and second.tolist() == [0.0, 0.0]


def test_a_mean_in_place_of_the_losses_is_refused() -> None:
    used = torch.ones(3, requires_grad=True)
    with pytest.raises(LocalError, match=r"a loss for each row, shape \(3,\), got \(\)"):
        gradients_of((used * 2).mean(), torch.ones(3), (used,))


def test_sympy_is_not_imported() -> None:
    code = (
        "import sys, torch; from wardround.client.trainer.gradient import gradients_of; "
        "x = torch.ones(3, requires_grad=True); gradients_of(x * 2, torch.ones(3), (x,)); "
        "sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
