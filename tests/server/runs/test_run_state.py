"""Every pair of a state and an event: what follows, and that nothing else does."""

import pytest

from wardround.errors import LocalError
from wardround.server.runs.run_state import ENDED, RunEvent, RunState, after, before
from wardround.server.state import runs

FOLLOWS = {
    RunState.WAITING: {"approved": "ready", "denied": "failed", "stopped": "stopped"},
    RunState.READY: {"started": "running", "stopped": "stopped", "failed": "failed"},
    RunState.RUNNING: {"paused": "paused", "stopped": "stopping", "finished": "finished", "failed": "failed"},
    RunState.PAUSED: {"resumed": "running", "stopped": "stopping", "finished": "finished", "failed": "failed"},
    RunState.STOPPING: {"halted": "stopped", "finished": "finished", "failed": "failed"},
}


@pytest.mark.parametrize("state", RunState)
@pytest.mark.parametrize("event", RunEvent)
def test_every_pair(state: RunState, event: RunEvent) -> None:
    follows = FOLLOWS.get(state, {}).get(event)
    assert (state in before(event)) == (follows is not None)
    if follows is None:
        with pytest.raises(LocalError, match=f"got one that is {state}"):
            after(state, event)
    else:
        assert after(state, event) == follows


def test_the_states_that_no_run_leaves_are_those_of_the_table_of_runs() -> None:
    assert {state.value for state in ENDED} == runs.ENDED
    assert not ENDED & FOLLOWS.keys()
