"""Where on a head's texture brows, lips, lashes, beards and folds are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lifemask.data._synthetic_rig import HeadRig

_STEP_MM = 0.5


@dataclass(frozen=True)
class SkinMasks:
    """Soft masks (rows, columns) in [0, 1] over the texture layout, from the mean head's shape.

    `brow_along` and `brow_across` are mm along the nearest brow's line, from the temple and beyond
    both ends, and above it; `brow_away` is the distance to it, `brow_length` its length in mm;
    `left` says where x > 0; `lip_depth` is mm inside the lips' outer contour, < 0 outside;
    `wrinkles` are lines of the forehead, around the eyes, and around the mouth, (3, rows, columns);
    `eyes` (2, rows, columns), of models without eyeballs, are openings and mm from the irises.
    """

    brow: NDArray[np.float32]
    brow_along: NDArray[np.float32]
    brow_across: NDArray[np.float32]
    brow_away: NDArray[np.float32]
    brow_length: float
    left: NDArray[np.bool_]
    lip_depth: NDArray[np.float32]
    lashes: NDArray[np.float32]
    lid: NDArray[np.float32]
    cheeks: NDArray[np.float32]
    nose: NDArray[np.float32]
    beard: dict[str, NDArray[np.float32]]
    scalp: NDArray[np.float32]
    wrinkles: NDArray[np.float32]
    eyes: NDArray[np.float32] | None = None


def create_masks(rig: HeadRig, beards: dict[str, NDArray[np.float32]]) -> SkinMasks:
    """Masks of brows, lips, lashes and so on from the mean head's landmarks (ict68)."""
    from lifemask.data import _synthetic_kernels as kernels
    from lifemask.data._synthetic_rig import rasterize_texels

    p = np.nan_to_num(rig.texel_mm, nan=1e4)
    lm = rig.landmarks68_mm
    front = 1 / (1 + np.exp(np.clip((lm[36, 2] - 20 - p[..., 2]) / 4, -30, 30)))
    brow_d, brow_s, brow_c = _polyline_distance(p, [lm[17:22], lm[22:27][::-1]])
    centre = 0.5 * (lm[[37, 44]] + lm[[40, 47]])
    upper = [lm[36:40], lm[42:46][::-1]]
    lower = [np.stack([lm[36], lm[41], lm[40], lm[39]]), np.stack([lm[45], lm[46], lm[47], lm[42]])]
    lash_d = np.minimum(_polyline_distance(p, upper)[0], 0.6 + _polyline_distance(p, lower)[0])
    lid_d = np.minimum(*(np.hypot((p[..., 0] - c[0]) / 1.5, p[..., 1] - c[1] - 5) for c in centre))
    cheek = np.minimum(
        *(np.hypot(p[..., 0] - s * 47, p[..., 1] - (lm[30, 1] - 2)) for s in (-1, 1))
    )
    nose_d = np.hypot(p[..., 0] / 1.1, p[..., 1] - lm[30, 1] - 4)
    beard = {
        k: np.nan_to_num(
            rasterize_texels(
                w[rig.faces][..., None].astype(np.float32), rig.face_uv,
                rig.face_material == kernels.SKIN, rig.texture_shape,
            )[..., 0]
        )
        for k, w in beards.items()
    }  # fmt: skip
    up = (p[..., 1] - (lm[19, 1] + 50)) + np.clip(lm[36, 2] - 35 - p[..., 2], -60, 60) * 0.9
    scalp = 1 / (1 + np.exp(np.clip(-up / 5, -30, 30)))
    soft = {
        "brow": np.clip(1.4 - brow_d / 3.2, 0, 1) * front,
        "brow_away": np.where(front > 0.5, brow_d, 1e3),
        "lip_depth": _lip_depth(p, lm, front),
        "lashes": np.clip(1.5 - lash_d / 1.3, 0, 1) * front,
        "lid": np.exp(-((lid_d / 9) ** 4)) * front,
        "cheeks": np.exp(-((cheek / 24) ** 2)) * front,
        "nose": np.exp(-((nose_d / 18) ** 2)) * front,
        "scalp": np.where(np.isnan(rig.texel_mm[..., 0]), 0, scalp),
    }
    return SkinMasks(
        **{name: as_float(mask) for name, mask in soft.items()},
        brow_along=brow_s,
        brow_across=brow_c,
        brow_length=float(np.linalg.norm(np.diff(lm[17:22], axis=0), axis=1).sum()),
        left=p[..., 0] > 0,
        beard=beard,
        wrinkles=_wrinkles(p, lm, front),
        eyes=None if len(rig.eye_faces) else _painted_eyes(p, lm),
    )


def as_float(values: NDArray) -> NDArray[np.float32]:
    """The same values as one piece of float32."""
    return np.ascontiguousarray(values, np.float32)


def _wrinkles(p, lm, front) -> NDArray[np.float32]:
    """Soft lines (3, rows, columns) where faces fold: forehead, eyes, mouth."""
    from scipy.spatial import KDTree

    use = front > 0.5
    out = np.zeros((3, *p.shape[:2]), np.float32)
    for k, (lines, width) in enumerate(_folds(lm.astype(np.float64))):
        dense = [a + t * (b - a) for line in lines for a, b in zip(line[:-1], line[1:], strict=True)
                 for t in np.linspace(0, 1, 24)]  # fmt: skip
        distance = KDTree(np.stack(dense)).query(p[use][:, :2])[0]
        out[k][use] = np.exp(-((distance / width) ** 2)) * front[use]
    return out


def _folds(lm) -> list[tuple[list[NDArray], float]]:
    """Lines as seen from the front, (n, 2) mm each, and their width, by group."""
    brow = lm[[19, 24], 1].mean()
    x = np.linspace(-46, 46, 9)
    forehead = [np.stack([x * (1 - 0.04 * k), brow + 13 + 9.5 * k - (x / 40) ** 2 * 3], 1)
                for k in range(4)]  # fmt: skip
    forehead += [np.array([[s * 4.5, brow - 6], [s * 5.5, brow + 8]]) for s in (-1, 1)]
    eyes, mouth = [], []
    for s, corner, inner, wing, lip in ((-1, 36, 39, 31, 48), (1, 45, 42, 35, 54)):
        start = lm[corner, :2] + [s * 5, 0]
        for angle in np.deg2rad([38, 14, -12, -36]):
            ray = np.array([s * np.cos(angle), np.sin(angle)])
            eyes.append(np.stack([start + 2 * ray, start + 9 * ray, start + 17 * ray]))
        middle = (lm[corner, :2] + lm[inner, :2]) / 2
        bag = [lm[inner, :2] + [0, -5], middle + [0, -13], lm[corner, :2] + [0, -8]]
        eyes.append(np.stack(bag))
        mouth.append(np.stack([lm[wing, :2] + [s * 5, 5], (lm[wing, :2] + lm[lip, :2]) / 2
                               + [s * 9, 1], lm[lip, :2] + [s * 9, -4]]))  # fmt: skip
        mouth.append(np.stack([lm[lip, :2] + [s * 4, -5], lm[lip, :2] + [s * 5, -20]]))
    return [(forehead, 1.3), (eyes, 1.1), (mouth, 1.7)]


def _polyline_distance(p, lines):
    """Distance, position along and height (mm, all (rows, columns)) from the nearest line.

    The position goes on beyond a line's ends.
    """
    best = np.full(p.shape[:2], 1e3, np.float32)
    along = np.zeros_like(best)
    across = np.zeros_like(best)
    for line in lines:
        length = 0.0
        for k, (a, b) in enumerate(pairwise(line)):
            e = b - a
            n = max(float(np.linalg.norm(e)), 1e-6)
            free = ((p - a) @ e) / n**2
            t = np.clip(free, 0, 1)
            q = p - (a + t[..., None] * e)
            d = np.minimum(np.linalg.norm(q, axis=-1), 1e3)
            near = d < best
            low, high = (-np.inf if k == 0 else 0, np.inf if k == len(line) - 2 else 1)
            along = np.where(near, length + np.clip(free, low, high) * n, along)
            across = np.where(near, q[..., 1], across)
            best = np.where(near, d, best)
            length += n
    return best, along.astype(np.float32), across.astype(np.float32)


def _lip_depth(p, lm, front):
    """Distance in mm (rows, columns) inside the lips' outer contour, rounded; outside negative."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    canvas, places = _silhouette(p, lm[48:60, :2])
    inside = np.asarray(distance_transform_edt(canvas))
    inside = inside - np.asarray(distance_transform_edt(1 - canvas))
    depth = _looked_up(_STEP_MM * gaussian_filter(inside, 2.0), places, -99.0)
    return np.where((p[..., 2] > lm[48, 2] - 18) & (front > 0.5), depth, -99.0)


def _inside(p, outline, soft: float):
    """Soft mask (rows, columns) of texels inside an outline (n, 2) mm seen from the front."""
    from scipy.ndimage import gaussian_filter

    canvas, places = _silhouette(p, outline)
    return _looked_up(gaussian_filter(canvas, soft), places, 0.0)


def _silhouette(p, outline):
    """An outline (n, 2) mm filled with ones, `_STEP_MM` a cell, and the texels' cells (2, ...)."""
    from skimage.draw import polygon

    low = outline.min(0) - 25
    size = ((np.ptp(outline, axis=0) + 50) / _STEP_MM).astype(int)
    canvas = np.zeros((size[1], size[0]), np.float32)
    x, y = (outline - low).T / _STEP_MM
    r, c = polygon(y, x, canvas.shape)
    canvas[r, c] = 1
    return canvas, np.stack([(p[..., 1] - low[1]), (p[..., 0] - low[0])]) / _STEP_MM


def _looked_up(canvas, places, beyond: float):
    """Values of a canvas at places (2, rows, columns), bilinear."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(canvas, places, order=1, cval=beyond)


def _painted_eyes(p, lm):
    """Openings of the eyes, and mm to the nearest iris's centre, as (2, rows, columns)."""
    opening, away = np.zeros(p.shape[:2], np.float32), np.full(p.shape[:2], 99, np.float32)
    for ids in (range(36, 42), range(42, 48)):
        outline = lm[list(ids), :2]
        opening = np.maximum(opening, _inside(p, outline, 0.8) * (p[..., 2] > lm[36, 2] - 12))
        away = np.minimum(away, np.hypot(*np.moveaxis(p[..., :2] - outline.mean(0), -1, 0)))
    return as_float(np.stack([opening, away]))
