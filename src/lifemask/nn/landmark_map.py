"""The landmark map beside the crop: a fourth channel, -1 everywhere and +1 at Map-18 points.

`points` is the published map: single pixels, no gradient (Tu et al., 2DASL, code). `gaussian` puts
a blob of 1.5 px at each point, so that a loss on what the network says of its own map reaches the
pass that predicted the points.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import map18
from lifemask.graphics.mesh import face_normals

MapKind = Literal["gaussian", "points"]
REFERENCE_PX = 120.0  # crop side that lengths in px refer to
NORMAL_MM = 10.0  # standard deviation of the patch whose normal says whether a point is seen


def draw_map(
    points: Float[Tensor, "b n 2"],
    drawn: Bool[Tensor, "b n"],
    size: int,
    kind: MapKind = "gaussian",
    sigma_px: float = 1.5,
) -> Float[Tensor, "b 1 s s"]:
    """Maps (b, 1, size, size) in [-1, 1].

    Args:
        points: (b, n, 2) half-crops.
        drawn: (b, n) which points appear; none gives -1 everywhere.
        size: side of the map in px.
        kind: "gaussian", or "points": the nearest pixel, clipped to the crop.
        sigma_px: of a blob, in px of a crop of 120 px.
    """
    if kind == "points":
        return _pixels(points, drawn, size)
    line = (torch.arange(size, dtype=points.dtype, device=points.device) + 0.5) / size * 2 - 1
    sigma = sigma_px * 2 / REFERENCE_PX
    points = torch.where(drawn[..., None], points, 0.0)  # a missing point may hold anything
    across = torch.exp(-0.5 * ((line - points[..., :1]) / sigma).square())
    down = torch.exp(-0.5 * ((line - points[..., 1:]) / sigma).square())
    across = across * drawn[..., None].to(across.dtype)
    blobs = (down.transpose(1, 2) @ across).clamp_max(1.0)
    return (2 * blobs - 1)[:, None]


def _pixels(points: Tensor, drawn: Tensor, size: int) -> Tensor:
    place = ((points.detach() + 1) * (size / 2) - 0.5).round().long().clamp(0, size - 1)
    flat = place[..., 1] * size + place[..., 0]
    # not of len(points) rows: an exported graph would keep that number
    marks = torch.full_like(points[:, :1, 0], -1.0).repeat(1, size * size + 1)
    flat = torch.where(drawn, flat, size * size)  # what is not drawn goes beside the map
    marks = marks.scatter(1, flat, 1.0)
    return marks[:, :-1].view(-1, 1, size, size)


def map18_normals(model: FaceModel, convention: str) -> Float[Tensor, "18 3"]:
    """Unit normals (18, 3) of the mean face about its Map-18 points, model frame.

    Mean over the triangles within about a centimetre: the surface in the eyes' corners and on the
    rims of the lids faces any way.

    Args:
        model: any face model.
        convention: its set of 68 landmarks.
    """
    with torch.no_grad():
        mean = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
        faces, regions = model.topology.faces, model.topology.regions
        if "face" in regions:
            faces = faces[regions["face"][faces].all(1)]
        points = map18(model.landmarks(mean, convention), convention)
        apart = torch.cdist(points, mean[faces].mean(1)) / NORMAL_MM
        total = torch.exp(-0.5 * apart.square()) @ face_normals(mean, faces, unit=False)
    return torch.nn.functional.normalize(total, dim=-1)


def facing(rotation: Float[Tensor, "b 3 3"], normals: Float[Tensor, "n 3"]) -> Bool[Tensor, "b n"]:
    """Which points of a turned head face the camera: the normal's z in the camera frame is > 0."""
    return rotation.detach()[:, 2] @ normals.T > 0
