"""Region maps of the generator: which of the nine `REGION_NAMES` each pixel shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.types import REGION_NAMES

if TYPE_CHECKING:
    from lifemask.data._synthetic_masks import SkinMasks
    from lifemask.data._synthetic_rig import HeadRig

NOSE, LIPS, EYES, BROWS, SKIN, MOUTH, NECK, HAIR, BACKGROUND = range(len(REGION_NAMES))
SCALP = len(REGION_NAMES)
"""Texel class of the skull: "hair" where the skin's own texture shows hair there, else "skin"."""
MARKED = BROWS, LIPS
"""Classes of the planes of `Banks.marks`."""
LOOK_UP = 255
"""Face class that means: the class of the texel."""
FINER = 3
"""Cells of the class map per texel and axis (odd): a texel is 1.4 mm, a pixel may be smaller."""

_ROUND = 6.0
"""Standard deviation of what rounds the nose's border, in cells (2.8 mm)."""
_SURE_MM = 3.0
"""Inside the usual outline by so much, every skin has lips."""

_OF_MATERIAL = np.full(len(kernels.MATERIALS), BACKGROUND, np.uint8)
_OF_MATERIAL[[kernels.EYE, kernels.MOUTH, kernels.TEETH]] = EYES, MOUTH, MOUTH
_OF_MATERIAL[[kernels.HAIR, kernels.HAT, kernels.BEARD]] = HAIR, HAIR, SKIN
_OF_MATERIAL[[kernels.FRAME, kernels.SKIN_PLAIN, kernels.SKIN]] = SKIN, NECK, LOOK_UP


def texel_regions(rig: HeadRig, masks: SkinMasks) -> NDArray[np.uint8]:
    """Class of each cell of the skin layout, (FINER rows, FINER columns).

    `SCALP` on the skull; brows and the outline of lips are the skins' own (`Banks.marks`). The
    nose is one piece with nostrils, its border round: a mesh's own runs in teeth along triangles.
    """
    from lifemask.data._synthetic_rig import rasterize_texels

    named = rig.model.topology.regions
    trusted = ("nose", "lips", "ears", "face")[: 4 if rig.native else 3]
    masks_of = _guessed_regions(rig) | {n: named[n].numpy() for n in trusted if n in named}
    columns = np.stack([masks_of[n] for n in ("nose", "lips", "ears", "face")], 1)
    height = rig.mean_mm[:, 1:2]
    skin = rig.face_material == kernels.SKIN
    shape = (FINER * rig.texture_shape[0], FINER * rig.texture_shape[1])
    values = rasterize_texels(
        np.concatenate((columns, height), 1).astype(np.float32)[rig.faces],
        (FINER * (rig.face_uv + 0.5) - 0.5).astype(np.float32), skin, shape,
    )  # fmt: skip
    values = np.nan_to_num(values)
    nose, lips, ears, face = np.moveaxis(values[..., :4] > 0.5, -1, 0)
    jaw = rig.landmarks68_mm[[3, 13], 1].mean()
    out = np.full(shape, SCALP, np.uint8)
    out[~face & (values[..., 4] < jaw + 12)] = NECK
    out[face | (_enlarged(masks.scalp) < 0.3) & (out == SCALP)] = SKIN
    out[ears] = NECK
    out[_rounded(nose)] = NOSE
    depth = _enlarged(masks.lip_depth)
    turned_in = lips & (depth < -12)  # not seen from the front, so without a depth
    out[(depth > _SURE_MM) | turned_in] = LIPS
    if masks.eyes is not None:
        out[_enlarged(masks.eyes[0]) > 0.5] = EYES
    return out


def _rounded(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A region of cells without holes, its border smoothed by `_ROUND` cells."""
    from scipy.ndimage import binary_fill_holes, gaussian_filter

    filled = np.asarray(binary_fill_holes(region), np.float32)
    return gaussian_filter(filled, _ROUND) > 0.5


def _enlarged(texels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Texels (rows, columns) at the class map's cells, bilinear."""
    from scipy.ndimage import zoom

    return np.asarray(zoom(texels, FINER, order=1, mode="nearest", grid_mode=True), np.float32)


def _guessed_regions(rig: HeadRig) -> dict[str, NDArray[np.bool_]]:
    """Vertex masks (v,) where a model names no regions, from its landmarks; no ears, no lips.

    Models disagree on what "face" is (ICT-FaceKit's reaches down to the chest), so that one is
    guessed for all but the default model.
    """
    lm = rig.landmarks68_mm
    x, y, z = rig.mean_mm.T
    front = (z > lm[[0, 16], 2].mean() - 5) & (y > lm[8, 1] - 6)
    down = np.clip((lm[27, 1] - y) / (lm[27, 1] - lm[33, 1]), 0.4, 1)
    wing = np.abs(lm[[31, 35], 0]).mean() * down
    nose = front & (np.abs(x) < 1.25 * wing) & (y > lm[33, 1] - 3) & (y < lm[27, 1])
    nothing = np.zeros(len(x), np.bool_)
    return {"nose": nose & (z > lm[31, 2] - 8), "lips": nothing, "ears": nothing, "face": front}


def face_regions(material: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class (f,) of each triangle from its material; `LOOK_UP` for textured skin."""
    return _OF_MATERIAL[material]


def scalp_is_hair(skin: NDArray[np.uint8], regions: NDArray[np.uint8], cheek: NDArray) -> bool:
    """Whether a skin texture's skull is much darker than its cheeks: hair is painted on it."""
    middle = regions[FINER // 2 :: FINER, FINER // 2 :: FINER]
    scalp = skin[middle == SCALP]
    cheeks = skin[cheek[:, 0], cheek[:, 1]]
    return bool(scalp.size and scalp.mean() < 0.72 * cheeks.mean())


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _bilinear(plane, s, t):
    """A plane (rows, columns) between its texels' centres, held at the borders."""
    s = min(max(s, 0.0), plane.shape[1] - 1.0)
    t = min(max(t, 0.0), plane.shape[0] - 1.0)
    x, y = min(int(s), plane.shape[1] - 2), min(int(t), plane.shape[0] - 2)
    fx, fy = s - x, t - y
    above = plane[y, x] * (1 - fx) + plane[y, x + 1] * fx
    below = plane[y + 1, x] * (1 - fx) + plane[y + 1, x + 1] * fx
    return above * (1 - fy) + below * fy


@njit(cache=True, nogil=True, error_model="numpy")
def region_map(
    screen, faces, face_uv, face_region, texel_region, marks, scalp, depth, ids, ss, out
):
    """The most frequent class among the super-samples of each pixel, into `out` (h, w) uint8.

    Args:
        screen: (v, 3) as in `rasterize_scene`, super-sampled px and inverse distance.
        faces: (f, 3).
        face_uv: (f, 3, 2) texel positions of skin corners.
        face_region: (f,) from `face_regions`.
        texel_region: (FINER rows, FINER columns) from `texel_regions`.
        marks: (2, rows, columns) uint8 of the skin, above 127 where brows are, and lips.
        scalp: class that `SCALP` texels get.
        depth: (h * ss, w * ss) from `rasterize_scene`.
        ids: (h * ss, w * ss) from `rasterize_scene`.
        ss: super-samples per axis.
        out: (h, w), overwritten.
    """
    rows, columns = texel_region.shape
    votes = np.zeros(10, np.int64)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            votes[:] = 0
            for sub in range(ss * ss):
                sy, sx = y * ss + sub // ss, x * ss + sub % ss
                f = ids[sy, sx]
                region = BACKGROUND
                if f >= 0:
                    region = face_region[f]
                if region == LOOK_UP:
                    i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
                    x0, y0 = screen[i0, 0], screen[i0, 1]
                    x1, y1 = screen[i1, 0], screen[i1, 1]
                    x2, y2 = screen[i2, 0], screen[i2, 1]
                    k = 1.0 / ((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0))
                    p0 = ((sx - x2) * (y1 - y2) + (sy - y2) * (x2 - x1)) * k
                    p1 = ((sx - x2) * (y2 - y0) + (sy - y2) * (x0 - x2)) * k
                    z = depth[sy, sx]
                    p2 = (1.0 - p0 - p1) * screen[i2, 2] / z
                    p0 *= screen[i0, 2] / z
                    p1 *= screen[i1, 2] / z
                    s = p0 * face_uv[f, 0, 0] + p1 * face_uv[f, 1, 0] + p2 * face_uv[f, 2, 0]
                    t = p0 * face_uv[f, 0, 1] + p1 * face_uv[f, 1, 1] + p2 * face_uv[f, 2, 1]
                    column = min(max(int(FINER * (s + 0.5)), 0), columns - 1)
                    row = min(max(int(FINER * (t + 0.5)), 0), rows - 1)
                    region = texel_region[row, column]
                    if region == SCALP:
                        region = scalp
                    elif region == SKIN:
                        if _bilinear(marks[0], s, t) > 127.5:
                            region = BROWS
                        if _bilinear(marks[1], s, t) > 127.5:
                            region = LIPS
                votes[region] += 1
            best = 0
            for c in range(1, 10):
                if votes[c] > votes[best]:
                    best = c
            out[y, x] = best
