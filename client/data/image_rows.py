"""Whether a folder of images is what its schema says, and its good rows for a plan."""

import io
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.image_files import ImageShapeError, decode_image
from wardround.client.data.image_pack import unpacked
from wardround.client.data.report import Fault, Rule, ValidationReport
from wardround.client.data.schema import DataSchema, ImageFolder
from wardround.client.data.table import Table
from wardround.client.data.validation import GoodRows, TablePass, hashed_ids, named
from wardround.errors import LocalError
from wardround.plan_sections import Data

__all__ = ["read_good_images", "validate_images"]


def validate_images(schema: DataSchema, file: BinaryIO, name: str) -> ValidationReport:
    """What the rows of packed images break of a schema. Raises LocalError for what is no such data set at all."""
    labels = _Labels(schema, file, name, ())
    for _ in labels.images():
        pass
    return labels.report()


def read_good_images(schema: DataSchema, data: Data, file: BinaryIO, name: str, *, key: bytes) -> GoodRows:
    """The good rows of packed images, for the `data` section of a plan; `key` is the one that ids are hashed under.

    Raises LocalError where the data do not fit their schema or the plan.
    """
    images, planned, target = schema.images, data.image, data.target
    if images is None or planned is None or target is None:
        raise LocalError(f"{name}: expected a plan with data.image, since these data are images")
    if planned.shape != images.shape:
        raise LocalError(f"{name}: expected images of shape {planned.shape} (data.image.shape), got {images.shape}")
    named(schema, target.name, name)
    patients = [one for one in dict.fromkeys((data.patient, schema.patient)) if one is not None]
    labels = _Labels(schema, file, name, (target.name, *patients))
    array = np.zeros((labels.rows, *images.shape), dtype=np.float32)
    for rows, pixels in labels.images():
        array[rows] = pixels
    report = labels.report()
    report.check(name)
    good = labels.good
    hashed = {one: hashed_ids(labels.column(one)[good], key) for one in patients}
    table = Table(
        source=name,
        columns={} if data.patient is None else {data.patient: hashed[data.patient]},
        array=array[good],
        target=labels.column(target.name)[good],
        target_name=target.name,
        first_row=1,
    )
    return GoodRows(table=table, report=report, ids=None if schema.patient is None else hashed[schema.patient])


class _Labels:
    """The rows of the label file that keep to its schema; `good`, shape (rows,), says whose image does as well."""

    def __init__(self, schema: DataSchema, file: BinaryIO, name: str, wanted: Collection[str]) -> None:
        if schema.images is None:
            raise ValueError("expected a schema of images")
        self._images: ImageFolder = schema.images
        self._files = unpacked(file)
        content = next(self._files, None)
        if content is None:
            raise LocalError(f"{name}: expected a label file")
        self._labels = TablePass(schema, io.BytesIO(content[1]), name, {*wanted, self._images.column})
        self._report = self._labels.run()
        names = self._labels.column(self._images.column)
        self.rows = len(names)
        self._rows_of: dict[str, list[int]] = {}
        for row, one in enumerate(names.tolist()):
            self._rows_of.setdefault(one, []).append(row)
        self.good = np.zeros(self.rows, dtype=np.bool_)
        self._faults: Counter[Rule] = Counter()

    def column(self, name: str) -> NDArray[Any]:
        return self._labels.column(name)

    def images(self) -> Iterator[tuple[list[int], NDArray[Any]]]:
        """The rows of each good image, and its pixels."""
        low, high = self._images.range
        channels, height, width = self._images.shape
        seen = 0
        for name, content in self._files:
            rows = self._rows_of.get(name, [])
            seen += len(rows)
            try:
                pixels = decode_image(content, (channels, height, width))
            except ImageShapeError:
                self._faults[Rule.SHAPE] += len(rows)
                continue
            except ValueError:
                self._faults[Rule.IMAGE] += len(rows)
                continue
            if not bool(((pixels >= low) & (pixels <= high)).all()):  # NaN compares as outside
                self._faults[Rule.RANGE] += len(rows)
                continue
            self.good[rows] = True
            yield rows, pixels
        self._faults[Rule.IMAGE] += self.rows - seen

    def report(self) -> ValidationReport:
        """The counts; after `images` has ended."""
        found = [Fault(column=self._images.column, rule=rule, count=n) for rule, n in self._faults.items() if n]
        kept = int(np.count_nonzero(self.good))
        bad = self._report.bad + self.rows - kept
        return replace(self._report, bad=bad, kept=kept, faults=(*self._report.faults, *found))
