"""Runs, and the decisions of their sites."""

import pytest
import sqlalchemy as sa

from tests.server.state.at_once import at_once
from tests.server.state.rows import NOW, add_plan, add_run, add_sites, later
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.server.state import tables
from wardround.server.state.database import Database, TakenError
from wardround.server.state.events import Events
from wardround.server.state.run_sites import RunSites, Verdict
from wardround.server.state.runs import Run, RunEnd, Runs

A, B, C = SiteId("A"), SiteId("B"), SiteId("C")


def again(database: Database, run: Run) -> Run:
    found = Runs(database).get(run.id)
    assert found is not None
    return found


def test_a_new_run_waits_for_each_of_its_sites(database: Database) -> None:
    run = add_run(database, B, A)
    assert again(database, run) == Runs(database).numbered(1) == run
    assert (run.number, run.state, run.round, run.started, run.ended) == (1, "waiting", 0, None, None)
    found = RunSites(database).list(run.id)
    assert [(one.site, one.verdict, one.units, one.decided) for one in found] == [
        (A, Verdict.WAITING, None, None),
        (B, Verdict.WAITING, None, None),
    ]
    assert Runs(database).numbered(2) is Runs(database).numbered(0) is Runs(database).numbered(1 << 70) is None


def test_a_run_with_an_unknown_site_is_not_made(database: Database) -> None:
    digest = add_plan(database)
    add_sites(database, A)
    for plan, sites in ((digest, [A, B]), ("unknown", [A])):
        with pytest.raises(TakenError):
            Runs(database).create(plan_digest=plan, name="x", sites=sites, created_by="ada", now=NOW)
    assert Runs(database).list() == []


def test_numbers_of_runs_count_up_however_many_are_made(database: Database, url: str) -> None:
    digest = add_plan(database)

    def create(one: Database, _: int) -> list[int]:
        return [
            Runs(one).create(plan_digest=digest, name="x", sites=[], created_by="ada", now=NOW).number for _ in range(5)
        ]

    numbers = at_once(url, 6, create)
    assert sorted(number for some in numbers for number in some) == list(range(1, 31))
    assert [run.number for run in Runs(database).list()] == list(range(1, 31))


def test_a_run_moves_from_the_states_that_are_named(database: Database) -> None:
    run, runs = add_run(database), Runs(database)
    assert not runs.move(run.id, {"running"}, "paused", reason="no", now=NOW)
    assert again(database, run) == run
    assert runs.move(run.id, {"waiting"}, "running", reason="approved", now=later(1))
    assert runs.move(run.id, {"running"}, "paused", reason="by ada", now=later(2))
    assert runs.move(run.id, {"paused", "ready"}, "running", reason="", now=later(3))
    moved = again(database, run)
    assert (moved.state, moved.started, moved.ended) == ("running", later(1), None)
    assert runs.move(run.id, {"running"}, "finished", reason="all rounds", now=later(4))
    ended = again(database, run)
    assert (ended.state, ended.reason, ended.started, ended.ended) == ("finished", "all rounds", later(1), later(4))
    assert not runs.move(run.id, {"finished"}, "running", reason="", now=later(5)), "what has ended does not go on"
    assert not runs.move("unknown", {"waiting"}, "running", reason="", now=NOW)
    assert runs.list({"finished"}) == [ended]
    assert runs.list(set()) == []


def test_a_state_that_is_none_is_refused(database: Database) -> None:
    run = add_run(database)
    with pytest.raises(LocalError):
        Runs(database).move(run.id, {"waiting"}, "dancing", reason="", now=NOW)
    assert again(database, run) == run


def test_of_two_moves_at_once_one_happens(database: Database, url: str) -> None:
    run = add_run(database)
    Runs(database).move(run.id, {"waiting"}, "running", reason="", now=NOW)
    targets = ["paused", "stopping", "failed", "finished"]
    moved = at_once(url, 8, lambda one, i: Runs(one).move(run.id, {"running"}, targets[i % 4], reason="", now=later()))
    assert sum(moved) == 1
    assert again(database, run).state == targets[moved.index(True) % 4]


def test_the_round_only_goes_up(database: Database, url: str) -> None:
    run = add_run(database)
    assert Runs(database).set_round(run.id, 3)
    assert not Runs(database).set_round(run.id, 3)
    assert not Runs(database).set_round(run.id, 2)
    assert sum(at_once(url, 6, lambda one, _: Runs(one).set_round(run.id, 4))) == 1
    assert again(database, run).round == 4


def test_a_site_decides_once_however_often_it_says_so(database: Database, url: str) -> None:
    run = add_run(database, A, B)
    verdicts = [Verdict.APPROVED, Verdict.DENIED]

    def decide(one: Database, i: int) -> bool:
        return RunSites(one).decide(
            run.id, A, verdicts[i % 2], reason=f"reason {i}", units=i, signature=b"s", now=later()
        )

    decided = at_once(url, 8, decide)
    assert sum(decided) == 1
    first = decided.index(True)
    found = RunSites(database).get(run.id, A)
    assert found is not None
    assert (found.verdict, found.reason, found.units) == (verdicts[first % 2], f"reason {first}", first)
    assert (found.signature, found.decided) == (b"s", later())
    other = RunSites(database).get(run.id, B)
    assert other is not None
    assert other.verdict is Verdict.WAITING


def test_a_site_that_was_not_asked_does_not_decide(database: Database) -> None:
    run = add_run(database, A, B)
    decide = RunSites(database).decide
    for run_id, site in ((run.id, C), ("unknown", A)):
        assert not decide(run_id, site, Verdict.APPROVED, reason="", units=None, signature=b"s", now=NOW)
    with pytest.raises(ValueError, match="expected a decision"):
        decide(run.id, A, Verdict.WAITING, reason="", units=None, signature=b"s", now=NOW)


def test_no_decision_without_its_signature_and_its_time(database: Database) -> None:
    """Whatever writes to the table: the database itself says no."""
    run, one = add_run(database, A), tables.run_sites
    for values in ({"verdict": "approved", "decided": NOW}, {"verdict": "approved", "signature": b"s"}):
        with pytest.raises(TakenError), database.transaction() as connection:
            connection.execute(sa.update(one).where(one.c.run_id == run.id).values(**values))


def test_a_site_sees_what_it_was_asked(database: Database) -> None:
    first = add_run(database, A, B)
    second = Runs(database).create(plan_digest="d1", name="x", sites=[B], created_by="ada", now=NOW)
    RunSites(database).offer(second.id, [A])
    with pytest.raises(TakenError):
        RunSites(database).offer(second.id, [A])
    assert sorted(one.run_id for one in RunSites(database).of_site(A)) == sorted([first.id, second.id])


def test_the_ends_of_a_site_s_runs_come_in_order(database: Database) -> None:
    runs, events, ended = Runs(database), Events(database), {"run.failed", "run.stopped"}
    one = add_run(database, A, B)
    two, still_open = (
        runs.create(plan_digest="d1", name="cardio", sites=[A], created_by="ada", now=NOW) for _ in range(2)
    )
    for run, kind in ((one, "run.stopped"), (still_open, "run.stopped"), (two, "run.failed"), (one, "run.failed")):
        events.add(kind, now=NOW, run_id=run.id)
    for run in (one, two):
        assert runs.move(run.id, {"waiting"}, "failed", reason="", now=NOW)
    events.add("model.exported", now=NOW, run_id=two.id)
    found: list[RunEnd] = []
    while (end := runs.next_end(A, ended, after=found[-1].event if found else 0)) is not None:
        found.append(end)
    assert [(end.event, end.run_id, end.state) for end in found] == [(3, two.id, "failed"), (4, one.id, "failed")]
    only = runs.next_end(B, ended, after=0)
    assert only is not None and (only.event, runs.next_end(B, ended, after=4)) == (4, None)
