"""Federations: from a data set, a file, arrays or torch data sets to the rows of each site."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from wardround.client.data.site_data import SiteData
from wardround.errors import LocalError
from wardround.orders import Split
from wardround.plan import Plan, PlanError, load_plan, parse_plan
from wardround.plan_source import find_plan, shipped_plans
from wardround.simulations.federation import build_federation, server_rows, with_inputs
from wardround.simulations.heterogeneity import describe_sites

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)), np.arange(60) % 2
CLASSES = {"name": "y", "classes": ["no", "yes"]}


def plan(sites: int = 3, partition: dict[str, Any] | None = None, **data: Any) -> Plan:
    simulation = {"sites": sites, "partition": partition or {}}
    section = {"source": "arrays", "target": CLASSES, "min_examples": 5, **data}
    table = {"name": "x", "rounds": 1, "task": {"name": "t"}, "data": section, "simulation": simulation}
    return parse_plan(table)


def listed(x: Any, y: Any) -> list[list[float]]:
    """Rows of inputs and target, sorted."""
    rows: list[list[float]] = np.column_stack((x.astype(np.float32).reshape(len(x), -1), y)).tolist()
    return sorted(rows)


def everything(sites: tuple[SiteData, ...]) -> list[list[float]]:
    """All rows of all sites, inputs and target, sorted."""
    parts = [site.split(split) for site in sites for split in Split]
    return listed(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def test_arrays_are_dealt_out_whole() -> None:
    sites = build_federation(plan(), (X, Y))
    assert [site.site for site in sites] == ["site-01", "site-02", "site-03"]
    assert everything(sites) == listed(X, Y)
    assert all(site.train.x.dtype == np.float32 and site.train.y.dtype == np.int64 for site in sites)


def test_the_same_plan_gives_the_same_federation() -> None:
    one, other = build_federation(plan(), (X, Y)), build_federation(plan(), (X.copy(), Y.tolist()))
    for a, b in zip(one, other, strict=True):
        assert all(np.array_equal(a.split(split).x, b.split(split).x) for split in Split)
    shifted = build_federation(plan().override(["seed=1"]), (X, Y))
    assert not np.array_equal(one[0].train.x, shifted[0].train.x)


def test_site_names_are_as_wide_as_the_federation() -> None:
    sites = build_federation(plan(120, min_examples=2), (RNG.normal(size=(1200, 2)), np.arange(1200) % 2))
    assert sites[0].site == "site-001" and sites[-1].site == "site-120"


class Pairs(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(X[index]), int(Y[index])


@pytest.mark.parametrize(
    "given",
    [
        Pairs(),
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        [torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)],
        (X, np.array(["no", "yes"] * 30)),
    ],
)
def test_other_forms_of_the_same_data(given: Any) -> None:
    assert everything(build_federation(plan(), given)) == everything(build_federation(plan(), (X, Y)))


@pytest.mark.parametrize("as_dataset", [False, True])
def test_a_mapping_names_the_sites(as_dataset: bool) -> None:
    halves = {"north": (X[:30], Y[:30]), "south": (X[30:], Y[30:])}
    data = {
        name: TensorDataset(torch.from_numpy(x), torch.from_numpy(y)) if as_dataset else (x, y)
        for name, (x, y) in halves.items()
    }
    north, south = build_federation(plan(2), data)
    assert (north.site, south.site) == ("north", "south")
    assert everything((south,)) == listed(X[30:], Y[30:])


def test_columns_of_an_array_are_the_plans() -> None:
    columns = [{"name": "age", "range": [0, 9]}, {"name": "sex", "type": "category", "categories": ["f", "m"]}]
    x = np.array([[index % 10, "fm"[index % 2]] for index in range(60)], dtype=object)
    sites = build_federation(plan(columns=columns), (x, Y))
    assert sites[0].train.x.shape[1] == 3
    rows = everything(sites)
    assert all(row[0] % 2 == row[2] == row[3] and row[1] == 1 - row[2] for row in rows)


def test_whole_numbers_are_indices_unless_the_classes_are_whole_numbers() -> None:
    grades = {"name": "y", "classes": ["3", "1"]}
    sites = build_federation(plan(target=grades), (np.arange(60)[:, None], np.where(Y, 1, 3)))
    assert all(row[0] % 2 == row[1] for row in everything(sites))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((X, Y[:-1]), r"data: expected as many inputs as targets, got 59 and 60"),
        ((X[:, 0], Y), r"data: expected X of shape \(n, inputs\) or .*, got \(60,\) and \(60,\)"),
        ((X, Y + 1), r"data: expected y from 0 to 1, an index into data.target.classes, got 1 to 2"),
        ((np.where(X == X[7, 1], np.nan, X), Y), r"data: expected finite float32 inputs, .* in 1 row, first in row 7"),
        ((X.astype(str), Y), r"data: expected numbers of shape \(n, inputs\)"),
        ({"north": (X, Y), "south": (X[:2], Y[:2])}, r"south: expected at least 5 rows \(data.min_examples\), got 2"),
        (
            {"north": (X, Y), "south": (X[:0], Y[:0])},
            r"south: expected at least 5 rows .* got none .the site",
        ),
        ({"north": (X, Y), "south": (X, Y * 0)}, r"south: expected rows of at least two classes, got 'no' in all 60"),
        (
            {"north": (X, Y), "south": (X[:, :3], Y)},
            r"south: expected inputs of shape \(4,\), as north has, got",
        ),
        ({"north": (X, Y), "south": (X, Y[:9])}, r"south: expected as many inputs as targets, got 9 and 60"),
        ({"north": (X, Y), "south": 5}, r"south: expected a pair \(X, y\) or a map-style Dataset .*, got int"),
        ({"north": (X, Y), 2: (X, Y)}, r"data: expected site names of 1 to 255 bytes of text, got 2"),
        ({"north": (X, Y)}, r"plan.simulation.sites: expected 1, the number of sites in the data, got 2"),
        (None, r'plan.data.source: expected "arrays" exactly when data are given'),
        ([(np.zeros(2), 0), (np.zeros(3), 1), (np.zeros(3), 1)], r"data: expected .*, got list"),
    ],
)
def test_bad_data_in_one_line(given: Any, message: str) -> None:
    with pytest.raises(LocalError, match=message):
        build_federation(plan(2), given)


def test_data_beside_another_source_are_refused() -> None:
    with pytest.raises(PlanError, match=r"data\.source"):
        build_federation(find_plan("digits"), (X, Y))


def test_more_sites_than_rows_allow() -> None:
    with pytest.raises(LocalError, match="expected 13 sites of at least 5 rows of two classes"):
        build_federation(plan(13), (X, Y))


CSV = "ward,age,y\n" + "".join(f"ward {i % 3},{i},{('no', 'yes')[i % 2]}\n" for i in range(60))


# -- patients -----------------------------------------------------------------------------------------

WHOSE = np.array([f"p{index % 23}" for index in range(60)])
KINDS = ("iid", "quantity", "dirichlet", "feature-shift")


def whose(sites: tuple[SiteData, ...], x: Any, patients: Any) -> list[list[set[str]]]:
    """Of each site the patients of each split, told by the rows' first input."""
    name = dict(zip(x[:, 0].astype(np.float32).tolist(), patients.tolist(), strict=True))
    return [[{name[value] for value in site.split(split).x[:, 0].tolist()} for split in Split] for site in sites]


@pytest.mark.parametrize("kind", KINDS)
def test_a_patients_rows_are_at_one_site_and_in_one_part(kind: str) -> None:
    sites = build_federation(plan(3, {"kind": kind, "alpha": 2.0}, patient="id"), (X, Y, WHOSE))
    assert everything(sites) == listed(X, Y)
    parts = [part for site in whose(sites, X, WHOSE) for part in site]
    assert sum(map(len, parts)) == len(set(WHOSE)) == 23
    for site, (train, *_) in zip(sites, whose(sites, X, WHOSE), strict=True):
        assert site.patients is not None and site.patients.max() + 1 == len(train)
        assert len(site.train) + len(site.validation) + len(site.test) >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_patients_of_one_row_each_are_dealt_as_rows_are(kind: str) -> None:
    partition = {"kind": kind, "alpha": 2.0}
    plain = build_federation(plan(3, partition), (X, Y))
    named = build_federation(plan(3, partition, patient="id"), (X, Y, np.arange(60)))
    for one, other in zip(plain, named, strict=True):
        assert everything((one,)) == everything((other,))


def test_a_deal_of_patients_gives_every_site_enough_rows() -> None:
    """Three patients of 16 have most rows: a site without one of them needs more patients."""
    patients = np.array([str(index) if index < 13 else f"many {index % 3}" for index in range(60)])
    for seed in range(20):
        sites = build_federation(plan(3, patient="id", min_examples=8).override([f"seed={seed}"]), (X, Y, patients))
        assert min(len(site.train) + len(site.validation) + len(site.test) for site in sites) >= 8


@pytest.mark.parametrize(
    ("patients", "message"),
    [
        (np.zeros(60), "expected 2 sites of at least 1 patients, found no such deal of 1 patients"),
        (np.arange(60) // 56, "expected 2 sites of at least 5 rows, found no such deal of 60 rows; .* together"),
        (WHOSE[:-1], r"data: expected patients of shape \(60,\), as y has, got \(59,\)"),
        (np.where(WHOSE == "p7", "", WHOSE), r"column 'id': expected a value in every row .* first in row 7"),
    ],
)
def test_patients_that_do_not_fit(patients: Any, message: str) -> None:
    with pytest.raises(LocalError, match=message):
        build_federation(plan(2, patient="id", allow_single_class=True), (X, Y, patients))


@pytest.mark.parametrize(
    ("given", "patient", "message"),
    [
        ((X, Y), "id", r"data: expected \(X, y, patients\) or a .*, since the plan names patients .*, got tuple of 2"),
        ((X, Y, WHOSE), None, r"data: expected a pair \(X, y\) or .* \(data.patient\), got tuple of 3"),
    ],
)
def test_patients_are_given_exactly_where_the_plan_names_them(given: Any, patient: str | None, message: str) -> None:
    with pytest.raises(LocalError, match=message):
        build_federation(plan(patient=patient), given)


class Triples(Pairs):
    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(X[index]), int(Y[index]), str(WHOSE[index])


@pytest.mark.parametrize("as_tensors", [False, True])
def test_data_sets_of_torch_name_patients_in_a_third_place(as_tensors: bool) -> None:
    numbers = np.array([int(name[1:]) for name in WHOSE])
    given = TensorDataset(*map(torch.from_numpy, (X, Y, numbers))) if as_tensors else Triples()
    sites = build_federation(plan(patient="id"), given)
    same = build_federation(plan(patient="id"), (X, Y, numbers if as_tensors else WHOSE))
    for one, other in zip(sites, same, strict=True):
        assert np.array_equal(one.train.x, other.train.x)


def test_sites_of_their_own_and_a_column_keep_patients_apart() -> None:
    """The same name at two hospitals is two patients: neither can see the other's."""
    data = {"north": (X[:30], Y[:30], WHOSE[:30]), "south": (X[30:], Y[30:], WHOSE[30:])}
    sites = build_federation(plan(2, patient="id"), data)
    for site, (train, validation, test) in zip(sites, whose(sites, X, WHOSE), strict=True):
        assert site.patients is not None and site.patients.max() + 1 == len(train)
        assert not train & validation and not train & test


def test_a_column_says_where_a_patients_rows_were_made(tmp_path: Path) -> None:
    lines = CSV.splitlines()
    text = "\n".join(["id," + lines[0], *(f"{WHOSE[index]},{line}" for index, line in enumerate(lines[1:]))])
    chosen = file_plan(tmp_path, **{"data.patient": "id"})
    (tmp_path / "rows.csv").write_text(text + "\n")
    sites = build_federation(chosen)
    for number, site in enumerate(sites):
        assert {row[0] % 3 for row in everything((site,))} == {number} and site.patients is not None
    with pytest.raises(PlanError, match=r"partition\.column: expected another column than data\.patient"):
        build_federation(file_plan(tmp_path, **{"data.patient": "ward"}))


def test_the_servers_rows_and_the_sites_share_no_patient() -> None:
    chosen = plan(2, patient="id").override(["robust.rule=fltrust", "robust.root_examples=9"])
    rows = server_rows(chosen, (X, Y, WHOSE))
    assert rows is not None and 9 <= len(rows) <= 11
    name = dict(zip(X[:, 0].astype(np.float32).tolist(), WHOSE.tolist(), strict=True))
    held = {name[value] for value in rows.x[:, 0].tolist()}
    sites = build_federation(chosen, (X, Y, WHOSE))
    assert not held & {patient for site in whose(sites, X, WHOSE) for part in site for patient in part}
    assert sum(len(site.split(split)) for site in sites for split in Split) + len(rows) == 60


def file_plan(folder: Path, **more: Any) -> Plan:
    (folder / "rows.csv").write_text(CSV)
    table = plan(3, {"kind": "column", "column": "ward"}, columns=[{"name": "age"}]).to_toml()
    table = table.replace('source = "arrays"', 'source = "csv"\npath = "rows.csv"')
    (folder / "plan.toml").write_text(table)
    return load_plan(folder / "plan.toml").override([f"{key}={value}" for key, value in more.items()])


def test_a_file_beside_the_plan_dealt_out_by_a_column(tmp_path: Path) -> None:
    sites = build_federation(file_plan(tmp_path))
    assert [site.site for site in sites] == ["ward 0", "ward 1", "ward 2"]
    for number, site in enumerate(sites):
        assert {row[0] % 3 for row in everything((site,))} == {number}
    with pytest.raises(LocalError, match=r"simulation.sites: expected 3"):
        build_federation(file_plan(tmp_path, **{"simulation.sites": 2}))
    with pytest.raises(LocalError, match=r"expected a column 'wart'; did you mean 'ward'\?"):
        build_federation(file_plan(tmp_path, **{"simulation.partition.column": "wart"}))


def test_inputs_come_from_the_data_where_the_plan_has_none() -> None:
    bare = plan()
    sites = build_federation(bare, (X, Y))
    assert with_inputs(bare, sites).task.options == {"inputs": 4}
    assert with_inputs(with_inputs(bare, sites), sites) == with_inputs(bare, sites)
    with pytest.raises(PlanError, match=r"task\.options\.inputs: expected 4, the width of X, got 5"):
        with_inputs(bare.override(["task.options.inputs=5"]), sites)
    pictures = build_federation(bare, (RNG.random((60, 1, 3, 2)), Y))
    image = with_inputs(bare, pictures).data.image
    assert image is not None and image.shape == (1, 3, 2) and image.range == (0, 1)
    bytes_ = build_federation(bare, (RNG.integers(0, 256, (60, 1, 3, 2)), Y))
    with pytest.raises(PlanError, match=r"data\.image: expected .* shape = \[1, 3, 2\]"):
        with_inputs(bare, bytes_)
    columns = plan(columns=[{"name": name} for name in "abcd"])
    assert with_inputs(columns, sites) is columns


@pytest.mark.parametrize("name", shipped_plans())
def test_shipped_plans_build(name: str) -> None:
    shipped = find_plan(name)
    assert shipped.name == name and len(build_federation(shipped)) == shipped.simulation.sites


def test_an_unknown_plan_is_refused_with_the_nearest() -> None:
    assert set(shipped_plans()) == {
        "breast-cancer",
        "breast-cancer-encrypted",
        "breast-cancer-private",
        "diabetes",
        "digits",
        "digits-clients",
        "digits-protected",
    }
    with pytest.raises(LocalError, match="did you mean 'digits'"):
        find_plan("digit")


def test_profiles_against_a_plain_computation() -> None:
    x, y = X + 5 * Y[:, None], Y
    data = {"a": (x[:20], y[:20]), "b": (x[20:50], np.arange(30) % 5 // 4), "c": (x[50:], y[50:])}
    sites = build_federation(plan(3), data)
    found = describe_sites(plan(3), sites)
    whole_x = np.concatenate([np.asarray(xs, dtype=np.float32) for xs, _ in data.values()]).astype(float)
    whole_y = np.concatenate([ys for _, ys in data.values()])
    assert found.labels == ("no", "yes") and found.label_counts == tuple(np.bincount(whole_y).tolist())
    assert np.allclose(found.mean, whole_x.mean(axis=0)) and np.allclose(found.std, whole_x.std(axis=0))
    for profile, (xs, ys) in zip(found.sites, data.values(), strict=True):
        assert profile.n == len(ys) == profile.train + profile.validation + profile.test
        assert np.allclose(profile.mean, xs.mean(axis=0), atol=1e-5)
        assert np.allclose(profile.std, xs.std(axis=0), atol=1e-5)
        assert profile.label_distance == pytest.approx(abs(ys.mean() - whole_y.mean()))
        shift = (xs.mean(axis=0) - whole_x.mean(axis=0)) / whole_x.std(axis=0)
        assert profile.input_distance == pytest.approx(np.sqrt((shift**2).mean()), rel=1e-4)


def test_profiles_of_numbers_and_images() -> None:
    shipped = find_plan("diabetes")
    found = describe_sites(shipped, build_federation(shipped))
    assert sum(found.label_counts) == 442 and found.labels[0] == "25 to 87"
    assert all(100 <= count <= 120 for count in found.label_counts)
    assert found.inputs[:3] == ("age", "sex: 1", "sex: 2") and found.mean[0] == pytest.approx(48.518, abs=1e-3)
    ages = [site.mean[0] for site in found.sites]
    assert ages == sorted(ages)
    shipped = find_plan("digits")
    found = describe_sites(shipped, build_federation(shipped))
    assert found.inputs == ("intensity",) and len(found.mean) == 1
    assert found.to_json()["sites"][0]["site"] == "site-01"
