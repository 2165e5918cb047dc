"""The workload's models in torch, for the peers."""

import torch
from torch import nn
from torch.nn import functional


class Logistic(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(30, 2)

    def forward(self, x):
        return self.fc(x)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(30, 64)
        self.fc2 = nn.Linear(64, 32)
        self.fc3 = nn.Linear(32, 2)

    def forward(self, x):
        return self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(64 * 14 * 14, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        x = functional.max_pool2d(x, 2).flatten(1)
        return self.fc2(functional.relu(self.fc1(x)))


MODELS = {"mlp": MLP, "logistic": Logistic, "cnn": CNN}


def build(name, parameters):
    """The model with the workload's first weights."""
    model = MODELS[name]()
    state = {key: torch.from_numpy(value) for key, value in parameters.items()}
    model.load_state_dict(state)
    return model


@torch.no_grad()
def loss_on(model, x, y):
    """Mean cross-entropy of the model on numpy arrays."""
    model.eval()
    total = 0.0
    for start in range(0, len(x), 500):
        outputs = model(torch.from_numpy(x[start : start + 500]))
        total += float(functional.cross_entropy(outputs, torch.from_numpy(y[start : start + 500]), reduction="sum"))
    return total / len(x)
