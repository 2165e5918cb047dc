"""A module of the same bundle."""

import torch
from torch import nn


def small_network(inputs: int, seed: int) -> nn.Module:
    """One hidden layer; the same parameters for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, 1))
