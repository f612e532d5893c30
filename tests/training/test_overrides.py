"""Settings changed by text: types, nesting, and errors that list what is valid."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from lifemask.assets import UserError
from lifemask.training.overrides import field_table, with_overrides
from lifemask.training.recipes import LANDMARKER


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    widths: tuple[int, int] = (1, 2)
    any_number: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outer:
    steps: int = 3
    kind: Literal["a", "b"] = "a"
    on: bool = False
    limit: int | None = 5
    folder: Path = Path()
    name: str = ""
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("change", "read", "wanted"),
    [
        ("steps=1_000", lambda s: s.steps, 1000),
        ("inner.rate=1e-4", lambda s: s.inner.rate, 1e-4),
        ("inner.widths=(4, 8)", lambda s: s.inner.widths, (4, 8)),
        ("inner.any_number=1,2.5,3", lambda s: s.inner.any_number, (1.0, 2.5, 3.0)),
        ("inner.any_number=", lambda s: s.inner.any_number, ()),
        ("on=yes", lambda s: s.on, True),
        ("on=0", lambda s: s.on, False),
        ("limit=none", lambda s: s.limit, None),
        ("limit=7", lambda s: s.limit, 7),
        ("kind=b", lambda s: s.kind, "b"),
        ("name=a=b", lambda s: s.name, "a=b"),
        ("folder=x/y", lambda s: s.folder, Path("x/y")),
    ],
)
def test_values_have_the_type_of_their_field(change, read, wanted):
    changed = with_overrides(Outer(), [change])
    assert read(changed) == wanted and type(read(changed)) is type(wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("step=1", "no setting 'step'; did you mean steps. Valid: steps, kind, on"),
        (
            "inner.rat=1",
            "no setting 'inner.rat'; did you mean inner.rate. Valid: inner.rate, inner",
        ),
        ("inner=1", "'inner' is a group. Valid: inner.rate"),
        ("steps.more=1", "steps is a single setting"),
        ("steps=1.5", "steps cannot be '1.5': it is a whole number"),
        ("inner.rate=fast", "inner.rate cannot be 'fast': it is a number"),
        ("kind=c", "it is one of a, b"),
        ("on=perhaps", "it is on or off"),
        ("inner.widths=1,2,3", "it is 2 values with commas"),
        ("limit=x", "it is a whole number"),
        ("steps", "write NAME=VALUE"),
    ],
)
def test_mistakes_are_one_line_with_the_remedy(change, message):
    with pytest.raises(UserError) as error:
        with_overrides(Outer(), [change])
    text = str(error.value).replace("?", ".").replace("..", ".")
    assert message in text and "\n" not in text


def test_every_setting_of_a_recipe_can_be_written_back():
    recipe = LANDMARKER["gpu"]("research")
    changes = []
    for name, value in field_table(recipe).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        changes.append(f"{name}={text}")
    assert with_overrides(LANDMARKER["smoke"]("open"), changes) == recipe
