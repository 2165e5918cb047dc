"""A model of a real federation is released: co-signed by its sites, also by one that was away, verified, and used."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.field import HOSPITALS, SERVER, Field, build_field, until

pytestmark = pytest.mark.slow
A, B, C = HOSPITALS
K_OF_N = ("cohort.min_replies=2", "cohort.deadline_s=6")


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with build_field(tmp_path_factory.mktemp("release")) as field:
        yield field


def released(field: Field, model: str, out: Path) -> dict[str, object]:
    """What `verify model --json` says of a new release."""
    out.unlink(missing_ok=True)
    field.stage.run(SERVER, "model", "release", model, "--out", str(out), show=False)
    root = field.stage.folder / SERVER / "state" / "identity-authority.der"
    said = field.stage.run(A, "verify", "model", str(out), "--root", str(root), "--json", show=False)
    return dict(json.loads(said))


def missing(found: dict[str, object]) -> set[str]:
    sites = found["sites"]
    assert isinstance(sites, list)
    return {site["name"] for site in sites if site["cosigned"] is None}


def test_a_model_is_co_signed_released_verified_and_used(field: Field) -> None:
    stage, out = field.stage, field.stage.folder / "out.wardmodel"
    run = field.begin(*K_OF_N, rounds=3)
    field.wait_rounds(run, 1)
    stage.kill(C)  # it has taken part, and is away at the end
    ended = field.wait_ended(run)
    model = f"{ended['model']['name']}@{ended['model']['version']}"

    seen: list[dict[str, object]] = []

    def all_but(*away: str) -> bool:
        seen.append(released(field, model, out))
        return missing(seen[-1]) == set(away)

    until(lambda: all_but(C), lambda: f"two did not co-sign: {seen[-1]}", every_s=0.5)
    assert f"not co-signed by {C}" in stage.run(SERVER, "model", "release", model, "--out", str(out) + "-2")
    field.start(C)
    until(all_but, lambda: f"{C} did not co-sign when it came back: {seen[-1]}", every_s=0.5)
    found = seen[-1]
    sites = found["sites"]
    assert isinstance(sites, list)
    rounds = {site["name"]: site["rounds"] for site in sites}
    assert rounds[A] == rounds[B] == 3
    assert 1 <= rounds[C] <= 3
    keys = {one["site"]: one["fingerprint"] for one in field.show(run)["sites"]}
    assert {site["name"]: site["key"] for site in sites} == keys

    before = len(field.show(run)["events"])
    field.restart(A)  # it says it again, and nothing comes of that
    field.wait_present(A)
    assert missing(released(field, model, out)) == set()
    assert [one["kind"] for one in field.show(run)["events"][before:] if one["kind"] == "model.cosigned"] == []

    root = stage.folder / SERVER / "state" / "identity-authority.der"
    rows = stage.folder / "data" / f"{A}.csv"
    predicted = stage.run(A, "predict", str(out), str(rows), "--root", str(root), show=False)
    assert predicted.startswith("row,probability_benign,probability_malignant,prediction\n")
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    for command in (("verify", "model", str(out)), ("predict", str(out), str(rows))):
        done = stage.try_run(A, *command, "--root", str(root))
        assert done.returncode == 1
        assert "model.safetensors" in done.stdout
        assert done.stdout.count("\n") == 1


def test_versions_follow_one_another_and_are_rolled_back(field: Field) -> None:
    stage = field.stage
    again = field.begin(*K_OF_N, rounds=1)
    made = field.wait_ended(again)["model"]
    assert made["version"] == 2
    name = made["name"]

    def versions() -> list[dict[str, object]]:
        said = stage.run(SERVER, "model", "show", name, "--json", show=False)
        return [json.loads(line) for line in said.splitlines()]

    assert [one["current"] for one in versions()] == [False, True]
    assert versions()[1]["parents"] == [f"{name}@1"]
    stage.run(SERVER, "model", "rollback", name, "--to", "1")
    assert [one["current"] for one in versions()] == [True, False]
    path = stage.folder / "current.safetensors"
    assert f"{name}@1" in stage.run(SERVER, "model", "export", name, "--out", str(path))
    assert stage.try_run(SERVER, "model", "rollback", name, "--to", "9").returncode == 1
    found = released(field, f"{name}@2", stage.folder / "second.wardmodel")
    manifest = found["manifest"]
    assert isinstance(manifest, dict)
    [parent] = manifest["parents"]
    assert (parent["version"], parent["sha256"]) == (1, versions()[0]["sha256"])
