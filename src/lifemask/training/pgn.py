"""Train PGN: labelled renders, single photos, frames of one person.

The command:

    lifemask train pgn --recipe cpu --family research --data DATA --cache CACHE --run runs/pgn
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods._pgn_pairs import load_frozen_parser
from lifemask.methods._pgn_types import PgnBatch
from lifemask.methods.pgn import LandmarkTrunk, PgnLoss, PgnNet
from lifemask.training.loop import LoopConfig, train
from lifemask.training.pgn_batches import PgnBatchMaker
from lifemask.training.pgn_data import PgnCorpus, load_pgn_corpus
from lifemask.training.pgn_evaluation import evaluate
from lifemask.training.pgn_recipes import PGN, PgnRecipe
from lifemask.training.start import HELP, shipped_weights, starting_weights
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)
STARTS = ("landmarker", "")
StepLoss = Callable[[nn.Module, nn.Module, PgnBatch, int], tuple[Tensor, dict[str, Tensor]]]


def step_loss(steps: int) -> StepLoss:
    """Loss of one batch of a run of so many steps."""

    def loss(
        network: nn.Module, criterion: nn.Module, batch: PgnBatch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        output = network(batch.crops, batch.person)
        return criterion(output, batch, step / max(steps, 1))

    return loss


def create_network(recipe: PgnRecipe, model: FaceModel, start_from: str = "") -> PgnNet:
    """A network with its weights from where the recipe or the user says.

    Args:
        recipe: sizes and start.
        model: face model of the coefficients.
        start_from: folder of a PGN run; overrides the recipe's start.

    Raises:
        UserError: an unknown start, or weights of another network.
    """
    if recipe.start not in STARTS:
        raise UserError(f"unknown start {recipe.start!r}; valid: landmarker, or nothing")
    torch.manual_seed(recipe.seed)
    network = PgnNet(recipe.net, model)
    if start_from:
        try:
            network.load_state_dict(starting_weights(start_from, recipe.family))
        except RuntimeError as error:
            raise UserError(
                f"{start_from} holds another network: give --start-from a run of the same settings"
            ) from error
    elif recipe.start == "landmarker" and isinstance(network.trunk, LandmarkTrunk):
        weights = shipped_weights(f"landmarker-{recipe.family}")
        own = {k: v for k, v in weights.items() if not k.startswith("to_parameters.")}
        try:
            network.trunk.net.load_state_dict(own)
        except RuntimeError as error:
            raise UserError(
                "the shipped landmarker does not fit the network: it sees crops of 112 px and "
                "finds lifemask392 (start= begins with random weights)"
            ) from error
    return network


def run_training(
    recipe: PgnRecipe,
    corpus: PgnCorpus,
    model: FaceModel,
    config: LoopConfig,
    start_from: str = "",
) -> PgnNet:
    """Run (or go on with) a training; returns the network with averaged weights."""
    network = create_network(recipe, model, start_from)
    batches = replace(
        recipe.batches, batch=recipe.optim.batch, size=recipe.net.size, seed=recipe.seed
    )
    if not recipe.unlabelled:
        corpus = replace(corpus, photos={})
    terms = recipe.loss.pairs
    looks = terms.semantic or (terms.occluders and (terms.photometric or terms.flow))
    half = recipe.precision.startswith("bf16")
    parser = load_frozen_parser(recipe.family, half) if batches.pairs and looks else None
    averaged = train(
        network,
        PgnLoss(network, model, recipe.loss, parser),
        PgnBatchMaker(corpus, batches, model),
        step_loss(recipe.optim.steps),
        lambda net: evaluate(net, corpus.held_out, recipe.evaluate_crops),  # pyright: ignore[reportArgumentType]
        replace(config, optim=recipe.optim),
        {"recipe": asdict(recipe), "licence": recipe.family},
    )
    assert isinstance(averaged, PgnNet)
    return averaged.eval().requires_grad_(False)


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    add = group.add_argument
    add("--cache", type=Path, action="append", required=True, help="renders; may be repeated")
    add("--data", type=Path, help="folder with aflw21 and ytf68")
    add("--prepared", type=Path, help="folder to keep decoded crops in")
    add("--start-from", default="", help=HELP.format("pgn-open"))


def run(recipe: PgnRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Train as a command line asks for."""
    model = load_face_model()
    corpus = load_pgn_corpus(
        recipe.family, options.data, options.cache, options.prepared, recipe.held_out_renders, model
    )
    logger.info("labelled %s", [len(faces) for faces in corpus.labelled])
    logger.info("photos %s", {k: len(v) for k, v in corpus.photos.items()})
    run_training(recipe, corpus, model, config, options.start_from)


def shorten(recipe: PgnRecipe, fraction: float) -> PgnRecipe:
    """The recipe with a shortened schedule."""
    return replace(recipe, optim=shorten_optim(recipe.optim, fraction))


def _part(name: str, *overrides: str, **rest: Any) -> Switch:
    return Switch(name, overrides, **rest)


RATIO = {"metric": "ytf68_ratio", "highest": True, "families": ("research",)}
SWITCHES: Sequence[Switch] = (
    _part("pose solved from the map (regressed)", "net.pose=regressed"),
    _part("324 points for the pose (68)", "net.points=68"),
    _part("weights by beta (uniform)", "net.weights=uniform"),
    _part("mean and maximum fused (mean)", "net.fusion=mean", expected="any"),
    _part("mean and maximum fused (maximum)", "net.fusion=max", expected="any"),
    _part("fusion (first frame)", "net.fusion=first", metric="renders-open_two_mm"),
    _part("fusion (an identity each)", "net.fusion=none", metric="renders-open_two_mm"),
    _part("un-posed points for the heads", "net.unposed=false", metric="renders-open_shape_mm"),
    _part("second look", "net.second_look=0"),
    _part("map loss in 3D", "loss.pgn3d=0", metric="renders-open_map"),
    _part("map loss in 2D", "loss.pgn2d=0", families=("research",)),
    _part("landmark loss", "loss.landmarks=0"),
    _part("coefficient loss", "loss.param=0", metric="renders-open_shape_mm"),
    _part("photometric consistency", "loss.pairs.photometric=0", **RATIO),
    _part("flow consistency", "loss.pairs.flow=0", **RATIO),
    _part("semantic consistency", "loss.pairs.semantic=0", **RATIO),
    _part("unlabelled photos", "unlabelled=false", metric="aflw21", families=("research",)),
    _part("pairs", "batches.pairs=false", metric="renders-open_two_mm"),
    _part("start from the landmarker", "start="),
)
TRAINABLE = Trainable(
    name="pgn",
    summary="PGN: position map, pose solved from it, identity from several frames.",
    recipes=PGN,
    add_options=add_options,
    run=run,
    shorten=shorten,
    switches=tuple(SWITCHES),
)
