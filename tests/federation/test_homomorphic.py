"""Homomorphic aggregation between real processes."""

from collections.abc import Iterator

import pytest

from tests.federation.field import HOSPITALS, Field, build_field

pytestmark = pytest.mark.slow
A, B, C = HOSPITALS
ROUNDS = 3
BFV = ('protection.mode="bfv"', "protection.min_survivors=3", "cohort.deadline_s=60", 'cohort.weighting="uniform"')


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with build_field(tmp_path_factory.mktemp("field")) as field:
        yield field


def test_a_run(field: Field) -> None:
    run = field.offer(*BFV, rounds=ROUNDS)
    field.acquaint(run)
    field.approve(run, *HOSPITALS)
    try:
        found = field.wait_ended(run)
    finally:
        import shutil
        for one in ("server", *HOSPITALS):
            shutil.copy(field.stage.log(one), f"/work/q/net/{one}.log")
    field.check_numbers(run, found, ROUNDS)
    for line in field.rounds(run):
        print(line)
    print(field.stage.run(A, "client", "audit", "tail", "-n", "40"))
