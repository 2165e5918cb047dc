"""Is the generated code that is checked in what protoc makes of its source? `--write` makes it so.

    python tools/check_generated.py [--write]

Needs grpcio-tools. The exit code is 1 where a file is stale, missing or left over.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("wardround/link/link.proto",)


def generated(source: str) -> dict[str, bytes]:
    """What protoc makes of `source`: path from the root → content."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={folder}", f"--pyi_out={folder}"]
        subprocess.run([*command, source], cwd=ROOT, check=True)
        made = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in made}


def stale(write: bool, root: Path = ROOT) -> Iterator[str]:
    """The files below `root` that differ from what they should hold; with `write` they are made so."""
    for source in SOURCES:
        for name, content in generated(source).items():
            path = root / name
            if path.exists() and path.read_bytes() == content:
                continue
            yield name
            if write:
                path.write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help="write the files that are stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree that is checked")
    args = parser.parse_args()
    found = list(stale(args.write, args.root))
    for name in found:
        print(f"{name}: {'written' if args.write else 'is stale; run python tools/check_generated.py --write'}")
    return 1 if found and not args.write else 0


if __name__ == "__main__":
    sys.exit(main())
