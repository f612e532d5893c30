"""Train 2DASL: stage 1 on labelled renders, stage 2 with faces in the wild.

    lifemask train dasl --recipe cpu --family research --data DATA --cache CACHE --run runs/dasl

A run is resumed by the same command: stage 1 lives in RUN/stage1, stage 2 in RUN.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods._dasl_loss import DaslLoss, TwoPasses
from lifemask.methods._dasl_types import DaslBatch
from lifemask.methods.dasl import DaslNet, create_dasl, normalised
from lifemask.nn.backbones import mobile_from_landmarker
from lifemask.nn.critic import Critic
from lifemask.training.checkpoint import read_state
from lifemask.training.dasl_batches import DaslBatchMaker
from lifemask.training.dasl_data import DaslCorpus, crop_labels, load_dasl_corpus
from lifemask.training.dasl_evaluation import evaluate
from lifemask.training.dasl_recipes import DASL, DaslRecipe
from lifemask.training.loop import LoopConfig, train
from lifemask.training.start import HELP, shipped_weights, starting_weights
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)
STAGE1 = "stage1"
STARTS = ("landmarker", "")


@dataclass(frozen=True)
class Stage:
    """One of the two stages.

    Attributes:
        number: 1 or 2.
        recipe: with `optim` of this stage.
        folder: of its run.
    """

    number: int
    recipe: DaslRecipe
    folder: Path


def plan_stages(recipe: DaslRecipe, folder: Path) -> list[Stage]:
    """What a recipe runs, and where: the last stage lives in the folder itself.

    Raises:
        UserError: both stages in one command with several processes.
    """
    wanted = "1" if not recipe.stage2 else recipe.stages
    if wanted == "both" and recipe.processes > 1:
        raise UserError(
            "several processes run one stage at a time: --set stages=1, "
            "then --set stages=2 --start-from that run"
        )
    first = Stage(1, recipe, folder / STAGE1 if wanted == "both" else folder)
    second = Stage(2, replace(recipe, optim=recipe.optim2), folder)
    return {"both": [first, second], "1": [first], "2": [second]}[wanted]


def last_steps(recipe: DaslRecipe) -> int:
    """Steps of the stage that a run ends with."""
    stage = plan_stages(replace(recipe, processes=1), Path())[-1]
    return stage.recipe.optim.steps


def step_loss(
    network: nn.Module, criterion: nn.Module, batch: DaslBatch, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch: two passes, then all terms."""
    del step
    output = network(batch.crops, batch.map.points, batch.map.drawn)
    return criterion(TwoPasses(normalised(batch.crops), *output), batch.targets)


def create_network(
    recipe: DaslRecipe, model: FaceModel, corpus: DaslCorpus, start_from: str = ""
) -> DaslNet:
    """A network with its whitening, its weights from where the recipe or the user says.

    Args:
        recipe: sizes and start.
        model: face model of the coefficients.
        corpus: its labels decide the whitening.
        start_from: a 2DASL run, or shipped weights; overrides the recipe's start.

    Raises:
        UserError: an unknown start, or a run of another network.
    """
    if recipe.start not in STARTS:
        raise UserError(f"unknown start {recipe.start!r}; valid: landmarker, or nothing")
    torch.manual_seed(recipe.seed)
    network = create_dasl(recipe.net, model)
    if start_from:
        return _with_weights(network, starting_weights(start_from, recipe.family), start_from)
    labels = [network.head.pack(crop_labels(faces)) for faces in corpus.labelled]
    network.head.set_whitening(torch.cat(labels))
    if recipe.start == "landmarker" and recipe.net.backbone == "mobile":
        weights = shipped_weights(f"landmarker-{recipe.family}")
        network.backbone.load_state_dict(mobile_from_landmarker(weights, network.backbone))
    return network


def _with_weights(network: DaslNet, weights: dict[str, Tensor], source: str) -> DaslNet:
    """The network with the weights from `source`."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{source} holds another network: give --start-from a run of the same net settings"
        ) from error
    return network


def run_stage(
    stage: Stage, network: DaslNet, corpus: DaslCorpus, model: FaceModel, config: LoopConfig
) -> DaslNet:
    """Train (or go on training) one stage; returns the network with averaged weights."""
    recipe = stage.recipe
    share = recipe.wild_share if stage.number == 2 and recipe.unlabelled else 0.0
    batches = replace(
        recipe.batches,
        batch=recipe.optim.batch,
        size=recipe.net.size,
        seed=recipe.seed + stage.number - 1,
        unlabelled=share,
    )
    torch.manual_seed(batches.seed)  # the critic's weights do not depend on how the stage began
    critic = Critic(network.head.size) if share and recipe.loss.critic else None
    averaged = train(
        network,
        DaslLoss(network.head, recipe.loss, critic),
        DaslBatchMaker(corpus, batches, model),
        step_loss,
        lambda net: evaluate(net, corpus.held_out, recipe.batches.input_map, recipe.evaluate_crops),  # pyright: ignore[reportArgumentType]
        replace(config, optim=recipe.optim, run=stage.folder),
        {"recipe": asdict(recipe), "licence": recipe.family, "stage": stage.number},
    )
    assert isinstance(averaged, DaslNet)
    return averaged


def run_training(
    recipe: DaslRecipe,
    corpus: DaslCorpus,
    model: FaceModel,
    config: LoopConfig,
    start_from: str = "",
) -> DaslNet:
    """Run the stages that are not finished and return the last network.

    A limit of time holds for the stages together, and a stage that it cut short is the last one.
    """
    stages = plan_stages(recipe, config.run)
    network = create_network(recipe, model, corpus, start_from)
    begun = time.monotonic()
    for stage in stages:
        logger.info("stage %d in %s", stage.number, stage.folder)
        left = config
        if config.seconds:
            left = replace(config, seconds=max(config.seconds - (time.monotonic() - begun), 1e-9))
        network = run_stage(stage, network, corpus, model, left).train().requires_grad_(True)
        if len(stages) > 1 and not _finished(stage):
            break
    return network.eval().requires_grad_(False)


def _finished(stage: Stage) -> bool:
    path = stage.folder / "checkpoint.safetensors"
    return path.is_file() and read_state(path)["step"] >= stage.recipe.optim.steps


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    add = group.add_argument
    add("--cache", type=Path, action="append", required=True, help="renders; may be repeated")
    add("--data", type=Path, help="folder with aflw21 and ytf68")
    add("--prepared", type=Path, help="folder to keep decoded crops and found points in")
    add("--start-from", default="", help=HELP.format("dasl-open"))


def run(recipe: DaslRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Train as a command line asks for."""
    if recipe.stages == "2" and not options.start_from:
        raise UserError("stage 2 goes on from a network: give --start-from RUN of stage 1")
    model = load_face_model()
    corpus = load_dasl_corpus(
        recipe.family,
        options.data,
        options.cache,
        options.prepared,
        recipe.held_out_renders,
        wild_share=recipe.wild_renders,
        model=model,
    )
    logger.info("labelled %s", [len(faces.crops) for faces in corpus.labelled])
    logger.info("unlabelled %s", {k: len(v.crops) for k, v in corpus.unlabelled.items()})
    run_training(recipe, corpus, model, config, options.start_from)


def shorten(recipe: DaslRecipe, fraction: float) -> DaslRecipe:
    """The recipe with both schedules shortened."""
    optim, optim2 = (shorten_optim(o, fraction) for o in (recipe.optim, recipe.optim2))
    return replace(recipe, optim=optim, optim2=optim2)


def _part(name: str, *overrides: str, **rest: Any) -> Switch:
    return Switch(name, overrides, **rest)


SWITCHES: Sequence[Switch] = (
    _part("coefficients weighed by what they move (mse)", "loss.coef=mse"),
    _part("coefficients compared as such (vertex)", "loss.coef=vertex", expected="any"),
    _part("coefficients compared", "loss.coefficients=0", metric="renders-open_shape_mm"),
    _part("2D-landmark consistency", "loss.l2d=0"),
    _part("3D-landmark consistency", "loss.l3d=0"),
    _part("cycle consistency", "loss.cyc=0"),
    _part("self-critic", "loss.critic=0", metric="aflw21_identity", families=("research",)),
    _part(
        "photos among the critic's fakes",
        "loss.wild_fakes=0",
        metric="aflw21_identity",
        expected="any",
        families=("research",),
    ),
    _part("map", "batches.input_map=off"),
    _part("correction by the map's points", "net.correction=0"),
    _part("noise of the map", "batches.input_map=oracle", expected="any"),
    _part("maps of others (only its own)", "batches.input_map=self", expected="any"),
    _part("blobs in the map (single pixels)", "net.map=points", expected="any"),
    _part("unlabelled faces", "unlabelled=false", metric="aflw21", families=("research",)),
    _part("stage 2", "stage2=false", metric="aflw21", families=("research",)),
    _part("start from the landmarker", "start="),
)
TRAINABLE = Trainable(
    name="dasl",
    summary="2DASL: face-model coefficients from a crop and a landmark map, in two stages.",
    recipes=DASL,
    add_options=add_options,
    run=run,
    shorten=shorten,
    switches=tuple(SWITCHES),
    last_steps=last_steps,
)
