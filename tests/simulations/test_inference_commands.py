"""The commands of private inference: the whole way, and how each refuses."""

import stat
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.released_models import Signers
from tests.simulations.private_models import ROWS, make_run
from wardround.errors import RemoteError
from wardround.simulations.inference_commands import app
from wardround.simulations.prediction import predict


def infer(*words: object) -> Result:
    return CliRunner().invoke(app, ["infer", *map(str, words)])


def test_the_whole_way(tmp_path: Path) -> None:
    run, rows = make_run(tmp_path / "run"), tmp_path / "rows.csv"
    rows.write_text(ROWS)
    info, key, context, query, answer, out = (tmp_path / name for name in ("i", "k", "c", "q", "a", "o"))
    done = infer("describe", run, "-o", info)
    assert done.exit_code == 0 and "CKKS 4096 [45, 44, 17], an output is off by at most" in done.stderr
    done = infer("keygen", "--model-info", info, "--key", key, "--context", context)
    assert done.exit_code == 0 and "show it to nobody" in done.stderr
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    done = infer("encrypt", rows, "--model-info", info, "--key", key, "-o", query)
    assert done.exit_code == 0 and "3 rows encrypted" in done.stderr
    done = infer("run", run, query, "--context", context, "-o", answer)
    assert done.exit_code == 0 and "an answer for 3 rows, which only the asker can read" in done.stderr
    done = infer("decrypt", query, answer, "--model-info", info, "--key", key)
    assert done.exit_code == 0 and "show these values to nobody who has the query or the model" in done.stderr
    expected = predict(run, rows)
    assert [line.split(",")[-1] for line in done.stdout.splitlines()] == ["prediction", *expected.classes]
    written = infer("decrypt", query, answer, "--model-info", info, "--key", key, "--out", out)
    assert written.exit_code == 0 and out.read_text() == done.stdout and written.stdout == ""
    assert stat.S_IMODE(out.stat().st_mode) == 0o600  # the owner, who may have an account here, must not read it


def test_refusals_are_errors(tmp_path: Path) -> None:
    run, rows = make_run(tmp_path / "run"), tmp_path / "rows.csv"
    rows.write_text(ROWS)
    info, key, context, query, answer = (tmp_path / name for name in ("i", "k", "c", "q", "a"))
    infer("describe", run, "-o", info)
    infer("keygen", "--model-info", info, "--key", key, "--context", context)
    infer("encrypt", rows, "--model-info", info, "--key", key, "-o", query)
    refused = infer("run", run, query, "--context", key, "-o", answer)
    assert isinstance(refused.exception, RemoteError) and "secret key" in str(refused.exception)
    refused = infer("run", run, query, "--context", context, "-o", answer, "--max-rows", 2)
    assert isinstance(refused.exception, RemoteError) and not answer.exists()
    infer("run", run, query, "--context", context, "-o", answer)
    before = key.read_bytes()
    refused = infer("decrypt", query, answer, "--model-info", info, "--key", key, "--out", key)
    assert refused.exit_code == 2 and "is a file that is read" in refused.stderr and key.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "verified by --root CA, or else used with --unverified"),
        (["--root", "CA", "--unverified"], "verified by --root CA, or else used with --unverified"),
        (["--unverified"], ""),
        (["--root", "CA"], ""),
    ],
)
def test_a_released_model_is_verified_or_said_not_to_be(tmp_path: Path, options: list[str], words: str) -> None:
    signers = Signers()
    model = signers.write(tmp_path / "hearts-2.wardmodel")
    (tmp_path / "ca.pem").write_bytes(signers.pem)
    given = [str(tmp_path / "ca.pem") if option == "CA" else option for option in options]
    done = infer("describe", model, "-o", tmp_path / "info", *given)
    assert done.exit_code == (2 if words else 0) and words in done.stderr
    assert ("NOT VERIFIED" in done.stderr) == (options == ["--unverified"])
    assert (tmp_path / "info").exists() == (not words)


def test_a_run_needs_no_verification(tmp_path: Path) -> None:
    done = infer("describe", make_run(tmp_path / "run"), "-o", tmp_path / "info", "--unverified")
    assert done.exit_code == 2 and "is a run of this machine" in done.stderr
