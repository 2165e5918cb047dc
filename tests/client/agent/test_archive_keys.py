"""What a site keeps to open sealed models with: when it is written, what it survives, what it is of no use for."""

import json
import stat
from pathlib import Path
from typing import ClassVar

import pytest
from flwr.app import Context, Message

from tests.client.agent.site_world import NOW, RUN, World, plan_text
from tests.client.agent.test_homomorphic_runs import EncryptingHospitals
from wardround.client.agent import site_run
from wardround.client.agent.archive_keys import archive_key, keep_archive, runs_with_archive
from wardround.client.agent.departure import depart
from wardround.client.agent.site_run import finish_run
from wardround.errors import LocalError, RemoteError
from wardround.strategies.he.homomorphic import Homomorphic
from wardround.strategies.he.sealed_model import ArchiveKey, SealedModel, read_sealed, seal_model

MODEL = b"the model"


def key_of(number: int, *, run: str = RUN, epoch: int | None = None) -> ArchiveKey:
    return ArchiveKey(
        run=run,
        epoch=number if epoch is None else epoch,
        fingerprint=bytes([number]) * 32,
        private=bytes([number + 1]) * 32,
    )


def sealed_to(key: ArchiveKey) -> SealedModel:
    return read_sealed(seal_model(MODEL, key.public, run=key.run, epoch=key.epoch, fingerprint=key.fingerprint))


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World.make(tmp_path)
    world.offer()
    return world


def kept(world: World) -> list[int]:
    return [one["epoch"] for one in json.loads(world.folder.read(f"plans/{RUN}/archive.json"))["keys"]]


# -- the file ---------------------------------------------------------------------------------------------


def test_a_key_is_kept_for_its_owner_alone_and_opens_what_is_sealed_to_it(world: World) -> None:
    assert runs_with_archive(world.folder) == []
    keep_archive(world.folder, key_of(3))
    path = world.folder.path / "plans" / RUN / "archive.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert runs_with_archive(world.folder) == [RUN]
    found = archive_key(world.folder, sealed_to(key_of(3)))
    assert found == key_of(3) and found.open(sealed_to(key_of(3))) == MODEL


def test_the_same_key_again_writes_nothing(world: World) -> None:
    keep_archive(world.folder, key_of(3))
    path = world.folder.path / "plans" / RUN / "archive.json"
    before = path.stat().st_ino
    keep_archive(world.folder, key_of(3))
    assert path.stat().st_ino == before


def test_keys_of_earlier_epochs_stay_but_not_without_end(world: World) -> None:
    """A server seals to an older epoch where too few took the key of the newest, which this site has taken."""
    for number in (5, 1, 3):
        keep_archive(world.folder, key_of(number))
    assert kept(world) == [1, 3, 5]
    for number in (1, 3, 5):
        assert archive_key(world.folder, sealed_to(key_of(number))).open(sealed_to(key_of(number))) == MODEL
    for number in range(10, 80):
        keep_archive(world.folder, key_of(number))
    assert kept(world) == list(range(16, 80))


def test_two_keys_of_one_epoch_are_told_apart(world: World) -> None:
    keep_archive(world.folder, key_of(1, epoch=7))
    keep_archive(world.folder, key_of(2, epoch=7))
    for number in (1, 2):
        assert archive_key(world.folder, sealed_to(key_of(number, epoch=7))).private == bytes([number + 1]) * 32


def test_a_model_of_others_is_refused_with_the_reason(world: World) -> None:
    with pytest.raises(LocalError, match="Hospital A was in no epoch of it, and has no key; ask a member"):
        archive_key(world.folder, sealed_to(key_of(1)))
    keep_archive(world.folder, key_of(1))
    with pytest.raises(
        LocalError, match=r"an epoch in which Hospital A was \(1\), got one of epoch 2 and key 02020202"
    ):
        archive_key(world.folder, sealed_to(key_of(2)))
    with pytest.raises(LocalError, match=r"an epoch in which Hospital A was \(1\), got one of epoch 1 and key 09"):
        archive_key(world.folder, sealed_to(key_of(9, epoch=1)))
    with pytest.raises(LocalError, match="expected a model of a run that was offered to Hospital A"):
        archive_key(world.folder, sealed_to(key_of(1, run="f" * 32)))
    for name in ("../../site", "", "a" * 33):  # a name from a file is no path
        with pytest.raises(RemoteError, match="expected an id of 32 hexadecimal digits"):
            archive_key(world.folder, sealed_to(key_of(1, run=name)))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1}', '{"version": 2, "keys": []}'])
def test_a_damaged_file_is_said_without_its_text_and_is_not_written_over(world: World, damage: str) -> None:
    world.folder.write(f"plans/{RUN}/archive.json", damage.encode())
    for work in (
        lambda: keep_archive(world.folder, key_of(1)),
        lambda: archive_key(world.folder, sealed_to(key_of(1))),
    ):
        with pytest.raises(LocalError, match=r"archive\.json: is damaged; restore it from a copy"):
            work()
    assert world.folder.read(f"plans/{RUN}/archive.json") == damage.encode()


def test_a_cut_key_is_damage(world: World) -> None:
    keep_archive(world.folder, key_of(1))
    text = world.folder.read(f"plans/{RUN}/archive.json").decode()
    world.folder.write(f"plans/{RUN}/archive.json", text.replace("02" * 32, "02" * 31).encode())
    with pytest.raises(LocalError, match="is damaged") as caught:
        archive_key(world.folder, sealed_to(key_of(1)))
    assert "0202" not in str(caught.value)


# -- in a run ---------------------------------------------------------------------------------------------


class SealingHospitals(EncryptingHospitals):
    settings: ClassVar[tuple[str, ...]] = (*EncryptingHospitals.settings, "protection.sealed_model=true")

    asks_again = False

    def _deliver(self, message: Message, context: Context) -> Message:
        """With `asks_again` a server that sends the same message once more after an error."""
        reply = super()._deliver(message, context)
        return super()._deliver(message, context) if self.asks_again and reply.has_error() else reply

    def seal(self) -> SealedModel:
        assert isinstance(self.masking, Homomorphic)
        return read_sealed(self.masking.seal(MODEL))

    def open(self, index: int) -> bytes:
        sealed = self.seal()
        return archive_key(self.worlds[index].folder, sealed).open(sealed)


def test_every_member_can_open_what_the_server_seals_also_when_the_run_has_ended(tmp_path: Path) -> None:
    hospitals = SealingHospitals(tmp_path)
    assert hospitals.collect(1)
    assert [hospitals.open(index) for index in range(3)] == [MODEL] * 3
    for index, run in enumerate(hospitals.runs):
        run.close()
        finish_run(hospitals.worlds[index].folder, RUN, "finished", audit=hospitals.audit[index], now=lambda: NOW)
        assert not (hospitals.worlds[index].folder.path / "runs" / RUN).exists()
        assert "key.erased" in hospitals.kinds(index)
    assert [hospitals.open(index) for index in range(3)] == [MODEL] * 3


def test_the_key_of_an_epoch_does_not_open_the_next_ones_and_a_member_has_both(tmp_path: Path) -> None:
    hospitals = SealingHospitals(tmp_path)
    assert hospitals.collect(1)
    first = hospitals.seal()
    hospitals.masking.end_epoch()
    assert hospitals.collect(2)
    second = hospitals.seal()
    assert (first.epoch, second.epoch) == (0, 1)
    folder = hospitals.worlds[1].folder
    assert archive_key(folder, first).private != archive_key(folder, second).private
    assert archive_key(folder, first).open(first) == archive_key(folder, second).open(second) == MODEL


def test_without_the_plans_key_nothing_is_kept(tmp_path: Path) -> None:
    hospitals = EncryptingHospitals(tmp_path)
    assert hospitals.collect(1)
    assert all(runs_with_archive(world.folder) == [] for world in hospitals.worlds)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_site_that_cannot_keep_it_does_not_say_that_it_has_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    """As by a kill before it is written: the server does not hear of the key, and the site writes it when asked."""
    hospitals = SealingHospitals(tmp_path)
    failing = [True]

    def keep(folder: object, key: ArchiveKey) -> None:
        if failing[0] and folder is hospitals.worlds[index].folder:
            raise LocalError("the disk is full")
        keep_archive(folder, key)  # type: ignore[arg-type]

    monkeypatch.setattr(site_run, "keep_archive", keep)
    told = hospitals.collect(1)
    absent = {str(one.site) for one in hospitals.masking.absences}
    assert hospitals.worlds[index].folder.name in absent
    assert runs_with_archive(hospitals.worlds[index].folder) == []
    for members, _ in told:
        assert hospitals.worlds[index].folder.name not in members
    failing[0] = False
    hospitals.masking.end_epoch()
    assert hospitals.collect(2)
    assert hospitals.open(index) == MODEL


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_site_that_was_killed_after_its_key_and_before_the_archive_writes_it_when_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    hospitals = SealingHospitals(tmp_path)
    killed = [False]

    def keep(folder: object, key: ArchiveKey) -> None:
        if not killed[0] and folder is hospitals.worlds[index].folder:
            killed[0] = True
            hospitals.restart(index)
            raise LocalError("killed")
        keep_archive(folder, key)  # type: ignore[arg-type]

    monkeypatch.setattr(site_run, "keep_archive", keep)
    hospitals.asks_again = True
    ((members, _),) = hospitals.collect(1)
    assert killed == [True] and len(members) == 3
    assert hospitals.seal().epoch == 0  # it is the same key
    assert hospitals.kinds(index)[0] in ("key.dealt", "key.accepted")
    assert [hospitals.open(one) for one in range(3)] == [MODEL] * 3


def test_who_leaves_can_open_nothing_more(world: World) -> None:
    keep_archive(world.folder, key_of(1))
    depart(world.folder, lambda: None, lambda: NOW)
    assert not (world.folder.path / "plans").exists()
    assert not any(key_of(1).private.hex().encode() in one.read_bytes() for one in _files(world.folder.path))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_plan_is_one_that_seals() -> None:
    assert "sealed_model = true" in plan_text(*SealingHospitals.settings)
