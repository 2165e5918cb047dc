"""Registered dataclasses (rules, detectors, attacks), made from the options that a plan gives them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from wardround.decoding import PlanError, type_name
from wardround.registry import load, nearest

__all__ = ["make_piece"]


def make_piece(group: str, name: str, options: Mapping[str, bool | int | float], path: str, **given: Any) -> Any:
    """The dataclass registered as `name` in `group`, with the plan's `options` for it, which stand at `path`.

    `given` are fields that are no options; a class without such a field does without. Raises PlanError for an option
    that the class does not have, of another type, or that it refuses.
    """
    cls = load(group, name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {key: value for key, value in given.items() if key in fields}
    for option, value in options.items():
        if option not in fields or option in given:
            raise PlanError(f"{path}.{option}", "a known option", hint=nearest(option, set(fields) - set(given)))
        kind: Any = fields[option].type
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise PlanError(f"{path}.{option}", type_name(kind), value)
        values[option] = float(value) if kind is float else value
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise PlanError(path, f"options that fit ({error})") from None
