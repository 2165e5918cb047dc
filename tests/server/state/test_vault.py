"""The vault: what it seals opens under its key and label, whole, and in no other way."""

import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import LocalError
from wardround.server.state.vault import SealedFile, Vault, is_sealed, opened_size

KEY = bytes(range(32))
MIB = 1 << 20
HEAD, SEGMENT = 51, MIB + 16
SIZES = [0, 1, 16, 1000, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 5, 3 * MIB]


def counted() -> Callable[[int], bytes]:
    """Random bytes that are not random."""
    numbers = itertools.count()
    return lambda size: next(numbers).to_bytes(size, "big")


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_opens(size: int, tmp_path: Path) -> None:
    vault, data = Vault(KEY), os.urandom(size)
    sealed = vault.seal("models/x", data)
    assert is_sealed(sealed)
    assert opened_size(len(sealed)) == size
    assert vault.open("models/x", sealed) == data
    vault.seal_file("models/x", memoryview(data), tmp_path / "x")
    assert vault.open_file("models/x", tmp_path / "x") == data
    out = bytearray(size)
    vault.open_file_into("models/x", tmp_path / "x", memoryview(out))
    assert out == data
    assert len(sealed) == (tmp_path / "x").stat().st_size <= size + HEAD + 16 * (size // MIB + 1)


@given(pieces=st.lists(st.integers(0, 3 * MIB // 2), max_size=5))
@settings(max_examples=20)
def test_pieces_of_any_size_seal_as_the_whole(pieces: list[int]) -> None:
    data = os.urandom(sum(pieces))
    written = bytearray()
    sealer = Vault(KEY, counted()).sealer("x", written.extend)
    at = 0
    for size in pieces:
        sealer.write(data[at : at + size])
        at += size
    sealer.finish()
    assert written == Vault(KEY, counted()).seal("x", data)


def test_nothing_readable_is_in_what_is_sealed() -> None:
    data = b"patient" * 1000
    one, two = Vault(KEY).seal("x", data), Vault(KEY).seal("x", data)
    assert b"patient" not in one
    assert one[HEAD : HEAD + 64] != two[HEAD : HEAD + 64], "the same twice must not be seen to be the same"


@given(data=st.binary(max_size=200), at=st.integers(0), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(data: bytes, at: int, bit: int) -> None:
    sealed = bytearray(Vault(KEY).seal("x", data))
    sealed[at % len(sealed)] ^= 1 << bit
    with pytest.raises(LocalError, match="x: "):
        Vault(KEY).open("x", bytes(sealed))


def segments(sealed: bytes) -> tuple[bytes, list[bytes]]:
    return sealed[:HEAD], [sealed[at : at + SEGMENT] for at in range(HEAD, len(sealed), SEGMENT)]


@pytest.mark.parametrize("size", [3 * MIB, 3 * MIB + 100])
def test_segments_that_are_cut_swapped_repeated_or_added_are_refused(size: int) -> None:
    vault = Vault(KEY, counted())
    head, parts = segments(vault.seal("x", os.urandom(size)))
    _, others = segments(vault.seal("x", os.urandom(size)))
    last = len(parts) - 1
    tampered = {
        "the last cut off": parts[:-1],
        "all cut off": [],
        "the first cut off": parts[1:],
        "the last alone": parts[-1:],
        "swapped": [parts[1], parts[0], *parts[2:]],
        "repeated": [parts[0], *parts],
        "the last repeated": [*parts, parts[-1]],
        "one of another sealing": [others[0], *parts[1:]],
        "the last of another sealing": [*parts[:-1], others[last]],
        "a byte added": [*parts, b"\0"],
        "a byte cut off": [*parts[:-1], parts[-1][:-1]],
    }
    for what, changed in tampered.items():
        with pytest.raises(LocalError, match="does not open"):
            pytest.fail(f"{what}: {len(vault.open('x', head + b''.join(changed)))} bytes")
    assert len(vault.open("x", head + b"".join(parts))) == size


def test_another_label_or_another_key_does_not_open() -> None:
    sealed = Vault(KEY).seal("models/a", b"model")
    for vault, label in ((Vault(KEY), "models/b"), (Vault(bytes(32)), "models/a"), (Vault(KEY), "")):
        with pytest.raises(LocalError, match="does not open"):
            vault.open(label, sealed)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_do_anything_but_open_or_be_refused(data: bytes) -> None:
    for some in (data, b"wardround sealed 1\n" + data):
        with pytest.raises(LocalError):
            Vault(KEY).open("x", some)


def test_a_part_is_given_only_after_it_was_checked() -> None:
    import io

    sealed = bytearray(Vault(KEY).seal("x", bytes(3 * MIB)))
    sealed[HEAD + SEGMENT + 5] ^= 1
    parts = Vault(KEY).parts("x", io.BytesIO(sealed))
    assert next(parts) == bytes(MIB)
    with pytest.raises(LocalError):
        next(parts)


def test_a_key_is_32_bytes_and_stays_here() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(b"short")
    with pytest.raises(TypeError):
        pickle.dumps(Vault(KEY))


# -- files ---------------------------------------------------------------------------------------------


def test_a_file_is_its_owners_alone_and_is_replaced_whole(tmp_path: Path) -> None:
    path, vault = tmp_path / "x", Vault(KEY)
    vault.seal_file("x", b"old", path)
    assert path.stat().st_mode & 0o777 == 0o600
    with SealedFile(vault, "x", path) as file:
        file.write(b"ne")
        file.write(b"w")
        assert file.size == 3
        assert vault.open_file("x", path) == b"old"
        file.commit()
    assert vault.open_file("x", path) == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    path, vault = tmp_path / "x", Vault(KEY)
    with pytest.raises(ZeroDivisionError), SealedFile(vault, "x", path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_length_does_not_fill_a_buffer(tmp_path: Path) -> None:
    Vault(KEY).seal_file("x", b"12345", tmp_path / "x")
    for size in (4, 6):
        with pytest.raises(LocalError, match="expected a sealed file of"):
            Vault(KEY).open_file_into("x", tmp_path / "x", memoryview(bytearray(size)))
    with pytest.raises(LocalError, match="cannot be read"):
        Vault(KEY).open_file("x", tmp_path / "y")


WRITES_PAST_A_LIMIT = """
import os, resource, signal, sys
from pathlib import Path
from wardround.server.state.vault import Vault
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
path = Path(sys.argv[1])
try:
    Vault(bytes(32)).seal_file("x", bytes(8 << 20), path)
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    Vault(bytes(32)).seal_file("x", b"old", path)
    done = subprocess.run([sys.executable, "-c", WRITES_PAST_A_LIMIT, path], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert Vault(bytes(32)).open_file("x", path) == b"old"
    assert list(tmp_path.iterdir()) == [path]


PEAK = """
import resource, sys
from pathlib import Path
from wardround.server.state.vault import Vault
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path, data, vault = Path(sys.argv[1]), bytearray(64 << 20), Vault(bytes(32))
data[:] = b"x" * len(data)
before = peak()
vault.seal_file("x", data, path)
sealed = peak()
vault.open_file_into("x", path, memoryview(data))
print(sealed - before, peak() - sealed)
"""


def test_files_are_sealed_and_opened_in_little_memory(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "x"], capture_output=True, text=True, check=True)
    sealing_kib, opening_kib = map(int, done.stdout.split())
    assert sealing_kib < 16 << 10
    assert opening_kib < 16 << 10
