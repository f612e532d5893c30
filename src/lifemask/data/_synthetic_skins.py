"""Skin textures of the generator: CC0 skins varied by masks, tones, noise, make-up and hair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifemask.assets import UserError
from lifemask.data._synthetic_rig import HeadRig

MELANIN = np.array([0.42, 0.72, 1.0], np.float32)
BLOOD = np.array([0.12, 0.9, 0.75], np.float32)
"""Directions of the two tone axes as optical density per channel (log of linear albedo)."""
BROW_REACH_MM = 8.5
FAINTEST_BROW = 0.08
"""Where brows of photo textures are looked for, and how much darker (log) they are at least."""


@dataclass(frozen=True)
class Skin:
    """A skin's texture.

    Attributes:
        srgb: (rows, columns, 3) uint8.
        brows: (rows, columns) uint8, above 127 where the texture shows a brow.
    """

    srgb: NDArray[np.uint8]
    brows: NDArray[np.uint8]


@dataclass(frozen=True)
class SkinMasks:
    """Soft masks (rows, columns) in [0, 1] over the texture layout, from the mean head's shape.

    `brow_along` and `brow_across` are mm along and across the nearest brow, for strokes, and
    `brow_away` is the distance to its line; `left` says where x > 0;
    `wrinkles` are lines of the forehead, around the eyes, and around the mouth, (3, rows, columns);
    `eyes` (2, rows, columns), of models without eyeballs, are openings and mm from the irises.
    """

    brow: NDArray[np.float32]
    brow_along: NDArray[np.float32]
    brow_across: NDArray[np.float32]
    brow_away: NDArray[np.float32]
    left: NDArray[np.bool_]
    lips: NDArray[np.float32]
    lashes: NDArray[np.float32]
    lid: NDArray[np.float32]
    cheeks: NDArray[np.float32]
    nose: NDArray[np.float32]
    beard: dict[str, NDArray[np.float32]]
    scalp: NDArray[np.float32]
    wrinkles: NDArray[np.float32]
    eyes: NDArray[np.float32] | None = None


def load_skins(folder: Path, rig: HeadRig) -> NDArray[np.float32]:
    """CC0 skins of a folder on a native texture layout: (n, rows, columns, 3) sRGB in [0, 1].

    Raises:
        UserError: the folder holds no `*_diffuse*.jpg`.
    """
    from PIL import Image

    files = sorted(Path(folder).glob("*_diffuse*.jpg"))
    if not files:
        raise UserError(f"no *_diffuse*.jpg skins in {folder}: put MakeHuman skins there (CC0)")
    u0, v0, u1, v1 = rig.uv_box
    rows, columns = rig.texture_shape
    skins = []
    for file in files:
        with Image.open(file) as image:
            w, h = image.size
            box = (u0 * w, (1 - v1) * h, u1 * w, (1 - v0) * h)
            part = image.convert("RGB").resize((columns, rows), Image.Resampling.BOX, box)
        skins.append(np.asarray(part, np.float32) / 255)
    return np.stack(skins)


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
    return SkinMasks(
        _f(np.clip(1.4 - brow_d / 3.2, 0, 1) * front), brow_s, brow_c,
        _f(np.where(front > 0.5, brow_d, 1e3)), p[..., 0] > 0, _lips(p, lm) * front,
        _f(np.clip(1.5 - lash_d / 1.3, 0, 1) * front), _f(np.exp(-((lid_d / 9) ** 4)) * front),
        _f(np.exp(-((cheek / 24) ** 2)) * front), _f(np.exp(-((nose_d / 18) ** 2)) * front),
        beard, _f(np.where(np.isnan(rig.texel_mm[..., 0]), 0, scalp)), _wrinkles(p, lm, front),
        None if len(rig.eye_faces) else _painted_eyes(p, lm),
    )  # fmt: skip


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


def _f(a) -> NDArray[np.float32]:
    return np.ascontiguousarray(a, np.float32)


def _polyline_distance(p, lines):
    """Distance, position along and signed height (mm, all (rows, columns)) to the nearest line."""
    best = np.full(p.shape[:2], 1e3, np.float32)
    along = np.zeros_like(best)
    across = np.zeros_like(best)
    for line in lines:
        length = 0.0
        for a, b in zip(line[:-1], line[1:], strict=True):
            e = b - a
            n = max(float(np.linalg.norm(e)), 1e-6)
            t = np.clip(((p - a) @ e) / n**2, 0, 1)
            q = p - (a + t[..., None] * e)
            d = np.minimum(np.linalg.norm(q, axis=-1), 1e3)
            near = d < best
            along = np.where(near, length + t * n, along)
            across = np.where(near, q[..., 1], across)
            best = np.where(near, d, best)
            length += n
    return best, along.astype(np.float32), across.astype(np.float32)


def _lips(p, lm):
    """Soft lip mask: inside the outer lip contour seen from the front."""
    return _f(_inside(p, lm[48:60, :2], 1.5) * (p[..., 2] > lm[48, 2] - 18))


def _inside(p, outline, soft: float):
    """Soft mask (rows, columns) of texels inside an outline (n, 2) mm seen from the front."""
    from scipy.ndimage import gaussian_filter, map_coordinates
    from skimage.draw import polygon

    step, low = 0.5, outline.min(0) - 25
    size = ((np.ptp(outline, axis=0) + 50) / step).astype(int)
    canvas = np.zeros((size[1], size[0]), np.float32)
    r, c = polygon((outline[:, 1] - low[1]) / step, (outline[:, 0] - low[0]) / step, canvas.shape)
    canvas[r, c] = 1
    canvas = gaussian_filter(canvas, soft)
    where = np.stack([(p[..., 1] - low[1]) / step, (p[..., 0] - low[0]) / step])
    return map_coordinates(canvas, where, order=1, cval=0.0)


def _painted_eyes(p, lm):
    """Openings of the eyes, and mm to the nearest iris's centre, as (2, rows, columns)."""
    opening, away = np.zeros(p.shape[:2], np.float32), np.full(p.shape[:2], 99, np.float32)
    for ids in (range(36, 42), range(42, 48)):
        outline = lm[list(ids), :2]
        opening = np.maximum(opening, _inside(p, outline, 0.8) * (p[..., 2] > lm[36, 2] - 12))
        away = np.minimum(away, np.hypot(*np.moveaxis(p[..., :2] - outline.mean(0), -1, 0)))
    return _f(np.stack([opening, away]))


def noise_field(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> NDArray:
    """Smooth noise (rows, columns), about standard normal, with features of `cell` texels."""
    from skimage.transform import resize

    small = (max(2, round(shape[0] / cell)) + 3, max(2, round(shape[1] / cell)) + 3)
    return _f(resize(rng.standard_normal(small).astype(np.float32), shape, order=1))


def vary_skin(
    skins: NDArray[np.float32],
    masks: SkinMasks,
    rng: np.random.Generator,
    age: float,
    strength: float = 1.0,
) -> Skin:
    """One new skin: mixed from several, re-toned, aged and painted.

    Args:
        skins: (n, rows, columns, 3) sRGB in [0, 1] to draw from.
        masks: of the same layout.
        rng: decides everything.
        age: in [0, 1]: wrinkles, blotches, age spots, grey brows and beard.
        strength: 1 for plain skins; less for photo textures that bring their own brows and beard.
    """
    from scipy.ndimage import gaussian_filter

    shape = skins.shape[1:3]
    a, b = rng.integers(len(skins), size=2)
    log = np.log(np.clip(skins[a], 0.02, 1) ** 2.2)
    if strength >= 1:
        other = np.log(np.clip(skins[b], 0.02, 1) ** 2.2)
        sigma = rng.choice([3.0, 6.0, 14.0])
        fine = other - gaussian_filter(other, (sigma, sigma, 0))
        low = gaussian_filter(log, (sigma, sigma, 0))
        log = low + rng.uniform(0.4, 1.9) * fine + rng.uniform(0, 0.6) * (log - low)
    blotchy = 0.6 + age
    patches = noise_field(rng, shape, 60) * rng.uniform(0, 0.14) * blotchy
    patches += noise_field(rng, shape, 14) * rng.uniform(0, 0.07) * blotchy
    log -= (strength * patches)[..., None] * BLOOD
    log -= noise_field(rng, shape, 90)[..., None] * (rng.uniform(0, 0.18) * strength) * MELANIN
    blush = rng.uniform(-0.1, 0.35) * masks.cheeks + rng.uniform(-0.1, 0.3) * masks.nose
    log -= (strength * blush)[..., None] * BLOOD
    log = _age(log, masks, rng, age, strength)
    log = _spots(log, masks, rng, age, strength)
    if masks.eyes is not None:
        log = _paint_eyes(log, masks.eyes, rng)
    log = _make_up(log, masks, rng, strength)
    log, brows = _facial_hair(log, masks, rng, age, strength)
    if strength < 1:
        brows = np.maximum(brows, seen_brows(log, masks))
    if rng.random() < 0.04 * strength:
        paint = np.clip(noise_field(rng, shape, rng.uniform(20, 90)) * 3, 0, 1)[..., None]
        log = log * (1 - paint) + paint * np.log(rng.uniform(0.02, 0.9, 3)).astype(np.float32)
        brows = brows * (1 - paint[..., 0])
    srgb = np.clip(np.exp(log), 0, 1) ** (1 / 2.2)
    return Skin((srgb * 255 + 0.5).astype(np.uint8), (brows * 255 + 0.5).astype(np.uint8))


def _age(log, masks, rng, age, strength):
    """Folds that deepen with age, darker below the eyes; redder than shadow, as scans show them."""
    shape = log.shape[:2]
    deep = float(np.clip((age - 0.25) * 1.5, 0, 1) * rng.uniform(0.35, 1.0))
    broken = np.clip(0.7 + 0.5 * noise_field(rng, shape, 24), 0, 1.3)
    groups = (rng.uniform(0.1, 0.42, 3) * deep * strength).astype(np.float32)
    depth = np.einsum("khw,k->hw", masks.wrinkles, groups)
    grain = gaussian_grain(rng, shape) * (0.02 + 0.07 * deep) * strength
    fold = (depth * broken + grain)[..., None]
    return log - fold * np.array([0.8, 1.0, 1.05], np.float32)


def gaussian_grain(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """White noise (rows, columns) smoothed to about two texels: pores."""
    grain = rng.standard_normal(shape, dtype=np.float32)
    grain = grain + np.roll(grain, 1, 0)
    return _f(0.5 * (grain + np.roll(grain, 1, 1)))


def _spots(log, masks, rng, age, strength):
    """Freckles on cheeks and nose, a few moles anywhere, and the spots of age."""
    shape = log.shape[:2]
    if rng.random() < 0.25 * strength:
        seeds = rng.random(shape) < rng.uniform(0.004, 0.03)
        grain = seeds.astype(np.float32)
        grain = np.maximum(grain, 0.6 * np.roll(grain, 1, 0)) + 0.5 * np.roll(grain, 1, 1)
        area = 0.3 + masks.cheeks + masks.nose
        log = log - (grain * area * rng.uniform(0.1, 0.45))[..., None] * MELANIN
    moles = rng.poisson(3 * strength)
    for k in range(moles + rng.poisson(40 * max(age - 0.55, 0) * strength)):
        y, x = rng.integers(shape[0]), rng.integers(shape[1])
        r, reach = (rng.uniform(0.8, 2.6), (0.2, 1.3)) if k < moles else (
            rng.uniform(1.5, 4.5), (0.08, 0.4))  # fmt: skip
        y0, y1, x0, x1 = max(y - 8, 0), y + 9, max(x - 8, 0), x + 9
        yy, xx = np.mgrid[y0 : min(y1, shape[0]), x0 : min(x1, shape[1])]
        dot = np.exp(-(((yy - y) ** 2 + (xx - x) ** 2) / r**2))
        log[y0:y1, x0:x1] -= (rng.uniform(*reach) * dot)[..., None].astype(np.float32) * MELANIN
    return log


def _paint_eyes(log, eyes, rng):
    """White, iris and pupil on the skin of a model that has no eyeballs."""
    opening, away = eyes
    iris = rng.uniform(0.02, 0.2) * np.array([1.0, rng.uniform(0.5, 1.4), rng.uniform(0.3, 1.6)])
    log = _blend(log, opening, rng.uniform(0.45, 0.75) * np.array([1, 0.96, 0.92]), 1.0)
    log = _blend(log, opening * np.clip(6.5 - away, 0, 1), iris, 1.0)
    return _blend(log, opening * np.clip(2.8 - away, 0, 1), np.full(3, 0.008), 1.0)


def _blend(log, mask, colour, amount):
    k = np.clip(mask * amount, 0, 1)[..., None]
    return log * (1 - k) + k * np.log(np.maximum(colour, 0.004)).astype(np.float32)


def _make_up(log, masks, rng, strength):
    if rng.random() < 0.75 * strength + 0.05:
        hue = np.array([rng.uniform(0.1, 0.6), rng.uniform(0.02, 0.2), rng.uniform(0.03, 0.22)])
        if rng.random() < 0.08:
            hue = rng.uniform(0.01, 0.7, 3)
        log = _blend(log, masks.lips, hue, rng.uniform(0, 0.75) ** 1.3)
    if rng.random() < 0.35 * strength:
        log = _blend(log, masks.lid, rng.uniform(0.01, 0.35, 3), rng.uniform(0.05, 0.6))
    elif rng.random() < 0.4 * strength:
        log = log - (masks.lid * rng.uniform(0, 0.5))[..., None] * MELANIN
    dark = rng.uniform(0.01, 0.06) * np.ones(3)
    return _blend(log, masks.lashes, dark, rng.uniform(0.15, 0.95) * (0.3 + 0.7 * strength))


def drawn_brows(
    masks: SkinMasks, width: float, lift: NDArray[np.float32] | float
) -> NDArray[np.float32]:
    """Soft mask (rows, columns) of brows of a half-height and at a height in mm above the line."""
    along = masks.brow_along
    taper = np.clip(along / 5 + 0.2, 0, 1) * np.clip((62 - along) / 14, 0.25, 1)
    away = np.abs(masks.brow_across - lift)
    return _f(np.where(masks.brow > 0, np.clip(1.4 - away / (width * taper + 0.4), 0, 1), 0))


def seen_brows(log: NDArray[np.float32], masks: SkinMasks) -> NDArray[np.float32]:
    """Soft mask (rows, columns) of a texture's brows; the usual place if none stands out.

    A brow is what differs from the skin above it, near the brow's line: the threshold between two
    classes of brightness (Otsu 1979), one piece a side.

    Args:
        log: (rows, columns, 3) log linear colour.
        masks: of the same layout.
    """
    usual = drawn_brows(masks, 3.3, 0.5)
    bright = log.mean(-1)
    out = np.zeros_like(usual)
    for left in (False, True):
        side = masks.left == left
        own = side & (usual > 0.5)
        near = side & (masks.brow_away < BROW_REACH_MM) & (masks.brow_across > -4.5)
        above = side & (np.abs(masks.brow_away - 11) < 2.5) & (masks.brow_across > 5)
        found = _standing_out(bright, near, above, own) if above.any() and own.any() else None
        if found is not None and _length(masks, found > 0.5) < 0.75 * _length(masks, own):
            found = None
        out = np.where(side, usual if found is None else found, out)
    return _f(out)


def _length(masks: SkinMasks, brow: NDArray[np.bool_]) -> float:
    """Extent of a mask in mm along the brow's line."""
    return float(np.ptp(masks.brow_along[brow])) if brow.any() else 0.0


def _standing_out(bright, near, above, own) -> NDArray[np.float32] | None:
    """The piece of `near` that differs most from `above`; None if it is none or no brow's size."""
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    differs = np.median(bright[above]) - gaussian_filter(bright, 0.7)
    differs = differs if np.median(differs[own]) >= 0 else -differs
    threshold = threshold_otsu(differs[near])
    pieces = np.asarray(label(near & (differs > threshold), connectivity=1))
    if not pieces.any() or threshold < FAINTEST_BROW:
        return None
    found = pieces == 1 + np.argmax(np.bincount(pieces[own], minlength=2)[1:])
    if not 0.5 * own.sum() < found.sum() < 3 * own.sum() or not (found & own).any():
        return None
    return _f(np.clip(gaussian_filter(found.astype(np.float32), 0.6), 0, 1))


def _facial_hair(log, masks, rng, age, strength):
    """Brows with strokes, stubble or a painted beard, a shaved scalp's shadow; also: the brows."""
    shape = log.shape[:2]
    shade = np.exp(rng.uniform(np.log(0.006), np.log(0.12)))
    colour = shade * np.array([1.0, rng.uniform(0.6, 0.9), rng.uniform(0.35, 0.75)])
    grey = np.clip((age - 0.5) * 2.4, 0, 1) * rng.uniform(0, 1)
    colour = colour * (1 - grey) + grey * rng.uniform(0.15, 0.45)
    grain = rng.random(shape).astype(np.float32)
    mask = np.zeros(shape, np.float32)
    if strength >= 1 or rng.random() < 0.1:
        width, along = rng.uniform(1.6, 5.0), masks.brow_along
        lift = rng.normal(0.5, 1.6) + rng.normal(0, 1) * np.sin(along / 17)
        mask = drawn_brows(masks, width, lift)
        stroke = 0.55 + 0.45 * np.sin(along * 4 + masks.brow_across * rng.uniform(2, 5))
        gaps = np.clip(stroke + grain - 0.35, 0, 1) if rng.random() < 0.7 else 1.0
        log = _blend(log, mask * gaps, colour, rng.uniform(0.25, 1.0))
    if rng.random() < 0.35 * strength:
        cut = rng.choice(["full", "goatee", "moustache"], p=[0.6, 0.2, 0.2])
        dense = np.clip(masks.beard[cut] * rng.uniform(0.3, 1.6) - 0.35 * grain, 0, 1)
        log = _blend(log, dense, colour, rng.uniform(0.2, 0.9))
    if rng.random() < 0.5 * strength:
        dense = np.clip(masks.scalp * rng.uniform(0.3, 1.3) - 0.3 * grain, 0, 1)
        log = _blend(log, dense, colour, rng.uniform(0.1, 0.8))
    return log, mask
