"""What `lifemask train` and `lifemask ablate` need to know of a network, as one object.

A method that can be trained defines a `Trainable` in its training module and adds its name to
`recipes.RECIPES`. Its recipes are frozen dataclasses; fields named like those of `LoopConfig` set
the loop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from lifemask.assets import UserError
from lifemask.training.loop import LoopConfig
from lifemask.training.recipes import RECIPES, Family, OptimConfig

SIZES = ("smoke", "cpu", "gpu", "paper")
Direction = Literal["worse", "better", "any"]


@dataclass(frozen=True)
class Switch:
    """A part of a method that an ablation takes away, as data.

    Attributes:
        name: of the part, as the table calls it.
        overrides: settings without the part, as `lifemask train --set` takes them.
        expected: what happens to the metric without the part, by the method's claim.
        metric: validation metric that shows it; "" the one that selects checkpoints.
        highest: a higher value of that metric is better.
        families: families whose recipes have the part.
    """

    name: str
    overrides: tuple[str, ...]
    expected: Direction = "worse"
    metric: str = ""
    highest: bool = False
    families: tuple[Family, ...] = ("open", "research")


@dataclass(frozen=True)
class Trainable:
    """A network that can be trained by recipe.

    Attributes:
        name: on the command line.
        summary: one line.
        recipes: by size; a function of the family. A recipe has `name`, `family`, `optim`, `seed`,
            `device`, `precision`, `processes`, `threads`, `evaluate_every` and `save_every`.
        add_options: adds the options that say where its data are to an argparse group.
        run: (recipe, options, loop settings) -> trains.
        shorten: (recipe, fraction) -> the recipe with all its schedules shortened alike.
        switches: what an ablation takes away.
        last_steps: steps at which a run of a recipe has ended.
    """

    name: str
    summary: str
    recipes: Mapping[str, Callable[[Family], Any]]
    add_options: Callable[[Any], None]
    run: Callable[[Any, argparse.Namespace, LoopConfig], Any]
    shorten: Callable[[Any, float], Any]
    switches: tuple[Switch, ...] = ()
    last_steps: Callable[[Any], int] = lambda recipe: recipe.optim.steps


def load_trainable(name: str) -> Trainable:
    """A trainable by its name in `RECIPES`, or by "module:attribute" for one from elsewhere.

    Raises:
        UserError: there is none; the message lists the names.
    """
    place = RECIPES.get(name, name)
    module, mark, attribute = place.partition(":")
    if not mark:
        raise UserError(f"unknown network {name!r}; valid: {', '.join(RECIPES)}")
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise UserError(f"no module {module!r} for {name!r}") from error
        raise UserError(f"training needs: pip install 'lifemask[train]' ({error})") from error
    except AttributeError as error:
        raise UserError(f"{module} has no {attribute!r}") from error
    if not isinstance(found, Trainable):
        raise UserError(f"{place} is no Trainable")
    return found


def shorten_optim(optim: OptimConfig, fraction: float) -> OptimConfig:
    """A schedule shortened to a fraction: steps, warm-up and the memory of the average alike."""
    return replace(
        optim,
        steps=max(1, round(optim.steps * fraction)),
        warmup=max(1, round(optim.warmup * fraction)),
        ema=max(0.0, 1 - (1 - optim.ema) / fraction) if fraction < 1 else optim.ema,
    )


def loop_config(recipe: Any, run: Path, **changes: Any) -> LoopConfig:
    """The loop's settings that follow from a recipe: its fields of the same names."""
    own = {field.name for field in fields(recipe)}
    shared = {f.name: getattr(recipe, f.name) for f in fields(LoopConfig) if f.name in own}
    return LoopConfig(**{**shared, "run": run, **changes})
