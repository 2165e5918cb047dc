"""Everything that lies in a server's state folder, as who has its keys reads it, and the search for a model in it."""

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from wardround.durable_file import TEMPORARY
from wardround.errors import LocalError
from wardround.server.runs.tensor_file import decode_arrays
from wardround.server.state.vault import Vault, is_sealed

__all__ = ["found_in", "opened_files", "windows_of"]

_STORE, _DIGEST_BYTES, _LENGTH_BYTES = "server-state", 32, 4
_FLOATS = 3
"""Consecutive parameters that nobody has by chance."""


def opened_files(folder: Path, vault: Vault) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file below `folder`: as it lies there, and opened, where the vault has sealed it."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        data, name = path.read_bytes(), path.relative_to(folder).as_posix()
        yield name, data
        if is_sealed(data):
            yield f"{name}, opened", _opened(vault, name, data)
        elif path.parent.name == _STORE and b"\n" in data:
            label, value = _kept(data)
            if is_sealed(value):
                yield f"{name}, opened", vault.open(f"{path.parent.relative_to(folder).as_posix()}/{label}", value)


def windows_of(model: bytes) -> dict[str, bytes]:
    """What to look for of a model's file: a few parameters in a row, as the bytes of every tensor and as text."""
    windows = {}
    for name, array in decode_arrays(model, "model").items():
        flat = np.ascontiguousarray(array, dtype="<f4").reshape(-1)
        for at in (0, flat.size // 2, max(0, flat.size - _FLOATS)):
            part = flat[at : at + _FLOATS]
            if part.size >= 2 and len(set(part.tolist())) == part.size:
                windows[f"{name}[{at}:]"] = part.tobytes()
        windows[f"{name} in digits"] = repr(float(flat[0]))[:9].encode()
    assert len(windows) >= 2
    return windows


def found_in(folder: Path, vault: Vault, windows: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Which windows are in which files."""
    return {
        name: hits
        for name, data in opened_files(folder, vault)
        if (hits := [what for what, window in windows.items() if window in data])
    }


def _opened(vault: Vault, name: str, data: bytes) -> bytes:
    """What was sealed; of a file that a killed process was writing, as much as opens."""
    place, _, last = name.rpartition("/")
    if not last.startswith(TEMPORARY):
        return vault.open(name, data)
    found = bytearray()
    with suppress(LocalError):
        for part in vault.parts(f"{place}/{last.removeprefix(TEMPORARY)}", io.BytesIO(data)):
            found += part
    return bytes(found)


def _kept(data: bytes) -> tuple[str, bytes]:
    """Key and value of a file of a FileStore."""
    rest = data[data.index(b"\n") + 1 + _DIGEST_BYTES :]
    end = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES], "big")
    return rest[_LENGTH_BYTES:end].decode(errors="replace").partition(" ")[2], rest[end:]
