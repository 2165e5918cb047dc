"""Strict decoding of TOML tables into frozen dataclasses.

A field is declared with `key(...)`, which holds its documentation and its bounds; `decode` refuses
unknown keys, wrong types and values out of bounds with the key's path, what was expected and what came.
The same declarations make the plan reference (docs/plan.md).
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from wardround.errors import LocalError
from wardround.registry import nearest

__all__ = ["PlanError", "check_bounds", "decode", "default_of", "encode", "fields_of", "key", "type_name"]

T = TypeVar("T")


class PlanError(LocalError, ValueError):
    """A value in a plan is refused. `path` is the key's path, e.g. `training.lr`; `hint` may end the message."""

    def __init__(self, path: str, expected: str, got: object = dataclasses.MISSING, hint: str = "") -> None:
        self.path, self.expected, self.got, self.hint = path, expected, got, hint
        where = f"plan.{path}" if path else "plan"
        ending = "" if got is dataclasses.MISSING else f", got {_show(got)}"
        super().__init__(f"{where}: expected {expected}{ending}{hint}")

    def below(self, prefix: str) -> "PlanError":
        """The same refusal with the path taken as relative to `prefix`."""
        return PlanError(f"{prefix}.{self.path}" if self.path else prefix, self.expected, self.got, self.hint)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def key(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Callable[[], tuple[str, ...]] | None = None,
) -> Any:
    """Declare a plan key: its default, what it means, its unit and its bounds (inclusive `ge`, `le`)."""
    metadata = {"doc": doc, "unit": unit, "ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices}
    if isinstance(default, type) and dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_bounds(instance: Any) -> None:
    """Check every field of `instance` against the bounds declared with `key`; for `__post_init__`."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        _check_finite(field.name, value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(field.name, value, field.metadata)
        choices = field.metadata.get("choices")
        if choices is not None and value is not None and value not in choices():
            raise PlanError(field.name, "a known name", value, nearest(str(value), choices()))


def _check_finite(path: str, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise PlanError(path, "a finite number", value)
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            _check_finite(f"{path}[{index}]", item)
    if isinstance(value, dict):
        for name, item in value.items():
            _check_finite(f"{path}.{name}", item)


def _check_number(name: str, value: float, bounds: Mapping[str, Any]) -> None:
    tests: tuple[tuple[str, str, Callable[[float, float], bool]], ...] = (
        ("ge", "at least", lambda a, b: a >= b),
        ("gt", "more than", lambda a, b: a > b),
        ("le", "at most", lambda a, b: a <= b),
        ("lt", "less than", lambda a, b: a < b),
    )
    for bound, words, holds in tests:
        limit = bounds.get(bound)
        if limit is not None and not holds(value, limit):
            raise PlanError(name, f"{words} {limit:g}", value)


def fields_of(cls: Any) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """The fields of dataclass `cls` with their resolved types, in order."""
    return _fields_of(cls)


@cache
def _fields_of(cls: Any) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(cls)}


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The value of a key that is left out; `dataclasses.MISSING` for one that must be there."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


_PLURALS = {int: "whole numbers", float: "numbers", str: "text values"}


def type_name(hint: Any) -> str:
    """A type as a plan's author would say it: `text`, `a number`, `a list of whole numbers`."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        parts = [type_name(part) for part in get_args(hint) if part is not type(None)]
        return " or ".join(parts)
    if origin is tuple:
        args = get_args(hint)
        if len(args) == 2 and args[1] is not Ellipsis:
            return f"[{type_name(args[0])}, {type_name(args[1])}]"
        return f"a list of {_PLURALS.get(args[0], 'tables')}"
    if origin is dict:
        return "a table"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    if dataclasses.is_dataclass(hint):
        return "a table"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(hint, str(hint))


def decode(cls: type[T], table: object, path: str = "") -> T:
    """An instance of dataclass `cls` from a parsed TOML `table`; a value of `None` is as good as no key.

    Raises `PlanError` for anything that does not fit.
    """
    if not isinstance(table, Mapping):
        raise PlanError(path, "a table", table)
    known = fields_of(cls)
    values: dict[str, Any] = {}
    for name, value in table.items():
        here = f"{path}.{name}" if path else str(name)
        if name not in known:
            raise PlanError(here, f"a known key{nearest(str(name), known)}")
        if value is not None:
            values[name] = _decode_value(known[name][1], value, here)
    for name, (field, _) in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise PlanError(f"{path}.{name}" if path else name, f"a value ({field.metadata['doc']})")
    try:
        return cls(**values)
    except PlanError as error:
        raise (error.below(path) if path else error) from None


def _decode_value(hint: Any, value: object, path: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(hint, value, path)
    if origin is tuple:
        return _decode_list(hint, value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise PlanError(path, "a table", value)
        return {str(k): _decode_value(get_args(hint)[1], v, f"{path}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return decode(hint, value, path)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if isinstance(value, str) and value in {member.value for member in hint}:
            return hint(value)
        raise PlanError(path, type_name(hint), value, nearest(str(value), list(hint), listing=False))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise PlanError(path, "a number of 64 bits", value)
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise PlanError(path, "Unicode text", value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise PlanError(path, type_name(hint), value)


def _decode_union(hint: Any, value: object, path: str) -> Any:
    options = [option for option in get_args(hint) if option is not type(None)]
    for option in options:
        try:
            return _decode_value(option, value, path)
        except PlanError:
            if len(options) == 1 or (get_origin(option) is tuple and isinstance(value, list)):
                raise
    raise PlanError(path, type_name(hint), value)


def _decode_list(hint: Any, value: object, path: str) -> tuple[Any, ...]:
    args = get_args(hint)
    if not isinstance(value, list | tuple):
        raise PlanError(path, type_name(hint), value)
    if args[-1] is not Ellipsis and len(value) != len(args):
        raise PlanError(path, type_name(hint), value)
    return tuple(_decode_value(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))


def encode(instance: Any) -> Any:
    """The plain form (dicts, lists, scalars) of a decoded dataclass; `None` values are left out."""
    if dataclasses.is_dataclass(instance):
        pairs = ((field.name, getattr(instance, field.name)) for field in dataclasses.fields(instance))
        return {name: encode(value) for name, value in pairs if value is not None}
    if isinstance(instance, tuple):
        return [encode(item) for item in instance]
    if isinstance(instance, dict):
        return {name: encode(value) for name, value in instance.items()}
    if isinstance(instance, StrEnum):
        return instance.value
    return instance
