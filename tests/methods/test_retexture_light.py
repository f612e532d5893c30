"""Light of texels: numerical irradiance, rotations, grids, the published code's 27 numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from helpers.retexture_faces import ball, lights, skins
from lifemask.graphics.camera import rotation_from_euler_deg
from lifemask.graphics.lighting import ambient_light, rotate_sh, sh_basis
from lifemask.methods._retexture_light import (
    NEUTRAL,
    detail_shading,
    global_shading,
    light_from_vector,
    lit,
    solve_positive,
    spread_light,
    texel_transfer,
    unlit,
    vector_from_light,
)

angles = st.floats(-180, 180)


def sphere_normals(rows=6, columns=8):
    """Normals (1, 3, rows, columns) in all directions."""
    draw = torch.Generator().manual_seed(0)
    free = torch.randn(1, 3, rows, columns, generator=draw, dtype=torch.float64)
    return functional.normalize(free, dim=1)


def directions(rows=180, columns=360):
    """Directions (d, 3) over the sphere and their solid angles (d,)."""
    polar = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows * math.pi
    around = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns * 2 * math.pi
    p, a = torch.meshgrid(polar, around, indexing="ij")
    unit = torch.stack((p.sin() * a.cos(), p.cos(), p.sin() * a.sin()), -1).view(-1, 3)
    area = p.sin() * (math.pi / rows) * (2 * math.pi / columns)
    return unit, area.flatten()


def random_light(seed=0, count=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 9, 3, generator=draw, dtype=torch.float64)


# ------------------------------------------------------------------------------- shading


@pytest.mark.parametrize("band", range(9))
def test_a_sphere_under_each_band_has_the_irradiance_of_its_integral(band):
    """Within 1 %: irradiance over pi of radiance Y_k, summed over 64,800 directions."""
    normals = sphere_normals()
    unit, area = directions()
    flat = normals[0].flatten(1).T
    radiance = sh_basis(unit)[:, band]
    wanted = ((flat @ unit.T).clamp(min=0) * radiance * area).sum(1) / math.pi
    light = torch.zeros(1, 9, 3, dtype=torch.float64)
    light[0, band] = torch.tensor([1.0, 0.5, 2.0])
    found = global_shading(texel_transfer(normals), light)[0].flatten(1)
    for channel, strength in enumerate((1.0, 0.5, 2.0)):
        apart = (found[channel] - strength * wanted).abs().max()
        assert apart < 0.01 * strength * wanted.abs().max()


@given(angles, angles, angles)
def test_turning_the_light_is_turning_the_normals_back(x, y, z):
    rotation = rotation_from_euler_deg(torch.tensor([x, y, z], dtype=torch.float64))
    normals, light = sphere_normals(), random_light()
    turned = global_shading(texel_transfer(normals), rotate_sh(light, rotation))
    back = torch.einsum("ji,bjnm->binm", rotation, normals)  # R^-1 n
    torch.testing.assert_close(turned, global_shading(texel_transfer(back), light))


def test_neutral_light_shades_with_one():
    normals, _ = ball()
    light = torch.zeros(1, 9, 3)
    light[:, 0] = NEUTRAL
    torch.testing.assert_close(light[0], ambient_light().sh)
    shading = global_shading(texel_transfer(normals[None]), light)
    torch.testing.assert_close(shading, torch.ones_like(shading))


@pytest.mark.parametrize("places", [1, 2, 8, 16])
def test_one_light_everywhere_is_the_one_light(places):
    normals, _ = ball()
    transfer, light = texel_transfer(normals.expand(3, -1, -1, -1)), lights(3)
    grid = torch.zeros(3, 1, places, places)
    spread = spread_light(light, grid)
    assert spread.shape == (3, 27, places, places)
    torch.testing.assert_close(
        detail_shading(transfer, spread), global_shading(transfer, light), atol=1e-5, rtol=1e-5
    )


def test_each_texel_has_its_own_light_and_each_channel_its_nine_numbers():
    normals, _ = ball(16)
    transfer = texel_transfer(normals[None])
    draw = torch.Generator().manual_seed(1)
    detail = torch.randn(1, 27, 16, 16, generator=draw)
    found = detail_shading(transfer, detail)
    for row, column in ((3, 5), (8, 8), (15, 0)):
        own = detail[0, :, row, column].view(3, 9).T[None]  # (1, 9, 3)
        here = texel_transfer(normals[None, :, row : row + 1, column : column + 1])
        wanted = global_shading(here, own)[0, :, 0, 0]
        torch.testing.assert_close(found[0, :, row, column], wanted)
    red = torch.zeros_like(detail)
    red[:, :9] = detail[:, :9]
    only_red = detail_shading(transfer, red)
    torch.testing.assert_close(only_red[:, 0], found[:, 0])
    assert float(only_red[:, 1:].abs().max()) == 0


def test_lights_of_a_grid_blend_between_its_places():
    normals, _ = ball()
    transfer = texel_transfer(normals[None])
    detail = torch.zeros(1, 27, 2, 2)
    detail[:, [0, 9, 18], :, 1] = NEUTRAL  # bright to the right
    shading = detail_shading(transfer, detail)[0, 0]
    assert shading.shape == (32, 32)
    steps = shading.diff(dim=1)
    assert (steps > -1e-6).all() and steps.max() < 0.1
    assert float(shading[:, 0].max()) < 0.01 and float(shading[:, -1].min()) > 0.99


# ------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("sh", ["lifemask", "deep3d"])
def test_taking_the_light_away_undoes_lighting(sh):
    albedo = skins(2)
    normals, inside = ball()
    shading = global_shading(texel_transfer(normals.expand(2, -1, -1, -1)), lights(2, 3) * 0.8)
    coded = lit(albedo, shading, sh)
    safe = (coded < 1) & (shading > 0.2) & inside
    assert safe.float().mean() > 0.5
    back = unlit(coded, shading, sh=sh)
    torch.testing.assert_close(back[safe], albedo[safe], atol=2e-4, rtol=1e-3)
    assert unlit(coded, torch.zeros_like(shading), sh=sh).isfinite().all()


def test_the_two_codings_differ_but_in_plain_light():
    albedo, ones = skins(1), torch.ones(1, 3, 32, 32)
    torch.testing.assert_close(lit(albedo, ones), lit(albedo, ones, "deep3d"))
    half = 0.5 * ones
    assert (lit(albedo, half) > lit(albedo, half, "deep3d") + 0.02).all()


def test_dark_shading_divides_no_further_than_its_floor():
    texture = torch.full((1, 3, 4, 4), 0.2)
    shading = torch.ones(1, 3, 4, 4)
    shading[..., 0] = 1e-3
    albedo = unlit(texture, shading, floor=0.2)
    mean = float(shading.mean())
    assert float(albedo[0, 0, 0, 0]) == pytest.approx(float(albedo[0, 0, 0, 1]) / (0.2 * mean))
    assert (unlit(texture * 5, shading) <= 1).all()


def test_over_exposure_and_darkness_keep_their_order_and_a_gradient():
    albedo = torch.full((1, 3, 1, 1), 0.9, requires_grad=True)
    bright = lit(albedo, torch.full((1, 3, 1, 1), 3.0))
    assert 1 < float(bright[0, 0, 0, 0].detach()) < 1.1
    bright.sum().backward()
    assert (albedo.grad > 0).all()
    dark = lit(albedo.detach(), torch.full((1, 3, 1, 1), -0.1))
    assert float(dark.abs().max()) == 0
    levels = torch.linspace(0, 4, 200).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert (lit(torch.full_like(levels, 0.6), levels).diff(dim=-1) > 0).all()


def test_gradients_of_the_closed_forms():
    draw = torch.Generator().manual_seed(0)

    def free(*shape, low=0.2, high=0.8):
        values = torch.rand(*shape, generator=draw, dtype=torch.float64)
        return (low + (high - low) * values).requires_grad_()

    normals = sphere_normals(2, 3)
    transfer = texel_transfer(normals)
    check = torch.autograd.gradcheck
    assert check(lambda g: global_shading(transfer, g), (free(1, 9, 3),))
    assert check(lambda g: detail_shading(transfer, g), (free(1, 27, 2, 3),))
    assert check(lambda g: detail_shading(transfer, g), (free(1, 27, 1, 1),))
    for sh in ("lifemask", "deep3d"):
        assert check(lambda a, s, k=sh: lit(a, s, k), (free(1, 3, 2, 2), free(1, 3, 2, 2)))
        assert check(
            lambda a, s, k=sh: unlit(a, s, sh=k),
            (free(1, 3, 2, 2, high=0.4), free(1, 3, 2, 2, low=0.6)),
        )
    assert check(lit, (free(1, 3, 2, 2), free(1, 3, 2, 2, low=1.5, high=3.0)))  # clipped softly


# ------------------------------------------------------------------------------- 27 numbers


@given(st.integers(0, 10_000))
def test_the_27_numbers_lead_back_to_the_light(seed):
    light = random_light(seed, 2)
    vector = vector_from_light(light)
    assert vector.shape == (2, 27)
    torch.testing.assert_close(light_from_vector(vector), light)
    torch.testing.assert_close(vector_from_light(light_from_vector(vector)), vector)


def test_the_27_numbers_shade_by_the_published_formula():
    """`shade_c = sum_k H_k(n) (g_ck + 0.8 [k = 0])`, channel-major, written out."""
    normals, light = sphere_normals(), random_light(3)
    x, y, z = normals[0].flatten(1)
    a0, a1, a2 = math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8)
    c0, c1 = 1 / math.sqrt(4 * math.pi), math.sqrt(3) / math.sqrt(4 * math.pi)
    c2 = 3 * math.sqrt(5) / math.sqrt(12 * math.pi)
    harmonics = torch.stack([
        torch.full_like(x, a0 * c0), -a1 * c1 * y, a1 * c1 * z, -a1 * c1 * x, a2 * c2 * x * y,
        -a2 * c2 * y * z, a2 * c2 * 0.5 / math.sqrt(3) * (3 * z**2 - 1), -a2 * c2 * x * z,
        a2 * c2 * 0.5 * (x**2 - y**2),
    ])  # fmt: skip
    g = vector_from_light(light)[0].view(3, 9).clone()
    g[:, 0] += 0.8
    found = global_shading(texel_transfer(normals), light)[0].flatten(1)
    torch.testing.assert_close(found, g @ harmonics)


def test_elimination_is_torchs_solver():
    draw = torch.Generator().manual_seed(3)
    factor = torch.randn(4, 9, 9, generator=draw, dtype=torch.float64)
    matrix = factor @ factor.mT + 0.01 * torch.eye(9, dtype=torch.float64)
    right = torch.randn(4, 9, 3, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(solve_positive(matrix, right), torch.linalg.solve(matrix, right))
    torch.testing.assert_close(
        solve_positive(matrix[0], right[0]), solve_positive(matrix, right)[0], rtol=0, atol=1e-9
    )
