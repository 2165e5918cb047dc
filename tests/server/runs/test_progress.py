"""What a person or a program sees of a run while it goes on."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from wardround.contribution import Report
from wardround.orders import SiteId
from wardround.plan import Plan, parse_plan
from wardround.server.runs.progress import JsonProgress, LineProgress, LiveProgress, Progress, show_progress
from wardround.strategies.records import Absence, EvaluationRecord, RoundRecord, RunState
from wardround.strategies.secagg.round_evidence import GroupOutcome, ProtectionRecord
from wardround.tally import ClassificationSpec, Tally

PLAN = parse_plan(
    {
        "name": "small",
        "rounds": 3,
        "task": {"name": "tabular-classifier"},
        "data": {"source": "arrays", "target": {"name": "y", "classes": ["a", "b"]}},
    }
)


def validation() -> EvaluationRecord:
    """Four rows: one of the two positives ranks above both negatives, the other between them: an AUC of 3/4."""
    tally = Tally.empty(ClassificationSpec(classes=2, bins=4))
    tally.counts[:2] = 4, 2 << 20
    tally.histograms[0, 0, [0, 2]] = 1
    tally.histograms[0, 1, [1, 3]] = 1
    return EvaluationRecord(total=tally)


def record(number: int, *absences: str, void: bool = False, judged: bool = True) -> RoundRecord:
    return RoundRecord(
        round=number,
        cohort=tuple(SiteId(f"s{i}") for i in range(4)),
        absences=tuple(Absence(site=SiteId(f"s{i}"), reason=reason) for i, reason in enumerate(absences)),
        void=void,
        lr=0.1,
        update_norm=1.0,
        train=None,
        validation=validation() if judged else None,
        report=Report(),
        seconds=0.5,
        cpu_seconds=0.4,
    )


def state(number: int, stopped: str = "") -> RunState:
    return RunState(round=number, model=np.zeros(1, dtype=np.float32), stopped=stopped)


def lines(*records: RoundRecord, stopped: str = "", plan: Plan = PLAN) -> list[str]:
    out = io.StringIO()
    with LineProgress(out, plan) as progress:
        for one in records:
            progress.round_done(one, state(one.round, stopped))
    return out.getvalue().splitlines()


def test_a_line_per_round() -> None:
    assert lines(record(1), record(2, "dropped out", "too late", judged=False)) == [
        "round 1/3  auc 0.75  loss 0.5  4/4 sites  0.50 s",
        "round 2/3  2/4 sites (dropped out, too late)  0.50 s",
    ]


def test_a_void_round_is_called_so() -> None:
    assert lines(record(1, "x", "x", "x", void=True, judged=False)) == ["round 1/3  1/4 sites (x), round void  0.50 s"]


def test_the_end_says_what_comes_next() -> None:
    assert lines(record(3))[1:] == ["now each hospital alone, all rows pooled, then the report"]
    ending = lines(record(2), stopped="no better for 5 evaluations")[-1]
    assert ending.startswith("stopped after round 2: no better for 5 evaluations; now ")
    assert len(lines(record(3), plan=PLAN.override(["simulation.baselines=false"]))) == 1


def test_json_is_a_line_of_the_run_directory() -> None:
    out = io.StringIO()
    with JsonProgress(out) as progress:
        progress.round_done(record(1, "late"), state(1))
        progress.round_done(record(2), state(2))
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["round"], first["absences"]) == (1, [{"site": "s0", "reason": "late"}])
    assert second["validation"]["metrics"]["auc"] == 0.75


@pytest.mark.parametrize("first", [1, 3])
def test_the_live_bar_on_a_terminal(first: int) -> None:
    """Also of a resumed run, whose first round is not 1."""
    out = io.StringIO()
    with LiveProgress(Console(file=out, force_terminal=True, width=120), PLAN) as progress:
        for number in range(first, 4):
            progress.round_done(record(number, "late"), state(number))
    text = out.getvalue()
    assert "3/3" in text
    assert "auc 0.75  loss 0.5  3/4 sites (late)" in text
    assert "now each hospital alone" in text
    assert text.endswith("\x1b[?25h")  # the cursor is back


def test_an_exception_leaves_the_terminal_as_it_was() -> None:
    out = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        LiveProgress(Console(file=out, force_terminal=True, width=120), PLAN) as progress,
    ):
        progress.round_done(record(1), state(1))
        raise KeyboardInterrupt
    assert out.getvalue().endswith("\x1b[?25h")


def test_what_suits_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert type(show_progress(PLAN, quiet=True)) is Progress
    assert isinstance(show_progress(PLAN, as_json=True), JsonProgress)
    with show_progress(PLAN) as progress:
        progress.round_done(record(1), state(1))
    assert capsys.readouterr().out.startswith("round 1/3")


def test_sums_are_counted_beside_the_sites() -> None:
    groups = [(SiteId("s0"), SiteId("s1")), (SiteId("s2"),), ()]
    found = ProtectionRecord(
        epoch=0,
        round=0,
        groups=tuple(GroupOutcome(number=n, members=group, survivors=group) for n, group in enumerate(groups)),
    )
    one = replace(record(1, "late", judged=False), protection=found)
    assert lines(one) == ["round 1/3  3/4 sites in 2 groups (late)  0.50 s"]
    accounted = replace(one, protection=replace(found, accounted=True))
    assert lines(accounted) == ["round 1/3  3/4 sites in 2 groups, no cryptography ran (late)  0.50 s"]
