"""The server's process takes as many files as it may, since each connection is one."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from wardround.server.open_files import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(allow_open_files(600), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "expected"), [(256, 1000, "600 600 1000"), (256, 500, "500 500 500"), (800, 1000, "800 800 1000")]
)
def test_the_bound_is_raised_as_far_as_the_system_lets_it_and_never_lowered(
    soft: int, hard: int, expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(soft), str(hard)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == expected.split()
