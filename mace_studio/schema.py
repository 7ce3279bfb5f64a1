"""Plain data, as read from JSON, into frozen dataclasses; what does not fit is refused by the name of its field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from functools import cache

from mace_studio.errors import RecipeError
from mace_studio.text_files import broken

_NAMES = {str: "Text", int: "A whole number", float: "A number", bool: "true or false"}


def build(kind: type, value: object, where: str = "") -> typing.Any:
    """`value` as an instance of `kind`.

    Args:
        kind: a dataclass of such kinds, `tuple[kind, ...]`, str, int, float or bool.
        value: what `json.loads` returned.
        where: dotted path of the value, for messages.

    Raises:
        RecipeError: an unknown or missing field or a value of the wrong type; the message names the field.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if isinstance(kind, types.GenericAlias):
        if not isinstance(value, list):
            raise RecipeError(where, f"A list is needed here, not {_named(value)}.")
        inner = typing.get_args(kind)[0]
        return tuple(build(inner, item, f"{where}[{i}]") for i, item in enumerate(value))
    return _scalar(kind, value, where)


def check(value: object, where: str = "") -> None:
    """Raise a RecipeError at the first field of a dataclass that holds another type than it should.

    What a program makes of the classes has no other check; a number with no fraction may stand for a float.

    Args:
        value: instance of a dataclass; those in its fields are looked at too.
        where: dotted path of it, for messages.
    """
    prefix = f"{where}." if where else ""
    own: typing.Any = type(value)
    for name, kind in _hints(own).items():
        _check(kind, getattr(value, name), f"{prefix}{name}")


@cache
def _hints(kind: type) -> dict[str, typing.Any]:
    hints = typing.get_type_hints(kind)
    return {part.name: hints[part.name] for part in dataclasses.fields(kind)}


def _check(kind: typing.Any, value: object, where: str) -> None:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, kind):
            raise RecipeError(where, f"A {kind.__name__} is needed here, not {_named(value)}.")
        check(value, where)
    elif isinstance(kind, types.GenericAlias):
        for i, item in enumerate(listed(value, where)):
            _check(typing.get_args(kind)[0], item, f"{where}[{i}]")
    elif kind in _NAMES:
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise RecipeError(where, f"{_NAMES[kind]} is needed here, not {_named(value)}.")


def listed(value: typing.Any, where: str) -> tuple:
    """The items of a list or of whatever else can be gone through; a text is none, though it has letters.

    Raises:
        RecipeError: it is no list.
    """
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise RecipeError(where, f"A list is needed here, not {_named(value)}.")
    return tuple(value)


def _dataclass(kind: type, value: object, where: str) -> typing.Any:
    if not isinstance(value, dict):
        raise RecipeError(where, f"An object with named fields is needed here, not {_named(value)}.")
    hints = _hints(kind)
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in hints:
            raise RecipeError(f"{prefix}{key}", f"This field is not known; known are {', '.join(hints)}.")
    built = {key: build(hints[key], item, f"{prefix}{key}") for key, item in value.items()}
    for part in dataclasses.fields(kind):
        if part.default is part.default_factory is dataclasses.MISSING and part.name not in built:
            raise RecipeError(f"{prefix}{part.name}", "This field is missing.")
    return kind(**built)


def _scalar(kind: type, value: object, where: str) -> typing.Any:
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise RecipeError(where, "This number is too large.") from None
    if type(value) is not kind:
        raise RecipeError(where, f"{_NAMES[kind]} is needed here, not {_named(value)}.")
    if isinstance(value, str) and broken(value):
        raise RecipeError(where, "This text has a broken character in it; type it again.")
    return value


def _named(value: object) -> str:
    names = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")
