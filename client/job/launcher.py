"""Starts a job, watches it and ends it: `python -m wardround.client.job.launcher`, a process between agent and job.

    agent ── launcher ── keeper ── first ── job      (a confined one: keeper in the new namespaces' parent,
                                                      `first` the first process of the job's own namespace of processes)
    agent ── launcher ── job                         (another)

Its standard input is a socket from the agent: one line comes in (`Launch`), lines go out (`started`, `error`, `ended`),
and when the agent closes it, or dies, everything ends. What the job prints goes through the launcher to its standard
output, a file, as far as there is room. The launcher holds no secret; no code of a plan runs in it.
"""

import contextlib
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import NoReturn

from wardround.client.job import namespaces
from wardround.client.job.file_view import build_view, finish_view, needed_by
from wardround.client.job.launch import SCRATCH, Launch
from wardround.client.job.system_calls import forbid_system_calls
from wardround.errors import WardroundError

__all__ = ["launch", "main"]

_FAILED = 97
_MOST_LINE = 1 << 20
_CHANNEL, _TABLE, _ERRORS = 3, 4, 5  # descriptors of the job; the last is gone once it runs
_ABOVE = 10
_NOBODY = 65534
_ROOM_FOR_A_TRY_S = 0.01
_CHUNK = 1 << 16
_JOB_ID = 1000


def main() -> None:
    """Do what the line on the standard input says."""
    control = socket.socket(fileno=os.dup(0))
    line = b""
    while not line.endswith(b"\n") and len(line) < _MOST_LINE:
        data = control.recv(_CHUNK)
        if not data:
            return
        line += data
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the agent says when; asked to end itself, it ends what is here first
    try:
        code = launch(Launch.decode(line), control)
    except (OSError, WardroundError) as error:
        _tell(control, error=_said(error))
        raise SystemExit(_FAILED) from None
    _tell(control, ended=code)


def _said(error: OSError | WardroundError) -> str:
    """What failed, on one line: `OSError`'s own text begins with a number."""
    if not isinstance(error, OSError):
        return str(error)
    name = os.fsdecode(error.filename) + ": " if isinstance(error.filename, str | bytes) else ""
    return name + (error.strerror or str(error))


def _tell(control: socket.socket, **message: object) -> None:
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # the agent is gone, and nobody is left to be told


def launch(wanted: Launch, control: socket.socket) -> int:
    """Run one job to its end, or to that of the agent's patience; its exit code, negative for a signal."""
    namespaces.set_subreaper()
    plan = _Start(wanted)
    out, printed = os.pipe()
    failure, failed = os.pipe()
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        here.close()
        control.close()
        os.close(out)
        os.close(failure)
        plan.run(there, printed, failed)
    there.close()
    os.close(printed)
    os.close(failed)
    for one in (wanted.channel, wanted.table):
        if one is not None:
            os.close(one)
    try:
        if wanted.confined and here.recv(1):
            plan.map_ids(child)
            here.sendall(b"1")
        text = _all_of(failure)
        if text:
            raise OSError(0, text)
        _tell(control, started=True)
        return _watch(control, out, child, wanted.limits.log_bytes)
    finally:
        here.close()
        _end_everything()
        shutil.rmtree(wanted.root, ignore_errors=True)  # also where the agent was killed


def _all_of(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_CHUNK).decode(errors="replace")


# -- the job -------------------------------------------------------------------------------------------


class _Start:
    """How the process of a job becomes one. Made before its first fork, with the rights of the agent."""

    def __init__(self, wanted: Launch) -> None:
        self._wanted = wanted
        self._parent = os.getpid()
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._needed: list[Path] = []
        # both names: a link on the way to what lies in a folder that is shown need not be there for the job
        self._hidden = [name for path in wanted.hidden for name in (path, os.path.realpath(path))]
        # root's job is nobody's: the kernel does not count the processes of root, and files of root would be its own
        self._as_nobody = os.geteuid() == 0 and _is_mapped(_NOBODY)
        if wanted.confined:
            self._needed = needed_by(wanted.python, wanted.environment)

    def map_ids(self, child: int) -> None:
        """From outside: the agent's user is root in the namespace of `child`, and nobody exists where that is root."""
        user, group = os.geteuid(), os.getegid()
        users, groups = [(0, user)], [(0, group)]
        if self._as_nobody:
            users.append((1, _NOBODY))
            groups.append((1, _NOBODY))
        ids = namespaces.IdMap(users=tuple(users), groups=tuple(groups))
        ids.write(self._proc, str(child), deny_groups=not self._as_nobody)

    def run(self, outside: socket.socket, printed: int, failed: int) -> NoReturn:
        """In the child: become the job, or say why not."""
        try:
            os.dup2(printed, 1)
            os.dup2(printed, 2)
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 0)
            with contextlib.suppress(OSError):  # where memory runs out, the job ends before the agent
                Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
            if self._wanted.confined:
                self._confine(outside)
            else:
                os.setsid()
                namespaces.die_with_parent()
                os.chdir(self._wanted.root)
            self._execute(failed)
        except OSError as error:
            os.write(failed, _said(error).encode()[:_CHUNK])
        except BaseException as error:
            os.write(failed, f"{type(error).__name__}: {error}".encode()[:_CHUNK])
        os._exit(_FAILED)

    def _confine(self, outside: socket.socket) -> None:
        """Go on as a confined process: returns in the job alone."""
        wanted = self._wanted
        namespaces.die_with_parent()
        if os.getppid() != self._parent:
            os._exit(_FAILED)
        if self._as_nobody:
            os.setgroups([])
        namespaces.unshare_everything()
        outside.sendall(b"1")
        if not outside.recv(1):
            os._exit(_FAILED)  # the launcher says why
        outside.close()
        alive, held = os.pipe()
        first = os.fork()
        if first:
            os.close(alive)
            _keep_only(held)
            os._exit(_code(os.waitpid(first, 0)[1]))
        os.close(held)
        namespaces.die_with_parent()
        if select.select([alive], [], [], 0)[0]:
            os._exit(_FAILED)  # its parent ended before it could be noticed
        os.close(alive)
        self._forbid_more_namespaces()
        namespaces.make_mounts_private()
        socket.sethostname("job")
        os.umask(0o022)
        build_view(Path(wanted.root), self._needed, scratch_bytes=wanted.limits.scratch_bytes, owner=self._id)
        namespaces.enter_root(Path(wanted.root))
        finish_view(self._hidden)
        job = os.fork()
        if job:
            _keep_only()
            os._exit(_reap_until(job))
        os.setsid()  # kill(0, ...) reaches none of the above
        os.chdir(SCRATCH)
        self._give_up_rights()

    @property
    def _id(self) -> int:
        return 1 if self._as_nobody else 0

    def _forbid_more_namespaces(self) -> None:
        """One more user namespace is made here, and none by the job. The filter on its calls says the same."""
        try:
            descriptor = os.open("sys/user/max_user_namespaces", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._proc)
            os.write(descriptor, b"1")
            os.close(descriptor)
        except OSError:
            pass  # a container may show /proc/sys without letting it be written

    def _give_up_rights(self) -> None:
        """As another user of a user namespace below, in which the mounts are locked, without any capability."""
        if self._id:
            os.setresgid(self._id, self._id, self._id)
            os.setresuid(self._id, self._id, self._id)
            namespaces.dumpable()  # else its own id map would not be its to write
        namespaces.unshare_users_and_mounts()
        own = ((_JOB_ID, self._id),)
        namespaces.IdMap(users=own, groups=own).write(self._proc, "self", deny_groups=True)
        namespaces.drop_capabilities()

    def _execute(self, failed: int) -> None:
        wanted = self._wanted
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        given = {_CHANNEL: wanted.channel, _TABLE: wanted.table, _ERRORS: failed}
        high = {to: None if one is None else fcntl.fcntl(one, fcntl.F_DUPFD, _ABOVE) for to, one in given.items()}
        for to, one in high.items():
            if one is not None:
                os.dup2(one, to, inheritable=to != _ERRORS)
            else:
                os.closerange(to, to + 1)
        os.closerange(_ERRORS + 1, os.sysconf("SC_OPEN_MAX"))
        os.umask(0o077)
        _limit(wanted)
        namespaces.forbid_more_privileges()
        if wanted.confined:
            forbid_system_calls()
        try:
            os.execve(wanted.python, [wanted.python, *wanted.arguments], wanted.environment)  # noqa: S606
        except OSError as error:
            os.write(_ERRORS, f"{wanted.python}: cannot be started ({error.strerror})".encode())
            os._exit(_FAILED)


def _is_mapped(user: int) -> bool:
    """Whether such a user and group exist here: in a container of one user they do not."""
    for name in ("uid_map", "gid_map"):
        ranges = [line.split() for line in Path("/proc/self", name).read_text(encoding="ascii").splitlines()]
        if not any(int(first) <= user < int(first) + int(count) for first, _, count in ranges):
            return False
    return True


def _keep_only(*kept: int) -> None:
    """Close all descriptors but these: who only waits holds nothing that a job could be waiting for."""
    at = 0
    for one in (*sorted(kept), os.sysconf("SC_OPEN_MAX")):
        os.closerange(at, one)
        at = one + 1


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _reap_until(job: int) -> int:
    while True:
        child, status = os.wait()
        if child == job:
            return _code(status)


def _limit(wanted: Launch) -> None:
    limits = wanted.limits
    bounds = [
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ]
    if wanted.confined:  # elsewhere all processes of the user count
        bounds.append((resource.RLIMIT_NPROC, limits.processes))
    for kind, most in bounds:
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


# -- its end -------------------------------------------------------------------------------------------


def _watch(control: socket.socket, out: int, child: int, log_bytes: int) -> int:
    """Copy what is printed until the job ends or the agent lets go of it; the job's exit code."""
    log = _Log(log_bytes)
    os.set_blocking(out, False)
    ended = os.pidfd_open(child)
    waiting = select.poll()
    for descriptor in (control.fileno(), out, ended):
        waiting.register(descriptor, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in waiting.poll()}
        if out in ready and not log.copy(out):
            waiting.unregister(out)
        if ended in ready:
            log.copy(out)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if control.fileno() in ready:
            return -signal.SIGKILL


class _Log:
    """The standard output, with room for so many bytes."""

    def __init__(self, most: int) -> None:
        self._left = most

    def copy(self, source: int) -> bool:
        """Take over what is there; False at its end."""
        try:
            data = os.read(source, _CHUNK)
        except BlockingIOError:
            return True
        if self._left > 0:
            kept = data[: self._left]
            self._left -= len(data)
            _write(kept + (b"\n(the log is full)\n" if self._left <= 0 else b""))
        return bool(data)


def _write(data: bytes) -> None:
    try:
        os.write(1, data)
    except OSError:
        pass  # a full disk is no reason to end a job


def _end_everything() -> None:
    """Kill all that was started here, and what that has left behind, and wait for its end."""
    while True:
        for child in _children():
            for kill in (os.killpg, os.kill):
                try:
                    kill(child, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass  # it leads no group, or has just ended
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_ROOM_FOR_A_TRY_S)


def _children() -> list[int]:
    """The processes whose parent this is."""
    found, this = [], str(os.getpid())
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                text = Path("/proc", name, "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # has ended
            if text.rpartition(")")[2].split()[1] == this:  # its own name, in brackets, may hold anything
                found.append(int(name))
    return found


if __name__ == "__main__":
    main()
