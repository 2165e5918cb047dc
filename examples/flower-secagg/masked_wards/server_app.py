"""What the server runs. Secure aggregation is the one line that wraps the strategy."""

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from masked_wards.task import initial_arrays
from wardround.strategies.secagg.flower_strategy import MaskingStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(min_train_nodes=5, min_available_nodes=5)
    if context.run_config["protected"]:
        strategy = MaskingStrategy(
            strategy,
            identity=f"{context.run_config['federation']}/server",
            run_config=context.run_config,
            metrics=["eval_acc"],
        )

    result = strategy.start(
        grid=grid, initial_arrays=initial_arrays(), num_rounds=context.run_config["num-server-rounds"]
    )
    last = max(result.evaluate_metrics_clientapp)
    print(f"accuracy {result.evaluate_metrics_clientapp[last]['eval_acc']:.3f}")
    if isinstance(strategy, MaskingStrategy):
        for number, record in strategy.records.items():
            for group in record.groups:
                print(f"round {number}: a sum of {len(group.survivors)} of {len(group.members)} hospitals")
    if context.run_config["out"]:
        np.savez(context.run_config["out"], **{name: array.numpy() for name, array in result.arrays.items()})
