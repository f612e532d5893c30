import numpy as np
import pytest
import torch

from lifemask.methods._rafare_lattice import (
    BORDER,
    WALL,
    box_filter,
    box_voxels,
    cell_corners,
    create_room,
    crossing_cells,
    sample_columns,
    voxel_centres,
    voxel_points,
    widened,
)


def lattice(grid):
    return voxel_points(torch.arange(grid**3), grid).view(grid, grid, grid, 3)


def naive_box(volume, voxels):
    rim = voxels // 2
    padded = np.pad(volume, rim, mode="edge")
    out = np.empty_like(volume)
    for index in np.ndindex(volume.shape):
        out[index] = padded[tuple(slice(i, i + voxels) for i in index)].mean()
    return out


def test_voxels_are_sampled_at_their_centres():
    axis = voxel_centres(4)
    assert axis.tolist() == [-0.75, -0.25, 0.25, 0.75]
    points = lattice(4)
    assert torch.equal(points[1, 2, 3], axis[torch.tensor([1, 2, 3])])


@pytest.mark.parametrize(
    ("grid", "width", "voxels"),
    [(192, 5 * 2 / 192, 5), (192, 0.0625, 5), (96, 0.0625, 3), (24, 0.25, 3), (64, 0.0, 1),
     (256, 5 * 2 / 256, 5), (256, 7 * 2 / 256, 7)],
)  # fmt: skip
def test_box_is_the_nearest_odd_number_of_voxels(grid, width, voxels):
    assert box_voxels(grid, width) == voxels


@pytest.mark.parametrize("voxels", [1, 3, 5, 9])
def test_box_filter_is_the_naive_mean(voxels):
    volume = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
    kept = volume.clone()
    expected = naive_box(volume.numpy().astype(np.float64), voxels)
    np.testing.assert_allclose(box_filter(volume, voxels).numpy(), expected, atol=1e-6)
    assert torch.equal(volume, kept)


def test_box_filter_leaves_planes_alone_inside():
    plane = lattice(16) @ torch.tensor([0.3, -0.5, 0.8])
    inner = (slice(2, -2),) * 3
    torch.testing.assert_close(box_filter(plane, 5)[inner], plane[inner], atol=1e-6, rtol=0)


def test_an_even_box_has_no_middle():
    with pytest.raises(ValueError, match="odd"):
        box_filter(torch.zeros(4, 4, 4), 2)


@pytest.mark.parametrize("voxels", [1, 3, 5, 21])
def test_widened_is_the_naive_dilation(voxels):
    flags = torch.rand(9, 7, 8, generator=torch.Generator().manual_seed(1)) < 0.02
    expected = np.zeros(flags.shape, bool)
    for index in flags.nonzero().tolist():
        low = [max(0, i - voxels // 2) for i in index]
        expected[tuple(slice(a, i + voxels // 2 + 1) for a, i in zip(low, index, strict=True))] = 1
    np.testing.assert_array_equal(widened(flags, voxels).numpy(), expected)


def test_cells_cross_where_corners_disagree():
    sdf = torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(2))
    cells = crossing_cells(sdf)
    corners = torch.zeros(6, 6, 6, dtype=torch.bool)
    for i, j, k in np.ndindex(5, 5, 5):
        block = sdf[i : i + 2, j : j + 2, k : k + 2] < 0
        assert bool(cells[i, j, k]) == (bool(block.any()) and not bool(block.all()))
        if cells[i, j, k]:
            corners[i : i + 2, j : j + 2, k : k + 2] = True
    assert torch.equal(cell_corners(cells), corners)


def test_columns_look_where_pixels_do():
    size, grid = 40, 16
    v, u = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    x, y = (u + 0.5) * 2 / size - 1, 1 - (v + 0.5) * 2 / size
    sampled = sample_columns(torch.stack((x, y)), grid)
    axis = voxel_centres(grid)
    torch.testing.assert_close(sampled[0], axis[:, None].expand(grid, grid), atol=1e-6, rtol=0)
    torch.testing.assert_close(sampled[1], axis[None].expand(grid, grid), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "grid"), [(45, 37), (32, 24), (24, 40), (64, 32)])
def test_room_is_the_mask_a_little_wider(size, grid):
    v, u = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    mask = (u > 0.6 * size) & (u < 0.85 * size) & (v > 0.2 * size) & (v < 0.4 * size)
    room = create_room(mask, grid, 0.0, 0.0)
    x, y = torch.meshgrid(voxel_centres(grid), voxel_centres(grid), indexing="ij")
    near = 1.01 / size  # half a pixel
    corners = [
        mask[((1 - y + dy) * size / 2).long().clamp(0, size - 1),
             ((x + 1 + dx) * size / 2).long().clamp(0, size - 1)]
        for dx in (-near, near) for dy in (-near, near)
    ]  # fmt: skip
    corners = torch.stack(corners)
    assert not (corners.all(0) & ~room.columns).any()  # at right and up
    assert not (room.columns & ~corners.any(0)).any()
    flipped = create_room(mask.flip(1), grid, 0.0, 0.0)
    assert torch.equal(flipped.columns, room.columns.flip(0))
    wide = create_room(mask, grid, 0.2, 0.0)
    assert (wide.columns & room.columns).sum() == room.columns.sum() < wide.columns.sum()


def test_walls_stand_outside_the_room_alone():
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[5:15, 3:17] = True
    room = create_room(mask, 20, 0.0, 0.1)
    sdf = torch.full((20, 20, 20), -0.3)
    walled = room.wall(sdf)
    assert (sdf == -0.3).all()
    assert torch.equal(walled == -0.3, room.voxels)
    assert (walled[:2] == torch.tensor(BORDER)).all() and (walled[10, 2, 5:15] == WALL).all()
    for index in room.cells.nonzero().tolist():
        assert room.voxels[tuple(slice(i, i + 2) for i in index)].all()
