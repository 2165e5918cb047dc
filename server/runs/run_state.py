"""The states of a run, and what leads from one to another: one table, and nothing else moves a run."""

from collections.abc import Mapping
from enum import StrEnum

from wardround.errors import LocalError

__all__ = ["ENDED", "END_EVENTS", "RunEvent", "RunState", "after", "before"]


class RunState(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    """For the sites' approvals."""
    READY = "ready"
    """Every site has approved; it is about to start."""
    RUNNING = "running"
    PAUSED = "paused"
    """A round that was at work is still finished; then nothing runs until a person resumes it."""
    STOPPING = "stopping"
    """A person has stopped it, and what is finished is being written down."""
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


class RunEvent(StrEnum):
    """What happens to a run."""

    APPROVED = "approved"
    """The last site has approved."""
    DENIED = "denied"
    """A site has denied."""
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOP = "stopped"
    """A person stops it."""
    HALTED = "halted"
    """Its worker has stopped, as a person wanted."""
    FINISHED = "finished"
    FAILED = "failed"


ENDED = frozenset({RunState.FINISHED, RunState.STOPPED, RunState.FAILED})
"""No run leaves these."""

_TABLE: Mapping[tuple[RunState, RunEvent], RunState] = {
    (RunState.WAITING, RunEvent.APPROVED): RunState.READY,
    (RunState.WAITING, RunEvent.DENIED): RunState.FAILED,
    (RunState.WAITING, RunEvent.STOP): RunState.STOPPED,
    (RunState.READY, RunEvent.STARTED): RunState.RUNNING,
    (RunState.READY, RunEvent.STOP): RunState.STOPPED,
    (RunState.READY, RunEvent.FAILED): RunState.FAILED,
    (RunState.RUNNING, RunEvent.PAUSED): RunState.PAUSED,
    (RunState.RUNNING, RunEvent.STOP): RunState.STOPPING,
    (RunState.RUNNING, RunEvent.FINISHED): RunState.FINISHED,
    (RunState.RUNNING, RunEvent.FAILED): RunState.FAILED,
    (RunState.PAUSED, RunEvent.RESUMED): RunState.RUNNING,
    (RunState.PAUSED, RunEvent.STOP): RunState.STOPPING,
    (RunState.PAUSED, RunEvent.FINISHED): RunState.FINISHED,  # the round at work was the last
    (RunState.PAUSED, RunEvent.FAILED): RunState.FAILED,
    (RunState.STOPPING, RunEvent.HALTED): RunState.STOPPED,
    (RunState.STOPPING, RunEvent.FINISHED): RunState.FINISHED,  # it was faster
    (RunState.STOPPING, RunEvent.FAILED): RunState.FAILED,
}

END_EVENTS = frozenset(event for (_, event), state in _TABLE.items() if state in ENDED)
"""What may end a run."""


def after(state: RunState, event: RunEvent) -> RunState:
    """The state after `event`. Raises LocalError where it cannot happen in `state`."""
    found = _TABLE.get((state, event))
    if found is None:
        possible = sorted(one.value for one in before(event))
        raise LocalError(f"run: expected one that is {' or '.join(possible)}, got one that is {state.value}")
    return found


def before(event: RunEvent) -> frozenset[RunState]:
    """The states in which `event` can happen."""
    return frozenset(state for state, happens in _TABLE if happens is event)
