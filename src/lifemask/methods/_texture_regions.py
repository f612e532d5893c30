"""Where things are on a head: charts of the skin texture and soft masks per vertex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifemask.facemodel.base import Topology
from lifemask.faces.parsing import GLASSES, Regions


def uv_islands(topology: Topology) -> np.ndarray:
    """(f,) label of the UV chart each face belongs to; faces that share a uv share a chart."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    corners = topology.faces_uv.numpy()
    first = np.concatenate([corners[:, 0], corners[:, 0]])
    second = np.concatenate([corners[:, 1], corners[:, 2]])
    count = len(topology.uvs)
    links = coo_matrix((np.ones(len(first)), (first, second)), shape=(count, count))
    return connected_components(links, directed=False)[1][corners[:, 0]]


def skin_chart_faces(
    topology: Topology, mean_mm: Float[Tensor, "v 3"], nose_tip_mm: Float[Tensor, "3"]
) -> Bool[Tensor, "f"]:
    """Faces of the chart that holds the nose tip: face, ears, scalp and neck."""
    labels = uv_islands(topology)
    skin = topology.face_part.numpy() == topology.part_names.index("skin")
    centre = mean_mm[topology.faces.long()].mean(1)
    distance = torch.linalg.vector_norm(centre - nose_tip_mm, dim=-1).numpy()
    seed = int(np.where(skin, distance, np.inf).argmin())
    return torch.from_numpy(labels == labels[seed])


_NEAR_MM = 9.0


def chart_roles(
    topology: Topology, mean_mm: Float[Tensor, "v 3"], ict68: Float[Tensor, "68 3"]
) -> Float[Tensor, "f 2"]:
    """Per face, 1 where its chart reaches the inner lips, and 1 where it reaches an eye's rim.

    The charts beside the main one are the mouth's inside, the eye sockets and the neck's end.
    """
    labels = torch.from_numpy(uv_islands(topology))
    centre = mean_mm[topology.faces.long()].mean(1)
    roles = torch.zeros(len(labels), 2)
    for role, points in enumerate((ict68[60:68], ict68[36:48])):
        near = torch.cdist(centre, points).amin(1) < _NEAR_MM
        count = torch.bincount(labels, weights=near.double())
        roles[:, role] = (count[labels] >= 4).float()
    return roles


@dataclass(frozen=True)
class VertexMasks:
    """Soft masks (v,) in [0, 1] on the mean head; measured in mm from its landmarks.

    Attributes:
        interior: what belongs to the face whatever its colour: brows, eyes, mouth, beard.
        skin_core: bare skin that is lit like a smooth surface: cheeks, nose, lower forehead.
    """

    interior: Float[Tensor, "v"]
    skin_core: Float[Tensor, "v"]


def vertex_masks(mean_mm: Float[Tensor, "v 3"], ict68: Float[Tensor, "68 3"]) -> VertexMasks:
    """Masks from the mean head (v, 3) and its 68 landmarks (convention "ict68")."""
    p, lm = mean_mm.numpy(), ict68.numpy()
    nose = lm[30, :2]
    brows = lm[17:27, :2] + [0, 11]
    jaw = nose + (lm[1:16, :2] - nose) * [0.86, 0.97]
    outline = np.concatenate([jaw, brows[::-1]])
    front = _ramp(p[:, 2] - (lm[36, 2] - 42), 12)
    interior = _ramp(_inside_distance(p[:, :2], outline) + 2, 8) * front
    eyes = np.maximum(*(_near_eye(p, lm[k : k + 6]) for k in (36, 42)))
    brow = np.maximum(*(_near_line(p, lm[k : k + 5], 8.0) for k in (17, 22)))
    lips = _ramp(_inside_distance(p[:, :2], lm[48:60, :2]) + 2.5, 3) * front
    nostrils = _near_line(p, lm[31:36] + [0, -2, -2], 5.0)
    busy = np.maximum.reduce([eyes, brow, lips, nostrils])
    skin = _ramp(_inside_distance(p[:, :2], outline) - 2, 6) * front * (1 - busy)
    return VertexMasks(*(torch.from_numpy(m.astype(np.float32)) for m in (interior, skin)))


_HIDDEN = ("background", "mouth_interior")
_SURE = 0.3, 0.7
"""Probability from and up to which a texel counts as hidden."""


def clear_share(
    points_px: Float[Tensor, "t 2"],
    regions: Regions,
    scalp: Float[Tensor, "t"],
    around: float = 0.0,
) -> Float[Tensor, "t"]:
    """How far the photo shows the head's own surface (t,), in [0, 1], not what hides it.

    Hands, objects, cloth, frames of glasses, dark glass and the mouth's inside hide everywhere;
    hair hides except on the scalp, which wears it. Texels outside the parsed square count as clear.

    Args:
        points_px: (t, 2) where the texels lie in the photo that the regions describe.
        regions: of the photo.
        scalp: (t,) in [0, 1], where the head wears hair.
        around: the least of the places so far (share of the parsed square) left, right, above and
            below counts, too: thin strands and the soft border of what hides stay out.
    """
    if around:
        steps = points_px.new_tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
        moved = (points_px + step * around * regions.side_px for step in steps)
        return torch.stack([clear_share(points, regions, scalp) for points in moved]).amin(0)
    hidden = regions.sample(points_px, *_HIDDEN, outside=0.0)
    hair = regions.sample(points_px, "hair", outside=0.0)
    glasses = regions.sample(points_px, GLASSES, outside=0.0)
    blocked = torch.maximum(hidden + (1 - scalp) * hair, glasses)
    t = ((blocked - _SURE[0]) / (_SURE[1] - _SURE[0])).clamp(0, 1)
    return 1 - t * t * (3 - 2 * t)


def _ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """0 below 0, 1 above `width`, smooth between."""
    t = np.clip(distance / width, 0, 1)
    return t * t * (3 - 2 * t)


def _near_eye(p: np.ndarray, ring: np.ndarray) -> np.ndarray:
    center, half = ring.mean(0), np.abs(ring[3, 0] - ring[0, 0]) / 2
    radius = np.hypot((p[:, 0] - center[0]) / (half + 5), (p[:, 1] - center[1]) / (half * 0.55 + 5))
    return _ramp(1.25 - radius, 0.25) * (np.abs(p[:, 2] - center[2]) < 30)


def _near_line(p: np.ndarray, line: np.ndarray, reach: float) -> np.ndarray:
    distance = np.min(
        [_segment_distance(p, a, b) for a, b in zip(line[:-1], line[1:], strict=True)], axis=0
    )
    return _ramp(reach + 3 - distance, 3)


def _segment_distance(p: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    t = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return np.linalg.norm(p - (a + t[:, None] * (b - a)), axis=1)


def _inside_distance(p: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Signed distance (n,) to a closed polygon (k, 2), positive inside."""
    following = np.roll(polygon, -1, axis=0)
    distance = np.min(
        [_segment_distance(p, a, b) for a, b in zip(polygon, following, strict=True)], axis=0
    )
    x, y = p[:, 0, None], p[:, 1, None]
    (ax, ay), (bx, by) = polygon.T, following.T
    crosses = ((ay > y) != (by > y)) & (
        x < (bx - ax) * (y - ay) / np.where(by == ay, 1e-9, by - ay) + ax
    )
    return np.where(crosses.sum(1) % 2 == 1, distance, -distance)
