"""Does what we would publish work on its own?

    python tools/check_wheel.py

Builds the sdist, the wheel from that sdist, and installs the wheel without any extra into an empty virtual
environment of every supported Python found. There: nothing but `wardround` at the top level, no torch, flwr or
plotly, and `wardround --help` and `wardround plan check PLAN` work; --help loads no heavy module.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"wardround": "wardround"} | {
    name: f"wardround/{name}" for name in ("server", "client", "strategies", "simulations")
}
VERSIONS = ("3.11", "3.12", "3.13", "3.14")

IN_THE_BASE_ENVIRONMENT = """
    import sys
    from importlib.metadata import files
    from importlib.util import find_spec

    tops = {f.parts[0] for f in files("wardround") if f.parts[0] != ".." and not f.parts[0].endswith(".dist-info")}
    assert tops == {"wardround"}, f"expected only wardround at the top level, got {sorted(tops)}"
    extra = [name for name in ("torch", "flwr", "opacus", "plotly", "sklearn", "pyarrow") if find_spec(name)]
    assert not extra, f"the base install brought {extra}"

    from wardround.cli import main

    sys.argv = ["wardround", "--help"]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, f"wardround --help ended with {stop.code}"
    heavy = [name for name in ("torch", "opacus", "flwr", "plotly", "numpy") if name in sys.modules]
    assert not heavy, f"wardround --help loaded {heavy}"
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(command, cwd=cwd, env=_environment(), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Ours, without what would let a fresh environment see this checkout."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def build(into: Path) -> Path:
    """The wheel that is built from the sdist that is built from this tree."""
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", into, ROOT)
    (sdist,) = into.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(into / "source", filter="data")
    (source,) = (into / "source").iterdir()
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", into, source)
    (wheel,) = into.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Every file of the tree is in the wheel, once and in its place, and nothing else is at the top level."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    strangers = sorted(name for name in names if not name.startswith("wardround/"))
    if strangers:
        sys.exit(f"expected only wardround/ in the wheel, got {strangers[:5]}")
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in PACKAGES.items()
        for path in _files(ROOT / folder)
    }
    if names != expected:
        sys.exit(f"wheel and tree differ: missing {sorted(expected - names)}, too many {sorted(names - expected)}")


def _files(folder: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(folder):  # follows no link, so not those of an editable install
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(directory) / name for name in files if not name.startswith("."))


def interpreters() -> dict[str, Path]:
    """Version to interpreter: this one, and every other supported one on PATH or kept by pyenv."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": Path(sys.executable)}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        candidates = [p for p in (shutil.which(f"python{version}"),) if p]
        candidates += map(str, sorted(pyenv.glob(f"{version}.*/bin/python3"), reverse=True))
        for candidate in candidates:
            works = subprocess.run([candidate, "-c", "import venv"], capture_output=True)
            if works.returncode == 0:
                found.setdefault(version, Path(candidate))
    return found


def check_base_install(wheel: Path, python: Path, into: Path) -> str:
    """Install `wheel` alone and use it; how long --help took, in words."""
    run(python, "-m", "venv", "--without-pip", into)
    bin_ = into / ("Scripts" if sys.platform == "win32" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", bin_ / "python", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt", wheel)
    run(bin_ / "python", "-c", textwrap.dedent(IN_THE_BASE_ENVIRONMENT), cwd=into)
    plans = sorted(into.glob("lib/**/wardround/simulations/plans/*.toml"))
    if not plans:
        sys.exit("expected plans among the installed files, got none")
    for plan in plans:
        run(bin_ / "wardround", "plan", "check", plan, cwd=into)
        run(bin_ / "wardround", "plan", "explain", plan, cwd=into)
    started = time.perf_counter()
    run(bin_ / "wardround", "--help", cwd=into)
    return f"{time.perf_counter() - started:.2f} s"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wheel = build(work / "dist")
        check_contents(wheel)
        for version, python in interpreters().items():
            took = check_base_install(wheel, python, work / f"venv-{version}")
            print(f"{wheel.name} alone on Python {version}: works; wardround --help answered in {took}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
