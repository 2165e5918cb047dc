"""How a run waits for the sites that it needs at its start."""

from types import SimpleNamespace
from typing import Any

import pytest

from wardround.server.runs import run_work
from wardround.server.runs.run_work import RunWork
from wardround.strategies.federated import SitesAwayError


def test_sites_that_are_away_are_asked_again_however_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hospital may be away over a long weekend."""
    waits: list[float] = []
    work: Any = RunWork.__new__(RunWork)
    vars(work).update(_start=SimpleNamespace(run_id="r"), _wait=waits.append, _strategy=None, directory=None)

    def away(*arguments: object) -> None:
        raise SitesAwayError("site-01: no reply by the deadline")

    monkeypatch.setattr(run_work, "agreed", away)
    assert work._agreed(None, None, lambda: len(waits) == 2000) is None
    assert waits[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]) and set(waits[7:]) == {5.0}
