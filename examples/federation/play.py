"""A federation of three hospitals on this machine, from an empty disk to a model: `play.py FOLDER [--network]`.

Every party is a process of its own with a folder of its own, and everything is done by the commands that people use.
One hospital is killed in the middle of the training, and comes back. With `--network` each party is in a network of its
own, and nothing gets into a hospital's; this needs root. FOLDER gets the model, the report, the timeline, and the logs
that the auditor at the end has checked.
"""

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

from data import deal
from network import Network
from stage import AUDITOR, SERVER, Stage

PLAN, SCHEMA = Path(__file__).parent / "plan.toml", Path(__file__).parent / "ehr.toml"
HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
POLICY = ("--require", "secure-aggregation", "--min-sites", "3", "--pins", "all", "--code", "none", "--require-schema")
"""What every hospital allows, whatever it is offered."""
KILLED, KILLED_AFTER, AWAY_S = "hospital-c", 4, 25
"""Who is killed, after which round, and for how long it is away."""


def play(stage: Stage) -> None:
    """The whole journey; raises SystemExit where a command fails."""
    stage.say("# The coordinator makes a federation and starts its server.\n")
    stage.make_server("cardio")
    stage.start_server()
    stage.log_in()

    stage.say("# It invites three hospitals. Each joins with one command, has a table, and says what it allows.\n")
    deal(stage.folder / "data", HOSPITALS)
    for hospital in HOSPITALS:
        stage.join(hospital)
        table = str(stage.folder / "data" / f"{hospital}.csv")
        if hospital == HOSPITALS[0]:  # whose draft, read and finished, is the schema that all three use
            draft = str(stage.folder / "draft.toml")
            stage.run(hospital, "client", "data", "add", table, "--infer", "--schema", draft)
        stage.run(hospital, "client", "data", "add", table, "--name", "ehr", "--schema", str(SCHEMA))
        stage.run(hospital, "client", "policy", "set", *POLICY)
        stage.start_client(hospital)
    stage.tell(HOSPITALS[0], "client", "doctor")
    stage.run(SERVER, "server", "clients")

    stage.say("# The coordinator starts a run. Nothing happens until every hospital has approved it.\n")
    watched = stage.watch(SERVER, "run", "start", str(PLAN), "--watch")
    for hospital in HOSPITALS:
        run = stage.wait_for_offer(hospital)
        if hospital == HOSPITALS[0]:
            stage.run(hospital, "client", "plan", "show", run, "--data", "ehr")
        stage.run(hospital, "client", "members", "accept", "--all")
        if hospital == HOSPITALS[0]:
            stage.run(hospital, "client", "policy", "check", run, "--data", "ehr")
        stage.run(hospital, "client", "plan", "approve", run, "--data", "ehr")

    watched.wait_for(f"round {KILLED_AFTER}/")
    stage.say(f"\n# {KILLED} loses its power, and comes back {AWAY_S} seconds later.\n")
    stage.kill(KILLED)
    time.sleep(AWAY_S)
    stage.start_client(KILLED)
    watched.finish()

    stage.say("# What is left of it.\n")
    stage.run(SERVER, "run", "show", "1")
    stage.run(SERVER, "run", "report", "1", "--out", str(stage.folder / "report.html"))
    stage.run(SERVER, "model", "list")
    stage.run(SERVER, "model", "export", "breast-cancer@1", "--out", str(stage.folder / "model.safetensors"))
    timeline = stage.run(SERVER, "run", "timeline", "1")
    (stage.folder / "timeline.txt").write_text(timeline, encoding="utf-8")

    stage.say("# The model is released, and what everybody has logged is handed to an auditor, who needs no server.\n")
    model, root = str(stage.folder / "breast-cancer-1.wardmodel"), str(stage.folder / "ca.pem")
    stage.run(HOSPITALS[0], "client", "audit", "tail", "-n", "12")
    logs = {party: str(stage.folder / f"{party}-audit.zip") for party in (SERVER, *HOSPITALS)}
    stage.run(SERVER, "model", "release", "breast-cancer@1", "--out", model)
    stage.run(SERVER, "server", "authority", "--out", root)
    stage.run(SERVER, "server", "audit", "export", logs[SERVER])
    for hospital in HOSPITALS:
        stage.run(hospital, "client", "audit", "export", logs[hospital])
    stage.run(AUDITOR, "verify", "model", model, "--root", root)
    for hospital in HOSPITALS:
        stage.run(AUDITOR, "verify", "audit", logs[hospital], "--root", root)
    against = [part for hospital in HOSPITALS for part in ("--against", logs[hospital])]
    stage.run(AUDITOR, "verify", "audit", logs[SERVER], "--root", root, *against)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--network", action="store_true", help="a network for each party; needs root")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        network = stack.enter_context(Network(SERVER, HOSPITALS)) if chosen.network else None
        stage = Stage(folder, network)
        stack.callback(stage.stop_all)
        play(stage)
    for what, name in (
        ("report", "report.html"),
        ("model", "breast-cancer-1.wardmodel"),
        ("audit", "server-audit.zip"),
        ("timeline", "timeline.txt"),
    ):
        print(f"{what:9}{folder / name}")


if __name__ == "__main__":
    main()
