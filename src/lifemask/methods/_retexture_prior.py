"""Priors of the learned texture: albedo maps of plausible faces from codes that are normal."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.assets import AssetError, UserError, weights_path
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import convert
from lifemask.graphics.lighting import srgb_to_linear
from lifemask.graphics.pose import similarity
from lifemask.methods._retexture_chart import TextureChart, create_texture_chart
from lifemask.methods._texture_light import LUMINANCE
from lifemask.methods._texture_prior import load_albedo_prior
from lifemask.nn.albedo_vae import AlbedoVae
from lifemask.nn.shipped import described, with_weights

PriorKind = Literal["vae", "pca", "constant", "bfm"]
VAE, PCA = "albedo_vae", "albedo_pca"
DARKEST, LIGHTEST = 0.003, 0.97
"""Linear albedo that no prior leaves."""
TONE_EXTRA_SD = 0.06
"""People vary more than the 20 skins: added to each channel of the log tone."""
TONE_SHARE = 0.75
"""Of the 20 skins' spread of tones, which are either dark or light: nine in ten draws are then
between the darkest and the lightest."""
UNIFORM_TONE = (-0.95, -1.55, -1.95)
"""Log linear RGB of average skin, for face models that the committed prior does not fit."""
UNIFORM_SD = (0.6, 0.75, 0.8)


class LinearPrior(nn.Module):
    """Albedo maps that are linear in the code, in log albedo or in sRGB.

    Args:
        mean: (3, n, n) log linear albedo, or sRGB.
        basis: (k, 3, n, n) change per standard deviation, same coding.
        coding: "log" or "srgb".
        size: side of the maps that come out.
    """

    def __init__(
        self,
        mean: Float[Tensor, "3 n n"],
        basis: Float[Tensor, "k 3 n n"],
        coding: Literal["log", "srgb"],
        size: int,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.basis: Tensor
        self.register_buffer("mean", resized(mean[None], size)[0], persistent=False)
        self.register_buffer("basis", resized(basis, size), persistent=False)
        self.latent, self.size, self.coding = len(basis), size, coding

    def forward(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b 3 n n"]:
        """Linear albedo (b, 3, size, size) in (0, 1) of codes (b, latent)."""
        coded = self.mean + torch.einsum("bk,kcij->bcij", z, self.basis)
        linear = coded.exp() if self.coding == "log" else srgb_to_linear(coded.clamp(0, 1))
        return linear.clamp(DARKEST, LIGHTEST)


class VaePrior(nn.Module):
    """Albedo maps of the decoder of a trained autoencoder.

    Args:
        vae: decodes at its own size.
        size: side of the maps that come out.
    """

    def __init__(self, vae: AlbedoVae, size: int) -> None:
        super().__init__()
        self.vae, self.latent, self.size = vae, vae.latent, size
        shrink = torch.eye(vae.size)[None, None]
        if size != vae.size:  # `resized` along one axis, as a matrix that any runtime multiplies by
            shrink = functional.interpolate(
                shrink, size=(size, vae.size), mode="bilinear", align_corners=False, antialias=True
            )
        self.shrink: Tensor
        self.register_buffer("shrink", shrink[0, 0], persistent=False)

    def forward(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b 3 n n"]:
        """Linear albedo (b, 3, size, size) in (0, 1) of codes (b, latent)."""
        maps = self.vae.decode(z)
        if self.size != self.vae.size:
            maps = self.shrink @ maps @ self.shrink.T
        return maps.clamp(DARKEST, LIGHTEST)


def load_prior(kind: PriorKind, size: int, model: FaceModel) -> LinearPrior | VaePrior:
    """A prior of face albedo on the chart of a face model; its codes are standard normal.

    Args:
        kind: "vae", the autoencoder of the MakeHuman skins; "pca", 64 modes of log albedo of the
            same maps; "constant", one tone (3 numbers) over the mean face; "bfm", the colours of
            the Basel Face Model 2009 or 2017 that the user has converted.
        size: n of the maps, whatever size the prior was learned at.
        model: whose chart the maps lie on.

    Returns:
        A module with `latent` and `size`; z (b, latent) -> linear albedo (b, 3, size, size).

    Raises:
        UserError: an unknown kind, or one that knows only another face model.
        AssetError: weights are missing or damaged, or the user has no BFM; the message says how
            to get it.
    """
    if kind == "constant":
        return _constant(create_texture_chart(model, size), model)
    if kind == "bfm":
        return _bfm(create_texture_chart(model, size), model)
    if kind not in ("vae", "pca"):
        raise UserError(f"unknown prior {kind!r}; valid: vae, pca, constant, bfm")
    if model.name != "lifemask":
        raise UserError(
            f"the prior {kind!r} knows the chart of the face model lifemask, not of {model.name}: "
            "choose prior constant"
        )
    if kind == "vae":
        return VaePrior(load_albedo_vae(), size)
    tensors = _tensors(PCA)
    return LinearPrior(tensors["mean"], tensors["basis"], "log", size)


def load_albedo_vae() -> AlbedoVae:
    """The shipped autoencoder, encoder included, ready for inference.

    Raises:
        AssetError: its weights are missing or damaged.
    """
    network = described(VAE, lambda sizes: AlbedoVae(**sizes))
    return with_weights(network, VAE).eval().requires_grad_(False)


def resized(maps: Float[Tensor, "b c m m"], size: int) -> Float[Tensor, "b c n n"]:
    """Maps at another size: bilinear, with an antialiasing filter where they shrink."""
    if maps.shape[-1] == size:
        return maps
    return functional.interpolate(
        maps, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )


def _constant(chart: TextureChart, model: FaceModel) -> LinearPrior:
    """One tone over the mean face: log albedo = tone + mean + slope * luminance(tone)."""
    luminance = torch.tensor(LUMINANCE)
    if model.name == "lifemask":
        known = load_albedo_prior(chart.model_uv)
        mean, slope = known.mean, known.slope
        tone = (known.tones.amax(0) + known.tones.amin(0)) / 2
        covariance = TONE_SHARE**2 * known.tones.T.cov() + TONE_EXTRA_SD**2 * torch.eye(3)
        values, vectors = torch.linalg.eigh(covariance)
        spread = (vectors * values.clamp(min=0).sqrt()).T.flip(0)
    else:
        tone, spread = torch.tensor(UNIFORM_TONE), torch.diag(torch.tensor(UNIFORM_SD))
        mean = slope = torch.zeros(len(chart.atlas), 3)
    center = mean + tone + slope * (tone @ luminance)
    modes = spread[:, None] + slope * (spread @ luminance)[:, None, None]
    return LinearPrior(
        chart.spread(center), torch.stack([chart.spread(m) for m in modes]), "log", chart.size
    )


def _bfm(chart: TextureChart, model: FaceModel) -> LinearPrior:
    """The colours of BFM at the vertices nearest to each texel, both heads laid on each other."""
    from scipy.spatial import KDTree

    from lifemask.facemodel.linear import LinearFaceModel

    source = model if model.name.startswith("bfm") else _converted_bfm()
    if not isinstance(source, LinearFaceModel) or source.albedo_mean is None:
        raise UserError(f"{source.name} has no colours: convert it from files that hold them")
    with torch.no_grad():
        heads = [
            m(torch.zeros(m.identity_size), torch.zeros(len(m.expression_names)))
            for m in (model, source)
        ]
        rotation, scale, shift = similarity(*_common_points((model, source), heads))
        points = scale * chart.atlas.interpolate(heads[0]) @ rotation.T + shift
        nearest = torch.from_numpy(KDTree(heads[1].numpy()).query(points.numpy())[1])
    assert source.albedo_basis is not None
    basis = torch.stack([chart.spread(mode[nearest]) for mode in source.albedo_basis])
    return LinearPrior(chart.spread(source.albedo_mean[nearest]), basis, "srgb", chart.size)


def _converted_bfm() -> FaceModel:
    """The user's BFM 2009, else 2017.

    Raises:
        AssetError: there is neither.
    """
    from lifemask.facemodel import load_face_model

    try:
        return load_face_model("bfm2009")
    except AssetError as missing:
        try:
            return load_face_model("bfm2017")
        except AssetError:
            raise missing from None


def _common_points(
    models: tuple[FaceModel, FaceModel], heads: list[Tensor]
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k 3"]]:
    """Landmarks that two models share, on a head of each.

    Raises:
        UserError: they share none.
    """
    for own in ("ibug68-3d-bfm", "ibug68", "ict68", "bfm15"):
        for other in models[1].landmark_embeddings:
            if own not in models[0].landmark_embeddings:
                continue
            found = models[0].landmarks(heads[0], own)
            wanted = models[1].landmarks(heads[1], other)
            if len(found) == len(wanted) == 68:
                return found, wanted
            try:
                return convert(found, own, other), wanted
            except KeyError:
                continue
    raise UserError(f"{models[0].name} and {models[1].name} share no landmarks")


def _tensors(name: str) -> dict[str, Tensor]:
    """A shipped file's tensors in float32.

    Raises:
        AssetError: it is missing or damaged.
    """
    from safetensors.torch import load_file

    path = weights_path(name)
    try:
        return {k: v.float() for k, v in load_file(path).items()}
    except Exception as error:  # a broken header raises a class of its own
        raise AssetError(f"weight file {path} is damaged: install lifemask again") from error
