"""A virtual environment for each peer, beside this file: ``python benchmarks/environments.py [PEER ...]``.

Quick when the environment is there and its requirements have not changed. pip's own settings decide where
packages come from. ``torch`` is pinned in every file: an open range would bring a CUDA build of several GB.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("pfl", "flwr", "byzfl", "pandera")
ALONE = ("byzfl",)
"""Peers that ask for more than what is used of them: their file is complete, and nothing else is installed."""


def requirements(peer: str) -> Path:
    """The file with the peer's exact versions."""
    return HERE / "peers" / f"{peer}.txt"


def python_of(peer: str) -> Path:
    """The peer's interpreter."""
    return HERE / f".venv-{peer}" / "bin" / "python"


def ensure(peer: str) -> Path:
    """Make the peer's environment when it is missing or out of date; its interpreter."""
    if peer not in PEERS:
        raise SystemExit(f"environments: expected one of {', '.join(PEERS)}, got {peer!r}")
    folder = HERE / f".venv-{peer}"
    stamp = folder / "requirements.sha256"
    pins = [line for line in requirements(peer).read_text().splitlines() if not line.startswith("#")]
    wanted = hashlib.sha256("\n".join([sys.version, *pins]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and python_of(peer).exists():
        return python_of(peer)
    print(f"environments: installing {peer} into {folder.relative_to(HERE.parent)}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(python_of(peer)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-deps"] if peer in ALONE else []
    subprocess.run([*pip, "--requirement", str(requirements(peer))], check=True)
    stamp.write_text(wanted)
    return python_of(peer)


def main(arguments: list[str]) -> int:
    for peer in arguments or PEERS:
        print(ensure(peer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
