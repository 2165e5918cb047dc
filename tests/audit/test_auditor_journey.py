"""The auditor: the samples of the documents, with nothing but what the base wheel has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SAMPLES = ROOT / "docs" / "samples"
NOT_IN_THE_BASE_WHEEL = (
    "torch flwr opacus safetensors pyarrow sqlalchemy alembic fastapi pydantic uvicorn starlette argon2 "
    "prometheus_client sklearn plotly tenseal dp_accounting scipy"
)
_MAIN = f"""
import importlib.abc, socket, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_IN_THE_BASE_WHEEL.split()!r}:
            raise ModuleNotFoundError(f"{{name}} is not in the base wheel", name=name)

def offline(*about, **more):
    raise OSError("an auditor has no network")

sys.meta_path.insert(0, Nothing())
socket.socket = offline
from wardround.cli import main
main()
"""


def auditor(*arguments: str, sample: str = "audit") -> tuple[str, int]:
    """What a command prints, both kinds, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", _MAIN, *arguments],
        cwd=SAMPLES / sample,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    return done.stdout, done.returncode


@pytest.mark.parametrize(("sample", "commands"), [("audit", 3), ("ledger", 2)])
def test_the_samples_say_what_the_documents_say(sample: str, commands: int) -> None:
    expected = (SAMPLES / sample / "verified.txt").read_text()
    parts = re.findall(r"^\$ wardround (.*)\n((?:.*\n)*?)exit code (\d+)$", expected, re.M)
    assert len(parts) == commands
    for command, output, code in parts:
        assert auditor(*command.split(), sample=sample) == (output, int(code)), command


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("server.zip", "--root", "no.pem"), "no.pem: cannot be read"),
        (("no.zip", "--root", "ca.pem"), "no.zip: cannot be read"),
        (("verified.txt", "--root", "ca.pem"), "verified.txt: expected a zip file"),
        (("server.zip", "--root", "verified.txt"), "expected the certificate of the federation's identity authority"),
        (("server.zip", "--root", "server.zip"), "expected the certificate of the federation's identity authority"),
        (("server.zip", "--root", "ca.pem", "--against", "tampered.zip"), "tampered.zip: record 22: was changed"),
        (("/dev/zero", "--root", "ca.pem"), "/dev/zero: expected a file"),
        (("server.zip", "--root", "/dev/zero"), "/dev/zero: expected a file"),
        (("server.zip", "--root", "ca.pem", "--against", "/dev/zero"), "/dev/zero: expected a file"),
    ],
)
def test_what_cannot_be_verified_is_one_line_and_not_0(arguments: tuple[str, ...], what: str) -> None:
    said, code = auditor("verify", "audit", *arguments)
    assert code == 1 and what in said and said.startswith("error: ") and said.count("\n") == 1
