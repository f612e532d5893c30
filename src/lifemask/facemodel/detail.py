"""Displacement detail: wrinkles tied to expressions, folds of age, pores and skin grain.

A head model is smooth. `create_detail` prepares a map over its UVs once; `Detail.displacement_mm`
then gives a height map for any expression, age and person, `Detail.normal_map` the matching
tangent-space normals and `displace` a fine mesh. Depths follow the ranges of `DetailConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from lifemask.facemodel._detail_lines import FoldLine, fold_lines
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.subdivide import FineMesh, refine
from lifemask.graphics.uv import UvAtlas, create_uv_atlas, sample_uv

BORDER_MM = 3.0
"""Detail fades to nothing over this distance towards lips, lids and the end of the skin."""
STRIPES = 26
"""Lip lines around the mouth."""


@dataclass(frozen=True)
class DetailConfig:
    """Largest depths; 0 switches a part off.

    Attributes:
        wrinkle_mm: of a wrinkle at full activation of what drives it; faces have 0.2-1.0.
        fold_mm: of a fold of age at age 1; 0.2-0.6.
        grain_mm: amplitude of band-limited skin noise; 0.05-0.2.
        skin_mm: limit of the relief read from a skin's luminance; up to 0.2.
        grain_wave_mm: shortest wavelength of the grain; never below two texels.
    """

    wrinkle_mm: float = 1.0
    fold_mm: float = 0.6
    grain_mm: float = 0.1
    skin_mm: float = 0.15
    grain_wave_mm: float = 0.9


@dataclass(frozen=True)
class _LineField:
    """A line's texels: their ids, signed distance and position along it, and the fade at ends."""

    line: FoldLine
    ids: ndarray
    distance_mm: ndarray
    along: ndarray


@dataclass(frozen=True)
class Detail:
    """A face model prepared for detail; t texels.

    Attributes:
        model: the face model.
        config: depths.
        atlas: texels of the face's skin.
        points_mm: (t, 3) texels on the mean head.
        fade: (t,) 1 on open skin, 0 on lips, lids and beyond the face.
        texel_mm: (t, 2) length of one texel step to the right and up on the mean head.
    """

    model: FaceModel
    config: DetailConfig
    atlas: UvAtlas
    points_mm: Float[ndarray, "t 3"]
    fade: Float[ndarray, "t"]
    texel_mm: Float[ndarray, "t 2"]
    _lines: tuple[_LineField, ...]
    _mouth: Float[ndarray, "t 2"]
    _chin: Float[ndarray, "t"]

    def displacement_mm(
        self,
        expression: Float[ndarray, "e"],
        age: float = 0.3,
        person: int = 0,
        luminance: Float[ndarray, "n n"] | None = None,
    ) -> Float[ndarray, "n n"]:
        """Height map over the UVs in mm along the normal, positive outward; 0 off the skin.

        Args:
            expression: (e,) activations in [0, 1], named by the model.
            age: 0 (smooth) to 1 (old); deepens folds and roughens the skin.
            person: seed of what is this person's own: which lines, how deep, how wavy.
            luminance: (n, n) linear skin luminance on the same layout; its fine structure becomes
                relief (dark is deep). None leaves it out.

        Returns:
            (n, n) float32; row 0 is v = 1.

        Raises:
            ValueError: a wrong number of activations, or an age outside [0, 1].
        """
        names = self.model.expression_names
        if len(expression) != len(names) or not 0 <= age <= 1:
            raise ValueError(f"expected {len(names)} activations and an age in [0, 1]")
        active = dict(zip(names, np.clip(expression, 0, 1).tolist(), strict=True))
        rng = np.random.default_rng([77, person])
        height = self._folds(active, age, rng)
        height += self._mouth_lines(active, age, rng) + self._pebbles(active, rng)
        height += self._grain(age, rng)
        if luminance is not None:
            height += self._relief(luminance)
        out = np.zeros((self.atlas.size, self.atlas.size), np.float32)
        out[self.atlas.rows.numpy(), self.atlas.columns.numpy()] = height * self.fade
        return out

    def normal_map(self, displacement_mm: Float[ndarray, "n n"]) -> Float[ndarray, "n n 3"]:
        """Tangent-space normals in [-1, 1] (x right, y up in the texture, z out) of a height map.

        Slopes are taken per mm on the mean head; flat skin and everything else is (0, 0, 1).
        """
        height = displacement_mm.astype(np.float64)
        down, right = np.gradient(height, axis=0), np.gradient(height, axis=1)
        rows, columns = self.atlas.rows.numpy(), self.atlas.columns.numpy()
        out = np.zeros((*displacement_mm.shape, 3), np.float32)
        out[..., 2] = 1
        slope = np.stack([right[rows, columns], -down[rows, columns]], 1) / self.texel_mm
        normal = np.concatenate([-slope, np.ones((len(slope), 1))], 1)
        out[rows, columns] = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        return out

    def _folds(self, active: dict[str, float], age: float, rng) -> ndarray:
        """Wrinkles and folds, valleys with soft rims; age deepens what expressions crease."""
        config = self.config
        height = np.zeros(len(self.points_mm))
        wave = value_noise(self.points_mm / 9.0, rng.integers(1 << 31)) - 0.5
        strength = {f.line.name: rng.uniform(0.5, 1.1) for f in self._lines}
        common = rng.uniform(0.75, 1.15)
        for field in self._lines:
            line, ids = field.line, field.ids
            drive = max((active.get(n, 0.0) * w for n, w in line.drivers.items()), default=0.0)
            own = common * strength[line.name]
            depth = config.wrinkle_mm * line.depth * own * drive * (0.55 + 0.45 * age)
            depth += config.fold_mm * line.age * own * age**1.5
            if depth <= 1e-4:
                continue
            t = (field.distance_mm + 2.2 * wave[ids]) / line.width_mm
            rim = np.exp(-0.5 * ((np.abs(t) - 2.3) / 0.9) ** 2)
            ends = np.clip(np.minimum(field.along, 1 - field.along) / 0.18 + 0.05, 0, 1)
            ends = ends * ends * (3 - 2 * ends) * (0.75 + 0.9 * wave[ids])
            height[ids] += depth * ends * (0.3 * rim - np.exp(-0.5 * t * t))
        return height

    def _mouth_lines(self, active: dict[str, float], age: float, rng) -> ndarray:
        """Fine lines that run out from the lips: a pucker's, and those of age."""
        drive = max(active.get("mouthPucker", 0.0), 0.7 * active.get("mouthFunnel", 0.0))
        depth = self.config.wrinkle_mm * 0.45 * drive + self.config.fold_mm * 0.4 * age**2.5
        phase, angle, ring = rng.uniform(0, 6.3), self._mouth[:, 0], self._mouth[:, 1]
        stripe = np.sin(STRIPES * angle + phase + 1.5 * np.sin(3 * angle + phase))
        return -depth * ring * np.clip(stripe, 0, 1) ** 2

    def _pebbles(self, active: dict[str, float], rng) -> ndarray:
        """The orange peel of a raised chin."""
        drive = active.get("mouthShrugLower", 0.0) * self.config.wrinkle_mm
        noise = value_noise(self.points_mm / 2.6, rng.integers(1 << 31)) - 0.5
        return 0.9 * drive * self._chin * noise

    def _grain(self, age: float, rng) -> ndarray:
        """Band-limited noise: pores and, on older skin, coarser leather."""
        wave = np.maximum(self.config.grain_wave_mm, 2 * self.texel_mm.max(1))
        fine = value_noise(self.points_mm / wave[:, None], rng.integers(1 << 31)) - 0.5
        coarse = value_noise(self.points_mm / 2.4, rng.integers(1 << 31)) - 0.5
        return 2 * self.config.grain_mm * (0.35 * fine + (0.15 + 0.5 * age) * coarse)

    def _relief(self, luminance: ndarray) -> ndarray:
        """High-pass of the skin's log luminance, limited to `skin_mm`."""
        from scipy.ndimage import gaussian_filter

        log = np.log(np.maximum(luminance, 1e-3))
        high = log - gaussian_filter(log, 4.0)
        rows, columns = self.atlas.rows.numpy(), self.atlas.columns.numpy()
        limit = self.config.skin_mm
        return limit * np.tanh(high[rows, columns] * 1.5) if limit else 0.0 * high[rows, columns]


def create_detail(model: FaceModel, config: DetailConfig | None = None, size: int = 1024) -> Detail:
    """Prepare a face model (about a second at 1024).

    Args:
        model: a model with landmarks "ict68", regions "face" and "lips" and UVs; its first part is
            the skin.
        config: depths; None takes the defaults.
        size: side of the maps; a texel of the default head's face is about 0.8 mm at 1024.

    Raises:
        KeyError: the model lacks the landmarks or regions.
    """
    topology = model.topology
    with torch.no_grad():
        zero = torch.zeros(model.identity_size), torch.zeros(len(model.expression_names))
        mean = model(*zero)
        lm = model.landmarks(mean, "ict68").double().numpy()
    of_face = (topology.face_part == 0) & topology.regions["face"][topology.faces.long()].any(1)
    atlas = create_uv_atlas(
        topology.uvs, topology.faces_uv, topology.faces, size, face_mask=of_face
    )
    points = atlas.interpolate(mean.double()).numpy()
    surface = mean.numpy()[topology.regions["face"].numpy()]
    lines = tuple(_line_field(line, points, surface) for line in fold_lines(lm))
    return Detail(
        model, config or DetailConfig(), atlas, points, _fade(model, mean, atlas),
        _texel_mm(atlas, points), lines, _around_mouth(points, lm), _on_chin(points, lm),
    )  # fmt: skip


def displace(
    detail: Detail,
    vertices: Float[Tensor, "v 3"],
    displacement_mm: Float[ndarray, "n n"],
    times: int = 2,
) -> FineMesh:
    """A head subdivided `times` times and moved along its normals by a height map.

    Args:
        detail: of the head's model.
        vertices: (v, 3) mm, any frame.
        displacement_mm: from `Detail.displacement_mm`.
        times: subdivisions; 2 gives edges of about 0.9 mm on the default head's face.

    Returns:
        The fine mesh of the whole head; `parent` gives each face's face of the model. Only vertices
        of the skin move.
    """
    return displaced(detail.model, vertices, torch.from_numpy(displacement_mm), times)


def displaced(
    model: FaceModel,
    vertices: Float[Tensor, "v 3"],
    displacement_mm: Float[Tensor, "n n"],
    times: int = 2,
) -> FineMesh:
    """As `displace`, for any height map over the skin's UVs of a model."""
    topology = model.topology
    fine = refine(vertices, topology.faces, topology.uvs, topology.faces_uv, times)
    texture = displacement_mm.to(vertices)[None]
    height = sample_uv(texture, fine.uvs.to(vertices))[:, 0]
    on_skin = topology.face_part[fine.parent] == 0
    corner, corner_uv = fine.faces[on_skin].long().ravel(), fine.faces_uv[on_skin].long().ravel()
    total = vertices.new_zeros(len(fine.vertices)).index_add(0, corner, height[corner_uv])
    count = torch.bincount(corner, minlength=len(total)).clamp(min=1)
    normals = vertex_normals(fine.vertices, fine.faces)
    moved = fine.vertices + (total / count)[:, None] * normals
    return FineMesh(moved, fine.faces, fine.uvs, fine.faces_uv, fine.parent)


def _line_field(line: FoldLine, points: ndarray, surface: ndarray) -> _LineField:
    """Texels within five widths of a line, measured in 3D on the mean head."""
    path = _lift(line.points_mm, surface)
    reach = 5 * line.width_mm + 3
    low, high = path.min(0) - reach, path.max(0) + reach
    ids = np.flatnonzero(((points > low) & (points < high)).all(1))
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    start = np.concatenate([[0.0], np.cumsum(lengths)])
    best = np.full(len(ids), np.inf)
    along, side = np.zeros(len(ids)), np.ones(len(ids))
    for k, (a, b) in enumerate(zip(path[:-1], path[1:], strict=True)):
        edge, p = b - a, points[ids] - a
        t = np.clip(p @ edge / lengths[k] ** 2, 0, 1)
        offset = p - t[:, None] * edge
        distance = np.linalg.norm(offset, axis=1)
        near = distance < best
        best = np.where(near, distance, best)
        along = np.where(near, (start[k] + t * lengths[k]) / start[-1], along)
        turn = edge[0] * offset[:, 1] - edge[1] * offset[:, 0]
        side = np.where(near, np.where(turn >= 0, 1.0, -1.0), side)
    keep = best < reach
    return _LineField(line, ids[keep], (best * side)[keep], along[keep])


def _lift(points_xy: ndarray, surface: ndarray) -> ndarray:
    """Points (k, 3) on the front of a surface given by its vertices."""
    distance = np.linalg.norm(surface[None, :, :2] - points_xy[:, None], axis=2)
    nearest = np.argsort(distance, axis=1)[:, :6]
    weight = 1 / (np.take_along_axis(distance, nearest, 1) + 0.3) ** 2
    z = (weight * surface[nearest, 2]).sum(1) / weight.sum(1)
    return np.concatenate([points_xy, z[:, None]], 1)


def _fade(model: FaceModel, mean: Tensor, atlas: UvAtlas) -> ndarray:
    """Smooth mask (t,): 1 on the face's open skin, 0 on lips, inside lids and outside the face."""
    from scipy.spatial import KDTree

    regions = model.topology.regions
    open_skin = regions["face"].clone()
    for name in ("lips", "inner_mouth", "eye_socket_interior", "eyeballs"):
        if name in regions:
            open_skin &= ~regions[name]
    points = mean.double().numpy()
    closed = KDTree(points[~_numpy(open_skin)])
    distance = closed.query(points, workers=1)[0]
    share = torch.from_numpy(np.clip(distance / BORDER_MM, 0, 1))[:, None]
    t = atlas.interpolate(share)[:, 0].numpy()
    return t * t * (3 - 2 * t)


def _numpy(mask: Bool[Tensor, "v"]) -> ndarray:
    return mask.numpy()


def _texel_mm(atlas: UvAtlas, points: ndarray) -> ndarray:
    """Length (t, 2) of a texel step to the right and upwards on the mean head."""
    grid = np.full((atlas.size, atlas.size, 3), np.nan)
    grid[atlas.rows.numpy(), atlas.columns.numpy()] = points
    step = np.stack([np.linalg.norm(np.diff(grid, axis=a, append=np.nan), axis=2) for a in (1, 0)])
    out = step[:, atlas.rows.numpy(), atlas.columns.numpy()].T
    typical = np.nanmedian(out, axis=0)
    return np.where(np.isnan(out), typical, np.clip(out, typical / 8, None))


def _around_mouth(points: ndarray, lm: ndarray) -> ndarray:
    """Angle about the mouth and weight (t, 2) of the ring of skin around the lips."""
    centre = lm[[51, 57]].mean(0)
    x = (points[:, 0] - centre[0]) / (0.5 * (lm[54, 0] - lm[48, 0]))
    y = (points[:, 1] - centre[1]) / (0.5 * (lm[51, 1] - lm[57, 1]))
    radius = np.hypot(x, y / 1.1)
    front = points[:, 2] > lm[48, 2] - 15
    above_or_below = np.clip(np.abs(y) / (np.abs(x) + np.abs(y) + 1e-6) * 1.8 - 0.35, 0, 1)
    ring = np.exp(-(((radius - 1.35) / 0.35) ** 2)) * front * above_or_below
    return np.stack([np.arctan2(points[:, 1] - centre[1], points[:, 0] - centre[0]), ring], 1)


def _on_chin(points: ndarray, lm: ndarray) -> ndarray:
    """Weight (t,) of the chin's pad."""
    centre = 0.55 * lm[8] + 0.45 * lm[57]
    return np.exp(-((np.linalg.norm((points - centre)[:, :2], axis=1) / 12) ** 4))


def value_noise(points: Float[ndarray, "t 3"], seed: int) -> Float[ndarray, "t"]:
    """Smooth 3D value noise in [0, 1] with features of unit size; a function of place and seed."""
    table = np.random.default_rng(seed).random(4096)
    cell = np.floor(points).astype(np.int64)
    t = points - cell
    t = t * t * (3 - 2 * t)
    primes = np.array([73856093, 19349663, 83492791])
    low = cell * primes
    keys, shares = (low, low + primes), (1 - t, t)  # of the cell's lower and upper corners
    out = np.zeros(len(points))
    for corner in range(8):
        x, y, z = corner & 1, corner >> 1 & 1, corner >> 2
        value = table[(keys[x][:, 0] ^ keys[y][:, 1] ^ keys[z][:, 2]) & 4095]
        out += value * (shares[x][:, 0] * shares[y][:, 1] * shares[z][:, 2])
    return out
