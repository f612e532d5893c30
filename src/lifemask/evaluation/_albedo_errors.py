"""Errors of a predicted skin colour: on its texels, and relit by a light the photo never had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from lifemask.facemodel.base import FaceModel
from lifemask.graphics.lighting import linear_to_srgb, shading
from lifemask.graphics.render import draw_surface, sample_texture
from lifemask.types import Camera, Lighting

LUMINANCE = (0.2126, 0.7152, 0.0722)
MAX_PSNR_DB = 100.0
LEAST_CONTRAST = 0.4
"""Log luminance by which a beard differs from the skin at least to be asked how much is kept."""


@dataclass(frozen=True)
class TexelError:
    """RMSE and L1 of linear RGB over some texels; NaN where there are none."""

    rmse: float
    l1: float


@dataclass(frozen=True)
class FacePixels:
    """The face's pixels in an image as the truth has them.

    Attributes:
        rows, columns: (k,) of the pixels that count.
        uv: (k, 2) of the surface.
        normals: (k, 3) unit, camera frame.
    """

    rows: Tensor
    columns: Tensor
    uv: Float[Tensor, "k 2"]
    normals: Float[Tensor, "k 3"]


def albedo_gain(predicted: Float[Tensor, "k 3"], truth: Float[Tensor, "k 3"]) -> float:
    """The one factor on the prediction that minimises squared differences; 0 for a black one."""
    energy = float((predicted.double() ** 2).sum())
    return float((predicted.double() * truth.double()).sum()) / energy if energy > 0 else 0.0


def texel_error(predicted: Float[Tensor, "k 3"], truth: Float[Tensor, "k 3"]) -> TexelError:
    """Root mean square and mean absolute difference of linear RGB."""
    if len(truth) == 0:
        return TexelError(float("nan"), float("nan"))
    difference = (predicted - truth).double()
    return TexelError(float(difference.pow(2).mean().sqrt()), float(difference.abs().mean()))


def albedo_errors(
    predicted: Float[Tensor, "3 n n"],
    truth: Float[Tensor, "3 n n"],
    mask: Bool[Tensor, "n n"],
    visible: Bool[Tensor, "n n"],
) -> dict[tuple[bool, str], TexelError]:
    """Errors by (with one gain per image, texels): "all", "visible" and "invisible" ones.

    Args:
        predicted: linear RGB over the UVs.
        truth: the same.
        mask: texels that count.
        visible: texels that the photo shows.
    """
    guess, true = predicted[:, mask].T, truth[:, mask].T
    seen = visible[mask]
    gain = albedo_gain(guess, true)
    groups = {"all": torch.ones_like(seen), "visible": seen, "invisible": ~seen}
    return {
        (with_gain, name): texel_error(guess[rows] * (gain if with_gain else 1.0), true[rows])
        for with_gain in (True, False)
        for name, rows in groups.items()
    }


def beard_errors(
    predicted: Float[Tensor, "3 n n"],
    truth: Float[Tensor, "3 n n"],
    beard: Bool[Tensor, "n n"],
    skin: Bool[Tensor, "n n"],
) -> dict[str, float]:
    """How much of a beard a predicted albedo keeps.

    "beard_kept" is the difference of the mean log luminance of beard and skin over the true one:
    1 keeps all, 0 shaves; NaN for a beard that is hardly darker or lighter than the skin.
    "rmse_beard" is of linear RGB on the beard, with the one gain that suits the skin.

    Args:
        predicted: linear RGB over the UVs.
        truth: the same.
        beard: texels that show the beard.
        skin: texels that show skin.
    """
    weights = predicted.new_tensor(LUMINANCE)

    def contrast(albedo: Tensor) -> float:
        log = torch.einsum("cij,c->ij", albedo, weights).clamp(min=1e-3).log()
        return float(log[beard].mean() - log[skin].mean())

    true = contrast(truth)
    kept = contrast(predicted) / true if abs(true) >= LEAST_CONTRAST else float("nan")
    gain = albedo_gain(predicted[:, skin].T, truth[:, skin].T)
    error = texel_error(predicted[:, beard].T * gain, truth[:, beard].T)
    return {"beard_kept": kept, "rmse_beard": error.rmse}


def resized(albedo: Float[Tensor, "3 n n"], size: int) -> Float[Tensor, "3 m m"]:
    """A texture brought to another size, bilinear with antialiasing."""
    if albedo.shape[-1] == size:
        return albedo
    return functional.interpolate(
        albedo[None], (size, size), mode="bilinear", antialias=True, align_corners=False
    )[0]


@torch.no_grad()
def face_pixels(
    model: FaceModel,
    vertices: Float[Tensor, "v 3"],
    camera: Camera,
    size: int,
    visible: Bool[Tensor, "n n"],
) -> FacePixels:
    """The pixels where the face region's skin is seen, nothing being in front of it.

    Args:
        model: topology and regions.
        vertices: true head, mm.
        camera: to px of the image.
        size: side of the image in px.
        visible: (n, n) texels that the image shows.
    """
    topology = model.topology
    surface = draw_surface(vertices[None].float(), topology.faces, camera, size, size)
    ids = surface.fragments.face_ids[0].long()
    counts = face_triangles(model)[ids.clamp(min=0)] & (ids >= 0)
    corner = topology.uvs[topology.faces_uv[ids.clamp(min=0)]]
    uv = (surface.bary[0].unsqueeze(-1) * corner).sum(-2)
    shown = sample_texture(visible[None, None].float(), uv[None])[0, 0] > 0.5
    rows, columns = (counts & shown).nonzero(as_tuple=True)
    return FacePixels(rows, columns, uv[rows, columns], surface.normals[0][rows, columns])


def face_triangles(model: FaceModel) -> Bool[Tensor, "f"]:
    """(f,) skin triangles whose corners all lie in the region "face"."""
    topology = model.topology
    skin = topology.face_part == topology.part_names.index("skin")
    return skin & topology.regions["face"][topology.faces].all(-1)


def at_pixels(texture: Float[Tensor, "3 n n"], pixels: FacePixels) -> Float[Tensor, "k 3"]:
    """A texture's colours (k, 3) at the face's pixels."""
    return sample_texture(texture[None], pixels.uv[None, None])[0, :, 0].T


def relight_psnr_db(
    albedo: Float[Tensor, "k 3"],
    truth: Float[Tensor, "k 3"],
    normals: Float[Tensor, "k 3"],
    light: Lighting,
) -> float:
    """PSNR in dB, sRGB, of a predicted albedo under a new light against the true one.

    Both are shaded by the true normals: only the colour is judged. One gain per image is fitted on
    the albedo first. Equal colours give `MAX_PSNR_DB`; NaN without pixels.
    """
    if len(truth) == 0:
        return float("nan")
    lit = shading(normals, light.sh.to(normals)).clamp(min=0)
    gain = albedo_gain(albedo, truth)
    pictures = [linear_to_srgb((a * lit).clamp(0, 1)).double() for a in (albedo * gain, truth)]
    mse = float((pictures[0] - pictures[1]).pow(2).mean())
    return -10.0 * float(np.log10(max(mse, 10 ** (-MAX_PSNR_DB / 10))))


def mean_luminance(albedo: Float[Tensor, "3 n n"], mask: Bool[Tensor, "n n"]) -> float:
    """Mean luminance of linear albedo over a mask: how light the skin is."""
    return float((albedo[:, mask].T @ albedo.new_tensor(LUMINANCE)).mean())


def tone_terciles(luminance: Float[ndarray, "n"]) -> tuple[str, ...]:
    """The tone of each image's skin, "dark", "medium" or "light", in equal parts."""
    low, high = np.quantile(luminance, [1 / 3, 2 / 3])
    return tuple("dark" if v <= low else "medium" if v <= high else "light" for v in luminance)
