"""The region parser for `lifemask train` and `lifemask ablate`."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifemask.training.loop import LoopConfig
from lifemask.training.parser import initial_weights, load_corpus, run_training
from lifemask.training.parser_recipes import PARSER, ParserRecipe
from lifemask.training.start import HELP
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    add = group.add_argument
    add("--cache", type=Path, action="append", required=True, help="renders; may be repeated")
    add("--portraits", type=Path, help="FaceSynthetics: folder, zip or tar")
    add("--start-from", help=HELP.format("parser-open") + ", at this size or half of it")


def run(recipe: ParserRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Train a parser as a command line asks for."""
    corpus = load_corpus(recipe, options.cache, options.portraits)
    sizes = {k: [len(one) for one in sets] for k, sets in corpus.training.items()}
    logger.info("pictures: %s", sizes)
    start = options.start_from
    initial = initial_weights(start, recipe) if start else None
    select = min(name for name in corpus.held_out if name.startswith("renders"))
    config = replace(config, select=select, select_highest=True)
    run_training(recipe, corpus, config, initial)


def shorten(recipe: ParserRecipe, fraction: float) -> ParserRecipe:
    """The recipe with its schedule shortened."""
    return replace(recipe, optim=shorten_optim(recipe.optim, fraction))


def _part(name: str, *overrides: str, **rest: Any) -> Switch:
    return Switch(name, overrides, **{"metric": "renders-open", "highest": True, **rest})


SWITCHES = (
    _part("cross-entropy", "loss.cross_entropy=0"),
    _part("Dice", "loss.dice=0"),
    _part("Lovász (off by default)", "loss.lovasz=1"),
    _part("glasses", "loss.glasses=0", metric="renders-open/glasses"),
    _part("classes weighted alike", "loss.balance=0.5"),
    _part("turns and shifts", "render_augment.view.rotation_deg=0", "render_augment.view.shift=0"),
    _part("mirror images", "render_augment.view.flip=0"),
    _part("occluders", "render_augment.occluder=0", expected="any"),
    _part("portraits", "portraits=0", metric="facesynthetics", families=("research",)),
)
TRAINABLE = Trainable(
    name="parser",
    summary="Region parser: nine classes from a face crop.",
    recipes=PARSER,
    add_options=add_options,
    run=run,
    shorten=shorten,
    switches=SWITCHES,
)
