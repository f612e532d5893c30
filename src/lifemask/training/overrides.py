"""Settings changed by text, `optim.steps=100`: typed, nested, and told apart when misspelt."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from lifemask.assets import UserError

Settings = TypeVar("Settings")
TRUE, FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


def with_overrides(settings: Settings, changes: Iterable[str]) -> Settings:
    """A copy of a (nested) dataclass with some fields changed.

    Args:
        settings: a dataclass.
        changes: "name=value" or "outer.inner=value". Tuples are written with commas, None as
            "none", truth as on/off, true/false, yes/no or 1/0.

    Raises:
        UserError: an unknown name (valid ones are listed) or a value of another type.
    """
    for change in changes:
        name, mark, text = change.partition("=")
        if not mark:
            raise UserError(f"{change!r} changes nothing: write NAME=VALUE")
        settings = _changed(settings, name.strip(), text.strip(), name.strip())
    return settings


def field_table(settings: Any, prefix: str = "") -> dict[str, Any]:
    """All settings by their full name, "optim.steps" and so on."""
    table: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            table |= field_table(value, f"{prefix}{field.name}.")
        else:
            table[prefix + field.name] = value
    return table


def _changed(settings: Any, name: str, text: str, full: str) -> Any:
    head, _, rest = name.partition(".")
    valid = [field.name for field in dataclasses.fields(settings)]
    before = full[: len(full) - len(name)]
    if head not in valid:
        near = difflib.get_close_matches(head, valid, 1)
        hint = f"; did you mean {before}{near[0]}?" if near else ""
        raise UserError(f"no setting {full!r}{hint} Valid: {_listed(before, valid)}")
    value = getattr(settings, head)
    if dataclasses.is_dataclass(value):
        if not rest:
            inner = [field.name for field in dataclasses.fields(value)]
            raise UserError(f"{full!r} is a group. Valid: {_listed(f'{before}{head}.', inner)}")
        return dataclasses.replace(settings, **{head: _changed(value, rest, text, full)})
    if rest:
        raise UserError(f"{before}{head} is a single setting; {full!r} names something inside it")
    kind = typing.get_type_hints(type(settings))[head]
    try:
        parsed = _parsed(kind, text)
    except ValueError as error:
        raise UserError(f"{full} cannot be {text!r}: it is {error}") from error
    return dataclasses.replace(settings, **{head: parsed})


def _listed(before: str, names: list[str]) -> str:
    return ", ".join(before + name for name in names)


def _parsed(kind: Any, text: str) -> Any:
    """The value of a type that a text stands for; ValueError says what is valid."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        chosen = [value for value in inner if str(value) == text]
        if not chosen:
            raise ValueError("one of " + ", ".join(map(str, inner)))
        return chosen[0]
    if origin in (Union, types.UnionType):
        return _parsed_union(inner, text)
    if origin is tuple:
        return _parsed_tuple(inner, text)
    return _parsed_plain(kind, text)


def _parsed_union(kinds: tuple[Any, ...], text: str) -> Any:
    if type(None) in kinds and text.lower() == "none":
        return None
    problems = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _parsed(kind, text)
            except ValueError as error:
                problems.append(str(error))
    raise ValueError(" or ".join(problems))


def _parsed_tuple(kinds: tuple[Any, ...], text: str) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_parsed(kinds[0], part) for part in parts)
    if len(parts) != len(kinds):
        raise ValueError(f"{len(kinds)} values with commas between them")
    return tuple(_parsed(kind, part) for kind, part in zip(kinds, parts, strict=True))


def _parsed_plain(kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise ValueError("on or off")
        return text.lower() in TRUE
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError("a whole number" if kind is int else "a number") from None
    if kind is Path:
        return Path(text)
    if kind is str:
        return text
    raise ValueError(f"of type {kind}, which has no spelling on the command line")
