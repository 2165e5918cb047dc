"""A model that is sealed to its run's members, over the interface: said to be, fetched as it is, not released."""

import hashlib

from tests.server.api.worlds import PLAN, World
from wardround.plan import parse_plan

_SEALED = {
    "protection.mode": "bfv",
    "protection.sealed_model": True,
    "cohort.weighting": "uniform",
    "clipping.clip_norm": 1.0,
}


def test_a_sealed_model_is_said_to_be_and_is_not_released(world: World) -> None:
    settings = [f"{key}={str(value).lower()}" for key, value in _SEALED.items()]
    text = parse_plan(PLAN).override(settings).to_toml()
    digests = {}
    for name, toml in (("clear", PLAN), ("sealed", text)):
        plan = parse_plan(toml)
        digests[name] = plan.digest
        world.services.plans.add(
            digest=plan.digest, name=name, toml=plan.to_toml(), files={}, created_by="ada", now=world.clock[0]
        )
        run = world.services.runs.create(
            plan_digest=plan.digest, name=name, sites=[], created_by="ada", now=world.clock[0]
        )
        data = name.encode() * 100
        world.services.models.add(
            name=name,
            run_id=run.id,
            plan_digest=plan.digest,
            blob=world.services.blobs.put(data),
            sha256=hashlib.sha256(data).digest(),
            now=world.clock[0],
        )
    shown = {one["name"]: one["sealed"] for one in world.ask("GET", "/models").json()}
    assert shown == {"clear": False, "sealed": True}
    assert world.ask("GET", "/models/file?name=sealed&version=1").content == b"sealed" * 100
    answer = world.ask("POST", "/models/release", {"name": "sealed", "version": 1})
    assert answer.status_code == 409, answer.text
    assert "sealed to the members of its run" in answer.json()["error"]
    assert "wardround client model open" in answer.json()["error"]
    assert world.ask("GET", "/models/released?name=sealed&version=1").status_code == 404
