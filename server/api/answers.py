"""What every answer has in common: its form, the words for a refusal, and the headers."""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, StringConstraints

__all__ = ["Digest", "Form", "Name", "Problem", "Refusal", "file_of", "refusals", "retry_after"]

_MEANINGS = {
    400: "The request is malformed.",
    401: "There is no session, or it has ended.",
    403: "This account may not do that.",
    404: "There is no such thing.",
    408: "The body comes too slowly.",
    409: "It does not fit what is there.",
    413: "The body is too large.",
    422: "A value is refused.",
    429: "Too many attempts; try again after the time in `Retry-After`.",
    500: "A failure of the server, which is in its log.",
    503: "The server is busy.",
}


class Form(BaseModel):
    """A JSON object with exactly these keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Form):
    """Why a request was refused: one line, for a person."""

    error: str


Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Refusal(HTTPException):
    """Ends a request with `status` and one line."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, text, headers)


def retry_after(wait: timedelta) -> dict[str, str]:
    """The header that says so, in seconds."""
    return {"retry-after": str(max(1, math.ceil(wait.total_seconds())))}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: those that any route may give, and `statuses`."""
    every = sorted({*statuses, 400, 408, 413, 422, 500, 503})
    return {one: {"model": Problem, "description": _MEANINGS[one]} for one in every}


def file_of(media_type: str) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: one that answers with a file."""
    schema = {"type": "string"} if media_type.startswith("text/") else {"type": "string", "format": "binary"}
    return {200: {"content": {media_type: {"schema": schema}}}}
