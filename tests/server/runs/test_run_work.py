"""How a run waits for the sites that it needs at its start."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wardround.errors import LocalError
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


def test_a_run_that_has_its_model_does_not_fail_for_want_of_a_test(tmp_path: Path) -> None:
    def nobody(*arguments: object) -> None:
        raise LocalError("no site answered")

    plan = SimpleNamespace(
        data=SimpleNamespace(test=0.2), privacy=SimpleNamespace(on=False), protection=SimpleNamespace(on=False)
    )
    work: Any = RunWork.__new__(RunWork)
    vars(work).update(_plan=plan, directory=SimpleNamespace(path=tmp_path), _strategy=SimpleNamespace(evaluate=nobody))
    assert work._tested(None, None) == (None, "untested: no site answered")


def test_a_full_disk_at_the_test_is_put_right_first(tmp_path: Path) -> None:
    def full(*arguments: object) -> None:
        raise LocalError("it cannot be written") from OSError(28, "No space left on device")

    plan = SimpleNamespace(
        data=SimpleNamespace(test=0.2), privacy=SimpleNamespace(on=False), protection=SimpleNamespace(on=False)
    )
    work: Any = RunWork.__new__(RunWork)
    vars(work).update(_plan=plan, directory=SimpleNamespace(path=tmp_path), _strategy=SimpleNamespace(evaluate=full))
    with pytest.raises(LocalError):
        work._tested(None, None)
