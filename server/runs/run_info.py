"""run.json: which run a directory holds, and what must stay the same when it is continued."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wardround.errors import LocalError
from wardround.plan import Plan, load_plan

__all__ = ["RunInfo", "check_stored_plan", "encode_info", "read_info", "read_stored_plan"]

INFO_FILE = "run.json"
PLAN_FILE = "plan.toml"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """`plan_digest` is that of the stored plan, `source_digest` that of the plan that was given.

    They differ when a relative path had to be rewritten. `engine` is what computed (executor, block_size,
    workers): the same engine gives the same bits. `created` is ISO 8601, UTC. `origin` says of which run this one
    repeats rounds (`run_id`), `without` which sites and `from_round`; None for any other.
    """

    run_id: str
    plan_digest: str
    source_digest: str
    version: str
    created: str
    engine: Mapping[str, Any]
    origin: Mapping[str, Any] | None = None

    @property
    def computed_by(self) -> str:
        """What computed, for people. Not the digest of the rows, which tells whoever knows all but one the last one."""
        shown = ((name, value) for name, value in self.engine.items() if value and name not in ("data", "ledgers"))
        return ", ".join(f"{name} {value}" for name, value in shown)


def encode_info(info: RunInfo) -> bytes:
    """The content of run.json."""
    return json.dumps({"format": _FORMAT} | asdict(info), indent=2).encode() + b"\n"


def read_info(folder: Path) -> RunInfo:
    """What run.json in `folder` says. Raises LocalError when `folder` holds no run."""
    try:
        table = json.loads((folder / INFO_FILE).read_bytes())
    except FileNotFoundError:
        raise LocalError(f"{folder}: expected a run directory, got none with a {INFO_FILE}") from None
    except (OSError, ValueError) as error:
        raise LocalError(f"{folder / INFO_FILE}: cannot be read ({error})") from None
    try:
        if table.pop("format") != _FORMAT:
            raise LocalError(f"{folder / INFO_FILE}: expected format {_FORMAT}; it was made by another wardround")
        info = RunInfo(**table)
        if info.origin is not None and not isinstance(info.origin["from_round"], int):
            raise TypeError(f"origin.from_round {info.origin['from_round']!r}")
        return info
    except (KeyError, TypeError, AttributeError) as error:
        raise LocalError(f"{folder / INFO_FILE}: expected what wardround wrote ({error!r})") from None


def read_stored_plan(folder: Path, info: RunInfo) -> Plan:
    """The plan stored in `folder`. Raises LocalError when it or its code is not what the run was started with."""
    return check_stored_plan(folder, info, load_plan(folder / PLAN_FILE))


def check_stored_plan(folder: Path, info: RunInfo, plan: Plan) -> Plan:
    """`plan`. Raises LocalError unless it is what the run in `folder` was started with."""
    if plan.digest != info.plan_digest:
        raise LocalError(
            f"{folder}: expected the plan and code with digest {info.plan_digest[:12]} that the run was started with, "
            f"got {plan.digest[:12]}; a file was changed or is missing: restore it, or start a new run"
        )
    return plan
