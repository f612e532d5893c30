"""Puts a rendered head in the place of a photo's: which pixels, what is behind, how they join."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lifemask.data._pairs_blend import harmonic_fill, match_lab, poisson_blend
from lifemask.data._pairs_fit import BACKGROUND, HAIR, NECK
from lifemask.data._pairs_masks import Mask, from_nearest, grown, parts_of, shrunk
from lifemask.data._synthetic_regions import SCALP
from lifemask.types import FACE_CLASSES

if TYPE_CHECKING:
    from lifemask.data._pairs_fit import Fitted
    from lifemask.data._pairs_inpaint import Fill
    from lifemask.data._pairs_render import Shot

Blend = Literal["poisson", "paste"]
MATCHED = (0, 4)
"""Classes whose colours are matched: nose and skin."""
REACH = 0.35
"""Most that a border may change the inside, sRGB: a cast shadow on the neck is not the face's."""
FADE = 0.12
"""How far from the border its influence sinks to 1/e, in crops."""
OWN_SHARE = 0.05
"""Share of the fitted face that a part of the parser's face needs to belong to it."""
OUTLINE = 0.012
"""Width of the old face's blurred outline on the background, in crops."""
UNSURE = 0.035
"""How far the fit's silhouette may be wrong, in crops."""
BLUR_PER_ZOOM = 0.45
"""Sigma in px of what a picture loses that is enlarged by z: this times sqrt(z^2 - 1)."""


@dataclass(frozen=True)
class Layers:
    """Which pixel of a pair shows what; all (S, S).

    Attributes:
        old: the photo's own face.
        swapped: the new head.
        gap: left of the old face beside the new head: filled.
        region: uint8 classes of the result.
    """

    old: Mask
    swapped: Mask
    gap: Mask
    region: NDArray[np.uint8]


def choose_layers(fitted: Fitted, shot: Shot, scalp: int) -> Layers:
    """Which pixels show the new head, and which are filled.

    The new face goes over the photo but for hair, and for what hides the old face. Where the photo
    shows face beyond the new one (a higher forehead, a longer chin), the new head's skull, ears or
    neck are seen; where the new head is not there at all, the background is filled in.

    Args:
        fitted: the photo.
        shot: the new head.
        scalp: class of its skull.
    """
    label, there = fitted.region, shot.cover >= 0.5
    old, hidden = own_face(fitted), (label == HAIR) | occluders(fitted)
    swapped = there & ((shot.region < FACE_CLASSES) & ~hidden | old)
    bare = old & ~swapped
    width = max(1, round(OUTLINE * len(label)))
    gap = grown(bare, width, bare | (label == BACKGROUND) & ~swapped & ~hidden)
    region, outside = label.copy(), ~gap & ~old & (label >= NECK)
    if gap.any() and outside.any():
        region[gap] = from_nearest(label, outside)[gap]
    region[swapped] = drawn_classes(shot, scalp)[swapped]
    return Layers(old, swapped, gap, region)


def drawn_classes(shot: Shot, scalp: int) -> NDArray[np.uint8]:
    """Classes (S, S) of a head in a crop, with the class that its skull shows."""
    return np.where(shot.region == SCALP, np.uint8(scalp), shot.region)


def own_face(fitted: Fitted) -> Mask:
    """Pixels that the parser calls face, of the parts that a fair share of the fitted face is."""
    parts = parts_of(fitted.region < FACE_CLASSES)
    found = parts.areas(fitted.maps.face)
    return parts.only(found >= max(1, OWN_SHARE * found.sum()))


def occluders(fitted: Fitted) -> Mask:
    """What the parser calls background in front of the fitted face: hands, things.

    The fit's silhouette is not exact, so it must reach well into the face.
    """
    depth = max(2, round(UNSURE * len(fitted.region)))
    background = fitted.region == BACKGROUND
    sure = background & shrunk(fitted.maps.core, depth)
    return grown(sure, 2 * depth, background & fitted.maps.head)


def compose(
    fitted: Fitted, shot: Shot, layers: Layers, blend: Blend, fill: Fill = harmonic_fill
) -> NDArray[np.uint8]:
    """The pseudo photo (S, S, 3); pixels outside the new head and the gap are the photo's own.

    Args:
        fitted: the photo.
        shot: the new head.
        layers: from `choose_layers`.
        blend: how the head joins the photo.
        fill: what fills the gap, from pixels of neither face.
    """
    photo = fitted.image.astype(np.float64) / 255
    behind = fill(photo, layers.gap, ~layers.swapped & ~layers.old)
    cover = shot.cover[..., None].astype(np.float64)
    over = cover * _head_colours(fitted, shot, layers, photo) + (1 - cover) * behind
    if blend == "poisson":
        bare = shot.cover < 0.01
        neck = (fitted.region == NECK) & (shot.cover > 0.99)
        pull = 1 / (FADE * len(photo)) ** 2
        over = poisson_blend(behind, over, layers.swapped, bare | neck, pull, REACH)
    out = np.where(layers.swapped[..., None], over, behind)
    bytes_ = np.rint(np.clip(out, 0, 1) * 255).astype(np.uint8)
    return np.where((layers.swapped | layers.gap)[..., None], bytes_, fitted.image)


def _head_colours(fitted: Fitted, shot: Shot, layers: Layers, photo) -> NDArray[np.float64]:
    """The head's colours (S, S, 3) sRGB with the statistics and the sharpness of the photo's."""
    from lifemask.graphics.lighting import linear_to_srgb

    cover = shot.cover[..., None].astype(np.float64)
    linear = torch.from_numpy(np.clip(shot.linear / np.maximum(cover, 1e-3), 0, 1))
    head = linear_to_srgb(linear).double().numpy()
    zoom = len(photo) / fitted.side_px
    if zoom > 1:
        head = _blurred(head, cover, BLUR_PER_ZOOM * float(np.sqrt(zoom**2 - 1)))
    skin = layers.swapped & np.isin(shot.region, MATCHED) & (shot.cover > 0.99)
    return match_lab(head, skin, photo, np.isin(fitted.region, MATCHED) & layers.old)


def _blurred(colours: NDArray, cover: NDArray, sigma: float) -> NDArray[np.float64]:
    """Colours (h, w, 3) blurred where there are any: `cover` (h, w, 1) is their weight."""
    from scipy.ndimage import gaussian_filter

    total = gaussian_filter(colours * cover, (sigma, sigma, 0))
    weight = gaussian_filter(cover, (sigma, sigma, 0))
    return np.where(cover > 0, total / np.maximum(weight, 1e-3), colours)
