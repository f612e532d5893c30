"""The light of a photo from its skin, made safe to shade another head with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lifemask.data._synthetic_surroundings import Light

if TYPE_CHECKING:
    from lifemask.data._pairs_fit import Fitted

SKIN_CLASSES = (0, 4)
"""Nose and skin of `REGION_NAMES`."""
DARKEST = 0.12
"""Least shading on any normal, in units of the mean over all of them."""
MIN_FACING = 0.25
"""Skin that is turned away further (cosine to the viewer) tells nothing of the light."""


@dataclass(frozen=True)
class FoundLight:
    """Light of a photo, in its exposure, and the skin that it falls on.

    Attributes:
        light: without a key, camera frame.
        tone: (3,) linear albedo of the skin.
    """

    light: Light
    tone: NDArray[np.float32]


def fit_light(fitted: Fitted, tones: NDArray[np.float32]) -> FoundLight:
    """The light that shades an even skin as the photo shows it.

    Robust least squares with a pull to white and even light (`methods._texture_light`); a photo
    without skin to look at gives even light.

    Args:
        fitted: the photo and its head.
        tones: (k, 3) log linear RGB of known skins.
    """
    from lifemask.graphics.lighting import lambert_transfer, srgb_to_linear
    from lifemask.methods._texture_light import estimate_light

    maps = fitted.maps
    use = np.isin(fitted.region, SKIN_CLASSES) & maps.face & (maps.normals[..., 2] > MIN_FACING)
    colours = srgb_to_linear(torch.from_numpy(fitted.image[use]).float() / 255)
    transfer = lambert_transfer(torch.from_numpy(maps.normals[use]).float())
    flat = torch.zeros_like(colours)
    weights = torch.from_numpy(maps.normals[use][:, 2]).float()
    found = estimate_light(colours, transfer, flat, flat, weights, torch.from_numpy(tones))
    tone = found.tone.exp().numpy().astype(np.float32)
    sh = positive_light(found.lighting.sh.numpy())
    none = np.zeros(3, np.float32)
    return FoundLight(Light(sh, np.array([0, 0, 1], np.float32), none, False), tone)


def positive_light(sh: NDArray[np.float32], darkest: float = DARKEST) -> NDArray[np.float32]:
    """The light with less contrast, if need be, so that no normal is darker than `darkest`.

    Args:
        sh: (9, 3) with positive constant terms.
        darkest: least shading in units of its mean over all normals, per channel.
    """
    from lifemask.graphics.lighting import shading
    from lifemask.graphics.panoramas import panorama_directions

    sphere = panorama_directions(16)[0].reshape(-1, 3).float()
    constant = np.zeros_like(sh)
    constant[0] = np.maximum(sh[0], 1e-3)
    varying = sh.copy()
    varying[0] = 0
    mean = shading(sphere, torch.from_numpy(constant)).numpy()[0]
    dip = -shading(sphere, torch.from_numpy(varying)).numpy().min(0)
    share = np.min((1 - darkest) * mean / np.maximum(dip, 1e-6))
    return (constant + min(1.0, float(share)) * varying).astype(np.float32)
