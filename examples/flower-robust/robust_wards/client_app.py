"""What a hospital runs, and what one that attacks does."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from robust_wards.task import accuracy, load_data, train

app = ClientApp()


def flipped(sent: ArrayRecord, trained: ArrayRecord) -> ArrayRecord:
    """The attack: five times the update, in the other direction."""
    return ArrayRecord(
        {name: Array(old.numpy() - 5 * (trained[name].numpy() - old.numpy())) for name, old in sent.items()}
    )


@app.train()
def fit(msg: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    x, y, *_ = load_data(partition, context.node_config["num-partitions"])
    sent = msg.content["arrays"]
    trained = train(sent, x, y, context.run_config["learning-rate"])
    if partition < context.run_config["attackers"]:
        trained = flipped(sent, trained)
    metrics = MetricRecord({"train_acc": accuracy(trained, x, y), "num-examples": len(y)})
    return Message(content=RecordDict({"arrays": trained, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    *_, x, y = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    metrics = MetricRecord({"eval_acc": accuracy(msg.content["arrays"], x, y), "num-examples": len(y)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
