"""What a person is shown of a plan's code."""

from hypothesis import given
from hypothesis import strategies as st

from wardround.client.agent.code_changes import changes, whole

OLD = {"task.py": b"import numpy\n\ndef loss(x):\n    return x\n", "weights.bin": b"\0\1"}


def test_the_same_code_has_no_changes() -> None:
    assert list(changes(OLD, dict(OLD))) == []


def test_a_changed_line_is_shown_with_its_file_and_both_digests() -> None:
    new = OLD | {"task.py": OLD["task.py"].replace(b"return x", b"return send(x)")}
    shown = list(changes(OLD, new))
    assert "-    return x" in shown and "+    return send(x)" in shown
    assert shown[0].startswith("--- task.py  SHA-256 ") and shown[1].startswith("+++ task.py  SHA-256 ")
    assert not [line for line in shown if "weights" in line]


def test_new_and_deleted_files_and_binary_ones() -> None:
    new = {"other.py": b"pass", "weights.bin": b"\0\2", "empty.py": b""}
    shown = list(changes(OLD, new))
    assert "+pass" in shown and "-import numpy" in shown
    assert "(no text: compare the digests)" in shown and "(both are empty)" in shown
    assert shown.count("--- (none)") == 2 and shown.count("+++ (none)") == 1


def test_what_a_terminal_would_obey_or_hide_is_shown() -> None:
    evil = b"safe()  # \x1b[2K\x1b[1A\nrun()\r# nothing\n\xe2\x80\xae)(live\n"
    shown = [*changes({"a.py": b"safe()\n"}, {"a.py": evil, "b\x1b.py": b"x"}), *whole({"a.py": evil})]
    assert all(line.isprintable() for line in shown)
    assert any("run()\ufffd# nothing" in line for line in shown)


def test_a_missing_last_line_break_shows() -> None:
    assert list(changes({"a": b"x"}, {"a": b"x\n"}))[-1] == "+"


def test_very_long_files_are_not_compared_but_shown() -> None:
    long = b"".join(b"%d\n" % number for number in range(6000))
    shown = list(changes({"a": long}, {"a": b"0\n" + long}))
    assert "not compared" in shown[2] and len(shown) > 6000


@given(
    st.dictionaries(st.text(max_size=5), st.binary(max_size=60)),
    st.dictionaries(st.text(max_size=5), st.binary(max_size=60)),
)
def test_any_two_bundles_can_be_shown_and_only_the_same_have_no_changes(
    old: dict[str, bytes], new: dict[str, bytes]
) -> None:
    shown = list(changes(old, new))
    assert all(line.isprintable() for line in [*shown, *whole(new)])
    assert bool(shown) == (old != new)
