"""Secure aggregation in simulations: the machines that hospitals run, over one grid, with everything around them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulations.attacked_federation import Stop, StopAfter
from tests.simulations.masked_federation import masked_plan, names, round_the_same, run
from wardround.contribution import Contribution
from wardround.plan import Plan
from wardround.plan_source import find_plan
from wardround.server.runs.run_directory import read_lines
from wardround.simulations.attacks.adversary import attackers_of
from wardround.simulations.attacks.attack import Crafted, Knowledge
from wardround.simulations.attacks.ipm import Ipm
from wardround.simulations.attacks.rogue_guard import words_of_lie
from wardround.simulations.replay import prepare_replay
from wardround.simulations.result import Result
from wardround.simulations.simulate import simulate
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.plain import Plain
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.plan_terms import encoding_of


def protection(result: Result) -> list[dict[str, Any]]:
    return [line["protection"] for line in result.rounds]


def survivors(record: dict[str, Any]) -> list[int]:
    return [group["survivors"] for group in record["groups"]]


# -- sums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["cohort.weighting=uniform", "cohort.weighting=capped"])
def test_a_masked_round_is_the_plain_round_within_the_stated_bound(weighting: str) -> None:
    cap = ("cohort.weight_cap=30",) if "capped" in weighting else ()
    chosen = masked_plan("rounds=1", weighting, *cap)
    plain = run(chosen.override(["protection="]))
    masked = run(chosen)
    encoding = encoding_of(chosen, masked.model.size, seed=bytes(32))
    mean_weight = 28.0 if cap else 1.0  # of 40 rows, 28 train
    bound = encoding.error_bound(mean_weight, 1.0)
    difference = np.abs(masked.model.astype(np.float64) - plain.model).max()
    assert 0 < difference <= bound < 1e-5


def test_real_masks_and_the_bookkeeping_give_the_same_bits_where_they_round_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    round_the_same(monkeypatch)
    chosen = masked_plan(
        "protection.dropout=0.34", "simulation.dropout=0.15", "simulation.late_dropout=0.1", "rounds=5", sites=9
    )
    real = run(chosen)
    accounted = run(chosen.override(["simulation.cryptography=accounting"]))
    assert real.model.tobytes() == accounted.model.tobytes()
    assert [sorted(one["lost"]) for one in protection(real)] == [sorted(one["lost"]) for one in protection(accounted)]
    for ours, theirs in zip(protection(real), protection(accounted), strict=True):
        assert (ours["groups"], ours["lost"], ours["aborts"]) == (theirs["groups"], theirs["lost"], theirs["aborts"])
        assert not ours["accounted"] and theirs["accounted"]


def test_columns_are_standardised_and_models_judged_by_sums_alone() -> None:
    columns = [{"name": name, "range": [-8, 8]} for name in "abcd"]
    data = {"source": "arrays", "target": {"name": "ill", "classes": ["no", "yes"]}, "columns": columns}
    chosen = masked_plan("rounds=2", "evaluation.every=1", data=data | {"standardize": "federated"})
    masked, plain = run(chosen), run(chosen.override(["protection="]))
    assert masked.statistics is not None and masked.statistics == plain.statistics
    for line, beside in zip(masked.rounds, plain.rounds, strict=True):
        assert line["validation"]["n"] == beside["validation"]["n"] > 0
        assert not line["validation"]["sites"] and len(beside["validation"]["sites"]) == 6
    assert masked.metrics["accuracy"] == pytest.approx(plain.metrics["accuracy"], abs=0.02)


# -- drop-outs --------------------------------------------------------------------------------------


def test_sites_that_are_lost_at_any_stage_are_there_again_in_the_next_round() -> None:
    settings = ("protection.dropout=0.4", "simulation.dropout=0.1", "simulation.late_dropout=0.1", "rounds=12")
    result = run(masked_plan(*settings, sites=10))
    lost = [one["lost"] for one in protection(result)]
    assert any("update" in one for one in lost) and any("signature" in one for one in lost)
    assert all(set(one) <= {"update", "signature"} for one in lost)
    for line, record in zip(result.rounds, protection(result), strict=True):
        gone = len(record["lost"].get("update", ()))
        assert survivors(record) == [10 - gone] and not line["void"] and not record["aborts"]
        assert {absence["site"] for absence in line["absences"]} == set(record["lost"].get("update", ()))


def test_a_round_with_too_few_is_void_and_says_who_is_missing() -> None:
    settings = ("protection.dropout=0.2", "simulation.late_dropout=0.35", "rounds=8")
    result = run(masked_plan(*settings, sites=10))
    void = [(line, one) for line, one in zip(result.rounds, protection(result), strict=True) if line["void"]]
    assert 0 < len(void) < len(result.rounds)
    for line, record in void:
        (abort,) = record["aborts"]
        assert abort["cause"] == "TOO_FEW_SIGNATURES" and set(abort["parties"]) == set(record["lost"]["signature"])
        assert survivors(record) == [0] and not line["evidence"] and abort["reason"] in line["aggregation"]


def test_late_drop_outs_leave_the_other_draws_as_they_are() -> None:
    chosen = masked_plan("protection.dropout=0.4", "simulation.dropout=0.2", "rounds=3", sites=10)
    later = chosen.override(["simulation.late_dropout=0.3"])
    updates = [[one["lost"].get("update") for one in protection(run(plan))] for plan in (chosen, later)]
    assert updates[0] == updates[1]


# -- attackers --------------------------------------------------------------------------------------


def attacked(*settings: str, robust: bool = True) -> Plan:
    attack = ('simulation.attack.name="scaled_sign_flip"', "simulation.attack.attackers=1")
    scale = "simulation.attack.options={ scale = 9.0 }"  # the mean of its group is still shorter than the clip
    return masked_plan("protection.groups=4", "rounds=6", *attack, scale, *settings, sites=12, robust=robust)


@pytest.mark.parametrize("cryptography", ["real", "accounting"])
def test_a_group_sum_carries_the_lie_of_its_member_and_the_rule_drops_the_group(cryptography: str) -> None:
    setting = f"simulation.cryptography={cryptography}"
    chosen = attacked(setting)
    (liar,) = attackers_of(chosen, names(12))
    result, spoilt = run(chosen), run(attacked(setting, robust=False))
    for line in result.rounds:
        bad = [one for one in line["evidence"] if liar in one["members"]]
        good = [one for one in line["evidence"] if liar not in one["members"]]
        assert len(bad) == 1 and len(good) == 3 and len(bad[0]["members"]) == 3
        assert bad[0]["verdict"] != "accepted"
    assert result.metrics["accuracy"] > 0.8 and spoilt.metrics["loss"] > result.metrics["loss"] + 0.1


def test_attackers_know_the_clipped_updates_of_others_behind_masks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[Knowledge] = []

    def watch(attack: Ipm, knowledge: Knowledge) -> Crafted:
        known.append(knowledge)
        return Crafted(updates=knowledge.own)

    monkeypatch.setattr(Ipm, "craft", watch)
    attack = ('simulation.attack.name="ipm"', "simulation.attack.attackers=2", "rounds=1", "clipping.clip_norm=0.05")
    chosen = masked_plan(*attack)
    run(chosen)
    run(chosen.override(["protection="]))
    behind, plain = known
    assert behind.honest.shape[0] == 4 and behind.honest.tobytes() == plain.honest.tobytes()
    assert np.linalg.norm(behind.honest, axis=1) == pytest.approx(0.05, rel=1e-5)


def test_a_lie_is_encoded_as_it_is() -> None:
    encoding = Encoding(size=6, scale=2.0**10, value_bits=20, members=2, clip_norm=1.0)
    lie = np.array([0.25, -0.25, 2.0**12, 2.0**22, np.inf, np.nan], dtype=np.float32)
    words = words_of_lie(encoding, lie, 1).view(np.int32)
    assert words.tolist() == [256, -256, 1 << 22, 0, (1 << 31) - 1, (1 << 31) - 1]
    assert words_of_lie(encoding, lie, 3).view(np.int32)[:2].tolist() == [768, -768]


# -- runs that are continued ------------------------------------------------------------------------


def test_a_continued_run_has_new_epochs_and_the_same_groups(tmp_path: Path) -> None:
    chosen = masked_plan("protection.groups=2", "protection.dropout=0", "rounds=4")
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        run(chosen, out=folder, observer=StopAfter(2))
    groups = (folder / "groups.json").read_bytes()
    result = run(chosen, out=folder, resume=True)
    assert (folder / "groups.json").read_bytes() == groups
    assert [record["epoch"] for record in protection(result)] == [0, 0, 1, 1]
    assert [json.loads(groups)["groups"]] * 4 == [
        [one["members"] for one in line["evidence"]] for line in result.rounds
    ]
    assert read_lines(folder) == list(result.rounds)
    assert "has other bits" in json.loads((folder / "run.json").read_bytes())["engine"]["protection"]


def test_a_replay_leaves_a_hole_in_the_group_of_the_site_that_it_does_without(tmp_path: Path) -> None:
    chosen = masked_plan("protection.groups=2", "rounds=3", sites=8)
    run(chosen, out=tmp_path / "run")
    out = prepare_replay(tmp_path / "run", ["site-03"], tmp_path / "again", from_round=2).folder
    result = run(chosen, out=out, resume=True)
    before, after = ([set(one["members"]) for one in result.rounds[at]["evidence"]] for at in (0, 1))
    assert [group - {"site-03"} for group in before] == after and len(set().union(*after)) == 7


def test_groups_that_are_drawn_for_each_round_are_not_kept(tmp_path: Path) -> None:
    private = ("privacy.unit=row", "privacy.noise_multiplier=0.5", "privacy.clip_norm=1.0", "privacy.delta=1e-5")
    public = ("privacy.sampling=full", "privacy.public_sizes=true")
    chosen = masked_plan(
        "protection.groups=3", "protection.tables=each-round", *private, *public, "rounds=3", sites=9, robust=True
    )
    result = run(chosen, out=tmp_path / "run")
    tables = [[tuple(one["members"]) for one in line["evidence"]] for line in result.rounds]
    assert len({json.dumps(table) for table in tables}) == 3 and [one["epoch"] for one in protection(result)] == [
        0,
        1,
        2,
    ]
    assert not (tmp_path / "run" / "groups.json").exists()


# -- everything at once -----------------------------------------------------------------------------


def test_one_plan_has_groups_a_robust_rule_and_noise_of_all_members() -> None:
    private = ("privacy.unit=client", "privacy.mechanism=skellam", "privacy.epsilon=8.0", "privacy.delta=1e-5")
    clip = ("privacy.clip_norm=1.0", "clipping.clip_norm=")
    chosen = masked_plan("protection.groups=3", *private, *clip, "rounds=2", sites=12, robust=True)
    result = run(chosen)
    for line in result.rounds:
        assert len(line["evidence"]) == 3 and all(len(one["members"]) == 4 for one in line["evidence"])
        assert line["train"] is None
    assert 7.9 < result.rounds[-1]["privacy"]["epsilon"] <= 8.0


def test_more_sites_than_a_committee_holds_run_committee_by_committee() -> None:
    chosen = masked_plan("protection.groups=52", "rounds=1", "evaluation.every=0", "data.test=0.0", sites=260)
    assert chosen.robust.rule == "off"
    result = run(chosen)
    (record,) = protection(result)
    assert survivors(record) == [5] * 52 and set(record["costs"]) == {"update", "signature", "opening"}
    plain = run(chosen.override(["protection="]))
    assert np.abs(result.model - plain.model).max() < 1e-5


def test_the_server_gets_sums_and_no_single_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the rule, and whom a plain grid would have shown."""
    seen: list[Contribution] = []
    count = FederatedStrategy._counted

    def watch(contributions: Any, tallies: Any) -> Any:
        for one in count(contributions, tallies):
            seen.append(one)
            yield one

    monkeypatch.setattr(FederatedStrategy, "_counted", staticmethod(watch))
    monkeypatch.setattr(Plain, "collect", None)
    run(masked_plan("protection.groups=2", "rounds=1"))
    assert [len(one.members) for one in seen] == [3, 3] and [one.weight for one in seen] == [3, 3]


@pytest.mark.slow
def test_hospitals_learn_digits_in_groups_with_noise_and_drop_outs_and_beside_an_attacker() -> None:
    """The shipped plan: accuracies of 0.84 to 0.90 were measured, and 2 % of rounds have fewer than three groups."""
    shipped = find_plan("digits-protected").override(["privacy.evaluation=clear"])
    attack = ("simulation.attack.name=scaled_sign_flip", "simulation.attack.attackers=1")
    for chosen in (shipped, shipped.override(attack)):
        result = simulate(chosen, report=False)
        assert sum(sum(n > 0 for n in survivors(record)) >= 3 for record in protection(result)) >= 16
        assert result.metrics["accuracy"] > 0.75
