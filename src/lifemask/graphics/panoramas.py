"""Environment lights painted by rule: a name to a panorama of linear radiance.

Every light is a quiet room or sky and lamps in it. A lamp is told by its place, its shape, and by
what it gives a surface that faces it (linear RGB of an albedo of 1), as in
`lighting.STUDIO_LIGHTS`, whose lights are here too: projected to spherical harmonics their
panoramas give the same numbers.

Places: azimuth 0 is in front of the face (behind the camera), 90 at the picture's right, 180
behind the head; elevation 90 is overhead. Degrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.graphics.lighting import STUDIO_LIGHTS

Color = tuple[float, float, float]
PANORAMA_HEIGHT = 256


def panorama_directions(height: int) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """Unit directions and solid angles of a panorama's pixels, camera frame.

    Args:
        height: rows; there are twice as many columns.
    """
    edges = torch.linspace(math.pi / 2, -math.pi / 2, height + 1, dtype=torch.float64)
    latitude = ((edges[:-1] + edges[1:]) / 2)[:, None].expand(height, 2 * height)
    longitude = ((torch.arange(2 * height, dtype=torch.float64) + 0.5) / height - 1) * math.pi
    x, z = latitude.cos() * longitude.sin(), -latitude.cos() * longitude.cos()
    area = (edges[:-1].sin() - edges[1:].sin()) * (math.pi / height)
    return torch.stack((x, latitude.sin(), z), dim=-1), area[:, None].expand(height, 2 * height)


class Canvas:
    """The pixels of a panorama, float64, and ways to paint on them."""

    def __init__(self, height: int) -> None:
        self.directions, self.area = panorama_directions(height)
        self.pixel_deg = 180.0 / height
        self.up = self.directions[..., 1]

    def even(self, color: Color) -> Tensor:
        """The same radiance from everywhere."""
        return self.up.new_tensor(color).expand(*self.up.shape, 3)

    def gradient(self, *stops: tuple[float, Color]) -> Tensor:
        """Radiance by elevation: (elevation, colour) from below to above, smooth between."""
        elevation = torch.rad2deg(torch.asin(self.up.clamp(-1, 1)))
        out = self.even(stops[0][1])
        for (low, _), (high, color) in zip(stops[:-1], stops[1:], strict=True):
            share = _smooth((elevation - low) / (high - low))[..., None]
            out = out + share * (self.up.new_tensor(color) - out)
        return out

    def disc(self, place: Tensor, radius_deg: float, soft_deg: float = 0.0) -> Tensor:
        """Coverage (h, w) of a round lamp; the edge is one pixel wide, or as soft as told."""
        edge = max(soft_deg, self.pixel_deg)
        return ((radius_deg - self._angle(place)) / edge + 0.5).clamp(0, 1)

    def ring(self, place: Tensor, inner_deg: float, outer_deg: float) -> Tensor:
        """Coverage of a ring."""
        return self.disc(place, outer_deg) - self.disc(place, inner_deg)

    def panel(
        self, place: Tensor, width_deg: float, height_deg: float, *, tilt_deg: float = 0.0
    ) -> Tensor:
        """Coverage of a flat rectangle that faces the head; its edge is two pixels wide."""
        right = torch.linalg.cross(place.new_tensor([0.0, 1.0, 0.0]), place)
        right = torch.nn.functional.normalize(right, dim=-1)
        above = torch.linalg.cross(place, right)
        cosine, sine = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))
        right, above = cosine * right + sine * above, cosine * above - sine * right
        ahead = self.directions @ place
        x, y = (torch.atan2((self.directions @ axis).abs(), ahead) for axis in (right, above))
        halves = math.radians(width_deg / 2), math.radians(height_deg / 2)
        soft = math.radians(2 * self.pixel_deg)
        across, along = (
            ((half - angle) / soft + 0.5).clamp(0, 1)
            for half, angle in zip(halves, (x, y), strict=True)
        )
        return across * along * (ahead > 0)

    def glow(self, place: Tensor, width_deg: float) -> Tensor:
        """A bell around a place, for haze and halos."""
        return torch.exp(-((self._angle(place) / width_deg) ** 2))

    def lamp(self, coverage: Tensor, place: Tensor, color: Color) -> Tensor:
        """Radiance (h, w, 3) of a lamp that shades a surface facing `place` with `color`.

        Discs are scaled by their exact power, so that coarse panoramas give what fine ones do.
        """
        facing = (self.directions @ place).clamp(min=0)
        received = (coverage * facing * self.area).sum() / math.pi
        return (coverage / received)[..., None] * coverage.new_tensor(color)

    def _angle(self, place: Tensor) -> Tensor:
        """Degrees from a place; exact for small angles too."""
        chord = torch.linalg.vector_norm(self.directions - place, dim=-1)
        return 2 * torch.rad2deg(torch.asin((chord / 2).clamp(max=1)))


@dataclass(frozen=True)
class NamedLight:
    """A light of the house.

    Attributes:
        line: what it is, in a line.
        paint: a canvas to its radiance (h, w, 3).
    """

    line: str
    paint: Callable[[Canvas], Tensor]


def panorama(name: str, height: int = PANORAMA_HEIGHT) -> Float[Tensor, "h w 3"]:
    """A light of `PANORAMAS` as linear radiance, as wide as twice its height.

    Laid out as in `lighting.project_environment`: the middle column lies behind the head, the top
    row is up. The same name and height give the same numbers.

    Args:
        name: key of `PANORAMAS`.
        height: rows, at least 16.

    Raises:
        KeyError: no such light; the message lists the names.
        ValueError: fewer than 16 rows.
    """
    if name not in PANORAMAS:
        raise KeyError(f"no light {name!r}; choose from {', '.join(PANORAMAS)}")
    if height < 16:
        raise ValueError(f"a panorama needs at least 16 rows, not {height}")
    return PANORAMAS[name].paint(Canvas(height)).float().clamp(min=0)


def _at(azimuth_deg: float, elevation_deg: float) -> Tensor:
    """Unit direction of a place."""
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    level = math.cos(elevation)
    place = [level * math.sin(azimuth), math.sin(elevation), level * math.cos(azimuth)]
    return torch.tensor(place, dtype=torch.float64)


def _smooth(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def _studio(name: str) -> Callable[[Canvas], Tensor]:
    """The panorama of a light of `STUDIO_LIGHTS`: even discs in an even room."""

    def paint(canvas: Canvas) -> Tensor:
        ambient, lamps = STUDIO_LIGHTS[name]
        out = canvas.even((ambient, ambient, ambient))
        for direction, color, spread_deg in lamps:
            place = torch.nn.functional.normalize(out.new_tensor(direction), dim=0)
            coverage = canvas.disc(place, spread_deg)
            # a lamp's colour is its power, whatever its spread (`lighting.directional_light`)
            power = (coverage * canvas.area).sum() / math.pi
            out = out + (coverage / power)[..., None] * out.new_tensor(color)
        return out

    return paint


def _softboxes(canvas: Canvas) -> Tensor:
    key, fill, hair = _at(-48, 28), _at(58, 8), _at(150, 38)
    room = canvas.gradient((-60, (0.06, 0.058, 0.055)), (40, (0.10, 0.10, 0.105)))
    room = room + canvas.lamp(canvas.panel(key, 48, 66), key, (0.98, 0.96, 0.93))
    room = room + canvas.lamp(canvas.panel(fill, 40, 60), fill, (0.26, 0.27, 0.29))
    return room + canvas.lamp(canvas.panel(hair, 16, 50, tilt_deg=20), hair, (0.7, 0.68, 0.64))


def _ring(canvas: Canvas) -> Tensor:
    front = _at(0, 2)
    room = canvas.gradient((-50, (0.05, 0.05, 0.05)), (40, (0.09, 0.09, 0.10)))
    return room + canvas.lamp(canvas.ring(front, 13, 20), front, (0.95, 0.95, 0.97))


def _window(canvas: Canvas) -> Tensor:
    place = _at(-72, 14)
    room = canvas.gradient(
        (-80, (0.20, 0.15, 0.10)), (-10, (0.13, 0.115, 0.10)), (60, (0.17, 0.165, 0.16))
    )
    panes = torch.zeros_like(canvas.up)
    for azimuth in (-90.0, -72.0, -54.0):
        for elevation in (-7.0, 14.0, 35.0):
            panes = torch.maximum(panes, canvas.panel(_at(azimuth, elevation), 15, 18))
    sky = canvas.gradient((-25, (0.75, 0.78, 0.72)), (5, (1.0, 1.0, 1.0)), (40, (0.86, 0.94, 1.1)))
    return room + sky * canvas.lamp(panes, place, (1.05, 1.08, 1.12))


def _overcast(canvas: Canvas) -> Tensor:
    sky = ((1 + 2 * canvas.up.clamp(min=0)) / 3)[..., None] * canvas.up.new_tensor(
        [1.28, 1.34, 1.42]
    )
    ground = canvas.even((0.17, 0.17, 0.14))
    return ground + _smooth((canvas.up + 0.03) / 0.06)[..., None] * (sky - ground)


def _noon(canvas: Canvas) -> Tensor:
    sun = _at(38, 58)
    sky = canvas.gradient(
        (-90, (0.24, 0.21, 0.17)), (-4, (0.30, 0.27, 0.23)), (4, (0.52, 0.60, 0.70)),
        (70, (0.16, 0.28, 0.52)),
    )  # fmt: skip
    sky = sky + 0.5 * canvas.glow(sun, 18)[..., None] * sky.new_tensor([1.0, 0.95, 0.85])
    return sky + canvas.lamp(canvas.disc(sun, 3, 1), sun, (1.15, 1.08, 0.96))


def _low_sun(canvas: Canvas) -> Tensor:
    sun = _at(62, 9)
    sky = canvas.gradient(
        (-90, (0.07, 0.055, 0.045)), (-3, (0.12, 0.085, 0.06)), (3, (0.50, 0.34, 0.22)),
        (20, (0.26, 0.27, 0.34)), (80, (0.10, 0.16, 0.30)),
    )  # fmt: skip
    sky = sky + 0.9 * canvas.glow(sun, 28)[..., None] * sky.new_tensor([1.0, 0.52, 0.20])
    return sky + canvas.lamp(canvas.disc(sun, 4, 2), sun, (1.30, 0.78, 0.38))


def _neon(canvas: Canvas) -> Tensor:
    pink, cyan, sign = _at(-62, 10), _at(66, 4), _at(165, 30)
    night = canvas.gradient((-70, (0.035, 0.03, 0.05)), (50, (0.02, 0.02, 0.045)))
    night = night + canvas.lamp(canvas.panel(pink, 9, 80), pink, (1.05, 0.16, 0.52))
    night = night + canvas.lamp(canvas.panel(cyan, 9, 80), cyan, (0.08, 0.60, 0.88))
    return night + canvas.lamp(canvas.panel(sign, 50, 14), sign, (0.45, 0.16, 0.80))


def _candle(canvas: Canvas) -> Tensor:
    flame = _at(24, -20)
    room = canvas.gradient((-60, (0.045, 0.026, 0.012)), (60, (0.022, 0.015, 0.011)))
    room = room + 0.10 * canvas.glow(flame, 40)[..., None] * room.new_tensor([1.0, 0.5, 0.18])
    return room + canvas.lamp(canvas.disc(flame, 5, 3), flame, (1.05, 0.56, 0.22))


def _stage(canvas: Canvas) -> Tensor:
    spot, left, right = _at(20, 42), _at(-125, 30), _at(130, 26)
    hall = canvas.even((0.028, 0.027, 0.033))
    hall = hall + canvas.lamp(canvas.disc(spot, 7, 2), spot, (1.15, 1.02, 0.84))
    hall = hall + canvas.lamp(canvas.disc(left, 12, 3), left, (0.20, 0.35, 1.25))
    return hall + canvas.lamp(canvas.disc(right, 12, 3), right, (1.15, 0.16, 0.42))


def _split(canvas: Canvas) -> Tensor:
    side = _at(-86, 8)
    room = canvas.even((0.035, 0.036, 0.042))
    return room + canvas.lamp(canvas.panel(side, 44, 70), side, (1.25, 1.22, 1.18))


PANORAMAS: dict[str, NamedLight] = {
    "neutral": NamedLight("white from everywhere", _studio("neutral")),
    "soft": NamedLight("a large soft lamp above the camera", _studio("soft")),
    "key": NamedLight("a key light from the upper left, a weak fill", _studio("key")),
    "rim": NamedLight("warm and cool lamps from behind on both sides", _studio("rim")),
    "sunset": NamedLight("an orange lamp at the right under a blue sky", _studio("sunset")),
    "top": NamedLight("a lamp overhead", _studio("top")),
    "softboxes": NamedLight("a photo studio: two soft boxes and a hair light", _softboxes),
    "ring": NamedLight("a ring light around the camera", _ring),
    "window": NamedLight("a paned window at the left of a warm room", _window),
    "overcast": NamedLight("a grey sky over grass", _overcast),
    "noon": NamedLight("high sun and blue sky over sand", _noon),
    "low-sun": NamedLight("the sun just above the horizon at the right", _low_sun),
    "neon": NamedLight("pink and cyan tubes at night", _neon),
    "candle": NamedLight("one flame below the face in a dark room", _candle),
    "stage": NamedLight("a white spot, blue and red lamps from behind", _stage),
    "split": NamedLight("one panel at the left, the other half dark", _split),
}
"""By name; the first six are `lighting.STUDIO_LIGHTS`."""
