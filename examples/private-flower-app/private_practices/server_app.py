"""What the server runs. Privacy is the one line that wraps the strategy."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from private_practices.task import CLIP_NORM, accuracy, initial_arrays, public_rows
from wardround.strategies.privacy.flower_strategy import PrivateStrategy

app = ServerApp()


def judge(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """On the server's own rows: an evaluation at the practices would leave them in clear."""
    return MetricRecord({"accuracy": accuracy(arrays, *public_rows())})


@app.main()
def main(grid: Grid, context: Context) -> None:
    rounds, practices = context.run_config["num-server-rounds"], context.run_config["num-practices"]
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=practices, min_available_nodes=practices)
    if context.run_config["private"]:
        strategy = PrivateStrategy(
            strategy, population=practices, rounds=rounds, epsilon=context.run_config["epsilon"], clip_norm=CLIP_NORM
        )

    result = strategy.start(grid=grid, initial_arrays=initial_arrays(), num_rounds=rounds, evaluate_fn=judge)
    print(f"accuracy {result.evaluate_metrics_serverapp[rounds]['accuracy']:.3f}")
    if isinstance(strategy, PrivateStrategy):
        print(strategy.claim().words())
