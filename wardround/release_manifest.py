"""What a released model says about itself: the manifest that the server signs.

JSON in one form: keys sorted, no spaces, every key that has a value. Another spelling of the same is refused, so that
no byte can change without being noticed. Nothing in it is an update, a row or a secret; how many rows or patients a
single site has is left out, since a model that is passed on does not need it.
"""

import binascii
import json
import re
from base64 import b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from wardround.decoding import PlanError, check_bounds, decode, encode, key
from wardround.errors import RemoteError
from wardround.plain_text import plain_text

__all__ = [
    "MAX_MANIFEST_BYTES",
    "Approval",
    "CoSignature",
    "Evaluation",
    "Manifest",
    "Parent",
    "PrivacyClaim",
    "SiteEvidence",
    "bytes_in",
    "time_in",
    "time_text",
]

MAX_MANIFEST_BYTES = 1 << 24
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The version that this one follows; it need not have been trained from it."""

    name: str = key(doc="its name")
    version: int = key(doc="its version", ge=1)
    sha256: str = key(doc="of its model")

    def __post_init__(self) -> None:
        check_bounds(self)
        _check(self, _DIGEST, "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A site's word that this run of this plan may train on its data; `at` is when the server took it."""

    certificate: str = key(doc="of the site's signing key, DER, base64")
    signature: str = key(doc="over `approval_bytes`, base64")
    at: str = key(doc="ISO 8601, UTC")

    def __post_init__(self) -> None:
        _check_time(self, "at")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoSignature:
    """A site's word that it took part, and that this model is what it was told the run has made.

    `rounds` is in how many it answered; None where the plan's claim rests on nobody's knowing that.
    """

    certificate: str = key(doc="of the site's signing key, DER, base64")
    signature: str = key(doc="over `participation_bytes`, base64")
    at: str = key(doc="when the site signed, ISO 8601, UTC")
    rounds: int | None = key(None, doc="in how many rounds it answered", ge=0)

    def __post_init__(self) -> None:
        check_bounds(self)
        _check_time(self, "at")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteEvidence:
    """What a site of the run has signed."""

    name: str = key(doc="the site's name")
    approval: Approval = key(doc="of the run's plan")
    cosignature: CoSignature | None = key(None, doc="of the model; absent: none had come when it was released")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyClaim:
    """What the rounds have spent by the server's account, with all that its numbers need to mean something."""

    headline: str = key(doc="epsilon, delta, unit and relation in words")
    epsilon: float = key(doc="the bound, as it was accounted for", ge=0)
    delta: float = key(doc="its failure probability", gt=0, lt=1)
    facts: tuple[str, ...] = key((), doc="what the numbers mean")
    assumptions: tuple[str, ...] = key((), doc="what the claim rests on")
    not_covered: tuple[str, ...] = key((), doc="what it does not cover")
    warnings: tuple[str, ...] = key((), doc="for people")

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What the sites counted on rows of their own, as the server added it up."""

    split: str = key(doc="which rows: test or validation")
    rows: int = key(doc="how many, of all sites", ge=0)
    metrics: dict[str, float] = key(doc="by name")
    untested: tuple[str, ...] = key((), doc="sites that did not count, and why")

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is signed of a released model."""

    format: int = key(1, doc="version of this form", ge=1, le=1)
    name: str = key(doc="of the model")
    version: int = key(doc="of that name", ge=1)
    parents: tuple[Parent, ...] = key((), doc="the version before; empty for the first")
    run: str = key(doc="the id of the run that made it")
    run_number: int = key(doc="its number at the server", ge=1)
    plan_digest: str = key(doc="SHA-256 of the plan in the file: what the sites approved")
    model_sha256: str = key(doc="of model.safetensors in the file")
    round: int = key(doc="after which the model was taken", ge=0)
    rounds: int = key(doc="that were done", ge=0)
    void: int = key(doc="of them without enough updates", ge=0)
    stopped: str = key("", doc="why it ended before the planned rounds")
    sites: tuple[SiteEvidence, ...] = key(doc="of the run, by name")
    privacy: PrivacyClaim | None = key(None, doc="what is claimed; absent: nothing")
    evaluation: Evaluation | None = key(None, doc="how good it is; absent: it was not evaluated")
    redteam: str | None = key(None, doc="results of a simulated red team, JSON; absent: there are none")
    software: dict[str, str] = key(doc="of the server, by name")
    made: str = key(doc="when the model was listed, ISO 8601, UTC")
    released_by: str = key(doc="the account that asked for it")

    def __post_init__(self) -> None:
        check_bounds(self)
        _check(self, _DIGEST, "plan_digest", "model_sha256")
        _check(self, _RUN, "run")
        _check_time(self, "made")
        names = [site.name for site in self.sites]
        if names != sorted(set(names)):
            raise PlanError("sites", "each site once, by name")

    def to_bytes(self) -> bytes:
        """The one form of it."""
        return _canonical(encode(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises RemoteError for anything else."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise RemoteError(f"manifest: expected at most {MAX_MANIFEST_BYTES} bytes, got {len(data)}")
        try:
            found = decode(cls, json.loads(data.decode()))
            same = found.to_bytes() == data
        except PlanError as error:
            raise RemoteError(f"manifest.{plain_text(error.path)}: expected {plain_text(error.expected)}") from None
        except (ValueError, RecursionError, OverflowError) as error:
            raise RemoteError(f"manifest: expected JSON of a released model ({plain_text(str(error), 80)})") from None
        if not same:
            raise RemoteError("manifest: expected the one form of its JSON, got another; it was changed")
        return found

    @property
    def model(self) -> str:
        """`NAME@N`."""
        return f"{self.name}@{self.version}"


def time_in(text: str) -> datetime:
    """The time in the manifest's ISO 8601. Raises ValueError for another spelling of it."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None or found.utcoffset() or found.isoformat(timespec="seconds") != text:
        raise ValueError(f"expected ISO 8601 in UTC to the second, got {plain_text(text, 40)!r}")
    return found


def time_text(at: datetime) -> str:
    """The inverse of `time_in`; parts of a second are dropped."""
    return at.astimezone(UTC).isoformat(timespec="seconds")


def bytes_in(text: str, what: str) -> bytes:
    """The bytes in base64 of the manifest. Raises RemoteError naming `what`."""
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RemoteError(f"{plain_text(what)}: expected base64") from None


def _canonical(table: Any) -> bytes:
    text = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _check(instance: Any, pattern: re.Pattern[str], *names: str) -> None:
    for name in names:
        if not pattern.fullmatch(getattr(instance, name)):
            raise PlanError(name, "hexadecimal digits of its length")


def _check_time(instance: Any, *names: str) -> None:
    for name in names:
        try:
            time_in(getattr(instance, name))
        except ValueError:
            raise PlanError(name, "ISO 8601 in UTC to the second") from None
