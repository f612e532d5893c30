"""Heads in new light: files and heads agree, turntables turn, light comes from its side."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fake_stages import EggModel, textures
from helpers.ball import ball_scene
from lifemask.assets import UserError
from lifemask.graphics.camera import orthographic_camera
from lifemask.graphics.lighting import studio_light
from lifemask.graphics.meshio import Material, write_glb
from lifemask.head import Head
from lifemask.relighting import (
    TurntableConfig,
    angles_deg,
    load_subject,
    roll_off,
    turntable,
)
from lifemask.types import Appearance, Face, Geometry, Lighting, ModelParams

SMALL = TurntableConfig(size=64)


@pytest.fixture(scope="module")
def head() -> Head:
    """An egg with a raised brow and stripes."""
    model = EggModel()
    params = ModelParams(torch.linspace(-1, 1, 6), torch.tensor([0.5, 0.0, 0.25, 1.0, 0.0]))
    vertices = model(params.identity, params.expression)
    camera = orthographic_camera(torch.eye(3), 1.1, torch.tensor([150.0, 140.0]))
    geometry = Geometry(vertices, model.topology.faces, camera, model.name, params)
    skin, cap = textures()
    appearance = Appearance(skin, studio_light("soft"), None, {"cap": cap})
    return Head(Face((50, 20, 250, 260), 0.9), geometry, appearance, (300, 280), "open", model)


@pytest.fixture(scope="module")
def file(head, tmp_path_factory):
    path = tmp_path_factory.mktemp("egg") / "head.glb"
    head.export(path)
    return path


@pytest.fixture(scope="module")
def egg(file):
    return load_subject(file)


def draw(source, light="key", **settings) -> list[np.ndarray]:
    pictures = turntable(source, light, replace(SMALL, **settings))
    return [np.asarray(p).astype(float) for p in pictures]


def test_the_file_is_drawn_like_the_head_it_came_from(head, egg):
    (of_file,), (of_head,) = draw(egg), draw(head)
    assert np.abs(of_file - of_head).mean() < 1


def test_without_maps_it_is_the_head_s_own_picture(head, egg):
    """Up to the 8 bits of the file's textures, where nothing is bright enough to be rolled off."""
    dim = Lighting(studio_light("sunset").sh * 0.6)
    (ours,) = draw(egg, dim, maps=False, yaw_deg=20, pitch_deg=-5)
    theirs = head.relight(dim).render(size=64, yaw_deg=20, pitch_deg=-5)
    assert np.abs(ours - np.asarray(theirs)).max() <= 4
    (glossy,) = draw(egg, dim, yaw_deg=20, pitch_deg=-5)
    assert np.abs(ours - glossy).max() > 4


@pytest.mark.parametrize("turn", ["head", "light", "both"])
def test_turntable_frames_differ_and_the_first_is_the_still(egg, turn):
    still = draw(egg, "window", yaw_deg=10)[0]
    frames = draw(egg, "window", yaw_deg=10, frames=5, turn=turn)
    assert len(frames) == 5 and np.array_equal(frames[0], still)
    for a, b in zip(frames, frames[1:] + frames[:1], strict=True):
        assert np.abs(a - b).mean() > 0.5


def test_what_turns_is_what_was_asked_for(egg):
    """A quarter turn: of the light the outline stays, of the head it moves."""
    still = draw(egg, "split")[0]
    light = draw(egg, "split", frames=4, turn="light")[1]
    head = draw(egg, "split", frames=4, turn="head")[1]
    both = draw(egg, "split", frames=4, turn="both")[1]
    ground = still[0, 0]

    def outline(picture):
        return np.abs(picture - ground).max(2) > 8

    assert np.mean(outline(light) ^ outline(still)) < 0.12  # the dark side may vanish
    assert np.array_equal(draw(egg, "split", light_yaw_deg=90)[0], light)
    assert np.array_equal(draw(egg, "split", yaw_deg=90)[0], head)
    assert np.array_equal(draw(egg, "split", yaw_deg=90, light_yaw_deg=90)[0], both)


def test_a_light_from_the_left_is_brighter_on_the_left(egg):
    for name, left_is_bright in (("split", True), ("low-sun", False)):
        picture = draw(egg, name)[0].mean(2)
        left, right = picture[:, :32].mean(), picture[:, 32:].mean()
        assert (left > 1.2 * right) if left_is_bright else (right > 1.2 * left)


def test_a_lamp_in_front_goes_to_the_right_when_the_light_is_turned(egg):
    picture = draw(egg, "ring", light_yaw_deg=70)[0].mean(2)
    assert picture[:, 32:].mean() > 1.2 * picture[:, :32].mean()


def test_exposure_is_in_stops(egg):
    dim = Lighting(studio_light("neutral").sh * 0.3)
    plain, bright = (draw(egg, dim, maps=False, exposure=e)[0] for e in (0, 1))
    from lifemask.graphics.lighting import srgb_to_linear

    inside = plain[28:36, 28:36], bright[28:36, 28:36]
    low, high = (srgb_to_linear(torch.from_numpy(p / 255)).mean() for p in inside)
    assert float(high / low) == pytest.approx(2, rel=0.03)


def test_pictures_are_the_same_every_time(egg):
    assert np.array_equal(draw(egg, "neon")[0], draw(egg, "neon")[0])


def test_a_picture_can_be_transparent(egg):
    (picture,) = turntable(egg, "key", replace(SMALL, background_srgb=None))
    assert picture.mode == "RGBA"
    alpha = np.asarray(picture)[..., 3]
    assert alpha[0, 0] == 0 and alpha[32, 32] == 255
    (over,) = draw(egg, "key", background_srgb=(0.0, 0.0, 0.0))
    solid = alpha == 255
    assert np.abs(np.asarray(picture)[..., :3][solid] - over[solid]).max() <= 1


def test_lights_are_names_files_and_lightings(egg, tmp_path):
    Image.new("RGB", (32, 16), (200, 180, 160)).save(tmp_path / "sky.png")
    for light in ("candle", tmp_path / "sky.png", studio_light("key")):
        assert draw(egg, light)[0].std() > 1
    with pytest.raises(UserError, match="candle"):
        turntable(egg, "disco")


def test_highlights_roll_off_without_a_step():
    x = torch.linspace(0, 5, 2001)
    y = roll_off(x)
    assert torch.equal(y[x <= 0.7], x[x <= 0.7]) and float(y.max()) <= 1
    assert bool((y.diff() >= 0).all()) and float(y.diff().diff().abs().max()) < 1e-4


@pytest.mark.parametrize(("frames", "arc"), [(1, 360.0), (6, 360.0), (8, 60.0)])
def test_turns_start_at_0_and_close(frames, arc):
    angles = angles_deg(frames, arc)
    assert len(angles) == frames and angles[0] == 0
    if arc < 360:
        assert max(angles) == pytest.approx(30) and min(angles) == pytest.approx(-30)
    else:
        np.testing.assert_allclose(np.diff([*angles, 360.0]), 360 / frames)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"turn": "eyes"}, "unknown turn 'eyes'; valid: head, light, both"),
     ({"frames": 0}, "frames must be in 1"), ({"size": 5000}, "size must be in 16"),
     ({"arc_deg": 0.0}, "arc must be above 0")],
)  # fmt: skip
def test_settings_are_checked_before_anything_is_drawn(egg, settings, message):
    with pytest.raises(UserError, match=message):
        turntable(egg, "key", TurntableConfig(**settings))


def test_bad_sources_are_refused(head, tmp_path):
    with pytest.raises(UserError, match="without texture"):
        turntable(replace(head, appearance=None), "key")
    with pytest.raises(UserError, match=r"a head to relight is a \.glb"):
        turntable(tmp_path / "head.obj", "key")
    with pytest.raises(UserError, match="cannot be read"):
        turntable(tmp_path / "none.glb", "key")
    (tmp_path / "bad.glb").write_bytes(b"not a mesh, but long enough for a header")
    with pytest.raises(UserError, match="not a GLB"):
        turntable(tmp_path / "bad.glb", "key")


def test_meshes_of_others_are_drawn(tmp_path):
    """No lifemask material names, no morph targets, in other units."""
    scene = ball_scene(Material("paint", np.full((4, 4, 3), 180, np.uint8)))
    write_glb(replace(scene, positions_mm=scene.positions_mm / 500), tmp_path / "ball.glb")
    picture = draw(tmp_path / "ball.glb", "split")[0].mean(2)
    assert picture[:, :32].mean() > 1.3 * picture[:, 32:].mean()
