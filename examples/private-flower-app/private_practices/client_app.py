"""What a practice runs. The mod is the one line that clips: the server sees no longer update than that."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from private_practices.task import CLIP_NORM, practice_rows, train
from wardround.client.flower_clip_mod import clip_mod

app = ClientApp(mods=[clip_mod(CLIP_NORM)])


@app.train()
def fit(msg: Message, context: Context) -> Message:
    x, y = practice_rows(context.node_config["partition-id"], context.node_config["num-partitions"])
    trained = train(msg.content["arrays"], x, y, context.run_config["learning-rate"])
    metrics = MetricRecord({"num-examples": len(y)})  # FedAvg asks for it; a PrivateStrategy does not read it
    return Message(content=RecordDict({"arrays": trained, "metrics": metrics}), reply_to=msg)
