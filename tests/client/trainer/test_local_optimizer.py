from typing import Any

import numpy as np
import pytest
import torch

from wardround.client.trainer.local_optimizer import num_moments, optimizer_step
from wardround.plan_sections import Training

LR = 0.05
CASES: list[tuple[dict[str, Any], Any]] = [
    ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p, lr=LR)),
    ({"optimizer": "sgd", "weight_decay": 0.1}, lambda p: torch.optim.SGD(p, lr=LR, weight_decay=0.1)),
    ({"optimizer": "sgd", "momentum": 0.8}, lambda p: torch.optim.SGD(p, lr=LR, momentum=0.8)),
    (
        {"optimizer": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=LR, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=LR)),
    (
        {"optimizer": "adam", "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=LR, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
    ),
    ({"optimizer": "adamw", "weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.1)),
]


@pytest.mark.parametrize("shape", [(40,), (3, 40)])
@pytest.mark.parametrize(("settings", "oracle"), CASES)
def test_steps_are_those_of_torch_optim(settings: dict[str, Any], oracle: Any, shape: tuple[int, ...]) -> None:
    training = _training(**settings)
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(shape, generator=generator)
    theirs = first.clone().requires_grad_()
    optimizer = oracle([theirs])
    ours = [first.clone()]
    moments = [[torch.zeros(shape)] for _ in range(num_moments(training))]
    for step in range(1, 21):
        gradient = torch.randn(shape, generator=generator) * 10.0 ** (step % 4 - 2)
        theirs.grad = gradient.clone()
        optimizer.step()
        kept = gradient.clone()
        optimizer_step(training, LR, step, ours, [gradient], moments)
        assert torch.equal(gradient, kept)
        np.testing.assert_allclose(ours[0].numpy(), theirs.detach().numpy(), rtol=2e-6, atol=2e-6)


def _training(**settings: Any) -> Training:
    from wardround.decoding import decode

    return decode(Training, settings)
