"""The client of the workload for flwr: imported by name in Ray's workers, data and model made once in each."""

import functools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from models import build
from torch.nn import functional
from workload import WORKLOADS, client_data, initial_parameters

app = ClientApp()


@functools.cache
def prepared():
    """Once a worker: batches of every client as tensors, and one model whose weights are overwritten."""
    torch.set_num_threads(int(os.environ["BENCHMARK_THREADS"]))
    workload = WORKLOADS[os.environ["BENCHMARK_MODEL"]]
    x, y = (torch.from_numpy(array) for array in client_data(workload))
    size = workload.batch_size
    batches = [list(zip(x[c].split(size), y[c].split(size), strict=True)) for c in range(workload.clients)]
    return workload, build(workload.name, initial_parameters(workload)), batches


@app.train()
def train(message, context):
    workload, model, clients = prepared()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.learning_rate)
    for x, y in clients[int(context.node_config["partition-id"]) % workload.clients]:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(value.detach().numpy()) for name, value in model.state_dict().items()}),
            "metrics": MetricRecord({"num-examples": workload.samples}),
        }
    )
    return Message(content=content, reply_to=message)
