"""A site's policy as a file: what it says, and what is no policy."""

import random
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.client.guard.policy import (
    RULES,
    CodeLeave,
    DataPolicy,
    EvaluationLeave,
    PinLeave,
    Requirement,
    SitePolicy,
    parse_policy,
)
from wardround.errors import LocalError

FULL = SitePolicy(
    max_epsilon=3.0,
    max_delta=1e-5,
    require=(Requirement.SECURE_AGGREGATION, Requirement.DP),
    min_sites=3,
    pins=("Hospital B", "Hôpital C"),
    tasks=("tabular-classifier",),
    code=("ab" * 32,),
    hours=("mon-fri 20:00-06:00", "sat,sun 00:00-24:00"),
    time_zone="Europe/Berlin",
    min_rows=500,
    require_schema=True,
    max_rounds=50,
    evaluation=EvaluationLeave.SUMMED,
    allow_unconfined_jobs=True,
    data={"ehr": DataPolicy(max_epsilon=1.0), "b.1": DataPolicy(max_delta=1e-6)},
)


def test_a_policy_is_what_its_file_says_and_every_rule_is_stated() -> None:
    assert parse_policy(FULL.to_toml()) == FULL
    stated = dict(FULL.stated())
    assert stated["max_epsilon"] == "3" and stated["data.ehr.max_epsilon"] == "1" and stated["require_schema"] == "yes"
    assert {name.partition(".")[0] for name in stated} == set(RULES)


def test_without_a_file_nothing_is_stated() -> None:
    assert parse_policy(b"") == SitePolicy() and SitePolicy().stated() == [] and SitePolicy().to_toml() == b""


def test_of_two_limits_the_stricter_one_counts() -> None:
    policy = SitePolicy(max_epsilon=3.0, data={"a": DataPolicy(max_epsilon=1.0), "b": DataPolicy(max_epsilon=9.0)})
    assert [policy.max_epsilon_of(name) for name in "abc"] == [1.0, 3.0, 3.0]
    assert policy.max_delta_of("a") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_epsilon = 0", r"policy\.max_epsilon: expected more than 0, got 0"),
        ("max_epsilon = -1", "more than 0"),
        ("max_epsilon = nan", "a finite number"),
        ('max_epsilon = "3"', "a number"),
        ("max_epsilom = 3", "a known key.*did you mean 'max_epsilon'"),
        ("[data.ehr]\nmax_epsilon = 0", r"policy\.data\.ehr\.max_epsilon: expected more than 0"),
        ("[data.ehr]\nrows = 1", r"policy\.data\.ehr\.rows: expected a known key"),
        ("min_sites = 0", "at least 1"),
        ("min_sites = 10001", "at most 10000"),
        ('min_sites = 1000\nrequire = ["secure-aggregation"]', "at most 255, the most updates in a sum"),
        ('require = ["magic"]', "one of 'secure-aggregation'"),
        ('require = ["dp", "dp"]', "every name once"),
        ("tasks = []", "to take part in nothing"),
        ("code = []", '"none" for no code'),
        ('code = ["ab"]', "64 hexadecimal"),
        ('code = "some"', "'any'"),
        ('hours = ["20:00-20:00"]\ntime_zone = "UTC"', "has minutes in it"),
        ('hours = ["20:00-06:00"]', r"policy\.time_zone: expected the clock of hours"),
        ('time_zone = "UTC"', "no key without hours"),
        ('hours = ["20:00-06:00"]\ntime_zone = "Mars/Base"', "a time zone that this system knows"),
        ("require_schema = 1", "true or false"),
        ("max_epsilon = [", "expected TOML"),
        ("max_epsilon = 1" + "0" * 5000, "policy"),
        ("a" * (1 << 20) + "=1", "at most 1048576 bytes"),
    ],
)
def test_what_is_no_policy_or_cannot_be_met_is_one_line(text: str, expected: str) -> None:
    with pytest.raises(LocalError, match=expected) as caught:
        parse_policy(text.encode())
    assert "\n" not in " ".join(str(caught.value).split())
    assert str(caught.value).startswith("policy")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_policy_or_a_clear_error(data: bytes) -> None:
    _read(data)


def test_any_damage_to_a_policy_is_a_policy_or_a_clear_error() -> None:
    made = random.Random(7)  # noqa: S311 - which bytes are damaged
    whole = FULL.to_toml()
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(made.randint(1, 4)):
            at = made.randrange(len(data))
            if made.random() < 0.5:
                data[at] = made.randrange(256)
            else:
                del data[at : at + made.randint(1, 20)]
        _read(bytes(data))


def _read(data: bytes) -> None:
    try:
        policy = parse_policy(data)
    except LocalError as error:
        assert str(error).startswith("policy")
    else:
        assert parse_policy(policy.to_toml()) == policy


def test_leaves_that_are_words_or_lists() -> None:
    policy = parse_policy(b'pins = "all"\ncode = "none"\nevaluation = "none"')
    assert policy.pins is PinLeave.ALL and policy.code is CodeLeave.NONE and policy.evaluation is EvaluationLeave.NONE


def test_every_rule_is_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "policy.md").read_text()
    assert [name for name in RULES if name != "data" and f"`{name}`" not in page] == []
    assert [field.name for field in fields(DataPolicy) if f"`data.NAME.{field.name}`" not in page] == []
