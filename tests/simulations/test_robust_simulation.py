"""Whole runs with robust rules: what a resumed run remembers, the server's own rows, quarantine and release."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.simulations.attacked_federation import (
    IMPATIENT,
    SITES,
    Stop,
    StopAfter,
    attackers,
    cut_and_continued,
    hospitals,
    plan,
    pool,
    run,
)
from wardround.client.trainer.tasks.tabular import TabularClassifier
from wardround.errors import LocalError
from wardround.orders import Order, OrderKind
from wardround.plan import Plan, PlanError
from wardround.server.runs.audit_log import AUDIT_FILE
from wardround.server.runs.checkpoint import Checkpoint
from wardround.server.runs.run_directory import RunDirectory, read_lines
from wardround.simulations.attacks.adversary import ATTACKERS
from wardround.simulations.federation import build_federation, server_rows, with_inputs
from wardround.simulations.participants import data_digest, gather_task
from wardround.simulations.replay import release_site
from wardround.simulations.result import Result
from wardround.simulations.server_root import SERVER, ServerRoot
from wardround.simulations.simulate import simulate

ROOT: dict[str, Any] = {"robust": {"rule": "fltrust", "root_examples": 20, "num_byzantine": 1}}


def without_times(result: Result) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in result.rounds]


def latest(folder: Path) -> Checkpoint:
    with RunDirectory.open(folder) as directory:
        found = directory.latest()
    assert found is not None
    return found


# -- a resumed run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "robust", "kept"),
    [
        ("free_rider", {}, "(attackers)"),
        ("mimic", {}, "(attackers)"),
        ("sign_flip", {"rule": "centered_clipping"}, "rule/"),
        ("sign_flip", {"detectors": ["fldetector", "foolsgold"]}, "fldetector/ foolsgold/"),
        ("scaled_sign_flip", {"detectors": ["norm", "cosine"], "rule": "geometric_median"}, "reputation"),
    ],
)
def test_what_was_remembered_survives_a_stop_to_the_bit(
    tmp_path: Path, attack: str, robust: dict[str, Any], kept: str
) -> None:
    table = {"rule": "trimmed_mean", "num_byzantine": 1, **robust}
    chosen = plan("rounds=6", attack=attack, robust=table)
    whole = run(chosen)
    with pytest.raises(Stop):
        run(chosen, out=tmp_path / "run", observer=StopAfter(3))
    checkpoint = latest(tmp_path / "run")
    names = {f"{name.split('/')[0]}/" for name in checkpoint.state.rule_memory}
    found = names | {str(site) for site in checkpoint.sites}
    if checkpoint.state.reputation.standings:
        found.add("reputation")
    assert set(kept.split()) <= found
    resumed = run(chosen, out=tmp_path / "run", resume=True)
    assert resumed.model.tobytes() == whole.model.tobytes() and without_times(resumed) == without_times(whole)


def test_a_forgotten_memory_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: without the attackers' memory the continued run is another."""
    chosen = plan("rounds=5", attack="free_rider", robust={"rule": "mean"})
    whole = run(chosen)
    with pytest.raises(Stop):
        run(chosen, out=tmp_path / "run", observer=StopAfter(3))
    latest_of = RunDirectory.latest

    def forgetful(directory: RunDirectory) -> Checkpoint | None:
        found = latest_of(directory)
        assert found is not None
        return Checkpoint(run_id=found.run_id, plan_digest=found.plan_digest, state=found.state)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "latest", forgetful)
        assert run(chosen, out=tmp_path / "run", resume=True).model.tobytes() != whole.model.tobytes()


def test_attackers_that_keep_nothing_are_in_no_checkpoint(tmp_path: Path) -> None:
    run(plan("rounds=1", attack="sign_flip"), out=tmp_path / "run")
    assert ATTACKERS not in latest(tmp_path / "run").sites


# -- FLTrust's rows -----------------------------------------------------------------------------------


def test_the_servers_rows_are_at_no_site_and_the_same_every_time() -> None:
    chosen = plan(**ROOT)
    x, y = pool()
    rows = server_rows(chosen, (x, y))
    assert rows is not None and len(rows) == 20
    federation = build_federation(chosen, (x, y))
    at_sites = np.concatenate([part.x for site in federation for part in (site.train, site.validation, site.test)])
    assert len(at_sites) == 180
    found = {row.tobytes() for row in at_sites} | {row.tobytes() for row in rows.x}
    assert found == {row.tobytes() for row in x} and len(found) == 200
    again = server_rows(chosen, (x, y))
    assert again is not None and again.x.tobytes() == rows.x.tobytes() and again.y.tobytes() == rows.y.tobytes()
    assert data_digest(build_federation(chosen, (x, y))) == data_digest(federation)
    other = server_rows(chosen.override(["seed=1"]), (x, y))
    assert other is not None and other.x.tobytes() != rows.x.tobytes()


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity"])
def test_without_server_rows_the_deal_is_the_one_it_was(kind: str) -> None:
    chosen = plan(f"simulation.partition.kind={kind}", "data.min_examples=2")
    assert server_rows(chosen, pool()) is None
    assert sum(len(part) for s in build_federation(chosen, pool()) for part in (s.train, s.validation, s.test)) == 200


def test_rows_that_hospitals_gave_are_never_the_servers() -> None:
    with pytest.raises(PlanError, match=r"root_examples: expected data that the simulation deals out"):
        run(plan(**ROOT))


def test_more_server_rows_than_there_are_is_refused() -> None:
    with pytest.raises(PlanError, match=r"root_examples: expected fewer than the 200 rows of the data, got 200"):
        run(plan("robust.root_examples=200", **ROOT), data=pool())


def test_the_servers_update_is_the_reference_and_survives_a_stop(tmp_path: Path) -> None:
    chosen = plan("rounds=4", "training.lr=0.5", attack="scaled_sign_flip", **ROOT)
    whole = run(chosen, data=pool())
    resumed = cut_and_continued(chosen, tmp_path / "run", after=2, data=pool())
    assert resumed.model.tobytes() == whole.model.tobytes()
    assert whole.metrics["auc"] > 0.9
    sites = build_federation(chosen, pool())
    (liar,) = attackers(chosen, [site.site for site in sites])
    rejected = [
        {one["members"][0] for one in line["evidence"] if one["verdict"] != "accepted" and one["weight"] == 0}
        for line in whole.rounds
    ]
    assert all(liar in found for found in rejected)  # its update points away from the server's


class Normed(TabularClassifier):
    """A task whose trainers keep their BatchNorm statistics."""

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(super().model(seed), nn.BatchNorm1d(2))


def test_what_the_servers_own_training_keeps_is_in_the_checkpoint(tmp_path: Path) -> None:
    chosen = plan("training.batch_norm=local", "task.options.inputs=4", "rounds=4", **ROOT)
    task = Normed(chosen)
    whole = run(chosen, task=task, data=pool())
    resumed = cut_and_continued(chosen, tmp_path / "run", after=2, data=pool(), task=task)
    assert SERVER in latest(tmp_path / "run").sites
    assert resumed.model.tobytes() == whole.model.tobytes()


def test_the_server_trains_anew_in_every_round() -> None:
    chosen = with_inputs(plan(**ROOT), build_federation(plan(**ROOT), pool()))
    rows = server_rows(chosen, pool())
    assert rows is not None
    participants = gather_task(chosen, build_federation(chosen, pool()))
    assert participants.task is not None
    root = ServerRoot(participants.task, chosen, rows)

    def update(number: int) -> bytes:
        order = Order(run_id="r", plan_digest=chosen.digest, kind=OrderKind.FIT, round=number)
        return root(order, participants.initial).tobytes()

    assert update(1) == update(1) != update(2)


# -- quarantine ---------------------------------------------------------------------------------------


def noticed(*settings: str, **tables: Any) -> Plan:
    """A plan under which the attacker sends NaN, and only it is ever suspicious."""
    robust = {"rule": "trimmed_mean", "num_byzantine": 1, "detectors": []}
    return plan("rounds=6", *IMPATIENT, *settings, attack="nan", **{"robust": robust, **tables})


def audit(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / AUDIT_FILE).read_text().splitlines()]


def test_a_site_that_stays_suspicious_is_left_out_until_a_person_releases_it(tmp_path: Path) -> None:
    chosen = noticed()
    (liar,) = attackers(chosen)
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        run(chosen, out=folder, observer=StopAfter(4))
    lines = read_lines(folder)
    begun = next(line["round"] for line in lines if line["quarantined"])
    assert 2 <= begun < 4
    for line in lines:
        assert (liar in line["cohort"]) == (line["round"] <= begun)
        assert line["quarantined"] == ([liar] if line["round"] >= begun else [])
    assert any(note.startswith(f"{liar} is quarantined from round {begun}") for note in lines[begun - 1]["notes"])
    (event,) = audit(folder)
    assert (event["event"], event["site"], event["round"], event["by"]) == ("quarantine", liar, begun, "wardround")
    assert event["reason"].startswith(f"{liar} is quarantined from round {begun}")

    assert release_site(folder, liar, "Dr. Ä", "the scanner was mended") == 4
    with pytest.raises(LocalError, match=r"expected a site in quarantine \(none\), got"):
        release_site(folder, liar, "Dr. Ä", "again")
    whole = run(chosen, out=folder, resume=True)
    assert liar in whole.rounds[4]["cohort"] and whole.rounds[4]["quarantined"] == []
    assert whole.rounds[4]["reputation"][liar] < lines[begun - 1]["reputation"][liar]
    second = audit(folder)[1]
    assert (second["event"], second["site"], second["round"]) == ("release", liar, 4)
    assert (second["by"], second["reason"]) == ("Dr. Ä", "the scanner was mended")


def test_without_a_release_a_resumed_run_keeps_its_quarantine(tmp_path: Path) -> None:
    whole = run(noticed())
    resumed = cut_and_continued(noticed(), tmp_path / "run", after=4)
    assert without_times(resumed) == without_times(whole) and resumed.model.tobytes() == whole.model.tobytes()
    assert len(audit(tmp_path / "run")) == 1


def test_a_release_counts_once_even_if_the_next_round_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (liar,) = attackers(noticed())
    with pytest.raises(Stop):
        run(noticed(), out=folder, observer=StopAfter(4))
    release_site(folder, liar, "me", "why not")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    whole = run(noticed(), out=folder, resume=True)
    events = [(event["event"], event["round"]) for event in audit(folder)]
    assert events[1] == ("release", 4)
    for path in list(folder.rglob("*")):  # as if the first try to continue had died in round 5
        if path.is_file() and path not in before:
            path.unlink()
    for path, data in before.items():
        path.write_bytes(data)
    again = run(noticed(), out=folder, resume=True)
    assert without_times(again) == without_times(whole)
    assert [(event["event"], event["round"]) for event in audit(folder)] == events


@pytest.mark.parametrize("site", [SITES[1], "nobody", ""])
def test_only_a_site_in_quarantine_is_released(tmp_path: Path, site: str) -> None:
    with pytest.raises(Stop):
        run(noticed(), out=tmp_path / "run", observer=StopAfter(4))
    (liar,) = attackers(noticed())
    before = (tmp_path / "run" / AUDIT_FILE).read_bytes()
    with pytest.raises(LocalError, match=rf"expected a site in quarantine \({liar}\), got"):
        release_site(tmp_path / "run", site, "me", "why not")
    with pytest.raises(LocalError, match="expected a reason, which the audit log keeps"):
        release_site(tmp_path / "run", liar, "me", " \n")
    assert (tmp_path / "run" / AUDIT_FILE).read_bytes() == before


def test_nothing_is_released_in_a_run_that_is_over_or_not_begun(tmp_path: Path) -> None:
    run(noticed("rounds=3"), out=tmp_path / "over")
    (liar,) = attackers(noticed())
    assert read_lines(tmp_path / "over")[-1]["quarantined"] == [liar]
    with pytest.raises(LocalError, match="expected a run with rounds to come"):
        release_site(tmp_path / "over", liar, "me", "why not")
    RunDirectory.create(tmp_path / "new", noticed(), {}).close()
    with pytest.raises(LocalError, match="expected a run with rounds to come"):
        release_site(tmp_path / "new", liar, "me", "why not")


def test_never_more_sites_than_tolerated_are_in_quarantine() -> None:
    """Two attackers where one is tolerated: the second is named, and stays."""
    chosen = noticed("cohort.min_replies=3").override(["simulation.attack.attackers=2"])
    liars = attackers(chosen)
    found = run(chosen)
    assert {len(line["quarantined"]) for line in found.rounds} == {0, 1}
    notes = [note for line in found.rounds for note in line["notes"]]
    (kept,) = set(liars) - set(found.rounds[-1]["quarantined"])
    assert any(note.startswith(f"{kept} is suspicious") and "num_byzantine = 1" in note for note in notes)
    assert kept in found.rounds[-1]["cohort"]


def test_quarantine_that_is_off_leaves_everybody_in_and_keeps_the_reputation() -> None:
    chosen = noticed("robust.quarantine.enabled=false")
    (liar,) = attackers(chosen)
    found = run(chosen)
    assert all(liar in line["cohort"] and not line["quarantined"] for line in found.rounds)
    assert found.rounds[-1]["reputation"] == {liar: pytest.approx(1 - 0.5**6)}


def test_checkpoints_before_the_first_suspicion_are_kept(tmp_path: Path) -> None:
    chosen = noticed("rounds=9", "simulation.attack.from_round=4")
    run(chosen, out=tmp_path / "run")
    with RunDirectory.open(tmp_path / "run") as directory:
        assert directory.suspicions == dict.fromkeys(attackers(chosen), 4)
        assert directory.kept() == [3, 7, 8, 9]


def test_data_that_the_simulation_deals_give_the_same_sites_to_attackers() -> None:
    chosen = plan("rounds=1", attack="nan")
    found = simulate(chosen, data=pool(), report=False)
    (liar,) = attackers(chosen, [site.site for site in build_federation(chosen, pool())])
    refused = [one["members"] for one in found.rounds[0]["evidence"] if one["verdict"] == "refused"]
    assert refused == [[liar]] and liar not in hospitals()
