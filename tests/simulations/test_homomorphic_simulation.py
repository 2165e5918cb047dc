"""Homomorphic aggregation in simulations: the machines that hospitals run, over one grid."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal

from tests.simulations.attacked_federation import Stop, StopAfter
from tests.simulations.masked_federation import masked_plan, round_the_same, run
from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.plan_source import find_plan
from wardround.server.runs.run_directory import read_lines
from wardround.simulations.result import Result
from wardround.simulations.simulate import simulate
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.he import scheme
from wardround.strategies.he.memory_file import saved_bytes
from wardround.strategies.plain import Plain
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.plan_terms import encoding_of, he_plan_of
from wardround.vector import F32

SKELLAM = ("privacy.unit=client", "privacy.mechanism=skellam", "privacy.delta=1e-5", "privacy.clip_norm=1.0")


def encrypted_plan(*settings: str, sites: int = 3, **options: Any) -> Plan:
    return masked_plan('protection.mode="bfv"', *settings, sites=sites, **options)


def protection(result: Result) -> list[dict[str, Any]]:
    return [line["protection"] for line in result.rounds]


def survivors(record: dict[str, Any]) -> int:
    (group,) = record["groups"]
    count: int = group["survivors"]
    return count


# -- sums ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [2, 3, 5])
@pytest.mark.parametrize("weighting", ["cohort.weighting=uniform", "cohort.weighting=capped"])
def test_an_encrypted_round_is_the_plain_round_within_the_stated_bound(sites: int, weighting: str) -> None:
    cap = ("cohort.weight_cap=30",) if "capped" in weighting else ()
    chosen = encrypted_plan("rounds=1", weighting, *cap, sites=sites)
    plain, encrypted = run(chosen.override(["protection="])), run(chosen)
    encoding = encoding_of(chosen, encrypted.model.size, seed=bytes(32))
    assert he_plan_of(chosen).members == sites and encoding.value_bits < 24  # coarser than masking's words
    bound = encoding.error_bound(28.0 if cap else 1.0, 1.0)  # of 40 rows, 28 train
    difference = np.abs(encrypted.model.astype(np.float64) - plain.model).max()
    assert 0 < difference <= bound < 1e-3
    assert survivors(protection(encrypted)[0]) == sites


def test_masking_of_as_many_bits_gives_the_same_bits_where_both_round_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact sums are exact: of the same integers both give the same model, to the last bit."""
    round_the_same(monkeypatch)
    chosen = encrypted_plan("rounds=3", "protection.value_bits=17", "protection.colluding=0")
    masked = run(chosen.override(["protection.mode=masking", "protection.min_survivors=3"]))
    encrypted = run(chosen)
    assert encrypted.model.tobytes() == masked.model.tobytes()
    assert encrypted.metrics == masked.metrics


def test_three_hospitals_learn_what_they_learn_unprotected() -> None:
    """Breast cancer, as in the specification: the same AUC and loss, within quantisation."""
    settings = ("cohort.weighting=uniform", "clipping.clip_norm=2.0", "rounds=8", "simulation.baselines=false")
    chosen = find_plan("breast-cancer").override([*settings, "simulation.sites=3"])
    plain = simulate(chosen, report=False)
    encrypted = simulate(chosen.override(['protection.mode="bfv"']), report=False)
    assert plain.metrics["auc"] > 0.97
    assert encrypted.metrics["auc"] == pytest.approx(plain.metrics["auc"], abs=0.002)
    assert encrypted.metrics["loss"] == pytest.approx(plain.metrics["loss"], abs=0.002)
    assert np.abs(encrypted.model - plain.model).max() < 0.01


def test_columns_are_standardised_and_models_judged_by_sums_alone() -> None:
    columns = [{"name": name, "range": [-8, 8]} for name in "abcd"]
    data = {"source": "arrays", "target": {"name": "ill", "classes": ["no", "yes"]}, "columns": columns}
    chosen = encrypted_plan("rounds=2", "evaluation.every=1", data=data | {"standardize": "federated"})
    encrypted, plain = run(chosen), run(chosen.override(["protection="]))
    assert encrypted.statistics is not None and encrypted.statistics == plain.statistics
    for line, beside in zip(encrypted.rounds, plain.rounds, strict=True):
        assert line["validation"]["n"] == beside["validation"]["n"] > 0
        assert not line["validation"]["sites"] and len(beside["validation"]["sites"]) == 3


def test_the_server_gets_one_sum_and_no_single_update(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    count = FederatedStrategy._counted

    def watch(contributions: Any, tallies: Any) -> Any:
        for one in count(contributions, tallies):
            seen.append(one)
            yield one

    monkeypatch.setattr(FederatedStrategy, "_counted", staticmethod(watch))
    monkeypatch.setattr(Plain, "collect", None)
    run(encrypted_plan("rounds=1"))
    assert [len(one.members) for one in seen] == [3] and [one.weight for one in seen] == [3]


def test_a_record_names_the_form_and_the_key_of_its_epoch() -> None:
    result = run(encrypted_plan("rounds=2"))
    first, second = (record["scheme"] for record in protection(result))
    assert first == second and first.startswith("bfv-seeded, key ")
    assert [record["epoch"] for record in protection(result)] == [0, 0]


# -- drop-outs -----------------------------------------------------------------------------------------------


def test_hospitals_that_are_lost_at_any_stage_are_there_again_in_the_next_round() -> None:
    settings = (
        "protection.dropout=0.4",
        "protection.min_survivors=3",
        "simulation.dropout=0.12",
        "simulation.late_dropout=0.12",
        "rounds=10",
    )
    result = run(encrypted_plan(*settings, sites=5))
    lost = [one["lost"] for one in protection(result)]
    assert any("update" in one for one in lost) and any("signature" in one for one in lost)
    done = 0
    for line, record in zip(result.rounds, protection(result), strict=True):
        if record["aborts"]:
            assert line["void"] and survivors(record) == 0
            continue
        done += 1
        assert not line["void"] and survivors(record) == 5 - len(record["lost"].get("update", ())) >= 3
    assert done > 5


def test_a_round_with_too_few_is_void_and_the_next_one_has_another_key() -> None:
    settings = ("protection.dropout=0.2", "simulation.late_dropout=0.35", "rounds=8")
    result = run(encrypted_plan(*settings, sites=5))
    void = [(line, one) for line, one in zip(result.rounds, protection(result), strict=True) if line["void"]]
    assert 0 < len(void) < len(result.rounds)
    for line, record in void:
        assert record["aborts"] and survivors(record) == 0 and not line["evidence"]
    schemes = {record["epoch"]: record["scheme"] for record in protection(result) if record["scheme"]}
    assert len(schemes) > 1 and len(set(schemes.values())) == len(schemes)


# -- privacy -------------------------------------------------------------------------------------------------


def test_rows_are_hidden_by_noise_of_the_hospitals_own() -> None:
    private = ("privacy.unit=row", "privacy.noise_multiplier=0.8", "privacy.clip_norm=1.0", "privacy.delta=1e-5")
    chosen = encrypted_plan(*private, "privacy.sampling=full", "privacy.public_sizes=true", "rounds=2")
    result = run(chosen)
    assert all(survivors(record) == 3 for record in protection(result))
    assert result.rounds[-1]["privacy"]["epsilon"] > 0
    assert np.isfinite(result.model).all() and np.abs(result.model).max() > 0


class Watched:
    """What members encode, without its noise; and what the server decodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plain: list[F32] = []
        self.released: list[np.ndarray] = []
        self.encodings: list[Encoding] = []
        encode, decode = Encoding.encode, Encoding.decode

        def encoded(one: Encoding, update: F32, random: Any, weight: int = 1) -> Any:
            self.plain.append(update.copy())
            self.encodings.append(one)
            return encode(one, update, random, weight)

        def decoded(one: Encoding, *args: Any, **options: Any) -> Any:
            found = decode(one, *args, **options)
            self.released.append(np.asarray(found, dtype=np.float64))
            return found

        monkeypatch.setattr(Encoding, "encode", encoded)
        monkeypatch.setattr(Encoding, "decode", decoded)


@pytest.mark.parametrize("sites", [3, 5])
def test_a_released_sum_has_the_noise_of_all_hospitals_together(sites: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Released minus plain mean: its variance is n times a client's, in steps, over (n · scale)², and its mean is 0."""
    watched = Watched(monkeypatch)
    width = 2000
    chosen = encrypted_plan(*SKELLAM, "privacy.noise_multiplier=1.0", "clipping.clip_norm=", "rounds=1", sites=sites)
    random = np.random.Generator(np.random.Philox(key=9))
    x = random.normal(size=(40 * sites, width)).astype(np.float32) / 40
    run(chosen, data=(x, (x[:, 0] > 0).astype(np.int64)))
    (released,), plain = watched.released, np.array(watched.plain, dtype=np.float64)
    encoding = watched.encodings[0]
    assert encoding.mechanism is not None and len(plain) == sites and plain.shape[1] == released.size > 2 * width
    noise = released - plain.mean(axis=0)
    steps = encoding.scale * sites
    claimed = sites * encoding.mechanism.client_variance / steps**2
    rounding = sites * 0.25 / steps**2
    measured = float((noise**2).mean())
    error = 6 * np.sqrt(2 / noise.size)  # six standard deviations of a normal sample's variance
    assert claimed * (1 - error) < measured < (claimed + rounding) * (1 + error)
    assert abs(noise.mean()) < 6 * np.sqrt(claimed / noise.size)


def test_distributed_noise_is_accounted_for_and_stops_at_its_budget() -> None:
    chosen = encrypted_plan(*SKELLAM, "privacy.epsilon=8.0", "clipping.clip_norm=", "rounds=2", sites=5)
    result = run(chosen)
    assert 7.9 < result.rounds[-1]["privacy"]["epsilon"] <= 8.0
    assert all(survivors(record) == 5 for record in protection(result))


# -- runs that are continued ---------------------------------------------------------------------------------


def test_a_continued_run_has_new_epochs_and_new_keys(tmp_path: Path) -> None:
    chosen, folder = encrypted_plan("rounds=4"), tmp_path / "run"
    with pytest.raises(Stop):
        run(chosen, out=folder, observer=StopAfter(2))
    result = run(chosen, out=folder, resume=True)
    assert [record["epoch"] for record in protection(result)] == [0, 0, 1, 1]
    schemes = [record["scheme"] for record in protection(result)]
    assert schemes[0] == schemes[1] != schemes[2] == schemes[3]
    assert read_lines(folder) == list(result.rounds) and not any(line["void"] for line in result.rounds)
    assert "has other bits" in json.loads((folder / "run.json").read_bytes())["engine"]["protection"]
    whole = run(chosen)
    assert np.abs(result.model - whole.model).max() < 1e-3


def test_no_key_is_left_in_the_folder_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    new_key = scheme.new_key

    def keep(*args: Any) -> bytes:
        made.append(new_key(*args))
        return made[-1]

    monkeypatch.setattr("wardround.strategies.he.key_ceremony.new_key", keep)
    run(encrypted_plan("rounds=1"), out=tmp_path / "run")
    (key,) = made
    files = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files and not any(key[at : at + 64] in data for data in files for at in range(500, len(key) - 64, 3000))


# -- what is not there, what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [False, True])
def test_without_the_raw_interface_a_run_falls_back_to_public_encryption(
    sizes: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The interface is gone, or writes other sizes: the notice says so, and the model is the same."""
    scheme._self_test.cache_clear()
    if sizes:
        saved = saved_bytes
        monkeypatch.setattr(scheme, "saved_bytes", lambda save: saved(save) * 2)
    else:
        monkeypatch.delattr(seal, "Encryptor")
    try:
        with caplog.at_level(logging.WARNING, logger="wardround"):
            result = run(encrypted_plan("rounds=2"))
    finally:
        scheme._self_test.cache_clear()
    assert "this epoch uses bfv-public: updates take twice the bytes" in caplog.text
    assert all(record["scheme"].startswith("bfv-public, key ") for record in protection(result))
    monkeypatch.undo()
    seeded = run(encrypted_plan("rounds=2"))
    assert np.abs(result.model - seeded.model).max() < 1e-3
    update, public = (protection(one)[0]["costs"]["update"]["received_bytes"] for one in (seeded, result))
    assert 1.8 < public / update < 2.2


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (("protection.groups=2",), "protection"),
        (("protection.colluding=1",), "protection.colluding"),
        (('robust.rule="median"', "robust.num_byzantine=1"), "robust.rule"),
        (("clipping.clip_norm=",), "clipping.clip_norm"),
        (("protection.value_bits=31",), "protection.value_bits"),
    ],
)
def test_what_one_sum_cannot_do_is_refused_before_any_data_is_read(settings: tuple[str, ...], key: str) -> None:
    with pytest.raises(PlanError, match=key.replace(".", r"\.")):
        run(encrypted_plan(*settings, sites=5), data=None)
