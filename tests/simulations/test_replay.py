"""Retraining without a site: where it begins, what it equals, what it leaves alone and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.simulations.attacked_federation import (
    IMPATIENT,
    SITES,
    Stop,
    StopAfter,
    attackers,
    hospitals,
    plan,
    run,
)
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan
from wardround.server.runs.run_directory import RunDirectory, read_lines
from wardround.server.runs.run_info import read_info
from wardround.simulations.executors.calibration import EngineChoice, make_executor
from wardround.simulations.executors.flat_loop import TrainerOf
from wardround.simulations.federation import build_federation, with_inputs
from wardround.simulations.participants import gather_task
from wardround.simulations.replay import prepare_replay, release_site
from wardround.simulations.simulate import local_grid
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.plain import Plain
from wardround.strategies.records import RunState
from wardround.strategies.reputation import Reputation
from wardround.strategies.rules.build import build_rule
from wardround.vector import F32

ROBUST: dict[str, Any] = {
    "robust": {"rule": "trimmed_mean", "num_byzantine": 1, "detectors": [], "quarantine": {"enabled": False}}
}


def late(*settings: str, **tables: Any) -> Plan:
    """One site sends NaN from round 4 of 8 on."""
    return plan("rounds=8", "simulation.attack.from_round=4", *settings, attack="nan", **{**ROBUST, **tables})


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "original"
    run(late(), out=folder)
    return folder


LIAR = attackers(late())[0]


def trained_by_hand(chosen: Plan, state: RunState) -> F32:
    """What the rounds after `state` make of it, without a run directory."""
    sites = build_federation(chosen, hospitals())
    chosen = with_inputs(chosen, sites)
    participants = gather_task(chosen, sites)
    assert participants.task is not None
    engine = EngineChoice(executor="flat", block_size=1, workers=1)
    trainer_of = cast(TrainerOf, participants.trainers.__getitem__)
    grid = local_grid(chosen, participants, make_executor(engine, participants.task, chosen, trainer_of))
    strategy = FederatedStrategy(
        chosen,
        run_id="by hand",
        protection=Plain(chosen),
        rule=build_rule(chosen.robust),
        num_parameters=participants.layout.num_parameters,
    )
    return strategy.run(grid, state).model


def test_it_begins_before_the_first_suspicion_and_equals_the_rounds_done_by_hand(
    original: Path, tmp_path: Path
) -> None:
    before = tree(original)
    prepared = prepare_replay(original, [LIAR], tmp_path / "again")
    assert prepared.first_round == 4 and prepared.folder == tmp_path / "again"
    assert prepared.notes == ("what was learned with the site in rounds 1 to 3 is still in the model",)
    assert read_lines(prepared.folder) == read_lines(original)[:3]
    again = run(prepared.plan, out=prepared.folder, resume=True)
    assert tree(original) == before
    assert [line["round"] for line in again.rounds] == list(range(1, 9))
    assert all((LIAR in line["cohort"]) == (line["round"] < 4) for line in again.rounds)
    with RunDirectory.open(original) as source:
        base = source.checkpoint(3)
    honest = plan("rounds=8", f'cohort.without=["{LIAR}"]', **ROBUST)
    by_hand = trained_by_hand(honest, replace(base.state, reputation=Reputation()))
    assert again.model.tobytes() == by_hand.tobytes()


def test_run_json_says_what_was_repeated(original: Path, tmp_path: Path) -> None:
    prepare_replay(original, [LIAR], tmp_path / "again")
    info, of = read_info(tmp_path / "again"), read_info(original)
    assert info.origin == {"run_id": of.run_id, "without": [LIAR], "from_round": 4}
    assert info.run_id != of.run_id and info.engine == of.engine and of.origin is None


def test_from_the_first_round_it_is_a_run_that_never_had_the_site(original: Path, tmp_path: Path) -> None:
    prepared = prepare_replay(original, [LIAR], tmp_path / "again", 1)
    assert prepared.first_round == 1 and prepared.notes == ()
    again = run(prepared.plan, out=prepared.folder, resume=True)
    never = run(plan("rounds=8", f'cohort.without=["{LIAR}"]', **ROBUST))
    assert again.model.tobytes() == never.model.tobytes()


@pytest.mark.parametrize(("start", "first", "notes"), [(6, 4, 2), (7, 7, 1), (8, 8, 1), (3, 1, 1)])
def test_it_begins_at_the_last_kept_checkpoint(
    original: Path, tmp_path: Path, start: int, first: int, notes: int
) -> None:
    """Kept are rounds 3, 6, 7 and 8: the one before the suspicion and the last three."""
    prepared = prepare_replay(original, [LIAR], tmp_path / "again", start)
    assert prepared.first_round == first and len(prepared.notes) == notes
    assert (f"rounds {first} to {start - 1} are trained again too" in " ".join(prepared.notes)) == (first < start)


def test_an_interrupted_replay_goes_on(original: Path, tmp_path: Path) -> None:
    whole = prepare_replay(original, [LIAR], tmp_path / "whole")
    result = run(whole.plan, out=whole.folder, resume=True)
    cut = prepare_replay(original, [LIAR], tmp_path / "cut")
    with pytest.raises(Stop):
        run(cut.plan, out=cut.folder, resume=True, observer=StopAfter(6))
    resumed = run(cut.plan, out=cut.folder, resume=True)
    assert resumed.model.tobytes() == result.model.tobytes() and len(resumed.rounds) == 8


def test_a_replay_can_be_replayed(original: Path, tmp_path: Path) -> None:
    first = prepare_replay(original, [LIAR], tmp_path / "first")
    run(first.plan, out=first.folder, resume=True)
    other = next(site for site in SITES if site != LIAR)
    second = prepare_replay(first.folder, [other, other], tmp_path / "second", 7)
    assert second.plan.cohort.without == (LIAR, other)
    again = run(second.plan, out=second.folder, resume=True)
    assert {len(line["cohort"]) for line in again.rounds[6:]} == {3}
    with pytest.raises(LocalError, match=f"expected a site that took part in this run, got '{LIAR}'"):
        prepare_replay(first.folder, [LIAR], tmp_path / "third", 7)


@pytest.mark.parametrize(
    ("without", "start", "message"),
    [
        (["nobody"], None, "expected a site that took part in this run, got 'nobody'"),
        ([LIAR, ""], None, "expected a site that took part in this run, got ''"),
        ([], None, "expected at least one site to do without"),
        ([next(site for site in SITES if site != LIAR)], None, "was never suspicious; say from which round: --from"),
        ([LIAR], 0, "expected a round from 1 to 8, got 0"),
        ([LIAR], 9, "expected a round from 1 to 8, got 9"),
        ([LIAR], -1, "expected a round from 1 to 8, got -1"),
        (list(SITES), None, r"cohort\.without: expected fewer than all 5 sites"),
        (list(SITES[:3]), None, "expected a rule that works for a cohort of 2"),
    ],
)
def test_what_cannot_be_replayed_is_refused_and_nothing_is_made(
    original: Path, tmp_path: Path, without: list[str], start: int | None, message: str
) -> None:
    before = tree(original)
    with pytest.raises(LocalError, match=message):
        prepare_replay(original, without, tmp_path / "again", start)
    assert not (tmp_path / "again").exists() and tree(original) == before


def test_a_folder_with_content_is_left_as_it_is(original: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(LocalError, match="exists"):
        prepare_replay(original, [LIAR], tmp_path)
    assert tree(tmp_path) == {"mine": b"mine"}
    before = tree(original)
    with pytest.raises(LocalError, match="exists"):
        prepare_replay(original, [LIAR], original)
    assert tree(original) == before


def test_a_run_without_a_round_cannot_be_replayed(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "new", late(), {}).close()
    with pytest.raises(LocalError, match="expected a site that took part in this run"):
        prepare_replay(tmp_path / "new", [LIAR], tmp_path / "again")


def test_a_cohort_and_a_quorum_that_counted_on_the_site_shrink(tmp_path: Path) -> None:
    run(late("rounds=4", "cohort.size=5", "cohort.min_replies=4"), out=tmp_path / "run")
    one = prepare_replay(tmp_path / "run", [LIAR], tmp_path / "one").plan.cohort
    assert (one.size, one.min_replies) == (4, 4)
    other = next(site for site in SITES if site != LIAR)
    two = prepare_replay(tmp_path / "run", [LIAR, other], tmp_path / "two").plan.cohort
    assert (two.size, two.min_replies) == (3, 3)


def test_sums_of_the_site_in_the_standardisation_are_named(tmp_path: Path) -> None:
    target = {"name": "ill", "classes": ["no", "yes"]}
    columns = [{"name": name, "range": [-9.0, 9.0]} for name in "abcd"]
    data = {"data": {"source": "arrays", "target": target, "columns": columns, "standardize": "federated"}}
    run(late("rounds=4", **data), out=tmp_path / "run")
    notes = prepare_replay(tmp_path / "run", [LIAR], tmp_path / "again").notes
    assert notes[-1] == "so are its sums in the standardisation; --from 1 trains without them"
    assert prepare_replay(tmp_path / "run", [LIAR], tmp_path / "whole", 1).notes == ()


def test_a_run_that_stopped_early_goes_on_without_the_site(tmp_path: Path) -> None:
    settings = ("evaluation.every=1", "evaluation.patience=1", "training.lr=30.0", "evaluation.min_delta=5.0")
    stopped = run(late("simulation.attack.from_round=1", *settings), out=tmp_path / "run")
    assert stopped.stopped and len(stopped.rounds) < 8
    prepared = prepare_replay(tmp_path / "run", [LIAR], tmp_path / "again", len(stopped.rounds))
    again = run(prepared.plan, out=prepared.folder, resume=True)
    assert len(again.rounds) >= len(stopped.rounds)


def test_other_sites_stay_in_quarantine_and_released_ones_stay_released(tmp_path: Path) -> None:
    robust = {"rule": "trimmed_mean", "num_byzantine": 1, "detectors": []}
    chosen = plan("rounds=9", *IMPATIENT, attack="nan", robust=robust)
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        run(chosen, out=folder, observer=StopAfter(5))
    release_site(folder, LIAR, "me", "mended")
    with pytest.raises(Stop):
        run(chosen, out=folder, resume=True, observer=StopAfter(7))
    other = next(site for site in SITES if site != LIAR)

    def held(start: int, name: str) -> set[SiteId]:
        prepared = prepare_replay(folder, [other], tmp_path / name, start)
        assert prepared.first_round == start
        with RunDirectory.open(prepared.folder) as directory:
            latest = directory.latest()
        assert latest is not None
        return set(latest.state.reputation.quarantined)

    assert held(6, "after the release") == set()
    with pytest.raises(Stop):
        run(chosen, out=tmp_path / "kept", observer=StopAfter(5))
    prepared = prepare_replay(tmp_path / "kept", [other], tmp_path / "still", 5)
    with RunDirectory.open(prepared.folder) as directory:
        latest = directory.latest()
    assert latest is not None and set(latest.state.reputation.quarantined) == {LIAR}
    gone = prepare_replay(tmp_path / "kept", [LIAR], tmp_path / "gone", 5)
    with RunDirectory.open(gone.folder) as directory:
        latest = directory.latest()
    assert latest is not None and not latest.state.reputation.quarantined
    assert LIAR not in latest.state.reputation.standings
    assert np.isfinite(latest.state.model).all()
