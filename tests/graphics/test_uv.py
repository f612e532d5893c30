"""The texel atlas, unwrapping with visibility, the mirror table and hole filling."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifemask.graphics.camera import (
    orthographic_camera,
    pinhole_camera,
    project,
    rotation_from_euler_deg,
)
from lifemask.graphics.uv import (
    UvAtlas,
    create_uv_atlas,
    fill_holes,
    mirror_texels,
    rasterize_uv,
    sample_uv,
    unwrap,
)

SIDE = 9
torch.manual_seed(0)


def _grid(z: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A 100 mm square of SIDE x SIDE vertices that faces the viewer: vertices, faces, uvs."""
    line = torch.linspace(0, 1, SIDE)
    y, x = torch.meshgrid(line, line, indexing="ij")
    uvs = torch.stack((x, y), dim=-1).reshape(-1, 2)
    vertices = torch.cat((uvs * 100 - 50, torch.full((len(uvs), 1), z)), dim=-1)
    faces = []
    for r in range(SIDE - 1):
        for c in range(SIDE - 1):
            a = r * SIDE + c
            faces += [(a, a + 1, a + SIDE + 1), (a, a + SIDE + 1, a + SIDE)]
    return vertices, torch.tensor(faces, dtype=torch.int32), uvs * 0.8 + 0.1


def _atlas(size: int = 64, gutter_px: int = 3) -> UvAtlas:
    _, faces, uvs = _grid()
    return create_uv_atlas(uvs, faces, faces, size, gutter_px=gutter_px)


def _photo(width: int = 200, height: int = 160) -> torch.Tensor:
    """An image whose colour tells the pixel: red u, green v, blue 0.5."""
    v, u = torch.meshgrid(torch.arange(height) * 1.0, torch.arange(width) * 1.0, indexing="ij")
    return torch.stack((u / width, v / height, torch.full_like(u, 0.5)))


def test_texel_centres_lie_where_the_convention_says() -> None:
    atlas = _atlas()
    _, _, uvs = _grid()
    expected = torch.stack(((atlas.columns + 0.5) / 64, 1 - (atlas.rows + 0.5) / 64), dim=-1)
    torch.testing.assert_close(atlas.interpolate(uvs), expected, atol=1e-5, rtol=0)


def test_backends_and_orientation_of_charts_do_not_matter() -> None:
    _, faces, uvs = _grid()
    ids, bary = rasterize_uv(uvs, faces, 40)
    ids_torch, _ = rasterize_uv(uvs, faces, 40, backend="torch")
    assert torch.equal(ids, ids_torch)
    flipped = uvs * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    assert torch.equal(rasterize_uv(flipped, faces, 40)[0] >= 0, (ids >= 0).flip(1))
    torch.testing.assert_close(bary.sum(-1), (ids >= 0).float())


def test_gather_undoes_scatter_and_the_gutter_keeps_black_out_of_samples() -> None:
    atlas = _atlas()
    values = torch.rand(len(atlas), 3) * 0.5 + 0.5
    texture = atlas.scatter(values)
    assert torch.equal(atlas.gather(texture), values)
    _, _, uvs = _grid()
    assert sample_uv(texture, uvs).min() >= 0.5  # the chart's corners and border included
    assert sample_uv(atlas.scatter(values, gutter=False), uvs).min() < 0.5


def test_a_mesh_without_texels_is_refused() -> None:
    _, faces, uvs = _grid()
    with pytest.raises(ValueError, match="no face covers"):
        create_uv_atlas(uvs * 0, faces, faces, 32)


@pytest.mark.parametrize("model", ["orthographic", "pinhole"])
def test_unwrap_samples_the_pixel_each_texel_projects_to(model: str) -> None:
    vertices, _, _ = _grid()
    rotation = rotation_from_euler_deg(torch.tensor([10.0, 25.0, 5.0]))
    camera = orthographic_camera(rotation, 1.2, torch.tensor([95.0, 80.0]))
    if model == "pinhole":
        camera = pinhole_camera(
            rotation, torch.tensor([0.0, 0.0, -500.0]), 600.0, torch.tensor([95.0, 80.0])
        )
    atlas = _atlas()
    seen = unwrap(_photo(), vertices, camera, atlas)
    assert bool(seen.visible.all())
    expected = project(atlas.interpolate(vertices), camera)[:, :2]
    torch.testing.assert_close(seen.points[:, :2], expected)
    torch.testing.assert_close(seen.colors[:, 0] * 200, expected[:, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(seen.colors[:, 1] * 160, expected[:, 1], atol=0.02, rtol=0)


def test_shrinking_a_large_photo_first_does_not_shift_it() -> None:
    vertices, _, _ = _grid()
    camera = orthographic_camera(torch.eye(3), 6.0, torch.tensor([403.0, 398.0]))
    seen = unwrap(_photo(800, 800), vertices, camera, _atlas(32))
    assert seen.px_per_texel > 5
    inner = (seen.points[:, :2] - 400).abs().amax(-1) < 250
    got = seen.colors[inner][:, :2] * 800
    torch.testing.assert_close(got, seen.points[inner][:, :2], atol=0.1, rtol=0)


def test_texels_behind_something_or_outside_the_photo_are_not_visible() -> None:
    near, faces, uvs = _grid(z=20.0)
    near = near * torch.tensor([0.5, 1.0, 1.0])  # covers the middle half of the far sheet
    far, _, _ = _grid(z=0.0)
    both = torch.cat((far, near))
    all_faces = torch.cat((faces, faces + len(far)))
    mask = torch.arange(len(all_faces)) < len(faces)
    atlas = create_uv_atlas(uvs, torch.cat((faces, faces)), all_faces, 64, face_mask=mask)
    camera = orthographic_camera(torch.eye(3), 1.0, torch.tensor([60.0, 30.0]))
    seen = unwrap(_photo(), both, camera, atlas)
    x, y = atlas.interpolate(both)[:, :2].T
    hidden = (x.abs() < 24) & (y.abs() < 49)
    outside = (30 - y) < 0
    assert not bool(seen.visible[hidden | outside].any())
    assert bool(seen.visible[(x.abs() > 26) & ~outside].all())
    assert bool((seen.confidence[~seen.visible] == 0).all())


def test_surfaces_seen_from_behind_are_not_visible_and_grazing_ones_not_trusted() -> None:
    vertices, _, _ = _grid()
    trust = []
    for yaw in (0.0, 60.0, 80.0, 170.0):
        rotation = rotation_from_euler_deg(torch.tensor([0.0, yaw, 0.0]))
        camera = orthographic_camera(rotation, 1.0, torch.tensor([100.0, 80.0]))
        trust.append(float(unwrap(_photo(), vertices, camera, _atlas()).confidence.mean()))
    assert trust[0] > trust[1] > trust[2] >= trust[3] == 0


def test_no_self_shadow_speckles_on_a_slanted_sheet() -> None:
    vertices, _, _ = _grid()
    rotation = rotation_from_euler_deg(torch.tensor([0.0, 75.0, 0.0]))
    camera = orthographic_camera(rotation, 1.3, torch.tensor([100.0, 80.0]))
    assert bool(unwrap(_photo(), vertices, camera, _atlas()).visible.all())


def test_mirroring_twice_is_the_identity() -> None:
    atlas = _atlas(80)
    columns = torch.arange(SIDE * SIDE) % SIDE
    mirror = torch.arange(SIDE * SIDE) - columns + (SIDE - 1 - columns)
    mirrored = mirror_texels(atlas, mirror)
    own = torch.stack(((atlas.columns + 0.5) / 80, 1 - (atlas.rows + 0.5) / 80), dim=-1)
    expected = torch.stack((1 - own[:, 0], own[:, 1]), dim=-1)
    torch.testing.assert_close(mirrored, expected, atol=1e-5, rtol=0)  # the cut differs: still so
    again = sample_uv(atlas.scatter(mirrored), mirrored)
    torch.testing.assert_close(again, own, atol=1e-5, rtol=0)


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40))
def test_filled_holes_keep_what_is_known_and_stay_in_its_range(seed: int, h: int, w: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texture = torch.rand(2, h, w, generator=generator)
    weight = (torch.rand(h, w, generator=generator) < 0.3).float()
    weight[0, 0] = 1
    filled = fill_holes(texture, weight)
    known = weight > 0
    torch.testing.assert_close(filled[:, known], texture[:, known])
    low, high = texture[:, known].amin(-1), texture[:, known].amax(-1)
    assert bool((filled.amin((1, 2)) >= low - 1e-5).all())
    assert bool((filled.amax((1, 2)) <= high + 1e-5).all())


def test_a_constant_is_continued_as_a_constant_and_nothing_as_nothing() -> None:
    weight = torch.zeros(33, 50)
    assert not fill_holes(torch.rand(3, 33, 50), weight).any()
    weight[5, 7] = 0.01
    torch.testing.assert_close(
        fill_holes(torch.full((1, 33, 50), 0.7), weight), torch.full((1, 33, 50), 0.7)
    )
