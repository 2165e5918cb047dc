import json
import math
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wardround.contribution import Evidence, Report, Verdict
from wardround.orders import SiteId
from wardround.server.runs.record_line import COMPACT_ABOVE, decode_lines, encode_line, record_table
from wardround.strategies.records import Absence, EvaluationRecord, RoundRecord
from wardround.strategies.reputation import Reputation, Standing
from wardround.strategies.secagg.round_evidence import (
    AbortRecord,
    GroupOutcome,
    ProtectionRecord,
    Stage,
    StageCost,
)
from wardround.tally import ClassificationSpec, Tally


def record(number: int = 1, *, sites: int = 2, lr: float = 0.1, norm: float = 1.0) -> RoundRecord:
    names = [SiteId(f"site-{i}") for i in range(sites)]
    counts = np.zeros(ClassificationSpec(classes=2, bins=2).size, dtype=np.int64)
    counts[[0, 2]] = 5
    tally = Tally(ClassificationSpec(classes=2, bins=2), counts)
    evidence = [Evidence(members=(name,), weight=5.0, norm=norm, verdict=Verdict.ACCEPTED) for name in names]
    evidence[-1] = Evidence(
        members=(names[-1],),
        weight=0.0,
        norm=None,
        verdict=Verdict.REJECTED,
        reason="NaN",
        cosine=-0.5,
        score=2.0,
        flags=("norm",),
    )
    standing = Standing(suspicion=0.5, seen=4, flagged=2, groups=((names[-1],),))
    reputation = Reputation(standings={names[-1]: standing}, quarantined={names[-1]: 1}, notes=("look",))
    return RoundRecord(
        round=number,
        cohort=tuple(names),
        absences=(Absence(site=names[0], reason="late\n"),),
        void=False,
        lr=lr,
        update_norm=norm,
        train=None,
        validation=EvaluationRecord(total=tally, sites=dict.fromkeys(names, tally)),
        report=Report(tuple(evidence)),
        reason="too few",
        reputation=reputation,
        seconds=0.1,
        cpu_seconds=0.2,
    )


def test_a_line_has_every_key_and_every_site() -> None:
    data = encode_line(record())
    assert data.count(b"\n") == 1 and data.endswith(b"\n")
    counted = {"n": 5, "metrics": {"loss": 0.0, "accuracy": 1.0, "specificity": 1.0, "brier": 0.0}}
    line = json.loads(data)
    for found in (line["validation"], *line["validation"]["sites"].values()):
        found["metrics"] = {name: found["metrics"][name] for name in counted["metrics"]}  # type: ignore[attr-defined]
    unmeasured = {"cosine": None, "score": None}
    assert line == {
        "round": 1,
        "void": False,
        "cohort": ["site-0", "site-1"],
        "absences": [{"site": "site-0", "reason": "late\n"}],
        "lr": 0.1,
        "update_norm": 1.0,
        "train": None,
        "validation": counted | {"sites": {"site-0": counted, "site-1": counted}},
        "evidence": [
            unmeasured
            | {"members": ["site-0"], "weight": 5.0, "norm": 1.0, "verdict": "accepted", "reason": "", "flags": []},
            {"members": ["site-1"], "weight": 0.0, "norm": None, "cosine": -0.5, "score": 2.0}
            | {"verdict": "rejected", "reason": "NaN", "flags": ["norm"]},
        ],
        "aggregation": "too few",
        "reputation": {"site-1": 0.5},
        "quarantined": ["site-1"],
        "notes": ["look"],
        "privacy": None,
        "protection": None,
        "seconds": 0.1,
        "cpu_seconds": 0.2,
        "simulated_seconds": None,
    }


@given(st.floats(), st.floats())
def test_numbers_round_trip_and_what_json_cannot_hold_is_null(lr: float, norm: float) -> None:
    line = json.loads(encode_line(record(lr=lr, norm=norm)), parse_constant=lambda name: 1 / 0)
    assert line == record_table(record(lr=lr, norm=norm))
    assert line["lr"] == (lr if math.isfinite(lr) else None)
    assert line["evidence"][0]["norm"] == (norm if math.isfinite(norm) else None)


def test_of_many_sites_only_what_is_not_plainly_accepted_is_told_one_by_one() -> None:
    last = f"site-{COMPACT_ABOVE}"
    line = json.loads(encode_line(record(sites=COMPACT_ABOVE + 1)))
    assert len(line["cohort"]) == COMPACT_ABOVE + 1
    assert [entry["members"] for entry in line["evidence"]] == [[last]]
    assert list(line["validation"]["sites"]) == [last]
    whole = json.loads(encode_line(record(sites=COMPACT_ABOVE)))
    assert len(whole["evidence"]) == len(whole["validation"]["sites"]) == COMPACT_ABOVE


@given(st.data())
def test_lines_are_read_up_to_any_tear(data: st.DataObject) -> None:
    encoded = [encode_line(record(number)) for number in (1, 2, 3)]
    cut = data.draw(st.integers(0, sum(map(len, encoded))))
    lines, ends = decode_lines(b"".join(encoded)[:cut])
    whole = [end for end in np.cumsum([len(line) for line in encoded]).tolist() if end <= cut]
    assert ends == whole
    assert lines == [json.loads(line) for line in encoded[: len(whole)]]


def test_reading_stops_at_what_is_no_record_or_another_round() -> None:
    first, third = encode_line(record(1)), encode_line(record(3))
    for bad in (third, first, b"[1]\n", b'{"round":\n', b"\xff\n", b"\n"):
        lines, ends = decode_lines(first + bad + encode_line(record(2)))
        assert [line["round"] for line in lines] == [1] and ends == [len(first)], bad


def test_what_protection_left_is_told_in_counts_of_groups_and_names_of_the_lost() -> None:
    a, b, c = (SiteId(name) for name in "abc")
    kept = ProtectionRecord(
        epoch=1,
        round=4,
        groups=(GroupOutcome(number=0, members=(a, b), survivors=(a,)),),
        lost={Stage.SIGNATURE: (b,)},
        aborts=(AbortRecord(cause="TOO_FEW_MEMBERS", parties=(c,), reason="why"),),
        costs={Stage.UPDATE: StageCost(seconds=0.5, sent_bytes=7, received_bytes=9)},
        accounted=True,
    )
    one = replace(record(), protection=kept)
    line = json.loads(encode_line(one))
    assert line == record_table(one)
    assert line["protection"] == {
        "epoch": 1,
        "round": 4,
        "groups": [{"number": 0, "members": 2, "survivors": 1}],
        "lost": {"signature": ["b"]},
        "aborts": [{"cause": "TOO_FEW_MEMBERS", "parties": ["c"], "reason": "why"}],
        "costs": {"update": {"seconds": 0.5, "sent_bytes": 7, "received_bytes": 9}},
        "accounted": True,
        "scheme": "",
    }
