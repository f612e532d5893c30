"""Scenes of a batch as tensors on a device, one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lifemask.data._synthetic_render import (
    A_OVER_PI,
    SHADOW_BIAS_MM,
    SHADOW_MAP,
    assemble,
)
from lifemask.data._synthetic_surroundings import SRGB_TO_LINEAR, Cut
from lifemask.data._torch_raster import depth_maps
from lifemask.data._torch_shade import Surfaces

if TYPE_CHECKING:
    from lifemask.data._synthetic_scene import Scene
    from lifemask.data.synthetic import Banks, Generator


@dataclass(frozen=True)
class Views:
    """Cameras of a batch; see `_synthetic_scene.View`.

    Attributes:
        orthographic: (b,).
        rotation: (b, 3, 3); translation_mm: (b, 3).
        scale: (b,); scale_px_per_mm: (b,); center_px: (b, 2).
    """

    orthographic: Bool[Tensor, "b"]
    rotation: Float[Tensor, "b 3 3"]
    translation_mm: Float[Tensor, "b 3"]
    scale: Float[Tensor, "b"]
    scale_px_per_mm: Float[Tensor, "b"]
    center_px: Float[Tensor, "b 2"]

    def project(self, points_eye: Float[Tensor, "n 3"], image: Int[Tensor, "n"]) -> Tensor:
        """Points (n, 3) in their images' eye frames to (u, v, 1 / distance)."""
        inverse = -1 / points_eye[:, 2]
        zoom = self.scale[image]
        zoom = torch.where(self.orthographic[image], zoom, zoom * inverse)
        u = self.center_px[image, 0] + zoom * points_eye[:, 0]
        v = self.center_px[image, 1] - zoom * points_eye[:, 1]
        return torch.stack((u, v, inverse), 1)

    def to_camera(self, points: Float[Tensor, "n 3"], image: Int[Tensor, "n"]) -> Tensor:
        """Points (n, 3) from their models' frames to their images' eye frames."""
        turned = (self.rotation[image] @ points[..., None])[..., 0]
        return turned + self.translation_mm[image]


def pack_views(scenes: Sequence[Scene], device: torch.device) -> Views:
    """The cameras of some scenes."""

    def column(values, dtype: type = np.float32) -> Tensor:
        return torch.from_numpy(np.asarray(list(values), dtype)).to(device)

    views = [scene.view for scene in scenes]
    return Views(
        column((v.orthographic for v in views), np.bool_),
        column(v.rotation for v in views),
        column(v.translation_mm for v in views),
        column(v.scale for v in views),
        column(v.scale_px_per_mm for v in views),
        column(v.center_px for v in views),
    )


def pack_surfaces(
    generator: Generator,
    banks: Sequence[Banks],
    scenes: Sequence[Scene],
    views: Views,
    device: torch.device,
) -> Surfaces:
    """All triangles and looks of some scenes, shadows included.

    Args:
        generator: that drew them.
        banks: of each scene's shard.
        scenes: b of them.
        views: their cameras.
        device: where the tensors go.
    """
    soups = [assemble(generator.rig, scene) for scene in scenes]
    vertex_counts = [len(s.points) for s in soups]
    face_counts = [len(s.faces) for s in soups]
    first = np.cumsum([0, *vertex_counts[:-1]])
    faces = np.concatenate([s.faces + o for s, o in zip(soups, first, strict=True)])
    image = np.arange(len(scenes))
    vertex_image = torch.from_numpy(np.repeat(image, vertex_counts)).to(device)

    def joined(name: str, dtype: type = np.float32) -> Tensor:
        return _tensor(np.concatenate([getattr(s, name) for s in soups]).astype(dtype), device)

    points = joined("points")
    lights = [scene.light for scene in scenes]
    tones = [scene.tone for scene in scenes]
    pairs = list(zip(banks, scenes, strict=True))
    pictures = [b.backgrounds.pictures[s.background.picture] for b, s in pairs]
    background = cut_outs(pictures, [s.background for s in scenes], generator.config.size, device)
    surfaces = Surfaces(
        screen=views.project(points, vertex_image),
        points=points,
        normals=joined("normals"),
        occlusion=joined("occlusion"),
        lit=torch.ones(len(points), device=device),
        faces=_tensor(faces.astype(np.int64), device),
        face_image=torch.from_numpy(np.repeat(image, face_counts)).to(device),
        face_uv=joined("face_uv"),
        material=joined("material", np.int64),
        cull=joined("cull", np.bool_),
        casts=joined("casts", np.bool_),
        materials=_stack((s.materials for s in scenes), device),
        noise=_tensor(generator.noise, device),
        textures=_stack((b.skins[s.tone.skin] for b, s in pairs), device),
        lut=_stack((t.lut for t in tones), device),
        mix=_stack((t.mix for t in tones), device),
        sh=_stack((light.sh * A_OVER_PI[:, None] for light in lights), device),
        key_direction=_stack((light.key_direction for light in lights), device),
        key_colour=_stack((light.key_colour for light in lights), device),
        down=_stack((-s.view.rotation[:, 1] for s in scenes), device),
        background=background,
        card=_cards(pairs, background, generator.config.size, device),
    )
    shadowed = np.array([bool(light.shadows and light.key_colour.any()) for light in lights])
    return replace(surfaces, lit=_lit(surfaces, vertex_image, _tensor(shadowed, device)))


def _cards(pairs, background: Tensor, size: int, device: torch.device) -> Tensor:
    """Pictures on flat occluders (b, s, s, 3); the background where there is none."""
    rows = [k for k, (_, scene) in enumerate(pairs) if "card" in scene.outfit.occluders]
    if not rows:
        return background
    out = background.clone()
    pictures = [pairs[k][0].backgrounds.pictures[pairs[k][1].card.picture] for k in rows]
    out[rows] = cut_outs(pictures, [pairs[k][1].card for k in rows], size, device)
    return out


def cut_outs(
    pictures: Sequence[np.ndarray], cuts: Sequence[Cut], size: int, device: torch.device
) -> Float[Tensor, "b s s 3"]:
    """Cuts of uint8 pictures as linear RGB; twin of `_synthetic_surroundings.cut_out`."""
    bank = torch.from_numpy(np.stack(pictures)).to(device)
    image = torch.arange(len(cuts), device=device)[:, None, None]
    line = torch.arange(size, device=device, dtype=torch.float64)

    def column(values) -> Tensor:
        return torch.tensor(list(values), dtype=torch.float64, device=device)[:, None]

    scale = column(c.scale for c in cuts)
    flip = torch.tensor([c.flip for c in cuts], device=device)[:, None]
    across = torch.where(flip, line.flip(0), line)
    x = (column(c.x0 for c in cuts) + across * scale)[:, None, :].expand(-1, size, -1)
    y = (column(c.y0 for c in cuts) + line * scale)[:, :, None].expand(-1, -1, size)
    ix, iy = x.long(), y.long()
    fx, fy = (x - ix)[..., None].float(), (y - iy)[..., None].float()
    jx, jy = (ix + 1).clamp(max=bank.shape[2] - 1), (iy + 1).clamp(max=bank.shape[1] - 1)
    top = bank[image, iy, ix] * (1 - fx) + bank[image, iy, jx] * fx
    low = bank[image, jy, ix] * (1 - fx) + bank[image, jy, jx] * fx
    level = (top * (1 - fy) + low * fy).long()
    gain = _stack((np.asarray(c.gain, np.float32) for c in cuts), device)
    return _tensor(SRGB_TO_LINEAR, device)[level] * gain[:, None, None]


def _lit(scene: Surfaces, vertex_image: Tensor, shadowed: Tensor) -> Float[Tensor, "v"]:
    """Share of the key light that reaches each vertex, by one shadow map per image."""
    lit = torch.ones_like(scene.occlusion)
    if not bool(shadowed.any()):
        return lit
    screen = _light_screen(scene.points, vertex_image, scene.key_direction)
    chosen = scene.casts & shadowed[scene.face_image]
    maps = depth_maps(screen, scene.faces, scene.face_image, chosen, len(shadowed), SHADOW_MAP)
    x, y = (screen[:, :2] + 0.5).long().unbind(1)
    total = torch.zeros_like(lit)
    for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        px, py = x + dx, y + dy
        outside = (px < 0) | (px >= SHADOW_MAP) | (py < 0) | (py >= SHADOW_MAP)
        nearest = maps[vertex_image, py.clamp(0, SHADOW_MAP - 1), px.clamp(0, SHADOW_MAP - 1)]
        total += 0.2 * (outside | (screen[:, 2] + SHADOW_BIAS_MM >= nearest))
    return torch.where(shadowed[vertex_image], total, lit)


def _light_screen(points: Tensor, image: Tensor, direction: Tensor) -> Float[Tensor, "v 3"]:
    """Orthographic views from the lights; twin of `_synthetic_rig.light_view`."""
    upright = (direction[:, 1].abs() < 0.9)[:, None]
    helper = torch.where(upright, direction.new_tensor([0, 1, 0]), direction.new_tensor([1, 0, 0]))
    right = torch.linalg.cross(helper, direction)
    right = right / right.norm(dim=1, keepdim=True)
    up = torch.linalg.cross(direction, right)
    axes = torch.stack((right, -up, direction), 1)
    view = (axes[image] @ points[..., None])[..., 0]
    index = image[:, None].expand(-1, 2)
    low = view.new_full((len(direction), 2), torch.inf).scatter_reduce(
        0, index, view[:, :2], "amin"
    )
    high = view.new_full((len(direction), 2), -torch.inf).scatter_reduce(
        0, index, view[:, :2], "amax"
    )
    extent = (high - low).amax(1)
    place = (view[:, :2] - low[image]) * ((SHADOW_MAP - 3) / extent)[image, None] + 1
    return torch.cat((place, view[:, 2:]), 1)


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _stack(values, device: torch.device) -> Tensor:
    return _tensor(np.stack(list(values)), device)
