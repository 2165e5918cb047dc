"""released.json of a run whose model is sealed to its members: all that is told of the run's end.

It is durable before the run's checkpoints go, so that a worker that is started after it has nothing left to do but to
delete them and to tell of the end. (Of a run whose model is not sealed the file has no `rounds`.)
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from wardround.errors import LocalError

__all__ = ["RELEASED_FILE", "SealedRelease"]

RELEASED_FILE = "released.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRelease:
    """The end of such a run: `blob` is the sealed file's name in the folder of models, `sha256` (hex) its digest.

    `rounds` are durable, of which `released_round` made the model; `stopped` says why the run ended early, `untested`
    why its model was not tested (both empty: neither).
    """

    blob: str
    sha256: str
    rounds: int
    released_round: int
    stopped: str = ""
    untested: str = ""

    def encode(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What is in the folder of a run; None where no model of it is sealed. Raises LocalError for a damaged file."""
        path = folder / RELEASED_FILE
        try:
            table = json.loads(path.read_bytes())
            if not isinstance(table, dict):
                raise TypeError("no table")
            if "rounds" not in table:
                return None
            found = cls(**table)
            bytes.fromhex(found.sha256)
            if not 0 <= found.released_round <= found.rounds:
                raise ValueError("a released round among the rounds")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise LocalError(f"{path}: expected what wardround wrote ({error}); restore it from a backup") from None
        return found
