"""`python -m wardround.client.agent FOLDER [PYTHON] [unconfined]`: what `wardround client start` becomes.

A process without the command line's libraries, which an agent would carry for months.
"""

import sys
from pathlib import Path

from wardround.client.agent.process import serve
from wardround.errors import WardroundError

if __name__ == "__main__":
    folder, python, unconfined = (*sys.argv[1:], "", "")[:3]
    try:
        serve(Path(folder), job_python=Path(python) if python else None, allow_unconfined=unconfined == "unconfined")
    except WardroundError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
