"""Skin textures unwrapped from real near-frontal photos, for `research` renders only.

Run: python tools/unwrap_photo_textures.py --data DIR --out CACHE/textures.npz

The face model is fitted by landmarks to AFLW-21 and YTF-68 training photos (never to YTF validation
people nor to the last 1,000 AFLW crops and their near-duplicates); colours are sampled per texel,
the better side is mirrored into the worse, and what no photo shows comes from a CC0 skin of the
same tone. The result must never be committed or shipped: the photos allow research use only.
"""

from __future__ import annotations

import argparse
import io
import logging
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import KDTree

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_rig import HeadRig, create_rig, rasterize_texels
from lifemask.data._synthetic_skins import load_skins
from lifemask.facemodel.base import FaceModel

LOGGER = logging.getLogger("unwrap")
AFLW21_FROM_68: tuple[tuple[int, ...], ...] = (
    (17,), (19,), (21,), (22,), (24,), (26,), (36,), tuple(range(36, 42)), (39,), (42,),
    tuple(range(42, 48)), (45,), (2,), (31,), (30,), (35,), (14,), (48,), tuple(range(60, 68)),
    (54,), (8,),
)  # fmt: skip
HELD_OUT = 1000
IDENTITY_USED = 30
EXPRESSIONS_USED = (
    "jawopen", "mouthsmile", "mouthfrown", "mouthpucker", "eyeblink", "browdown", "browinnerup",
    "mouthupperup", "mouthlowerdown", "mouthclose", "eyewide", "mouthfunnel", "browouterup",
)  # fmt: skip


@dataclass(frozen=True)
class Photos:
    """Pictures (list of (h, w, 3) uint8), targets (n, k, 2) px, weights (n, k)."""

    images: list[NDArray[np.uint8]]
    points: NDArray[np.float64]
    weights: NDArray[np.float64]
    combine: NDArray[np.float64]


def read_images(tars: list[Path], names: set[str]) -> dict[str, NDArray[np.uint8]]:
    """Pictures by name (file stem or full name) out of tar files."""
    out = {}
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                key = Path(member.name).name
                key = key if key in names else Path(key).stem
                if key in names:
                    data = tar.extractfile(member)
                    if data is not None:
                        picture = Image.open(io.BytesIO(data.read())).convert("RGB")
                        out[key] = np.asarray(picture)
    return out


def descriptors(images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Normalised 20 x 20 grey thumbnails (n, 400) for near-duplicate search."""
    rows = []
    for image in images:
        box = (12, 12, image.shape[1] - 12, image.shape[0] - 12)
        thumb = Image.fromarray(image).convert("L").resize((20, 20), Image.Resampling.BOX, box)
        a = np.asarray(thumb, np.float32).ravel()
        rows.append((a - a.mean()) / (np.linalg.norm(a - a.mean()) + 1e-6))
    return np.stack(rows)


def aflw_photos(folder: Path, count: int, rng: np.random.Generator) -> Photos:
    """Near-frontal AFLW crops that are neither held out nor near-duplicates of held-out ones."""
    with np.load(folder / "labels.npz") as z:
        names, points, visible, yaw = (z[k] for k in ("names", "points", "visible", "yaw_deg"))
    tars = sorted(folder.glob("crops-*.tar"))
    inner = [0, 2, 3, 5, 6, 8, 9, 11, 13, 14, 15, 17, 19]
    good = (np.abs(yaw) < 38) & visible[:, inner].all(1)
    good[-HELD_OUT:] = False
    chosen = rng.permutation(np.flatnonzero(good))[: int(count * 1.35)]
    held = np.arange(len(names) - HELD_OUT, len(names))
    pictures = read_images(tars, set(names[chosen]) | set(names[held]))
    reference = descriptors([pictures[n] for n in names[held]])
    flipped = descriptors([pictures[n][:, ::-1] for n in names[held]])
    own = descriptors([pictures[n] for n in names[chosen]])
    likeness = np.maximum((own @ reference.T).max(1), (own @ flipped.T).max(1))
    chosen = chosen[likeness < 0.88][:count]
    weight = visible[chosen] * np.ones(21)
    weight[:, [12, 16]] *= 0.05
    weight[:, 20] *= 0.3
    combine = np.zeros((21, 68))
    for row, members in enumerate(AFLW21_FROM_68):
        combine[row, list(members)] = 1 / len(members)
    target = np.where(weight[..., None] > 0, points[chosen], 0.0)
    return Photos([pictures[n] for n in names[chosen]], target, weight, combine)


def ytf_photos(folder: Path, count: int, rng: np.random.Generator) -> Photos:
    """Frames of YTF training people, spread over people."""
    with np.load(folder / "labels.npz") as z:
        names, points, person, held = (z[k] for k in ("names", "points", "person", "validation"))
    order = rng.permutation(np.flatnonzero(~held))
    rank = np.zeros(len(names), int)
    seen: dict[str, int] = {}
    for i in order:
        rank[i] = seen.get(person[i], 0)
        seen[person[i]] = rank[i] + 1
    chosen = order[np.argsort(rank[order], kind="stable")][:count]
    pictures = read_images([folder / "frames.tar"], set(names[chosen]))
    chosen = np.array([i for i in chosen if names[i] in pictures])
    weight = np.ones((len(chosen), 68))
    weight[:, :17] = 0.05
    return Photos(
        [pictures[n] for n in names[chosen]], points[chosen].astype(np.float64), weight, np.eye(68)
    )


def _linear_landmarks(model: FaceModel):
    """Mean (68, 3), identity (i, 68, 3) and chosen expressions (e, 68, 3) of "ict68"; their ids."""
    names = [n.lower() for n in model.expression_names]
    used = [i for i, n in enumerate(names) if n.startswith(EXPRESSIONS_USED)]
    n_id, n_ex = model.identity_size, len(names)
    with torch.no_grad():
        zero = model.landmarks(model(torch.zeros(n_id), torch.zeros(n_ex)), "ict68")
        eye = torch.eye(n_id)[:IDENTITY_USED]
        u = model.landmarks(model(eye, torch.zeros(len(eye), n_ex)), "ict68") - zero
        act = torch.eye(n_ex)[used]
        e = model.landmarks(model(torch.zeros(len(act), n_id), act), "ict68") - zero
    return tuple(a.double().numpy() for a in (zero, u, e)), used


def _rotations(vectors):
    angle = np.linalg.norm(vectors, axis=1)[:, None, None] + 1e-12
    k = vectors / angle[:, :, 0]
    z = np.zeros(len(k))
    kx = np.stack([z, -k[:, 2], k[:, 1], k[:, 2], z, -k[:, 0], -k[:, 1], k[:, 0], z], 1)
    kx = kx.reshape(-1, 3, 3)
    return np.eye(3) + np.sin(angle) * kx + (1 - np.cos(angle)) * (kx @ kx)


def fit(model: FaceModel, photos: Photos, steps: int = 25):
    """Scaled-orthographic fits by damped Gauss-Newton, all photos at once.

    Returns:
        rotation (n, 3, 3), scale (n,), shift (n, 2) with v down, identity (n, i), expression
        (n, e), and the weighted residual as a share of the landmark box (n,).
    """
    (mean, u, e), used = _linear_landmarks(model)
    basis = np.concatenate([u, e])
    n, k = len(photos.points), len(basis)
    flip = np.array([1.0, -1.0])
    target = photos.points * flip
    w = photos.weights
    middle = (photos.combine @ mean).mean(0)
    spread = np.sqrt((w[..., None] * (target - _mean(target, w)) ** 2).sum((1, 2)) / w.sum(1))
    scale = spread / np.sqrt((((photos.combine @ mean)[:, :2] - middle[:2]) ** 2).sum(1).mean())
    rotation = np.tile(np.eye(3), (n, 1, 1))
    shift = _mean(target, w)[:, 0] - scale[:, None] * middle[:2]
    coeff = np.zeros((n, k))
    prior = np.concatenate([np.full(len(u), 0.35), np.full(len(e), 1.2)])
    for step in range(steps):
        shape = mean + np.einsum("nk,klc->nlc", coeff, basis)
        posed = np.einsum("nij,nlj->nli", rotation, shape)
        residual = target - scale[:, None, None] * np.einsum("kl,nlc->nkc", photos.combine, posed)[
            ..., :2] - shift[:, None]  # fmt: skip
        jac = np.zeros((n, *target.shape[1:], 6 + k))
        p = np.einsum("kl,nlc->nkc", photos.combine, posed) * scale[:, None, None]
        jac[..., 0, 1], jac[..., 0, 2] = p[..., 2], -p[..., 1]
        jac[..., 1, 0], jac[..., 1, 2] = -p[..., 2], p[..., 0]
        jac[..., 3] = p[..., :2]
        jac[..., 0, 4] = jac[..., 1, 5] = 1
        posed_basis = np.einsum("nij,blj->nbli", rotation[:, :2], basis, optimize=True)
        mixed = np.einsum("ml,nbli->nmib", photos.combine, posed_basis, optimize=True)
        jac[..., 6:] = mixed * scale[:, None, None, None]
        unit = 1 / (0.03 * np.maximum(spread, 1))  # residuals in units of expected noise
        jw = jac * (unit[:, None] * np.sqrt(w))[..., None, None]
        rw = residual * (unit[:, None] * np.sqrt(w))[..., None]
        jw, rw = jw.reshape(n, -1, 6 + k), rw.reshape(n, -1)
        lhs = np.einsum("nra,nrb->nab", jw, jw, optimize=True)
        rhs = np.einsum("nra,nr->na", jw, rw)
        active = 1.0 if step > 4 else 1e4  # pose first
        damp = np.concatenate([np.full(6, 1e-3), prior * 4 * active])
        lhs[:, np.arange(6 + k), np.arange(6 + k)] += damp
        rhs[:, 6:] -= prior * 4 * active * coeff
        delta = np.linalg.solve(lhs, rhs[..., None])[..., 0]
        rotation = _rotations(np.clip(delta[:, :3], -0.4, 0.4)) @ rotation
        scale = scale * np.exp(np.clip(delta[:, 3], -0.3, 0.3))
        shift = shift + delta[:, 4:6]
        coeff = coeff + delta[:, 6:]
        coeff[:, len(u) :] = np.clip(coeff[:, len(u) :], 0, 1)
        coeff[:, : len(u)] = np.clip(coeff[:, : len(u)], -2.5, 2.5)
    identity = np.zeros((n, model.identity_size), np.float32)
    identity[:, : len(u)] = coeff[:, : len(u)]
    expression = np.zeros((n, len(model.expression_names)), np.float32)
    expression[:, used] = coeff[:, len(u) :]
    error = np.sqrt((w * (residual**2).sum(-1)).sum(1) / w.sum(1)) / (4 * np.maximum(spread, 1))
    return rotation, scale, shift * flip, identity, expression, error


def _mean(points, weights):
    return (weights[..., None] * points).sum(1, keepdims=True) / weights.sum(1)[:, None, None]


class Unwrapper:
    """Samples photos at texels and completes what they do not show."""

    def __init__(self, rig: HeadRig, skins: NDArray[np.float32], shrink: int = 2):
        self.rig = rig
        rows, columns = rig.texture_shape
        self.shape = (rows // shrink, columns // shrink)
        face_uv = (rig.face_uv + 0.5) / shrink - 0.5
        skin = rig.face_material == kernels.SKIN
        ident = np.zeros((len(rig.faces), 3, 4), np.float32)
        ident[..., 0] = np.arange(len(rig.faces))[:, None]
        ident[..., 1:] = np.eye(3, dtype=np.float32)
        texels = rasterize_texels(ident, face_uv, skin, self.shape)
        self.where = np.nonzero(~np.isnan(texels[..., 0]))
        cells = texels[self.where]
        self.face = np.rint(cells[:, 0]).astype(np.int64)
        self.bary = cells[:, 1:]
        rest = self.blend(rig.mean_mm)
        self.mirror = KDTree(rest).query(rest * np.array([-1, 1, 1]))[1]
        self.skins = [self._shrink(s) for s in skins]

    def _shrink(self, skin):
        size = (self.shape[1], self.shape[0])
        image = Image.fromarray((skin * 255).astype(np.uint8)).resize(size, Image.Resampling.BOX)
        return np.asarray(image, np.float32) / 255

    def blend(self, values: NDArray) -> NDArray[np.float64]:
        """Vertex values (v, c) at the texels (t, c)."""
        return np.einsum("tk,tkc->tc", self.bary, values[self.rig.faces[self.face]])

    def unwrap(self, image, head, rotation, scale, shift, rng) -> NDArray[np.uint8]:
        """Texture (rows, columns, 3) of one fitted photo."""
        posed = (head @ rotation.T).astype(np.float32)
        normals = np.empty_like(posed)
        kernels.vertex_normals_into(posed, self.rig.faces, normals)
        screen = np.stack(
            [scale * posed[:, 0] + shift[0], -scale * posed[:, 1] + shift[1], scale * posed[:, 2]],
            1,
        ).astype(np.float32)
        depth = np.empty(image.shape[:2], np.float32)
        kernels.depth_map(screen, self.rig.faces, depth)
        seen = np.empty(len(head), np.float32)
        kernels.lit_share(screen, depth, np.float32(3.0 * scale), seen)
        facing = self.blend(normals[:, 2:] * seen[:, None])[:, 0]
        uv = self.blend(screen)[:, :2]
        inside = ((uv > 2) & (uv < np.array(image.shape[1::-1]) - 3)).all(1)
        confidence = np.clip((facing - 0.25) / 0.45, 0, 1) * inside
        colours = np.stack(
            [
                map_coordinates(image[..., c].astype(np.float32), uv[:, ::-1].T, order=1)
                for c in range(3)
            ],
            1,
        ) / 255  # fmt: skip
        own = confidence**2 + 1e-4
        other = 0.35 * own[self.mirror]
        share = self._smooth(own / (own + other))[:, None]
        merged = share * colours + (1 - share) * colours[self.mirror]
        known = self._smooth(np.maximum(confidence, confidence[self.mirror]), 2.0)
        return self._complete(merged, np.clip(known * 1.5 - 0.4, 0, 1)[:, None], rng)

    def _smooth(self, values, sigma: float = 3.0):
        grid = np.zeros(self.shape)
        weight = np.zeros(self.shape)
        grid[self.where], weight[self.where] = values, 1
        smooth = gaussian_filter(grid, sigma) / np.maximum(gaussian_filter(weight, sigma), 1e-3)
        return smooth[self.where]

    def _complete(self, colours, known, rng):
        skin = self.skins[rng.integers(len(self.skins))]
        base = skin[self.where] ** 2.2
        sure = known[:, 0] > 0.8
        photo = np.median(colours[sure] ** 2.2, 0)
        ratio = (photo + 1e-3) / (np.median(base[sure], 0) + 1e-3)
        fill = np.clip(base * ratio, 0, 1) ** (1 / 2.2)
        full = np.clip(skin**2.2 * ratio, 0, 1) ** (1 / 2.2)
        full[self.where] = known * colours + (1 - known) * fill
        return (np.clip(full, 0, 1) * 255 + 0.5).astype(np.uint8)


def unwrap_all(model, unwrapper, photos: Photos, rng, limit: float) -> NDArray[np.uint8]:
    """Textures of all photos whose landmark residual stays below `limit` (share of the box)."""
    rotation, scale, shift, identity, expression, error = fit(model, photos)
    LOGGER.info("residual, share of box: median %.4f, 90 %% %.4f", *np.percentile(error, [50, 90]))
    textures = []
    for i in np.flatnonzero(error < limit):
        with torch.no_grad():
            head = model(torch.from_numpy(identity[i]), torch.from_numpy(expression[i])).numpy()
        picture = photos.images[i]
        textures.append(unwrapper.unwrap(picture, head, rotation[i], scale[i], shift[i], rng))
    return np.stack(textures)


def main() -> None:
    """Write `textures` (n, h, w, 3) and `photos` (m, 120, 120, 3), uint8, to one npz."""
    from lifemask.facemodel import load_face_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="outside the repository")
    parser.add_argument("--aflw", type=int, default=1200)
    parser.add_argument("--ytf", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    write_textures(load_face_model("lifemask"), args)


def write_textures(model: FaceModel, args: argparse.Namespace) -> None:
    """Fit, unwrap and store; `args` as parsed by `main`."""
    rng = np.random.default_rng(args.seed)
    rig = create_rig(model)
    unwrapper = Unwrapper(rig, load_skins(args.data / "skins", rig))
    aflw = aflw_photos(args.data / "aflw21", args.aflw, rng)
    ytf = ytf_photos(args.data / "ytf68", args.ytf, rng)
    textures = [
        unwrap_all(model, unwrapper, aflw, rng, 0.042),
        unwrap_all(model, unwrapper, ytf, rng, 0.028),
    ]
    photos = np.stack(
        [np.asarray(Image.fromarray(p).resize((120, 120))) for p in aflw.images[:800]]
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("wb") as file:
        np.savez(file, textures=np.concatenate(textures), photos=photos)
    LOGGER.info("%d + %d textures", len(textures[0]), len(textures[1]))


if __name__ == "__main__":
    main()
