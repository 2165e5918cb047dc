"""The sites of a simulated federation: a data set dealt out by the plan, or data that Python gives for each site."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wardround.client.data.encoding import Encoded, encode_table
from wardround.client.data.files import read_table
from wardround.client.data.patients import capped, numbered
from wardround.client.data.site_data import Rows, SiteData
from wardround.client.data.splits import split_rows
from wardround.client.data.table import Table
from wardround.errors import LocalError
from wardround.orders import SiteId, derive_seed
from wardround.plan import Plan, PlanError
from wardround.plan_sections import FILE_SOURCES, Image
from wardround.registry import load
from wardround.simulations.partitions.column import site_names
from wardround.simulations.partitions.partition import GROUP, Assign, Pool, pieces, refuse_deal
from wardround.simulations.python_data import table_of
from wardround.vector import I64

__all__ = ["build_federation", "server_rows", "with_inputs"]

_MAX_SITE_BYTES = 255
_DRAWS = 100


def build_federation(plan: Plan, data: Any = None) -> tuple[SiteData, ...]:
    """Every site's rows, encoded and split; the same for the same plan and data.

    With `data.source = "arrays"`, `data` is a pair (X, y) or a map-style torch Dataset, dealt out by
    `simulation.partition`, or a mapping from site names to either; with `data.patient` it is (X, y, patients), as
    `table_of` says. All rows of a patient are dealt to one site, unless a column says where each row was made. Sites
    are called `site-01`, `site-02`, ..., or as the mapping's keys or the partition column's values say. Raises
    LocalError (PlanError) for what does not fit, naming site, column and row.
    """
    if plan.data.source == "app":
        raise PlanError("data.source", "a data set, since a Flower app loads its own data", plan.data.source)
    if (plan.data.source == "arrays") != (data is not None):
        given = "data were given from Python" if data is not None else "no data were given from Python"
        raise PlanError("data.source", f'"arrays" exactly when data are given from Python ({given})', plan.data.source)
    if isinstance(data, Mapping):
        return _given_sites(plan, data)
    return _deal(plan, _table(plan) if data is None else table_of(plan.data, data, "data"))


def with_inputs(plan: Plan, sites: Sequence[SiteData]) -> Plan:
    """The plan, with the shape of `sites`' inputs where it has neither columns nor image.

    Sets `task.options.inputs` for X of shape (n, inputs), and `data.image` for images with pixels from 0 to 1. Raises
    PlanError for other images, and where `task.options.inputs` is set to something else.
    """
    if plan.data.columns or plan.data.image is not None or plan.data.source == "app":
        return plan
    shape = sites[0].train.x.shape[1:]
    if len(shape) == 3:
        for site in sites:
            if any(((rows.x < 0) | (rows.x > 1)).any() for rows in (site.train, site.validation, site.test)):
                given = f"{{ shape = {list(shape)}, range = [black, white] }}"
                raise PlanError("data.image", f"{given}, since pixels at {site.site} are not from 0 to 1")
        return replace(plan, data=replace(plan.data, image=Image(shape=shape, range=(0.0, 1.0))))
    options = {"inputs": int(shape[0]), **plan.task.options}
    if options["inputs"] != shape[0]:
        raise PlanError("task.options.inputs", f"{shape[0]}, the width of X", options["inputs"])
    return replace(plan, task=replace(plan.task, options=options))


def _table(plan: Plan) -> Table:
    """All rows of a registered data set or a file, with the column that the partition needs."""
    if plan.data.source in FILE_SOURCES and plan.data.path is not None:
        column = plan.simulation.partition.column
        return read_table(plan.data, plan.folder / plan.data.path, extra=() if column is None else (column,))
    table: Table = load("wardround.datasets", plan.data.source)()
    if plan.data.target is not None and plan.data.target.name != table.target_name:
        expected = f"{table.target_name!r}, the target of {table.source}"
        raise PlanError("data.target.name", expected, plan.data.target.name)
    return table


def server_rows(plan: Plan, data: Any = None) -> Rows | None:
    """The `robust.root_examples` rows that the server holds and no site has; None when there are none.

    Raises PlanError where there is no pool of rows to take them from.
    """
    if not plan.robust.root_examples:
        return None
    if isinstance(data, Mapping):
        raise PlanError("robust.root_examples", "data that the simulation deals out, which the server takes from")
    encoded = encode_table(plan.data, _table(plan) if data is None else table_of(plan.data, data, "data"))
    return encoded.rows.take(_at_server(plan, encoded)[0])


def _at_server(plan: Plan, encoded: Encoded) -> tuple[I64, I64]:
    """Which rows the server holds, and which are left for the sites; no patient has rows at both.

    Of patients, so many are drawn that they have the wanted number of rows or a few more.
    """
    wanted, rows = plan.robust.root_examples, len(encoded.rows)
    if not wanted:
        return np.empty(0, dtype=np.int64), np.arange(rows)
    unit = np.arange(rows) if encoded.patients is None else numbered(encoded.patients)
    sizes = np.bincount(unit)
    order = np.random.Generator(np.random.Philox(key=derive_seed(plan.seed, "root rows"))).permutation(len(sizes))
    drawn = order[: np.searchsorted(np.cumsum(sizes[order]), wanted) + 1]
    held = np.isin(unit, drawn)
    if held.all():
        raise PlanError("robust.root_examples", f"fewer than the {rows} rows of the data", wanted)
    return np.flatnonzero(held), np.flatnonzero(~held)


def _deal(plan: Plan, table: Table) -> tuple[SiteData, ...]:
    partition, sites = plan.simulation.partition, plan.simulation.sites
    by_column = partition.kind == "column"
    if by_column and partition.column == plan.data.patient:
        other = "another column than data.patient, since its values would name the sites"
        raise PlanError("simulation.partition.column", other, partition.column)
    encoded = encode_table(plan.data, table)
    _, left = _at_server(plan, encoded)
    whole = len(left) == len(encoded.rows)
    rows = encoded.rows if whole else encoded.rows.take(left)
    patients = None if encoded.patients is None else encoded.patients.take(left)
    pool = Pool(
        rows=rows,
        min_examples=plan.data.min_examples,
        two_classes=rows.y.dtype == np.int64 and not plan.data.allow_single_class,
        values=None if partition.column is None else table.column(partition.column)[encoded.kept][left],
    )
    if by_column:
        names = [SiteId(name) for name in site_names(pool, partition)]
    else:
        if sites * plan.data.min_examples > len(rows):
            raise refuse_deal(pool, sites, "")
        width = max(2, len(str(sites)))
        names = [SiteId(f"site-{number:0{width}}") for number in range(1, sites + 1)]
    if patients is None or by_column:
        dealt = _assigned(plan, pool, derive_seed(plan.seed, "partition"))
    else:
        dealt = _deal_patients(plan, pool, patients)
    return tuple(
        split_rows(plan, name, rows.take(index), None if patients is None else patients.take(index))
        for name, index in zip(names, dealt, strict=True)
    )


def _assigned(plan: Plan, pool: Pool, seed: int) -> list[I64]:
    """What each site gets of the pool. Raises LocalError when the partition leaves something out or finds no deal."""
    partition, sites = plan.simulation.partition, plan.simulation.sites
    assign: Assign = load(GROUP, partition.kind)
    dealt = assign(pool, partition, sites, seed)
    _check_deal(partition.kind, dealt, len(pool), sites)
    return dealt


def _deal_patients(plan: Plan, pool: Pool, patients: I64) -> list[I64]:
    """The rows of each site: each patient is dealt out by one of their rows, drawn by lot, and the others go with it.

    A site needs as many patients as have `min_examples` rows on average; deals are drawn until its rows are enough.
    """
    unit = numbered(patients)
    drawn = capped(patients, 1, derive_seed(plan.seed, "patients"))
    unit = np.argsort(unit[drawn])[unit]  # in the order of the drawn rows
    heads = replace(
        pool,
        rows=pool.rows.take(drawn),
        min_examples=-(-pool.min_examples * len(drawn) // len(pool)),
        values=None if pool.values is None else pool.values[drawn],
        what="patients",
    )
    seed = derive_seed(plan.seed, "partition")
    for draw in range(1, _DRAWS + 1):
        site = np.empty(len(drawn), dtype=np.int64)
        for number, index in enumerate(_assigned(plan, heads, seed)):
            site[index] = number
        of_row = site[unit]
        dealt = pieces(np.argsort(of_row, kind="stable"), np.bincount(of_row, minlength=plan.simulation.sites))
        if not any(_falls_short(pool, index) for index in dealt):
            return dealt
        seed = derive_seed(plan.seed, "partition", draw)
    raise refuse_deal(pool, plan.simulation.sites, "; all rows of a patient stay together")


def _falls_short(pool: Pool, index: I64) -> bool:
    labels = pool.rows.y[index]
    return len(index) < pool.min_examples or bool(pool.two_classes and (labels == labels[0]).all())


def _check_deal(kind: str, dealt: Sequence[I64], rows: int, sites: int) -> None:
    counts = np.bincount(np.concatenate(dealt), minlength=rows) if dealt else np.zeros(0)
    if len(dealt) != sites or len(counts) != rows or (counts != 1).any():
        raise LocalError(f"partition {kind!r}: expected every row at exactly one of {sites} sites")


def _given_sites(plan: Plan, data: Mapping[Any, Any]) -> tuple[SiteData, ...]:
    if len(data) != plan.simulation.sites:
        raise PlanError("simulation.sites", f"{len(data)}, the number of sites in the data", plan.simulation.sites)
    sites = []
    for name, rows in data.items():
        if not isinstance(name, str) or not 0 < len(name.encode()) <= _MAX_SITE_BYTES:
            raise LocalError(f"data: expected site names of 1 to {_MAX_SITE_BYTES} bytes of text, got {name!r}")
        encoded = encode_table(plan.data, table_of(plan.data, rows, name))
        sites.append(split_rows(plan, SiteId(name), encoded.rows, encoded.patients))
    shapes = {site.train.x.shape[1:]: site.site for site in reversed(sites)}
    first = sites[0].train.x.shape[1:]
    for shape, site in shapes.items():
        if shape != first:
            raise LocalError(f"{site}: expected inputs of shape {first}, as {sites[0].site} has, got {shape}")
    return tuple(sites)
