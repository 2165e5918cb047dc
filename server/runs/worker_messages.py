"""What the server and the worker of a run tell each other over their local channel.

    server to worker                            worker to server
    start        what to do, and the secrets    ready    the rounds that are durable
    reply        of a site, its frame shared    call     what a site is asked, its model shared once
    pause, resume, stop                         cancel   nobody waits for replies any more
    revocations  the newest list                forget   a model is not sent again
    away         sites that are not there
                                                round    a round is durable
                                                alive    it waits for sites, or computes
                                                ended    how the worker ends

Secrets travel here alone: neither the command line nor the environment of a worker holds one.
"""

import math
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from wardround.errors import RemoteError
from wardround.link.messages import Fault
from wardround.orders import SiteId
from wardround.plain_text import plain_text

__all__ = [
    "CallMessage",
    "Ended",
    "ReplyMessage",
    "RunPart",
    "Start",
    "b64",
    "cancelled",
    "forgotten",
    "is_plain",
    "sites_away",
    "unb64",
]

_MOST_REASON = 4096
_MOST_NUMBER = 1 << 63


def b64(data: bytes | memoryview) -> str:
    """Bytes as text of a header."""
    return b64encode(data).decode()


def unb64(text: object) -> bytes:
    """The inverse of `b64`. Raises RemoteError for anything else."""
    if isinstance(text, str):
        try:
            return b64decode(text, validate=True)
        except ValueError:
            pass
    raise RemoteError("local channel: expected bytes as base64")


def _field(header: Mapping[str, Any], name: str, *kinds: type) -> Any:
    value = header.get(name)
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)) and is_plain(value):
        return value
    raise RemoteError(f"local channel: expected {plain_text(name, 40)} to be {kinds[0].__name__}")


def is_plain(value: object) -> bool:
    """Whether a database and a page can hold a value: JSON may have huge numbers, infinite ones, and half letters."""
    if isinstance(value, int):
        return -_MOST_NUMBER < value < _MOST_NUMBER
    if isinstance(value, float):
        return math.isfinite(value)
    try:
        return not isinstance(value, str) or value.encode() is not None
    except UnicodeEncodeError:
        return False


def cancelled(header: Mapping[str, Any]) -> list[int]:
    """The numbers of the calls that a `cancel` is about. Raises RemoteError for anything else."""
    numbers = header.get("ids")
    if not isinstance(numbers, list) or not all(type(one) is int for one in numbers):
        raise RemoteError("local channel: expected the numbers of calls")
    return numbers


def sites_away(header: Mapping[str, Any]) -> frozenset[SiteId]:
    """The sites that an `away` is about. Raises RemoteError for anything else."""
    sites = header.get("sites")
    if not isinstance(sites, list) or not all(isinstance(one, str) for one in sites):
        raise RemoteError("local channel: expected the names of sites")
    return frozenset(map(SiteId, sites))


def forgotten(header: Mapping[str, Any]) -> int:
    """The number of the model that a `forget` is about. Raises RemoteError for anything else."""
    number: int = _field(header, "model", int)
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPart:
    """A site of a run: the key that it signs with, and how many patients or rows it said that it has."""

    name: SiteId
    public: bytes
    units: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a worker is given: the run, its plan, where to work, and the keys. `known_round`: the server knows of it.

    `code_files` are digests: the server never has the plan's code in a worker. `first_blob` is the first model's name
    in the folder `models`; `layout` has the names and shapes of its tensors. `identity_authority` and `revocations` are
    DER. The worker shows every `pulse_s` that it is not stuck.
    """

    run_id: str
    plan_toml: str
    code_files: tuple[tuple[str, str], ...]
    plan_digest: str
    created: str
    folder: str
    models: str
    first_blob: str
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    spec: str
    sites: tuple[RunPart, ...]
    identity_authority: bytes
    revocations: bytes
    known_round: int
    pulse_s: float
    signing_secret: bytes = field(repr=False)
    data_key: bytes = field(repr=False)

    def to_header(self) -> dict[str, Any]:
        """The header of the message."""
        return {
            "type": "start",
            "run_id": self.run_id,
            "plan_toml": self.plan_toml,
            "code_files": [list(one) for one in self.code_files],
            "plan_digest": self.plan_digest,
            "created": self.created,
            "folder": self.folder,
            "models": self.models,
            "first_blob": self.first_blob,
            "layout": [[name, list(shape)] for name, shape in self.layout],
            "spec": self.spec,
            "sites": [{"name": one.name, "public": b64(one.public), "units": one.units} for one in self.sites],
            "identity_authority": b64(self.identity_authority),
            "revocations": b64(self.revocations),
            "known_round": self.known_round,
            "pulse_s": self.pulse_s,
            "signing_secret": b64(self.signing_secret),
            "data_key": b64(self.data_key),
        }

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Self:
        """The inverse of `to_header`. Raises RemoteError for anything else."""
        try:
            return cls(
                **{
                    name: _field(header, name, str)
                    for name in ("run_id", "plan_toml", "plan_digest", "created", "folder", "models", "first_blob")
                },
                spec=_field(header, "spec", str),
                code_files=tuple((str(path), str(digest)) for path, digest in header["code_files"]),
                layout=tuple((str(name), tuple(map(int, shape))) for name, shape in header["layout"]),
                sites=tuple(
                    RunPart(name=SiteId(str(one["name"])), public=unb64(one["public"]), units=one["units"])
                    for one in header["sites"]
                ),
                identity_authority=unb64(header["identity_authority"]),
                revocations=unb64(header["revocations"]),
                known_round=_field(header, "known_round", int),
                pulse_s=float(_field(header, "pulse_s", float, int)),
                signing_secret=unb64(header["signing_secret"]),
                data_key=unb64(header["data_key"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise RemoteError("local channel: expected the start of a run") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMessage:
    """What a site is asked. `model` numbers the shared model, which comes with the first call that names it.

    `large` says that the protocol message, which is large, is shared too, as the last piece.
    """

    id: int
    site: SiteId
    kind: str
    order: bytes
    protocol: bytes
    spec: bytes
    signature: bytes
    model: int | None
    model_digest: bytes | None
    timeout_s: float
    most_bytes: int
    large: bool = False

    def to_header(self) -> dict[str, Any]:
        """The header of the message."""
        return {
            "type": "call",
            "id": self.id,
            "site": self.site,
            "kind": self.kind,
            "order": b64(self.order),
            "protocol": "" if self.large else b64(self.protocol),
            "spec": b64(self.spec),
            "signature": b64(self.signature),
            "model": self.model,
            "model_digest": None if self.model_digest is None else b64(self.model_digest),
            "timeout_s": self.timeout_s,
            "most_bytes": self.most_bytes,
            "large": self.large,
        }

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Self:
        """The inverse of `to_header`, without what is shared. Raises RemoteError for anything else."""
        model, digest = header.get("model"), header.get("model_digest")
        return cls(
            id=_field(header, "id", int),
            site=SiteId(_field(header, "site", str)),
            kind=_field(header, "kind", str),
            order=unb64(header.get("order")),
            protocol=unb64(header.get("protocol")),
            spec=unb64(header.get("spec")),
            signature=unb64(header.get("signature")),
            model=None if model is None else _field(header, "model", int),
            model_digest=None if digest is None else unb64(digest),
            timeout_s=float(_field(header, "timeout_s", float, int)),
            most_bytes=_field(header, "most_bytes", int),
            large=_field(header, "large", bool),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyMessage:
    """What came of a call: a site's reply, or that there is none (`lost`) and why. The frame is shared.

    `lost` with the fault REFUSED: there will never be one, for the site is not called any more.
    """

    id: int
    fault: Fault = Fault.NONE
    reason: str = ""
    signature: bytes = b""
    lost: bool = False

    def to_header(self) -> dict[str, Any]:
        """The header of the message."""
        return {
            "type": "reply",
            "id": self.id,
            "fault": int(self.fault),
            "reason": self.reason[:_MOST_REASON],
            "signature": b64(self.signature),
            "lost": self.lost,
        }

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Self:
        """The inverse of `to_header`. Raises RemoteError for anything else."""
        try:
            fault = Fault(_field(header, "fault", int))
        except ValueError:
            raise RemoteError("local channel: expected a known fault") from None
        return cls(
            id=_field(header, "id", int),
            fault=fault,
            reason=_field(header, "reason", str),
            signature=unb64(header.get("signature")),
            lost=_field(header, "lost", bool),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a worker ends: `finished`, `stopped`, `paused` or `failed`, and why.

    `blob` is the released model's name in the folder of models, `sha256` of what is in it; only of a finished run.
    """

    state: str
    reason: str = ""
    round: int = 0
    blob: str | None = None
    sha256: bytes | None = None
    released_round: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_header(self) -> dict[str, Any]:
        """The header of the message."""
        return {
            "type": "ended",
            "state": self.state,
            "reason": self.reason[:_MOST_REASON],
            "round": self.round,
            "blob": self.blob,
            "sha256": None if self.sha256 is None else b64(self.sha256),
            "released_round": self.released_round,
            "metrics": dict(self.metrics),
        }

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Self:
        """The inverse of `to_header`. Raises RemoteError for anything else."""
        blob, sha256 = header.get("blob"), header.get("sha256")
        state, metrics = _field(header, "state", str), _field(header, "metrics", dict)
        known = state in ("finished", "stopped", "paused", "failed") and all(map(is_plain, metrics))
        if not known or (blob is None) != (sha256 is None):
            raise RemoteError("local channel: expected how a worker ends")
        return cls(
            state=state,
            reason=_field(header, "reason", str),
            round=_field(header, "round", int),
            blob=None if blob is None else _field(header, "blob", str),
            sha256=None if sha256 is None else unb64(sha256),
            released_round=_field(header, "released_round", int),
            metrics={name: float(_field(metrics, name, float, int)) for name in metrics},
        )
