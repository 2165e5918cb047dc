"""The workload through flwr's own simulation engine on Ray: run_simulation, ServerApp, ClientApp, FedAvg.

In flwr's favour: a Ray actor a core, no dashboard and no log forwarding, the client's code importable in the workers
(nothing of it is pickled by value), data and model made once in an actor, no evaluation, and the command line left
out (``flwr run`` starts a SuperLink of its own first). Ray's own processes are counted: they are what a round costs.
"""

import argparse
import logging
import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import Rounds, adopt_orphans, show
from workload import LOSS_ROUND, WORKLOADS, client_data, initial_parameters, probe


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(WORKLOADS), required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="Ray actors")
    parser.add_argument("--threads", type=int, default=1, help="torch threads an actor")
    parser.add_argument("--clients", type=int, help="size of the federation, if not the workload's")
    parser.add_argument("--cohort", type=int, help="clients a round, if not the workload's")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main():
    args = parse()
    workload = WORKLOADS[args.model]
    clients, cohort = args.clients or workload.clients, args.cohort or workload.cohort
    adopt_orphans()
    os.environ["BENCHMARK_MODEL"] = args.model
    os.environ["BENCHMARK_THREADS"] = str(args.threads)
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))

    import flwr_client
    import torch
    from flwr.app import Array, ArrayRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation
    from models import build, loss_on

    if not os.environ.get("BENCHMARK_DEBUG"):
        logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    random.seed(1)
    rounds = Rounds()
    final = {}
    server = ServerApp()

    class BoundedFedAvg(FedAvg):
        """FedAvg that tells when a round ends."""

        def configure_train(self, server_round, arrays, config, grid):
            if server_round == 1:
                rounds.boundary()
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            failed = sum(reply.has_error() for reply in replies)
            if failed or len(replies) != cohort:
                raise RuntimeError(f"flwr: {len(replies)} of {cohort} clients answered, {failed} with an error")
            arrays, metrics = super().aggregate_train(server_round, replies)
            rounds.boundary()
            if server_round == LOSS_ROUND:
                final["state"] = {name: value.numpy() for name, value in arrays.items()}
            return arrays, metrics

    @server.main()
    def serve(grid, context):
        # min_train_nodes too: a fraction alone is taken of the nodes registered before the wait for all of them.
        strategy = BoundedFedAvg(
            fraction_train=cohort / clients,
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=clients,
        )
        first = ArrayRecord({name: Array(value) for name, value in initial_parameters(workload).items()})
        strategy.start(grid=grid, initial_arrays=first, num_rounds=args.warmup + args.rounds)
        # Reported here: when run_simulation has returned, Ray's processes have gone.
        final["report"] = rounds.report("flwr", args.model, args.warmup, workers=args.workers, threads=args.threads)

    run_simulation(
        server_app=server,
        client_app=flwr_client.app,
        num_supernodes=clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {
                "num_cpus": args.workers,
                "include_dashboard": False,
                "log_to_driver": False,
                "logging_level": logging.ERROR,
            },
        },
    )
    loss = float("nan")
    if "state" in final:
        loss = loss_on(build(args.model, final["state"]), *probe(*client_data(workload)))
    show({**final["report"], "loss": loss}, as_json=args.json)


if __name__ == "__main__":
    main()
