"""Spherical-harmonics light against numerical irradiance, rotations, environments."""

import math

import pytest
import roma
import torch
from torch import Tensor

from lifemask.graphics import lighting as li
from lifemask.types import Lighting


def _directions(count: int = 200, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(raw, dim=-1)


def _sphere(count: int = 60000) -> Tensor:
    """Fibonacci directions (count, 3), each of the solid angle 4 pi / count."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * index / count
    turn = math.pi * (1 + math.sqrt(5)) * index
    ring = (1 - z * z).sqrt()
    return torch.stack((ring * turn.cos(), ring * turn.sin(), z), dim=-1)


def _equirect_directions(height: int, width: int) -> Tensor:
    """Directions (h, w, 3) of the pixels' centres, from the convention's words."""
    rows = torch.arange(height, dtype=torch.float64)
    columns = torch.arange(width, dtype=torch.float64)
    up = torch.sin(math.pi * (0.5 - (rows + 0.5) / height)).unsqueeze(-1).expand(height, width)
    right = 2 * math.pi * ((columns + 0.5) / width - 0.5)
    flat = (1 - up * up).sqrt()
    return torch.stack((flat * right.sin(), up, -flat * right.cos()), dim=-1)


def test_basis_is_orthonormal() -> None:
    basis = li.sh_basis(_sphere())
    gram = basis.mT @ basis * (4 * math.pi / len(basis))
    assert torch.allclose(gram, torch.eye(9, dtype=torch.float64), atol=1e-6)


def test_basis_order_and_signs() -> None:
    x, y, z = torch.eye(3, dtype=torch.float64)
    assert li.sh_basis(y)[1] > 0 and li.sh_basis(z)[2] > 0 and li.sh_basis(x)[3] > 0
    assert li.sh_basis(z)[6] == pytest.approx(math.sqrt(5 / (4 * math.pi)))
    assert li.sh_basis(x)[8] > 0 > li.sh_basis(y)[8]


@pytest.mark.parametrize("band", range(9))
def test_shading_matches_numerical_irradiance(band: int) -> None:
    """Acceptance 3.10 (1): E(n) / pi = 1 / pi integral L(w) max(0, n.w) dw, to 1 %."""
    sphere, normals = _sphere(), _directions(50)
    radiance = li.sh_basis(sphere)[:, band]
    cosine = (normals @ sphere.mT).clamp(min=0)
    numerical = (cosine * radiance).mean(-1) * 4 * math.pi / math.pi
    sh = torch.zeros(9, 3, dtype=torch.float64)
    sh[band] = 1
    analytic = li.shading(normals, sh)[:, 0]
    assert float((analytic - numerical).abs().max()) < 0.01 * float(numerical.abs().max())


def test_constant_radiance_shades_with_one() -> None:
    shade = li.shading(_directions(), li.ambient_light().sh.double())
    assert torch.allclose(shade, torch.ones_like(shade), atol=1e-6)


def test_turning_the_light_is_turning_the_normals_back() -> None:
    """Acceptance 3.10 (2)."""
    normals = _directions()
    generator = torch.Generator().manual_seed(2)
    sh = torch.randn(5, 9, 3, generator=generator, dtype=torch.float64)
    rotvec = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    rotation = roma.rotvec_to_rotmat(rotvec)
    turned = li.shading(normals.expand(5, -1, 3), li.rotate_sh(sh, rotation))
    back = li.shading(normals.expand(5, -1, 3) @ rotation, sh)  # rows are R^-1 n
    assert torch.allclose(turned, back, atol=1e-12)
    again = li.rotate_sh(li.rotate_sh(sh, rotation), rotation.mT)
    assert torch.allclose(again, sh, atol=1e-12)


def test_environment_of_the_basis_gives_unit_coefficients() -> None:
    equirect = li.sh_basis(_equirect_directions(256, 512))
    for band in range(9):
        got = li.project_environment(equirect[..., band : band + 1].expand(-1, -1, 3))
        expected = torch.zeros(9, 3, dtype=torch.float64)
        expected[band] = 1
        assert torch.allclose(got, expected, atol=1e-4), band


def test_environment_keeps_energy_at_any_resolution() -> None:
    for height in (1, 2, 7):
        sh = li.project_environment(torch.ones(height, 2 * height + 1, 3, dtype=torch.float64))
        assert sh[0, 0] == pytest.approx(math.sqrt(4 * math.pi), rel=1e-12)


@pytest.mark.parametrize(
    ("row", "column", "towards"),
    [(0, 0, (0, 1, 0)), (15, 32, (0, 0, -1)), (15, 48, (1, 0, 0)), (15, 0, (0, 0, 1))],
)
def test_environment_lights_the_side_it_shines_on(
    row: int, column: int, towards: tuple[int, int, int]
) -> None:
    equirect = torch.zeros(32, 64, 3)
    equirect[row : row + 2, max(column - 1, 0) : column + 1] = 100.0
    sh = li.project_environment(equirect)
    axes = torch.cat((torch.eye(3), -torch.eye(3)))
    brightest = axes[li.shading(axes, sh)[:, 0].argmax()]
    assert brightest.tolist() == list(towards)


def test_environment_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="panorama is"):
        li.project_environment(torch.ones(3, 8, 16))
    with pytest.raises(ValueError, match="infinite"):
        li.project_environment(torch.full((8, 16, 3), math.inf))


@pytest.mark.parametrize("spread_deg", [10.0, 45.0, 90.0])
def test_directional_light_is_the_projection_of_a_cap(spread_deg: float) -> None:
    direction = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)
    color = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
    sphere = _sphere()
    unit = torch.nn.functional.normalize(direction, dim=0)
    inside = (sphere @ unit >= math.cos(math.radians(spread_deg))).double()
    radiance = inside / inside.mean() / 4  # total power pi
    numerical = (li.sh_basis(sphere) * radiance[:, None]).mean(0) * 4 * math.pi
    got = li.directional_light(direction, color, spread_deg).sh
    assert torch.allclose(got, numerical[:, None] * color, atol=2e-2)


def test_studio_lights_light_the_face_and_are_listed() -> None:
    front = torch.tensor([0.0, 0.0, 1.0])
    for name in li.STUDIO_LIGHTS:
        shade = li.shading(front, li.studio_light(name).sh)
        assert bool(((shade > 0.05) & (shade < 1.5)).all()), name
        assert float(li.shading(_directions().float(), li.studio_light(name).sh).min()) > -0.2, name
    with pytest.raises(KeyError, match="rim"):
        li.studio_light("moon")


def test_deep_shadow_keeps_the_colour_of_its_light() -> None:
    sh = li.studio_light("sunset").sh
    away = li.lambert_transfer(torch.tensor([-1.0, 0.0, 0.0]))
    cavity = away * torch.tensor([0.5] + [1.0] * 8)
    rung = li.transferred(cavity, sh)
    assert rung[0] < 0 < rung[2]  # red has run out, blue has not: teal
    held = li.shadowed_shading(cavity, sh)
    assert (held > 0).all() and held[0] > 0.1 * held[2]


@pytest.mark.parametrize("name", li.STUDIO_LIGHTS)
def test_nothing_changes_where_nothing_rings(name: str) -> None:
    free, sh = li.lambert_transfer(_directions(500).float()), li.studio_light(name).sh
    assert torch.equal(li.shadowed_shading(free, sh), li.transferred(free, sh))


def test_mean_shading_is_set() -> None:
    bright = Lighting(7 * li.studio_light("key").sh)
    light = li.with_mean_shading(bright, 0.8)
    shade = li.shading(_sphere().float(), light.sh).mean(0)
    assert float(shade @ torch.tensor([0.2126, 0.7152, 0.0722])) == pytest.approx(0.8, abs=1e-3)
    with pytest.raises(ValueError, match="exposure"):
        li.with_mean_shading(Lighting(torch.zeros(9, 3)))


def test_deep3d_shading_is_the_same_and_converts_back() -> None:
    """The published formula."""
    normals = _directions(40)
    nx, ny, nz = normals.unbind(-1)
    generator = torch.Generator().manual_seed(3)
    sh = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    a = (math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8))
    four_pi = math.sqrt(4 * math.pi)
    c = (1 / four_pi, math.sqrt(3) / four_pi, 3 * math.sqrt(5) / math.sqrt(12 * math.pi))
    basis = torch.stack(
        [
            torch.full_like(nx, a[0] * c[0]),
            -a[1] * c[1] * ny,
            a[1] * c[1] * nz,
            -a[1] * c[1] * nx,
            a[2] * c[2] * nx * ny,
            -a[2] * c[2] * ny * nz,
            a[2] * c[2] / (2 * math.sqrt(3)) * (3 * nz**2 - 1),
            -a[2] * c[2] * nx * nz,
            a[2] * c[2] / 2 * (nx**2 - ny**2),
        ],
        dim=-1,
    )
    g = li.sh_to_deep3d(sh)
    assert g.shape == (3, 9)
    ambient = torch.zeros(9, dtype=torch.float64)
    ambient[0] = 0.8
    assert torch.allclose(basis @ (g + ambient).mT, li.shading(normals, sh), atol=1e-12)
    assert torch.allclose(li.sh_from_deep3d(g), sh, atol=1e-12)


def test_srgb_round_trip_and_known_values() -> None:
    values = torch.linspace(0, 1, 257, dtype=torch.float64)
    assert torch.allclose(li.srgb_to_linear(li.linear_to_srgb(values)), values, atol=1e-12)
    assert float(li.srgb_to_linear(torch.tensor(0.5))) == pytest.approx(0.2140, abs=1e-4)
    zero = torch.zeros(1, requires_grad=True)
    li.linear_to_srgb(zero).sum().backward()
    assert zero.grad is not None and bool(zero.grad.isfinite().all())


def test_shading_takes_batches_and_gradients() -> None:
    generator = torch.Generator().manual_seed(5)
    sh = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
    normals = _directions(12).view(2, 2, 3, 3)
    together = li.shading(normals, sh)
    for i in range(2):
        assert torch.allclose(together[i], li.shading(normals[i], sh[i]), atol=1e-12)
    inputs = (normals.clone().requires_grad_(), sh.requires_grad_())
    assert torch.autograd.gradcheck(li.shading, inputs)
    rotation = torch.eye(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(li.rotate_sh, (sh.detach()[0], rotation))
