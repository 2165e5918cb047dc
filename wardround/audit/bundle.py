"""What an auditor is given: one zip file with a log, and everything that it is checked with but the authority.

    manifest.json    format, the log's id and owner, when it was exported, its head, and size and SHA-256 of the rest
    log.jsonl        the log, up to a seal and with it
    cosigned.jsonl   of a server's log: the heads that sites have co-signed, each with the certificate of the site's key

Nothing is unpacked on the disk. A bundle says nothing by itself: what it holds is signed by keys that the federation's
authority certifies. What was left out of it on purpose (an end of the log together with every co-signed head behind it)
shows against another bundle that was not: an older one, or a site's, whose log has the heads that the site co-signed.
"""

import base64
import binascii
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from wardround.audit.head import COSIGNED_KIND, RESTORE_ACCEPTED, CoSigned, Head
from wardround.audit.log import LOG_FILE
from wardround.audit.record import MOST_LINE_BYTES, Record, minute, stamp, time_of
from wardround.audit.verify import BadRecordError, SeenHead, Verified, verify_log
from wardround.durable_file import TEMPORARY, sync_folder
from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import RESERVED_SERVER_NAME, signer
from wardround.identity import Authority, site_name
from wardround.plain_text import plain_text
from wardround.signing_key import fingerprint_of

__all__ = ["Bundle", "Certified", "Compared", "verify_bundle", "write_bundle"]

_MANIFEST, _COSIGNED = "manifest.json", "cosigned.jsonl"
_FORMAT = 1
_MOST_BYTES = {_MANIFEST: 1 << 16, LOG_FILE: 1 << 36, _COSIGNED: 1 << 28}
_MOST_LINE = 1 << 14
_OLDER = "; or this bundle was exported before then: ask for a newer one"
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A co-signature, and the certificate (DER) of the key that made it."""

    cosigned: CoSigned
    certificate: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Another bundle whose heads fit: its file, whose log it is, and how many heads of this log it has."""

    where: str
    name: str
    heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a bundle holds, all of it verified: the log, and by site the last co-signed head."""

    log: Verified
    authority: str
    """The fingerprint of the certificate that all rests on."""
    exported: str
    sites: dict[str, Head]
    keys: dict[str, tuple[str, ...]]
    """By site, the fingerprints of the keys that co-signed: one, unless it joined anew."""
    compared: tuple[Compared, ...]
    remarks: tuple[str, ...]
    """What is no fault, and what an auditor should know."""

    @property
    def against(self) -> int:
        """Heads from other bundles that fit."""
        return sum(one.heads for one in self.compared)


def write_bundle(
    out: Path, log: Path, *, head: Head, name: str, now: datetime, cosigned: Iterable[Certified] = ()
) -> None:
    """Write the log in the file `log`, up to the seal of `head`, to the new file `out`.

    LocalError where `out` is there, something cannot be read or written, or nobody would read what is too much; then
    there is none.
    """
    if os.path.lexists(out):
        raise LocalError(f"{out}: is there already; name a new file")
    temporary = out.with_name(TEMPORARY + out.name)
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
                    members = {
                        LOG_FILE: _add(archive, LOG_FILE, _lines(log, head.seq + 1), MOST_LINE_BYTES),
                        _COSIGNED: _add(archive, _COSIGNED, (_cosigned_line(one) for one in cosigned), _MOST_LINE),
                    }
                    manifest = {
                        "format": _FORMAT,
                        "log": head.log.hex(),
                        "name": name,
                        "exported": stamp(now),
                        "head": head.table(),
                        "members": members,
                    }
                    text = json.dumps(manifest, indent=2) + "\n"
                    archive.writestr(_MANIFEST, text)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, out)
            sync_folder(out.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise LocalError(f"{error.filename or out}: {error.strerror}; there is no bundle") from None


def verify_bundle(file: BinaryIO, authority: Authority, *, against: Iterable[BinaryIO] = ()) -> Bundle:
    """What is in a bundle, all of it checked. `against` are other bundles, whose heads of the same log have to fit:
    each of them for itself, so that one that fits hides no other.

    RemoteError for what is no bundle, BadRecordError with the first bad record of a log; both name the file.
    """
    where = _name_of(file, "bundle")
    with _opened(file, where) as archive:
        manifest = _manifest(archive)
        others = [
            _other(other, authority, _name_of(other, f"bundle {number} to compare with"), manifest)
            for number, other in enumerate(against, 1)
        ]
        seen, keys, newest = list[SeenHead](), dict[str, list[str]](), dict[str, Head]()
        for one in _cosigned(archive, manifest):
            head, site = one.cosigned.head, one.cosigned.site
            public = _signer_of(one, authority, manifest.head)
            seen.append(SeenHead(head=head, by=f"by {site!r}"))
            if fingerprint_of(public) not in keys.setdefault(site, []):
                keys[site].append(fingerprint_of(public))
            if site not in newest or newest[site].seq < head.seq:
                newest[site] = head
        seen.append(SeenHead(head=manifest.head, by="in the bundle"))
        for found in others:
            seen += found.heads
        log = _verified_log(archive, manifest, authority, seen)
        if newest and log.name != RESERVED_SERVER_NAME:
            raise RemoteError("expected co-signed heads of a server's log, got some of a site's")
        for site, its in keys.items():
            if site == log.name or log.key in its:
                raise RemoteError(f"{site!r} has co-signed with the name or the key of the log's owner: it is no other")
    remarks = [remark for one in others for remark in one.remarks]
    remarks += _shared(keys)
    if not newest and not any(one.signed for one in others):
        remarks.append("nobody else has signed a head of this log: its owner could have written it anew")
    return Bundle(
        log=log,
        authority=authority.fingerprint.hex(),
        exported=manifest.exported,
        sites=newest,
        keys={site: tuple(its) for site, its in keys.items()},
        compared=tuple(Compared(where=one.where, name=one.name, heads=len(one.heads)) for one in others if one.heads),
        remarks=tuple(remarks),
    )


def _name_of(file: BinaryIO, otherwise: str) -> str:
    name = getattr(file, "name", None)
    return plain_text(name) if isinstance(name, str) else otherwise


def _shared(keys: Mapping[str, Sequence[str]]) -> Iterator[str]:
    owners: dict[str, str] = {}
    for site, its in sorted(keys.items()):
        for key in its:
            if owners.setdefault(key, site) != site:
                yield f"{site!r} has co-signed with the key of {owners[key]!r}: they are one"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    head: Head
    name: str
    exported: str
    members: dict[str, tuple[int, bytes]]


def _verified_log(
    archive: zipfile.ZipFile,
    manifest: _Manifest,
    authority: Authority,
    heads: Sequence[SeenHead],
    each: Callable[[Record], None] = lambda record: None,
) -> Verified:
    with _member(archive, LOG_FILE, manifest.members) as member:
        try:
            found = verify_log(cast(BinaryIO, member), authority, heads=heads, each=each)
        except _UnreadableError as error:
            raise BadRecordError(member.lines + 1, f"cannot be read any more ({error})") from None
        member.finish()
    if found.name != manifest.name or found.sealed != manifest.head.seq or found.records != found.sealed + 1:
        raise RemoteError(f"expected a log of {manifest.name!r} that ends with the seal of its head")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Other:
    """What another bundle says of the log that is checked."""

    where: str
    name: str
    heads: list[SeenHead]
    signed: bool
    """Whether there is one among them that another than the log's owner has signed."""
    remarks: list[str]


def _other(file: BinaryIO, authority: Authority, where: str, main: _Manifest) -> _Other:
    """Every head of the log of `main` that another bundle has: of its own log, co-signed, and noted by a site.

    What a site had noted before it accepted a restored server is not to be met any more, and gets a remark. RemoteError
    for a bundle that says nothing of this log, and for one that has seen another log of the same server.
    """
    with _opened(file, where) as archive:
        manifest = _manifest(archive)
        heads = [SeenHead(head=manifest.head, by=f"in {where}", hint=_OLDER)]
        for one in _cosigned(archive, manifest):
            _signer_of(one, authority, manifest.head)
            by = f"by {one.cosigned.site!r} (in {where})"
            heads.append(SeenHead(head=one.cosigned.head, by=by, hint=_OLDER))
        noted, remarks = list[SeenHead](), list[str]()

        def note(record: Record) -> None:
            if record.kind == RESTORE_ACCEPTED:
                remarks.append(
                    f"{manifest.name!r} accepted on {record.time[:10]} that the server's history was not the one that "
                    f"it had signed {len(noted)} heads of (record {record.seq} of its log, {where})"
                )
                noted.clear()
            if record.kind == COSIGNED_KIND:
                try:
                    head = Head.of(record.detail.get("head"))
                except (ValueError, TypeError):
                    raise BadRecordError(record.seq, "has no head in it") from None
                noted.append(SeenHead(head=head, by=f"by {manifest.name!r} (in {where})", hint=_OLDER))

        _verified_log(archive, manifest, authority, heads, each=note)
        elsewhere = next((one.head for one in noted if one.head.log != main.head.log), None)
        if elsewhere is not None and main.name == RESERVED_SERVER_NAME:
            raise RemoteError(
                f"{manifest.name!r} was shown another log of the server ({elsewhere.log.hex()}) on "
                f"{minute(elsewhere.time)}, and has accepted no restore since: the server has two histories"
            )
        fitting = [one for one in (*heads, *noted) if one.head.log == main.head.log]
        if not fitting and not remarks:
            raise RemoteError(f"expected heads of the log {main.head.log.hex()} of {main.name!r}, got none")
        signed = any(one is not heads[0] for one in fitting)
        return _Other(where=where, name=manifest.name, heads=fitting, signed=signed, remarks=remarks)


def _signer_of(one: Certified, authority: Authority, head: Head) -> bytes:
    """The key that has co-signed a head of the log of `head`. RemoteError unless it is its site's, which the authority
    names."""
    cosigned = one.cosigned
    if cosigned.head.log != head.log:
        raise RemoteError(f"{plain_text(cosigned.site)} has co-signed a head of another log")
    public = signer(authority, one.certificate, cosigned.site, cosigned.signed_at)
    cosigned.check(public)
    return public


# -- the members --------------------------------------------------------------------------------------


def _manifest(archive: zipfile.ZipFile) -> _Manifest:
    with _member(archive, _MANIFEST) as member:
        data = member.read(_MOST_BYTES[_MANIFEST] + 1)
    try:
        table = json.loads(data)
        if table.keys() != {"format", "log", "name", "exported", "head", "members"}:
            raise ValueError
        if type(table["format"]) is not int or table["format"] != _FORMAT:
            raise ValueError
        members = table["members"]
        if members.keys() != {LOG_FILE, _COSIGNED} or any(
            one.keys() != {"bytes", "sha256"} or type(one["bytes"]) is not int or one["bytes"] < 0
            for one in members.values()
        ):
            raise ValueError
        head = Head.of(table["head"])
        if table["log"] != head.log.hex():
            raise ValueError
        time_of(table["exported"])
        return _Manifest(
            head=head,
            name=site_name(table["name"]),
            exported=table["exported"],
            members={name: (one["bytes"], bytes.fromhex(one["sha256"])) for name, one in members.items()},
        )
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError):
        raise RemoteError(f"{_MANIFEST}: expected what wardround writes (format {_FORMAT})") from None


def _cosigned(archive: zipfile.ZipFile, manifest: _Manifest) -> Iterator[Certified]:
    """One by one, so that whoever checks them stops at the first bad one."""
    number = 0
    with _member(archive, _COSIGNED, manifest.members) as member:
        while line := member.readline(_MOST_LINE):
            number += 1
            try:
                table = json.loads(line)
                certificate = base64.b64decode(table.pop("certificate"), validate=True)
                one = Certified(cosigned=CoSigned.of(table), certificate=certificate)
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError, binascii.Error):
                raise RemoteError(f"{_COSIGNED}, line {number}: expected a co-signed head") from None
            yield one
        member.finish()


def _cosigned_line(one: Certified) -> bytes:
    table = {**one.cosigned.table(), "certificate": base64.b64encode(one.certificate).decode()}
    return json.dumps(table).encode() + b"\n"


def _lines(log: Path, most: int) -> Iterator[bytes]:
    with log.open("rb") as file:
        yield from islice(file, most)


def _add(archive: zipfile.ZipFile, name: str, lines: Iterable[bytes], longest: int) -> dict[str, Any]:
    """Write a member; its size and SHA-256. LocalError for what a reader refuses."""
    size, digest = 0, sha256()
    with archive.open(name, "w", force_zip64=True) as member:
        for line in lines:
            member.write(line)
            digest.update(line)
            size += len(line)
            if len(line) > longest or size > _MOST_BYTES[name]:
                raise LocalError(
                    f"{name}: expected at most {_MOST_BYTES[name]} bytes, in lines of at most {longest}, got more; "
                    "there is no bundle"
                )
    return {"bytes": size, "sha256": digest.hexdigest()}


# -- the zip file -------------------------------------------------------------------------------------


class _UnreadableError(RemoteError):
    """The zip file is damaged where it is read."""


class _Member:
    """A member while it is read: no more than the manifest says, and of the digest that it says."""

    def __init__(self, name: str, file: IO[bytes], size: int, digest: bytes | None) -> None:
        self._name, self._file, self._size, self._digest = name, file, size, digest
        self._got, self._hash = 0, sha256()
        self.lines = 0

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read, size)

    def readline(self, most: int) -> bytes:
        line = self._counted(self._file.readline, most)
        self.lines += line.endswith(b"\n")
        return line

    def finish(self) -> None:
        """RemoteError unless all was read, and is what the manifest says."""
        if self.read(1) or self._got != self._size or self._hash.digest() != self._digest:
            raise RemoteError(f"{self._name}: expected what the manifest says, got something else")

    def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            data = read(size)
        except (*_BROKEN, ValueError, OSError) as error:
            raise _UnreadableError(f"{self._name} is damaged: {plain_text(str(error))}") from None
        self._got += len(data)
        if self._got > self._size:
            raise RemoteError(f"{self._name}: expected {self._size} bytes, got more")
        self._hash.update(data)
        return data


@contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, members: Mapping[str, tuple[int, bytes]] | None = None
) -> Iterator[_Member]:
    size, digest = (_MOST_BYTES[name], None) if members is None else members[name]
    try:
        file = archive.open(name)
    except (*_BROKEN, ValueError, OSError) as error:
        raise RemoteError(f"{name} is damaged: {plain_text(str(error))}") from None
    with file:
        yield _Member(name, file, size, digest)


@contextmanager
def _opened(file: BinaryIO, where: str) -> Iterator[zipfile.ZipFile]:
    """The archive, with its members' names and sizes checked before anything of them is read; `where` names the file in
    every error inside `with`."""
    try:
        with _archive(file) as archive:
            yield archive
    except _NamedError:
        raise
    except BadRecordError as fault:
        raise _NamedBadRecordError(fault.record, fault.what, where) from None
    except RemoteError as error:
        raise _NamedError(f"{where}: {error}") from None


class _NamedError(RemoteError):
    """One that names its file already."""


class _NamedBadRecordError(BadRecordError, _NamedError):
    """The same of a record."""


def _archive(file: BinaryIO) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except (*_BROKEN, ValueError, OSError) as error:
        raise RemoteError(f"expected a zip file ({plain_text(str(error))})") from None
    if sorted(one.filename for one in archive.infolist()) != sorted(_MOST_BYTES):
        raise RemoteError(f"expected exactly {', '.join(sorted(_MOST_BYTES))}")
    for one in archive.infolist():
        known = one.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not one.flag_bits & 1
        if one.file_size > _MOST_BYTES[one.filename] or not known:
            most = _MOST_BYTES[one.filename]
            raise RemoteError(f"{one.filename}: expected at most {most} bytes, deflated")
    return archive
