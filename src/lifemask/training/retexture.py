"""Train the re-renderable texture: stage A on renders with truth, stage B with faces without.

    lifemask train retexture --recipe cpu --cache R --held-out T --run runs/retexture-open
    lifemask train retexture --family research --cache R --cache P --held-out T --run runs/...

Caches come from `python -m lifemask.training.retexture_data`. A run is resumed by the same command.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods._retexture_perceptual import backbone_features
from lifemask.methods.retexture import (
    RetextureBatch,
    RetextureLoss,
    RetextureNet,
    RetextureOutput,
    create_retexture,
)
from lifemask.training.loop import LoopConfig, train
from lifemask.training.retexture_batches import RetextureBatchMaker, RetextureCorpus, load_corpus
from lifemask.training.retexture_evaluation import evaluate
from lifemask.training.retexture_recipes import RETEXTURE, RetextureRecipe
from lifemask.training.start import HELP, starting_weights
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stages:
    """Batches of stage A until a step, of stage B from there on.

    Attributes:
        first: makes batches of renders with truth.
        second: makes those of stage B.
        from_step: first step of stage B.
        hidden: share of the rows of stage B whose truth is taken away.
    """

    first: RetextureBatchMaker
    second: RetextureBatchMaker
    from_step: int
    hidden: float

    def __call__(self, step: int, share: int, shares: int) -> RetextureBatch:
        """One process's share of the batch of a step."""
        if step < self.from_step:
            return self.first(step, share, shares)
        batch = self.second(step, share, shares)
        first = step * self.second.batch + share * len(batch.photo)
        rows = torch.arange(first, first + len(batch.photo), dtype=torch.float64)
        # as RetextureBatchMaker spreads photos over the rows of all steps
        known = ((rows + 1) * self.hidden).floor() == (rows * self.hidden).floor()
        return with_truth_of(batch, known.float())


def with_truth_of(batch: RetextureBatch, known: Float[Tensor, "b"]) -> RetextureBatch:
    """The batch, rows that are 0 in `known` as if they were photos of unknown faces."""
    wide = known[:, None, None, None]
    return replace(
        batch,
        truth=batch.truth * wide,
        albedo=batch.albedo * wide,
        light=batch.light * known[:, None, None],
        lit=batch.lit * known,
    )


def create_stages(recipe: RetextureRecipe, corpus: RetextureCorpus) -> Stages:
    """What makes a recipe's batches."""
    size, batch = recipe.net.size, recipe.optim.batch
    first = RetextureBatchMaker(corpus, batch, size, recipe.seed, 0.0, holes=recipe.holes)
    photos = recipe.wild_share if corpus.photos else 0.0
    second = RetextureBatchMaker(corpus, batch, size, recipe.seed, photos, holes=recipe.holes)
    from_step = round(recipe.optim.steps * recipe.stage_b)
    return Stages(first, second, from_step, 0.0 if photos else recipe.wild_share)


def step_loss(
    network: nn.Module, criterion: nn.Module, batch: RetextureBatch, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch, in float32 whatever the network's precision."""
    said = network(batch.seen)
    said = RetextureOutput(*(part.float() for part in said))
    return criterion(said, batch, step)


def run_training(
    recipe: RetextureRecipe,
    corpus: RetextureCorpus,
    held_out: RetextureCorpus,
    model: FaceModel,
    config: LoopConfig,
    start_from: str = "",
) -> RetextureNet:
    """Train, or go on training; returns the network with averaged weights.

    Raises:
        UserError: `start_from` holds another network, no part of which fits.
    """
    torch.manual_seed(recipe.seed)
    network = create_retexture(recipe.net, model)
    if start_from:
        start_with(network, starting_weights(start_from, recipe.family), start_from)
    embed = None if recipe.perceptual == "none" else backbone_features(recipe.family)
    inside = network.get_buffer("inside")
    loss = RetextureLoss(recipe.loss, network.prior, inside, embed, recipe.net.sh)
    averaged = train(
        network,
        loss,
        create_stages(recipe, corpus),
        step_loss,
        lambda net: evaluate(net, held_out, recipe.evaluate_faces),  # pyright: ignore[reportArgumentType]
        config,
        {"recipe": asdict(recipe), "licence": recipe.family},
    )
    assert isinstance(averaged, RetextureNet)
    return averaged


def start_with(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Take over the weights that have the network's names and shapes; the others start anew.

    Raises:
        UserError: none fits.
    """
    own = network.state_dict()
    fits = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    if not fits:
        raise UserError(f"{source} holds another network: no part of it fits")
    network.load_state_dict(own | fits)
    logger.info("%s: %d of %d parts fit and are taken over", source, len(fits), len(own))


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    add = group.add_argument
    add("--cache", type=Path, action="append", required=True, help="faces; may be repeated")
    add("--held-out", type=Path, action="append", required=True, help="faces of the other part")
    add("--start-from", default="", help=HELP.format("retexture-open") + ", where it fits")


def run(recipe: RetextureRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Train as a command line asks for.

    Raises:
        UserError: caches do not fit the recipe.
    """
    size, family = recipe.net.size, recipe.family
    corpus = load_corpus(options.cache, size, family)
    held_out = load_corpus(options.held_out, size, family, held_out=True)
    if family == "research" and recipe.stage_b < 1 and not corpus.photos:
        raise UserError("the research family learns from photos: give --cache PHOTOS, too")
    logger.info(
        "renders %d, photos %d", *(sum(map(len, c)) for c in (corpus.renders, corpus.photos))
    )
    run_training(recipe, corpus, held_out, load_face_model(), config, options.start_from)


def shorten(recipe: RetextureRecipe, fraction: float) -> RetextureRecipe:
    """The recipe with its schedule shortened."""
    loss = replace(recipe.loss, gan_from=max(1, round(recipe.loss.gan_from * fraction)))
    return replace(recipe, optim=shorten_optim(recipe.optim, fraction), loss=loss)


def _part(name: str, *overrides: str, **rest: Any) -> Switch:
    return Switch(name, overrides, **rest)


SWITCHES = (
    _part("light of each texel", "net.light=global", metric="photo_db", highest=True),
    _part("light near the one light", "loss.reg_light=0"),
    _part("white light", "loss.white=0", metric="hue"),
    _part("chroma", "loss.chroma=0", expected="any"),
    _part("symmetry", "loss.symmetry=0", metric="albedo_hidden"),
    _part("adversaries", "loss.uv_gan=0", "loss.img_gan=0", metric="high_pass", highest=True),
    _part("style", "loss.style=0", expected="any"),
    _part("perceptual", "loss.perceptual=0", expected="any"),
    _part("low band of the prior", "loss.reg_detail=0", expected="any"),
    _part("prior that varies (one mean skin in any tone)", "net.prior=constant"),
    _part("prior of a decoder (principal components)", "net.prior=pca", expected="any"),
    _part("prior as input", "net.input.prior=false", expected="any"),
    _part("noise in hidden texels (mirror)", "net.fill=mirror", expected="any"),
    _part("noise in hidden texels (zero)", "net.fill=zero", expected="any"),
    _part("visibility as input", "net.input.visibility=false"),
    _part("unlit photo as input", "net.input.unlit=false"),
    _part("normals as input", "net.input.normals=false"),
    _part("start from the unlit photo", "net.start=none"),
    _part("start from each texel's light (the one light)", "net.start=global"),
    _part("doubt where the photo is black or white", "net.doubt=false"),
    _part("little trust in one light's render (1)", "loss.photo_flat=1"),
    _part("shading of renders", "loss.detail_sup=0"),
    _part("start from a solved light", "net.light_start=learned"),
    _part("skips", "net.skips=false"),
    _part("truth of renders", "loss.supervise=false"),
)  # fmt: skip
TRAINABLE = Trainable(
    name="retexture",
    summary="Re-renderable texture: albedo and light of each texel from one photo.",
    recipes=RETEXTURE,
    add_options=add_options,
    run=run,
    shorten=shorten,
    switches=SWITCHES,
)
