"""The solid that a head's skin bounds, in the cube: closed surface, two eyeballs, distances.

The skin's holes (mouth, eyes, neck) are closed by fans, teeth and tongue are left out, and each
eyeball is the ball that fits its vertices best: a photo shows the eye, not a plane between lids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lifemask.assets import UserError

if TYPE_CHECKING:
    from lifemask.facemodel.base import FaceModel
    from lifemask.graphics.subdivide import FineMesh
    from lifemask.types import Camera

OUTSIDES = ("skin", "back_head")
"""Parts whose faces may bound a head."""
INSIDES = ("inner_mouth", "eye_socket_interior")
"""Regions whose faces are no outer surface."""


@dataclass(frozen=True)
class Frame:
    """Where a crop's cube lies: `x = (u + 0.5) 2 / size - 1`, `y` likewise upwards, `z` nearness.

    Attributes:
        camera: scaled orthographic, model frame to crop px.
        size: side of the crop in px.
        z_mid: what is taken off z, half-crops.
    """

    camera: Camera
    size: int
    z_mid: float

    def to_cube(self, points_mm: torch.Tensor) -> NDArray[np.float64]:
        """Points (n, 3) of the model frame in the cube."""
        from lifemask.graphics.camera import camera_like, project

        points = points_mm.double()
        u, v, w = project(points, camera_like(self.camera, points)).unbind(-1)
        k = 2 / self.size
        return torch.stack(
            ((u + 0.5) * k - 1, 1 - (v + 0.5) * k, w * k - self.z_mid), -1
        ).numpy()  # fmt: skip


def middle_depth(model: FaceModel, vertices_mm: torch.Tensor, camera: Camera, size: int) -> float:
    """`z_mid` of a head: midway between the nearest and farthest vertex of its face, half-crops."""
    from lifemask.graphics.camera import project

    w = project(vertices_mm[face_vertices(model)], camera)[:, 2]
    return float(w.max() + w.min()) / size


def face_vertices(model: FaceModel) -> torch.Tensor:
    """Mask (v,) of the vertices of a model's region "face"; of all where it names none."""
    everything = torch.ones(len(model.topology.mirror), dtype=torch.bool)
    return model.topology.regions.get("face", everything)


def outer_faces(model: FaceModel) -> torch.Tensor:
    """Mask (f,) of the model's triangles that bound the head: skin, without mouth and sockets."""
    topology = model.topology
    parts = [k for k, name in enumerate(topology.part_names) if name in OUTSIDES]
    outer = torch.isin(topology.face_part, torch.tensor(parts))
    for name in INSIDES:
        if name in topology.regions:
            outer &= ~topology.regions[name][topology.faces].all(1)
    return outer


def boundary_loops(faces: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Loops of vertices around the holes of a mesh, in the order that closing faces need.

    A fan (loop[i], loop[i + 1], centre) has the same sense as the mesh's own faces.
    """
    half = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    base = int(faces.max()) + 1
    key, opposite = half[:, 0] * base + half[:, 1], half[:, 1] * base + half[:, 0]
    open_edges = half[~np.isin(key, opposite)]
    after = dict(zip(open_edges[:, 1].tolist(), open_edges[:, 0].tolist(), strict=True))
    loops = []
    while after:
        start, here = next(iter(after.items()))
        loop = [start]
        del after[start]
        while here != start:
            loop.append(here)
            here = after.pop(here)
        loops.append(np.array(loop, np.int64))
    return loops


def loop_centres(
    vertices: NDArray[np.float64], loops: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Middles (h, 3) of closed lines through vertices, each part counted by its length."""
    centres = []
    for loop in loops:
        here, after = vertices[loop], vertices[np.roll(loop, -1)]
        length = np.linalg.norm(after - here, axis=1)
        centres.append((length[:, None] * (here + after)).sum(0) / (2 * length.sum()))
    return np.array(centres).reshape(-1, 3)


def neighbours(faces: NDArray[np.int64]) -> NDArray[np.int32]:
    """Faces (f, 3) across the edges of each face of a closed mesh."""
    half = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    base = int(faces.max()) + 1
    key, opposite = half[:, 0] * base + half[:, 1], half[:, 1] * base + half[:, 0]
    order = np.argsort(key)
    place = order[np.searchsorted(key[order], opposite)]
    return (place % len(faces)).reshape(3, -1).T.astype(np.int32).copy()


def fit_ball(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre and radius (4,) of the sphere nearest to points (n, 3), by linear least squares."""
    a = np.concatenate([2 * points, np.ones((len(points), 1))], 1)
    solution, *_ = np.linalg.lstsq(a, (points**2).sum(1), rcond=None)
    centre = solution[:3]
    return np.append(centre, np.sqrt(solution[3] + centre @ centre))


@dataclass(frozen=True)
class Solid:
    """A closed head in the cube.

    Attributes:
        vertices: (v, 3) float64.
        faces: (f, 3) int64, counter-clockwise from outside, without holes.
        skin: number of faces that are skin; those after them close holes.
        balls: (e, 4) centres and radii of the eyeballs.
        beside: (f, 3) int32 the faces across the edges of each.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    skin: int
    balls: NDArray[np.float64]
    beside: NDArray[np.int32]

    @property
    def corners(self) -> NDArray[np.float64]:
        """(f, 3, 3) corners of the faces."""
        return np.ascontiguousarray(self.vertices[self.faces])

    def winding(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        """Winding number (n,) of the closed skin about points (n, 3): 1 inside, 0 outside."""
        from lifemask.data._pairs_kernels import winding_numbers

        points = np.ascontiguousarray(points, np.float64)
        out = np.zeros(len(points), np.int32)
        if not len(points):
            return out
        cells, low = 64, points[:, :2].min(0)
        step = max(float(np.ptp(points[:, :2], axis=0).max()), 1e-9) / cells * (1 + 1e-9)
        ij = np.clip(((points[:, :2] - low) / step).astype(np.int64), 0, cells - 1)
        cell = ij[:, 0] * cells + ij[:, 1]
        order = np.argsort(cell, kind="stable")
        ends = np.searchsorted(cell[order], np.arange((cells + 1) * cells))
        winding_numbers(
            self.vertices, self.faces, points, low, step, ends.reshape(cells + 1, cells), order, out
        )
        return out

    def ball_distance(self, points: NDArray) -> NDArray[np.float64]:
        """Signed distance (n,) to the nearest eyeball, infinite without any."""
        out = np.full(len(points), np.inf)
        for ball in self.balls:
            out = np.minimum(out, np.linalg.norm(points - ball[:3], axis=1) - ball[3])
        return out

    def distance(self, points: NDArray) -> NDArray[np.float64]:
        """Signed distance (n,) of points (n, 3), half-crops, positive outside.

        Raises:
            UserError: libigl is not installed.
        """
        try:
            import igl
        except ImportError as error:
            raise UserError("distances need: pip install 'lifemask[eval]'") from error
        points = np.ascontiguousarray(points, np.float64)
        squared = igl.point_mesh_squared_distance(points, self.vertices, self.faces)[0]
        unsigned = np.sqrt(np.maximum(squared, 0))
        signed = np.where(self.winding(points) > 0.5, -unsigned, unsigned)
        return np.minimum(signed, self.ball_distance(points))

    def normals(self) -> NDArray[np.float64]:
        """(v, 3) unit normals of the skin; the fans do not count."""
        from lifemask.graphics.mesh import vertex_normals

        skin = torch.from_numpy(self.faces[: self.skin])
        return vertex_normals(torch.from_numpy(self.vertices), skin).numpy()

    def front(self, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Depth (size, size) and normals (size, size, 3) of the surface that the viewer sees.

        Depth is z in the cube at the pixels' centres, NaN where there is nothing; normals are unit,
        0 there.
        """
        from lifemask.graphics.rasterize import barycentric_at_pixels, interpolate, rasterize

        k = size / 2
        screen = np.stack(
            [(self.vertices[:, 0] + 1) * k - 0.5, (1 - self.vertices[:, 1]) * k - 0.5,
             self.vertices[:, 2]], 1,
        )  # fmt: skip
        points = torch.from_numpy(screen).float()[None]
        faces = torch.from_numpy(self.faces)
        ids = rasterize(points, faces, size, size, cull_backfaces=True).face_ids
        weights = barycentric_at_pixels(points, faces, ids)
        values = torch.from_numpy(np.concatenate([self.vertices[:, 2:], self.normals()], 1))
        shown = interpolate(values.float()[None], faces, ids, weights)[0].numpy()
        face = ids[0].numpy()
        depth = np.where(face >= 0, shown[..., 0], np.nan).astype(np.float32)
        normals = shown[..., 1:].copy()
        flat = face >= self.skin
        normals[flat] = self._flat_normals(face[flat])
        self._put_balls(depth, normals)
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        return depth, (normals / np.maximum(length, 1e-6)).astype(np.float32)

    def _flat_normals(self, faces: NDArray) -> NDArray[np.float64]:
        a, b, c = np.moveaxis(self.vertices[self.faces[faces]], 1, 0)
        return np.cross(b - a, c - a)

    def _put_balls(self, depth: NDArray[np.float32], normals: NDArray[np.float32]) -> None:
        """Draw the eyeballs into both maps, where they are nearest."""
        size = len(depth)
        middle = (np.arange(size) + 0.5) * 2 / size - 1
        for x, y, z, radius in self.balls:
            dx, dy = middle[None] - x, (-middle)[:, None] - y
            inside = radius**2 - dx**2 - dy**2
            front = z + np.sqrt(np.maximum(inside, 0))
            nearest = (inside > 0) & ~(front < depth)
            depth[nearest] = front[nearest]
            ball = np.stack(np.broadcast_arrays(dx, dy, front - z), -1)
            normals[nearest] = ball[nearest] / radius


@dataclass(frozen=True)
class SolidPlan:
    """How the solids of a mesh are closed; the same for all its shapes.

    Attributes:
        used: (u,) vertices of the mesh that the solid keeps.
        loops: of them, by place in `used`, around the holes.
        faces: (f, 3) into `used` and one more vertex for each loop.
        skin: number of faces before the fans.
        beside: (f, 3) see `Solid`.
        eyes: masks (v,) of vertices of the head before subdivision.
    """

    used: NDArray[np.int64]
    loops: tuple[NDArray[np.int64], ...]
    faces: NDArray[np.int64]
    skin: int
    beside: NDArray[np.int32]
    eyes: tuple[torch.Tensor, ...] = ()

    def solid(
        self, vertices: NDArray[np.float64], balls: NDArray[np.float64] | None = None
    ) -> Solid:
        """The solid of one shape: vertices (v, 3) of the mesh, in the cube, and eyeballs (e, 4)."""
        skin = vertices[self.used]
        closed = np.concatenate([skin, loop_centres(skin, self.loops)])
        empty = np.zeros((0, 4))
        return Solid(closed, self.faces, self.skin, empty if balls is None else balls, self.beside)


def plan_solid(faces: NDArray[np.int64], eyes: Sequence[torch.Tensor] = ()) -> SolidPlan:
    """How to close a mesh with a fan over each of its holes.

    Args:
        faces: (f, 3), counter-clockwise from outside.
        eyes: see `SolidPlan`.
    """
    used, compact = np.unique(faces, return_inverse=True)
    compact = compact.reshape(-1, 3).astype(np.int64)
    loops = boundary_loops(compact)
    fans = [
        np.stack([loop, np.roll(loop, -1), np.full(len(loop), len(used) + k)], 1)
        for k, loop in enumerate(loops)
    ]
    closed = np.concatenate([compact, *fans])
    return SolidPlan(used, tuple(loops), closed, len(compact), neighbours(closed), tuple(eyes))


def plan_head(model: FaceModel, fine: FineMesh) -> SolidPlan:
    """The plan of a model's subdivided heads, of which `fine` is one."""
    faces = fine.faces[outer_faces(model)[fine.parent]].long().numpy()
    return plan_solid(faces, eye_vertices(model))


def head_solid(plan: SolidPlan, fine: FineMesh, head_mm: torch.Tensor, frame: Frame) -> Solid:
    """The solid of a head with relief.

    Args:
        plan: of its model.
        fine: its subdivided mesh, model frame.
        head_mm: (v, 3) the head before that, for the eyeballs.
        frame: places the cube.
    """
    balls = [fit_ball(frame.to_cube(head_mm[ids])) for ids in plan.eyes]
    return plan.solid(frame.to_cube(fine.vertices), np.array(balls).reshape(-1, 4))


def eye_vertices(model: FaceModel) -> list[torch.Tensor]:
    """Masks (v,) of the vertices of the eyeballs at +x and at -x; none where it has no eyes."""
    balls = model.topology.regions.get("eyeballs")
    if balls is None:
        return []
    zero = torch.zeros(model.identity_size), torch.zeros(len(model.expression_names))
    with torch.no_grad():
        right = model(*zero)[:, 0] > 0
    return [balls & right, balls & ~right]
