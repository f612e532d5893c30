"""Train the landmarker.

    python -m lifemask.training.landmarker --recipe cpu --family research \
        --data DATA --cache CACHE --run runs/landmarker-research

A run is resumed by the same command. `--cache` may be given several times.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from lifemask.data.augment import (
    NO_AUGMENTATION,
    AugmentConfig,
    change_colours,
    draw_views,
    move_points,
    warp,
)
from lifemask.data.base import CropSet, load_render_cache
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import convert, flip_table
from lifemask.nn.landmark_net import LandmarkNet, unit_from_crop_px
from lifemask.nn.parametric import LandmarkModel, landmark_model
from lifemask.training.crop_sources import REAL_SETS, real_crops, renders_tag
from lifemask.training.landmark_loss import LandmarkLoss, SourceBatch
from lifemask.training.loop import LoopConfig, train
from lifemask.training.recipes import LANDMARKER, LandmarkerRecipe
from lifemask.training.start import HELP, starting_weights
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)
CONVENTION = "lifemask392"
SOURCES = ("renders", "aflw21", "ytf68")


@dataclass(frozen=True)
class Batch:
    """Crops (b, 3, s, s) in [0, 1], channels last in memory, and targets by source."""

    crops: Tensor
    targets: list[SourceBatch]


@dataclass(frozen=True)
class Corpus:
    """Training and held-out crops; `renders` may be several sets drawn in proportion."""

    training: dict[str, list[CropSet]]
    held_out: dict[str, CropSet]


def load_corpus(
    recipe: LandmarkerRecipe,
    data: Path | None,
    caches: list[Path],
    prepared: Path | None = None,
) -> Corpus:
    """Everything that the recipe's family may see.

    Args:
        recipe: decides the sources.
        data: folder with `aflw21` and `ytf68`; needed by "research".
        caches: folders of renders.
        prepared: folder where decoded real crops are kept between runs and processes.

    Raises:
        UserError: data are missing, or renders with photo textures are offered to "open".
    """
    keep = recipe.held_out_renders
    training: dict[str, list[CropSet]] = {"renders": []}
    held: dict[str, CropSet] = {}
    for folder in caches:
        tag = renders_tag(folder, recipe.family)
        training["renders"].append(load_render_cache(folder, slice(keep, None)))
        held[f"renders-{tag}"] = load_render_cache(folder, slice(0, max(keep, 1)))
    if recipe.family == "research":
        for name in REAL_SETS:
            training_set, held[name] = real_crops(name, data, prepared)
            training[name] = [training_set]
    return Corpus(training, held)


class BatchMaker:
    """Batches as a function of the step number.

    Args:
        training: sets by source; several sets of one source are drawn in proportion to size.
        recipe: batch size, mix, augmentation, seed.
    """

    def __init__(self, training: dict[str, list[CropSet]], recipe: LandmarkerRecipe) -> None:
        self._recipe = recipe
        self._training = training
        self._flips = {s: flip_table(training[s][0].convention).numpy() for s in training}
        self._chances = {s: [_chances(one) for one in sets] for s, sets in training.items()}

    def __call__(self, step: int, rank: int = 0, processes: int = 1) -> Batch:
        """One process's share of the batch of a step."""
        recipe = self._recipe
        total = recipe.optim.batch // processes
        rng = np.random.default_rng([recipe.seed, step, rank])
        shares = np.array([recipe.mix[SOURCES.index(s)] for s in self._training])
        counts = np.floor(shares / shares.sum() * total + 0.5).astype(int)
        counts[0] += total - counts.sum()
        crops, targets, start = [], [], 0
        for source, count in zip(self._training, counts, strict=True):
            if count == 0:
                continue
            images, points, visible = self._draw(rng, source, int(count))
            crops.append(images)
            rows = slice(start, start + int(count))
            targets.append(_target(source, rows, points, visible, recipe.net.size))
            start += int(count)
        pixels = change_colours(rng, recipe.augment, np.concatenate(crops))
        return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), targets)

    def _draw(
        self, rng: np.random.Generator, source: str, count: int
    ) -> tuple[ndarray, ndarray, ndarray]:
        sets = self._training[source]
        sizes = np.array([len(one) for one in sets], float)
        split = rng.multinomial(count, sizes / sizes.sum())
        parts = []
        for one, chances, n in zip(sets, self._chances[source], split, strict=True):
            if n:
                ids = np.searchsorted(chances, rng.random(n))
                args = (self._recipe.augment, self._recipe.net.size, self._flips[source])
                parts.append(draw_crops(rng, one, ids, *args))
        images, points, visible = (np.concatenate(p) for p in zip(*parts, strict=True))
        return images, points, visible


def draw_crops(
    rng: np.random.Generator,
    crops: CropSet,
    ids: ndarray,
    augment: AugmentConfig,
    size: int,
    flips: ndarray,
) -> tuple[ndarray, ndarray, ndarray]:
    """Geometrically augmented crops (b, s, s, 3) in 0..255, their points in px and visibility."""
    source = crops.gather(ids)
    view = draw_views(rng, augment, len(ids), source.shape[1], crops.nominal_side_px, size)
    points = move_points(crops.points[ids], view, flips)
    visible = crops.visible[ids]
    visible = np.where(view.flipped[:, None], visible[:, flips], visible)
    return warp(source, view, size), points, visible


def step_loss(
    network: nn.Module, criterion: nn.Module, batch: Batch, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch on the network's device."""
    return criterion(network(batch.crops), batch.targets, step)


@torch.no_grad()
def predict(network: LandmarkNet, crops: CropSet, batch: int = 64) -> tuple[ndarray, ndarray]:
    """Nominal crops' landmarks (n, 392, 3) and labels (n, k, d), both in half-crops."""
    network.eval()
    device = next(network.parameters()).device
    rng = np.random.default_rng(0)
    flips = flip_table(crops.convention).numpy()
    size = network.config.size
    found, wanted = [], []
    for start in range(0, len(crops), batch):
        ids = np.arange(start, min(start + batch, len(crops)))
        images, points, _ = draw_crops(rng, crops, ids, NO_AUGMENTATION, size, flips)
        pixels = torch.from_numpy(images / np.float32(255)).permute(0, 3, 1, 2)
        found.append(network(pixels.to(device)).points.cpu().numpy())
        wanted.append(unit_from_crop_px(torch.from_numpy(points), size).numpy())
    return np.concatenate(found), np.concatenate(wanted)


def evaluate(network: LandmarkNet, held_out: dict[str, CropSet]) -> dict[str, float]:
    """NME in % of held-out crops, by source.

    Renders: mean distance in (u, v) of the 68 "ibug68-3d-bfm" points over `sqrt(w h)` of their
    box, for |yaw| 0-30 / 30-60 / 60-90 and the mean of the bins; "_all" over all 392 points;
    "_depth" the mean error of w about its mean, over the same length.
    AFLW-21: visible points without ears and chin (no offset learned), over 0.6 crop sides; YTF-68:
    the inner 51 alike.
    """
    metrics: dict[str, float] = {}
    for name, crops in held_out.items():
        metrics |= crop_errors(name, *predict(network, crops), crops)
    return metrics


def crop_errors(
    name: str,
    found: ndarray,
    wanted: ndarray,
    crops: CropSet,
    scored: slice = slice(68, 136),
) -> dict[str, float]:
    """The metrics of `evaluate` for one set.

    Args:
        name: of the set, prefix of the metrics.
        found: (n, k, 3) predicted landmarks in half-crops.
        wanted: (n, m, 2 or 3) labels in half-crops; for renders in the same set.
        crops: whose labels they are.
        scored: the 68 points among the predicted ones that benchmarks score.
    """
    by_face = face_errors(found, wanted, crops, scored)
    if crops.name != "renders":
        return {name: float(by_face.mean())}
    percent, size = _render_errors(found, wanted, scored)
    bins = np.digitize(np.abs(crops.yaw_deg), (30, 60))
    means = [by_face[bins == b].mean() for b in range(3) if (bins == b).any()]
    metrics = {f"{name}_bin{b}": float(m) for b, m in enumerate(means)}
    metrics[f"{name}"] = float(np.mean(means))
    metrics[f"{name}_all"] = float(percent.mean())
    depth = wanted[..., 2] - wanted[..., 2].mean(1, keepdims=True)
    apart = np.abs(found[..., 2] - found[..., 2].mean(1, keepdims=True) - depth)
    metrics[f"{name}_depth"] = float((100 * apart / size).mean())
    return metrics


def face_errors(
    found: ndarray, wanted: ndarray, crops: CropSet, scored: slice = slice(68, 136)
) -> ndarray:
    """NME (n,) in % of each crop, as `evaluate` defines it; arguments as for `crop_errors`."""
    if crops.name == "renders":
        return _render_errors(found, wanted, scored)[0][:, scored].mean(1)
    points = torch.from_numpy(found[:, scored, :2])
    used = crops.visible.copy()
    if crops.convention == "aflw21":
        points = convert(points, "ibug68-3d-bfm", "aflw21")
        used[:, [12, 16, 20]] = False
    else:
        used[:, :17] = False
    errors = np.linalg.norm(points.numpy() - wanted, axis=-1)
    return 100 * (errors * used).sum(1) / np.maximum(used.sum(1), 1) / 1.2


def _render_errors(found: ndarray, wanted: ndarray, scored: slice) -> tuple[ndarray, ndarray]:
    """Errors (n, k) in % of `sqrt(w h)`, and that length (n, 1) in half-crops."""
    box = wanted[:, scored, :2]
    size = np.sqrt(np.prod(box.max(1) - box.min(1), axis=-1))[:, None]
    return 100 * np.linalg.norm(found[..., :2] - wanted[..., :2], axis=-1) / size, size


def run_training(
    recipe: LandmarkerRecipe,
    corpus: Corpus,
    model: LandmarkModel,
    config: LoopConfig,
    initial: dict[str, Tensor] | None = None,
) -> LandmarkNet:
    """Train (or go on training) a network and return it with averaged weights.

    Args:
        recipe: all settings.
        corpus: data.
        model: landmarks of the face model.
        config: how to run.
        initial: weights to start from instead of random ones.
    """
    torch.manual_seed(recipe.seed)
    network = LandmarkNet(recipe.net)
    if initial is not None:
        network.load_state_dict(with_fresh_parameters(initial, network))
    averaged = train(
        network,
        LandmarkLoss(model, recipe.loss),
        BatchMaker(corpus.training, recipe),
        step_loss,
        lambda net: evaluate(net, corpus.held_out),  # pyright: ignore[reportArgumentType]
        config,
        {"recipe": asdict(recipe), "licence": recipe.family},
    )
    assert isinstance(averaged, LandmarkNet)
    return averaged


def with_fresh_parameters(weights: dict[str, Tensor], network: LandmarkNet) -> dict[str, Tensor]:
    """The weights, with the network's own parameter output where they have none.

    Shipped weights lack that output: it serves training only. Everything else must be there.
    """
    fresh = {k: v for k, v in network.state_dict().items() if k.startswith("to_parameters.")}
    return fresh | weights


def _chances(crops: CropSet) -> ndarray:
    total = np.cumsum(crops.weight, dtype=np.float64)
    return total / total[-1]


def _target(source: str, rows: slice, points: ndarray, visible: ndarray, size: int) -> SourceBatch:
    unit = unit_from_crop_px(torch.from_numpy(points), size)
    return SourceBatch(source, rows, unit, torch.from_numpy(visible))


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    add = group.add_argument
    add("--cache", type=Path, action="append", required=True, help="renders; may be repeated")
    add("--data", type=Path, help="folder with aflw21 and ytf68")
    add("--prepared", type=Path, help="folder to keep decoded real crops in")
    add("--start-from", help=HELP.format("landmarker-open"))


def run(recipe: LandmarkerRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Train a landmarker as a command line asks for."""
    if options.start_from:  # its uncertainty is trained already
        recipe = replace(recipe, loss=replace(recipe.loss, nll_from=0))
    corpus = load_corpus(recipe, options.data, options.cache, options.prepared)
    sizes = {k: [len(one) for one in sets] for k, sets in corpus.training.items()}
    logger.info("crops: %s", sizes)
    initial = None
    if options.start_from:
        initial = starting_weights(options.start_from, recipe.family)
    model = landmark_model(load_face_model(), CONVENTION)
    run_training(recipe, corpus, model, config, initial)


def shorten(recipe: LandmarkerRecipe, fraction: float) -> LandmarkerRecipe:
    """The recipe with its schedules shortened: steps, warm-up, average, start of the likelihood."""
    loss = replace(recipe.loss, nll_from=round(recipe.loss.nll_from * fraction))
    return replace(recipe, optim=shorten_optim(recipe.optim, fraction), loss=loss)


SWITCHES = (
    Switch("point loss", ("loss.point=0",)),
    Switch("nearness loss", ("loss.nearness=0",), metric="renders-open_depth"),
    Switch("map loss", ("loss.maps=0",)),
    Switch("likelihood", ("loss.nll=0",), "any"),
    Switch("model output", ("loss.model=0", "loss.consistency=0")),
    Switch("consistency", ("loss.consistency=0",)),
    Switch("coefficient priors", ("loss.identity=0", "loss.expression=0"), "any"),
    Switch("turns", ("augment.rotation_deg=0",)),
    Switch("scale and shift", ("augment.scale=0", "augment.shift=0")),
    Switch("mirror images", ("augment.flip=0",)),
    Switch("colour", tuple(f"augment.{n}=0" for n in ("gain", "bias", "gamma", "grey"))),
    Switch("noise and blur", ("augment.noise=0", "augment.blur=0")),
    Switch("cut-outs", ("augment.cutout=0",)),
    Switch("learned offsets", ("loss.offset=100",), families=("research",)),
    Switch("loose ears and chin", ("loss.loose=1",), families=("research",)),
    Switch("careful jaw", ("loss.jaw=1", "loss.jaw_yaw_deg=180"), families=("research",)),
    Switch("AFLW crops", ("mix=0.69,0,0.31",), families=("research",)),
    Switch("YouTube frames", ("mix=0.56,0.44,0",), families=("research",)),
)
TRAINABLE = Trainable(
    name="landmarker",
    summary="Landmarker: 392 dense 3D landmarks with uncertainty from a face crop.",
    recipes=LANDMARKER,
    add_options=add_options,
    run=run,
    shorten=shorten,
    switches=SWITCHES,
)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    from lifemask.training.run import train_command

    train_command(TRAINABLE, arguments)


if __name__ == "__main__":
    main()
