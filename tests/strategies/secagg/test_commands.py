import json
from typing import Any

import pytest
from typer.testing import CliRunner

from wardround.errors import LocalError
from wardround.strategies.secagg.commands import app
from wardround.strategies.secagg.parameter_choice import choose

ASKED = ("--clients", "20", "--colluding", "2", "--dropout", "0.2", "--groups", "4")


def run(*arguments: object) -> str:
    """Standard output of a command that works; raises what it raises, which the program shows in one line."""
    result = CliRunner().invoke(app, ["secagg", "plan", *map(str, arguments)], terminal_width=160)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_plan_explains_what_it_chose() -> None:
    chosen = choose(clients=20, colluding=2, dropout=0.2, groups=4)
    assert run(*ASKED) == chosen.explain() + "\n"
    assert run(*ASKED, "--size", 62) == chosen.explain(62) + "\n"


def test_plan_as_json_has_every_value_that_follows() -> None:
    table: dict[str, Any] = json.loads(run(*ASKED, "--json", "--size", 1000))
    assert table == {
        "clients": 20,
        "colluding": 2,
        "dropout": 0.2,
        "groups": 4,
        "min_roster": 20,
        "min_survivors": 4,
        "tables": "once",
        "starts": 240,
        "regrouped_rounds": 0,
        "group": {"size": 5, "colluders": 2, "known": 2, "may_drop": 1},
        "committee": {"size": 20, "colluders": 2, "threshold": 12, "may_drop": 8},
        "noise_share": 2,
        "malicious": 1,
        "signatures": {"roster": 12, "drawing": 20},
        "costs": {
            "measured": False,
            "parameters": 1000,
            "upload_bytes": 4000 + 32 * 5 * 20 + 80 * 20 + 32 * 5 + 1024,
            "client_s": pytest.approx(1000 * (1.4 + 5 * 0.38) * 1e-9),
            "server_s": pytest.approx(4 * 1000 * (4 * 0.53 + 4 * 0.38) * 1e-9),
        },
    }


def test_every_option_reaches_the_choice() -> None:
    options = ("--min-roster", 18, "--min-survivors", 4, "--tables", "each-round", "--rounds", 7, "--starts", 3)
    table = json.loads(run(*ASKED, *options, "--json"))
    assert (table["min_roster"], table["min_survivors"], table["tables"]) == (18, 4, "each-round")
    assert (table["regrouped_rounds"], table["starts"]) == (7, 3)
    assert json.loads(run(*ASKED, "--tables", "plan", "--json"))["signatures"]["drawing"] is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--clients", 20, "--colluding", 5, "--dropout", 0.2, "--groups", 4), "possible: groups = 2 "),
        (("--clients", 20, "--colluding", 2, "--dropout", "nan"), "dropout: expected a share from 0 to below 1"),
        (("--clients", 0, "--colluding", 0), "clients: expected 1 to"),
        ((*ASKED, "--size", 0), "expected at least 1 parameter, got 0"),
        ((*ASKED, "--tables", "each-round"), "^rounds: expected 1 to"),
    ],
)
def test_refusal_is_one_line_for_a_person(arguments: tuple[object, ...], text: str) -> None:
    with pytest.raises(LocalError, match=text) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
