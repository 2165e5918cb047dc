"""Private inference from file to file: the answers are those of `predict`, and what does not belong is refused."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from tests.simulations.private_models import LOGISTIC, MLP, ROWS, make_run
from wardround.errors import LocalError, RemoteError
from wardround.orders import Statistics
from wardround.plan_source import find_plan
from wardround.simulations import private_inference
from wardround.simulations.prediction import Prediction, predict
from wardround.simulations.private_inference import PrivatePrediction
from wardround.simulations.simulate import simulate
from wardround.strategies.he.inference_file import (
    AnswerHead,
    ContextHead,
    KeyHead,
    ModelInfo,
    QueryHead,
    read_file,
    write_file,
)


class Parties:
    """An asker and an owner in one folder, with the files of both."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        private_inference.describe(model, self / "info")
        private_inference.keygen(self / "info", self / "key", self / "context")

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def encrypt(self, rows: Path, out: str = "query") -> int:
        return private_inference.encrypt(self / "info", self / "key", rows, self / out)

    def run(
        self, query: str = "query", out: str = "answer", context: str = "context", max_rows: int | None = None
    ) -> int:
        return private_inference.run(self.model, self / query, self / context, self / out, max_rows=max_rows)

    def decrypt(self, query: str = "query", answer: str = "answer", key: str = "key") -> PrivatePrediction:
        return private_inference.decrypt(self / "info", self / key, self / query, self / answer)


def make_parties(folder: Path, text: str = LOGISTIC, rows: str = ROWS, seed: int = 0) -> Parties:
    folder.mkdir()
    (folder / "rows.csv").write_text(rows)
    parties = Parties(folder, make_run(folder / "run", text, seed=seed))
    parties.encrypt(folder / "rows.csv")
    parties.run()
    return parties


def same(private: PrivatePrediction, plain: Prediction) -> bool:
    return (
        private.rows.tolist() == plain.rows.tolist()
        and private.names == plain.names
        and private.classes == plain.classes
        and bool((np.abs(private.outputs - plain.outputs) < 0.6 * 10.0**-private.digits).all())
    )


@pytest.mark.parametrize(
    "task", [{"model": "logistic"}, {"model": "mlp", "hidden": [8], "options": {"quadratic": True}}]
)
def test_no_label_of_569_patients_flips(tmp_path: Path, task: dict[str, object]) -> None:
    settings = [f"task.{name}={json.dumps(value).replace(':', ' =')}" for name, value in task.items()]
    settings = [one.replace('{"quadratic" = true}', "{quadratic = true}") for one in settings]
    simulate(find_plan("breast-cancer").override(["rounds=8", *settings]), out=tmp_path / "run", report=False)
    names = [column.name for column in find_plan("breast-cancer").data.columns]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *load_breast_cancer().data.tolist()])
    parties = Parties(tmp_path, tmp_path / "run")
    assert parties.encrypt(tmp_path / "rows.csv") == parties.run() == 569
    found, expected = parties.decrypt(), predict(tmp_path / "run", tmp_path / "rows.csv")
    assert same(found, expected)
    assert len(found.classes) == 569 and set(found.classes) == {"benign", "malignant"}


@pytest.mark.parametrize("text", [LOGISTIC, MLP])
def test_the_answer_is_that_of_predict(tmp_path: Path, text: str) -> None:
    parties = make_parties(tmp_path / "a", text)
    found, expected = parties.decrypt(), predict(parties.model, parties / "rows.csv")
    assert same(found, expected) and found.rows.tolist() == [2, 3, 4]
    private, plain = found.to_csv().splitlines(), expected.to_csv().splitlines()
    assert private[0] == plain[0]
    assert [line.split(",")[-1] for line in private] == [line.split(",")[-1] for line in plain]
    assert private[1].split(",")[1] == f"{expected.outputs[0, 0]:.4f}"


def test_a_number_to_predict_has_the_decimals_that_its_range_needs(tmp_path: Path) -> None:
    text = LOGISTIC.replace("classifier", "regressor").replace("logistic", "linear")
    parties = make_parties(tmp_path / "a", text.replace('classes = ["no", "perhaps", "yes"]', "range = [25, 346]"))
    found = parties.decrypt()
    assert same(found, predict(parties.model, parties / "rows.csv"))
    assert (found.digits, found.names, found.classes) == (2, ("ill",), ())


def test_an_array(tmp_path: Path) -> None:
    parties, rows = make_parties(tmp_path / "a"), np.array([[140.0, "now"], [100.0, "never"]], dtype=object)
    private_inference.encrypt(parties / "info", parties / "key", rows, parties / "q2")
    parties.run("q2", "a2")
    assert same(parties.decrypt("q2", "a2"), predict(parties.model, rows))
    with pytest.raises(LocalError, match=r"array: expected shape \(n, 2\), the model's columns, got \(2, 1\)"):
        private_inference.encrypt(parties / "info", parties / "key", rows[:, :1], parties / "q3")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("smoker\nnow\n", "rows.csv: expected a column 'pressure'"),
        ("smoker,pressure\nnow,high\n", "rows.csv: column 'pressure': expected numbers.* row 2"),
        ("smoker,pressure\nnow,140\nnow,900\n", "rows.csv: column 'pressure': expected values from 30 to 250.* row 3"),
        ("smoker,pressure\nnow,140\nnow,nan\n", "rows.csv: column 'pressure': expected a value in every row.* row 3"),
        ("smoker,pressure\nnow,inf\n", "rows.csv: column 'pressure': expected finite numbers"),
        ("smoker,pressure\nwho,140\n", "rows.csv: column 'smoker': .* row 2"),
        ("smoker,pressure\n", "rows.csv: expected rows"),
        ("smoker,pressure\n" + "now,140\n" * 65537, "rows.csv: expected at most 65536 rows in a query, got 65537"),
    ],
)
def test_rows_that_do_not_fit_make_no_query(tmp_path: Path, rows: str, message: str) -> None:
    parties = make_parties(tmp_path / "a")
    (tmp_path / "rows.csv").write_text(rows)
    with pytest.raises(LocalError, match=message):
        parties.encrypt(tmp_path / "rows.csv", "bad")
    assert not list(parties.folder.glob("*bad*"))


def test_what_belongs_to_another_model_is_refused(tmp_path: Path) -> None:
    one, other = make_parties(tmp_path / "one"), make_parties(tmp_path / "other", seed=1)
    with pytest.raises(RemoteError, match=r"query: expected one of the model .{12}, got one of"):
        private_inference.run(other.model, one / "query", one / "context", tmp_path / "answer")
    with pytest.raises(RemoteError, match=r"query: expected one of the model"):
        private_inference.decrypt(other / "info", one / "key", one / "query", one / "answer")
    deep = make_parties(tmp_path / "deep", MLP)
    with pytest.raises(LocalError, match=r"key: expected a key for CKKS 8192.*got one for 4096.*infer keygen"):
        private_inference.encrypt(deep / "info", one / "key", one / "rows.csv", tmp_path / "query")
    with pytest.raises(RemoteError, match=r"context: expected a context of CKKS 8192.*got one of 4096"):
        private_inference.run(deep.model, one / "query", one / "context", tmp_path / "answer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "one", "other"]


def test_what_belongs_to_another_key_is_refused(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a")
    private_inference.keygen(parties / "info", parties / "key2", parties / "context2")
    with pytest.raises(RemoteError, match=r"query: expected one of the key .{12}, got one of"):
        parties.run(context="context2", out="a2")
    with pytest.raises(RemoteError, match=r"query: expected one of the key"):
        parties.decrypt(key="key2")
    assert not (parties / "a2").exists()


def test_an_answer_to_another_query_is_refused(tmp_path: Path) -> None:
    """Patients must not be mixed up."""
    parties = make_parties(tmp_path / "a")
    parties.encrypt(parties / "rows.csv", "query2")
    parties.run("query2", "answer2")
    with pytest.raises(RemoteError, match=r"answer2: expected one of the query .{12}, got one of"):
        parties.decrypt("query", "answer2")


def test_an_answer_that_the_model_cannot_give_is_refused(tmp_path: Path) -> None:
    """A key whose file says that it is another: what it reads is noise."""
    parties = make_parties(tmp_path / "a")
    private_inference.keygen(parties / "info", parties / "key2", parties / "context2")
    head, _, _ = read_file(parties / "key", KeyHead)
    _, secret, _ = read_file(parties / "key2", KeyHead)
    write_file(parties / "key3", head, secret)
    with pytest.raises(RemoteError, match=r"answer: expected outputs of at most .*it is no answer of the model's"):
        parties.decrypt(key="key3")


def test_a_secret_key_in_the_owners_hands_is_refused_and_reported(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a")
    with pytest.raises(RemoteError, match=r"key: .*got the file of a secret key; it is not used.*destroy"):
        parties.run(context="key", out="a2")
    head, secret, _ = read_file(parties / "key", KeyHead)
    write_file(parties / "context2", ContextHead(nonce="0", parameters=head.parameters), secret)
    with pytest.raises(RemoteError, match=r"context2: context: expected one without a secret key, got the key with it"):
        parties.run(context="context2", out="a2")
    assert not (parties / "a2").exists()


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a")
    (parties / "key").chmod(0o640)
    with pytest.raises(LocalError, match=r"key: expected a file that its owner alone may read.*chmod 600"):
        parties.decrypt()


def test_a_secret_key_of_other_parameters_is_reported_too(tmp_path: Path) -> None:
    parties, deep = make_parties(tmp_path / "a"), make_parties(tmp_path / "deep", MLP)
    head, secret, _ = read_file(deep / "key", KeyHead)
    write_file(parties / "context2", ContextHead(nonce="0", parameters=head.parameters), secret)
    with pytest.raises(RemoteError, match=r"context2: context: expected one without a secret key, got the key with it"):
        parties.run(context="context2", out="a2")


def test_rows_that_were_encoded_by_other_facts_are_refused(tmp_path: Path) -> None:
    """Model info is not signed: statistics, an order of classes, that are not the model's must not give an answer."""
    parties = make_parties(tmp_path / "a")
    known, _, _ = read_file(parties / "info", ModelInfo)
    others = (
        replace(known, statistics=Statistics(mean=(120.0,), std=(21.0,))),
        replace(known, target=replace(known.target, classes=known.target.classes[::-1])),
        replace(known, columns=(known.columns[0], replace(known.columns[1], categories=("now", "never")))),
    )
    for number, other in enumerate(others):
        write_file(parties / f"info{number}", other)
        private_inference.encrypt(
            parties / f"info{number}", parties / "key", parties / "rows.csv", parties / f"query{number}"
        )
        with pytest.raises(RemoteError, match=rf"query{number}: expected one of the model info .{{12}}, got one of"):
            parties.run(f"query{number}", "a2")
        with pytest.raises(RemoteError, match=r"query: expected one of the model info"):
            private_inference.decrypt(parties / f"info{number}", parties / "key", parties / "query", parties / "answer")
    assert not (parties / "a2").exists()


def test_statistics_that_make_rows_too_large_are_refused(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a")
    known, _, _ = read_file(parties / "info", ModelInfo)
    write_file(parties / "info2", replace(known, statistics=Statistics(mean=(120.0,), std=(1e-30,))))
    with pytest.raises(LocalError, match="expected standardised values of at most"):
        private_inference.encrypt(parties / "info2", parties / "key", parties / "rows.csv", parties / "bad")
    assert not list(parties.folder.glob("*bad*"))


def test_files_larger_than_a_query_or_an_answer_can_be_are_not_read(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a")
    for name in ("query", "answer"):
        with (parties / name).open("ab") as file:
            file.truncate(1 << 28)
    with pytest.raises(RemoteError, match=r"query: expected at most \d{7,8} bytes, got 268435456"):
        parties.run(out="a2")
    (parties / "query").unlink()
    parties.encrypt(parties / "rows.csv")
    with pytest.raises(RemoteError, match=r"answer: expected at most \d{7} bytes, got 268435456"):
        parties.decrypt()


def test_what_other_parties_wrote_does_not_control_a_terminal(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a")
    head, payload, _ = read_file(parties / "query", QueryHead)
    write_file(parties / "query2", replace(head, model="\x1b[2J\x1b]0;x"), payload)
    with pytest.raises(RemoteError, match="query2: expected one of the model") as caught:
        parties.run("query2", "a2")
    assert str(caught.value).isprintable()


def test_what_goes_to_the_owner_has_neither_rows_nor_key(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a", rows="smoker,pressure\nnow,123.456\n")
    _, secret, _ = read_file(parties / "key", KeyHead)
    given = b"".join((parties / name).read_bytes() for name in ("context", "query"))
    assert len(secret) > 60_000 and b"123.456" not in given
    pieces = {secret[at : at + 16] for at in range(2000, len(secret) - 2000, 997)}
    assert len(pieces) > 50 and not any(piece in given for piece in pieces)


def test_a_query_with_more_rows_than_allowed_is_refused(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a")
    with pytest.raises(RemoteError, match=r"query: expected at most 2 rows, got 3"):
        parties.run(out="a2", max_rows=2)
    assert parties.run(out="a3", max_rows=3) == 3


@pytest.mark.parametrize("name", ["info", "key", "context", "query", "answer"])
def test_cut_files_are_refused(tmp_path: Path, name: str) -> None:
    parties = make_parties(tmp_path / "a")
    data = (parties / name).read_bytes()
    (parties / name).write_bytes(data[:-3])
    with pytest.raises(RemoteError, match=f"{name}: .*the file was cut"):
        if name in ("context", "query"):
            parties.run(out="a2")
        parties.decrypt()
    assert not (parties / "a2").exists()


def test_keys_are_never_replaced(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a")
    before = (parties / "key").read_bytes()
    for names in (("key", "new"), ("new", "context"), ("new", "missing/context"), ("missing/key", "new")):
        with pytest.raises(LocalError, match=r"is there already|cannot be written"):
            private_inference.keygen(parties / "info", parties / names[0], parties / names[1])
    assert (parties / "key").read_bytes() == before and not (parties / "new").exists()


def test_heads_that_lie_about_what_follows_are_refused(tmp_path: Path) -> None:
    parties = make_parties(tmp_path / "a")
    asked, payload, _ = read_file(parties / "query", QueryHead)
    queries = (
        (replace(asked, inputs=2), "expected 3 inputs, the model's, got 2"),
        (replace(asked, rows=2049), "expected 6 ciphertexts and nothing else"),
    )
    for number, (query, words) in enumerate(queries):
        write_file(parties / f"query{number}", query, payload)
        with pytest.raises(RemoteError, match=rf"query{number}: {words}"):
            parties.run(f"query{number}", "a2")
    head, payload, _ = read_file(parties / "answer", AnswerHead)
    answers = (
        (replace(head, outputs=1), payload, "expected 2 outputs of 3 rows, got 1 of 3"),
        (replace(head, rows=2), payload, "expected 2 outputs of 3 rows, got 2 of 2"),
        (head, payload[:-1], "expected 2 ciphertexts and nothing else"),
    )
    for number, (answer, data, words) in enumerate(answers):
        write_file(parties / f"answer{number}", answer, data)
        with pytest.raises(RemoteError, match=rf"answer{number}: {words}"):
            parties.decrypt(answer=f"answer{number}")


def test_an_asker_needs_no_torch() -> None:
    code = (
        "import sys, wardround.simulations.private_inference, wardround.strategies.he.private_inference\n"
        "print([name for name in ('torch', 'flwr', 'opacus', 'tenseal', 'sqlalchemy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_tenseal_that_does_not_keep_the_bound_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_inference, "measured_error", lambda *_: 0.5)
    with pytest.raises(LocalError, match=r"got 0.5 with this machine's TenSEAL; install tenseal 0.3.18"):
        private_inference.describe(make_run(tmp_path / "run"), tmp_path / "info")
    assert not (tmp_path / "info").exists()
