"""Our environment lights: what they promise, and that they agree with the studio lights."""

import math

import pytest
import torch

from lifemask.graphics.environment import load_environment, load_light
from lifemask.graphics.lighting import STUDIO_LIGHTS, project_environment, shading, studio_light
from lifemask.graphics.panoramas import PANORAMAS, panorama, panorama_directions

AXES = {"front": (0, 0, 1), "left": (-1, 0, 0), "right": (1, 0, 0), "up": (0, 1, 0),
        "down": (0, -1, 0), "back": (0, 0, -1)}  # fmt: skip


def shades(name: str) -> dict[str, float]:
    sh = project_environment(panorama(name, 64))
    values = shading(torch.tensor(list(AXES.values()), dtype=torch.float32), sh).mean(-1)
    return dict(zip(AXES, values.tolist(), strict=True))


@pytest.mark.parametrize("name", PANORAMAS)
def test_every_light_is_a_panorama_and_the_same_each_time(name):
    first = panorama(name, 32)
    assert first.shape == (32, 64, 3) and bool(first.isfinite().all()) and float(first.min()) >= 0
    assert float(first.max()) > 0 and torch.equal(first, panorama(name, 32))
    assert PANORAMAS[name].line and "\n" not in PANORAMAS[name].line


@pytest.mark.parametrize("name", STUDIO_LIGHTS)
def test_studio_lights_are_their_panoramas(name):
    expected = studio_light(name).sh
    found = project_environment(panorama(name, 128))
    torch.testing.assert_close(found, expected, atol=0.005 * float(expected.abs().max()), rtol=0)
    torch.testing.assert_close(load_environment(name).lighting.sh, expected)


@pytest.mark.parametrize("name", PANORAMAS)
def test_resolution_does_not_change_the_light(name):
    coarse, fine = (project_environment(panorama(name, n)) for n in (64, 256))
    torch.testing.assert_close(coarse, fine, atol=0.02 * float(fine.abs().max()), rtol=0)


@pytest.mark.parametrize("name", PANORAMAS)
def test_exposure_suits_a_face(name):
    """Some side of a head is lit about as brightly as by white light of radiance 1."""
    brightest = max(shades(name).values())
    assert 0.5 < brightest < 1.6


@pytest.mark.parametrize(
    ("name", "bright", "dark"),
    [("window", "left", "right"), ("split", "left", "right"), ("low-sun", "right", "left"),
     ("overcast", "up", "down"), ("noon", "up", "down"), ("ring", "front", "back"),
     ("softboxes", "front", "down"), ("stage", "back", "down"), ("candle", "front", "back"),
     ("candle", "down", "up")],
)  # fmt: skip
def test_lights_come_from_where_they_say(name, bright, dark):
    found = shades(name)
    assert found[bright] > 1.8 * found[dark]


def test_a_lamp_gives_a_surface_that_faces_it_its_colour():
    """The panel of "split" by its definition: irradiance over pi, integrated directly."""
    towards, area = panorama_directions(128)
    radiance = panorama("split", 128).double()
    azimuth, elevation = math.radians(-86), math.radians(8)
    place = towards.new_tensor(
        [math.cos(elevation) * math.sin(azimuth), math.sin(elevation),
         math.cos(elevation) * math.cos(azimuth)]
    )  # fmt: skip
    weight = (towards @ place).clamp(min=0) * area / math.pi
    received = (radiance * weight[..., None]).sum((0, 1))
    room = torch.tensor([0.035, 0.036, 0.042], dtype=torch.float64)
    expected = room + torch.tensor([1.25, 1.22, 1.18], dtype=torch.float64)
    torch.testing.assert_close(received, expected, atol=0.002, rtol=0)


def test_solid_angles_cover_the_sphere():
    towards, area = panorama_directions(48)
    assert float(area.sum()) == pytest.approx(4 * math.pi)
    lengths = torch.linalg.vector_norm(towards, dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert towards[24, 48].tolist()[2] < -0.99  # the middle lies behind the head


def test_unknown_lights_and_tiny_panoramas_are_refused():
    with pytest.raises(KeyError, match="candle"):
        panorama("disco")
    with pytest.raises(ValueError, match="16 rows"):
        panorama("key", 8)


def test_named_lights_are_lights_for_everyone():
    sh = load_light("neon").sh
    torch.testing.assert_close(sh, project_environment(panorama("neon", 128)))
