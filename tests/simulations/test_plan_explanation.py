"""`wardround plan explain`: what the server learns, what privacy rests on, and the claim."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wardround import cli
from wardround.plan_source import find_plan
from wardround.simulations import plan_explanation, privacy_commands
from wardround.strategies.privacy.claim import claims_of
from wardround.strategies.secagg.parameter_choice import choose
from wardround.strategies.secagg.plan_terms import parameters_of

MASKED = (
    "protection.mode=masking",
    "protection.groups=4",
    "protection.colluding=2",
    "protection.dropout=0.2",
    "simulation.sites=20",
    "cohort.weighting=uniform",
    "clipping.clip_norm=1",
    "data.standardize=none",
)
RULE = ("robust.rule=trimmed_mean", "robust.num_byzantine=1")
ROWS = (
    "privacy.unit=row",
    "privacy.epsilon=3",
    "privacy.public_sizes=true",
    "data.standardize=none",
    "training.batch_size=4",
)
SUMS = ("privacy.unit=client", "privacy.epsilon=8", "privacy.mechanism=skellam", "clipping.clip_norm=")


def run(*settings: str, flags: tuple[str, ...] = (), plan: str = "breast-cancer") -> str:
    chosen = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(cli.app, ["plan", "explain", plan, *chosen, *flags], prog_name="wardround")
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return result.stdout


def facts(text: str) -> dict[str, str]:
    """The lines between the digest and the claim."""
    return {line[:12].strip(): line[12:] for line in text.split("\n\n")[1].splitlines()}


def test_without_protection_the_server_sees_every_update() -> None:
    text = run()
    assert text.startswith(f"breast-cancer: digest {find_plan('breast-cancer').digest[:12]}")
    found = facts(text)
    assert found["server"].startswith("sees every update of every site in the clear")
    assert "the server alone: nobody needs to collude" in found["rests on"]
    assert "gives away" in text.splitlines()[-1] and "no differential privacy" in text.splitlines()[-1]
    assert found["malicious"].startswith("none is tolerated") and "as far as it likes" in found["malicious"]
    assert "how many training rows each site has" in found["besides"]
    assert "sums of each number column and of its squares of each site, once" in found["besides"]


def test_under_masking_it_says_what_is_learned_tolerated_and_spent() -> None:
    found = facts(run(*MASKED, *RULE))
    chosen = choose(clients=20, colluding=2, dropout=0.2, groups=4)
    said = {line[:12].strip(): line[12:] for line in chosen.explain(62).splitlines()}  # the plan's model
    for what in ("groups", "server", "drop-outs", "collusion", "epoch", "costs", "unbounded"):
        assert found[what] == said[what]
    assert "any 2 of the 20 clients together learn no more" in found["collusion"]
    assert "signing keys itself" in found["rests on"] and "digest" in found["rests on"]
    assert found["malicious"].startswith("1 of the 4 group means may be bad (trimmed_mean), no more: that is one")
    assert "one malicious site per bad group, however many sites there are" in found["malicious"]
    assert "how many training rows each group has" in found["besides"] and "each site" not in found["besides"]
    assert not {"weight", "column"}.intersection(found["besides"].split())
    assert "noise" not in found


def test_a_mean_of_sums_tolerates_nobody() -> None:
    assert "moves it as far as it likes" in facts(run(*MASKED))["malicious"]
    bounded = facts(run("clipping.clip_norm=2"))["malicious"]
    assert "by its share of 2 in length" in bounded, "the server sees and checks the length"


@pytest.mark.parametrize("settings", [ROWS, (*MASKED, *ROWS, *RULE), (*MASKED, *SUMS)])
def test_the_claim_is_the_one_of_privacy_explain(settings: tuple[str, ...]) -> None:
    words = run(*settings).split("\n\n", 2)[2]
    chosen = [part for setting in settings for part in ("--set", setting)]
    shown = CliRunner().invoke(cli.app, ["privacy", "explain", "breast-cancer", *chosen], prog_name="wardround")
    assert shown.exit_code == 0 and shown.stdout.startswith(words)
    assert "It rests on:" in words and "It does not cover:" in words


def test_noise_of_the_clients_is_explained() -> None:
    text = run(*MASKED, *SUMS)
    assert "each client adds 1/2 of the variance that is claimed" in facts(text)["noise"]
    assert "all who see the sums of groups, the server included, together with up to 2 other clients" in text
    assert "this costs much accuracy" in text, "20 clients are too few"


def test_besides_the_sums_it_says_what_is_counted_and_no_more() -> None:
    nothing = "the server learns who took part and who did not"
    assert facts(run(*MASKED, *SUMS, "privacy.public_sizes=true"))["besides"] == nothing, "the lane is empty"
    assert facts(run(*MASKED, *ROWS))["besides"] == nothing, "every update weighs the same"
    capped = ("cohort.weighting=capped", "cohort.weight_cap=20")
    assert facts(run(*MASKED, *ROWS, *capped))["besides"] == f"{nothing}, the weight of each group"
    dp = ("privacy.statistics=dp", "privacy.statistics_noise_multiplier=9", "data.standardize=federated")
    noisy = f"{nothing}, sums of each number column and of its squares of each group, once, with noise"
    assert facts(run(*MASKED, *ROWS, *dp))["besides"] == noisy


def test_it_says_how_often_a_server_can_ask_for_an_evaluation() -> None:
    found = facts(run("evaluation.every=7"))
    assert found["evaluation"].startswith(
        "5 times on validation rows and once on test rows, and each time for up to 16 "
    )
    assert "the held-out rows of each site are few, their counts" in found["evaluation"]
    found = facts(run("evaluation.every=0"))
    assert found["evaluation"].startswith("once on test rows") and "held-out rows of each site" in found["besides"]
    masked = facts(run(*MASKED, "evaluation.every=30"))["evaluation"]
    assert masked.startswith("1 times on validation rows and once") and "up to 16 models" in masked
    assert "evaluation" not in facts(run("evaluation.every=0", "data.test=0"))
    assert "evaluation" not in facts(run(*MASKED, *ROWS))


def test_accounting_only_is_never_mistaken_for_protection() -> None:
    first = next(iter(facts(run(*MASKED, "simulation.cryptography=accounting")).items()))
    assert first[0] == "simulation" and "no cryptography runs" in first[1]
    warned = "No cryptography runs in this simulation"
    assert warned in run(*MASKED, *SUMS, "simulation.cryptography=accounting"), "its claim rests on masks"
    assert warned not in run(*MASKED, *SUMS)


def test_attackers_without_noise_are_told_where_a_claim_does_not_reckon_with_so_many() -> None:
    attack = ("simulation.attack.name=sign_flip", "simulation.attack.attackers=3")
    assert "3 sites attack in this simulation and add no noise, more than the 2" in run(*MASKED, *SUMS, *attack)
    assert "add no noise" not in run(*MASKED, *SUMS, *attack, "protection.colluding=3", "protection.groups=3")
    assert "add no noise" not in run(*MASKED, *ROWS, *attack), "noise in training does not hang on others"


def test_counts_of_held_out_rows_are_said_to_tell_of_a_hidden_hospital() -> None:
    alone = "A hospital as a whole is covered in training alone."
    assert alone in run(*MASKED, *SUMS, "privacy.evaluation=clear")
    assert alone not in run(*MASKED, *SUMS) + run(*MASKED, *ROWS, "privacy.evaluation=clear")


def test_as_json_it_has_the_same_and_the_numbers() -> None:
    table: dict[str, Any] = json.loads(run(*MASKED, *SUMS, flags=("--json",)))
    plan = find_plan("breast-cancer").override([*MASKED, *SUMS])
    assert (table["name"], table["digest"], table["mode"]) == ("breast-cancer", plan.digest, "masking")
    assert table["facts"] == facts(run(*MASKED, *SUMS))
    assert table["claim"] == claims_of(plan, num_parameters=62)[0].to_json()
    assert table["parameters"]["noise_share"] == parameters_of(plan).noise_share
    assert table["parameters"]["costs"]["parameters"] == 62
    plain = json.loads(run(flags=("--json",)))
    assert (plain["mode"], plain["claim"], plain["parameters"]) == ("off", None, None)


def test_it_works_without_torch_and_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy_commands, "find_spec", lambda name: None)
    monkeypatch.setattr("wardround.simulations.federation.build_federation", _missing)
    found = facts(run(*MASKED))
    assert "1,000,000 parameters" in found["costs"] and "size of this plan's model is not known" in found["costs"]
    text = run(*ROWS)
    assert "epsilon 3 at delta 1e-6 for every row" in text and "against" in text
    assert plan_explanation._UNKNOWN in run(*ROWS, "privacy.epsilon=", "privacy.noise_multiplier=2")
    assert "A model of any size" in run(*MASKED, *SUMS)


def _missing(*_: object) -> None:
    from wardround.errors import MissingExtraError

    raise MissingExtraError("simulation", "sklearn")


def test_a_plan_that_is_not_possible_is_refused_in_one_line() -> None:
    chosen = [part for setting in (*MASKED, "protection.groups=8") for part in ("--set", setting)]
    result = CliRunner().invoke(cli.app, ["plan", "explain", "breast-cancer", *chosen], prog_name="wardround")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: plan.protection.groups: expected what is possible together")
    assert "possible: groups = 5 (5 groups of 4;" in result.stderr and result.stderr.count("\n") == 1


def test_explaining_is_a_part_of_the_command_that_checks() -> None:
    text = CliRunner().invoke(cli.app, ["plan", "--help"], prog_name="wardround").stdout
    assert all(f"\n  {part} " in text for part in ("check", "show", "digest", "new", "explain"))
    own = CliRunner().invoke(cli.app, ["plan", "explain", "--help"], prog_name="wardround").stdout
    assert own.startswith("Usage: wardround plan explain [OPTIONS] PLAN")
    assert cli.PARTS["plan"]["explain"][1] in " ".join(own.split())


def test_the_secagg_command_answers_the_example() -> None:
    program = Path(sys.executable).parent / "wardround"
    asked = ("secagg", "plan", "--clients", "20", "--colluding", "2", "--dropout", "0.2", "--groups", "4")
    done = subprocess.run([program, *asked], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == choose(clients=20, colluding=2, dropout=0.2, groups=4).explain() + "\n"
