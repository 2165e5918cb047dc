import pytest
import torch
from torch import nn

from tests.sites_of_rows import rows_plan
from wardround.client.trainer.bundle import load_task
from wardround.simulations.executors.stacked_gradient import Chain, StackedGradient, Vmapped, stacked_gradient
from wardround.task import Batch

CHAIN = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
OTHERS = [
    nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
    nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)),
    nn.Sequential(nn.Linear(6, 3), nn.ReLU()),
]


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("module", [CHAIN, nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 3)), *OTHERS])
def test_every_client_gets_the_gradient_of_its_own_model(by_hand: bool, module: nn.Module) -> None:
    task = load_task(rows_plan())
    gradient: StackedGradient | None = Chain.of(task, module) if by_hand else Vmapped(task, module)
    if gradient is None:
        assert module in OTHERS
        return
    generator = torch.Generator().manual_seed(0)
    clients, rows = 4, 7
    parameters = [torch.randn(clients, *p.shape, generator=generator) for p in module.parameters()]
    out = [torch.full_like(parameter, 9.0) for parameter in parameters]
    x = torch.randn(clients, rows, 6, generator=generator)
    y = torch.randint(0, 3, (clients, rows), generator=generator)
    share = torch.rand(clients, rows, generator=generator)
    kept = x.clone()
    losses, found = gradient(parameters, x, y, share, out)
    assert torch.equal(x, kept)
    for client in range(clients):
        own = [parameter[client].clone().requires_grad_() for parameter in parameters]
        named = dict(zip(dict(module.named_parameters()), own, strict=True))
        outputs = torch.func.functional_call(module, named, (x[client],))
        expected = task.loss(outputs, Batch(x[client], y[client]))
        torch.testing.assert_close(losses[client], expected.detach())
        gradients = torch.autograd.grad(torch.dot(expected, share[client]), own)
        for stack, alone in zip(found, gradients, strict=True):
            torch.testing.assert_close(stack[client], alone, atol=1e-5, rtol=1e-5)


def test_chains_are_recognised() -> None:
    task = load_task(rows_plan())
    assert isinstance(stacked_gradient(task, CHAIN), Chain)
    assert isinstance(stacked_gradient(task, nn.Linear(6, 3)), Chain)
    shared = nn.Linear(6, 6)
    for other in (*OTHERS, nn.Sequential(shared, nn.ReLU(), shared), nn.Sequential(nn.ReLU(), nn.Linear(6, 3))):
        assert isinstance(stacked_gradient(task, other), Vmapped)
