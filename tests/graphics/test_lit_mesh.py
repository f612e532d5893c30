"""Meshes in new light: analytic balls, seams, relief, gloss, turned lights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers.ball import RADIUS_MM, ball_scene
from lifemask.graphics.camera import orthographic_camera
from lifemask.graphics.environment import Environment, load_environment
from lifemask.graphics.lighting import directional_light, shading, with_mean_shading
from lifemask.graphics.lit_mesh import (
    create_lit_mesh,
    create_shine,
    illuminate,
    look,
    without_maps,
)
from lifemask.graphics.meshio import Material, MeshScene, MorphTarget, encode_normals, split_seams
from lifemask.graphics.render import render

SIZE = 96
GREY = Material("ball", color=(0.5, 0.5, 0.5), roughness=1.0)


def camera(yaw_deg: float = 0.0):
    a = math.radians(yaw_deg)
    turn = torch.tensor([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    middle = (SIZE - 1) / 2
    return orthographic_camera(turn, 0.42, torch.tensor([middle, middle]))


def draw(scene: MeshScene, name: str, *, gloss: bool = False, yaw_deg: float = 0.0, turn=None):
    sight = look(create_lit_mesh(scene), camera(yaw_deg), SIZE, SIZE)
    return illuminate(sight, create_shine(load_environment(name), gloss=gloss), turn)


def ball_normals() -> tuple[torch.Tensor, torch.Tensor]:
    """Normals (s, s, 3) of the ball in the picture, and where it lies well inside (s, s)."""
    at = (torch.arange(SIZE) - (SIZE - 1) / 2) / (0.42 * RADIUS_MM)
    y, x = torch.meshgrid(-at, at, indexing="ij")
    square = x * x + y * y
    inside = square < 0.85**2
    z = (1 - square).clamp(min=0).sqrt()
    return torch.stack((x, y, z), -1), inside


def test_a_matte_ball_is_what_the_harmonics_say():
    image, mask = draw(ball_scene(GREY), "key")
    normals, inside = ball_normals()
    expected = 0.5 * shading(normals, load_environment("key").lighting.sh).movedim(-1, 0)
    torch.testing.assert_close(image[:, inside], expected[:, inside], atol=0.01, rtol=0)
    assert float(mask[inside].min()) == 1 and float(mask[0, 0]) == 0


def tilted(east: float, north: float) -> Material:
    """A material whose map leans every normal by the same slopes."""
    vector = torch.tensor([east, north, 1.0])
    pixels = encode_normals((vector / vector.norm()).expand(8, 8, 3).numpy())
    return replace(GREY, normal_texture=pixels)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_known_normal_map_bends_the_ball_s_normals(mirrored):
    """Leaning east and north, on a ball: against shading by the bent normals themselves."""
    scene = ball_scene(tilted(0.3, -0.2), mirrored=mirrored)
    image, _ = draw(scene, "rim")
    n, inside = ball_normals()
    east = functional.normalize(torch.stack((n[..., 2], 0 * n[..., 0], -n[..., 0]), -1), dim=-1)
    north = torch.linalg.cross(n, east)
    sign = -1 if mirrored else 1
    bent = functional.normalize(n + sign * 0.3 * east - 0.2 * north, dim=-1)
    sh = load_environment("rim").lighting.sh
    expected = 0.5 * shading(bent, sh).clamp(min=0).movedim(-1, 0)
    torch.testing.assert_close(image[:, inside], expected[:, inside], atol=0.02, rtol=0)
    smooth, _ = draw(ball_scene(GREY), "rim")
    assert float((image - smooth)[:, inside].abs().mean()) > 0.03  # the map is seen


def test_relief_is_dimmed_where_the_sky_is_hidden():
    """In a cup the same lean changes the light less than on the open."""
    mesh = create_lit_mesh(ball_scene(tilted(0.3, 0.0)))
    shut = replace(mesh, transfer=0.2 * mesh.transfer)
    shine = create_shine(load_environment("rim"), gloss=False)
    flat = without_maps(mesh), without_maps(shut)
    gaps = []
    for bent, smooth in zip((mesh, shut), flat, strict=True):
        pair = [illuminate(look(m, camera(), 48, 48, 1), shine)[0] for m in (bent, smooth)]
        gaps.append(float((pair[0] - pair[1]).abs().mean()))
    assert gaps[1] == pytest.approx(0.2 * gaps[0], rel=0.3)


def test_seams_of_the_file_are_not_seen():
    scene = ball_scene(GREY)
    (primitive,) = scene.primitives
    ids, uv_ids, faces = split_seams(primitive.faces, primitive.faces_uv)
    split = MeshScene(
        scene.positions_mm[ids],
        (replace(primitive, faces=faces, faces_uv=faces),),
        normals=scene.normals[ids],
        uvs=scene.uvs[uv_ids],
    )
    assert len(split.positions_mm) > len(scene.positions_mm)
    assert len(create_lit_mesh(split).vertices) == len(scene.positions_mm)
    for a, b in zip(draw(scene, "sunset", yaw_deg=180), draw(split, "sunset", yaw_deg=180),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_without_maps_and_gloss_it_is_the_renderer():
    mesh = without_maps(create_lit_mesh(ball_scene(tilted(0.3, 0.1))))
    environment = load_environment("sunset")
    image, mask = illuminate(
        look(mesh, camera(20), SIZE, SIZE, 1), create_shine(environment, gloss=False)
    )
    drawn = render(
        mesh.vertices[None], mesh.faces, camera(20), SIZE, SIZE, uvs=mesh.uvs,
        faces_uv=mesh.faces_uv, albedo=mesh.parts[0].albedo[None],
        lighting=environment.lighting, transfer=mesh.transfer[None],
    )  # fmt: skip
    lit = drawn.image[0] > 0.12  # what is darker gets the floor of deep shadow
    assert float(lit.float().mean()) > 0.25
    torch.testing.assert_close(image[lit], drawn.image[0][lit], atol=0.005, rtol=0)
    torch.testing.assert_close(mask, drawn.mask[0])


@pytest.mark.parametrize("roughness", [0.1, 0.5, 1.0])
def test_a_white_ball_in_white_light_is_white_however_glossy(roughness):
    white = Material("ball", color=(1.0, 1.0, 1.0), roughness=roughness)
    image, _ = draw(ball_scene(white), "neutral", gloss=True)
    _, inside = ball_normals()
    assert float((image[:, inside] - 1).abs().max()) < 0.01


def test_gloss_shows_the_lamp_where_a_mirror_would():
    black = Material("ball", color=(0.0, 0.0, 0.0), roughness=0.1)
    image, _ = draw(ball_scene(black), "window", gloss=True)
    bright = image.sum(0)
    column = float((bright * torch.arange(SIZE)).sum() / bright.sum())
    assert column < SIZE * 0.42  # the window is at the left
    rough, _ = draw(ball_scene(replace(black, roughness=0.8)), "window", gloss=True)
    assert float(bright.max()) > 3 * float(rough.sum(0).max())


def test_light_from_the_left_is_brighter_on_the_left():
    image, mask = draw(ball_scene(GREY), "split", gloss=True)
    left, right = image[:, :, : SIZE // 2].sum(), image[:, :, SIZE // 2 :].sum()
    assert float(left) > 2 * float(right)


def test_turning_the_light_is_turning_the_view_and_the_ball():
    """A light that goes round by 90 degrees, and by 360."""
    quarter = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    scene = ball_scene(GREY)
    straight, _ = draw(scene, "split", gloss=True)
    turned, _ = draw(scene, "split", gloss=True, turn=quarter)
    round_, _ = draw(scene, "split", gloss=True, turn=quarter @ quarter @ quarter @ quarter)
    torch.testing.assert_close(straight, round_, atol=1e-4, rtol=0)
    # the lamp from the left (-x) comes from the front (+z) after a quarter turn
    assert float(turned.sum()) > 1.5 * float(straight.sum())
    mirrored = turned.flip(2)
    assert float((turned - mirrored).abs().mean()) < 0.1 * float(turned.mean())


def test_deep_shadow_is_dim_and_never_below_zero():
    """A lamp behind the ball, whose harmonics are negative on some of the front."""
    lamp = directional_light(torch.tensor([0.6, 0.0, -0.8]), torch.tensor([1.0, 1.0, 1.0]))
    sight = look(create_lit_mesh(ball_scene(GREY)), camera(), SIZE, SIZE, 1)
    image, mask = illuminate(sight, create_shine(load_environment(lamp), gloss=False))
    raw = (sight.transfer @ lamp.sh)[:, 0]
    assert float(raw.min()) < -0.02
    shown = image[0][mask > 0] / 0.5
    assert 0 < float(shown.min()) < 0.03 and float(shown.max()) > 0.4
    torch.testing.assert_close(shown[raw > 0.2], raw[raw > 0.2], atol=0.005, rtol=0)


def test_mean_exposure_is_that_of_the_light():
    """Over all sides of a white ball the mean shading is 1 in a light normalised to 1."""
    room = load_environment("low-sun")
    even = Environment(with_mean_shading(room.lighting), room.radiance)
    mesh = create_lit_mesh(ball_scene(replace(GREY, color=(1.0, 1.0, 1.0))))
    shade = (mesh.transfer @ even.lighting.sh) @ torch.tensor([0.2126, 0.7152, 0.0722])
    weight = torch.zeros(len(mesh.vertices)).index_add(
        0,
        mesh.faces.long().reshape(-1),
        torch.linalg.vector_norm(
            torch.linalg.cross(
                mesh.vertices[mesh.faces[:, 1].long()] - mesh.vertices[mesh.faces[:, 0].long()],
                mesh.vertices[mesh.faces[:, 2].long()] - mesh.vertices[mesh.faces[:, 0].long()],
            ),
            dim=-1,
        ).repeat_interleave(3),
    )
    assert float((shade * weight).sum() / weight.sum()) == pytest.approx(1, abs=0.01)


def test_blendshapes_stand_at_their_weights():
    scene = ball_scene(GREY)
    away = MorphTarget(np.tile(np.float32([30, 0, 0]), (len(scene.positions_mm), 1)))
    moved = replace(scene, morph_targets={"aside": away, "not": away}, morph_weights={"aside": 0.5})
    expected = scene.positions_mm.mean(0) + [15, 0, 0]
    np.testing.assert_allclose(create_lit_mesh(moved).vertices.mean(0), expected, atol=0.5)


def test_other_units_become_millimetres():
    scene = ball_scene(GREY)
    small = replace(scene, positions_mm=scene.positions_mm / 1000)
    extent = create_lit_mesh(small).vertices
    assert float((extent.amax(0) - extent.amin(0)).max()) == pytest.approx(300, rel=1e-4)
    assert torch.equal(create_lit_mesh(scene).vertices.amax(), torch.tensor(RADIUS_MM).float())
