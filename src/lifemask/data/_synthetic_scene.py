"""A drawn scene: everything a picture depends on, as numbers and small arrays, before rendering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lifemask.data._synthetic_mesh import Mesh
from lifemask.data._synthetic_photo import Exposure, Faults
from lifemask.data._synthetic_surroundings import Cut, Light

if TYPE_CHECKING:
    from lifemask.types import Camera

ORTHOGRAPHIC_MM = 20_000.0
"""How far away renderers put an orthographic camera; only the order of depths follows from it."""


@dataclass(frozen=True)
class View:
    """The camera of a scene.

    Attributes:
        orthographic: scaled orthographic, else pinhole.
        rotation: (3, 3) model to camera frame.
        translation_mm: (3,) T of the pinhole; (0, 0, -ORTHOGRAPHIC_MM) for the orthographic one.
        scale: focal length in px, or px per mm of the orthographic camera.
        center_px: (2,) principal point, or where the model's origin appears.
    """

    orthographic: bool
    rotation: NDArray[np.float32]
    translation_mm: NDArray[np.float32]
    scale: float
    center_px: NDArray[np.float64]

    @property
    def scale_px_per_mm(self) -> float:
        """Size of a millimetre at the model's origin, in px."""
        return self.scale if self.orthographic else self.scale / -float(self.translation_mm[2])

    def to_camera(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points (n, 3) mm from the model frame to one with the camera's eye at the origin."""
        return np.ascontiguousarray(points @ self.rotation.T + self.translation_mm, np.float32)

    def project(self, points_eye: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points (n, 3) from `to_camera` to (u, v, 1 / distance), as the kernels take them."""
        inverse = 1.0 / -points_eye[:, 2]
        zoom = self.scale if self.orthographic else self.scale * inverse
        out = np.empty(points_eye.shape, np.float32)
        out[:, 0] = self.center_px[0] + zoom * points_eye[:, 0]
        out[:, 1] = self.center_px[1] - zoom * points_eye[:, 1]
        out[:, 2] = inverse
        return out

    def image_points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points (n, 3) mm, model frame, to (u, v, w) px; twin of `graphics.camera.project`."""
        out = self.project(self.to_camera(points))
        out[:, 2] = self.scale_px_per_mm * (points @ self.rotation[2])
        return out

    def camera(self) -> Camera:
        """The same as `types.Camera` (float32, unbatched)."""
        import torch

        from lifemask.graphics.camera import orthographic_camera, pinhole_camera

        rotation = torch.from_numpy(self.rotation)
        center = torch.from_numpy(self.center_px.astype(np.float32))
        if self.orthographic:
            return orthographic_camera(rotation, self.scale, center)
        return pinhole_camera(rotation, torch.from_numpy(self.translation_mm), self.scale, center)


@dataclass(frozen=True)
class Outfit:
    """Which props an image has.

    Attributes:
        hair: one of `HAIR_STYLES`.
        hat: headwear on or off.
        beard: cut of a beard that stands out, or "".
        glasses: "", "clear" or "dark".
        occluders: kind of each thing in front of the face: "hand", "object" or "card".
    """

    hair: str
    hat: bool
    beard: str
    glasses: str
    occluders: tuple[str, ...]


@dataclass(frozen=True)
class Lens:
    """Glass in a frame: a layer over the picture.

    Attributes:
        mesh: the lenses, head frame.
        alpha: share of the picture that the glass's colour replaces.
        colour: (3,) linear.
        sheen: factors at the picture's top and bottom; on `alpha` of dark glass, and 2 minus it
            on `colour`.
        dark: hides what is behind it.
    """

    mesh: Mesh
    alpha: float
    colour: NDArray[np.float32]
    sheen: tuple[float, float]
    dark: bool


@dataclass(frozen=True)
class Tone:
    """What turns a skin texture into linear albedo: `mix @ lut[texel]`, at least 0.003.

    Attributes:
        skin: index in the shard's bank.
        lut: (256, 3) texel value to linear albedo per channel; mix: (3, 3).
        plain: (3,) linear albedo of chest and hands.
    """

    skin: int
    lut: NDArray[np.float32]
    mix: NDArray[np.float32]
    plain: NDArray[np.float32]

    def albedo(self, skin: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Linear albedo (rows, columns, 3) of a skin's texture (rows, columns, 3)."""
        colour = np.stack([self.lut[skin[..., c], c] for c in range(3)], axis=-1) @ self.mix.T
        return np.clip(colour, 0.003, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """One image before it is rendered. Renderers draw no random numbers but seeded noise.

    Attributes:
        index: of the image in the run; shard: whose banks it uses.
        person: number of the person in the run.
        identity: (i,); expression: (e,) coefficients of the face model.
        age: 0 young to 1 old, of skin and hair.
        angles_deg: (3,) pitch, yaw, roll.
        gaze_deg: (2, 2) pitch and yaw of the eye at +x and the eye at -x, in the head's frame.
        head_mm: (v, 3) vertices, model frame.
        points_mm: (n, 3) label landmarks, model frame.
        view: the camera.
        outfit: what the person wears.
        props: meshes around the head.
        lens: glass, or None.
        body_rotation: (3, 3) of "body" meshes; pivot_mm: (3,) about which they turn, model frame.
        tone: skin texture and colour.
        materials: (m, MATERIAL_SIZE), see `_synthetic_kernels`.
        light: distant light and key light, camera frame.
        background: what is behind; card: picture on flat occluders.
        exposure: of the camera; faults: of the camera.
    """

    index: int
    shard: int
    person: int
    identity: NDArray[np.float32]
    expression: NDArray[np.float32]
    age: float
    angles_deg: NDArray[np.float32]
    gaze_deg: NDArray[np.float32]
    head_mm: NDArray[np.float32]
    points_mm: NDArray[np.float32]
    view: View
    outfit: Outfit
    props: tuple[Mesh, ...]
    lens: Lens | None
    body_rotation: NDArray[np.float32]
    pivot_mm: NDArray[np.float32]
    tone: Tone
    materials: NDArray[np.float32]
    light: Light
    background: Cut
    card: Cut
    exposure: Exposure
    faults: Faults
