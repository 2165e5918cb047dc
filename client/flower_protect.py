"""Secure aggregation for any Flower app: what it trains and measures leaves the node masked, and nothing else does."""

import logging
import math
from collections.abc import Callable

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from wardround import _flower
from wardround.client.guard.enrolment_folder import EnrolmentFolder
from wardround.client.guard.guard import SiteGuard
from wardround.client.trainer.bundle import foreign_code
from wardround.errors import LocalError, RemoteError, WardroundError
from wardround.orders import EvalJob, LocalResult, Order, OrderKind
from wardround.plan import Plan
from wardround.strategies.flower_replies import GlobalModel
from wardround.strategies.protection import MESSAGE_TYPES
from wardround.strategies.secagg.flower_plan import digest_of_arrays, digest_of_records, own_records
from wardround.strategies.secagg.messages import Refusal, decode
from wardround.tally import MeansSpec, Tally, decode_spec

__all__ = ["protect"]

_log = logging.getLogger("flwr")
_EXAMPLES = "num-examples"
_KINDS = (OrderKind.FIT, OrderKind.EVALUATE)


def protect(app: ClientApp, guard: EnrolmentFolder | Callable[[Context], EnrolmentFolder]) -> ClientApp:
    """`app` behind secure aggregation: `app = protect(app, EnrolmentFolder("/srv/wardround"))`.

    `guard` is the folder of this node's site, or makes it from the context: where one machine plays many nodes, each
    has a folder of its own. The server runs a `MaskingStrategy` under the plan that the site has approved.

    Of a reply to training the update leaves (its floating-point arrays - the message's), clipped, weighted, encoded and
    masked; of metrics those that the plan names, as sums in the same masks. What is asked without a round of the
    protocol, under another plan, or with another model, configuration or run configuration than the round is about, is
    refused, and `app` never sees it; so is every kind of message but training, evaluation and the protocol's own. Of an
    error in `app` the server learns that there was one.

    What protects is this code: it holds as long as the node runs the app that the site has read.
    """
    protected = ClientApp()

    def folder(context: Context) -> EnrolmentFolder:
        return guard if isinstance(guard, EnrolmentFolder) else guard(context)

    def answered(message: Message, context: Context, answer: Callable[[Plan, SiteGuard], bytes]) -> Message:
        try:
            with folder(context).guard() as (plan, site):
                return _flower.reply(message, answer(plan, site))
        except WardroundError as error:
            _log.warning("secure aggregation: %s", error)
            return _flower.error_reply(message, error)

    def ordered(message: Message, context: Context) -> Message:
        return answered(message, context, lambda plan, site: _ordered(app, plan, site, message, context))

    @protected.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return _flower.hello_reply(message, folder(context).site)

    @protected.query("secagg")
    def protocol(message: Message, context: Context) -> Message:
        return answered(message, context, lambda _, site: _told(site.answer(_flower.read_protocol(message))))

    @protected.train()
    def train(message: Message, context: Context) -> Message:
        return ordered(message, context)

    @protected.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return ordered(message, context)

    return protected


def _told(answer: bytes) -> bytes:
    """The answer to a message of the protocol; the node's log has what it refuses."""
    if answer and isinstance(refusal := decode(answer), Refusal):
        _log.warning("secure aggregation: refused: %s", refusal.reason)
    return answer


def _ordered(app: ClientApp, plan: Plan, site: SiteGuard, message: Message, context: Context) -> bytes:
    """The masked answer to a message that orders training or evaluation."""
    order, start = Order.decode(_flower.read_order(message)), _flower.read_protocol(message)
    spec, records = _flower.read_spec(message), own_records(message.content)
    _check(site, plan, order, message, digest_of_arrays(records), digest_of_records(records, context.run_config))
    if not start:
        raise RemoteError(f"{site.site}: expected a round of secure aggregation, got a plain message")
    counted = decode_spec(spec)
    if not isinstance(counted, MeansSpec) or not set(counted.names) <= set(plan.protection.metrics):
        raise RemoteError(f"{site.site}: expected metrics of {list(plan.protection.metrics)}, got others")
    sent = site.begin(order, start, spec)
    if sent is not None:
        return sent
    job = site.admit(order)
    try:
        model = GlobalModel.of(_only_arrays(message))  # before the app can change it
        with foreign_code(f"{site.site}: the Flower app's {order.kind}"):
            reply = app(_flower.bare_request(message, records), context)
        if not isinstance(reply, Message) or not reply.has_content():
            raise ValueError("expected content in the Flower app's reply")
        update = None if isinstance(job, EvalJob) else model.update(_only_arrays(reply))
        examples, tally = _counted(reply, counted, needed=update is None or plan.cohort.weight_cap is not None)
    except (ValueError, WardroundError) as error:
        raise site.failure(LocalError(f"{site.site}: {error}")) from error
    result = tally if update is None else LocalResult(update=update, num_examples=examples, tally=tally)
    return site.release(order, result, spec)


def _check(site: SiteGuard, plan: Plan, order: Order, message: Message, arrays: str, records: str) -> None:
    """Raises RemoteError unless the order is about this message, and of the run whose rounds are counted here.

    Rounds have no second attempts: what is charged is one sum for each.
    """
    if order.run_id != plan.digest:
        raise RemoteError(f"{site.site}: expected an order of run {plan.digest[:12]}, got one of {order.run_id[:12]!r}")
    if order.kind not in _KINDS or MESSAGE_TYPES[order.kind] != message.metadata.message_type:
        raise RemoteError(f"{site.site}: expected an order for {message.metadata.message_type}, got {order.kind}")
    if order.attempt:
        raise RemoteError(f"{site.site}: expected a round without attempts, got attempt {order.attempt}")
    if (order.model_digest, order.records_digest) != (arrays, records):
        raise RemoteError(
            f"{site.site}: expected the records and the run's configuration whose digest is in the order, got others"
        )


def _counted(reply: Message, spec: MeansSpec, *, needed: bool) -> tuple[int, Tally]:
    """How many examples there were, and the sums over them of what `spec` names: nothing is counted unasked.

    Raises ValueError for a reply that does not say, where that is `needed`.
    """
    metrics = _flower.read_metrics(reply.content)
    examples = metrics.get(_EXAMPLES)
    if not needed and not spec.names:
        return 1, Tally.empty(spec)
    if not isinstance(examples, int) or examples < 1:
        raise ValueError(f"expected a number of {_EXAMPLES!r} of at least 1 in the Flower app's reply")
    sums = {}
    for name in spec.names:
        value = metrics.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"expected a finite number {name!r} in the Flower app's reply")
        sums[name] = value * examples
    return examples, Tally.of_means(examples, sums) if sums else Tally.empty(spec)


def _only_arrays(message: Message) -> ArrayRecord:
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise ValueError(f"expected one ArrayRecord, got {len(records)}")
    return records[0]
