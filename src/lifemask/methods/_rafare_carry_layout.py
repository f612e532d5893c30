"""What carrying a surface onto a head needs of the head model alone: texels, trust, eyes, mouth."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lifemask.facemodel.base import FaceModel, Topology
from lifemask.graphics.mesh import corners, face_areas, unique_edges, vertex_normals
from lifemask.graphics.subdivide import refine
from lifemask.graphics.uv import UvAtlas, create_uv_atlas

TIMES = 2
"""Subdivisions of the face whose texels are matched: a surface of curves, not of facets."""
BORDER_MM, RIM_MM = 14.0, 3.0
"""A surface is believed more and more over these widths: from the face's end, and from the inner
edges of lips and lids."""
REST_MM = 25.0
"""So far beyond the face the head stays as it was."""


@dataclass(frozen=True)
class EyeLayout:
    """One eye.

    Attributes:
        rim: (k,) vertices of the lids' inner edge.
        socket: (s,) vertices of the skin behind it.
        ball: (b,) vertices of the eyeball.
    """

    rim: Int[Tensor, "k"]
    socket: Int[Tensor, "s"]
    ball: Int[Tensor, "b"]


@dataclass(frozen=True)
class CarryLayout:
    """A face model prepared for carrying; v vertices, t texels of the face's skin.

    Attributes:
        faces: (f, 3) the model's faces with a vertex of the face.
        faces_uv: (f, 3) their ids into `uvs`.
        uvs: (u, 2) of the model.
        atlas: texels of these faces, subdivided.
        corner_ids: (t, 3) vertices of the model's face that each texel lies in.
        corner_weights: (t, 3) its barycentrics there.
        texel_mm: typical side of a texel on the mean head.
        skin: (v,) vertices that deform; all others move as a whole with their surroundings.
        trust: (v,) in [0, 1], how far a surface may move a vertex: 1 on open skin.
        rest: (v,) in [0, 1], how firmly a vertex stays: 0 in the face, 1 far from it.
        mirror: (v,) vertex on the other side.
        red: (r,) vertices of the lips, their inner edge and what lies just behind it.
        eyes: what moves with each eyeball.
        mouth: upper teeth, then lower teeth and tongue: vertices that move as a whole, and those
            of that lip's inner edge, which they move with.
    """

    faces: Int[Tensor, "f 3"]
    faces_uv: Int[Tensor, "f 3"]
    uvs: Float[Tensor, "u 2"]
    atlas: UvAtlas
    corner_ids: Int[Tensor, "t 3"]
    corner_weights: Float[Tensor, "t 3"]
    texel_mm: float
    skin: Bool[Tensor, "v"]
    trust: Float[Tensor, "v"]
    rest: Float[Tensor, "v"]
    mirror: Int[Tensor, "v"]
    red: Int[Tensor, "r"]
    eyes: tuple[EyeLayout, ...]
    mouth: tuple[tuple[Int[Tensor, "m"], Int[Tensor, "l"]], ...]

    def smooth_face(self, vertices_mm: Float[Tensor, "v 3"]) -> tuple[Tensor, Tensor]:
        """Points and unit normals (t, 3) of the texels on the rounded surface of a head."""
        fine = refine(vertices_mm, self.faces, self.uvs, self.faces_uv, TIMES)
        normals = vertex_normals(fine.vertices, fine.faces)
        rows = self.atlas.interpolate(torch.cat((fine.vertices, normals), dim=-1))
        return rows[:, :3].contiguous(), functional.normalize(rows[:, 3:], dim=-1)

    def at_texels(self, values: Float[Tensor, "v"]) -> Float[Tensor, "t"]:
        """Values of vertices, linear over the model's faces."""
        return (values[self.corner_ids] * self.corner_weights).sum(-1)


_LAYOUTS: WeakKeyDictionary[FaceModel, dict[int, CarryLayout]] = WeakKeyDictionary()


@torch.no_grad()
def carry_layout(model: FaceModel, size: int) -> CarryLayout:
    """The layout of a model with a region "face", made once per model and size, on the CPU.

    Args:
        model: the regions "lips", "inner_mouth", "eye_socket_interior" and "eyeballs" are used
            where it has them.
        size: side of the square of texels.
    """
    made = _LAYOUTS.setdefault(model, {})
    if size not in made:
        made[size] = _create(model, size)
    return made[size]


def _create(model: FaceModel, size: int) -> CarryLayout:
    zero = torch.zeros(model.identity_size), torch.zeros(len(model.expression_names))
    device = next((b.device for b in model.buffers()), torch.device("cpu"))
    mean = model(*(z.to(device) for z in zero)).float().cpu()
    topology = model.topology
    all_faces, all_uv = topology.faces.long().cpu(), topology.faces_uv.long().cpu()
    face = topology.regions["face"].cpu()
    chosen = (topology.face_part.cpu() == 0) & face[all_faces].any(1)
    faces, faces_uv, uvs = all_faces[chosen], all_uv[chosen], topology.uvs.float().cpu()
    fine = refine(mean, faces, uvs, faces_uv, TIMES)
    atlas = create_uv_atlas(fine.uvs, fine.faces_uv, fine.faces, size)
    parent = fine.parent[atlas.face_ids.long()]
    parts = _components(all_faces, len(mean))
    skin = torch.isin(parts, parts[face].unique())
    lips, eyes = _rims(topology, all_faces, mean)
    rims = torch.cat([lips, *(eye.rim for eye in eyes)])
    trust, rest = _trust(mean, face, skin, _cavities(topology, face), rims)
    balls = torch.zeros_like(skin)
    for eye in eyes:
        balls[eye.ball] = True
    area = face_areas(mean, faces).sum()
    return CarryLayout(
        faces=faces,
        faces_uv=faces_uv,
        uvs=uvs,
        atlas=atlas,
        corner_ids=faces[parent],
        corner_weights=_place_in_chart(atlas, corners(uvs, faces_uv)[parent]),
        texel_mm=float((area / len(atlas)).sqrt()),
        skin=skin,
        trust=trust,
        rest=rest,
        mirror=topology.mirror.long().cpu(),
        red=_red(topology, all_faces, lips),
        eyes=eyes,
        mouth=_mouth(mean, all_faces, parts, ~skin & ~balls, lips),
    )


def _place_in_chart(atlas: UvAtlas, triangles: Float[Tensor, "t 3 2"]) -> Float[Tensor, "t 3"]:
    """Barycentrics of the texels' centres in triangles of the chart."""
    centre = torch.stack((atlas.columns + 0.5, atlas.size - 0.5 - atlas.rows), -1) / atlas.size
    a, b, c = triangles.double().unbind(1)
    to_b, to_c, to_p = b - a, c - a, centre - a
    doubled = to_b[:, 0] * to_c[:, 1] - to_b[:, 1] * to_c[:, 0]
    along_b = (to_p[:, 0] * to_c[:, 1] - to_p[:, 1] * to_c[:, 0]) / doubled
    along_c = (to_b[:, 0] * to_p[:, 1] - to_b[:, 1] * to_p[:, 0]) / doubled
    weights = torch.stack((1 - along_b - along_c, along_b, along_c), -1).clamp(0, 1)
    return (weights / weights.sum(-1, keepdim=True)).float()


def _components(faces: Tensor, count: int) -> Int[Tensor, "v"]:
    """A number (v,) for each connected part of a mesh."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = unique_edges(faces).numpy()
    links = coo_matrix((np.ones(len(edges)), tuple(edges.T)), shape=(count, count))
    return torch.from_numpy(connected_components(links, directed=False)[1]).long()


def _cavities(topology: Topology, face: Tensor) -> Bool[Tensor, "v"]:
    """Mouth and eye sockets."""
    inside = torch.zeros_like(face)
    for name in ("inner_mouth", "eye_socket_interior"):
        if name in topology.regions:
            inside |= topology.regions[name].cpu()
    return inside & ~face


def _rims(topology: Topology, faces: Tensor, mean: Tensor) -> tuple[Tensor, tuple[EyeLayout, ...]]:
    """The lips' inner edge, and what belongs to each eye."""
    edges = torch.cat([e := unique_edges(faces), e.flip(1)])
    regions = {name: mask.cpu() for name, mask in topology.regions.items()}
    none = torch.zeros_like(regions["face"])

    def rim(cavity: Tensor) -> Tensor:
        """The face's vertices beside a cavity."""
        meets = edges[regions["face"][edges[:, 0]] & cavity[edges[:, 1]]]
        return meets[:, 0].unique()

    socket, ball = (regions.get(n, none) for n in ("eye_socket_interior", "eyeballs"))
    eyes = []
    for side in (mean[:, 0] < 0, mean[:, 0] > 0):
        if (socket & side).any() and (ball & side).any():
            ids = [(mask & side).nonzero()[:, 0] for mask in (socket, ball)]
            eyes.append(EyeLayout(rim(socket & side), *ids))
    return rim(regions.get("inner_mouth", none)), tuple(eyes)


def _red(topology: Topology, faces: Tensor, rim: Tensor) -> Int[Tensor, "r"]:
    """The vertices of the lips, and those beside their inner edge."""
    if not len(rim):
        return rim
    beside = faces[torch.isin(faces, rim).any(1)].unique()
    lips = topology.regions.get("lips", torch.zeros(0)).cpu().nonzero()[:, 0]
    return torch.cat((lips, beside)).unique()


def _mouth(
    mean: Tensor, faces: Tensor, parts: Tensor, inside: Tensor, lips: Tensor
) -> tuple[tuple[Tensor, Tensor], ...]:
    """What lies behind the upper and behind the lower lip, by its connected parts."""
    if not len(lips) or not inside.any():
        return ()
    down = vertex_normals(mean, faces)[lips, 1] < 0
    height = torch.zeros(int(parts.max()) + 1).index_add(0, parts, mean[:, 1])
    above = (height / torch.bincount(parts))[parts] > mean[lips, 1].mean()
    halves = ((inside & above, lips[down]), (inside & ~above, lips[~down]))
    return tuple((mask.nonzero()[:, 0], rim) for mask, rim in halves if mask.any() and len(rim))


def _trust(
    mean: Tensor, face: Tensor, skin: Tensor, cavities: Tensor, rims: Tensor
) -> tuple[Tensor, Tensor]:
    """How far each vertex (v,) may be moved, and how firmly it stays."""
    beyond = skin & ~face & ~cavities
    trust = face.float() * _rise(_distance(mean, mean[beyond]), BORDER_MM)
    trust = trust * _rise(_distance(mean, mean[rims]), RIM_MM)
    rest = beyond.float() * _rise(_distance(mean, mean[face]), REST_MM)
    return trust, rest


def _distance(points: Tensor, others: Tensor) -> Float[Tensor, "p"]:
    """To the nearest of some points, mm; infinite if there are none."""
    if not len(others):
        return torch.full((len(points),), torch.inf)
    return torch.cdist(points, others).amin(1)


def _rise(distance: Tensor, width: float) -> Tensor:
    """0 at 0, 1 from `width` on, smooth between."""
    t = (distance / width).clamp(0, 1)
    return t * t * (3 - 2 * t)
