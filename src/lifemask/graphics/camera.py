"""Scaled-orthographic and pinhole cameras; the only module that knows that image v points down."""

from __future__ import annotations

import math
from typing import Literal

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.types import Camera

EulerOrder = Literal["YXZ", "XYZ"]

DEFAULT_FOCAL_PER_WIDTH = 1015.0 / 224.0
"""Focal length in image widths when the photo tells none, as in Deep3DFaceReconstruction."""

NEAR_MM = 1.0
"""Points closer to a pinhole than this, or behind it, have no screen depth."""


def default_focal_px(width: float) -> float:
    """Focal length in px that is assumed for an image `width` px wide."""
    return DEFAULT_FOCAL_PER_WIDTH * width


def camera_like(camera: Camera, like: Tensor) -> Camera:
    """The same camera with the device and floating-point type of `like`."""
    return Camera(
        camera.model,
        camera.rotation.to(like),
        camera.translation.to(like),
        camera.scale.to(like),
        camera.center.to(like),
    )


def orthographic_camera(
    rotation: Float[Tensor, "*b 3 3"],
    scale: Float[Tensor, "*b"] | float,
    translation: Float[Tensor, "*b 2"],
) -> Camera:
    """Scaled-orthographic camera, `u = s (R X)_x + tx`, `v = -s (R X)_y + ty`.

    Args:
        rotation: (*b, 3, 3), model frame to camera frame.
        scale: (*b,) px per mm, positive.
        translation: (*b, 2), (tx, ty) in px: where the model's origin appears.
    """
    batch = rotation.shape[:-2]
    scale = _like(scale, rotation).expand(batch)
    shift = _like(translation, rotation).expand(*batch, 2)
    shift = torch.nn.functional.pad(shift, (0, 1))
    return Camera("orthographic", rotation, shift, scale, torch.zeros_like(shift[..., :2]))


def pinhole_camera(
    rotation: Float[Tensor, "*b 3 3"],
    translation_mm: Float[Tensor, "*b 3"],
    f_px: Float[Tensor, "*b"] | float,
    center_px: Float[Tensor, "*b 2"],
) -> Camera:
    """Pinhole camera that looks along -z at `P = R X + T`.

    Args:
        rotation: (*b, 3, 3), model frame to camera frame.
        translation_mm: (*b, 3), the model's origin in the camera frame; T_z < 0.
        f_px: (*b,), focal length in px, positive.
        center_px: (*b, 2), principal point in px.
    """
    batch = rotation.shape[:-2]
    translation = _like(translation_mm, rotation).expand(*batch, 3)
    f_px = _like(f_px, rotation).expand(batch)
    center = _like(center_px, rotation).expand(*batch, 2)
    return Camera("pinhole", rotation, translation, f_px, center)


def to_camera_frame(points: Float[Tensor, "*b n 3"], camera: Camera) -> Float[Tensor, "*b n 3"]:
    """Points (*b, n, 3) in mm from the model frame to the camera frame.

    Orthographic: `R X`, whose origin is the model's. Pinhole: `R X + T`, whose origin is the eye.
    """
    rotated = points @ camera.rotation.mT
    if camera.model == "orthographic":
        return rotated
    return rotated + camera.translation.unsqueeze(-2)


def project(points: Float[Tensor, "*b n 3"], camera: Camera) -> Float[Tensor, "*b n 3"]:
    """Points (*b, n, 3) in mm, model frame, to (u, v, w) in px.

    w is nearness in px. Orthographic: `s (R X)_z`. Pinhole: `f / -T_z * (P_z - T_z)`, the same
    in the limit of a far camera. u and v mean nothing for points behind a pinhole camera.
    """
    x, y, z = to_camera_frame(points, camera).unbind(-1)
    scale = camera.scale.unsqueeze(-1)
    if camera.model == "orthographic":
        shift_u, shift_v = camera.translation[..., :2].unsqueeze(-2).unbind(-1)
        return torch.stack((scale * x + shift_u, shift_v - scale * y, scale * z), dim=-1)
    center_u, center_v = camera.center.unsqueeze(-2).unbind(-1)
    origin_z = camera.translation[..., 2:]
    zoom = scale / torch.where(z == 0, torch.full_like(z, -torch.finfo(z.dtype).eps), -z)
    w = scale / -origin_z * (z - origin_z)
    return torch.stack((center_u + zoom * x, center_v - zoom * y, w), dim=-1)


def unproject(points_px: Float[Tensor, "*b n 3"], camera: Camera) -> Float[Tensor, "*b n 3"]:
    """Points (*b, n, 3) in mm, model frame, that `project` takes to (u, v, w); its inverse.

    A pinhole camera has no answer for points as far in front as the eye: `w >= f`.
    """
    u, v, w = points_px.unbind(-1)
    scale = camera.scale.unsqueeze(-1)
    if camera.model == "orthographic":
        shift_u, shift_v = camera.translation[..., :2].unsqueeze(-2).unbind(-1)
        seen = torch.stack(((u - shift_u) / scale, (shift_v - v) / scale, w / scale), dim=-1)
        return seen @ camera.rotation
    center_u, center_v = camera.center.unsqueeze(-2).unbind(-1)
    origin_z = camera.translation[..., 2:]
    z = origin_z - origin_z * w / scale
    zoom = -z / scale
    seen = torch.stack(((u - center_u) * zoom, (center_v - v) * zoom, z), dim=-1)
    return (seen - camera.translation.unsqueeze(-2)) @ camera.rotation


def screen_depth(points: Float[Tensor, "*b n 3"], camera: Camera) -> Float[Tensor, "*b n"]:
    """Depth (*b, n) that is affine over the image of a plane, larger = nearer.

    Orthographic: w in px. Pinhole: `1 / -P_z` in 1/mm, NaN for points less than `NEAR_MM` in
    front of the eye, so that the rasteriser leaves out their triangles.
    """
    z = to_camera_frame(points, camera)[..., 2]
    if camera.model == "orthographic":
        return camera.scale.unsqueeze(-1) * z
    distance = torch.where(z <= -NEAR_MM, -z, torch.ones_like(z))
    return torch.where(z <= -NEAR_MM, 1 / distance, torch.full_like(z, math.nan))


def inverse_depth(points: Float[Tensor, "*b n 3"], camera: Camera) -> Tensor | None:
    """What perspective-correct barycentrics need: `1 / -P_z` (*b, n), or None if orthographic."""
    return None if camera.model == "orthographic" else screen_depth(points, camera)


def camera_for_crop(
    camera: Camera,
    center_px: Float[Tensor, "*b 2"] | tuple[float, float],
    side_px: Float[Tensor, "*b"] | float,
    size: int,
) -> Camera:
    """The photo's camera in the pixels of a square crop (`types.Crop`).

    Args:
        camera: camera to photo px.
        center_px: (*b, 2), the crop's centre in photo px.
        side_px: (*b,), the crop's side in photo px.
        size: the crop's side after resampling, in px.
    """
    side = _like(side_px, camera.scale)
    corner = _like(center_px, camera.scale) - side.unsqueeze(-1) / 2
    zoom = size / side
    return _rescale(camera, zoom, -corner * zoom.unsqueeze(-1) - 0.5)


def camera_from_crop(
    camera: Camera,
    center_px: Float[Tensor, "*b 2"] | tuple[float, float],
    side_px: Float[Tensor, "*b"] | float,
    size: int,
) -> Camera:
    """A camera to crop px (`types.Crop`) in the photo's pixels; inverse of `camera_for_crop`.

    Args:
        camera: camera to crop px.
        center_px: (*b, 2), the crop's centre in photo px.
        side_px: (*b,), the crop's side in photo px.
        size: the crop's side after resampling, in px.
    """
    side = _like(side_px, camera.scale)
    corner = _like(center_px, camera.scale) - side.unsqueeze(-1) / 2
    zoom = side / size
    return _rescale(camera, zoom, corner + 0.5 * zoom.unsqueeze(-1))


def supersampled_camera(camera: Camera, factor: int) -> Camera:
    """The camera of an image with `factor` x `factor` pixels in the place of each pixel."""
    zoom = torch.tensor(float(factor)).to(camera.scale)
    return _rescale(camera, zoom, (zoom.unsqueeze(-1) - 1) / 2)


def camera_turned_back(camera: Camera, turns: int, size: int) -> Camera:
    """The camera of a square picture, from its camera after the picture was turned.

    A point that `camera` sees at (u, v) of `image.rot90(turns)`, counter-clockwise, is seen by the
    result at the same content of `image`: (size - 1 - v, u) per quarter turn.

    Args:
        camera: camera to px of the turned picture, of either model.
        turns: counter-clockwise quarter turns that were made, any integer.
        size: side of the picture in px.
    """
    turn = camera.rotation.new_tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    last = size - 1
    for _ in range(turns % 4):
        rotation = turn @ camera.rotation
        shift, center = camera.translation, camera.center
        if camera.model == "orthographic":
            shift = torch.stack((last - shift[..., 1], shift[..., 0], shift[..., 2]), -1)
        else:
            shift = shift @ turn.mT
            center = torch.stack((last - center[..., 1], center[..., 0]), -1)
        camera = Camera(camera.model, rotation, shift, camera.scale, center)
    return camera


def _like(value: Tensor | float | tuple[float, ...], reference: Tensor) -> Tensor:
    """The value as a tensor, without a detour through float32."""
    return torch.as_tensor(value, dtype=reference.dtype, device=reference.device)


def _rescale(camera: Camera, zoom: Tensor, shift: Tensor) -> Camera:
    """The camera after `uv -> zoom uv + shift`; zoom (*b,), shift (*b, 2)."""
    scale = camera.scale * zoom
    if camera.model == "orthographic":
        moved = camera.translation[..., :2] * zoom.unsqueeze(-1) + shift
        moved = torch.nn.functional.pad(moved, (0, 1))
        return Camera(camera.model, camera.rotation, moved, scale, camera.center)
    center = camera.center * zoom.unsqueeze(-1) + shift
    return Camera(camera.model, camera.rotation, camera.translation, scale, center)


def rotation_from_euler_deg(
    angles_deg: Float[Tensor, "*b 3"], order: EulerOrder = "YXZ"
) -> Float[Tensor, "*b 3 3"]:
    """Rotation (*b, 3, 3), model to camera frame, from (pitch, yaw, roll) in degrees (*b, 3).

    "YXZ", ours: `R = Ry(yaw) Rx(-pitch) Rz(-roll)`, so that pitch and yaw say where the nose
    points. "XYZ": `R = Rx(-pitch) Ry(yaw) Rz(-roll)`, the order of 300W-LP and AFLW2000-3D, whose
    pitch and roll mean little near profile. Pitch > 0: the face looks up; yaw > 0: it is turned to
    image right; roll > 0: clockwise as seen in the image.
    """
    signs = torch.tensor([-1.0, 1.0, -1.0], dtype=angles_deg.dtype, device=angles_deg.device)
    angles = angles_deg * signs
    return roma.euler_to_rotmat(order, angles[..., [1, 0, 2]] if order == "YXZ" else angles,
                                degrees=True)  # fmt: skip


def euler_deg_from_rotation(
    rotation: Float[Tensor, "*b 3 3"], order: EulerOrder = "YXZ"
) -> Float[Tensor, "*b 3"]:
    """(pitch, yaw, roll) in degrees (*b, 3); inverse of `rotation_from_euler_deg`.

    "YXZ": pitch lies in [-90, 90], yaw and roll in [-180, 180]. "XYZ": yaw lies in [-90, 90],
    pitch and roll in [-180, 180]. Where the middle angle is +-90 only a combination of the other
    two is defined; the answer there has roll 0.
    """
    r = rotation
    if order == "YXZ":
        cos_middle = torch.hypot(r[..., 0, 2], r[..., 2, 2])
        pitch = torch.atan2(r[..., 1, 2], cos_middle)
        yaw = torch.atan2(r[..., 0, 2], r[..., 2, 2])
        roll = -torch.atan2(r[..., 1, 0], r[..., 1, 1])
        locked = cos_middle < 1e-6
        yaw = torch.where(locked, torch.atan2(-r[..., 2, 0], r[..., 0, 0]), yaw)
    else:
        cos_middle = torch.hypot(r[..., 0, 0], r[..., 0, 1])
        yaw = torch.atan2(r[..., 0, 2].clamp(-1, 1), cos_middle)
        pitch = torch.atan2(r[..., 1, 2], r[..., 2, 2])
        roll = torch.atan2(r[..., 0, 1], r[..., 0, 0])
        locked = cos_middle < 1e-6
        pitch = torch.where(locked, torch.atan2(-r[..., 2, 1], r[..., 1, 1]), pitch)
    roll = torch.where(locked, torch.zeros_like(roll), roll)
    return torch.rad2deg(torch.stack((pitch, yaw, roll), dim=-1))
