"""The agent's side of a job: it starts the process, asks it, believes nothing, and ends it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wardround.client.agent.site_job import JobFacts
from wardround.client.job.confinement import WORK, JobLimits
from wardround.client.job.messages import decode_tally, encode_order, fault_in, number_in
from wardround.errors import LocalError, RemoteError
from wardround.local_channel import Channel, Shared
from wardround.orders import EvalJob, FitJob, LocalResult, SiteId
from wardround.plan import Plan
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["JobProcess"]

_START_S = 120.0
_MOST_HEADER_BYTES = 1 << 22


class JobProcess:
    """The job of one run over the table `file`; a `SiteJob`. Its process is started when it is asked something.

    `folder` is where it may make a folder of its own, `log` takes what it prints. One that crashes, answers nonsense
    or is silent for too long is killed with all that it has started; the next question starts another. Not for
    several threads at a time.
    """

    def __init__(
        self,
        plan: Plan,
        site: SiteId,
        file: Path,
        format: str,
        *,
        folder: Path,
        log: Path,
        confined: bool = True,
        python: str = sys.executable,
        limits: JobLimits | None = None,
    ) -> None:
        self._plan, self._site, self._file, self._format = plan, site, file, format
        self._folder, self._log, self._confined, self._python = folder, log, confined, python
        self._limits = limits or JobLimits()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._root: Path | None = None
        self._state = b""

    @property
    def trainer(self) -> "JobProcess":
        return self

    def describe(self) -> JobFacts:
        """Read the data, and say what is there. Raises LocalError where they do not fit the plan."""
        header, _ = self._ask({"do": "describe", **self._about()}, [])
        patients = None if header.get("patients") is None else number_in(header, "patients")
        return JobFacts(rows=number_in(header, "rows"), train=number_in(header, "train"), patients=patients)

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        """Train from `model`, shape (d,). The update is a read-only view of memory that the job cannot change."""
        request = {"do": "fit", "order": encode_order(job.order), "seed": job.seed}
        header, shared = self._ask(request, self._inputs(model), answers=2)
        with self._believing():
            update, state = shared
            if update.size != 4 * model.size:
                raise RemoteError(f"job: expected an update of {4 * model.size} bytes, got {update.size}")
            result = LocalResult(
                update=np.frombuffer(update.view(), dtype="<f4"),
                num_examples=number_in(header, "num_examples"),
                tally=decode_tally(header),
            )
        self._state = bytes(state.view())
        return result

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        """Count how good `model` is on the job's split."""
        header, _ = self._ask({"do": "evaluate", "order": encode_order(job.order)}, self._inputs(model))
        with self._believing():
            return decode_tally(header)

    def statistics(self) -> Tally:
        """Sums over the training rows that federated standardisation needs."""
        header, _ = self._ask({"do": "statistics"}, [])
        with self._believing():
            return decode_tally(header)

    def state(self) -> bytes:
        """What the site keeps between rounds, as the job left it."""
        return self._state

    def restore(self, state: bytes) -> None:
        """What the job finds before its next order."""
        self._state = state

    def close(self) -> None:
        """End the process and what it started, and take its folder away."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    # -- the process ------------------------------------------------------------------------------

    def _inputs(self, model: F32) -> list[Shared]:
        vector = np.ascontiguousarray(model, dtype="<f4")
        return [Shared.of(memoryview(vector).cast("B")), Shared.of(self._state)]

    def _about(self) -> dict[str, Any]:
        return {
            "plan": self._plan.to_toml(),
            "folder": str(self._plan.folder.resolve()),
            "digest": self._plan.digest,
            "site": self._site,
            "file": str(self._file),
            "format": self._format,
        }

    def _ask(
        self, request: dict[str, Any], shared: Sequence[Shared], *, answers: int = 0
    ) -> tuple[dict[str, Any], list[Shared]]:
        """The answer to a request, which has `answers` pieces of memory. Raises LocalError where there is none."""
        deadline = min(self._limits.call_s, self._plan.cohort.deadline_s or self._limits.call_s)
        try:
            if self._channel is None:
                self._start()
                if request["do"] != "describe":
                    self._exchange({"do": "describe", **self._about()}, [], self._limits.call_s, 0)
            return self._exchange(request, shared, deadline, answers)
        finally:
            for one in shared:
                one.close()

    def _exchange(
        self, request: dict[str, Any], shared: Sequence[Shared], deadline_s: float, answers: int
    ) -> tuple[dict[str, Any], list[Shared]]:
        with self._believing():
            if self._channel is None:
                raise EOFError
            try:
                self._channel.send(request, shared)
                header, found = self._channel.receive(deadline_s)
            except TimeoutError:
                raise RemoteError(f"job: no answer within {deadline_s:g} s") from None
            fault = fault_in(header)
            if fault is None and len(found) != answers:
                raise RemoteError(f"job: expected {answers} pieces of memory, got {len(found)}")
        if fault is not None:
            raise LocalError(fault)
        return header, found

    @contextlib.contextmanager
    def _believing(self) -> Any:
        """A job that breaks the protocol, or is gone, is ended; the order fails."""
        try:
            yield
        except EOFError:
            self.close()
            raise LocalError(f"{self._site}: the job ended without an answer; see {self._log.name}") from None
        except RemoteError as error:
            self.close()
            raise LocalError(f"{self._site}: {error}; it was ended") from None

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = Path(tempfile.mkdtemp(dir=self._folder))
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own program)
                [self._python, "-P", "-m", "wardround.client.job", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._root,
                env=_environment(self._confined, self._root),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            self.close()
            raise LocalError(f"{self._python}: cannot be started ({error.strerror}); see `job_python`") from None
        finally:
            theirs.close()
            os.close(log)
        self._channel = Channel(ours, most_bytes=_MOST_HEADER_BYTES)
        readable = [str(self._file.resolve())]
        if self._plan.task.code is not None:
            readable.append(str((self._plan.folder / self._plan.task.code).resolve()))
        start = {
            "do": "start",
            "root": str(self._root),
            "readable": readable,
            "confined": self._confined,
            "limits": asdict(self._limits),
        }
        try:
            self._exchange(start, [], _START_S, 0)
        except LocalError:
            self.close()
            raise


def _environment(confined: bool, root: Path) -> dict[str, str]:
    """What a job finds in its environment: nothing of the agent's but how many threads to use."""
    kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    home = str(WORK if confined else root)
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": "/tmp" if confined else home,  # noqa: S108 (its own)
        "LANG": "C.UTF-8",
        "USER": "job",
        "PYTHONDONTWRITEBYTECODE": "1",
        **kept,
    }
