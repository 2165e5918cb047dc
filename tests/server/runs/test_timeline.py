"""A run's timeline in words."""

import asyncio
import json
from pathlib import Path

from tests.server.runs.hospitals import Hospitals
from tests.server.runs.test_supervisor import silent, small_plan, to_the_end
from wardround.server.runs.timeline import timeline, timeline_text


def test_a_run_with_a_silent_site(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan("cohort.min_replies=2", "rounds=2"), tamper=silent)
    asyncio.run(to_the_end(hospitals))
    entries = timeline(hospitals.state.events(hospitals.run_id))
    told = [line.split("  ", 1)[1] for line in timeline_text(entries).splitlines()]
    assert told[0] == "offered to its sites"
    assert sorted(told[1:4]) == [
        f"site-0{n} approved ({len(data.train)} in training)" for n, data in enumerate(hospitals.participants.data, 1)
    ]
    assert told[4:6] == ["approved by all sites", "started"]
    assert told[6].startswith("round 1: 2/3 sites, auc 0.")
    assert told[6].endswith("(site-01: no reply by the deadline)")
    assert told[8].startswith("model tumours@1, as after round 2, auc 0.")
    assert told[9:] == ["finished"]
    table = json.loads(json.dumps([one.to_json() for one in entries]))
    assert [one["kind"] for one in table][-1] == "run.finished"
