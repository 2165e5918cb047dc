"""What the audit log of a site says of the server's calls: each that was answered, and refusals without repetition."""

import hashlib

from wardround.audit.log import AuditLog
from wardround.audit.record import Entry
from wardround.errors import RemoteError
from wardround.link.messages import Call, Fault, Reply
from wardround.plain_text import plain_text

__all__ = ["CallRecords"]

_PROTOCOL = "query.secagg"
_MOST_KNOWN = 1000


class CallRecords:
    """Writes to `log`. A server that is refused again and again fills no disk: the same refusal is written once, and
    after a thousand kinds of them one record says that there are more, until the agent is started again."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._known: set[tuple[str, str, int, str]] = set()

    def answered(self, call: Call, digest: bytes, reply: Reply) -> None:
        """Write down the reply to the call with this digest: what was asked, and the digest of what leaves."""
        if reply.fault is not Fault.NONE:
            self.refused(call, reply)
            return
        detail = {"kind": plain_text(call.kind, 80), "call": digest.hex()}
        if reply.frame_digest is not None:
            detail["reply"] = reply.frame_digest.hex()
        if call.kind == _PROTOCOL:
            entry = Entry(kind="protocol.answered", subject=call.run, detail=detail)
        else:
            entry = Entry(kind="round.answered", subject=call.run, detail=detail | _order_of(call))
        self._log.append([entry])

    def refused(self, call: Call, reply: Reply) -> None:
        """Write down that a call was not answered, and what the server was told of it."""
        key = plain_text(call.run, 80), plain_text(call.kind, 80), int(reply.fault), reply.reason
        if key in self._known or len(self._known) > _MOST_KNOWN:
            return
        self._known.add(key)
        if len(self._known) > _MOST_KNOWN:
            self._log.add("refusals.unlisted", most=_MOST_KNOWN)
            return
        run, kind, fault, reason = key
        self._log.add("call.refused", run, call=kind, fault=Fault(fault).name.lower(), reason=plain_text(reason, 500))


def _order_of(call: Call) -> dict[str, object]:
    """Round, and SHA-256 of the order and, where it is known, of the model."""
    from wardround.orders import Order  # numpy, which a run that answers has loaded

    found: dict[str, object] = {"order": hashlib.sha256(call.order).hexdigest()}
    if call.model_digest is not None:
        found["model"] = call.model_digest.hex()
    try:
        order = Order.decode(call.order)
        return {"round": order.round, "attempt": order.attempt} | found
    except RemoteError:
        return found
