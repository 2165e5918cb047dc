"""Units as text, and their files. What is in those of the client and the server is tested there."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.systemd_units import sections, words
from wardround.errors import LocalError
from wardround.systemd_unit import Setting, Unit, owner_of, quoted, uninstall, unit_folder

UNIT = Unit(
    name="wardround-test",
    description="a test",
    command=("/opt/wardround/bin/wardround", "start"),
    user="clinic",
    state=Path("/srv/wardround"),
    environment_file="/etc/wardround/test.env",
    settings=(Setting(name="UMask", value="0077", why="Its own."),),
    made_by="wardround test service",
)
_PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=30)


def service(unit: Unit) -> dict[str, list[str]]:
    return sections(unit.text())["Service"]


@given(option=_PRINTABLE, folder=_PRINTABLE.map(lambda text: text.replace("/", "")))
def test_whatever_a_path_or_an_option_says_it_stays_one_word(option: str, folder: str) -> None:
    """No name of a folder adds a word, a line, a variable or a specifier to the unit."""
    state = Path(f"/srv/{folder}x")
    found = sections(replace(UNIT, command=("/bin/x", option), state=state, writable=(Path("/a b"),)).text())
    [command] = found["Service"]["ExecStart"]
    assert command.startswith(":/") and words(command.removeprefix(":")) == ["/bin/x", option]
    [writable] = found["Service"]["ReadWritePaths"]
    assert words(writable) == words(found["Unit"]["RequiresMountsFor"][0]) == [str(state), "/a b"]
    assert found.keys() == sections(UNIT.text()).keys()
    assert found["Service"].keys() == service(UNIT).keys()


@pytest.mark.parametrize("word", ["a\nUser=root", "a\rb", "a\0b", "a\u2028b", "a\x1b[2J"])
def test_what_is_no_printable_text_is_refused(word: str) -> None:
    with pytest.raises(LocalError, match="printable"):
        quoted(word)


def test_a_unit_of_the_system_and_one_of_a_user() -> None:
    system, own = sections(UNIT.text()), sections(replace(UNIT, user=None).text())
    assert system["Service"]["User"] == ["clinic"] and "User" not in own["Service"]
    assert system["Install"]["WantedBy"] == ["multi-user.target"] and own["Install"]["WantedBy"] == ["default.target"]
    assert system["Unit"]["Wants"] == ["network-online.target"] and "After" not in own["Unit"]
    assert system["Service"]["ProtectSystem"] == ["strict"]
    # what takes mounts away needs the system's systemd
    assert not own["Service"].keys() & {"ProtectSystem", "ReadWritePaths"}


@pytest.mark.parametrize("place", ["/tmp/site", "/var/tmp/site", "/tmp"])  # noqa: S108 (no file is made)
def test_what_lies_in_tmp_would_not_be_there(place: str) -> None:
    with pytest.raises(LocalError, match="another place than /tmp"):
        replace(UNIT, state=Path(place))
    with pytest.raises(LocalError, match="another place than /tmp"):
        replace(UNIT, writable=(Path(place),))


def test_it_is_written_again_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "systemd" / "user"
    path = UNIT.install(folder)
    assert path == folder / "wardround-test.service" and path.read_text() == UNIT.text()
    changed = replace(UNIT, command=("/bin/other",))
    assert changed.install(folder).read_text() == changed.text()
    assert os.listdir(folder) == ["wardround-test.service"]
    assert uninstall("wardround-test", "wardround test service", folder, user=True) == path
    assert os.listdir(folder) == []
    with pytest.raises(LocalError, match="is not there"):
        uninstall("wardround-test", "wardround test service", folder, user=True)


def test_the_unit_of_somebody_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "wardround-test.service"
    path.write_text("[Service]\nExecStart=/bin/mine\n")
    with pytest.raises(LocalError, match="was not written by"):
        UNIT.install(tmp_path)
    with pytest.raises(LocalError, match="it stays"):
        uninstall("wardround-test", "wardround test service", tmp_path, user=False)
    path.write_text("")
    with pytest.raises(LocalError, match="was not written by"):
        UNIT.install(tmp_path)
    assert path.read_text() == ""


@pytest.mark.parametrize(("user", "command"), [(True, "systemctl --user"), (False, "systemctl")])
def test_one_that_is_enabled_is_to_be_disabled_first(tmp_path: Path, user: bool, command: str) -> None:
    path = UNIT.install(tmp_path)
    wants = tmp_path / "multi-user.target.wants"
    wants.mkdir()
    (wants / path.name).symlink_to("/nowhere")
    with pytest.raises(LocalError, match=f"first: {command} disable --now wardround-test.service"):
        uninstall("wardround-test", "wardround test service", tmp_path, user=user)
    assert path.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="cannot be read"):
        UNIT.install(tmp_path / "file")


def test_where_units_lie() -> None:
    assert unit_folder(False, {}) == Path("/etc/systemd/system")
    assert unit_folder(True, {"XDG_CONFIG_HOME": "/home/anna/c"}) == Path("/home/anna/c/systemd/user")
    assert unit_folder(True, {}) == Path.home() / ".config/systemd/user"


def test_whose_a_folder_is(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="cannot be looked at"):
        owner_of(tmp_path / "none")
    with pytest.raises(LocalError, match="belongs to root; make a user for the service"):
        owner_of(Path("/"))
