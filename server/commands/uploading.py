"""Handing a plan to the server: its text, its code, and its first model, which is made here."""

import os
import subprocess
import sys
import tempfile
from base64 import b64encode
from pathlib import Path

from wardround.errors import LocalError
from wardround.extras import require
from wardround.plain_text import plain_text
from wardround.plan import Plan
from wardround.server.commands.api_client import ApiClient

__all__ = ["add_plan"]

_MOST_CODE = 1 << 20


def add_plan(client: ApiClient, plan: Plan) -> str:
    """Let the server have `plan` with its first model; the plan's digest. What it has already is not sent again."""
    code = {name: _code_file(plan, name) for name, _ in plan.code_files}
    if sum(map(len, code.values())) > _MOST_CODE:
        raise LocalError(f"plan: expected code of at most {_MOST_CODE >> 10} KiB, since it goes to every site")
    body = {"toml": plan.to_toml(), "code": {name: b64encode(data).decode() for name, data in code.items()}}
    found = client.ask("POST", "/plans", body)
    if found["digest"] != plan.digest:
        raise LocalError("plan: the server reads another plan in this text; use the server's version of wardround")
    if found["first_model"] is None:
        require("job")
        with tempfile.TemporaryDirectory(prefix="wardround-") as temporary:
            model = _first_model(plan, code, Path(temporary))
            client.upload(f"/plans/{plan.digest}/first-model", model)
    return plan.digest


def _first_model(plan: Plan, code: dict[str, bytes], folder: Path) -> Path:
    """Make the first model in a process of its own, since it loads torch and the plan's code."""
    (folder / "plan.toml").write_text(plan.to_toml(), encoding="utf-8")
    for name, data in code.items():
        path = folder / str(plan.task.code) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    out = folder / "first-model.safetensors"
    command = [sys.executable, "-m", "wardround.client.trainer.first_model", str(folder / "plan.toml"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=_environment())  # noqa: S603
    if done.returncode != 0 or not out.is_file():
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LocalError(f"plan: its first model could not be made: {plain_text(said, 300).removeprefix('error: ')}")
    return out


def _environment() -> dict[str, str]:
    """Without what names the login: the plan's code runs there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WARDROUND_")}


def _code_file(plan: Plan, name: str) -> bytes:
    path = plan.folder / str(plan.task.code) / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
