"""Pairs of frames of one textured head for the tests of PGN's pair losses; nothing is read.

Skin is the committed albedo prior with brows and blotches painted on, so that a face has the
features that losses on images need. Lengths are half-crops.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.camera import orthographic_camera, rotation_from_euler_deg
from lifemask.graphics.lighting import linear_to_srgb, studio_light
from lifemask.graphics.render import render
from lifemask.methods._pgn_swap import PosedFrames
from lifemask.methods._texture_layout import TextureLayout, texture_layout
from lifemask.methods._texture_parts import _texture, eye_colors
from lifemask.types import Lighting

SIZE = 112
BROWS = (range(17, 22), range(22, 27))  # of "ict68"
IRISES = ((0.085, 0.040, 0.018), (0.10, 0.14, 0.18))
TONES = (5, 18)  # of the albedo prior


@dataclass(frozen=True)
class Pose:
    """One frame's pose: rotation (3, 3), half-crops per mm, shift (2,) half-crops."""

    rotation: Tensor
    scale: Tensor
    shift: Tensor

    def moved(self, rotation: Tensor, shift: Tensor) -> Pose:
        return replace(self, rotation=rotation @ self.rotation, shift=self.shift + shift)


def pose(yaw_deg: float, pitch_deg: float = 0.0) -> Pose:
    """A head a little below the middle of a close crop."""
    rotation = rotation_from_euler_deg(torch.tensor([pitch_deg, yaw_deg, 0.0]))
    return Pose(rotation, torch.tensor(0.0105), torch.tensor([0.0, 0.1]))


def posed(vertices_mm: Tensor, at: Pose) -> Tensor:
    """(1, v, 3) half-crops of (v, 3) mm."""
    turned = at.scale * (vertices_mm @ at.rotation.T) * vertices_mm.new_tensor([1.0, -1.0, 1.0])
    return (turned + functional.pad(at.shift, (0, 1)))[None]


def person(model: FaceModel, seed: int) -> Tensor:
    """Vertices (v, 3) mm of a random neutral head."""
    identity = torch.randn(model.identity_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(identity, torch.zeros(len(model.expression_names)))


def frame(vertices_mm: Tensor, crop: Tensor, at: Pose) -> PosedFrames:
    return PosedFrames(posed(vertices_mm, at), crop, at.scale.reshape(1))


def seen_frame(
    model: FaceModel,
    seed: int,
    at: Pose,
    light: Lighting | None = None,
    wearing: int | None = None,
) -> PosedFrames:
    """The frame of person `seed`, skin of person `wearing`, with its true pose."""
    vertices = person(model, seed)
    textures = look(seed if wearing is None else wearing)
    return frame(vertices, photograph(model, vertices, textures, at, light), at)


def photograph(
    model: FaceModel,
    vertices_mm: Tensor,
    textures: Mapping[str, Tensor],
    at: Pose,
    light: Lighting | None = None,
    size: int = SIZE,
) -> Tensor:
    """Crop (1, 3, size, size) sRGB of a head before a wall of slow gradients."""
    topology = model.topology
    camera = orthographic_camera(at.rotation, at.scale * size / 2, (at.shift + 1) * size / 2 - 0.5)
    ramp = torch.linspace(0.1, 0.5, size)
    wall = torch.stack(torch.broadcast_tensors(ramp, ramp.flip(0), ramp[:, None]))
    with torch.no_grad():
        picture = render(
            vertices_mm[None],
            topology.faces,
            camera,
            size,
            size,
            uvs=topology.uvs,
            faces_uv=topology.faces_uv,
            albedo=[textures[name] for name in topology.part_names],
            face_part=topology.face_part,
            lighting=light or studio_light("soft"),
            background=wall,
            supersample=2,
        )
    return linear_to_srgb(picture.image).clamp(0, 1)


@functools.lru_cache(maxsize=8)
def look(seed: int) -> Mapping[str, Tensor]:
    """Linear textures (1, 3, n, n) of each part of the default model."""
    model = load_face_model()
    layout = texture_layout(model, 512, 64, 6)
    tone = layout.prior.tones[TONES[seed % len(TONES)]]
    texels = layout.atlas.interpolate(layout.parts.mean_mm)
    skin = layout.prior.log_albedo(tone) + _blotches(texels, seed) - _brows(model, layout, texels)
    texture = layout.atlas.scatter(skin.exp().clamp(0.01, 1))
    assert layout.cavity is not None and layout.parts.eyes is not None
    inner = torch.where(layout.cavity_rgb.isnan(), tone.exp(), layout.cavity_rgb)
    texture = texture + layout.cavity.scatter(inner)
    iris = torch.tensor(IRISES[seed % len(IRISES)])
    eyes = _texture(layout.parts.eyes, eye_colors(layout.parts.eyes, layout.parts.mean_mm, iris))
    textures = {"skin": texture, "eyes": eyes, **layout.parts.painted}
    return {name: image[None] for name, image in textures.items()}


def _brows(model: FaceModel, layout: TextureLayout, texels: Tensor) -> Tensor:
    """How much darker (t, 1) a brow makes each texel, in log units."""
    points = model.landmarks(layout.parts.mean_mm, "ict68")
    steps = torch.linspace(0, 1, 8)[:, None]
    lines = [points[list(brow)] for brow in BROWS]
    dense = [a + (b - a) * steps for line in lines for a, b in zip(line, line[1:], strict=False)]
    near = torch.cdist(texels, torch.cat(dense)).amin(1)
    return 1.6 * torch.exp(-((near / 3.5) ** 2))[:, None]


def _blotches(texels: Tensor, seed: int) -> Tensor:
    """Smooth random log colour (t, 3), 10 to 30 mm wide, fixed in the model frame."""
    generator = torch.Generator().manual_seed(seed + 100)
    waves = 0.2 * torch.randn(3, 60, generator=generator)
    phases = 6.28 * torch.rand(60, generator=generator)
    tints = torch.randn(60, 1, generator=generator) + 0.3 * torch.randn(60, 3, generator=generator)
    return 0.011 * torch.sin(texels @ waves + phases) @ tints
