"""`python -m wardround.client.agent FOLDER [PYTHON [unconfined [LIMITS]]]`: what `wardround client start` becomes.

A process without the command line's libraries, which an agent would carry for months. LIMITS is a JSON object with
fields of `JobLimits`; what it does not have is as by default.
"""

import json
import sys
from pathlib import Path

from wardround.client.agent.process import serve
from wardround.client.job.limits import JobLimits
from wardround.errors import WardroundError

if __name__ == "__main__":
    folder, python, unconfined, limits = (*sys.argv[1:], "", "", "{}")[:4]
    try:
        serve(
            Path(folder),
            job_python=Path(python) if python else None,
            allow_unconfined=unconfined == "unconfined",
            job_limits=JobLimits(**json.loads(limits)),
        )
    except WardroundError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
