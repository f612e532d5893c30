"""What RAFaRe's networks see of a face: the crop, its regions, and a guide; and the way back.

The square crop is the front of the cube that the field lives in: `docs/conventions.md`, "The cube".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.faces.crop import crop_square, square_box
from lifemask.graphics.camera import camera_for_crop, orthographic_camera, project
from lifemask.graphics.render import draw_surface
from lifemask.nn.sdf import CLASS_GAIN, View
from lifemask.types import FACE_CLASSES, Camera, Crop, Geometry

EXPAND = 1.2
"""Side of the crop in landmark squares; the face then fills about four fifths of it."""
SQUARE_SET = "ibug68-3d-bfm"
FACE_REGION = "face"


@dataclass(frozen=True)
class Guide:
    """The front of a parametric head in the cube, seen on the crop's pixels.

    Attributes:
        depth: (s, s) z in half-crops, NaN where the head is not.
        normals: (s, s, 3) unit, camera frame, 0 where the head is not.
    """

    depth: Float[Tensor, "s s"]
    normals: Float[Tensor, "s s 3"]


def face_mask(region: UInt8[Tensor, "*b s s"]) -> Bool[Tensor, "*b s s"]:
    """Pixels whose class belongs to the face."""
    return region < FACE_CLASSES


def cut_crop(
    image: UInt8[object, "h w 3"], geometry: Geometry, model: FaceModel, size: int
) -> Crop:
    """The square of a photo that is the front of the cube.

    Args:
        image: photo, (h, w, 3) uint8 RGB.
        geometry: a head of the model in the photo.
        model: has the landmark set `SQUARE_SET`.
        size: side of the crop in px.
    """
    points = project(model.landmarks(geometry.vertices_mm, SQUARE_SET), geometry.camera)
    center, side = square_box(points.cpu())
    return crop_square(image, center, side * EXPAND, size)  # pyright: ignore[reportArgumentType]


def cube_from_px(points: Float[Tensor, "*n 3"], size: int) -> Float[Tensor, "*n 3"]:
    """Crop px (u, v, w) to the cube, up to the shift of z."""
    step = 2 / size
    u, v, w = points.unbind(-1)
    return torch.stack(((u + 0.5) * step - 1, 1 - (v + 0.5) * step, w * step), -1)


def px_from_cube(points: Float[Tensor, "*n 3"], size: int) -> Float[Tensor, "*n 3"]:
    """The inverse of `cube_from_px`."""
    step = 2 / size
    x, y, z = points.unbind(-1)
    return torch.stack(((x + 1) / step - 0.5, (1 - y) / step - 0.5, z / step), -1)


def middle_z(cube: Float[Tensor, "v 3"], face: Bool[Tensor, "v"]) -> float:
    """Midway between the nearest and the farthest vertex of the face: z = 0 of its cube."""
    z = cube[face, 2]
    return float((z.amin() + z.amax()) / 2)


def place_in_cube(
    vertices_mm: Float[Tensor, "v 3"], camera: Camera, face: Bool[Tensor, "v"], size: int
) -> tuple[Float[Tensor, "v 3"], float]:
    """Vertices of a head in the cube of a crop, and the z that was taken off.

    Args:
        vertices_mm: model frame.
        camera: to crop px.
        face: vertices of the face.
        size: side of the crop in px.
    """
    cube = cube_from_px(project(vertices_mm, camera), size)
    middle = middle_z(cube, face)
    return cube - cube.new_tensor([0.0, 0.0, middle]), middle


def see_front(cube: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], size: int) -> Guide:
    """Depth and normals of the front of a mesh of the cube at the crop's pixel centres."""
    half = size / 2
    camera = orthographic_camera(torch.eye(3), half, torch.tensor([half - 0.5, half - 0.5]))
    drawn = draw_surface(cube[None].float(), faces, camera, size, size)
    there = drawn.fragments.face_ids[0] >= 0
    depth = torch.where(there, drawn.depth_mm[0], torch.nan)
    normals = torch.where(there[..., None], drawn.normals[0], 0.0)
    return Guide(depth, normals)


@torch.no_grad()
def guide_of(geometry: Geometry, model: FaceModel, crop: Crop) -> tuple[Guide, float]:
    """What a parametric head looks like in the cube of a crop, and the z that was taken off.

    Teeth and tongue are left out, as the true surfaces leave them out.
    """
    topology = model.topology
    camera = camera_for_crop(geometry.camera, crop.center_px, crop.side_px, crop.size)
    face = topology.regions[FACE_REGION].cpu()
    vertices = geometry.vertices_mm.detach().float().cpu()
    cube, middle = place_in_cube(vertices, camera, face, crop.size)
    shown = torch.zeros(len(topology.face_part), dtype=torch.bool)
    for name in ("skin", "eyes"):
        if name in topology.part_names:
            shown |= (topology.face_part == topology.part_names.index(name)).cpu()
    return see_front(cube, topology.faces.cpu()[shown], crop.size), middle


def create_view(
    image: Float[Tensor, "b 3 s s"],
    region: UInt8[Tensor, "b s s"],
    guide_depth: Float[Tensor, "b s s"] | None = None,
    guide_normals: Float[Tensor, "b s s 3"] | None = None,
) -> View:
    """The networks' input.

    Args:
        image: sRGB in [0, 1].
        region: ids of `types.REGION_NAMES`.
        guide_depth: z in the cube, NaN where there is no guide; None for no guide at all.
        guide_normals: camera frame.
    """
    mask = face_mask(region)[:, None].to(image)
    classes = region[:, None].to(image) * CLASS_GAIN
    picture = torch.cat((image * 2 - 1, classes), 1) * mask
    if guide_depth is None or guide_normals is None:
        nothing = image.new_zeros(len(image), 1, *image.shape[2:])
        return View(picture, nothing, nothing.expand(-1, 3, -1, -1), nothing)
    there = guide_depth.isfinite()
    normals = guide_normals.permute(0, 3, 1, 2).to(image)
    return View(
        picture, guide_depth.nan_to_num(0.0)[:, None].to(image),
        normals * there[:, None], there[:, None].to(image),
    )  # fmt: skip
