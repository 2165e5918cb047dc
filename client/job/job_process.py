"""The agent's side of a job: it starts the process, asks it, believes nothing, and ends it."""

import logging
import mmap
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from wardround.client.agent.site_job import JobFacts
from wardround.client.data.table_rules import TableRules
from wardround.client.job.launch import Launch
from wardround.client.job.launched_job import LaunchedJob, environment_of
from wardround.client.job.limits import JobLimits
from wardround.client.job.messages import (
    Answer,
    Count,
    Counted,
    Describe,
    Described,
    Evaluate,
    Failed,
    Fit,
    Fitted,
    Load,
    Loaded,
    Request,
    decode_answer,
    encode_request,
    tally_in,
)
from wardround.errors import LocalError, RemoteError
from wardround.local_channel import Channel, Shared
from wardround.orders import EvalJob, FitJob, LocalResult, SiteId
from wardround.plan import Plan
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["JobProcess"]

_MORE_STATE_BYTES = 1 << 20
"""Of what is kept between rounds, beside a value for each of the model's: names, and counts of batches."""
_MOST_ANSWER_BYTES = 1 << 20
_MARGIN_S = 5.0
_A = TypeVar("_A", Described, Loaded, Counted, Fitted)
_log = logging.getLogger("wardround")


class _Running:
    """A job's process, and the channel to it."""

    def __init__(self, job: LaunchedJob, channel: socket.socket) -> None:
        self.job = job
        self.requests = Channel(channel)
        self.answers = Channel(channel.dup(), most_bytes=_MOST_ANSWER_BYTES)
        self.asking = threading.RLock()
        """Held while it is asked: who ends it from another thread closes nothing that is in use."""
        self.facts: JobFacts | None = None
        self.loaded = False
        self.tainted = False
        """Code of the plan may have run in it."""
        self.late = self.ended = False

    def too_late(self) -> None:
        self.late = True
        self.job.end()

    def end(self) -> None:
        self.job.end()  # who waits for its answer finds that there is none
        with self.asking:
            self.requests.close()
            self.answers.close()


class JobProcess:
    """The job of one run over the table `file` (`format`: csv, parquet or images): a `SiteJob`, and a `Trainer`.

    Its process is started when it is asked something, and lives until `close`. One that ends, breaks the protocol or
    is late is ended with all that it has started: what was asked fails, and the next question starts another. `folder`
    is where each makes a folder of its own, `log` is a file that takes what it prints, `hidden` are folders that a
    confined one must not see: the site's own. One thread asks at a time, any may end it.

    Each process gets the table as an open file, which it closes before any code of the plan is loaded. `open_table`
    opens it, and raises where no process may read it; `rules` says what holds for the table when it is read.
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
        hidden: Sequence[Path] = (),
        python: str = sys.executable,
        limits: JobLimits | None = None,
        open_table: Callable[[], int] | None = None,
        rules: Callable[[], TableRules] = TableRules,
    ) -> None:
        self._plan, self._site, self._file, self._format = plan, site, file.resolve(), format
        self._folder, self._log, self._confined, self._python = folder, log, confined, python
        self._hidden, self._limits = tuple(hidden), limits or JobLimits()
        self._open_table, self._rules = open_table or self._opened, rules
        self._running: _Running | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._state = b""

    @property
    def trainer(self) -> "JobProcess":
        return self

    def describe(self) -> JobFacts:
        """Read the data, and say what is there, before any code of the plan is loaded.

        A process that has loaded it is not asked, since it may lie. Raises LocalError where they do not fit the plan.
        """
        with self._lock:
            tainted = self._running is not None and self._running.tainted
        if tainted:
            self.interrupt()
        with self._asking(loaded=False) as running:
            return running.facts or self._describe(running)

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        """Train from `model`, shape (d,). The update is a read-only view of memory that nobody can change any more."""
        with self._asking() as running, _Inputs(model, self._state) as inputs:
            found, shared = self._ask(running, Fit(order=job.order.encode(), seed=job.seed), inputs, Fitted)
            update, counts, state = shared
            if update.size != 4 * model.size:
                raise RemoteError(f"expected an update of {4 * model.size} bytes, got {update.size}")
            if running.facts is not None and found.num_examples > max(running.facts.train, 1):
                raise RemoteError(f"expected at most {running.facts.train} examples, got {found.num_examples}")
            if state.size > (most := 4 * model.size + _MORE_STATE_BYTES):
                raise RemoteError(f"expected at most {most} bytes to keep between rounds, got {state.size}")
            result = LocalResult(
                update=np.frombuffer(update.view(), dtype="<f4"),
                num_examples=found.num_examples,
                tally=tally_in(found.spec, counts),
            )
            self._state = bytes(state.view())
            return result

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        """Count how good `model` is on the job's split."""
        with self._asking() as running, _Inputs(model, self._state) as inputs:
            found, (counts,) = self._ask(running, Evaluate(order=job.order.encode()), inputs, Counted)
            return tally_in(found.spec, counts)

    def statistics(self) -> Tally:
        """Sums over the training rows that federated standardisation needs."""
        with self._asking() as running:
            found, (counts,) = self._ask(running, Count(), (), Counted)
            return tally_in(found.spec, counts)

    def state(self) -> bytes:
        """What the site keeps between rounds, as the job left it; empty where that is nothing."""
        return self._state

    def restore(self, state: bytes) -> None:
        """What the job finds before its next order."""
        self._state = state

    def interrupt(self) -> None:
        """End its process now, from any thread: the question under way fails, the next one starts another."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.ended = True
            running.end()

    def close(self) -> None:
        """End the process and what it started, from any thread; nothing is started any more."""
        with self._lock:
            self._closed = True
        self.interrupt()

    # -- one question ------------------------------------------------------------------------------

    @contextmanager
    def _asking(self, *, loaded: bool = True) -> Iterator[_Running]:
        """A process to ask, described and loaded; ended where it does not keep to the protocol."""
        running = self._started()
        with running.asking:
            try:
                if running.ended:
                    raise EOFError
                if loaded:
                    self._prepare(running)
                yield running
            except (RemoteError, EOFError, TimeoutError) as error:
                self._drop(running)
                if running.late or isinstance(error, TimeoutError):
                    reason = "gave no answer in time"
                elif isinstance(error, EOFError):
                    reason = "was ended" if running.ended else "ended without an answer"
                else:
                    reason = f"broke the protocol: {error}"
                raise LocalError(f"{self._site}: the job {reason}; its log {self._log.name} says more") from None

    def _prepare(self, running: _Running) -> None:
        if running.facts is None:
            self._describe(running)
        if not running.loaded:
            running.tainted = True
            self._ask(running, Load(files=_code_of(self._plan)), (), Loaded)
            running.loaded = True

    def _describe(self, running: _Running) -> JobFacts:
        asked = Describe(
            plan=self._plan.to_toml(),
            digest=self._plan.digest,
            code_files=self._plan.code_files,
            site=self._site,
            table=self._file.name,
            format=self._format,
            rules=self._rules(),
        )
        found, _ = self._ask(running, asked, (), Described)
        rows = found.rows - found.withdrawn
        running.facts = JobFacts(rows=rows, train=found.train, patients=found.patients)
        return running.facts

    def _ask(
        self, running: _Running, request: Request, shared: Sequence[Shared], expected: type[_A]
    ) -> tuple[_A, list[Shared]]:
        """The answer to a request, with the memory that came along.

        Raises LocalError where the job says that it failed, and what the channel raises. A job that does not even read
        what it is asked is ended by the clock.
        """
        deadline_s = self._limits.call_s
        if isinstance(request, Fit | Evaluate) and self._plan.cohort.deadline_s is not None:
            deadline_s = min(deadline_s, self._plan.cohort.deadline_s)
        clock = threading.Timer(deadline_s, running.too_late)
        clock.daemon = True
        clock.start()
        try:
            running.requests.send(encode_request(request), shared)
            header, found = running.answers.receive(deadline_s + _MARGIN_S)
        finally:
            clock.cancel()
        answer: Answer = decode_answer(header, len(found))
        if any(os.fstatvfs(one.fileno()).f_bsize != mmap.PAGESIZE for one in found):
            raise RemoteError("expected memory in ordinary pages")  # a huge one may kill who reads it
        if isinstance(answer, Failed):
            raise LocalError(answer.text if answer.text else f"{self._site}: the job failed")
        if not isinstance(answer, expected):
            raise RemoteError("expected the answer to what was asked, got that to something else")
        return answer, found

    # -- the process -------------------------------------------------------------------------------

    def _started(self) -> _Running:
        with self._lock:
            if self._closed:
                raise LocalError(f"{self._site}: the job was ended")
            if self._running is None:
                self._running = self._start()
            return self._running

    def _drop(self, running: _Running) -> None:
        with self._lock:
            if self._running is running:
                self._running = None
        running.end()

    def _opened(self) -> int:
        try:
            return os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LocalError(f"{self._file}: cannot be read ({error.strerror})") from None

    def _start(self) -> _Running:
        table = self._open_table()
        try:
            return self._start_with(table)
        finally:
            os.close(table)

    def _start_with(self, table: int) -> _Running:
        if not self._confined:
            _log.warning("%s: this job is NOT confined: it can reach the network and this site's keys", self._site)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            root = tempfile.mkdtemp(prefix="job-", dir=self._folder)
            wanted = Launch(
                python=self._python,
                arguments=("-I", "-B", "-m", "wardround.client.job", "3", "4"),
                environment=environment_of(root, confined=self._confined),
                confined=self._confined,
                root=root,
                limits=self._limits,
                channel=theirs.fileno(),
                table=table,
                hidden=tuple(str(one.absolute()) for one in self._hidden),
            )
            job = LaunchedJob.start(wanted, log=self._log, timeout_s=self._limits.start_s)
        except OSError as error:
            ours.close()
            raise LocalError(f"{self._site}: no job can be started ({error.strerror or error})") from None
        except LocalError as error:
            ours.close()
            raise LocalError(f"{self._site}: {error}") from None
        finally:
            theirs.close()
        return _Running(job, ours)


class _Inputs:
    """A model and what the site kept, in memory for the job to read."""

    def __init__(self, model: F32, state: bytes) -> None:
        self._model, self._state = model, state
        self._shared: list[Shared] = []

    def __enter__(self) -> Sequence[Shared]:
        vector = np.ascontiguousarray(self._model, dtype="<f4")
        self._shared = [Shared.of(vector.data.cast("B")), Shared.of(self._state)]
        return self._shared

    def __exit__(self, *_: object) -> None:
        for one in self._shared:
            one.close()


def _code_of(plan: Plan) -> dict[str, bytes]:
    """The files of the plan's code; the job checks that they are what the digest covers."""
    folder = plan.folder / (plan.task.code or "")
    try:
        return {name: (folder / name).read_bytes() for name, _ in plan.code_files}
    except OSError as error:
        raise LocalError(f"{folder}: the plan's code cannot be read ({error.strerror})") from None
