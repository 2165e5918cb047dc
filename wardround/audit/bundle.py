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
from wardround.audit.record import Record, stamp, time_of
from wardround.audit.verify import BadRecordError, SeenHead, Verified, verify_log
from wardround.durable_file import TEMPORARY, sync_folder
from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import RESERVED_SERVER_NAME, signer
from wardround.identity import Authority, site_name
from wardround.plain_text import plain_text

__all__ = ["Bundle", "Certified", "verify_bundle", "write_bundle"]

_MANIFEST, _COSIGNED = "manifest.json", "cosigned.jsonl"
_FORMAT = 1
_MOST_BYTES = {_MANIFEST: 1 << 16, LOG_FILE: 1 << 36, _COSIGNED: 1 << 28}
_MOST_LINE = 1 << 14
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A co-signature, and the certificate (DER) of the key that made it."""

    cosigned: CoSigned
    certificate: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a bundle holds, all of it verified: the log, and by site the last co-signed head."""

    log: Verified
    exported: str
    sites: dict[str, Head]
    against: int
    """Heads from other bundles that fit."""
    remarks: tuple[str, ...]
    """What other bundles say that an auditor should know."""


def write_bundle(
    out: Path, log: Path, *, head: Head, name: str, now: datetime, cosigned: Iterable[Certified] = ()
) -> None:
    """Write the log in the file `log`, up to the seal of `head`, to the new file `out`.

    LocalError where `out` is there, or something cannot be read or written; then there is none.
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
                        LOG_FILE: _add(archive, LOG_FILE, _lines(log, head.seq + 1)),
                        _COSIGNED: _add(archive, _COSIGNED, (_cosigned_line(one) for one in cosigned)),
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
    """What is in a bundle, all of it checked. `against` are other bundles, whose heads of the same log have to fit.

    RemoteError for what is no bundle, BadRecordError with the first bad record of its log (or of one `against`).
    """
    others, remarks = list[SeenHead](), list[str]()
    for number, other in enumerate(against, 1):
        others += _heads_of(other, authority, number, remarks)
    with _opened(file) as archive:
        manifest = _manifest(archive)
        certified = _cosigned(archive, manifest)
        seen = [_checked(one, authority, manifest.head) for one in certified]
        seen.append(SeenHead(head=manifest.head, by="in the bundle"))
        fitting = [one for one in others if one.head.log == manifest.head.log]
        log = _verified_log(archive, manifest, authority, [*seen, *fitting])
    if others and not fitting and not remarks:
        raise RemoteError("bundle: expected other bundles with heads of this log, got none")
    if certified and log.name != RESERVED_SERVER_NAME:
        raise RemoteError("bundle: expected co-signed heads of a server's log, got some of a site's")
    newest: dict[str, Head] = {}
    for one in certified:
        known = newest.get(one.cosigned.site)
        if known is None or known.seq < one.cosigned.head.seq:
            newest[one.cosigned.site] = one.cosigned.head
    return Bundle(log=log, exported=manifest.exported, sites=newest, against=len(fitting), remarks=tuple(remarks))


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
        raise RemoteError(f"bundle: expected a log of {manifest.name!r} that ends with the seal of its head")
    return found


def _heads_of(file: BinaryIO, authority: Authority, number: int, remarks: list[str]) -> list[SeenHead]:
    """Every head that another bundle has, which is checked too: of its own log, co-signed, and noted by a site.

    What a site had noted before it accepted a restored server is not to be met any more, and gets a remark.
    """
    with _opened(file) as archive:
        manifest = _manifest(archive)
        heads = [SeenHead(head=manifest.head, by=f"in bundle {number} to compare with")]
        certified = _cosigned(archive, manifest)
        heads += [_checked(one, authority, manifest.head) for one in certified]
        noted: list[SeenHead] = []

        def note(record: Record) -> None:
            if record.kind == RESTORE_ACCEPTED:
                remarks.append(
                    f"{manifest.name!r} accepted on {record.time[:10]} that the server's history was not the one that "
                    f"it had signed {len(noted)} heads of (record {record.seq} of its log)"
                )
                noted.clear()
            if record.kind == COSIGNED_KIND:
                try:
                    noted.append(SeenHead(head=Head.of(record.detail.get("head")), by=f"by {manifest.name!r}"))
                except (ValueError, TypeError):
                    raise BadRecordError(record.seq, "has no head in it") from None

        _verified_log(archive, manifest, authority, heads, each=note)
        return heads + noted


def _checked(one: Certified, authority: Authority, head: Head) -> SeenHead:
    """A co-signed head. RemoteError unless its site, which the authority names, has signed it."""
    cosigned = one.cosigned
    if cosigned.head.log != head.log:
        raise RemoteError(f"bundle: {plain_text(cosigned.site)} has co-signed a head of another log")
    cosigned.check(signer(authority, one.certificate, cosigned.site, cosigned.signed_at))
    return SeenHead(head=cosigned.head, by=f"by {cosigned.site!r}")


# -- the members --------------------------------------------------------------------------------------


def _manifest(archive: zipfile.ZipFile) -> _Manifest:
    with _member(archive, _MANIFEST) as member:
        data = member.read(_MOST_BYTES[_MANIFEST] + 1)
    try:
        table = json.loads(data)
        if table.keys() != {"format", "log", "name", "exported", "head", "members"} or table["format"] != _FORMAT:
            raise ValueError
        members = table["members"]
        if members.keys() != {LOG_FILE, _COSIGNED} or any(
            one.keys() != {"bytes", "sha256"} for one in members.values()
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
            members={name: (int(one["bytes"]), bytes.fromhex(one["sha256"])) for name, one in members.items()},
        )
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise RemoteError(f"bundle: {_MANIFEST}: expected what wardround writes (format {_FORMAT})") from None


def _cosigned(archive: zipfile.ZipFile, manifest: _Manifest) -> list[Certified]:
    found = []
    with _member(archive, _COSIGNED, manifest.members) as member:
        while line := member.readline(_MOST_LINE):
            try:
                table = json.loads(line)
                certificate = base64.b64decode(table.pop("certificate"), validate=True)
                found.append(Certified(cosigned=CoSigned.of(table), certificate=certificate))
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError, binascii.Error):
                raise RemoteError(f"bundle: {_COSIGNED}, line {len(found) + 1}: expected a co-signed head") from None
        member.finish()
    return found


def _cosigned_line(one: Certified) -> bytes:
    table = {**one.cosigned.table(), "certificate": base64.b64encode(one.certificate).decode()}
    return json.dumps(table).encode() + b"\n"


def _lines(log: Path, most: int) -> Iterator[bytes]:
    with log.open("rb") as file:
        yield from islice(file, most)


def _add(archive: zipfile.ZipFile, name: str, lines: Iterable[bytes]) -> dict[str, Any]:
    """Write a member; its size and SHA-256."""
    size, digest = 0, sha256()
    with archive.open(name, "w", force_zip64=True) as member:
        for line in lines:
            member.write(line)
            digest.update(line)
            size += len(line)
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
            raise RemoteError(f"bundle: {self._name}: expected what the manifest says, got something else")

    def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            data = read(size)
        except (*_BROKEN, ValueError, OSError) as error:
            raise _UnreadableError(f"bundle: {self._name} is damaged: {plain_text(str(error))}") from None
        self._got += len(data)
        if self._got > self._size:
            raise RemoteError(f"bundle: {self._name}: expected {self._size} bytes, got more")
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
        raise RemoteError(f"bundle: {name} is damaged: {plain_text(str(error))}") from None
    with file:
        yield _Member(name, file, size, digest)


@contextmanager
def _opened(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """The archive, with its members' names and sizes checked before anything of them is read."""
    try:
        archive = zipfile.ZipFile(file)
    except (*_BROKEN, ValueError, OSError) as error:
        raise RemoteError(f"bundle: expected a zip file ({plain_text(str(error))})") from None
    with archive:
        if sorted(one.filename for one in archive.infolist()) != sorted(_MOST_BYTES):
            raise RemoteError(f"bundle: expected exactly {', '.join(sorted(_MOST_BYTES))}")
        for one in archive.infolist():
            known = one.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not one.flag_bits & 1
            if one.file_size > _MOST_BYTES[one.filename] or not known:
                most = _MOST_BYTES[one.filename]
                raise RemoteError(f"bundle: {one.filename}: expected at most {most} bytes, deflated")
        yield archive
