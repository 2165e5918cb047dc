"""What the agent tells the launcher of a job: the program, what it may reach, and how much it may use."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from wardround.client.job.limits import JobLimits
from wardround.errors import RemoteError

__all__ = ["SCRATCH", "Launch"]

SCRATCH = "/job"
"""The working folder of a confined job, as it sees it; the only place where it can write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One start of a job. `channel` and `table` are descriptors that the job inherits, as 3 and 4.

    `arguments` follow `python`. `root` is an empty folder: the job's working folder, or where its file system is put
    together. The table has no name that the job could open: once it closes the descriptor, nothing of it is left.
    `hidden` are folders that it must not see wherever they lie.
    """

    python: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    confined: bool
    root: str
    limits: JobLimits
    channel: int | None = None
    table: int | None = None
    hidden: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """The inverse of `encode`. Raises RemoteError for anything else."""
        try:
            table: dict[str, Any] = json.loads(line)
            lists: dict[str, Any] = {name: tuple(table.pop(name)) for name in ("arguments", "hidden")}
            return cls(limits=JobLimits(**table.pop("limits")), **lists, **table)
        except (ValueError, TypeError, KeyError) as error:
            raise RemoteError(f"launcher: expected what to start ({error})") from None
