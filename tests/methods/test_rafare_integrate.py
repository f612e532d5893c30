import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from lifemask.methods._rafare_field import FieldConfig, extract_surface
from lifemask.methods._rafare_integrate import depth_correction, front_depth, integrate_normals
from lifemask.methods._rafare_surface import create_surface


def pixels(size):
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    return np.meshgrid(axis, -axis)


def dome(x, y):
    """Depth and slopes of a smooth base."""
    return 0.3 - 0.25 * x**2 - 0.15 * y**2 + 0.1 * x, 0.1 - 0.5 * x, -0.3 * y


def bumps(x, y, spots):
    """Depth and slopes of Gaussians (x, y, sigma, height)."""
    total = [np.zeros_like(x) for _ in range(3)]
    for cx, cy, sigma, height in spots:
        value = height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
        total[0] += value
        total[1] -= value * (x - cx) / sigma**2
        total[2] -= value * (y - cy) / sigma**2
    return total


def normals_of(slope_x, slope_y):
    normals = np.stack((-slope_x, -slope_y, np.ones_like(slope_x)), -1)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


SPOTS = ((0.2, 0.25, 0.025, 0.006), (-0.3, -0.1, 0.02, -0.005), (0.1, -0.4, 0.03, 0.008))


def scene(size):
    x, y = pixels(size)
    base, detail = dome(x, y), bumps(x, y, SPOTS)
    mask = (x / 0.75) ** 2 + (y / 0.85) ** 2 < 1
    normals = normals_of(base[1] + detail[1], base[2] + detail[2])
    return x, y, base[0], detail[0], normals, mask


def peak(values, x, y, spot):
    """Height of a spot above the ring around it."""
    distance = np.hypot(x - spot[0], y - spot[1])
    ring = (distance > 3 * spot[2]) & (distance < 4 * spot[2])
    top = distance < 0.7 * spot[2]
    return values[top].mean() - values[ring].mean()


def test_amplitudes_come_out_true():
    x, y, base, detail, normals, mask = scene(192)
    found = depth_correction(base, normals, mask, length=0.08)
    for spot in SPOTS:
        assert peak(found, x, y, spot) == pytest.approx(peak(detail, x, y, spot), rel=0.1)


def test_a_longer_length_takes_more_of_the_shape():
    x, y, base, detail, normals, mask = scene(96)
    error = [
        np.abs(depth_correction(base, normals, mask, length) - detail)[mask].mean()
        for length in (0.02, 0.08, 0.3)
    ]
    assert error[0] > error[1] > error[2]


def test_the_solution_is_the_least_squares_one():
    """Against dense normal equations, holes and a torn depth included."""
    size, length = 12, 0.2
    spacing = 2 / size
    generator = np.random.default_rng(0)
    depth = generator.normal(size=(size, size)) * 0.1
    depth[3, 4] = np.nan
    depth[:, 7:] -= 3.0
    mask = generator.random((size, size)) < 0.8
    normals = normals_of(*generator.normal(size=(2, size, size)))
    usable = mask & np.isfinite(depth) & (normals[..., 2] > 0.2)
    rows, right = [], []
    for v, u in np.ndindex(size, size):
        for a, b in ((v, u + 1), (v + 1, u)):
            if a == size or b == size:
                continue
            row = np.zeros((size, size))
            row[a, b], row[v, u] = 1, -1
            step = depth[a, b] - depth[v, u]
            weight, target = 0.1, 0.0
            if abs(step) > 8 * spacing:
                weight = 0.0
            elif usable[v, u] and usable[a, b]:
                n = normals[[v, a], [u, b]]
                weight = n[:, 2].min() ** 2
                rise = -n[:, 0] / n[:, 2] if a == v else n[:, 1] / n[:, 2]
                target = rise.mean() * spacing - step
            rows.append(np.sqrt(weight) * row.ravel())
            right.append(np.sqrt(weight) * target)
    wave = 2 - 2 * np.cos(np.pi * np.arange(size) / size)
    waves = (wave[:, None] + wave) * (length / spacing) ** 2
    for unit in np.eye(size * size):  # the smoothing G, column by column
        smooth = idctn(
            dctn(unit.reshape(size, size), norm="ortho") / np.sqrt(1 + waves), norm="ortho"
        )
        rows.append(smooth.ravel() * spacing / length)  # G is symmetric
    right.extend(np.zeros(size * size))
    expected = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    found = depth_correction(depth, normals, mask, length)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-3 * np.abs(expected).max())


def test_normals_that_agree_change_nothing():
    x, y = pixels(64)
    base, slope_x, slope_y = dome(x, y)
    found = depth_correction(base, normals_of(slope_x, slope_y), np.ones_like(x, bool), 0.08)
    assert np.abs(found).max() < 1e-4


def test_the_step_at_a_tear_is_kept():
    """A nose in front of a cheek: normals say nothing about how far."""
    x, y = pixels(64)
    near = x > 0.13
    depth = np.where(near, 0.5, 0.0)
    flat = normals_of(np.zeros_like(x), np.zeros_like(x))
    found = depth_correction(depth, flat, np.ones_like(near), 0.08)
    assert np.abs(found).max() < 1e-9


def field(points):
    x, y, z = points.double().numpy().T
    return torch.from_numpy(z - dome(x, y)[0]).float()


@pytest.mark.parametrize(("size", "grid"), [(160, 96), (201, 120)])
def test_the_extracted_surface_has_the_bumps(size, grid):
    _, _, _, _, normals, mask = scene(size)
    found = []
    for carve in ("none", "integrate"):
        config = FieldConfig(grid=grid, carve=carve, coarse=32)
        surface = extract_surface(
            field, None, torch.from_numpy(mask), torch.from_numpy(normals).float(), config=config
        )
        found.append(surface)
    x, y, z = found[1].vertices.double().numpy().T
    base, _, _ = dome(x, y)
    for spot in SPOTS:
        truth = peak(bumps(x, y, SPOTS)[0], x, y, spot)
        assert peak(z - base, x, y, spot) == pytest.approx(truth, rel=0.1)
    assert torch.equal(found[0].faces, found[1].faces)
    off = ~((x / 0.75) ** 2 + (y / 0.85) ** 2 < 1.05)
    assert np.abs(z - base)[off].max() < 2e-3
    true = normals_of(*[a + b for a, b in zip(dome(x, y)[1:], bumps(x, y, SPOTS)[1:], strict=True)])

    def angle(surface):
        return np.degrees(np.arccos((surface.normals.numpy() * true).sum(1).clip(-1, 1)))

    bumpy = np.abs(bumps(x, y, SPOTS)[0]) > 1e-3
    assert angle(found[1])[bumpy].mean() < 0.4 * angle(found[0])[bumpy].mean()


def sheet(depth):
    corners = torch.tensor([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]])
    vertices = torch.cat((corners, torch.full((4, 1), depth)), 1)
    return vertices, torch.tensor([[0, 1, 2], [0, 2, 3]])


def test_front_depth_is_the_nearest_and_upright():
    (front, faces), (back, _) = sheet(0.2), sheet(-0.5)
    front = front * torch.tensor([1.0, 0.5, 1.0]) + torch.tensor([0.0, 0.4, 0.0])  # upper part
    depth = front_depth(create_surface(torch.cat((back, front)), torch.cat((faces, faces + 4))), 40)
    assert depth[10, 20] == pytest.approx(0.2) and depth[30, 20] == pytest.approx(-0.5)
    assert np.isnan(depth[0, 0])


def test_hidden_sheets_stay():
    (front, faces), (back, _) = sheet(0.2), sheet(-0.5)
    both = create_surface(torch.cat((front, back)), torch.cat((faces, faces + 4)))
    tilted = torch.tensor([0.3, 0.0, 0.9539]).expand(48, 48, 3)
    moved = integrate_normals(both, tilted, torch.ones(48, 48, dtype=torch.bool), 0.5)
    assert torch.equal(moved.vertices[4:], both.vertices[4:])
    lift = moved.vertices[:4, 2] - 0.2
    assert (lift[[0, 3]] > 0.05).all() and (lift[[1, 2]] < -0.05).all()  # z falls to the right
