"""How much work strangers may ask of the enrolment: nobody has proved anything before it is done."""

from datetime import datetime, timedelta

from fastapi.responses import JSONResponse

from wardround.server.api.answers import retry_after
from wardround.server.api.attempts import Attempts, Limit
from wardround.server.api.network import network_of

__all__ = ["EnrolmentLimit"]

_MINUTE = timedelta(minutes=1)
_FROM_NETWORK = Limit(most=30, window=_MINUTE)
"""Several hospitals may have one address, behind a proxy."""
_OF_ALL = Limit(most=600, window=_MINUTE)
"""At about a millisecond each, one hundredth of a core."""


class EnrolmentLimit:
    """At most 30 requests a minute from a network and 600 of all.

    Tokens of 128 bits are not guessed; this bounds what trying costs. Strangers in more than 20 networks can so keep a
    hospital from joining for as long as they go on, and nobody from anything else: an invitation is good for 72 hours.
    """

    def __init__(self) -> None:
        self._attempts = Attempts()

    def refusal(self, address: str, now: datetime) -> JSONResponse | None:
        """The answer 429, in the words of a join, to a request from `address` that is one too many; else None."""
        keys = ((f"from {network_of(address)}", _FROM_NETWORK), ("all", _OF_ALL))
        wait = self._attempts.begin(keys, now)
        if wait is None:
            return None
        headers = retry_after(wait)
        text = f"too many ask to join or leave; try again in {headers['retry-after']} seconds"
        return JSONResponse({"error": "busy", "message": text}, 429, headers)
