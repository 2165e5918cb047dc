"""What a site allows, whatever is offered to it: its policy, a file that only its own administrator writes.

A rule that is not set allows everything: the policy comes on top of the administrator's approval of every single run,
and of what no policy can switch off (digests, pins under secure aggregation, the ledger).
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

import tomli_w

from wardround.client.guard.hours import is_open, read_window, time_zone
from wardround.decoding import PlanError, check_bounds, decode, encode, key
from wardround.errors import LocalError

__all__ = [
    "RULES",
    "CodeLeave",
    "DataPolicy",
    "EvaluationLeave",
    "PinLeave",
    "Requirement",
    "SitePolicy",
    "parse_policy",
]

_MOST_BYTES = 1 << 20
_MOST_SITES = 10_000
_MOST_IN_A_SUM = 255
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Requirement(StrEnum):
    """A protection that a plan must have."""

    SECURE_AGGREGATION = "secure-aggregation"
    """The server learns sums only."""
    DP = "dp"
    """Differential privacy of some unit."""
    EXAMPLE_LEVEL_DP = "example-level-dp"
    """Of rows or patients: the noise is added at the site."""
    PATIENT_LEVEL_DP = "patient-level-dp"


class EvaluationLeave(StrEnum):
    """What of held-out rows may leave the site."""

    ANY = "any"
    SUMMED = "summed"
    """Only within sums of secure aggregation."""
    NONE = "none"


class CodeLeave(StrEnum):
    ANY = "any"
    NONE = "none"


class PinLeave(StrEnum):
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPolicy:
    """[data.NAME]: what holds for one data set besides; the stricter of two limits counts."""

    max_epsilon: float | None = key(None, doc="largest epsilon that one run may claim on it", gt=0)
    max_delta: float | None = key(None, doc="largest delta of that claim", gt=0, lt=1)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePolicy:
    """What a site allows. Raises PlanError for a value that no plan or no clock could meet."""

    max_epsilon: float | None = key(
        None, doc="largest epsilon that one run may claim; a run without differential privacy claims none", gt=0
    )
    max_delta: float | None = key(None, doc="largest delta of that claim", gt=0, lt=1)
    require: tuple[Requirement, ...] = key((), doc="protections that a plan must have")
    min_sites: int | None = key(
        None,
        doc="fewest updates in whatever the server learns: each sum of secure aggregation; without it, a round that "
        "counts",
        ge=1,
        le=_MOST_SITES,
    )
    pins: PinLeave | tuple[str, ...] = key(
        (), doc="members whose keys must be accepted here, where they take part: `all`, or by name"
    )
    tasks: tuple[str, ...] | None = key(
        None, doc="what may be learned: names of tasks, or `module:attribute` of a bundle's task or Flower app"
    )
    code: CodeLeave | tuple[str, ...] = key(CodeLeave.ANY, doc="code bundles: `any`, `none`, or their digests")
    hours: tuple[str, ...] = key((), doc="when data may be read, e.g. `mon-fri 20:00-06:00`; what comes else, waits")
    time_zone: str | None = key(None, doc="the clock of `hours`, e.g. `Europe/Berlin`")
    min_rows: int | None = key(None, doc="fewest rows of a data set that is trained on", ge=1)
    require_schema: bool = key(False, doc="only data sets that were registered with a schema")
    max_rounds: int | None = key(None, doc="most rounds of one run", ge=1)
    evaluation: EvaluationLeave = key(
        EvaluationLeave.ANY,
        doc="counts and scores of held-out rows that may leave: `any`, `summed` (only in sums), `none`",
    )
    allow_unconfined_jobs: bool = key(
        False, doc="run jobs even where this system cannot take network and keys from them"
    )
    data: dict[str, DataPolicy] = key({}, doc="limits of one data set, by its name")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.tasks is not None and not self.tasks:
            raise PlanError("tasks", "names; to take part in nothing, approve nothing", self.tasks)
        if isinstance(self.code, tuple):
            if not self.code:
                raise PlanError("code", 'digests; "none" for no code at all', self.code)
            for digest in self.code:
                if not _DIGEST.fullmatch(digest):
                    raise PlanError("code", "digests of 64 hexadecimal digits, as plan show prints them", digest)
        for name, listed in (("require", self.require), ("pins", self.pins), ("tasks", self.tasks or ())):
            if isinstance(listed, tuple) and len(set(listed)) != len(listed):
                raise PlanError(name, "every name once", listed)
        self._check_hours()
        if self.min_sites is not None and self.min_sites > _MOST_IN_A_SUM:
            if Requirement.SECURE_AGGREGATION in self.require:
                most = f"at most {_MOST_IN_A_SUM}, the most updates in a sum of secure aggregation, which is required"
                raise PlanError("min_sites", most, self.min_sites)

    def _check_hours(self) -> None:
        if bool(self.hours) != (self.time_zone is not None):
            what = "the clock of hours" if self.hours else "no key without hours"
            raise PlanError("time_zone", what, self.time_zone)
        try:
            for window in self.hours:
                name, got = "hours", window
                read_window(window)
            if self.time_zone is not None:
                name, got = "time_zone", self.time_zone
                time_zone(self.time_zone)
        except ValueError as error:
            raise PlanError(name, str(error), got) from None

    def max_epsilon_of(self, data: str) -> float | None:
        """The largest epsilon of a run on this data set; None where none is set."""
        return _least(self.max_epsilon, self.data[data].max_epsilon if data in self.data else None)

    def max_delta_of(self, data: str) -> float | None:
        return _least(self.max_delta, self.data[data].max_delta if data in self.data else None)

    def limits_claim(self, data: str) -> bool:
        """Whether anything depends on what a run claims on this data set."""
        return self.max_epsilon_of(data) is not None or self.max_delta_of(data) is not None

    def open_at(self, now: datetime) -> bool:
        """Whether data may be read at `now`."""
        return self.time_zone is None or is_open(self.hours, self.time_zone, now)

    def to_toml(self) -> bytes:
        """As a file that `parse_policy` reads; only what is set."""
        default = encode(SitePolicy())
        table = {name: value for name, value in encode(self).items() if value != default.get(name)}
        return tomli_w.dumps(table).encode()

    def stated(self) -> list[tuple[str, str]]:
        """(rule, its value in words) of every rule that is set."""
        default = SitePolicy()
        names = [name for name in RULES if name != "data" and getattr(self, name) != getattr(default, name)]
        found = [(name, _words(getattr(self, name))) for name in names]
        for data, limits in sorted(self.data.items()):
            found += [(f"data.{data}.{name}", _words(value)) for name, value in encode(limits).items()]
        return found


RULES = tuple(field.name for field in fields(SitePolicy))
"""The names of the rules, as refusals give them."""


def parse_policy(text: bytes | Mapping[str, Any]) -> SitePolicy:
    """The policy in a file's bytes, or in a table. Raises LocalError, one line, for anything that is none."""
    try:
        if isinstance(text, bytes):
            if len(text) > _MOST_BYTES:
                raise PlanError("", f"at most {_MOST_BYTES} bytes")
            text = tomllib.loads(text.decode("utf-8-sig"))
        return decode(SitePolicy, text)
    except PlanError as error:
        raise LocalError(f"policy{str(error).removeprefix('plan')}") from None
    except UnicodeDecodeError:
        raise LocalError("policy: expected TOML in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise LocalError(f"policy: expected TOML ({error})") from None


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
