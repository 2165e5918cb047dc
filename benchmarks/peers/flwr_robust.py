"""flwr's strategies on the vectors of ``updates.py``: ``aggregate_train`` on replies, each of one array.

In flwr's favour: replies are ready-made (its strategies consume them, so they are made anew for each call, outside the
clock), all of a model is one array, and no message is logged. Inside the clock is what flwr does with a reply to
aggregate it, which includes reading the array out of the bytes that it is held as.
"""

import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from flwr.supercore.task_identity import TaskIdentity
from updates import arguments, num_byzantine, time_cases

CASES = ("median", "trimmed_mean", "krum", "multi_krum", "bulyan")


def replies(rows):
    found = []
    for node, row in enumerate(rows, start=1):
        content = RecordDict(
            {"arrays": ArrayRecord({"model": Array(row)}), "metrics": MetricRecord({"num-examples": 100})}
        )
        found.append(Message(content, reply_to=Message(RecordDict(), node, "train")))
    return found


def strategy(case, n):
    f = num_byzantine(case, n)
    if case == "median":
        return FedMedian()
    if case == "trimmed_mean":
        return FedTrimmedAvg(beta=(f + 0.5) / n)  # which cuts f at either end, whatever rounding does
    if case == "krum":
        return Krum(num_malicious_nodes=f)
    if case == "multi_krum":
        return MultiKrum(num_malicious_nodes=f, num_nodes_to_select=n - f)
    return Bulyan(num_malicious_nodes=f)


def step(case, n):
    def aggregate(messages):
        arrays, _ = strategy(case, n).aggregate_train(1, messages)
        return next(iter(arrays.values())).numpy()

    return aggregate


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # no message is made without
    args = arguments(CASES)
    time_cases("flwr", args, replies, {case: step(case, args.n) for case in args.cases})
