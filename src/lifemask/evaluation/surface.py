"""Distances between points and surfaces, and the motions that bring them together: ICP.

All arrays are numpy float64 in one frame and one unit, millimetres where it matters. Closest points
are exact points of triangles (libigl), not of vertices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.graphics.mesh import face_normals
from lifemask.graphics.pose import similarity

Metric = Literal["point", "plane"]
IcpStatus = Literal["converged", "iterations", "collapsed"]

_SCALE_RANGE = (0.2, 5.0)  # relative to the start; beyond it the source shrank to a point
_MIN_PAIRS = 4
_ROUNDING = 1e-12  # of the surface's coordinates: an error this small is 0


@dataclass(frozen=True)
class Similarity:
    """The map `x -> scale R x + translation`.

    Attributes:
        scale: positive; 1 for a rigid motion.
        rotation: (3, 3), orthonormal with determinant +1.
        translation: (3,).
    """

    scale: float
    rotation: Float[ndarray, "3 3"]
    translation: Float[ndarray, "3"]

    @classmethod
    def identity(cls) -> Similarity:
        """The map that changes nothing."""
        return cls(1.0, np.eye(3), np.zeros(3))

    def apply(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Moved points (n, 3) float64."""
        return self.scale * np.asarray(points, np.float64) @ self.rotation.T + self.translation

    def compose(self, first: Similarity) -> Similarity:
        """The map that applies `first`, then this one."""
        return Similarity(
            self.scale * first.scale,
            self.rotation @ first.rotation,
            self.apply(first.translation[None])[0],
        )

    def inverse(self) -> Similarity:
        """The map that undoes this one."""
        turned = self.rotation.T @ self.translation
        return Similarity(1.0 / self.scale, self.rotation.T, -turned / self.scale)


@dataclass(frozen=True)
class Closest:
    """For each query point its nearest point of a surface.

    Attributes:
        distance: (n,) at least 0.
        point: (n, 3) on the surface.
        face: (n,) id of the triangle that holds it.
    """

    distance: Float[ndarray, "n"]
    point: Float[ndarray, "n 3"]
    face: Int[ndarray, "n"]


class SurfaceTree:
    """A surface that is asked many times; the search tree is built once."""

    def __init__(self, vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]) -> None:
        """Build the tree.

        Args:
            vertices: (v, 3).
            faces: (f, 3) vertex ids; degenerate faces count as segments or points.

        Raises:
            UserError: libigl is not installed.
            ValueError: no faces, ids out of range, or vertices that are not finite.
        """
        self.vertices = np.ascontiguousarray(vertices, dtype=np.float64)
        self.faces = np.ascontiguousarray(faces, dtype=np.int64)
        _check_surface(self.vertices, self.faces)
        self._tree = _igl().AABB()
        self._tree.init(self.vertices, self.faces)

    def closest(self, points: Float[ndarray, "n 3"]) -> Closest:
        """The nearest point of the surface for each of (n, 3) points.

        Raises:
            ValueError: points of another shape or not finite.
        """
        points = np.ascontiguousarray(points, dtype=np.float64)
        _check_points("points", points)
        if len(points) == 0:
            return Closest(np.zeros(0), np.zeros((0, 3)), np.zeros(0, np.int64))
        found = self._tree.squared_distance(self.vertices, self.faces, points)
        squared, face, point = (np.asarray(values) for values in found)
        distance = np.sqrt(np.maximum(squared, 0.0))
        return Closest(distance.reshape(-1), point.reshape(-1, 3), face.reshape(-1))

    def normals(self) -> Float[ndarray, "f 3"]:
        """Unit normals (f, 3) of counter-clockwise faces; 0 for a degenerate face."""
        return unit_face_normals(self.vertices, self.faces)


def closest_on_surface(
    points: Float[ndarray, "n 3"], vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]
) -> Closest:
    """The nearest point of a surface for each of (n, 3) points, see `SurfaceTree`."""
    return SurfaceTree(vertices, faces).closest(points)


def unit_face_normals(
    vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]
) -> Float[ndarray, "f 3"]:
    """Unit normals (f, 3) of counter-clockwise faces; 0 for a degenerate face."""
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float64))
    return face_normals(points, torch.from_numpy(np.ascontiguousarray(faces, np.int64))).numpy()


def vertex_to_surface(
    vertices_a: Float[ndarray, "v 3"],
    faces_a: Int[ndarray, "f 3"],
    vertices_b: Float[ndarray, "w 3"],
    faces_b: Int[ndarray, "g 3"],
) -> Float[ndarray, "v_plus_w"]:
    """Distances (v + w,) of A's used vertices to surface B, then of B's to surface A.

    Vertices that no face uses are left out. The mean of all is the chamfer distance of the
    FaceScape benchmark: the side with more vertices weighs more.
    """
    a, b = SurfaceTree(vertices_a, faces_a), SurfaceTree(vertices_b, faces_b)
    a_to_b = b.closest(a.vertices[np.unique(a.faces)]).distance
    b_to_a = a.closest(b.vertices[np.unique(b.faces)]).distance
    return np.concatenate([a_to_b, b_to_a])


def similarity_from_points(
    source: Float[ndarray, "n 3"],
    target: Float[ndarray, "n 3"],
    scale: bool = True,
    weights: Float[ndarray, "n"] | None = None,
) -> Similarity:
    """The map that minimises `sum q |s R x + t - y|^2` over corresponding points.

    The rotation is proper also where a reflection would fit better (Umeyama, TPAMI 1991).

    Args:
        source: (n, 3) points x.
        target: (n, 3) points y.
        scale: False keeps the size (rigid).
        weights: (n,) non-negative q; None for equal ones.

    Raises:
        ValueError: fewer than three points, other shapes, points that are not finite, or all
            on one line, which leaves the rotation open.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    _check_points("source", x)
    _check_points("target", y)
    q = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if x.shape != y.shape or q.shape != (len(x),):
        raise ValueError(f"{len(x)} source, {len(y)} target points and {len(q)} weights")
    if not np.isfinite(q).all() or (q < 0).any() or q.sum() <= 0:
        raise ValueError("weights must be finite, not negative, and not all 0")
    q = q / q.sum()
    for name, points in (("source", x), ("target", y)):
        if _is_line(points, q):
            raise ValueError(f"the {name} points leave the rotation open: fewer than three apart")
    r, s, t = (v.numpy() for v in similarity(*(torch.from_numpy(a) for a in (x, y, q))))
    if scale:
        return Similarity(float(s), r, t)
    return Similarity(1.0, r, q @ y - r @ (q @ x))


@dataclass(frozen=True)
class IcpResult:
    """Where ICP arrived.

    Attributes:
        similarity: source to target, start included.
        rmse: over the kept points: of distances ("point") or plane distances ("plane").
        iterations: updates made.
        status: "converged"; "iterations", the limit came first; "collapsed", the start was out of
            reach: the pairs left the motion open or the scale ran away. Then `similarity` is the
            best map seen before, and its error must not be read as an alignment.
    """

    similarity: Similarity
    rmse: float
    iterations: int
    status: IcpStatus = "converged"

    @property
    def converged(self) -> bool:
        """Whether the change of the error fell below the tolerance."""
        return self.status == "converged"


def icp(
    source: Float[ndarray, "n 3"],
    vertices: Float[ndarray, "v 3"],
    faces: Int[ndarray, "f 3"],
    *,
    scale: bool = False,
    metric: Metric = "point",
    start: Similarity | None = None,
    iterations: int = 50,
    tolerance: float = 1e-6,
    trim: float = 1.0,
) -> IcpResult:
    """Iterated closest points from source points to a surface.

    "point": closed-form similarity to the closest points (Besl and McKay, TPAMI 1992). "plane":
    one Gauss-Newton step on the distances to the planes of the closest faces (Chen and Medioni,
    IVC 1992), with scale as a seventh unknown; it converges in fewer steps and slides along flat
    directions, which it leaves as they are. Pairs are sought from source to surface only, so parts
    of the surface that the source lacks do not matter, and parts of the source that the surface
    lacks do unless `trim` drops them.

    Args:
        source: (n, 3).
        vertices: (v, 3) of the target surface.
        faces: (f, 3) of the target surface.
        scale: also solve for the size.
        metric: what is minimised.
        start: first map of the source; None for the identity. ICP finds the nearest optimum only:
            begin with landmarks.
        iterations: at most.
        tolerance: stop when the RMSE changes by less than this fraction.
        trim: fraction of the closest pairs that count, in (0, 1].

    Raises:
        ValueError: bad shapes or values.
        UserError: libigl is not installed.
    """
    if not 0 < trim <= 1:
        raise ValueError(f"trim must be in (0, 1], not {trim}")
    if metric not in ("point", "plane"):
        raise ValueError(f"metric must be 'point' or 'plane', not {metric!r}")
    source = np.asarray(source, np.float64)
    _check_points("source", source)
    if len(source) < _MIN_PAIRS:
        raise ValueError(f"ICP needs at least {_MIN_PAIRS} points, not {len(source)}")
    tree = SurfaceTree(vertices, faces)
    return _iterate(source, tree, scale, metric, start, iterations, tolerance, trim)


def _iterate(
    source: ndarray,
    tree: SurfaceTree,
    scale: bool,
    metric: Metric,
    start: Similarity | None,
    iterations: int,
    tolerance: float,
    trim: float,
) -> IcpResult:
    """The loop: pair, measure, stop or move; the best map seen is returned."""
    first = current = start or Similarity.identity()
    normals = tree.normals()
    best, best_rmse, previous = first, np.inf, np.inf
    noise = _ROUNDING * float(np.abs(tree.vertices).max())
    status: IcpStatus = "iterations"
    done = 0
    for done in range(iterations + 1):
        moved = current.apply(source)
        pairs = tree.closest(moved)
        keep = _closest_share(pairs.distance, trim)
        residual, target = moved[keep] - pairs.point[keep], pairs.point[keep]
        normal = normals[pairs.face[keep]]
        along = (
            (residual * normal).sum(1) if metric == "plane" else np.linalg.norm(residual, axis=1)
        )
        rmse = float(np.sqrt(np.mean(along**2)))
        if rmse < best_rmse:
            best, best_rmse = current, rmse
        if abs(previous - rmse) <= tolerance * rmse + noise:
            status = "converged"
            break
        if done == iterations:
            break
        step = _point_step if metric == "point" else _plane_step
        update = step(moved[keep], target, normal, scale)
        if update is None or not _in_reach(update.compose(current), first):
            status = "collapsed"
            break
        previous, current = rmse, update.compose(current)
    return IcpResult(best, best_rmse, done, status)


def _closest_share(distance: ndarray, trim: float) -> ndarray:
    """Ids of the fraction of pairs that are closest, in their order."""
    count = max(int(np.ceil(trim * len(distance))), min(_MIN_PAIRS, len(distance)))
    return np.sort(np.argsort(distance, kind="stable")[:count])


def _point_step(moved: ndarray, target: ndarray, normal: ndarray, scale: bool) -> Similarity | None:
    """Closed-form update; None where the pairs leave it open."""
    try:
        return similarity_from_points(moved, target, scale)
    except ValueError:
        return None


def _plane_step(moved: ndarray, target: ndarray, normal: ndarray, scale: bool) -> Similarity | None:
    """Gauss-Newton update of `n . (s exp([r]x) p + t - q)` about the centroid of p.

    Lengths are divided by the spread of p, so that the unknowns weigh alike; directions that the
    planes do not fix stay as they are (minimum norm).
    """
    center = moved.mean(0)
    p = moved - center
    size = np.sqrt((p**2).sum(1).mean())
    if size < 1e-9:
        return None
    p = p / size
    columns = [np.cross(p, normal), normal]
    if scale:
        columns.append((p * normal).sum(1, keepdims=True))
    jacobian = np.concatenate(columns, axis=1)
    offset = -((moved - target) * normal).sum(1) / size
    step = np.linalg.lstsq(jacobian, offset, rcond=1e-10)[0]
    factor = 1.0 + step[6] if scale else 1.0
    if factor <= 0:
        return None
    rotation = _rotation(step[:3])
    return Similarity(factor, rotation, center + step[3:6] * size - factor * rotation @ center)


def _rotation(vector: ndarray) -> ndarray:
    """Rotation matrix of a rotation vector."""
    import roma

    return roma.rotvec_to_rotmat(torch.from_numpy(np.ascontiguousarray(vector))).numpy()


def _in_reach(current: Similarity, first: Similarity) -> bool:
    """Whether the size has not run away from the start's."""
    low, high = _SCALE_RANGE
    return low < current.scale / first.scale < high


def _is_line(points: ndarray, weights: ndarray) -> bool:
    """Whether weighted points span less than a plane, so that no rotation is defined."""
    centred = (points - weights @ points) * np.sqrt(weights)[:, None]
    values = np.linalg.svd(centred, compute_uv=False) if len(points) >= 3 else np.zeros(2)
    return bool(values[1] <= 1e-9 * max(values[0], 1e-12))


def _check_points(name: str, points: ndarray) -> None:
    if points.ndim != 2 or points.shape[-1] != 3:
        raise ValueError(f"{name} must be (n, 3), not {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds infinite or undefined numbers")


def _check_surface(vertices: ndarray, faces: ndarray) -> None:
    _check_points("vertices", vertices)
    if faces.ndim != 2 or faces.shape[-1] != 3 or len(faces) == 0:
        raise ValueError(f"faces must be (f > 0, 3), not {faces.shape}")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"faces name vertices outside 0..{len(vertices) - 1}")


def _igl():
    """The libigl module.

    Raises:
        UserError: not installed.
    """
    try:
        import igl
    except ImportError:
        raise UserError(
            "distances between meshes need libigl: pip install 'lifemask[eval]'"
        ) from None
    return igl
