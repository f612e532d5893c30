"""The face's square map: its mirror, what photos show of it, and where pixels look."""

import pytest
import torch
from torch.nn import functional

from lifemask.facemodel import load_face_model
from lifemask.faces.parsing import Regions
from lifemask.graphics.camera import orthographic_camera, pinhole_camera, rotation_from_euler_deg
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.render import render
from lifemask.methods._retexture_chart import (
    _AROUND,
    OUTSIDE,
    create_texture_chart,
    mirrored,
    pixel_places,
    sample_map,
    view_chart,
)
from lifemask.types import REGION_NAMES, Camera

N, PHOTO = 64, 192
ACROSS = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def model():
    return load_face_model()


@pytest.fixture(scope="module")
def chart(model):
    return create_texture_chart(model, N)


def head_of(model, seed=0):
    """A head that is not its own mirror image."""
    draw = torch.Generator().manual_seed(seed)
    identity = torch.randn(model.identity_size, generator=draw)
    expression = 0.4 * torch.rand(len(model.expression_names), generator=draw)
    with torch.no_grad():
        return model(0.7 * identity, expression * (expression > 0.3))


def camera_of(yaw_deg=0.0, kind="orthographic", shift=3.0) -> Camera:
    rotation = rotation_from_euler_deg(torch.tensor([4.0, yaw_deg, 0.0]))
    middle = torch.tensor([(PHOTO - 1) / 2 + shift, PHOTO / 2 + 6.0])
    if kind == "orthographic":
        return orthographic_camera(rotation, 0.75, middle)
    return pinhole_camera(rotation, torch.tensor([2.0, 0.0, -600.0]), 480.0, middle)


def waves(size, seed=0):
    """A smooth map (3, n, n) in (0, 1) that is not its own mirror image."""
    noise = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(noise, (size, size), mode="bicubic").clamp(0.05, 0.95)[0]


def shown_head(model, chart, texture, vertices, camera):
    """A picture (3, h, w) of the head with the texture on its map, grey elsewhere, over black."""
    faces = model.topology.faces
    picture = render(
        vertices[None], faces, camera, PHOTO, PHOTO,
        uvs=torch.nan_to_num(chart.vertex_uv), faces_uv=faces,
        albedo=[texture[None], torch.full((1, 3, 2, 2), 0.5)], face_part=(~chart.in_map).long(),
    )  # fmt: skip
    return picture.image[0]


# ------------------------------------------------------------------------------- the map


def test_the_map_is_its_own_mirror_image(chart):
    assert torch.equal(chart.inside, mirrored(chart.inside))
    assert 0.8 < float(chart.inside.float().mean()) < 0.95
    assert (chart.scalp >= 0).all() and (chart.scalp <= 1).all() and chart.scalp.max() > 0.5


def test_a_mirror_of_a_mirror_is_the_map(chart):
    maps = torch.randn(2, 3, N, N)
    assert torch.equal(mirrored(mirrored(maps)), maps)
    row, column = (v.float() for v in (chart.atlas.rows, chart.atlas.columns))
    own = torch.stack(((column + 0.5) / N, 1 - (row + 0.5) / N), 1)
    flipped = own * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    # vertex pairs lead to where the flipped map has the texel
    assert (chart.mirrored - flipped).norm(dim=1).max() < 0.25 / N
    where = chart.spread(chart.mirrored)
    grid = torch.stack((2 * chart.mirrored[:, 0] - 1, 1 - 2 * chart.mirrored[:, 1]), -1)
    twice = sample_map(where[None], grid[None, None])[0, :, 0].T
    inner = (own - 0.5).norm(dim=1) < 0.4
    assert (twice - own)[inner].norm(dim=1).max() < 0.5 / N


def test_spreading_and_gathering(chart):
    values = torch.randn(len(chart.atlas), 3)
    full = chart.spread(values)
    assert full.shape == (3, N, N) and torch.equal(chart.gather(full), values)
    assert set(full[0].unique().tolist()) == set(values[:, 0].tolist())
    positions = torch.stack((chart.atlas.rows, chart.atlas.columns), 1).float()
    rows, columns = torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij")
    reach = chart.spread(positions) - torch.stack((rows, columns))
    apart = torch.cdist(torch.stack((rows, columns), -1).view(-1, 2).float(), positions)
    torch.testing.assert_close(reach.norm(dim=0).flatten(), apart.amin(1))


def test_the_chart_is_made_once(model, chart):
    assert create_texture_chart(model, N) is chart


# ------------------------------------------------------------------------------- photos


@pytest.mark.parametrize("yaw_deg", [0.0, 30.0])
def test_a_mirrored_head_gives_the_flipped_map(model, chart, yaw_deg):
    head, camera = head_of(model), camera_of(yaw_deg)
    other = head[model.topology.mirror] * ACROSS
    turn = torch.diag(ACROSS)
    flat = torch.tensor([-1.0, 1.0, 1.0])
    moved = camera.translation * flat + torch.tensor([PHOTO - 1.0, 0.0, 0.0])
    mirror = Camera(camera.model, turn @ camera.rotation @ turn, moved, camera.scale, camera.center)
    image = waves(PHOTO, 1)
    view = view_chart(image, head, camera, chart)
    flipped = view_chart(image.flip(-1), other, mirror, chart)
    inside = chart.inside
    both = inside & (view.visible > 0) & (mirrored(flipped.visible) > 0)
    assert (mirrored(flipped.visible) != view.visible)[inside].float().mean() < 0.04
    points = mirrored(flipped.points) * flat[:2, None, None]
    points = points + torch.tensor([PHOTO - 1.0, 0.0])[:, None, None]
    assert (points - view.points)[:, inside].norm(dim=0).max() < 0.5
    turned = mirrored(flipped.normals) * ACROSS[:, None, None]
    assert (turned * view.normals).sum(0)[inside].quantile(0.01) > 0.99
    assert (mirrored(flipped.texture) - view.texture)[:, both].abs().max() < 0.02
    own = (view.texture - mirrored(view.texture))[:, both & mirrored(both)].abs().mean()
    assert own > 0.05  # the picture itself is no mirror image


@pytest.mark.parametrize("kind", ["orthographic", "pinhole"])
@pytest.mark.parametrize("yaw_deg", [0.0, -40.0])
def test_a_known_map_is_read_back_from_its_picture(model, chart, yaw_deg, kind):
    head, camera, texture = head_of(model), camera_of(yaw_deg, kind), waves(N)
    image = shown_head(model, chart, texture, head, camera)
    places, shown = pixel_places(head, camera, chart, PHOTO)
    # pixels of the map show what the map has where they look
    assert (places[~shown] == OUTSIDE).all() and (places[shown].abs() <= 1).all()
    assert 0.1 < float(shown.float().mean()) < 0.6
    drawn = sample_map(texture[None], places[None])[0]
    assert (drawn - image)[:, shown].abs().max() < 1e-4
    # and texels see the pixels that show them
    view = view_chart(image, head, camera, chart)
    seen = view.visible > 0
    assert 0.4 < float(seen[chart.inside].float().mean()) < 0.95
    clear = seen & (view.normals[2] > 0.3)  # elsewhere a texel is a fraction of a pixel
    error = (view.texture - texture)[:, clear].abs().amax(0)
    assert float(clear[chart.inside].float().mean()) > 0.4
    # at rims and occlusions a pixel mixes what lies on both sides
    assert error.median() < 0.005 and error.quantile(0.85) < 0.03 and error.mean() < 0.025
    assert float(view.texture[:, ~seen].abs().sum()) == 0


def test_texels_and_pixels_point_at_each_other(model, chart):
    head, camera = head_of(model), camera_of(20.0)
    places, shown = pixel_places(head, camera, chart, PHOTO)
    view = view_chart(torch.zeros(3, PHOTO, PHOTO), head, camera, chart)
    pixel = (view.points + 0.5) * (2 / PHOTO) - 1
    back = functional.grid_sample(
        places.permute(2, 0, 1)[None], pixel.permute(1, 2, 0)[None], align_corners=False
    )[0]
    axis = (torch.arange(N) + 0.5) / N * 2 - 1
    own = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
    near = functional.grid_sample(
        shown.float()[None, None], pixel.permute(1, 2, 0)[None], align_corners=False
    )[0, 0]
    sure = (view.visible > 0) & (near > 0.999)
    assert float(sure.float().mean()) > 0.3
    apart = (back - own)[:, sure].norm(dim=0) * N / 2  # texels
    assert apart.median() < 0.1 and apart.quantile(0.97) < 1.0


def test_the_far_side_is_hidden(model, chart):
    head, half = head_of(model), N // 2
    inside = chart.inside
    for yaw_deg in (-70.0, 70.0):
        view = view_chart(torch.ones(3, PHOTO, PHOTO), head, camera_of(yaw_deg), chart)
        shares = [
            float(view.visible[:, part][inside[:, part]].mean())
            for part in (slice(0, half), slice(half, N))
        ]
        far, near = sorted(shares)
        assert far < 0.25 < 0.6 < near
        normals = vertex_normals(head, model.topology.faces) @ camera_of(yaw_deg).rotation.T
        told = chart.spread(chart.atlas.interpolate(normals))
        told = functional.normalize(told, dim=0)
        assert ((told * view.normals).sum(0) > 0.99).float().mean() > 0.97
        assert view.visible[view.normals[2] < 0.1].max() == 0
    left, right = (
        view_chart(torch.ones(3, PHOTO, PHOTO), head, camera_of(y), chart).visible
        for y in (-70.0, 70.0)
    )
    assert (left[:, :half].mean() > left[:, half:].mean()) != (
        right[:, :half].mean() > right[:, half:].mean()
    )


def test_what_regions_call_hidden_is_not_visible(model, chart):
    head, camera, image = head_of(model), camera_of(), waves(PHOTO)

    def regions(name, where):
        classes = torch.where(where, REGION_NAMES.index(name), REGION_NAMES.index("skin"))
        maps = functional.one_hot(classes, 9).permute(2, 0, 1).float()
        return Regions(maps, ((PHOTO - 1) / 2, (PHOTO - 1) / 2), float(PHOTO))

    nowhere = torch.zeros(PHOTO, PHOTO, dtype=torch.bool)
    right = nowhere.clone()
    right[:, PHOTO // 2 :] = True
    plain = view_chart(image, head, camera, chart)
    clear = view_chart(image, head, camera, chart, regions("hair", nowhere))
    assert torch.equal(plain.visible, clear.visible)
    hand = view_chart(image, head, camera, chart, regions("background", right))
    at = plain.points[0]
    assert float(hand.visible[at > PHOTO / 2 + 3].max()) == 0
    reach = _AROUND * PHOTO  # what hides counts as a little wider than its region
    kept = at < PHOTO / 2 - 3 - reach
    assert torch.equal(hand.visible[kept], plain.visible[kept])
    beside = (at > PHOTO / 2 - reach) & (at < PHOTO / 2) & (plain.visible == 1)
    assert float(hand.visible[beside].max()) < 1 and beside.any()
    hair = view_chart(image, head, camera, chart, regions("hair", right))
    scalp = chart.spread(chart.scalp[:, None])[0]
    bare = (at > PHOTO / 2 + 3) & (scalp == 0)
    assert float(hair.visible[bare].max()) == 0
    worn = (at > PHOTO / 2 + 3) & (scalp > 0.99) & chart.inside
    assert torch.equal(hair.visible[worn], plain.visible[worn])


def test_sampling_takes_gradients_to_the_map_only_where_pixels_look(model, chart):
    places, shown = pixel_places(head_of(model), camera_of(50.0), chart, PHOTO)
    texture = waves(N)[None].requires_grad_()
    picture = sample_map(texture, places[None])
    (picture[0] * shown).sum().backward()
    used = texture.grad[0].abs().sum(0) > 0
    half = N // 2
    sides = used[:, :half].float().mean(), used[:, half:].float().mean()
    assert min(sides) < 0.5 < 0.75 < max(sides)
