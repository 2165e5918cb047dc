"""A simulation without cryptography says so wherever it says anything, and exists in simulations alone."""

import ast
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.simulations.masked_federation import masked_plan, run
from wardround.cli import app
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.orders import OrderKind
from wardround.plan_simulation import Cryptography
from wardround.server.runs.caveat import NO_CRYPTOGRAPHY, caveat
from wardround.server.runs.progress import LineProgress
from wardround.simulations.accounted_sums import AccountedSums, in_clear
from wardround.simulations.export_flower import export
from wardround.simulations.redteam.red_team import plan_grid, table_of_results
from wardround.simulations.report.redteam import render_redteam
from wardround.simulations.report.sweep import render_sweep
from wardround.simulations.sweep import plan_sweep, table_of_sweep
from wardround.tally import MeansSpec

ROOT = Path(__file__).resolve().parents[2]
ACCOUNTING = "simulation.cryptography=accounting"
NAMES = {"AccountedSums", "accounted_sums", "in_clear"}


def test_every_output_says_that_no_cryptography_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    chosen = masked_plan(ACCOUNTING, "rounds=2")
    folder = tmp_path / "run"
    with LineProgress(sys.stdout, chosen) as progress:
        result = run(chosen, out=folder, observer=progress, report=True)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == caveat(chosen) and all(NO_CRYPTOGRAPHY in line for line in lines[:2])
    assert NO_CRYPTOGRAPHY in repr(result)
    for name in ("report.html", "model-card.md", "results.json", "run.json"):
        assert NO_CRYPTOGRAPHY in (folder / name).read_text(encoding="utf-8").lower(), name
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["protection"]["accounted"] is True
    for command in (("compare", folder, folder), ("run", "evidence", folder)):
        told = CliRunner().invoke(app, [str(part) for part in command], env={"COLUMNS": "300"})
        assert told.exit_code == 0 and NO_CRYPTOGRAPHY in told.output, command
    card = (folder / "model-card.md").read_text(encoding="utf-8")
    assert "together learn no more" not in card and "sent in clear" not in card


def test_tables_of_many_runs_say_so_too() -> None:
    chosen = masked_plan(ACCOUNTING, "rounds=2", "protection.groups=2", sites=12)
    swept = table_of_sweep(plan_sweep(chosen, "training.lr=0.1,0.2"), [])
    attacked = table_of_results(plan_grid(chosen, attackers=1), [])
    assert swept["note"] == attacked["note"] == caveat(chosen) != ""
    assert "No cryptography ran" in render_sweep(swept) and "No cryptography ran" in render_redteam(attacked)


def test_nothing_is_said_where_masks_are_real_or_nothing_is_protected() -> None:
    assert caveat(masked_plan()) == caveat(masked_plan("protection=")) == ""
    assert caveat(masked_plan("protection.groups=52", sites=260)).startswith("roster checks were left out")


def test_nothing_but_simulations_knows_of_it() -> None:
    """By every name and every text in the source of the other packages."""
    files = [path for role in ("server", "client", "strategies", "wardround") for path in (ROOT / role).glob("**/*.py")]
    assert len(files) > 100
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = {
                getattr(node, "id", None),
                getattr(node, "attr", None),
                *(str(getattr(node, "module", "") or "")).split("."),
                *(alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)),
            }
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(node.value.replace(":", ".").split("."))
            assert not NAMES & found, path


def test_a_guard_of_the_real_plan_sends_nothing_in_the_clear() -> None:
    """What the simulation gives its guards is another plan; the approved one needs a member."""
    from wardround.client.guard.guard import SiteGuard
    from wardround.orders import SiteId
    from wardround.state_store import MemoryStore

    chosen = masked_plan(ACCOUNTING)
    assert chosen.simulation.cryptography is Cryptography.ACCOUNTING
    with pytest.raises(LocalError, match="expected a member of secure aggregation"):
        SiteGuard(chosen, SiteId("a"), MemoryStore())
    SiteGuard(in_clear(chosen), SiteId("a"), MemoryStore(), plan_digest=chosen.digest)


def test_no_flower_app_is_made_of_it(tmp_path: Path) -> None:
    columns = {"source": "digits", "target": {"name": "digit", "classes": [str(n) for n in range(10)]}}
    image = {"shape": [1, 8, 8], "range": [0, 16]}
    chosen = masked_plan(ACCOUNTING, data=columns | {"image": image}, task={"name": "image-classifier"})
    with pytest.raises(PlanError, match=r'simulation\.cryptography: expected "real"'):
        export(chosen, tmp_path / "app")
    with pytest.raises(PlanError, match=r'protection\.mode: expected "off".*MaskingStrategy'):
        export(chosen.override(["simulation.cryptography=real"]), tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_too_few_sites_for_an_epoch_are_refused() -> None:
    chosen = masked_plan(ACCOUNTING)
    sums = AccountedSums(chosen, (), {OrderKind.FIT: MeansSpec()})
    with pytest.raises(LocalError, match="expected at least 6 sites, got 0"):
        sums.open(None, {})  # type: ignore[arg-type]
