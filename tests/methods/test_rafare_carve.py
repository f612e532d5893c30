import numpy as np
import pytest
import torch

from lifemask.methods._rafare_carve import bump_map, carving, fit_kappa, soft_mask
from lifemask.methods._rafare_field import FieldConfig, extract_surface
from lifemask.methods._rafare_lattice import voxel_centres, voxel_points


def pixels(size):
    """x and y (half-crops) of the pixels' centres."""
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return x, y


def normals_of(slope_x, slope_y):
    normals = torch.stack((-slope_x, -slope_y, torch.ones_like(slope_x)), -1)
    return torch.nn.functional.normalize(normals, dim=-1)


def hemisphere(size, centre, radius, sign=1.0):
    """Normals of a plane with a hemisphere that stands out of it (sign 1) or is a dent (-1)."""
    x, y = pixels(size)
    dx, dy = x - centre[0], y - centre[1]
    inside = dx**2 + dy**2 < radius**2
    up = (radius**2 - dx**2 - dy**2).clamp(min=0).sqrt()
    ball = torch.stack((sign * dx, sign * dy, up), -1) / radius
    return torch.where(inside[..., None], ball, torch.tensor([0.0, 0.0, 1.0]))


def naive_bump(normals, mask, side):
    """K_x n_x + K_y n_y with n_y downwards, pixel by pixel, before the mask."""
    half, size = side // 2, len(normals)
    padded = np.pad(np.where(mask[..., None], normals, 0), ((half, half), (half, half), (0, 0)))
    out = np.zeros((size, size))
    for v, u in np.ndindex(size, size):
        for dv in range(-half, half + 1):
            for du in range(-half, half + 1):
                nx, ny_up, _ = padded[v + half + dv, u + half + du]
                out[v, u] += np.sign(du) * nx + np.sign(dv) * -ny_up
    return out


def test_bump_is_the_naive_correlation_with_n_y_turned_down():
    size, side = 24, 3
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(size, size, 3, generator=generator)
    mask = torch.rand(size, size, generator=generator) < 0.97
    gain = (84 / 512) / (side * 1 * 2 / size)
    expected = gain * naive_bump(normals.numpy(), mask.numpy(), side) * soft_mask(mask).numpy()
    np.testing.assert_allclose(bump_map(normals, mask, 7).numpy(), expected, atol=1e-5)


def test_at_the_published_size_the_scale_is_the_published_one():
    size = 512
    x, _ = pixels(size)
    normals = torch.stack((0.1 * x, torch.zeros_like(x), torch.ones_like(x)), -1)
    bump = bump_map(normals, torch.ones(size, size, dtype=torch.bool))
    per_px = 0.1 * 2 / size
    assert bump[256, 256] == pytest.approx(7 * 2 * (1 + 2 + 3) * per_px, rel=1e-4)


@pytest.mark.parametrize("size", [64, 100, 128, 256])
def test_the_bump_of_one_surface_does_not_depend_on_the_size(size):
    x, y = pixels(size)
    normals = normals_of(0.2 * x, -0.5 * y)  # z = 0.1 x^2 - 0.25 y^2
    bump = bump_map(normals, torch.ones(size, size, dtype=torch.bool))
    middle = bump[size // 2, size // 2]
    assert middle == pytest.approx(84 * (-0.2 + 0.5) * 2 / 512, rel=0.02)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("size", [64, 96, 192])
def test_a_bump_is_positive_and_a_dent_negative(size, sign):
    normals = hemisphere(size, (0.2, 0.3), 0.15, sign)
    bump = bump_map(normals, torch.ones(size, size, dtype=torch.bool))
    x, y = pixels(size)
    near = ((x - 0.2) ** 2 + (y - 0.3) ** 2) < 0.1**2
    assert (sign * bump[near] > 0).all()


def test_a_ridge_across_is_a_bump():
    """Only n_y varies: this fails where its sign is taken for downwards."""
    size = 96
    _, y = pixels(size)
    slope = -y / 0.05**2 * torch.exp(-(y**2) / (2 * 0.05**2)) * 0.01
    bump = bump_map(normals_of(torch.zeros_like(slope), slope), torch.ones(size, size).bool())
    assert (bump[size // 2, 20:-20] > 0).all()


def test_soft_mask_stays_inside_the_mask():
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[20:100, :] = True
    soft = soft_mask(mask)
    assert (soft[~mask] == 0).all() and soft.max() == 1
    assert soft[60, 64] == 1 and soft[60, 0] < 0.1  # the border of the image ends it, too
    assert bool(((soft > 0) & (soft < 1)).any())


def plane(points):
    return points[:, 2] - 0.1


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_carving_moves_a_bump_outwards_and_a_dent_inwards(sign):
    size = 64
    normals = hemisphere(size, (0.1, -0.25), 0.2, sign)
    mask = torch.ones(size, size, dtype=torch.bool)
    surfaces = [
        extract_surface(plane, None, mask, normals, config=FieldConfig(grid=48, carve=carve))
        for carve in ("none", "divergence")
    ]
    height = []
    for surface in surfaces:
        x, y, z = surface.vertices.unbind(1)
        near = ((x - 0.1) ** 2 + (y + 0.25) ** 2) < 0.12**2
        height.append(z[near].mean())
    assert height[0] == pytest.approx(0.1, abs=1e-5)
    assert sign * (height[1] - height[0]) > 1e-3


def sphere_lattice(grid, centre_z):
    points = voxel_points(torch.arange(grid**3), grid).view(grid, grid, grid, 3)
    return torch.linalg.vector_norm(points - torch.tensor([0.0, 0.0, centre_z]), dim=-1) - 0.5


def test_the_whole_front_is_carved_also_below_the_middle_plane():
    grid = 40
    sdf = sphere_lattice(grid, -0.4)  # nearly all of its front lies at z < 0
    ones = torch.ones(20, 20)
    added = carving(sdf, ones, None, 1e-3)
    z = voxel_centres(grid).expand(grid, grid, grid)
    shell = sdf.abs() < 0.06
    radial = z + 0.4
    front, back = shell & (radial > 0.1), shell & (radial < -0.1)
    assert bool((front & (z < 0)).any())
    torch.testing.assert_close(added[front].unique(), torch.tensor([-1e-3]))
    assert (added[back] == 0).all()
    both = carving(sdf, ones, -ones, 1e-3)  # a bump behind, its normals turned to the viewer
    torch.testing.assert_close(both[back].unique(), torch.tensor([-1e-3]))


def test_the_seam_between_front_and_back_is_no_surface():
    sdf = sphere_lattice(40, 0.1)
    added = carving(sdf, torch.full((20, 20), 1.0), torch.full((20, 20), 1.0), 0.01)
    changed = ((sdf + added < 0) != (sdf < 0)) & (sdf.abs() > 0.0101)
    assert not changed.any()


def test_kappa_is_found_in_residuals():
    generator = torch.Generator().manual_seed(3)
    heads = []
    for n in (50, 400):
        bump = torch.randn(n, generator=generator)
        noise = 1e-5 * torch.randn(n, generator=generator)
        heads.append((bump, -7e-4 * bump + noise))
    heads.append((torch.tensor([1.0, float("nan")]), torch.tensor([float("nan"), 1.0])))
    assert fit_kappa(heads) == pytest.approx(7e-4, rel=1e-2)
    everything = [torch.cat([h[i] for h in heads[:2]]) for i in (0, 1)]
    grid = np.linspace(5e-4, 9e-4, 4001)
    errors = [float(((everything[1] + k * everything[0]) ** 2).sum()) for k in grid]
    assert fit_kappa(heads) == pytest.approx(grid[np.argmin(errors)], abs=2e-7)
    assert fit_kappa([]) == 0 and fit_kappa([(torch.zeros(3), torch.ones(3))]) == 0
