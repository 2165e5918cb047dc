"""What a coordinator does over the interface."""

import base64
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.server.api.worlds import PLAN, World, first_model
from wardround.errors import LocalError
from wardround.invitation import read_invitation
from wardround.join_messages import JoinRequest, LeaveRequest, join_statement, leave_statement
from wardround.orders import SiteId
from wardround.plan import load_plan
from wardround.server.runs.supervisor import Progress
from wardround.server.runs.tensor_file import encode_tensors
from wardround.server.state.run_sites import Verdict
from wardround.signing_key import SigningKey
from wardround.tls_identity import TlsKey

CODE_PLAN = PLAN.replace('[task]\nname = "tabular-classifier"', '[task]\ncode = "code"\nname = "tabular-classifier"')


def error_of(answer: Any) -> str:
    return str(answer.json()["error"])


# -- sites ------------------------------------------------------------------------------------------


def joined(invitation: str, name: str) -> dict[str, Any]:
    """What a hospital sends to join."""
    token, signing = read_invitation(invitation).token, SigningKey(hashlib.sha256(name.encode()).digest())
    request = TlsKey.make().request(name)
    proof = signing.sign(join_statement(token, request))
    return JoinRequest(token=token, request=request, signing_public=signing.public, proof=proof).encode()


def test_from_an_invitation_to_a_client_to_a_revocation(world: World) -> None:
    made = world.ask("POST", "/invitations", {"site": "Hospital A"})
    assert made.status_code == 201
    line = made.json()["invitation"]
    (row,) = world.ask("GET", "/invitations").json()
    assert (row["site"], row["state"], row["created_by"]) == ("Hospital A", "open", "ada")
    assert line.partition("#")[2] not in world.ask("GET", "/invitations").text

    body = joined(line, "Hospital A")
    answer = world.ask("POST", "/join", body, token="")
    assert answer.status_code == 200, answer.text
    assert answer.json()["target"] == "fl.example.org:8444"
    world.presence.sites = {"Hospital A"}
    (client,) = world.ask("GET", "/clients").json()
    assert (client["name"], client["state"], client["present"]) == ("Hospital A", "active", True)
    assert client["certificate_ends"] is not None
    assert world.ask("GET", "/invitations").json()[0]["state"] == "used"
    assert world.ask("POST", "/join", joined(line, "Hospital A"), token="").json()["error"] == "used"

    assert world.ask("POST", "/clients/revoke", {"site": "Hospital A", "reason": "lost"}).json() == {"done": True}
    assert world.ask("GET", "/clients").json()[0]["state"] == "revoked"
    again = world.ask("POST", "/clients/revoke", {"site": "Hospital A"})
    assert (again.status_code, error_of(again)) == (409, "Hospital A: is revoked already")
    assert world.ask("POST", "/clients/revoke", {"site": "Hospital B"}).status_code == 404


def test_a_site_leaves_by_its_own_word_without_a_session(world: World) -> None:
    line = world.ask("POST", "/invitations", {"site": "Hospital A"}).json()["invitation"]
    answer = world.ask("POST", "/join", joined(line, "Hospital A"), token="").json()
    name, now, server = SiteId("Hospital A"), world.services.clock(), base64.b64decode(answer["server"])
    key = SigningKey(hashlib.sha256(name.encode()).digest())
    asked = LeaveRequest(name=name, time=now, proof=key.sign(leave_statement(server, name, now))).encode()
    bodies: list[Any] = [{}, [], None, asked | {"version": 2}, asked | {"more": 1}]
    for body in bodies:
        assert world.ask("POST", "/leave", body, token="").status_code == 400
    refused = world.ask("POST", "/leave", asked | {"name": "Hospital B"}, token="")
    assert (refused.status_code, refused.json()["error"]) == (403, "refused")
    assert world.ask("POST", "/leave", content=b"x" * 17_000, token="").status_code == 413
    for _ in range(2):
        left = world.ask("POST", "/leave", asked, token="")
        assert (left.status_code, left.json()) == (200, {"name": "Hospital A"})
    assert world.ask("GET", "/clients").json()[0]["state"] == "revoked"


def test_a_join_that_is_none_is_answered_in_the_words_of_joins(world: World) -> None:
    bodies: list[Any] = [{}, [], {"version": 1, "token": "x"}, {"version": 99, "later": True}]
    for body in bodies:
        answer = world.ask("POST", "/join", body, token="")
        assert answer.status_code == 400
        assert answer.json()["error"] in ("malformed", "version")
    assert world.ask("GET", "/authority", token="").json().keys() == {"authority", "time"}


def test_invitations_expire_and_are_withdrawn_once(world: World) -> None:
    world.ask("POST", "/invitations", {"site": "A"})
    world.ask("POST", "/invitations", {"site": "B"})
    first, second = (row["id"] for row in world.ask("GET", "/invitations").json())
    assert world.ask("POST", f"/invitations/{first}/withdraw").json() == {"done": True}
    assert error_of(world.ask("POST", f"/invitations/{first}/withdraw")).endswith("got one that is withdrawn")
    assert world.ask("POST", f"/invitations/{'0' * 32}/withdraw").status_code == 404
    world.pass_time(timedelta(hours=72))
    world.token = world.log_in()
    assert [row["state"] for row in world.ask("GET", "/invitations").json()] == ["withdrawn", "expired"]
    assert second


@pytest.mark.parametrize("site", ["", "a\nb", "x" * 256, "\u202e"])
def test_a_name_that_cannot_be_a_sites_is_refused(world: World, site: str) -> None:
    assert world.ask("POST", "/invitations", {"site": site}).status_code == 422


# -- plans ------------------------------------------------------------------------------------------


def test_a_plan_is_added_once_with_its_first_model(world: World) -> None:
    digest = world.add_plan(model=False)
    assert world.ask("GET", f"/plans/{digest}").json()["first_model"] is None
    put = world.ask("PUT", f"/plans/{digest}/first-model", content=first_model(digest))
    assert (put.status_code, put.json()) == (201, {"size": 3})
    again = world.ask("PUT", f"/plans/{digest}/first-model", content=first_model(digest))
    assert (again.status_code, "has one" in again.text) == (409, True)
    assert world.ask("POST", "/plans", {"toml": PLAN}).json()["first_model"] == {"size": 3}
    (plan,) = world.ask("GET", "/plans").json()
    assert (plan["name"], plan["sites"], plan["rounds"], plan["created_by"]) == ("cardio", 2, 3, "ada")
    stored = world.services.first_models.get(digest)
    assert stored is not None
    assert world.services.blobs.get(stored.blob) == first_model(digest)
    assert len(world.services.blobs.names()) == 1


def test_the_digest_is_that_of_the_folder(world: World, tmp_path: Path) -> None:
    files = {"b.py": b"x = 1\n", "a/b.py": b"", "a.py": b"y", "a/z/c.py": b"z"}
    for name, data in files.items():
        path = tmp_path / "plan" / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "plan" / "plan.toml").write_text(CODE_PLAN)
    wanted = load_plan(tmp_path / "plan" / "plan.toml").digest
    code = {name: base64.b64encode(data).decode() for name, data in files.items()}
    assert world.ask("POST", "/plans", {"toml": CODE_PLAN, "code": code}).json()["digest"] == wanted
    assert world.ask("GET", f"/plans/{wanted}").json()["code"] == sorted(files)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"toml": "rounds = 3"}, "plan.name"),
        ({"toml": "]"}, "TOML"),
        ({"toml": PLAN.replace("rounds = 3", "rounds = 3\nspeed = 9")}, "plan.speed"),
        ({"toml": PLAN + "dropout = 0.2\n[cohort]\nmin_replies = 1\n"}, "drop-outs are real here"),
        ({"toml": PLAN, "code": {"a.py": "eA=="}}, "exactly where the plan has it"),
        ({"toml": CODE_PLAN}, "exactly where the plan has it"),
        ({"toml": CODE_PLAN, "code": {"../a.py": "eA=="}}, "paths below the folder"),
        ({"toml": CODE_PLAN, "code": {"/a.py": "eA=="}}, "paths below the folder"),
        ({"toml": CODE_PLAN, "code": {"a//b.py": "eA=="}}, "paths below the folder"),
        ({"toml": CODE_PLAN, "code": {"a\nb.py": "eA=="}}, "printable"),
        ({"toml": CODE_PLAN, "code": {"a.py": "!"}}, "base64"),
        ({"toml": CODE_PLAN, "code": {"a.py": "A" * 1_000_000}}, "at most 900 KiB"),
        ({"toml": PLAN, "python": "x"}, "Extra inputs"),
    ],
)
def test_what_hospitals_cannot_run_is_refused(world: World, body: dict[str, Any], said: str) -> None:
    answer = world.ask("POST", "/plans", body)
    assert answer.status_code == 422
    assert said in error_of(answer)
    assert not world.services.plans.list()


def broken_models(digest: str) -> dict[str, bytes]:
    whole = first_model(digest)
    return {
        "empty": b"",
        "cut in the length": whole[:5],
        "cut in the header": whole[:50],
        "cut in the numbers": whole[:-1],
        "one byte more": whole + b"\0",
        "much more": whole + bytes(5 << 20),
        "a huge header": (1 << 62).to_bytes(8, "little") + whole[8:],
        "no header": (2).to_bytes(8, "little") + b"{}",
        "no JSON": (2).to_bytes(8, "little") + b"{[" + bytes(5 << 20),
        "another plan": first_model("1" * 64),
        "another layout": first_model(digest, layout=[["weight", [1, 2]], ["bias", [2]]]),
        "fewer tensors": first_model(digest, layout=[["weight", [1, 2]]]),
        "no spec": first_model(digest, evaluate_spec={}),
        "doubles": whole.replace(b'"F32"', b'"F64"'),
        "a pickle": b"\x80\x04\x95" + bytes(100),
    }


@pytest.mark.parametrize("which", broken_models("0" * 64))
def test_a_broken_first_model_leaves_nothing(world: World, which: str) -> None:
    digest = world.add_plan(model=False)
    answer = world.ask("PUT", f"/plans/{digest}/first-model", content=broken_models(digest)[which])
    assert answer.status_code == 422
    assert error_of(answer).startswith("first model: ")
    assert world.services.first_models.get(digest) is None
    assert not list((world.services.runs_folder.parent / "models").iterdir())


def test_a_first_model_of_no_plan_is_refused(world: World) -> None:
    assert world.ask("PUT", f"/plans/{'0' * 64}/first-model", content=first_model("0" * 64)).status_code == 404


# -- runs -------------------------------------------------------------------------------------------


def test_a_run_from_its_start_to_its_stop(world: World) -> None:
    run = world.start_run()
    assert (run["number"], run["state"], run["rounds"]) == (1, "waiting", 3)
    assert [(one["site"], one["verdict"], one["present"]) for one in run["sites"]] == [
        ("A", "waiting", False),
        ("B", "waiting", False),
    ]
    assert world.runs.asked == [("start", run["id"])]
    world.services.run_sites.decide(
        run["id"], SiteId("A"), Verdict.APPROVED, reason="", units=12, signature=b"s", now=world.clock[0]
    )
    world.presence.sites = {"A"}
    world.runs.now[run["id"]] = Progress(
        run_id=run["id"], round=1, rounds=3, doing="train", asked=(SiteId("A"), SiteId("B")), answered=(SiteId("A"),)
    )
    found = world.ask("GET", f"/runs/{run['id']}").json()
    assert found["sites"][0] | {"decided": None, "fingerprint": ""} == {
        "site": "A",
        "verdict": "approved",
        "reason": "",
        "units": 12,
        "decided": None,
        "present": True,
        "fingerprint": "",
    }
    assert (found["progress"]["asked"], found["progress"]["answered"]) == (["A", "B"], ["A"])
    assert [one["number"] for one in world.ask("GET", "/runs").json()] == [1]
    for action in ("pause", "resume", "stop"):
        assert world.ask("POST", f"/runs/1/{action}").status_code == 200
    assert [what for what, _ in world.runs.asked] == ["start", "pause", "resume", "stop"]
    kinds = [(one["kind"], one["who"]) for one in world.ask("GET", "/runs/1/events").json()["events"]]
    assert kinds == [
        ("run.created", "ada"),
        ("run.pause_asked", "ada"),
        ("run.resume_asked", "ada"),
        ("run.stop_asked", "ada"),
    ]


def test_a_run_in_no_state_for_it_is_409(world: World) -> None:
    world.start_run()
    world.runs.failure = LocalError("run: expected one that is running, got one that is waiting")
    answer = world.ask("POST", "/runs/1/pause")
    assert (answer.status_code, error_of(answer)) == (409, str(world.runs.failure))
    assert len(world.ask("GET", "/runs/1/events").json()["events"]) == 1


def test_sites_of_a_run_have_to_fit(world: World) -> None:
    digest = world.add_plan()
    world.join_sites("A", "B", "C")

    def start(*sites: str) -> tuple[int, str]:
        answer = world.ask("POST", "/runs", {"plan": digest} | ({"sites": sites} if sites else {}))
        return answer.status_code, error_of(answer) if answer.status_code != 201 else ""

    assert "expected the 2 sites that the plan is for" in start()[1]
    assert start("A")[0] == 409
    assert start("A", "A") == (422, "sites: expected each site once")
    assert start("A", "D")[1].startswith("expected sites that take part, got 'D'")
    world.services.sites.revoke(SiteId("C"), world.clock[0])
    assert start("A", "C")[0] == 409
    assert start("B", "A") == (201, "")
    assert start() == (201, "")
    assert [run.number for run in world.services.runs.list()] == [1, 2]


def test_a_run_needs_a_plan_with_a_first_model(world: World) -> None:
    world.join_sites("A", "B")
    assert world.ask("POST", "/runs", {"plan": "0" * 64}).status_code == 404
    answer = world.ask("POST", "/runs", {"plan": world.add_plan(model=False)})
    assert (answer.status_code, "first model" in error_of(answer)) == (409, True)


@pytest.mark.parametrize("name", ["0", "2", "999999999", "f" * 32])
def test_a_run_that_is_not_there_is_404(world: World, name: str) -> None:
    world.start_run()
    for path in ("", "/events", "/rounds", "/evidence", "/report"):
        assert world.ask("GET", f"/runs/{name}{path}").status_code == 404


@pytest.mark.parametrize("name", ["x", "-1", "1 ", "1234567890", "F" * 32, "\u0661"])
def test_what_cannot_be_a_run_is_422(world: World, name: str) -> None:
    assert world.ask("GET", f"/runs/{name}").status_code == 422


def test_events_come_when_they_happen_and_not_before(world: World) -> None:
    run = world.start_run()
    (first,) = world.ask("GET", "/runs/1/events").json()["events"]
    nothing = world.ask("GET", f"/runs/1/events?after={first['id']}&wait_s=0.01").json()
    assert nothing["events"] == []
    world.services.events.add("run.started", now=world.clock[0], run_id=run["id"])
    news = world.ask("GET", f"/runs/1/events?after={first['id']}&wait_s=30").json()
    assert [one["kind"] for one in news["events"]] == ["run.started"]
    world.services.runs.move(run["id"], {"waiting"}, "stopped", reason="ada", now=world.clock[0])
    news = world.ask("GET", f"/runs/1/events?after={news['events'][0]['id']}&wait_s=30").json()
    assert (news["events"], news["run"]["state"]) == ([], "stopped")  # who waits for a run that has ended waits no more


def test_rounds_and_the_report_come_from_the_runs_folder(world: World) -> None:
    run = world.start_run()
    assert world.ask("GET", "/runs/1/rounds").json() == []
    assert world.ask("GET", "/runs/1/evidence").json() == []
    assert world.ask("GET", "/runs/1/report").status_code == 404
    folder = world.services.runs_folder / run["id"]
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"round": 1}\n{"round": 2}\n{"rou')
    (folder / "report.html").write_text("<html>report</html>")
    world.services.runs.set_round(run["id"], 1)
    assert world.ask("GET", "/runs/1/rounds").json() == [{"round": 1}]  # the second is not durable yet
    world.services.runs.set_round(run["id"], 2)
    assert world.ask("GET", "/runs/1/rounds?after=1").json() == [{"round": 2}]
    report = world.ask("GET", "/runs/1/report")
    assert report.text == "<html>report</html>"
    assert report.headers["content-disposition"] == 'attachment; filename="run-1-report.html"'


# -- models, status, metrics ------------------------------------------------------------------------


def test_a_model_is_listed_and_fetched(world: World) -> None:
    run, data = world.start_run(), bytes(range(256)) * 10_000
    blob, digest = world.services.blobs.put(data), hashlib.sha256(data)
    world.services.models.add(
        name="cardio", run_id=run["id"], plan_digest=run["plan"], blob=blob, sha256=digest.digest(), now=world.clock[0]
    )
    (model,) = world.ask("GET", "/models").json()
    assert (model["name"], model["version"], model["run"], model["size_bytes"]) == ("cardio", 1, 1, len(data))
    assert model["sha256"] == digest.hexdigest()
    assert world.ask("GET", "/models?name=other").json() == []
    fetched = world.ask("GET", "/models/file?name=cardio&version=1")
    assert fetched.content == data
    assert int(fetched.headers["content-length"]) == len(data)
    assert world.ask("GET", "/models/file?name=cardio&version=2").status_code == 404
    assert world.services.events.list()[-1].kind == "model.exported"
    assert world.ask("GET", "/runs/1").json()["model"] == {"name": "cardio", "version": 1}


def test_a_version_is_set_to_be_the_current_one(world: World) -> None:
    first = world.start_run()
    runs = [first["id"], world.ask("POST", "/runs", {"plan": first["plan"]}).json()["id"]]
    for run in runs:
        world.services.models.add(
            name="cardio",
            run_id=run,
            plan_digest=first["plan"],
            blob=world.services.blobs.put(b"x"),
            sha256=bytes(32),
            now=world.clock[0],
        )

    def told(answer: httpx.Response) -> list[tuple[int, bool, list[str]]]:
        return [(one["version"], one["current"], one["parents"]) for one in answer.json()]

    assert told(world.ask("GET", "/models")) == [(1, False, []), (2, True, ["cardio@1"])]
    set_back = world.ask("POST", "/models/current", {"name": "cardio", "version": 1})
    assert told(set_back) == told(world.ask("GET", "/models")) == [(1, True, []), (2, False, ["cardio@1"])]
    event = world.services.events.list()[-1]
    assert (event.kind, event.subject, event.who) == ("model.made_current", "cardio@1", "ada")
    assert world.ask("POST", "/models/current", {"name": "cardio", "version": 3}).status_code == 404


def test_what_cannot_be_released_is_refused_in_one_line(world: World) -> None:
    run = world.start_run()
    body = {"name": "cardio", "version": 1}
    assert world.ask("POST", "/models/release", body).status_code == 404
    facts = {"run_id": run["id"], "plan_digest": run["plan"], "round": 0}
    data = encode_tensors({"weight": np.zeros(2, np.float32)}, facts)
    world.services.models.add(
        name="cardio",
        run_id=run["id"],
        plan_digest=run["plan"],
        blob=world.services.blobs.put(data),
        sha256=hashlib.sha256(data).digest(),
        now=world.clock[0],
    )
    answer = world.ask("POST", "/models/release", body)
    assert (answer.status_code, error_of(answer)) == (409, "cardio@1: expected the approval of A, got none")
    assert "is not released" in error_of(world.ask("GET", "/models/released?name=cardio&version=1"))
    assert world.services.releases.list() == []


def test_the_status_counts(world: World) -> None:
    world.start_run()
    world.services.sites.revoke(SiteId("B"), world.clock[0])
    world.presence.sites = {"A", "B"}
    status = world.ask("GET", "/status").json()
    assert (status["name"], status["sites"], status["present"], status["runs"]) == ("cardio", 1, 1, {"waiting": 1})


def test_metrics_have_routes_and_counts_but_no_names(world: World) -> None:
    run = world.start_run()
    world.presence.sites = {"A"}
    world.ask("GET", f"/runs/{run['id']}")
    world.ask("GET", "/secret-path", token="")
    text = world.ask("GET", "/metrics").text
    assert 'wardround_requests_total{route="/api/v1/runs/{run}",status="200"} 1.0' in text
    assert 'wardround_requests_total{route="none",status="404"} 1.0' in text
    assert 'wardround_runs{state="waiting"} 1.0' in text
    assert "wardround_sites_present 1.0" in text
    assert not {run["id"], "secret-path", "cardio"} & set(text.replace('"', " ").replace("/", " ").split())


def test_health_says_nothing_but_ok(world: World) -> None:
    answer = world.ask("GET", "/health", token="")
    assert answer.json() == {"status": "ok"}
    assert "server" not in answer.headers
