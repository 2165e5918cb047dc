"""The site's folder: whose it is, room on its disk, certificates, revocations, the agent, and its ledgers."""

import os
import pwd
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from wardround.client.agent.data_registry import DataRegistry
from wardround.client.agent.revocation_list import RevocationList
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.doctor.finding import Finding, fine, problem, skipped, warning
from wardround.client.doctor.situation import Situation
from wardround.client.enrolment.renewal import renew_at
from wardround.client.guard.ledger_anchor import FileAnchor
from wardround.errors import WardroundError
from wardround.tls_identity import der_of

__all__ = [
    "check_agent",
    "check_disk",
    "check_folder",
    "check_ledgers",
    "check_site",
    "folder_of",
    "judge_certificate_time",
    "judge_room",
]

_MIB = 1 << 20
_LEAST_ROOM, _LITTLE_ROOM = 256 * _MIB, 2048 * _MIB
_LEAST_INODES = 1000
_MOST_FILES = 100_000
_SOON = timedelta(days=2)


# -- the folder and its disk --------------------------------------------------------------------------


def check_folder(situation: Situation) -> Iterator[Finding]:
    """Whether all of the folder is this user's, and nobody else's to read; nothing is changed."""
    path = situation.path
    try:
        found = path.lstat()
    except OSError as error:
        yield skipped("folder", f"{path}: {(error.strerror or 'is not there').lower()}")
        return
    if found.st_uid != os.geteuid():
        owner = _user_name(found.st_uid)
        yield problem(
            "folder", f"{path}: belongs to {owner}, not to {_user_name(os.geteuid())}", f"run this as {owner}"
        )
        return
    open_to_others, strange, count = [], [], 0
    for one in _all_below(path):
        count += 1
        try:
            mode = one.lstat()
        except OSError:
            continue  # has just been replaced
        if mode.st_uid != found.st_uid or not (stat.S_ISREG(mode.st_mode) or stat.S_ISDIR(mode.st_mode)):
            strange.append(one)
        elif mode.st_mode & 0o077:
            open_to_others.append(one)
    if open_to_others:
        yield problem(
            "folder",
            f"{open_to_others[0]}: others may read or write it{_and_more(open_to_others)}",
            f"chmod -R go= {path}, and think of what was there as known",
        )
    if strange:
        text = f"{strange[0]}: is another user's, or no file{_and_more(strange)}"
        yield problem("folder", text, "take it away, or chown it")
    if not open_to_others and not strange:
        yield fine("folder", f"{path}: {count} files and folders, this user's alone")


def _all_below(path: Path) -> Iterator[Path]:
    """The folder and what is in it; working folders of jobs, which are the job's, are left out."""
    yield path
    left = _MOST_FILES
    for where, folders, files in os.walk(path):
        if Path(where) == path / "jobs":
            folders[:] = [name for name in folders if not name.startswith("job-")]
        for name in (*folders, *files):
            yield Path(where, name)
            left -= 1
            if not left:
                return


def _and_more(paths: list[Path]) -> str:
    return f", and {len(paths) - 1} more" if len(paths) > 1 else ""


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def check_disk(situation: Situation) -> Iterator[Finding]:
    """Room where the folder is, or will be."""
    path = situation.path
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    inodes = found.f_favail if found.f_files else None  # some file systems do not count them
    yield judge_room(path, found.f_bavail * found.f_frsize, inodes, read_only=bool(found.f_flag & os.ST_RDONLY))


def judge_room(path: Path, free: int, inodes: int | None, *, read_only: bool) -> Finding:
    """`free` bytes and `inodes` are left for this user; without room the agent takes no order."""
    text = f"{path}: {free / _MIB:,.0f} MiB free"
    if read_only:
        return problem("disk", f"{path}: is on a file system that may only be read", "mount it to be written")
    if inodes is not None and inodes < _LEAST_INODES:
        return problem("disk", f"{path}: room for {inodes} more files", "delete files there, or give it a larger disk")
    if free < _LEAST_ROOM:
        return problem("disk", text, "delete files there, or give it a larger disk")
    if free < _LITTLE_ROOM:
        return warning("disk", text, "a run keeps its model and its last reply there; give it more")
    return fine("disk", text)


# -- what the site has ---------------------------------------------------------------------------------


def check_site(situation: Situation) -> Iterator[Finding]:
    """Certificates, and the list of those that were revoked."""
    folder = situation.folder
    if folder is None:
        return
    now = situation.now()
    yield fine("site", f"{folder.name}, of {folder.facts.url}")
    for name, what in (("tls-identity.pem", "for connections"), ("identity.der", "of the signing key")):
        try:
            data = folder.read(name)
            found = x509.load_der_x509_certificate(der_of(data) if name.endswith(".pem") else data)
        except (WardroundError, ValueError) as error:
            yield problem("certificate", f"{what}: cannot be read ({error})", "restore it from a copy")
            continue
        yield judge_certificate_time(what, found.not_valid_before_utc, found.not_valid_after_utc, now)
    try:
        left = RevocationList(folder).current(now).next_update - now
    except WardroundError as error:
        yield problem("revocations", str(error), "start the agent: the server sends the newest")
    else:
        yield fine("revocations", f"the list is good for {_days(left)} more")


def judge_certificate_time(what: str, begin: datetime, end: datetime, now: datetime) -> Finding:
    """How long a certificate is good; the agent should have renewed it when three quarters of its time are over."""
    text = f"{what}: good until {end:%Y-%m-%d %H:%M} UTC, {_days(end - now)} more"
    if now < begin:
        return problem("certificate", f"{what}: not good before {begin:%Y-%m-%d %H:%M} UTC", "set the clock right")
    if now > end:
        return problem(
            "certificate",
            f"{what}: ended on {end:%Y-%m-%d %H:%M} UTC",
            "have the coordinator revoke this site and invite it again, and join in a new folder",
        )
    if now > renew_at(begin, end, 1.0) + _SOON:
        return warning("certificate", text, "the agent should have renewed it: let it run, and see its log")
    return fine("certificate", text)


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"


def check_agent(situation: Situation) -> Iterator[Finding]:
    """Whether it runs."""
    if situation.folder is not None:
        if situation.folder.agent_runs():
            yield fine("agent", "runs")
        else:
            yield warning("agent", "does not run", "wardround client start, or wardround client service install")


def check_ledgers(situation: Situation) -> Iterator[Finding]:
    """Each population's ledger, read from its first line on, and its anchor; that of removed data sets, too."""
    if situation.folder is None:
        return
    registry = DataRegistry(situation.folder)
    data = {one.population: one for one in sorted(registry.all(), key=lambda one: one.anchor is not None)}
    for path in sorted(situation.folder.folder("ledgers").glob("*.ledger")):
        population = path.stem
        found = data.get(population)
        anchor = None if found is None else found.anchor
        try:
            if anchor is not None:
                FileAnchor(Path(anchor)).get()
            registry.ledger(population, found)
        except WardroundError as error:
            yield problem("ledger", str(error), "no round is charged to it until then")
            continue
        where = f"anchored in {anchor}" if anchor else "without an anchor on another disk"
        yield fine("ledger", f"{population}: whole, {where}")


def folder_of(path: Path) -> SiteFolder | None:
    """The site's folder where one has joined and this user may use it; nothing of another user's is touched."""
    try:
        mine = path.lstat().st_uid == os.geteuid() and (path / "site.json").exists()
    except OSError:
        return None
    return SiteFolder(path) if mine else None
