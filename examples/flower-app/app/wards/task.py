"""The model, the data and the loops."""

from functools import cache

import torch
from flwr.app import ArrayRecord
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(30)
        self.hidden = nn.Linear(30, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(self.norm(x))))


def initial_arrays() -> ArrayRecord:
    """The model that the first round starts from."""
    torch.manual_seed(0)
    return ArrayRecord(Net().state_dict())


@cache
def all_data() -> TensorDataset:
    x, y = load_breast_cancer(return_X_y=True)
    return TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y))


def load_data(partition_id: int, num_partitions: int) -> tuple[DataLoader, DataLoader]:
    """One partition's rows: 80 % to train on, 20 % to test on."""
    parts = random_split(all_data(), [1 / num_partitions] * num_partitions, torch.Generator().manual_seed(42))
    train, test = random_split(parts[partition_id], [0.8, 0.2], torch.Generator().manual_seed(42))
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(test, batch_size=64)


def train(net: Net, loader: DataLoader, epochs: int, lr: float) -> float:
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    running = 0.0
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            running += loss.item()
    return running / (epochs * len(loader))


def test(net: Net, loader: DataLoader) -> tuple[float, float]:
    net.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            outputs = net(x)
            loss += nn.functional.cross_entropy(outputs, y, reduction="sum").item()
            correct += int((outputs.argmax(1) == y).sum())
    return loss / len(loader.dataset), correct / len(loader.dataset)
