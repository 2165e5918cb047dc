"""What a hospital runs. Secure aggregation is the one line at the end."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from masked_wards.task import accuracy, load_data, train
from wardround.client.flower_protect import protect
from wardround.client.guard.enrolment_folder import EnrolmentFolder

plain = ClientApp()


@plain.train()
def fit(msg: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    if partition < context.run_config["lost"] and msg.content["config"]["server-round"] == 2:
        raise RuntimeError("this hospital is out of order")
    x, y, *_ = load_data(partition, context.node_config["num-partitions"])
    trained = train(msg.content["arrays"], x, y, context.run_config["learning-rate"])
    metrics = MetricRecord({"train_acc": accuracy(trained, x, y), "num-examples": len(y)})
    return Message(content=RecordDict({"arrays": trained, "metrics": metrics}), reply_to=msg)


@plain.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    *_, x, y = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    metrics = MetricRecord({"eval_acc": accuracy(msg.content["arrays"], x, y), "num-examples": len(y)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)


def folder(context: Context) -> EnrolmentFolder:
    """The hospital's own folder, by its node's own settings; in a simulation one for each simulated node."""
    own = context.node_config.get("wardround")
    return EnrolmentFolder(own or f"{context.run_config['federation']}/site-{context.node_config['partition-id']}")


app = protect(plain, folder)
