"""`wardround rules` as a person meets it."""

import json

import pytest
from typer.testing import CliRunner

from wardround.cli import app
from wardround.registry import load, names

KINDS = ("rules", "preaggregators", "detectors", "attacks")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), prog_name="wardround")
    return result.exit_code, result.stdout, result.stderr


def test_everything_that_is_registered_is_told_with_its_source() -> None:
    code, text, error = run("rules")
    assert (code, error) == (0, "")
    lines = text.splitlines()
    for title in ("robust.rule", "robust.pre", "robust.detectors", "simulation.attack.name"):
        assert any(line.endswith(title) for line in lines)
    for kind in KINDS:
        for name in names(f"wardround.{kind}"):
            cls = load(f"wardround.{kind}", name)
            assert f"  {name}: {cls.summary}" in lines
            assert f"      source     {cls.source}" in lines
    for name in names("wardround.rules"):
        assert f"      tolerates  {load('wardround.rules', name).tolerates}" in lines


@pytest.mark.parametrize(("name", "kind"), [("krum", "rules"), ("nnm", "preaggregators"), ("norm", "detectors")])
def test_one_by_name(name: str, kind: str) -> None:
    code, text, _ = run("rules", name)
    lines = [line for line in text.splitlines() if line.startswith("  ") and not line.startswith("   ")]
    assert code == 0 and lines == [f"  {name}: {load(f'wardround.{kind}', name).summary}"]


def test_json_has_the_same_and_the_options_with_their_defaults() -> None:
    code, text, _ = run("rules", "--json")
    table = json.loads(text)
    assert code == 0 and set(table) == set(KINDS) and text.count("\n") == 1
    for kind in KINDS:
        assert list(table[kind]) == list(names(f"wardround.{kind}"))
        assert all(facts["summary"] and facts["source"] for facts in table[kind].values())
    assert table["attacks"]["ipm"]["options"] == "epsilon = 0.5"
    assert table["attacks"]["scaling_backdoor"]["options"].endswith("scale = null")
    assert all("num_byzantine" not in facts.get("options", "") for facts in table["rules"].values())
    one = json.loads(run("rules", "ipm", "--json")[1])
    assert one == {"attacks": {"ipm": table["attacks"]["ipm"]}}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("krumm", "error: nothing is called 'krumm'; did you mean 'krum'?\n"),
        ("sign_flop", "error: nothing is called 'sign_flop'; did you mean 'sign_flip'?\n"),
    ],
)
def test_an_unknown_name_is_one_line(name: str, line: str) -> None:
    assert run("rules", name) == (1, "", line)


@pytest.mark.parametrize("name", ["", "\n", "os:system", "[red]", "x" * 9999])
def test_whatever_is_asked_for_is_answered_in_one_line(name: str) -> None:
    code, text, error = run("rules", name)
    assert (code, text) == (1, "") and error.startswith("error: nothing is called ") and error.count("\n") == 1
