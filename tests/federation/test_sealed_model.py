"""A model that is sealed to the hospitals of its run, between real processes: who can open it, and who has it else."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.field import HOSPITALS, SERVER, Field, StartedRun, build_field, until
from tests.federation.test_homomorphic import BFV
from tests.server.opened_files import found_in, opened_files, windows_of
from wardround.server.state.keyring import open_keyring
from wardround.server.state.vault import Vault

pytestmark = pytest.mark.slow
A, B, C = HOSPITALS
SEALED = (*BFV, "protection.sealed_model=true")
ROUNDS = 3


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    pytest.importorskip("tenseal")
    with build_field(tmp_path_factory.mktemp("sealed")) as field:
        run = field.offer(*BFV, rounds=1)
        field.acquaint(run)
        field.stage.run(SERVER, "run", "stop", str(run.number))
        yield field


def vault_of(field: Field) -> Vault:
    """The server's vault, opened as a thief would who has its disk and its passphrase."""
    own = field.stage.folder / SERVER
    data, secret = (own / "state" / "keyring").read_bytes(), (own / "passphrase").read_bytes()
    return Vault(open_keyring(data, secret.strip()).data_key)


def exported(field: Field, run: StartedRun, out: Path) -> str:
    """Fetch the run's model; its name and version."""
    made = field.show(run)["model"]
    model = f"{made['name']}@{made['version']}"
    said = field.stage.run(SERVER, "model", "export", model, "--out", str(out))
    assert "sealed to its run's members; one of them opens it" in said
    return model


def test_the_model_is_at_the_hospitals_and_only_sealed_at_the_server(field: Field) -> None:
    stage, state = field.stage, field.stage.folder / SERVER / "state"
    run = field.begin(*SEALED, rounds=ROUNDS)
    field.check_numbers(run, field.wait_ended(run), ROUNDS)
    sealed = stage.folder / "model.sealed"
    model = exported(field, run, sealed)

    digest = hashlib.sha256(sealed.read_bytes()).hexdigest()

    def told() -> bool:
        """Whether every hospital knows which file the server has named."""
        folders = [stage.folder / hospital / "state" / "plans" / run.id for hospital in HOSPITALS]
        return all(json.loads((folder / "outcome.json").read_text())["model"] == digest for folder in folders)

    until(told, lambda: "a hospital was told of another file", every_s=0.2)
    for hospital in HOSPITALS:
        assert not (stage.folder / hospital / "state" / "runs" / run.id).exists()
        out = stage.folder / f"{hospital}.safetensors"
        said = stage.run(hospital, "client", "model", "open", str(sealed), "--out", str(out))
        assert "warning" not in said
        tail = stage.run(hospital, "client", "audit", "tail", "-n", "50", show=False)
        assert [one["kind"] for one in map(json.loads, tail.splitlines())].count("model.opened") == 1
    (data,) = {(stage.folder / f"{hospital}.safetensors").read_bytes() for hospital in HOSPITALS}

    vault = vault_of(field)
    windows = windows_of(data)
    names = [name for name, _ in opened_files(state, vault)]
    assert any(name.startswith("models/") and name.endswith("opened") for name in names)  # it is looked into
    assert any(f"runs/{run.id}/server-state/" in name and name.endswith("opened") for name in names)
    assert found_in(state, vault, windows) == {}
    assert found_in(stage.folder / A / "state", vault, windows) == {}
    assert list((state / "runs" / run.id / "checkpoints").iterdir()) == []

    plan = stage.folder / B / "state" / "plans" / run.id / "plan.toml"
    rows = stage.folder / "data" / f"{B}.csv"
    predicted = stage.run(B, "predict", str(stage.folder / f"{B}.safetensors"), str(rows), "--plan", str(plan))
    table = predicted.splitlines()
    assert table[0].startswith("row,") and len(table) == len(rows.read_text().splitlines())

    refused = stage.try_run(SERVER, "model", "release", model, "--out", str(stage.folder / "x.wardmodel"))
    assert refused.returncode == 1 and "sealed to the members of its run" in " ".join(refused.stdout.split())


def test_the_search_finds_the_model_of_a_run_that_is_not_sealed(field: Field) -> None:
    """The control of the test before, in the same state folder."""
    run = field.begin(*BFV, rounds=1)
    field.wait_ended(run)
    field.model(run)
    data = (field.stage.folder / f"model-of-run-{run.number}.safetensors").read_bytes()
    found = found_in(field.stage.folder / SERVER / "state", vault_of(field), windows_of(data))
    assert any("/checkpoints/" in name for name in found) and any(name.startswith("models/") for name in found)


def test_a_hospital_that_is_revoked_before_the_last_epoch_cannot_open_it(field: Field) -> None:
    """The last test of this field: the hospital does not come back."""
    stage = field.stage
    (run,) = field.begin_held(*SEALED, rounds=6, by=B)
    stage.thaw(B)
    field.hold(run, by=B, after=2)
    stage.run(SERVER, "server", "revoke", C, "--reason", "a stolen laptop")
    stage.thaw(B)
    field.check_numbers(run, field.wait_ended(run), 6)
    assert sorted({line["protection"]["epoch"] for line in field.rounds(run)}) == [0, 1]
    sealed = stage.folder / "second.sealed"
    exported(field, run, sealed)
    out = stage.folder / "second.safetensors"
    refused = stage.try_run(C, "client", "model", "open", str(sealed), "--out", str(out))
    assert refused.returncode == 1 and not out.exists()
    assert f"an epoch in which {C} was (0), got one of epoch 1" in " ".join(refused.stdout.split())
    stage.run(A, "client", "model", "open", str(sealed), "--out", str(out))
    assert out.stat().st_size > 0
