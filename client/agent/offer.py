"""What a server offers a site: one run of one plan. Nothing is believed of it but its form; a person decides."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from wardround.errors import RemoteError
from wardround.path_below import is_below
from wardround.plain_text import plain_text

__all__ = ["MemberFacts", "Offer", "check_run_name", "decode_offer"]

_RUN = re.compile(r"[0-9a-f]{32}")
"""All of one length: none is the start of another, which an administrator may have looked at and named by its start."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 1000
_MOST_SITES = 10_000
_MOST_PARAMETERS = 1 << 32
_MOST_TENSORS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFacts:
    """A site of the run, and the fingerprint of its signing key, as the server says."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A run and its plan: TOML, and the files of its code bundle below `code_folder`, which is to be the plan's.

    Nothing of the plan is read here: TOML of a stranger may cost more time than the link has. `tensors` are the sizes
    of the model's tensors, `size` their sum.
    """

    run: str
    plan_digest: str
    plan: str
    code_folder: str | None
    code: Mapping[str, bytes]
    size: int
    tensors: tuple[int, ...]
    sites: tuple[MemberFacts, ...]


def check_run_name(run: str) -> str:
    """`run`, if it is an id as servers make them. Raises RemoteError for any other."""
    if not _RUN.fullmatch(run):
        raise RemoteError(f"run: expected an id of 32 hexadecimal digits, got {plain_text(run, 80)!r}")
    return run


def decode_offer(body: bytes) -> Offer:
    """The offer in a notice's body. Raises RemoteError for anything else."""
    try:
        return _decoded(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RemoteError(f"offer: expected a run and its plan ({plain_text(str(error))})") from None


def _decoded(table: Any) -> Offer:
    run, digest, plan = (_text(table, name) for name in ("run", "plan_digest", "plan"))
    check_run_name(run)
    if not _DIGEST.fullmatch(digest):
        raise ValueError("a plan's digest is 64 hexadecimal digits")
    tensors = table["tensors"]
    if not isinstance(tensors, list) or len(tensors) > _MOST_TENSORS or any(type(one) is not int for one in tensors):
        raise ValueError("tensors are a list of sizes")
    size = table["size"]
    if type(size) is not int or not 0 < size < _MOST_PARAMETERS or min(tensors, default=0) < 0 or sum(tensors) != size:
        raise ValueError("the size is the sum of the tensors' sizes")
    sites = table["sites"]
    if not isinstance(sites, list) or not 0 < len(sites) <= _MOST_SITES:
        raise ValueError(f"a run has 1 to {_MOST_SITES} sites")
    members = tuple(_member(one) for one in sites)
    if len({one.name for one in members}) != len(members):
        raise ValueError("each site is named once")
    plan.encode()  # a lone surrogate is a ValueError here, and no plan that can be kept
    folder, code = _code_folder(table["code_folder"]), _code(table["code"])
    if code and folder is None:
        raise ValueError("files come only with a plan that has task.code")
    return Offer(
        run=run,
        plan_digest=digest,
        plan=plan,
        code_folder=folder,
        code=code,
        size=size,
        tensors=tuple(tensors),
        sites=members,
    )


def _text(table: Any, name: str) -> str:
    found = table[name]
    if not isinstance(found, str):
        raise ValueError(f"{name} is text")
    return found


def _member(table: Any) -> MemberFacts:
    name, fingerprint = _text(table, "name"), _text(table, "fingerprint")
    if not 0 < len(name.encode()) <= 255 or plain_text(name, 255) != name:
        raise ValueError("a site's name is 1 to 255 printable bytes")
    if not _DIGEST.fullmatch(fingerprint):
        raise ValueError("a fingerprint is 64 hexadecimal digits")
    return MemberFacts(name=name, fingerprint=fingerprint)


def _code_folder(path: object) -> str | None:
    """`task.code` of the plan, as the server says, if it lies below the plan's folder."""
    if path is not None and (not isinstance(path, str) or not is_below(path, allow_itself=True)):
        raise ValueError("task.code is a folder below the plan's")
    return path


def _code(table: Any) -> dict[str, bytes]:
    if not isinstance(table, dict) or len(table) > _MOST_FILES:
        raise ValueError(f"code is at most {_MOST_FILES} files")
    found: dict[str, bytes] = {}
    for path, text in table.items():
        if not is_below(path) or not isinstance(text, str):
            raise ValueError("code is files by their path below the bundle")
        try:
            found[path] = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise ValueError("a file is base64") from None
    folders = {str(parent) for path in found for parent in PurePosixPath(path).parents}
    if folders & found.keys():
        raise ValueError("a file is no folder")
    return found
