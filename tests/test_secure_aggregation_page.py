"""What docs/secure-aggregation.md prints and tabulates is what the code says."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wardround.strategies.secagg.commands import app
from wardround.strategies.secagg.parameter_choice import choose

PAGE = (Path(__file__).parents[1] / "docs" / "secure-aggregation.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.split("## Parameters", 1)[1].split("## ", 1)[0].splitlines()
    if re.match(r"\| [\d,]+ \|", line)
]


def test_the_page_shows_what_the_command_prints() -> None:
    asked = "--clients 20 --colluding 2 --dropout 0.2 --groups 4"
    assert f"$ wardround secagg plan {asked}\n" in PAGE
    printed = CliRunner().invoke(app, ["secagg", "plan", *asked.split()])
    assert printed.exit_code == 0, printed.output
    assert printed.output in PAGE


def test_the_page_shows_the_commands_refusal() -> None:
    found = re.search(r"^\$ wardround secagg plan (.*)\nerror: (.*)$", PAGE, re.MULTILINE)
    assert found is not None
    result = CliRunner().invoke(app, ["secagg", "plan", *found[1].split()])
    assert str(result.exception) == found[2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:4]).replace(" ", ""))
def test_a_row_of_parameters_is_what_follows_from_its_choice(row: list[str]) -> None:
    sites, colluding, dropout, groups, survivors, *derived = (cell.replace(",", "").removesuffix(" %") for cell in row)
    found = choose(
        clients=int(sites),
        colluding=int(colluding),
        dropout=int(dropout) / 100,
        groups=int(groups),
        min_survivors=int(survivors),
    )
    committee = found.committee
    expected = found.known, found.noise_share, committee.size, committee.threshold, committee.may_drop
    assert tuple(map(int, derived)) == expected


def test_there_are_rows() -> None:
    assert len(ROWS) == 8
