"""`wardround export-flower`: a plan as a folder that stock `flwr run` takes."""

import json
import re
import shutil
import tempfile
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import tomli_w

from wardround import _flower
from wardround.client.trainer.bundle import read_bundle
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.plan import Plan, load_plan
from wardround.plan_robust import AUTO
from wardround.simulations.flower_app import LEFT_OUT, check_unprotected

__all__ = ["export"]

_PACKAGE = "wardround_app"
_CODE, _DATA = "code", "data"

_README = """# {name}, as a Flower app

Written by `wardround export-flower`. It trains {sites} sites for {rounds} rounds. The environment that runs it needs
`wardround[simulation]` and `flwr[simulation]`; nothing is downloaded at run time.

Simulated sites, on this machine or a Ray cluster:

    flwr run . --stream --federation-config "num-supernodes={sites} client-resources-num-cpus=1"

`flwr run` starts a SuperLink on this machine for that and leaves it running; `flwr ls` lists its runs. The first time,
Flower writes its settings to `~/.flwr` (or `$FLWR_HOME`). `FLWR_TELEMETRY_ENABLED=0` turns its telemetry off.

On a SuperLink of your own, named in Flower's `config.toml`, with {sites} SuperNodes, each started with
`--node-config "partition-id=I num-partitions={sites}"` for I from 0:

    flwr run . NAME --stream

Each run makes a directory (plan, metrics, checkpoints, model) in `{runs}`, for `wardround report`, `compare` and
`predict`; `--run-config "out='FOLDER'"` says another place. The plan's data file, if it has one, is read at the
absolute path in `plan.toml`, on every machine.
"""

_CLIENT = '''"""What Flower runs for a site."""

from pathlib import Path

from wardround.simulations.flower_app import client_app_for

app = client_app_for(Path(__file__).parent.parent / "plan.toml")
'''

_SERVER = '''"""What Flower runs as the server."""

from pathlib import Path

from wardround.simulations.flower_app import server_app_for

app = server_app_for(Path(__file__).parent.parent / "plan.toml")
'''


def export(plan: Plan, folder: Path) -> None:
    """Write `plan` with its code bundle and data file as a Flower app into `folder`, which is new or empty.

    Raises LocalError when the folder has content or cannot be written, PlanError for what a Flower app cannot carry;
    then nothing is written.
    """
    if plan.data.source == "arrays":
        raise PlanError("data.source", "a data set or a file, since arrays exist in Python only", plan.data.source)
    if plan.robust.rule == AUTO:
        raise PlanError("robust.rule", "a rule by name; `wardround redteam` picks one", AUTO)
    if plan.privacy.on:
        expected = '"off", since no site\'s ledger is asked there; `PrivateStrategy` hides the clients of a Flower app'
        raise PlanError("privacy.unit", expected, plan.privacy.unit.value)
    check_unprotected(plan)
    if plan.simulation.attack.attackers or plan.robust.root_examples:
        wrong = "simulation.attack.attackers" if plan.simulation.attack.attackers else "robust.root_examples"
        raise PlanError(wrong, "0, since only wardround's own simulation plays attackers and the server's own rows")
    for name, lost in (
        ("dropout", plan.simulation.dropout),
        ("stragglers.fraction", plan.simulation.stragglers.fraction),
    ):
        if lost:
            raise PlanError(f"simulation.{name}", "0, since Flower's engine loses no sites on purpose", lost)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise LocalError(f"{folder}: expected a new or an empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            draft = Path(temporary) / folder.name
            _write(plan, draft, home=folder.resolve())
            _keep_together(draft)
            draft.replace(folder)
    except OSError as error:
        raise LocalError(f"{error.filename or folder}: {error.strerror}; nothing was written") from error


def _write(plan: Plan, draft: Path, home: Path) -> None:
    package = draft / _PACKAGE
    package.mkdir(parents=True)
    task, data = plan.task, plan.data
    if task.code is not None:
        for name, content in read_bundle(plan).items():
            target = draft / _CODE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        task = replace(task, code=_CODE)
    if data.path is not None:
        (draft / _DATA).mkdir()
        target = Path(_DATA) / Path(data.path).name
        shutil.copyfile(plan.folder / data.path, draft / target)
        data = replace(data, path=str(home / target))
    texts = {
        "plan.toml": replace(plan, task=task, data=data).to_toml(),
        "pyproject.toml": tomli_w.dumps(_project(plan, home)),
        "README.md": _README.format(
            name=plan.name, sites=plan.simulation.sites, rounds=plan.rounds, runs=home / "runs"
        ),
        f"{_PACKAGE}/__init__.py": "",
        f"{_PACKAGE}/client_app.py": _CLIENT,
        f"{_PACKAGE}/server_app.py": _SERVER,
    }
    for name, text in texts.items():
        (draft / name).write_text(text, encoding="utf-8")


def _project(plan: Plan, home: Path) -> dict[str, object]:
    name = re.sub(r"[^A-Za-z0-9]+", "-", plan.name).strip("-")[:30].rstrip("-")
    flower = {
        "publisher": "wardround",
        "components": {
            "serverapp": f"{_PACKAGE}.server_app:app",
            "clientapp": f"{_PACKAGE}.client_app:app",
        },
        "config": {"out": str(home / "runs")},
    }
    return {
        "project": {
            "name": f"wardround-{name}".rstrip("-"),
            "version": "1.0.0",
            "description": f"The wardround plan {plan.name!r}",
            "license": "Apache-2.0",
            "requires-python": ">=3.11",
            "dependencies": [],
        },
        "tool": {"flwr": {"app": flower}},
    }


def _keep_together(draft: Path) -> None:
    """Put the files of the code bundle that Flower would leave behind into one that it carries."""
    try:
        names = [f"{_CODE}/{name}" for name, _ in load_plan(draft / "plan.toml").code_files]
        if left := sorted(set(names) - _flower.bundle_files(draft)):
            encoded = {name: b64encode((draft / name).read_bytes()).decode() for name in left}
            (draft / LEFT_OUT).write_text(json.dumps(encoded, indent=0), encoding="utf-8")
            _flower.bundle_files(draft)
    except ValueError as error:
        raise LocalError(f"Flower does not take the app: {error}") from None
