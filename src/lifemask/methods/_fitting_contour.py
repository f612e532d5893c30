"""Jaw landmarks that slide with pose: candidates on strips of the cheek, chosen at the silhouette.

A 2D annotator clicks the jaw points 0-16 on the visible outline, which wanders over the cheek as
the head turns. Each jaw point therefore gets a strip: where a plane through its place on the jaw
and a point in the middle of the face cuts the mesh. The strip's point that lies furthest out in
the image meets the click. (Zhu et al., "High-fidelity pose and expression normalization", CVPR
2015, march along such parallels; here "out" is the outline's own normal in the photo, so that by
the envelope theorem the choice does not disturb the derivative.)
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.graphics.pose import project_with_jacobian
from lifemask.methods._fitting_surface import SurfacePoints, surface_points, vertex_basis
from lifemask.types import Camera

JAW = slice(0, 17)
_CHIN, _SUBNASAL = 8, 33
_INWARD_SIDE, _INWARD_CHIN = 0.5, 0.3  # how far a strip runs from the jaw to the middle


@dataclass(frozen=True)
class ContourStrips:
    """Candidate surface points of the 17 jaw landmarks.

    Attributes:
        points: m candidates.
        strip: (m,) index 0-16 of the landmark that a candidate belongs to.
    """

    points: SurfacePoints
    strip: Int[Tensor, " m"]


_CACHE: weakref.WeakKeyDictionary[FaceModel, ContourStrips] = weakref.WeakKeyDictionary()


def contour_strips(model: FaceModel) -> ContourStrips:
    """Strips of a model that has landmark set "ict68"; kept until the model is freed.

    The outer end is the jaw of "ibug68-3d-bfm" where the model has it (it lies behind ours).
    """
    if model not in _CACHE:
        _CACHE[model] = _build(model)
    return _CACHE[model]


def _build(model: FaceModel) -> ContourStrips:
    mean = vertex_basis(model).mean.double()
    inner = model.landmarks(mean, "ict68")
    has_outer = "ibug68-3d-bfm" in model.landmark_embeddings
    outer = model.landmarks(mean, "ibug68-3d-bfm") if has_outer else inner
    edges = _skin_edges(model)
    ids, weights, strips = [], [], []
    for j in range(17):
        for name in ("ict68", "ibug68-3d-bfm") if has_outer else ("ict68",):
            embedding = model.landmark_embeddings[name]
            ids.append(embedding.vertex_ids[j][None])
            weights.append(embedding.barycentric[j][None].double())
            strips.append(j)
        middle = inner[_SUBNASAL].clone()
        middle[1] = 0.6 * inner[j, 1] + 0.4 * middle[1]
        middle[0] = 0.5 * (inner[0, 0] + inner[16, 0])
        reach = _INWARD_CHIN if abs(j - _CHIN) <= 1 else _INWARD_SIDE
        corner, share = _cut(mean, edges, inner[j], outer[j], middle, reach)
        ids.append(torch.cat((corner, corner[:, :1]), -1))
        weights.append(torch.stack((1 - share, share, torch.zeros_like(share)), -1))
        strips += [j] * len(corner)
    points = surface_points(model, torch.cat(ids), torch.cat(weights))
    return ContourStrips(points, torch.tensor(strips, device=mean.device))


def _skin_edges(model: FaceModel) -> Int[Tensor, "e 2"]:
    """Edges of the face region's outer skin, each once."""
    topology = model.topology
    mask = topology.regions["face"]
    faces = topology.faces[mask[topology.faces].all(-1)]
    edges = torch.cat((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    return torch.unique(edges.sort(-1).values, dim=0)


def _cut(
    mean: Tensor, edges: Tensor, inner: Tensor, outer: Tensor, middle: Tensor, reach: float
) -> tuple[Int[Tensor, "k 2"], Float[Tensor, " k"]]:
    """Edges cut by the plane (inner, outer or depth axis, middle), and where along each."""
    along = middle - inner
    back = outer - inner
    if back.norm() < 5:
        back = mean.new_tensor([0.0, 0.0, -1.0])
    normal = torch.linalg.cross(along, back)
    height = (mean - inner) @ (normal / normal.norm())
    first, second = edges.unbind(-1)
    crossing = (height[first] > 0) != (height[second] > 0)
    first, second = first[crossing], second[crossing]
    share = height[first] / (height[first] - height[second])
    place = torch.lerp(mean[first], mean[second], share[:, None]) - inner
    inward = place @ along / (along @ along)
    near = place.norm(dim=-1) < 90
    furthest_back = min(float(outer[2] - inner[2]), 0.0) - 2
    keep = near & (inward < reach) & (place[:, 2] > furthest_back)
    keep &= (place[:, 0] + inner[0]) * inner[0] > -100  # the own side of the face, chin aside
    return torch.stack((first, second), -1)[keep], share[keep]


def outline_normals(outline: Float[Tensor, "17 2"]) -> Float[Tensor, "17 2"]:
    """Unit normals of the clicked outline that point away from the face, in photo px axes."""
    padded = torch.cat((outline[:1], outline, outline[-1:]))
    tangent = padded[2:] - padded[:-2]
    normal = torch.stack((-tangent[:, 1], tangent[:, 0]), -1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    down = outline[_CHIN - 2 : _CHIN + 3].mean(0) - 0.5 * (outline[0] + outline[-1])
    # Along the outline from image left to right the face lies on the left of the walk: the normal
    # turned by +90 degrees points down and out at the chin.
    sign = torch.sign((normal[_CHIN] * down).sum())
    return normal * torch.where(sign == 0, 1.0, sign)


def slide(
    strips: ContourStrips,
    coefficients: Float[Tensor, " p"],
    camera: Camera,
    normals: Float[Tensor, "17 2"],
) -> SurfacePoints:
    """The 17 candidates that lie furthest out along the outline's normals.

    Args:
        strips: candidates.
        coefficients: (p,) of the face model.
        camera: unbatched.
        normals: (17, 2) unit, outward.

    Returns:
        17 surface points.
    """
    image, _, _ = project_with_jacobian(strips.points.at(coefficients), camera)
    height = (image[:, :2] * normals[strips.strip]).sum(-1)
    table = height.new_full((17, len(height)), -torch.inf)
    table[strips.strip, torch.arange(len(height), device=height.device)] = height
    return strips.points.select(table.argmax(-1))
