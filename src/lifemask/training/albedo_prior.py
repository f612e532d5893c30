"""Train the albedo prior: an autoencoder of albedo maps, and a linear basis of the same maps.

    lifemask train albedo-prior --recipe cpu --data DATA --cache MAPS --run runs/albedo-prior

`--data` holds the MakeHuman skins (`skins/`); maps are made from them once, in `--cache`. The same
command goes on with a run or a cache that was stopped.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from lifemask.assets import UserError
from lifemask.data._albedo_cache import MapBank, MapSettings, open_maps
from lifemask.data.albedo_maps import cheek_luminance
from lifemask.nn.albedo_vae import AlbedoVae, VaeOutput, kl_divergence
from lifemask.training.albedo_pca import learn_basis, save_basis
from lifemask.training.loop import LoopConfig, train
from lifemask.training.recipes import Family, OptimConfig, RunRecipe
from lifemask.training.trainable import Switch, Trainable, shorten_optim

logger = logging.getLogger(__name__)
TERCILES = ("dark", "medium", "light")
PCA_FILE = "pca.safetensors"


@dataclass(frozen=True)
class VaeSizes:
    """Arguments of `AlbedoVae`."""

    size: int = 128
    latent: int = 64
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)


@dataclass(frozen=True)
class AlbedoLossConfig:
    """Weights of the terms; 0 switches a term off.

    Attributes:
        l1: difference of sRGB values, summed over the channels, mean over the face.
        gradient: difference of neighbours' differences, the same way.
        kl: nats of the codes, summed over a code; 1e-3 left 9 of 64 numbers in use.
    """

    l1: float = 1.0
    gradient: float = 1.0
    kl: float = 2e-4


@dataclass(frozen=True)
class AlbedoPriorRecipe(RunRecipe):
    """All settings of a run.

    Attributes:
        name: "smoke", "cpu", "gpu" or "paper".
        family: always "open": the skins are CC0.
        optim: optimiser and schedule.
        net: sizes of the autoencoder.
        loss: weights of the terms.
        maps: training maps.
        held_out: maps of the held-out skins.
        pca_side: side of the linear basis's maps.
    """

    name: str
    family: Family
    optim: OptimConfig
    net: VaeSizes = field(default_factory=VaeSizes)
    loss: AlbedoLossConfig = field(default_factory=AlbedoLossConfig)
    maps: int = 6000
    held_out: int = 300
    pca_side: int = 64


def smoke(family: Family = "open") -> AlbedoPriorRecipe:
    """A few seconds on one core: proves that everything runs."""
    optim = OptimConfig(steps=5, batch=4, peak_rate=1e-3, warmup=2, ema=0.9)
    recipe = AlbedoPriorRecipe("smoke", family, optim, VaeSizes(32, 8, (8, 16, 16, 16, 16)))
    return replace(recipe, maps=8, held_out=4, pca_side=16, evaluate_every=5, save_every=5)


def cpu(family: Family = "open") -> AlbedoPriorRecipe:
    """A quarter of an hour on one core, after ten minutes of making maps."""
    optim = OptimConfig(steps=1500, batch=16, peak_rate=1.5e-3, weight_decay=0.0, warmup=50)
    return AlbedoPriorRecipe("cpu", family, replace(optim, ema=0.99))


def gpu(family: Family = "open") -> AlbedoPriorRecipe:
    """20,000 maps of 256 texels, a hundred times over, on one H200-class GPU."""
    optim = OptimConfig(steps=30_000, batch=64, peak_rate=1e-3, weight_decay=0.0, warmup=500)
    recipe = AlbedoPriorRecipe("gpu", family, optim, VaeSizes(256), maps=20_000)
    return replace(recipe, device="cuda", precision="bf16-mixed", threads=0, workers=12)


def paper(family: Family = "open") -> AlbedoPriorRecipe:
    """As `gpu`, three times as long; the paper itself takes the colours of BFM as its prior."""
    recipe = gpu(family)
    return replace(recipe, name="paper", optim=replace(recipe.optim, steps=90_000))


RECIPES: dict[str, Callable[[Family], AlbedoPriorRecipe]] = {
    "smoke": smoke, "cpu": cpu, "gpu": gpu, "paper": paper,
}  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Maps (b, 3, n, n) uint8 and the noise of their codes (b, z)."""

    maps: UInt8[Tensor, "b 3 n n"]
    noise: Float[Tensor, "b z"]


class BatchMaker:
    """Batches by step number: maps drawn at random, half of them mirrored.

    Args:
        bank: training maps.
        recipe: batch, seed and length of the codes.
    """

    def __init__(self, bank: MapBank, recipe: AlbedoPriorRecipe) -> None:
        self._bank, self._recipe = bank, recipe

    def __call__(self, step: int, share: int, shares: int) -> Batch:
        """Share `share` of `shares` of a step's batch."""
        recipe = self._recipe
        count = recipe.optim.batch // shares
        rng = np.random.default_rng([recipe.seed, step, share])
        maps = self._bank[rng.integers(0, len(self._bank), count)]
        flip = rng.random(count) < 0.5
        maps[flip] = maps[flip][..., ::-1]
        noise = rng.standard_normal((count, recipe.net.latent), dtype=np.float32)
        return Batch(torch.from_numpy(maps), torch.from_numpy(noise))


class AlbedoLoss(nn.Module):
    """The weighted sum of the terms.

    Args:
        config: weights.
        inside: (n, n) texels of the face.
    """

    def __init__(self, config: AlbedoLossConfig, inside: Tensor) -> None:
        super().__init__()
        self.config = config
        self.inside: Tensor
        self.register_buffer("inside", inside.float(), persistent=False)

    def forward(
        self, found: VaeOutput, srgb: Float[Tensor, "b 3 n n"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts; see `AlbedoLossConfig`."""
        config, inside = self.config, self.inside
        error = (found.srgb.float() - srgb) * inside
        slopes = (error.diff(dim=-1).abs().sum(), error.diff(dim=-2).abs().sum())
        texels = inside.sum() * len(srgb)
        parts = {
            "l1": error.abs().sum() / texels,
            "gradient": (slopes[0] + slopes[1]) / texels,
            "kl": kl_divergence(found.mean.float(), found.log_variance.float()).mean(),
        }
        total = sum((getattr(config, k) * v for k, v in parts.items()), torch.zeros(()).to(srgb))
        return total, {k: v.detach() for k, v in parts.items()}


def step_loss(
    network: nn.Module, criterion: nn.Module, batch: Batch, step: int
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Loss of one batch."""
    del step
    srgb = batch.maps.float() / 255
    return criterion(network(srgb, batch.noise), srgb)


@torch.no_grad()
def evaluate(network: nn.Module, bank: MapBank, inside: Tensor, step: int = 32) -> dict[str, float]:
    """Errors of maps given back from their mean codes, and how normal the codes are.

    Returns:
        "held-out": mean absolute difference of sRGB values; "held-out/dark", "/medium", "/light":
        the same by third of the cheeks' luminance; "codes/used": numbers of a code with more
        than 0.1 nats; "codes/variance": of the codes of all maps over those, 1 if normal.
    """
    assert isinstance(network, AlbedoVae)
    maps = bank[np.arange(len(bank))]
    device = next(network.parameters()).device
    errors, means, variances = [], [], []
    for start in range(0, len(maps), step):
        srgb = torch.from_numpy(maps[start : start + step]).to(device).float() / 255
        found = network(srgb, srgb.new_zeros(len(srgb), network.latent))
        off = (found.srgb - srgb).abs()[..., inside.to(device)]
        errors.append(off.mean((1, 2)).cpu())
        means.append(found.mean.cpu())
        variances.append(found.log_variance.exp().cpu())
    mean, variance = torch.cat(means), torch.cat(variances)
    nats = 0.5 * (mean**2 + variance - 1 - variance.log()).mean(0)
    used = nats > 0.1
    spread = (mean.var(0, correction=0) + variance.mean(0))[used]
    return {
        **by_tone("held-out", torch.cat(errors).numpy(), maps),
        "codes/used": float(used.sum()),
        "codes/variance": float(spread.mean()) if bool(used.any()) else 0.0,
    }


def by_tone(
    name: str, errors: Float[ndarray, "b"], maps: UInt8[ndarray, "b 3 n n"]
) -> dict[str, float]:
    """Mean of errors (b,) over all maps and over the thirds of the cheeks' luminance."""
    order = np.argsort(cheek_luminance(maps), kind="stable")
    thirds = zip(TERCILES, np.array_split(order, 3), strict=True)
    return {name: float(errors.mean())} | {
        f"{name}/{third}": float(errors[ids].mean()) for third, ids in thirds if len(ids)
    }


def add_options(group: Any) -> None:
    """Options that say where the data are."""
    group.add_argument("--data", type=Path, required=True, help="folder with skins/ and hdri/")
    group.add_argument("--cache", type=Path, required=True, help="where the albedo maps are kept")


def run(recipe: AlbedoPriorRecipe, options: argparse.Namespace, config: LoopConfig) -> None:
    """Make the maps, train the autoencoder, and learn the linear basis."""
    if recipe.family != "open":
        raise UserError("the albedo prior learns from CC0 skins only: --family open")
    size = recipe.net.size
    training = open_maps(options.cache, options.data, MapSettings(size, recipe.maps))
    held_out = open_maps(options.cache, options.data, MapSettings(size, recipe.held_out, 0, True))
    inside = face_texels(size)
    run_training(recipe, training, held_out, inside, config)
    if not config.stop_after:
        basis = learn_basis(training, recipe.net.latent, recipe.pca_side)
        save_basis(basis, config.run / PCA_FILE)


def face_texels(size: int) -> Tensor:
    """(n, n) texels of the chart that the default face covers."""
    from lifemask.facemodel import load_face_model
    from lifemask.methods._retexture_chart import create_texture_chart

    return create_texture_chart(load_face_model(), size).inside


def run_training(
    recipe: AlbedoPriorRecipe,
    training: MapBank,
    held_out: MapBank,
    inside: Tensor,
    config: LoopConfig,
) -> AlbedoVae:
    """Train (or go on training) an autoencoder and return it with averaged weights."""
    torch.manual_seed(recipe.seed)
    network = AlbedoVae(**asdict(recipe.net))
    network.start_from(first_maps(training))
    averaged = train(
        network,
        AlbedoLoss(recipe.loss, inside),
        BatchMaker(training, recipe),
        step_loss,
        lambda network: evaluate(network, held_out, inside),
        config,
        {"recipe": asdict(recipe)},
    )
    assert isinstance(averaged, AlbedoVae)
    return averaged


def first_maps(bank: MapBank, most: int = 1500) -> Float[Tensor, "k 3 n n"]:
    """A bank's first maps and their mirror images, sRGB in [0, 1]."""
    maps = torch.from_numpy(bank[np.arange(min(len(bank), most))]).float() / 255
    return torch.cat((maps, maps.flip(-1)))


def shorten(recipe: AlbedoPriorRecipe, fraction: float) -> AlbedoPriorRecipe:
    """The recipe with its schedule shortened."""
    return replace(recipe, optim=shorten_optim(recipe.optim, fraction))


SWITCHES = (
    Switch("gradient term", ("loss.gradient=0",), expected="any", metric="held-out"),
    Switch("divergence", ("loss.kl=0",), expected="better", metric="held-out"),
)
TRAINABLE = Trainable(
    name="albedo-prior",
    summary="Albedo prior: an autoencoder of face albedo maps made from CC0 skins.",
    recipes=RECIPES,
    add_options=add_options,
    run=run,
    shorten=shorten,
    switches=SWITCHES,
)
