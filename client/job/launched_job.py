"""A job that was started: the agent's hold on its launcher, and so on all that the job starts."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

from wardround.client.job.launch import SCRATCH, Launch
from wardround.errors import LocalError
from wardround.plain_text import plain_text

__all__ = ["LaunchedJob", "environment_of"]

_END_S = 10.0
_LAUNCHER = ("-I", "-B", "-m", "wardround.client.job.launcher")
_MOST_LINE = 1 << 17
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def environment_of(root: str, *, confined: bool) -> dict[str, str]:
    """All that a job finds in its environment: nothing of the agent's but how many threads to use."""
    home = SCRATCH if confined else root
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": f"{home}/tmp" if confined else home,  # noqa: S108 (its own)
        "LANG": "C.UTF-8",
        "USER": "job",
        "OMP_WAIT_POLICY": "PASSIVE",  # a thread without work sleeps: several jobs, and the agent, share the cores
        **{name: os.environ[name] for name in _THREADS if name in os.environ},
    }


class LaunchedJob:
    """Made by `start`. Threads may share it: `end` may be called at any time, and more than once."""

    def __init__(self, launcher: "subprocess.Popen[bytes]", control: socket.socket, root: Path) -> None:
        self._launcher, self._control, self._root = launcher, control, root
        self._lock = threading.Lock()
        self._unread = b""

    @classmethod
    def start(cls, wanted: Launch, *, log: Path, timeout_s: float) -> Self:
        """Start it, with what it prints in the new file `log`. The descriptors in `wanted` stay the caller's.

        Raises LocalError where it cannot be started as wanted; nothing of it is left then.
        """
        ours, theirs = socket.socketpair()
        inherited = tuple(one for one in (wanted.channel, wanted.table) if one is not None)
        written = None
        try:
            written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            launcher = subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, *_LAUNCHER],
                stdin=theirs.fileno(),
                stdout=written,
                stderr=written,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                pass_fds=inherited,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise LocalError(f"a job cannot be started ({error.strerror or error})") from None
        finally:
            theirs.close()
            if written is not None:
                os.close(written)
        job = cls(launcher, ours, Path(wanted.root))
        try:
            ours.sendall(wanted.encode())
            answer = job._line(timeout_s)
            if answer.get("started") is not True:
                reason = plain_text(str(answer.get("error", "its launcher failed")), 500)
                raise LocalError(f"a job cannot be started ({reason})")
        except BaseException as error:
            job.end()
            if isinstance(error, OSError):
                raise LocalError("a job cannot be started (its launcher ended)") from None
            raise
        return job

    def wait(self, timeout_s: float) -> int | None:
        """The exit code of a job that ends by itself, negative or above 128 for a signal; None if it does not."""
        found = self._line(timeout_s).get("ended")
        return found if isinstance(found, int) else None

    def _line(self, timeout_s: float) -> dict[str, Any]:
        """The next word of the launcher, empty if there is none in time."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread and len(self._unread) < _MOST_LINE:
            waiting = select.poll()
            waiting.register(self._control, select.POLLIN)
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return {"error": f"no answer within {timeout_s:g} s"}
            data = self._control.recv(1 << 16)
            if not data:
                break
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            found = json.loads(line)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def end(self) -> None:
        """Kill the job and all that it has started, and take its folder away; when it returns, none of it runs."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # the launcher sees it, and so does a thread that waits here
        with self._lock:
            try:
                self._launcher.wait(_END_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._launcher.pid, signal.SIGKILL)
                self._launcher.wait()
            self._control.close()
            shutil.rmtree(self._root, ignore_errors=True)
