"""What a site signs at the end of a run: in how many rounds it answered, and which model it was told has come of them.

One model for a run, once: `participation.json` beside the run's plan is written before what the run kept is deleted,
and is signed from then on whenever it is told. Where the plan's claim rests on nobody's knowing who took part when,
there is no number of rounds, and every site of the run signs.
"""

import base64
import json
from datetime import datetime, timedelta

from wardround.client.agent.plan_store import PlanStore
from wardround.client.agent.site_folder import SiteFolder
from wardround.errors import LocalError
from wardround.link.messages import Notice
from wardround.link.signing_inputs import participation_bytes

__all__ = ["keep_participation", "participation_notice"]

_FILE = "participation.json"
_TOLD_FOR = timedelta(days=30)
"""For so long a site says it again with each start, since it cannot know that the server has it."""


def keep_participation(folder: SiteFolder, run: str, model: str, rounds: int | None, now: datetime) -> None:
    """Note what is to be signed; durable on return. What is there already stays."""
    if not (folder.path / "plans" / run / _FILE).exists():
        table = {"model": model, "rounds": rounds, "at": now.isoformat(timespec="seconds")}
        folder.write(f"plans/{run}/{_FILE}", json.dumps(table).encode())


def participation_notice(folder: SiteFolder, run: str, now: datetime) -> Notice | None:
    """The signed word to the server; None for a run without one, or one that ended long ago."""
    if not (folder.path / "plans" / run / _FILE).exists():
        return None
    try:
        table = json.loads(folder.read(f"plans/{run}/{_FILE}"))
        model, rounds, at = table["model"], table["rounds"], table["at"]
        if now - datetime.fromisoformat(at) > _TOLD_FOR:
            return None
        plan_digest = PlanStore(folder).offer(run).plan_digest
        signed = participation_bytes(run, plan_digest, bytes.fromhex(model), rounds, at)
    except (ValueError, KeyError, TypeError) as error:
        raise LocalError(f"{folder.path / 'plans' / run / _FILE}: is damaged ({error}); restore it") from None
    body = {
        "run": run,
        "plan_digest": plan_digest,
        "model": model,
        "rounds": rounds,
        "at": at,
        "signature": base64.b64encode(folder.signing_key.sign(signed)).decode(),
    }
    return Notice(kind="participation", body=json.dumps(body).encode())
