"""The plan: what is understood, what is refused and how, overrides, digest and round trips."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.decoding import fields_of
from wardround.errors import LocalError
from wardround.plan import PLAN_KEYS, Plan, PlanError, load_plan, parse_plan
from wardround.plan_sections import Optimizer, Schedule, Training

TEXT = """
name = "small"
rounds = 3
[task]
name = "tabular-classifier"
[data]
source = "breast-cancer"
target = { name = "diagnosis", classes = ["malignant", "benign"] }
columns = [
    { name = "radius", unit = "mm", range = [5, 30] },
    { name = "ward", type = "category", categories = ["a", "b"] },
]
"""


def plan(*settings: str) -> Plan:
    return parse_plan(TEXT).override(settings)


def test_what_is_left_out_has_its_default() -> None:
    made = plan()
    assert (made.name, made.rounds, made.seed) == ("small", 3, 0)
    assert made.data.columns[0].range == (5.0, 30.0)
    assert made.data.num_inputs == 3
    assert made.training == Training()
    assert made.cohort_size == made.simulation.sites == 10


def test_a_contribution_is_a_site_or_under_masking_a_group() -> None:
    assert plan("cohort.size=7").contributions == 7
    masked = ("protection.mode=masking", "protection.groups=3", "cohort.weighting=uniform", "clipping.clip_norm=1")
    assert plan(*masked).contributions == 3
    assert plan(*masked, "simulation.dropout=0.2").cohort.min_replies is None, "how many groups are needed is derived"


REFUSED = [
    ("trainin.lr=1", "plan.trainin: expected a known key; did you mean 'training'?"),
    ("training.lrr=1", "plan.training.lrr: expected a known key; did you mean 'lr'?"),
    ("training.zzz=1", "plan.training.zzz: expected a known key; known: batch_norm, "),
    ("training.lr=0", "plan.training.lr: expected more than 0, got 0.0"),
    ("training.lr=nan", "plan.training.lr: expected a finite number, got nan"),
    ('training.lr="fast"', "plan.training.lr: expected a number, got 'fast'"),
    ("training.lr=true", "plan.training.lr: expected a number, got True"),
    ("training.batch_size=1.5", "plan.training.batch_size: expected a whole number, got 1.5"),
    ("training.batch_size=true", "plan.training.batch_size: expected a whole number, got True"),
    ("training.nesterov=1", "plan.training.nesterov: expected true or false, got 1"),
    (
        "training.optimizer=sdg",
        "plan.training.optimizer: expected one of 'sgd', 'adam', 'adamw', got 'sdg'; did you mean 'sgd'?",
    ),
    ("training.class_weights=[1, inf]", "plan.training.class_weights[1]: expected a finite number, got inf"),
    ('training.class_weights=[1, "a"]', "plan.training.class_weights[1]: expected a number, got 'a'"),
    ("training.class_weights=3", "plan.training.class_weights: expected a list of numbers or text, got 3"),
    ("training.class_weights=[1]", "plan.training.class_weights: expected 2 numbers, one per class, got (1.0,)"),
    ("training=3", "plan.training: expected a table, got 3"),
    ("rounds=0", "plan.rounds: expected at least 1, got 0"),
    (f"rounds={2**63}", f"plan.rounds: expected a number of 64 bits, got {2**63}"),
    ("rounds=", "plan.rounds: expected a value (training rounds)"),
    ("rounds.x=1", "plan.rounds.x: expected a key of a table, which rounds is not"),
    ("rounds", "plan.rounds: expected a setting of the form section.key=value, got 'rounds'"),
    ("code_files=[]", "plan.code_files: expected a known key"),
    ('folder="/"', "plan.folder: expected a known key"),
    ('name=" "', "plan.name: expected a name of at most 100 letters on one line, got ' '"),
    ('name="a\\nb"', "plan.name: expected a name of at most 100 letters on one line, got 'a\\nb'"),
    ("version=2", "plan.version: expected at most 1, got 2"),
    ("cohort.size=11", "plan.cohort.size: expected at most the federation's 10 sites (simulation.sites), got 11"),
    ("cohort.weighting=capped", "plan.cohort.weight_cap: expected a number exactly when"),
    (
        "data.source=digit",
        "plan.data.source: expected a known name, got 'digit'; did you mean 'digits'?",
    ),
    (
        "simulation.partition.kind=dirichlett",
        "plan.simulation.partition.kind: expected a known name, got 'dirichlett'; did you mean 'dirichlet'?",
    ),
    ("data.columns=3", "plan.data.columns: expected a list of tables, got 3"),
    (
        'data.columns=[{ name = "a", range = [1] }]',
        "plan.data.columns[0].range: expected [a number, a number], got [1]",
    ),
    (
        'data.columns=[{ name = "a", range = [0, inf] }]',
        "plan.data.columns[0].range[1]: expected a finite number, got inf",
    ),
    ('data.columns=[{ name = "a" }, { name = "a" }]', "plan.data.columns: expected every name once"),
    ("data.standardize=plan", "plan.data.columns[0].mean: expected mean and std"),
    ("data.validation=0.9", "plan.data.test: expected validation + test below 1, got 1.1"),
    ("privacy.epsilon=1", 'plan.privacy.unit: expected "row", "patient" or "client", since epsilon is set, got'),
    ("privacy.unit=hospital", "plan.privacy.unit: expected one of 'off', 'row', 'patient', 'client', got 'hospital'"),
    ("privacy.unit=row", "plan.privacy.epsilon: expected a number (or noise_multiplier), since unit is set"),
    ("privacy.unit=row & privacy.epsilon=inf", "plan.privacy.epsilon: expected a finite number, got inf"),
    ("privacy.unit=row & privacy.epsilon=nan", "plan.privacy.epsilon: expected a finite number, got nan"),
    ("privacy.unit=row & privacy.epsilon=0", "plan.privacy.epsilon: expected more than 0, got 0"),
    ("privacy.unit=row & privacy.epsilon=1 & privacy.delta=0", "plan.privacy.delta: expected more than 0, got 0"),
    ("privacy.unit=row & privacy.epsilon=1 & privacy.delta=1", "plan.privacy.delta: expected less than 1, got 1"),
    (
        "privacy.unit=client & privacy.epsilon=1 & privacy.delta=1e-3 & cohort.weighting=uniform & "
        "data.standardize=none",
        "plan.privacy.delta: expected at most min(1e-5, 1/(10 n)) = 1e-05 (n = 10 clients), got 0.001; research_delta",
    ),
    (
        "privacy.unit=client & privacy.noise_multiplier=1 & privacy.mechanism=banded-mf",
        'plan.privacy.bands: expected a number exactly when mechanism = "banded-mf", got None',
    ),
    (
        "privacy.unit=row & privacy.noise_multiplier=1 & privacy.statistics=dp",
        'plan.privacy.statistics_noise_multiplier: expected a number exactly when statistics = "dp", got None',
    ),
    ("privacy.unit=row & privacy.noise_multiplier=1 & privacy.max_rows=2", "plan.privacy.max_rows: expected 1 unless"),
    (
        "privacy.unit=client & privacy.noise_multiplier=1 & privacy.count_noise=3",
        'plan.privacy.count_noise: expected no key unless clipping = "adaptive", got 3.0',
    ),
    (
        "privacy.unit=client & privacy.noise_multiplier=1 & privacy.clipping=adaptive & cohort.weighting=uniform & "
        "data.standardize=none",
        "plan.privacy.clipping: expected a count of clients that its noise leaves readable (expected at least 25 ",
    ),
    (
        "privacy.unit=client & privacy.noise_multiplier=3 & privacy.epsilon=0.5 & cohort.weighting=uniform & "
        "data.standardize=none",
        "plan.privacy.epsilon: expected at least 1.4",
    ),
    (
        'data.columns=[{ name = "a" }] & data.standardize=range',
        "plan.data.columns[0].range: expected a range, since standardize",
    ),
    ("protection.mode=hfv", "plan.protection.mode: expected one of 'off', 'masking', 'bfv', got 'hfv'"),
    (
        "protection.groups=2",
        'plan.protection.mode: expected "masking" or "bfv", since groups is set, got \'off\'',
    ),
    (
        "protection.sealed_model=true",
        "plan.protection.mode: expected \"bfv\", since sealed_model is set, got 'off'",
    ),
    (
        "protection.mode=masking & protection.sealed_model=true",
        'plan.protection.sealed_model: expected false unless protection.mode = "bfv": a model is sealed to the key of',
    ),
    ('protection.mode=masking & protection.metrics=["a", "a"]', "plan.protection.metrics: expected every name once"),
    ("robust.rule=krun", "plan.robust.rule: expected a known name, got 'krun'; did you mean 'krum'?"),
    ("robust.num_byzantine=1", "plan.robust.rule: expected a rule, since num_byzantine is set"),
    ('robust.rule=mean & robust.pre=["nmn"]', "plan.robust.pre[0]: expected a known name, got 'nmn'; did you mean"),
    ('robust.rule=mean & robust.detectors=["norm", "norm"]', "plan.robust.detectors: expected every name once"),
    (
        "robust.rule=krum & robust.num_byzantine=5",
        "plan.robust.num_byzantine: expected a rule that works for a cohort of 10 (Krum: expected num_byzantine < "
        "(n − 2) / 2, got 5 of 10)",
    ),
    (
        "robust.rule=krum & robust.num_byzantine=3 & cohort.min_replies=8",
        "plan.cohort.min_replies: expected at least 9, which the rule needs (Krum: expected num_byzantine < ",
    ),
    (
        "robust.rule=krum & robust.num_byzantine=1 & robust.options.krum.radius=1",
        "plan.robust.options.krum.radius: expected a known option",
    ),
    ("robust.rule=krum & robust.options.kram.radius=1", "plan.robust.options.kram: expected a rule, pre-aggregator or"),
    (
        "robust.rule=krum & robust.num_byzantine=1 & robust.options.krum.num_byzantine=1",
        "plan.robust.options.krum.num_byzantine: expected a known",
    ),
    ("robust.rule=median", "plan.robust.num_byzantine: expected at least 1: how many bad contributions"),
    (
        "robust.rule=mean & robust.num_byzantine=1",
        "plan.robust.num_byzantine: expected 0, since a mean tolerates no bad",
    ),
    ("robust.rule=auto & robust.num_byzantine=5", "plan.robust.num_byzantine: expected fewer than half of a cohort"),
    ("robust.quarantine.enabled=true", "plan.robust.rule: expected a rule, since quarantine is set"),
    ("robust.rule=fltrust", "plan.robust.root_examples: expected rows of the server exactly when"),
    ("robust.root_examples=5", "plan.robust.root_examples: expected rows of the server exactly when"),
    ("robust.rule=auto", "plan.robust.num_byzantine: expected at least 1: how many bad contributions"),
    ('robust.rule=auto & robust.pre=["nnm"]', 'plan.robust.pre: expected none, and no options, since rule = "auto"'),
    (
        "robust.rule=median & cohort.weighting=capped & cohort.weight_cap=5",
        'plan.cohort.weighting: expected "uniform" (or no key), since robust rules do not believe',
    ),
    ("simulation.attack.name=alie", "plan.simulation.attack.attackers: expected at least 1, and 0 exactly when"),
    (
        "simulation.attack.name=allie & simulation.attack.attackers=1",
        "plan.simulation.attack.name: expected a known name",
    ),
    (
        "simulation.attack.name=alie & simulation.attack.attackers=10",
        "plan.simulation.attack.attackers: expected fewer than the 10 sites",
    ),
    ('cohort.without=["a", "a"]', "plan.cohort.without: expected every site once"),
    ('simulation.sites=1 & cohort.without=["a"]', "plan.cohort.without: expected fewer than all 1 sites"),
    ('cohort.without=["site-01"] & cohort.size=10', "plan.cohort.size: expected at most the 9 sites that are left"),
    ("evaluation.every=0 & evaluation.patience=3", "plan.evaluation.every: expected at least 1"),
    ("data.validation=0 & evaluation.select=best", "plan.data.validation: expected more than 0"),
    ("task.flower_app=a:b", "plan.task.name: expected either"),
    ("task.code=.. & task.entry=a:b & task.name=", "plan.task.code: expected a folder below the plan's, in its plain"),
    *(
        (f"task.code={code} & task.entry=a:b & task.name=", "plan.task.code: expected a folder below the plan's")
        for code in ("./app", "/app", "app//", "a/./b", "a/../b", "a\u00a0b", "a\\b", "/".join("a" * 17))
    ),
    ("task.options.depth=[1]", "plan.task.options.depth: expected text or true or false or a whole number or a number"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_a_bad_value_is_refused_with_its_path(settings: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(*settings.split(" & "))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_every_number_is_held_to_its_declared_bounds() -> None:
    """Just outside each declared bound is refused under the key's own name; read from the declarations."""
    checked = 0
    for section in [Plan, *(hint for _, hint in fields_of(Plan).values() if dataclasses.is_dataclass(hint))]:
        for name, (field, _) in fields_of(section).items():
            for bound, step in {"ge": -1, "gt": 0, "le": 1, "lt": 0}.items():
                limit = field.metadata.get(bound)
                if limit is None or limit + step >= 2**63:
                    continue
                path = name if section is Plan else f"{PATHS[section]}.{name}"
                with pytest.raises(PlanError) as caught:
                    plan(f"{path}={limit + step}")
                assert caught.value.path == path
                checked += 1
    assert checked > 30


PATHS = {hint: name for name, (_, hint) in fields_of(Plan).items() if dataclasses.is_dataclass(hint)}


@pytest.mark.parametrize("text", ["rounds = ", "a = " + "1" * 5000, "a = " + "[" * 3000, "rounds = 1\nrounds = 2"])
def test_what_is_no_toml_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(PlanError, match=r"^plan: expected TOML \(.*\)$"):
        parse_plan(text)


@pytest.mark.parametrize(
    "text",
    [
        "a." * 100_000 + "a = 1",
        '"a" . ' * 17 + "a = 1",
        "[" + "a.'b'." * 50_000 + "a]",
        '"\\"".' * 50_000 + "a = 1",
    ],
)
def test_a_key_that_would_take_minutes_to_read_is_refused_before(text: str) -> None:
    with pytest.raises(PlanError, match=r"^plan: expected keys of at most 16 dots, got "):
        parse_plan(text)


@pytest.mark.parametrize(
    "heading", ["[t{}.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o]", " \t[[t{}.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o]]  # many"]
)
def test_nor_are_many_tables_that_each_make_others(heading: str) -> None:
    text = "".join(f"{heading.format(number)}\r\n" for number in range(5000))
    with pytest.raises(PlanError, match=r"^plan: expected at most 65536 dots in the headings of tables, got 75000"):
        parse_plan(text)


def test_thirty_thousand_columns_are_no_matter() -> None:
    columns = "".join(f'[[data.columns]]\nname = "{number}"\n' for number in range(30_000))
    made = parse_plan(TEXT[: TEXT.index("columns")] + columns)
    assert made.data.num_inputs == 30_000


def test_nor_is_a_plan_without_end_read() -> None:
    with pytest.raises(PlanError, match="at most 4194304 letters, got 4194305"):
        parse_plan("#" * ((4 << 20) + 1))


def test_dots_that_are_in_no_key_are_no_matter() -> None:
    about = "".join(f"version 1.{number}.2, " for number in range(50))
    text = TEXT + f"# {about}\n" + f"[training]\nclass_weights = [{'0.5, ' * 2}]\n"
    assert parse_plan(text).training.class_weights == (0.5, 0.5)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"readable plan file at .*no\.toml \(No such file"):
        load_plan(tmp_path / "no.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(PlanError, match="not UTF-8"):
        load_plan(tmp_path / "latin.toml")
    with pytest.raises(PlanError, match="Is a directory"):
        load_plan(tmp_path)


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(TEXT, encoding="utf-8-sig")
    assert load_plan(tmp_path / "p.toml").digest == plan().digest


def test_overrides() -> None:
    changed = plan("training.lr=0.5", "training.optimizer=adam", "cohort.size=4", 'name="x=y"', "rounds = 7")
    assert (changed.training.lr, changed.training.optimizer) == (0.5, Optimizer.ADAM)
    assert (changed.cohort.size, changed.name, changed.rounds) == (4, "x=y", 7)
    assert changed.override(["cohort.size="]).cohort.size is None
    assert changed.override(["training.lr="]).training.lr == Training().lr
    assert plan("training.epochs=2", "training.epochs=", "training.steps=5").training.steps == 5


def test_an_override_equals_the_same_plan_written_out() -> None:
    assert (
        plan("training.lr=0.5", "training.momentum=0.9").digest
        == parse_plan(TEXT + "[training]\nmomentum = 0.9\nlr = 5e-1\n").digest
    )


def test_the_digest_is_pinned() -> None:
    """It is what sites approve: it may change only when the plan format gains a key, with a line in the CHANGELOG."""
    assert plan().digest == PINNED


PINNED = "4e7f96fa5849e0955e8e850ec63652d455b59049407ba1c55229be55f76c4d23"


@pytest.mark.parametrize("setting", ["seed=1", "training.lr=0.2", 'data.columns=[{ name = "radius" }]', "name=other"])
def test_the_digest_changes_with_every_change(setting: str) -> None:
    assert plan(setting).digest != plan().digest


def test_the_digest_does_not_depend_on_the_order_or_the_spelling_of_keys(tmp_path: Path) -> None:
    lines = TEXT.replace("[5, 30]", "[5.0, 3e1]").split("\n[")
    shuffled = "\n[".join([lines[0].replace('name = "small"\n', "") + '\nname = "small"', *reversed(lines[1:])])
    assert parse_plan(shuffled, folder=tmp_path).digest == plan().digest


def bundle(folder: Path) -> Path:
    (folder / "mine" / "inner").mkdir(parents=True)
    (folder / "mine" / "task.py").write_text("x = 1\n")
    (folder / "mine" / "inner" / "table.csv").write_text("1,2\n")
    path = folder / "plan.toml"
    path.write_text(TEXT.replace('name = "tabular-classifier"', 'code = "mine"\nentry = "task:Task"'))
    return path


def test_the_digest_covers_every_file_of_the_code_bundle(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    digests = {load_plan(path).digest}
    (tmp_path / "mine" / "__pycache__").mkdir()
    (tmp_path / "mine" / "__pycache__" / "task.pyc").write_bytes(b"cache")
    assert load_plan(path).digest in digests
    (tmp_path / "mine" / "inner" / "table.csv").write_text("1,3\n")
    digests.add(load_plan(path).digest)
    (tmp_path / "mine" / "inner" / "table.csv").rename(tmp_path / "mine" / "table.csv")
    digests.add(load_plan(path).digest)
    (tmp_path / "mine" / "more.py").write_text("")
    digests.add(load_plan(path).digest)
    assert len(digests) == 4
    assert [name for name, _ in load_plan(path).code_files] == ["more.py", "table.csv", "task.py"]


def test_an_override_of_the_code_takes_the_other_bundle(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    (tmp_path / "mine").rename(tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "task.py").write_text("x = 2\n")
    assert len(load_plan(path).override(["task.code=other"]).code_files) == 2


def test_a_link_in_the_code_bundle_is_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    os.symlink("/", tmp_path / "mine" / "elsewhere")
    with pytest.raises(PlanError, match=r"plan\.task\.code: expected plain files, but .*elsewhere is a link"):
        load_plan(path)


@pytest.mark.parametrize("name", ["no\u00a0break.txt", "back\\slash.txt", "/".join("a" * 17)])
def test_a_name_in_the_code_bundle_that_no_site_takes_is_refused(tmp_path: Path, name: str) -> None:
    path = bundle(tmp_path)
    (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "mine" / name).write_text("")
    with pytest.raises(PlanError, match=r"plan\.task\.code: expected names of printable letters"):
        load_plan(path)


def test_a_missing_code_bundle_is_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    (tmp_path / "mine").rename(tmp_path / "gone")
    with pytest.raises(PlanError, match=r"plan\.task\.code: expected a folder at .*mine"):
        load_plan(path)


def test_a_plan_error_is_a_local_error_and_a_value_error() -> None:
    with pytest.raises(LocalError):
        plan("rounds=0")
    with pytest.raises(ValueError, match="rounds"):
        plan("rounds=0")


NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
POSITIVE = st.floats(1e-6, 1e6)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Plans as tables, over the keys whose values interact least."""
    names = draw(st.lists(NAMES.filter(lambda name: name != "y"), min_size=1, max_size=4, unique=True))
    sites = draw(st.integers(1, 1000))
    return {
        "name": draw(NAMES),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "rounds": draw(st.integers(1, 2**31)),
        "task": {
            "name": draw(NAMES),
            "hidden": draw(st.lists(st.integers(1, 4096), max_size=3)),
            "options": draw(
                st.dictionaries(
                    st.text(st.characters(exclude_categories=["Cs"])),
                    st.text(st.characters(exclude_categories=["Cs"]))
                    | st.booleans()
                    | st.integers(-(2**63), 2**63 - 1)
                    | st.floats(allow_nan=False, allow_infinity=False),
                    max_size=3,
                )
            ),
        },
        "data": {
            "source": draw(st.sampled_from(["digits", "diabetes", "arrays"])),
            "target": {"name": "y", "classes": draw(st.lists(NAMES, min_size=2, max_size=4, unique=True))},
            "columns": [
                draw(
                    st.fixed_dictionaries({"name": st.just(name)}, optional={"unit": NAMES, "mean": POSITIVE})
                    | st.fixed_dictionaries(
                        {
                            "name": st.just(name),
                            "type": st.just("category"),
                            "categories": st.lists(NAMES, min_size=2, max_size=3, unique=True),
                        }
                    )
                )
                for name in names
            ],
        },
        "cohort": draw(st.fixed_dictionaries({}, optional={"size": st.integers(1, sites), "deadline_s": POSITIVE})),
        "training": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "lr": POSITIVE,
                    "optimizer": st.sampled_from(Optimizer).map(str),
                    "schedule": st.sampled_from(Schedule).map(str),
                    "class_weights": st.just("balanced"),
                },
            )
        ),
        "simulation": {"sites": sites},
    }


@given(tables())
def test_a_plan_survives_being_written_and_read(table: dict[str, Any]) -> None:
    made = parse_plan(table)
    again = parse_plan(made.to_toml())
    assert again == made
    assert again.digest == made.digest
    assert again.to_toml() == made.to_toml()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from((*PLAN_KEYS, "lr", "name", "x")), inner),
    )
)
def test_nothing_but_a_plan_error_comes_of_other_tables(value: Any) -> None:
    for table in (value, {"name": "n", "rounds": 1, "task": value, "data": value}, {"training": value}):
        if isinstance(table, dict):
            with pytest.raises(PlanError):
                parse_plan(table)
