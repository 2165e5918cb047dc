"""Statistics that sites agreed on before the first round, kept in the run directory: they are asked for once."""

import json
from dataclasses import replace

from flwr.serverapp import Grid

from wardround.decoding import PlanError, decode, encode
from wardround.errors import LocalError
from wardround.orders import Statistics
from wardround.server.runs.run_directory import RunDirectory
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.records import RunState

__all__ = ["agreed"]

_FILE = "statistics.json"


def agreed(directory: RunDirectory, strategy: FederatedStrategy, grid: Grid, state: RunState) -> RunState:
    """`state` with the statistics that `directory` keeps, or those that the sites agree on now.

    Where they were paid for with privacy, they are released once, whatever happens to the first round.
    """
    if state.statistics is not None:
        return state
    path = directory.path / _FILE
    if not path.exists():
        state = strategy.agree_on_statistics(grid, state)
        directory.write_text(_FILE, json.dumps(encode(state.statistics)))
        return state
    try:
        found = decode(Statistics, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, PlanError) as error:
        raise LocalError(f"{path}: expected the statistics of this run ({error}); restore the file") from None
    return replace(state, statistics=found)
