"""The agent's process: it holds the folder's lock and the link, and looks once a second for what was decided."""

import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from wardround import __version__
from wardround.client.agent.agent import Agent, Run
from wardround.client.agent.agent import Renewal as AgentRenewal
from wardround.client.agent.json_log import log_to_stderr
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.enrolment.renewal import Renewal
from wardround.client.enrolment.site_files import SiteFiles
from wardround.client.job.limits import JobLimits
from wardround.errors import LocalError, WardroundError
from wardround.link.messages import Notice
from wardround.link.tls import ClientTls

if TYPE_CHECKING:
    from wardround.client.agent.site_job import JobMaker

__all__ = ["Link", "run_agent", "serve"]

_LOOK_S = 1.0
_TICKS = 60
"""What is due from time to time is looked at once in so many looks."""
_END_S = 15.0
"""What is under way when the agent is to end has so long; then it ends as after a kill, which loses nothing."""
_log = logging.getLogger("wardround")


class Link(Protocol):
    """The link to the server."""

    def run(self, stop: threading.Event) -> None: ...

    def notify(self, notice: Notice) -> None: ...


def serve(
    path: Path,
    *,
    job_python: Path | None = None,
    allow_unconfined: bool = False,
    job_limits: JobLimits | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run the agent of the folder `path` until SIGTERM or SIGINT. Raises WardroundError where it cannot (any more)."""
    from wardround.client.job.namespaces import undumpable
    from wardround.client.link.connection import Connection

    folder, stop = SiteFolder(path), stop or threading.Event()
    undumpable()
    log_to_stderr()
    with folder.lock(tries=10):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stopper(stop))
        threading.Thread(target=_end_at_last, args=(stop,), name="end", daemon=True).start()
        for left in folder.folder("jobs").glob("job-*"):  # of jobs whose agent was killed
            shutil.rmtree(left, ignore_errors=True)
        files = SiteFiles(folder.path)

        def tls() -> ClientTls:
            found = files.tls()
            return ClientTls(private_key=found.key, certificate_chain=found.certificate, authority=found.authority)

        run_agent(
            folder,
            lambda agent: Connection(
                folder.facts.target,
                tls,
                agent,
                software=f"wardround {__version__}",
                room=agent.room,
                beside=agent.sum_bytes,
            ),
            jobs=lambda: _jobs(folder, job_python, allow_unconfined, job_limits),
            renewal=Renewal(folder, fraction=secrets.SystemRandom().random()),
            stop=stop,
        )


def _jobs(folder: SiteFolder, python: Path | None, allow_unconfined: bool, limits: JobLimits | None) -> "JobMaker":
    from wardround.client.agent.confined_jobs import ConfinedJobs

    return ConfinedJobs(folder, python=python, allow_unconfined=allow_unconfined, limits=limits)


def _stopper(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()

    return asked


def _end_at_last(stop: threading.Event) -> None:
    """End the process some time after `stop`, whatever holds its threads up: a disk that hangs, say."""
    stop.wait()
    time.sleep(_END_S)
    _log.error("something did not end within %g s; the process ends without it, as after a kill", _END_S)
    os._exit(1)


def run_agent(
    folder: SiteFolder,
    link_of: Callable[[Agent], Link],
    *,
    jobs: "Callable[[], JobMaker]",
    stop: threading.Event,
    renewal: AgentRenewal | None = None,
    look_s: float = _LOOK_S,
) -> None:
    """Attach, and do what is asked and decided until `stop`. Raises what ended the link for good.

    `jobs` is asked for the maker of jobs when the first run needs it.
    """
    makers: list[JobMaker] = []

    def run_of(name: str) -> Run:
        from wardround.client.agent.site_run import SiteRun  # only now: numpy and the protocol cost 20 MB

        if not makers:
            makers.append(jobs())
        return SiteRun(folder, name, makers[0], audit=agent.audit)

    def finish(name: str, reason: str) -> None:
        from wardround.client.agent.site_run import finish_run

        finish_run(folder, name, reason, audit=agent.audit)

    agent = Agent(folder, run_of=run_of, finish=finish, renewal=renewal)
    link = link_of(agent)
    agent.attach(link.notify)
    agent.audit.add("agent.started", version=__version__)
    failed: list[WardroundError] = []

    def attach() -> None:
        try:
            link.run(stop)
        except WardroundError as error:
            failed.append(error)
        except Exception:
            _log.exception("the link failed; this is a bug")
            failed.append(LocalError("the link failed; the log above says how"))
        finally:
            stop.set()

    thread = threading.Thread(target=attach, name="link")
    thread.start()
    try:
        _watch(folder, agent, stop, look_s)
    finally:
        stop.set()
        thread.join()
        agent.close()
        with suppress(LocalError):  # a full disk keeps no process from ending
            agent.audit.add("agent.stopped")
        agent.seal()
    if failed:
        raise failed[0]
    _log.info("stopped")
    sys.stderr.flush()


def _watch(folder: SiteFolder, agent: Agent, stop: threading.Event, look_s: float) -> None:
    seen: tuple[int, int] | None = None
    looks = 0
    while not stop.is_set():
        due = looks % _TICKS == 0
        looks += 1
        try:
            changes = folder.changes()
            if changes != seen or due:
                seen = changes
                agent.look()
            if due:
                agent.tick()
        except (WardroundError, OSError) as error:
            _log.error("what was decided cannot be looked at (now): %s", error)
        except Exception:
            _log.exception("a look at what was decided failed; this is a bug")
        agent.seal()
        stop.wait(look_s)
