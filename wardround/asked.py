"""What a server may ask under a plan: the orders of one that keeps to it, and as many.

Who may ask for any evaluation of any model learns single rows by it. A server that was restarted asks some things
again, so a little more than the plan's own number is answered.
"""

import hashlib
import json
from functools import lru_cache

from wardround.orders import Order, OrderKind, Split
from wardround.plan import Plan
from wardround.plan_sections import Standardize
from wardround.state_store import StateStore

__all__ = ["ATTEMPTS", "TRIES", "asked_fault", "evaluation_fault"]

ATTEMPTS = 1 << 16
"""More than any round has."""
TRIES = 16
"""At one round, each of which may give another model to evaluate: masks are not used twice, sites miss deadlines."""


def asked_fault(plan: Plan, order: Order) -> str:
    """Why no server that keeps to the plan sends `order`, or an empty string. How often it came is not looked at."""
    last, at = plan.rounds, f"{order.round}.{order.attempt}"
    if order.kind is OrderKind.FIT:
        # under privacy every try counts as a round, since each is charged
        if not 1 <= order.round <= order.round + (order.attempt if plan.privacy.on else 0) <= last:
            return f"expected a round of 1 to {last}, got {at}"
        most = ATTEMPTS if plan.privacy.on else TRIES if plan.protection.on else 1
        return "" if order.attempt < most else f"expected an attempt below {most}, got {at}; begin a new run"
    if order.kind is OrderKind.STATISTICS:
        if plan.data.standardize is not Standardize.FEDERATED:
            return 'expected no request for statistics, since data.standardize is not "federated"'
        return f"expected statistics before the first round, once, got {at}" if order.round or order.attempt else ""
    if order.split is Split.TRAIN:
        return "expected an evaluation of rows that were held out, got one of those that are trained on"
    if order.attempt or order.round > last:
        return f"expected an evaluation after a round of at most {last}.0, got {at}"
    first = plan.task.flower_app is not None and order.round == 0  # a Flower strategy may ask about its first model
    if order.split is Split.VALIDATION and not (first or plan.validates(order.round)):
        return f"expected no evaluation after round {order.round}, since the plan has none there (evaluation.every)"
    return ""


def evaluation_fault(store: StateStore, plan: Plan, order: Order) -> str:
    """Empty where this evaluation is the last one again, or one more that the plan has: then it is counted, durably.

    Else why it is not answered. On test rows a run has one.
    """
    key, name = f"{order.run_id}/evaluated/{order.split}", _name(order)
    stored = store.get(key)
    at, models, last = (0, 0, "") if stored is None else json.loads(stored)
    if name == last:
        return ""
    if order.split is Split.VALIDATION:
        if order.round < at:
            return f"expected an evaluation after round {at} or later, got one after {order.round}"
        models = models if order.round == at else 0
    if models >= TRIES:
        return f"expected at most {TRIES} models in one evaluation of {order.split} rows, got another; begin a new run"
    store.put(key, json.dumps([order.round, models + 1, name]).encode())
    return ""


@lru_cache(maxsize=16)
def _name(order: Order) -> str:
    """By all that it asks: the model, and what rows are standardised with. A simulation asks all sites the same."""
    return hashlib.sha256(order.encode()).hexdigest()
