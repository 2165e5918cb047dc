"""What the server runs. Robust aggregation is the one line that makes the strategy."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from robust_wards.task import initial_arrays
from wardround.strategies.robust_strategy import RobustStrategy
from wardround.strategies.rules.median import Median

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_train=1.0)
    if context.run_config["robust"]:
        strategy = RobustStrategy(Median(num_byzantine=1), fraction_train=1.0)

    result = strategy.start(
        grid=grid, initial_arrays=initial_arrays(), num_rounds=context.run_config["num-server-rounds"]
    )
    last = max(result.evaluate_metrics_clientapp)
    print(f"accuracy {result.evaluate_metrics_clientapp[last]['eval_acc']:.3f}")
    if isinstance(strategy, RobustStrategy):
        for line in strategy.reports[last].lines:
            print(f"node {line.members[0]}: {line.verdict}, cosine to the aggregate {line.cosine:.2f}")
