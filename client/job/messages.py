"""What an agent and its job tell each other over their local channel: one request at a time, and its answer.

    request     fields                                    answer
    start       root, readable, confined, limits          done
    describe    plan, folder, digest, site, file, format  rows, train, patients
    statistics                                            tally
    fit         order, seed; shared: model, state         num_examples, tally; shared: update, state
    evaluate    order; shared: model, state               tally

An answer may be an error instead. `state` is what the site keeps between rounds; only the job understands it. The agent
does not trust a job, whose process has run the plan's code: whatever it answers is checked.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np

from wardround.errors import RemoteError
from wardround.orders import Order
from wardround.plain_text import plain_text
from wardround.tally import Tally, decode_spec, encode_spec

__all__ = ["decode_order", "decode_tally", "encode_order", "encode_tally", "fault_in", "number_in"]

_MOST_ROWS = 1 << 40


def encode_order(order: Order) -> str:
    return b64encode(order.encode()).decode()


def decode_order(text: str) -> Order:
    """The inverse of `encode_order`. Raises RemoteError for anything else."""
    return Order.decode(b64decode(text))


def encode_tally(tally: Tally) -> dict[str, Any]:
    return {"spec": encode_spec(tally.spec).decode(), "counts": [int(count) for count in tally.counts]}


def decode_tally(header: Mapping[str, Any]) -> Tally:
    """The tally in an answer. Raises RemoteError for anything else."""
    try:
        table = header["tally"]
        return Tally(decode_spec(table["spec"].encode()), np.array(table["counts"], dtype=np.int64))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise RemoteError("job: expected a tally") from None


def number_in(header: Mapping[str, Any], name: str) -> int:
    """A number of rows in an answer. Raises RemoteError for anything else."""
    value = header.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_ROWS:
        raise RemoteError(f"job: expected {name} to be a number of rows")
    return value


def fault_in(header: Mapping[str, Any]) -> str | None:
    """The error that an answer is, in one line; None for any other answer."""
    error = header.get("error")
    return None if error is None else plain_text(str(error), 2000) or "it failed"
