"""The result: a head with plain numbers, files to export, new light and new views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.camera import (
    euler_deg_from_rotation,
    orthographic_camera,
    project,
    rotation_from_euler_deg,
    supersampled_camera,
    unproject,
)
from lifemask.graphics.environment import load_light
from lifemask.graphics.lighting import linear_to_srgb, srgb_to_linear, studio_light
from lifemask.graphics.occlusion import radiance_transfer
from lifemask.graphics.render import render
from lifemask.types import Appearance, Camera, Face, Geometry, Lighting, MethodUse

if TYPE_CHECKING:
    from PIL import Image

BACKGROUND_SRGB = (0.106, 0.114, 0.129)
CLAY_LINEAR = 0.45
FRAME_FILL = 0.86
MESH_SUFFIXES = (".glb", ".obj", ".ply")


@dataclass(frozen=True)
class Head:
    """One reconstructed head.

    Attributes:
        face: where it was found in the photo.
        geometry: shape and camera.
        appearance: light-free textures and the photo's light; None for a head without colour.
        image_size: (width, height) of the photo in px.
        weights: licence family of the networks used, "open" or "research".
        model: the face model of the geometry; None for a free mesh.
        warnings: what to know before trusting the result, one line each.
        method: how the geometry was found; None if that is not known.
        person: names of the photos whose heads were found together and share one identity, this
            one's among them ("" for a photo without a file name); empty for a head of one photo.
    """

    face: Face
    geometry: Geometry
    appearance: Appearance | None
    image_size: tuple[int, int]
    weights: str
    model: FaceModel | None = field(default=None, repr=False, compare=False)
    warnings: tuple[str, ...] = ()
    method: MethodUse | None = None
    person: tuple[str, ...] = ()

    @property
    def pose_deg(self) -> dict[str, float]:
        """Pitch (up > 0), yaw (to image right > 0), roll (clockwise in the image > 0), degrees."""
        angles = euler_deg_from_rotation(self.geometry.camera.rotation).tolist()
        return dict(zip(("pitch", "yaw", "roll"), angles, strict=True))

    @property
    def expression(self) -> dict[str, float]:
        """ARKit activations in [0, 1] by name; empty for a mesh without parameters."""
        if self.geometry.params is None or self.model is None:
            return {}
        values = self.geometry.params.expression.tolist()
        return dict(zip(self.model.expression_names, values, strict=True))

    @property
    def identity(self) -> Float[np.ndarray, " i"]:
        """Identity coefficients, standard normal under the prior; empty without parameters."""
        params = self.geometry.params
        return np.zeros(0, np.float32) if params is None else _array(params.identity)

    @property
    def vertices_mm(self) -> Float[np.ndarray, "v 3"]:
        """(v, 3) in mm, model frame: x to the viewer's right, y up, z out of the face."""
        return _array(self.geometry.vertices_mm)

    @property
    def landmarks68_mm(self) -> Float[np.ndarray, "68 3"]:
        """(68, 3) iBUG landmarks on the mesh ("ict68"), mm, model frame.

        Raises:
            UserError: the geometry has no landmarks.
        """
        return _array(self._landmarks())

    @property
    def landmarks68_px(self) -> Float[np.ndarray, "68 2"]:
        """(68, 2) the same landmarks seen in the photo, px: u right, v down.

        Raises:
            UserError: the geometry has no landmarks.
        """
        return _array(project(self._landmarks(), self.geometry.camera)[:, :2])

    def export(self, *paths: str | Path, maps: bool = True) -> None:
        """Write meshes; the suffix chooses the format.

        Args:
            *paths: `.glb`: neutral mesh, textures, 52 ARKit morph targets set to the photo's
                expression, metres. `.obj` (with .mtl and textures beside it) and `.ply`: the
                head as in the photo, mm. `.json`: the face's record of `docs/params-schema.md`.
            maps: give the skin a normal and a roughness map too (`.glb` and `.obj`;
                `docs/relight.md`), and a head with `geometry.detail` its displacement beside
                the file (`docs/detail.md`).

        Raises:
            UserError: another suffix, or a path that cannot be written.
        """
        from lifemask.export import export_head

        for path in paths:
            export_head(self, Path(path), maps=maps)

    def relight(self, light: Lighting | str | Path | Mapping[str, object]) -> Head:
        """The same head in another light.

        Args:
            light: a `Lighting`; a name of `graphics.lighting.STUDIO_LIGHTS`; a panorama `.hdr`,
                `.exr` or picture; a `.json` with spherical harmonics (9, 3), or its content.

        Returns:
            A head whose `appearance.lighting` is the new light; the exposure of panoramas is set
            so that the mean shading is 1.

        Raises:
            UserError: no such light, or a head without appearance.
        """
        if self.appearance is None:
            raise UserError("a head without texture cannot be relit; reconstruct it with one")
        if isinstance(light, Mapping):
            light = Lighting(torch.tensor(light["light_sh"], dtype=torch.float32))
        lighting = light if isinstance(light, Lighting) else load_light(light)
        relit = replace(self, appearance=replace(self.appearance, lighting=lighting))
        vars(relit)["transfer"] = self.transfer  # the shape is the same
        return relit

    def render(
        self,
        size: int = 512,
        yaw_deg: float = 0.0,
        pitch_deg: float = 0.0,
        *,
        background_srgb: tuple[float, float, float] = BACKGROUND_SRGB,
        supersample: int = 2,
    ) -> Image.Image:
        """A picture of the head in its light, the whole head in the frame.

        Args:
            size: side of the picture in px.
            yaw_deg: how far the head is turned to image right; 0 is from the front.
            pitch_deg: how far it looks up.
            background_srgb: colour around it, sRGB in [0, 1].
            supersample: samples per pixel along each side.
        """
        camera = view_camera(self.geometry.vertices_mm, size, yaw_deg, pitch_deg)
        image, mask = render_head(self, camera, size, size, supersample=supersample)
        return to_picture(image, mask, background_srgb)

    @cached_property
    def transfer(self) -> Float[Tensor, "v 9"]:
        """Shadowed radiance transfer of each vertex, model frame; see `graphics.occlusion`."""
        return radiance_transfer(self.geometry.vertices_mm, self.geometry.faces)

    @property
    def surface(self) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]] | None:
        """The free surface behind the head as (vertices in mm, model frame, faces), or None."""
        surface = self.geometry.surface
        if surface is None:
            return None
        return _array(unproject(surface.vertices_px, self.geometry.camera)), _array(surface.faces)

    def _landmarks(self) -> Tensor:
        if self.geometry.landmarks68_mm is None:
            raise UserError("this mesh has no face model and so no landmarks")
        return self.geometry.landmarks68_mm


def view_camera(
    vertices_mm: Float[Tensor, "v 3"],
    size: int,
    yaw_deg: float = 0.0,
    pitch_deg: float = 0.0,
    px_per_mm: float | None = None,
) -> Camera:
    """Orthographic camera that shows a turned head in the middle of a square picture.

    Args:
        vertices_mm: (v, 3) mm, model frame.
        size: side of the picture in px.
        yaw_deg: how far the head is turned to image right.
        pitch_deg: how far it looks up.
        px_per_mm: scale; None fits the upright head's longest side into the frame, whatever the
            turn, so that views of one head have one scale.
    """
    rotation = rotation_from_euler_deg(vertices_mm.new_tensor([pitch_deg, yaw_deg, 0.0]))
    low, high = vertices_mm.amin(0), vertices_mm.amax(0)
    scale = px_per_mm or float(FRAME_FILL * size / (high - low).max())
    turned = vertices_mm @ rotation.mT
    middle = (turned.amin(0) + turned.amax(0)) / 2
    half = (size - 1) / 2
    shift = torch.stack((half - scale * middle[0], half + scale * middle[1]))
    return orthographic_camera(rotation, scale, shift)


def render_head(
    head: Head,
    camera: Camera,
    height: int,
    width: int,
    *,
    clay: bool = False,
    lighting: Lighting | None = None,
    supersample: int = 2,
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]]:
    """Draw a head with its textures, or as grey clay.

    Args:
        head: what to draw; without appearance it is clay.
        camera: model frame to px of the picture.
        height: rows.
        width: columns.
        clay: ignore the textures.
        lighting: light in the camera frame; None takes the photo's, for clay a studio light.
        supersample: samples per pixel along each side.

    Returns:
        (image (3, h, w) linear RGB over black, coverage (h, w) in [0, 1]).
    """
    geometry, appearance = head.geometry, head.appearance
    vertices = geometry.vertices_mm
    if clay or appearance is None or head.model is None:
        lighting = lighting or studio_light("key")
        uvs, faces_uv = vertices.new_zeros(1, 2), torch.zeros_like(geometry.faces)
        textures, part = [vertices.new_full((1, 3, 1, 1), CLAY_LINEAR)], None
    else:
        topology = head.model.topology
        lighting = lighting or appearance.lighting
        uvs, faces_uv, part = topology.uvs, topology.faces_uv, topology.face_part
        textures = part_textures(appearance, topology.part_names)
    with torch.no_grad():
        drawn = render(
            vertices[None],
            geometry.faces,
            supersampled_camera(camera, supersample),
            height * supersample,
            width * supersample,
            uvs=uvs,
            faces_uv=faces_uv,
            albedo=textures,
            face_part=part,
            lighting=lighting,
            transfer=head.transfer[None],
        )
    rgba = torch.cat((drawn.image, drawn.mask[:, None]), dim=1)
    rgba = torch.nn.functional.avg_pool2d(rgba, supersample)[0]
    return rgba[:3], rgba[3]


def part_textures(appearance: Appearance, part_names: tuple[str, ...]) -> list[Tensor]:
    """Linear albedo (1, 3, n, n) of each part; the skin's for a part without one of its own."""
    own = appearance.part_albedo
    return [own.get(name, appearance.albedo)[None] for name in part_names]


def to_picture(
    image: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "h w"],
    background_srgb: tuple[float, float, float] = BACKGROUND_SRGB,
) -> Image.Image:
    """An 8-bit sRGB picture of a linear image that covers `mask`, over a colour."""
    from PIL import Image

    background = srgb_to_linear(image.new_tensor(background_srgb)).view(3, 1, 1)
    srgb = linear_to_srgb((image + (1 - mask) * background).clamp(0, 1))
    pixels = (srgb * 255).round().clamp(0, 255).byte().permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels.cpu().numpy()))


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
