"""The workload through pfl-research, as its own benchmarks run it: SimulatedBackend and FederatedAveraging.

In pfl's favour: every client's data are tensors, and its Dataset (with the batches that pfl caches in it) is made
once; evaluation runs in the first round only. Two workers run as pfl's guide says, one process each over
torch.distributed (``--workers 2``); both are counted.
"""

import argparse
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import Rounds, adopt_orphans, show
from workload import LOSS_ROUND, WORKLOADS, client_data, initial_parameters, probe


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(WORKLOADS), required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="torch threads a process")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def start_other_workers(count):
    """Ranks 1.. as children of this process, which is rank 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["PFL_WORKER_ADDRESSES"] = ",".join([f"127.0.0.1:{port}"] * count)
    os.environ["PFL_WORKER_RANK"] = "0"
    return [
        subprocess.Popen(
            [sys.executable, *sys.argv], env={**os.environ, "PFL_WORKER_RANK": str(rank)}, stdout=subprocess.DEVNULL
        )
        for rank in range(1, count)
    ]


def main():
    args = parse()
    workload = WORKLOADS[args.model]
    adopt_orphans()
    others = []
    if args.workers > 1 and "PFL_WORKER_RANK" not in os.environ:
        others = start_other_workers(args.workers)

    import numpy as np
    import torch
    from models import MODELS, build, loss_on
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel
    from torch.nn import functional

    torch.set_num_threads(args.threads)
    np.random.seed(1)  # pfl samples with numpy's global generator, alike on all workers
    torch.manual_seed(1)

    class Module(MODELS[args.model]):
        def loss(self, x, y):
            return functional.cross_entropy(self(x), y)

        def metrics(self, x, y):
            return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}

    MODELS[args.model] = Module
    x, y = client_data(workload)
    tensors = torch.from_numpy(x), torch.from_numpy(y)

    @functools.cache
    def dataset(user):
        return Dataset([tensors[0][user], tensors[1][user]], user_id=str(user))

    def federated():
        sampler = get_user_sampler("minimize_reuse", list(range(workload.clients)))
        return FederatedDataset(dataset, sampler)

    module = build(args.model, initial_parameters(workload))
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    snapshot = build(args.model, initial_parameters(workload))
    rounds = Rounds()

    class Boundary(TrainingProcessCallback):
        def on_train_begin(self, *, model):
            rounds.boundary()
            return Metrics()

        def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
            rounds.boundary()
            if central_iteration + 1 == LOSS_ROUND:
                snapshot.load_state_dict(module.state_dict())
            return False, Metrics()

    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=args.warmup + args.rounds,
            evaluation_frequency=1_000_000,
            train_cohort_size=workload.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=federated(), val_data=federated()),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=workload.learning_rate,
            local_batch_size=workload.batch_size,
        ),
        callbacks=[Boundary()],
        send_metrics_to_platform=False,
    )
    if os.environ.get("PFL_WORKER_RANK", "0") == "0":
        figures = rounds.report("pfl", args.model, args.warmup, workers=args.workers, threads=args.threads)
        show({**figures, "loss": loss_on(snapshot, *probe(x, y))}, as_json=args.json)
    for other in others:
        other.wait()


if __name__ == "__main__":
    main()
