"""Heads in new light, from a `Head` or a GLB file: single views, turntables of head and light."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from lifemask.assets import UserError
from lifemask.export import posed_scene
from lifemask.graphics.camera import rotation_from_euler_deg
from lifemask.graphics.environment import Environment, load_environment
from lifemask.graphics.lit_mesh import (
    LitMesh,
    Sight,
    create_lit_mesh,
    create_shine,
    illuminate,
    look,
    without_maps,
)
from lifemask.graphics.meshio import MeshFormatError, read_glb
from lifemask.head import BACKGROUND_SRGB, Head, to_picture, view_camera
from lifemask.types import Lighting

if TYPE_CHECKING:
    from PIL import Image

Turn = Literal["head", "light", "both"]
MAX_SIZE, MAX_FRAMES = 4096, 1000
_SHOULDER = 0.7
"""Up to this linear level pictures are true; above, highlights roll off to white."""


@dataclass(frozen=True)
class TurntableConfig:
    """What is drawn.

    Attributes:
        frames: pictures; 1 is a still, which is also the first picture of every turntable.
        turn: "head" turns before a fixed light; "light" goes round a still head, by way of the
            picture's right; "both" turn together, as if the camera went round the head.
        arc_deg: how far; 360 goes round, less swings to both sides by half of it and back.
        yaw_deg: how far the head is turned to image right at the start.
        pitch_deg: how far it looks up.
        light_yaw_deg: how far the light is turned, a lamp in front going to image right.
        exposure: in stops; 1 is twice as bright.
        size: side of the pictures in px.
        maps: shade with the normal and roughness maps, and with gloss; False leaves the matte
            colours that `Head.render` draws.
        background_srgb: colour around the head, sRGB in [0, 1]; None leaves it transparent.
        supersample: samples per pixel along each side.
    """

    frames: int = 1
    turn: Turn = "head"
    arc_deg: float = 360.0
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    light_yaw_deg: float = 0.0
    exposure: float = 0.0
    size: int = 512
    maps: bool = True
    background_srgb: tuple[float, float, float] | None = BACKGROUND_SRGB
    supersample: int = 2

    def check(self) -> None:
        """Raise UserError, naming the setting, where a value is out of range."""
        if self.turn not in get_args(Turn):
            raise UserError(f"unknown turn {self.turn!r}; valid: {', '.join(get_args(Turn))}")
        if not 1 <= self.frames <= MAX_FRAMES:
            raise UserError(f"frames must be in 1..{MAX_FRAMES}, not {self.frames}")
        if not 16 <= self.size <= MAX_SIZE:
            raise UserError(f"the size must be in 16..{MAX_SIZE} px, not {self.size}")
        if not 0 < self.arc_deg <= 360:
            raise UserError(f"the arc must be above 0 and at most 360 degrees, not {self.arc_deg}")


def turntable(
    source: Head | LitMesh | str | Path,
    light: Environment | Lighting | str | Path = "softboxes",
    config: TurntableConfig | None = None,
) -> Iterator[Image.Image]:
    """Pictures of a head in a light, one after the other as they are asked for.

    What is wrong with the arguments is said at once, before the first picture.

    Args:
        source: a head; a GLB file, lifemask's or another textured one; or `load_subject`'s result.
        light: see `graphics.environment.load_environment`.
        config: views, turns, size; None for one picture from the front.

    Raises:
        UserError: a file or light that cannot be read, or a setting out of range.
    """
    config = config or TurntableConfig()
    config.check()
    room = light if isinstance(light, Environment) else load_environment(light)
    mesh = source if isinstance(source, LitMesh) else load_subject(source)
    return _draw(mesh if config.maps else without_maps(mesh), room, config)


def load_subject(source: Head | str | Path) -> LitMesh:
    """A head or a GLB file ready to be lit; takes seconds, and serves any number of lights.

    Raises:
        UserError: the file cannot be read, or the head has no texture.
    """
    if isinstance(source, Head):
        if source.appearance is None:
            raise UserError("a head without texture cannot be relit; reconstruct it with one")
        return create_lit_mesh(posed_scene(source))
    path = Path(source)
    if path.suffix.lower() != ".glb":
        raise UserError(f"{path}: a head to relight is a .glb file, as reconstruct writes it")
    try:
        return create_lit_mesh(read_glb(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except MeshFormatError as error:
        raise UserError(str(error)) from error


def _draw(mesh: LitMesh, room: Environment, config: TurntableConfig) -> Iterator[Image.Image]:
    shine = create_shine(room, gloss=config.maps)
    sight: Sight | None = None
    for angle_deg in angles_deg(config.frames, config.arc_deg):
        if sight is None or config.turn != "light":
            turned = angle_deg if config.turn in ("head", "both") else 0.0
            sight = _sight(mesh, config, config.yaw_deg + turned)
        moved = angle_deg if config.turn in ("light", "both") else 0.0
        image, mask = illuminate(sight, shine, _about_y(config.light_yaw_deg + moved))
        yield _picture(image * 2**config.exposure, mask, config)


def angles_deg(frames: int, arc_deg: float) -> list[float]:
    """How far each picture of a turntable is turned; the first is 0, and the last leads to it."""
    if arc_deg >= 360:
        return [360.0 * k / frames for k in range(frames)]
    return [arc_deg / 2 * math.sin(2 * math.pi * k / frames) for k in range(frames)]


def _sight(mesh: LitMesh, config: TurntableConfig, yaw_deg: float) -> Sight:
    # the rotation of 180 degrees and more is another name of one below
    yaw_deg = (yaw_deg + 180) % 360 - 180
    camera = view_camera(mesh.vertices, config.size, yaw_deg, config.pitch_deg)
    return look(mesh, camera, config.size, config.size, config.supersample)


def _about_y(yaw_deg: float) -> Tensor:
    return rotation_from_euler_deg(torch.tensor([0.0, yaw_deg, 0.0]))


def _picture(image: Tensor, mask: Tensor, config: TurntableConfig) -> Image.Image:
    """The picture, highlights rolled off, over the background or with alpha."""
    image = roll_off(image)
    if config.background_srgb is not None:
        return to_picture(image, mask, config.background_srgb)
    inside = image / mask.clamp(min=1e-6)
    picture = to_picture(inside, torch.ones_like(mask))
    alpha = to_picture(mask.expand(3, -1, -1), torch.ones_like(mask), (0, 0, 0))
    picture.putalpha(alpha.getchannel(0))
    return picture


def roll_off(image: Tensor) -> Tensor:
    """Linear colours up to `_SHOULDER` as they are, brighter ones bent towards 1; any shape."""
    room = 1 - _SHOULDER
    bright = _SHOULDER + room * (1 - torch.exp(-(image - _SHOULDER).clamp(min=0) / room))
    return torch.where(image > _SHOULDER, bright, image)
