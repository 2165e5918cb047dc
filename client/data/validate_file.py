"""Whether a data set on disk is what its schema says; for the commands of an administrator."""

import os
from pathlib import Path

from wardround.client.data.open_data import open_data
from wardround.client.data.report import ValidationReport
from wardround.client.data.schema import DataSchema, Format

__all__ = ["validate_file"]


def validate_file(schema: DataSchema, path: Path) -> ValidationReport:
    """What the validation of a table, or of a label file with its images, counts.

    Raises LocalError for what is no such data set at all: unreadable, not CSV or Parquet, without the schema's columns.
    """
    if schema.format is Format.IMAGES:
        from wardround.client.data.image_rows import validate_images as check
    else:
        from wardround.client.data.validation import validate as check
    with os.fdopen(open_data(path, schema), "rb") as file:
        return check(schema, file, str(path))
