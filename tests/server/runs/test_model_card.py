"""The card says what is in the plan and the run, claims nothing that is off, and cannot be broken by names."""

import html
import re
from dataclasses import replace
from typing import Any

import tomli_w
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from wardround.orders import SiteId
from wardround.plan import Plan, parse_plan
from wardround.server.runs.comparison import Comparison, Estimate, Model
from wardround.server.runs.metrics import Kind
from wardround.server.runs.model_card import model_card, software_versions
from wardround.server.runs.run_info import RunInfo
from wardround.server.runs.site_profiles import Heterogeneity, SiteProfile

PLAN = """
name = "Hearts | <script>alert(1)</script>"
rounds = 9
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "rows.csv"
target = { name = "ill", classes = ["no", "yes"] }
columns = [
  { name = "blood_pressure", unit = "mmHg", range = [30, 250] },
  { name = "smoker", type = "category", categories = ["never", "now"] },
  { name = "age" },
]
[simulation]
sites = 2
"""
INFO = RunInfo(
    run_id="ab" * 16,
    plan_digest="d1" * 32,
    source_digest="d1" * 32,
    version="0.1.0",
    created="2026-01-02T03:04:05+00:00",
    engine={"executor": "flat", "workers": 2},
)
COMPARISON = Comparison(
    kind=Kind.BINARY,
    primary="auc",
    test_rows=123,
    resamples=1000,
    overall={
        Model.FEDERATED: {"auc": Estimate(value=0.9876, low=0.97, high=0.99), "loss": Estimate(value=0.25)},
        Model.POOLED: {"auc": Estimate(value=0.991, low=0.98, high=1.0)},
    },
)


def line(number: int, *, void: bool = False, auc: float | None = None, absences: int = 0) -> dict[str, Any]:
    validation = None if auc is None else {"n": 45, "metrics": {"auc": auc, "brier": None}, "sites": {}}
    return {"round": number, "void": void, "absences": [{}] * absences, "validation": validation}


def profile(site: str, n: int) -> SiteProfile:
    return SiteProfile(
        site=SiteId(site),
        n=n,
        train=n - 3,
        validation=1,
        test=2,
        label_counts=(n - 2, 2),
        label_distance=0.1,
        mean=(),
        std=(),
        input_distance=0.2,
    )


def card(plan: Plan | None = None, lines: list[dict[str, Any]] | None = None, **more: Any) -> str:
    chosen: dict[str, Any] = {"released_round": 9, "versions": {"python": "3.11.7"}} | more
    return model_card(plan or parse_plan(PLAN), INFO, lines or [], **chosen)


def test_results_come_with_their_intervals_and_beside_the_others() -> None:
    text = card(comparison=COMPARISON)
    assert "On the 123 test rows" in text
    assert "| metric | this model | all training rows pooled |" in text
    assert "| auc | 0.9876 (0.97 to 0.99) | 0.991 (0.98 to 1) |" in text
    assert "| loss | 0.25 | – |" in text


def test_without_results_the_validation_of_the_released_round_counts() -> None:
    lines = [line(1, auc=0.5), line(2, auc=0.8125), line(3), line(4, auc=0.9)]
    text = card(lines=lines, released_round=3)
    assert "On the 45 validation rows of the sites, after round 2:" in text
    assert "| auc | 0.8125 |" in text and "0.9" not in text and "brier" not in text
    best = parse_plan(PLAN + '[evaluation]\nselect = "best"\n')
    text = card(best, lines, released_round=2)
    assert (
        "which also steered the training" in text and "Figures on rows that steered the training are too good" in text
    )
    assert "the best on the validation rows" in text


def test_a_run_that_was_never_evaluated_says_so() -> None:
    assert "nothing is known about how good the model is" in card(lines=[line(1)])


def test_data_and_training_are_told() -> None:
    heterogeneity = Heterogeneity(
        labels=("no", "yes"),
        inputs=(),
        label_counts=(36, 4),
        mean=(),
        std=(),
        sites=(profile("a", 10), profile("b", 30)),
    )
    lines = [line(1, absences=2), line(2, void=True, absences=1)]
    text = card(lines=lines, sites=heterogeneity, stopped="no gain")
    for expected in (
        "Rows: 40 (34 train, 2 validation, 4 test); 10 to 30 at a site",
        "Labels: no 36, yes 4",
        "| blood\\_pressure | mmHg | 30 to 250 |",
        "| smoker |  | never, now |",
        "| age |  | any number |",
        "Predicts: ill, one of no, yes",
        "Positive class: yes",
        "Rounds: 2 of 9; stopped: no gain",
        "Void rounds (too few updates came): 1",
        "Absences of a drawn site: 3",
        "sgd, learning rate 0.1 (constant), 1 epoch, batches of 32",
        f"Plan digest: `{INFO.plan_digest}`",
        "Engine: executor flat, workers 2",
    ):
        assert expected in text, expected


def test_what_is_off_is_not_claimed() -> None:
    text = card()
    assert "Updates were sent in clear" in text and "No differential privacy" in text and "poisoned" in text
    assert "no medical device" in text


PRIVACY = """
[cohort]
weighting = "uniform"
[evaluation]
every = 0
[privacy]
unit = "row"
epsilon = 3
public_sizes = true
research_delta = true
"""


def test_the_whole_claim_is_told_with_what_was_spent() -> None:
    spent = {"epsilon": 1.2345, "delta": 1e-5, "sites": {}, "clip_norm": 1.0}
    text = card(parse_plan(PLAN + PRIVACY), [line(1) | {"privacy": spent}])
    assert "Differential privacy: epsilon 1.24 at delta 1e-5 for every row (add-remove), research delta" in text
    for part in (
        "against: the server",
        "sampling: each row",
        "Warning: research",
        "It rests on this: The approved code",
    ):
        assert f"\n  - {part}" in text, part
    assert text.count("  - Not covered: ") >= 5 and "A patient with several rows is not covered as such" in text
    assert "No differential privacy" not in text


def test_nothing_is_claimed_before_a_round() -> None:
    assert "No differential privacy" in card(parse_plan(PLAN + PRIVACY), [])


def test_another_path_means_a_second_digest() -> None:
    text = model_card(
        parse_plan(PLAN), replace(INFO, source_digest="e2" * 32), [], released_round=0, versions=software_versions()
    )
    assert "e2" * 32 in text and INFO.plan_digest in text and "wardround 0.1.0" in text
    assert "e2" * 32 not in card()


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
@example("<script>alert(1)</script>")
@example("a|b\n## y `c` [l](u) *e*_f_ \\| &lt; ![i](u) ~~s~~ http://x.org")
def test_names_cannot_break_the_page(name: str) -> None:
    """Markdown-it shows every name as what it is, in its cell."""
    plan = parse_plan(PLAN.replace('"age"', tomli_w.dumps({"x": name + "."}).partition("= ")[2].strip()))
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(card(plan))
    (cell,) = re.findall(r"<td>(.*)</td>\n<td></td>\n<td>any number</td>", page)
    assert html.unescape(cell) == " ".join(f"{name}.".split())
    assert "<" not in cell and "<script" not in page


def test_a_model_of_which_the_sites_keep_a_part_is_marked() -> None:
    assert "stay at each site" in card(parse_plan(PLAN + '[training]\nbatch_norm = "local"\n'))
    assert "stay at each site" not in card()


def test_a_regressor_and_an_image_are_described() -> None:
    text = """
name = "digits"
rounds = 1
[task]
name = "x"
[data]
source = "digits"
image = { shape = [1, 8, 8], range = [0, 16] }
target = { name = "progression", range = [25, 346], unit = "points" }
"""
    shown = card(parse_plan(text))
    assert "Images: 1 x 8 x 8 (channels, height, width), 0 to 16" in shown
    assert "Predicts: progression, 25 to 346 points" in shown


def test_a_flower_app_is_described() -> None:
    text = 'name = "f"\nrounds = 1\n[task]\nflower_app = "m:app"\nflower_initial = "m:i"\n[data]\nsource = "app"\n'
    assert "Task: m:app" in card(parse_plan(text))


def test_what_a_rule_reckons_with_who_attacked_and_who_was_left_out_are_told() -> None:
    sites = PLAN.replace("sites = 2", 'sites = 9\nattack = { name = "alie", attackers = 2, from_round = 3 }')
    plan = parse_plan(
        sites + '[robust]\nrule = "median"\npre = ["nnm"]\nnum_byzantine = 2\n[cohort]\nwithout = ["w"]\n'
    )
    info = replace(INFO, origin={"run_id": "cd" * 16, "without": ["w|"], "from_round": 4})
    text = model_card(
        plan, info, [line(1) | {"quarantined": ["site-03"]}], released_round=1, versions={"python": "3.11.7"}
    )
    for expected in (
        "Updates were combined by nnm+median, which reckons with up to 2 bad contributions of 8 a round",
        "weights by uniform",
        "Without the sites w",
        "Simulated attack: 2 sites, alie, from round 3",
        "In quarantine at the end: site-03",
        f"Retrained without w\\| from round 4 of run `{'cd' * 16}`; this is not certified unlearning",
    ):
        assert expected in text
    assert "one bad site could spoil the model" not in text


def test_what_the_server_learns_under_secure_aggregation_is_told() -> None:
    sites = PLAN.replace("sites = 2", "sites = 20")
    masked = '[protection]\nmode = "masking"\ngroups = 4\ndropout = 0.4\nmin_survivors = 3\n[clipping]\nclip_norm = 1\n'
    rule = '[cohort]\nweighting = "uniform"\n[robust]\nrule = "median"\nnum_byzantine = 1\n'
    shown = card(parse_plan(sites + masked + rule))
    assert (
        "in a round the server learns, of 4 groups of 5 sites, each group's sum of at least 3 updates, or nothing; it "
        "and any 1 of the sites together learn no more"
    ) in shown
    assert "reckons with up to 1 bad contributions of 4 a round" in shown and "sent in clear" not in shown
