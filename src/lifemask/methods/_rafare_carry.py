"""A free surface carried onto the head model: vertices that fit it, and a map of what is finer.

The surface keeps its place in the photo and is shifted along the view until it lies on the head.
Then, from coarse to fine, each texel of the face looks along its normal for the surface, and the
smoothest field of moves that takes the texels there is solved for; the vertices take the surface's
share of it. What is too fine for them becomes a displacement map. Eyes and teeth move as a whole,
with the lids and the lips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.faces.parsing import GLASSES, Regions
from lifemask.graphics.camera import camera_for_crop, project, unproject
from lifemask.methods._rafare_carry_layout import CarryLayout, carry_layout
from lifemask.methods._rafare_carry_parts import eyes_and_mouth, keep_lids_out, pins
from lifemask.methods._rafare_carry_relief import relief_map
from lifemask.methods._rafare_carry_solve import MoveSolver, create_solver
from lifemask.methods._rafare_carry_view import (
    MeshView,
    Outline,
    facing,
    outline,
    shoot,
    view_mesh,
)
from lifemask.methods._stage import moved
from lifemask.types import Camera, FreeSurface, Geometry, ShapeDetail

LEAST_COVER = 0.2
"""Share of the face's visible skin that a surface must cover."""
MOST_TEXELS = 80_000
"""So many look for the surface while the vertices move."""
HIDDEN_MM = 2.0
"""A texel this far behind the nearest part of the head is hidden by it."""
SLANT = (0.15, 0.40)
"""Cosines to the view between which a texel becomes believable."""
OUTLINE = (-0.25, 0.05)
"""The same for texels about the silhouette, whose normals pass the surface by."""
OUTLINE_SHARE = 0.5
"""Weight of those."""
WISH = 0.5
"""Weight of the other side's moves where the photo shows nothing."""


class NoSurfaceError(UserError):
    """The photo shows too little of the face for a surface."""


@dataclass(frozen=True)
class CarryConfig:
    """How a surface is carried onto a head.

    Attributes:
        bend_mm: shortest wave of the vertices' moves in each round, falling.
        reach_mm: how far from the head the surface may lie in each round; what is farther is an
            outlier.
        max_move_mm: no vertex moves farther.
        mirror: share of the other side's moves that a hidden side takes; 0 leaves it out.
        map_size: side of the displacement map.
        relief_mm: limit of the displacement.
        band_mm: waves much longer than this are left to the vertices.
        view_px: side of the picture in which the surface is looked up.
    """

    bend_mm: tuple[float, ...] = (80.0, 40.0, 24.0, 16.0, 12.0, 10.0)
    reach_mm: tuple[float, ...] = (8.0, 8.0, 7.0, 6.0, 5.0, 5.0)
    max_move_mm: float = 9.0
    mirror: float = 1.0
    map_size: int = 1024
    relief_mm: float = 2.0
    band_mm: float = 20.0
    view_px: int = 1024


@torch.no_grad()
def carry_surface(
    geometry: Geometry,
    surface: FreeSurface,
    model: FaceModel,
    config: CarryConfig | None = None,
    regions: Regions | None = None,
) -> Geometry:
    """A head of the model in the shape of a free surface.

    Args:
        geometry: head of the model, of either camera.
        surface: of the same photo.
        model: the head's, with a region "face" and UVs.
        config: settings; None for the defaults.
        regions: of the same photo; hair and things before the face are not skin. None: all is.

    Returns:
        The geometry with moved vertices and landmarks, its `detail`, and its `surface` shifted
        along the view onto the head. Camera and parameters stay.

    Raises:
        NoSurfaceError: the surface covers too little of the face.
    """
    config = config or CarryConfig()
    device = geometry.vertices_mm.device
    scene = _create_scene(moved(geometry, "cpu"), surface, model, config, regions)
    whole = _register(scene)
    fine = replace(scene, layout=carry_layout(model, config.map_size))
    seen = fine.seen(scene.start + whole)[0]
    limits = (config.relief_mm, config.band_mm)
    relief, known = relief_map(fine.layout, scene.view, scene.start + whole, seen, *limits)
    share = scene.surface.share
    moves = whole if share == 1 else keep_lids_out(scene.layout, scene.start, share * whole)
    vertices = scene.start + moves
    has68 = "ict68" in model.landmark_embeddings
    carried = replace(
        scene.geometry,
        vertices_mm=vertices,
        landmarks68_mm=model.landmarks(vertices, "ict68") if has68 else None,
        surface=scene.surface,
        detail=ShapeDetail(moves, relief, known),
    )
    return moved(carried, str(device))


@torch.no_grad()
def free_geometry(geometry: Geometry, surface: FreeSurface, model: FaceModel) -> Geometry:
    """The surface alone as a mesh in mm, model frame, without the head that places it.

    Args:
        geometry: head of the model that says where the surface lies.
        surface: of the same photo.
        model: the head's.

    Returns:
        A geometry without model and parameters; its landmarks are the head's, moved along the view
        onto the surface where it shows them.

    Raises:
        NoSurfaceError: the surface covers too little of the face.
    """
    scene = _create_scene(moved(geometry, "cpu"), surface, model, CarryConfig(), None)
    head, landmarks = scene.geometry, None
    if head.landmarks68_mm is not None:
        behind = scene.view.nearness(head.landmarks68_mm.float()).nan_to_num(0.0)
        behind = torch.where(behind.abs() > CarryConfig().reach_mm[0], 0.0, behind)
        px = project(head.landmarks68_mm.float(), head.camera)
        px[:, 2] -= behind * px_per_mm(head.camera)
        landmarks = unproject(px, head.camera)
    free = replace(
        head,
        vertices_mm=unproject(scene.surface.vertices_px, head.camera),
        faces=scene.surface.faces,
        model="",
        params=None,
        landmarks68_mm=landmarks,
        surface=scene.surface,
        map_vertices_px=None,
        uncertainty_px=None,
    )
    return moved(free, str(geometry.vertices_mm.device))


def px_per_mm(camera: Camera) -> float:
    """Pixels of w per mm along the view (`graphics.camera.project`)."""
    if camera.model == "orthographic":
        return float(camera.scale)
    return float(camera.scale / -camera.translation[2])


@dataclass(frozen=True)
class _Scene:
    """A head, the surface on it, and the picture that both are looked up in."""

    geometry: Geometry
    surface: FreeSurface
    layout: CarryLayout
    view: MeshView
    outline: Outline
    config: CarryConfig
    regions: Regions | None

    @property
    def start(self) -> Float[Tensor, "v 3"]:
        return self.geometry.vertices_mm.float()

    def seen(self, vertices: Float[Tensor, "v 3"]) -> tuple[Float[Tensor, "t"], Float[Tensor, "t"]]:
        """How far (t,) in [0, 1] the photo shows the skin of each texel of a head.

        Returns:
            (before the camera, about the silhouette); a texel may be both.
        """
        points, normals = self.layout.smooth_face(vertices)
        slant = facing(points, normals, self.view.camera)
        head = view_mesh(vertices, self.geometry.faces, self.view.camera, self.config.view_px)
        front = head.nearness(points)  # NaN at silhouettes
        share = self.layout.at_texels(self.layout.trust)
        if self.regions is not None:
            places = project(points, self.geometry.camera)[:, :2]
            hides = self.regions.sample(places, "hair", "background", outside=1.0)
            worn = self.regions.sample(places, GLASSES, outside=0.0)
            share = share * _rise((0.8 - torch.maximum(hides, worn)) / 0.6)
        before, about = (_rise((slant - a) / (b - a)) for a, b in (SLANT, OUTLINE))
        return share * before * (front > -HIDDEN_MM), share * about * ~(front < -HIDDEN_MM)

    def ask(
        self, vertices: Float[Tensor, "v 3"], reach_mm: float
    ) -> tuple[Float[Tensor, "t 3"], Float[Tensor, "t"]]:
        """Where the surface wants the texels of a head: moves (t, 3) in mm, and their weights."""
        points, normals = self.layout.smooth_face(vertices)
        before, about = self.seen(vertices)
        hits = shoot(self.view, points, normals, reach_mm)
        weight = before * hits.found
        distance = hits.distance_mm
        passed = ((weight == 0) & (about > 0)).nonzero()[:, 0]
        near = self.outline.nearest(points[passed], normals[passed], reach_mm)
        distance[passed] = near.distance_mm
        weight[passed] = OUTLINE_SHARE * about[passed] * near.found
        agrees = (1 - (distance / reach_mm) ** 2).clamp(min=0) ** 2
        return distance[:, None] * normals, weight * agrees


def _register(scene: _Scene) -> Float[Tensor, "v 3"]:
    """The moves of all vertices onto the surface, the whole of them, from coarse to fine."""
    layout, config, start = scene.layout, scene.config, scene.start
    solver = create_solver(layout, start, scene.geometry.faces)
    moves = torch.zeros_like(start)
    wished, wish = torch.zeros_like(start), torch.zeros(len(start))
    target, weight = torch.zeros(0, 3), torch.zeros(0)
    for bend_mm, reach_mm in zip(config.bend_mm, config.reach_mm, strict=True):
        further, weight = scene.ask(start + moves, reach_mm)
        target = torch.stack([layout.at_texels(m) for m in moves.unbind(-1)], -1) + further
        moves = _limited(solver(target, weight, bend_mm, wished, wish), config.max_move_mm)
        moves = eyes_and_mouth(layout, moves)
        wished, wish = _other_side(layout, solver, moves, weight, config.mirror)
    for place, move in pins(layout, moves):
        wished[place], wish[place] = move, 10.0
    moves = solver(target, weight, config.bend_mm[-1], wished, wish)
    moves = eyes_and_mouth(layout, _limited(moves, config.max_move_mm))
    return keep_lids_out(layout, start, moves)


def _other_side(
    layout: CarryLayout, solver: MoveSolver, moves: Tensor, weight: Tensor, share: float
) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "v"]]:
    """Moves wished for what the photo hides: a share of the other side's; and how much."""
    known = solver.share((weight > 0).float(), len(moves)).clamp(0, 1)
    flipped = moves[layout.mirror] * moves.new_tensor([-1.0, 1.0, 1.0])
    wish = WISH * layout.trust * (1 - known) * known[layout.mirror] * (share > 0)
    return share * flipped, wish


def _limited(moves: Float[Tensor, "v 3"], most_mm: float) -> Float[Tensor, "v 3"]:
    length = torch.linalg.vector_norm(moves, dim=-1, keepdim=True).clamp(min=1e-9)
    return moves * (most_mm / length).clamp(max=1)


def _create_scene(
    geometry: Geometry,
    surface: FreeSurface,
    model: FaceModel,
    config: CarryConfig,
    regions: Regions | None,
) -> _Scene:
    """The surface shifted along the view onto the head, and looked at.

    Raises:
        NoSurfaceError: it covers too little of the face.
    """
    layout = _matching_layout(model, config.map_size)
    surface = FreeSurface(surface.vertices_px.float().cpu(), surface.faces.cpu(), surface.share)
    head = geometry.vertices_mm.float()
    camera = _face_camera(geometry, layout, config.view_px)
    own = view_mesh(head, geometry.faces, camera, config.view_px)
    points = layout.smooth_face(head)[0]
    front = (own.nearness(points).abs() < HIDDEN_MM) & (layout.at_texels(layout.trust) > 0.3)
    points = points[front]
    for _ in range(2):
        placed = unproject(surface.vertices_px, geometry.camera)
        view = view_mesh(placed, surface.faces, camera, config.view_px)
        nearer = view.nearness(points)
        known = nearer.isfinite()
        if float(known.sum()) < LEAST_COVER * max(len(points), 1):
            raise NoSurfaceError(
                "too little of the face is seen for a detailed surface; use --detail none"
            )
        shift = nearer[known].median() * px_per_mm(geometry.camera)
        moved_px = surface.vertices_px + surface.vertices_px.new_tensor([0.0, 0.0, 1.0]) * shift
        surface = replace(surface, vertices_px=moved_px)
    placed = unproject(surface.vertices_px, geometry.camera)
    view = view_mesh(placed, surface.faces, camera, config.view_px)
    edge = outline(placed, surface.faces, camera, OUTLINE[0])
    return _Scene(geometry, surface, layout, view, edge, config, regions)


def _matching_layout(model: FaceModel, size: int) -> CarryLayout:
    """The layout whose texels look for the surface: no more of them than the vertices need."""
    layout = carry_layout(model, size)
    while len(layout.atlas) > MOST_TEXELS:
        size //= 2
        layout = carry_layout(model, size)
    return layout


def _face_camera(geometry: Geometry, layout: CarryLayout, size: int) -> Camera:
    """The photo's camera, cut to a square about the face."""
    face = geometry.vertices_mm.float()[layout.faces.unique()]
    seen = project(face, geometry.camera)[:, :2]
    low, high = seen.amin(0), seen.amax(0)
    side = float((high - low).amax()) * 1.15
    return camera_for_crop(geometry.camera, (low + high) / 2, side, size)


def _rise(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)
