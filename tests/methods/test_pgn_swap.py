"""A frame redrawn with another frame's colours: what is taken, what is left out, where it moves."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.pair_heads import Pose, frame, look, person, photograph, pose, posed, seen_frame
from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.lighting import ambient_light
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.rasterize import rasterize
from lifemask.methods._pgn_swap import (
    LEAST_FACING,
    PosedFrames,
    light_change,
    swap,
    visible_vertices,
)

LEFT, RIGHT = pose(-12.0), pose(13.0)


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return load_face_model()


@pytest.fixture(scope="module")
def faces(model: FaceModel) -> Tensor:
    return model.topology.faces


@pytest.fixture(scope="module")
def counted(model: FaceModel) -> Tensor:
    return model.topology.regions["face"]


@pytest.fixture(scope="module")
def pair(model: FaceModel) -> tuple[PosedFrames, PosedFrames]:
    return seen_frame(model, 1, LEFT), seen_frame(model, 1, RIGHT)


def joined(*frames: PosedFrames) -> PosedFrames:
    return PosedFrames(
        torch.cat([f.vertices for f in frames]),
        torch.cat([f.crops for f in frames]),
        torch.cat([f.half_crops_per_mm for f in frames]),
    )


def double(frames: PosedFrames) -> PosedFrames:
    return PosedFrames(
        frames.vertices.double(), frames.crops.double(), frames.half_crops_per_mm.double()
    )


def plate(side_mm: float, w_mm: float, count: int = 2) -> tuple[Tensor, Tensor]:
    """Vertices (n, 3) mm of a square that faces the camera, and its faces."""
    steps = torch.linspace(-side_mm / 2, side_mm / 2, count)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack((x, y, torch.full_like(x, w_mm)), -1).view(-1, 3)
    index = torch.arange(count * count).view(count, count)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = torch.stack((torch.stack((a, b, c), -1), torch.stack((a, c, d), -1)))
    return points, faces.view(-1, 3)


# what is taken


def test_a_frame_swapped_with_itself_is_itself(pair, faces, counted) -> None:
    for size in (64, 112):
        swapped = swap(pair[0], pair[0], faces, size, counted)
        assert torch.allclose(swapped.image, swapped.reference, atol=1e-4)
        assert 0.3 < swapped.mask.mean() < 0.7


@pytest.mark.parametrize("size", [64, 96])
def test_true_geometry_brings_the_colours_to_their_places(model, faces, counted, size) -> None:
    """Under light that shades nothing, skin looks the same from both sides."""
    even = ambient_light(0.9)
    source, target = (seen_frame(model, 1, at, even) for at in (LEFT, RIGHT))
    swapped = swap(source, target, faces, size, counted, light="none")
    apart = (swapped.image - swapped.reference).abs().mean(1)
    assert (swapped.mask * apart).sum() / swapped.mask.sum() < 0.005
    stays = swap(target, replace(target, crops=source.crops), faces, size, counted, light="none")
    unmoved = (stays.image - stays.reference).abs().mean(1)
    assert (stays.mask * unmoved).sum() / stays.mask.sum() > 0.02


def test_own_pixels_stay_where_nothing_is_taken(pair, faces, counted) -> None:
    swapped = swap(pair[0], pair[1], faces, 64, counted)
    left = swapped.mask[:, None].expand_as(swapped.image) == 0
    assert torch.equal(swapped.image[left], swapped.reference[left])
    assert not swapped.mask.requires_grad and not swapped.reference.requires_grad


def test_only_counted_vertices_are_swapped(pair, faces, counted) -> None:
    everything = swap(pair[0], pair[1], faces, 64).mask
    face = swap(pair[0], pair[1], faces, 64, counted).mask
    nothing = swap(pair[0], pair[1], faces, 64, torch.zeros_like(counted))
    assert bool((face <= everything).all()) and face.sum() < 0.95 * everything.sum()
    assert nothing.mask.sum() == 0 and torch.equal(nothing.image, nothing.reference)


@pytest.mark.parametrize("where", ["source", "target"])
def test_what_is_not_trusted_in_either_frame_is_left_out(pair, faces, counted, where) -> None:
    """The lower half of one frame is hidden; half trust counts half."""
    trust = torch.ones(1, 1, 128, 128)
    trust[:, :, 64:] = 0.0
    trust[:, :, :64] = 0.5
    source, target = pair
    if where == "source":
        source = replace(source, trust=trust)
    else:
        target = replace(target, trust=trust)
    plain, told = (swap(a, b, faces, 64, counted) for a, b in (pair, (source, target)))
    assert told.mask[:, 36:].sum() == 0 < plain.mask[:, 36:].sum()
    assert torch.allclose(told.mask[:, :28], 0.5 * plain.mask[:, :28], atol=1e-5)


def test_a_batch_is_its_pairs(model, pair, faces, counted) -> None:
    other = seen_frame(model, 2, pose(20.0))
    both = swap(joined(pair[0], other), joined(pair[1], pair[0]), faces, 64, counted)
    for i, (a, b) in enumerate(((pair[0], pair[1]), (other, pair[0]))):
        alone = swap(a, b, faces, 64, counted)
        assert torch.equal(both.mask[i], alone.mask[0])
        assert torch.allclose(both.image[i], alone.image[0], atol=1e-5)


def test_opposite_profiles_share_nothing_and_nothing_breaks(model, faces, counted) -> None:
    source, target = (seen_frame(model, 1, pose(yaw)) for yaw in (-85.0, 85.0))
    vertices = target.vertices.clone().requires_grad_()
    swapped = swap(source, replace(target, vertices=vertices), faces, 64, counted)
    assert swapped.mask.mean() < 0.01
    swapped.image.sum().backward()
    assert vertices.grad is not None and bool(vertices.grad.isfinite().all())
    assert bool(swapped.image.isfinite().all())


def test_what_lies_outside_the_source_crop_is_left_out(pair, faces, counted) -> None:
    source, target = pair
    moved = replace(source, vertices=source.vertices + torch.tensor([1.0, 0.0, 0.0]))
    place = moved.vertices[0, :, 0]
    seen = visible_vertices(moved, faces)[0]
    assert not bool(seen[place > 1].any()) and bool((place > 1).any())
    assert 0 < swap(moved, target, faces, 64, counted).mask.sum() < 0.7 * 64 * 64


# visibility


def hidden_by_rays(frames: PosedFrames, faces: Tensor, ids: Tensor) -> Tensor:
    """Naive twin: vertices (n,) with any face more than 1.5 mm in front of them, by exact rays."""
    points = frames.vertices[0]
    corners = points[faces]
    u, v = (points[ids, k][:, None] - corners[None, :, 0, k] for k in (0, 1))
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = e1[:, 0] * e2[:, 1] - e2[:, 0] * e1[:, 1]
    a, b = (u * e2[:, 1] - v * e2[:, 0]) / area, (v * e1[:, 0] - u * e1[:, 1]) / area
    depth = corners[None, :, 0, 2] + a * e1[:, 2] + b * e2[:, 2]
    inside = (a > 0) & (b > 0) & (a + b < 1)
    slack = 1.5 * frames.half_crops_per_mm
    return (inside & (depth > points[ids, 2][:, None] + slack)).any(1)


@pytest.mark.parametrize("yaw", [0.0, 35.0, -70.0])
def test_visible_vertices_agree_with_rays(model, faces, counted, yaw) -> None:
    frames = seen_frame(model, 3, pose(yaw, 5.0))
    upright = frames.vertices * torch.tensor([1.0, -1.0, 1.0])
    facing = vertex_normals(upright, faces)[0, :, 2] > LEAST_FACING
    inside = (frames.vertices[0, :, :2].abs() < 1).all(-1)
    ids = (counted & inside).nonzero()[::2, 0]
    true = facing[ids] & ~hidden_by_rays(frames, faces, ids)
    assert 0.2 < true.float().mean() < 0.95
    for size, least in ((64, 0.96), (112, 0.98)):
        found = visible_vertices(frames, faces, size)[0, ids]
        assert (found == true).float().mean() > least
        assert (found & ~true).float().mean() < 0.01
        assert not bool(found[~facing[ids]].any())


def test_the_mask_excludes_what_a_profile_hides(model, faces, counted) -> None:
    """Of a profile's source, only the near side of the face reaches the target."""
    source, target = seen_frame(model, 1, pose(75.0)), seen_frame(model, 1, pose(0.0))
    swapped = swap(source, target, faces, 64, counted)
    seen = visible_vertices(source, faces)[0]
    assert 0 < seen[counted].float().mean() < 0.6
    ids = rasterize((target.vertices + 1) * 32 - 0.5, faces, 64, 64).face_ids
    whole = seen[faces].all(-1)[ids.clamp_min(0).long()]
    assert not bool((swapped.mask > 0)[~whole].any())
    columns = swapped.mask[0].sum(0)
    near, far = columns[:32].sum(), columns[32:].sum()
    assert min(near, far) < 0.15 * max(near, far)


@pytest.mark.parametrize(("gap_mm", "seen"), [(1.0, True), (3.0, False)])
def test_a_vertex_may_lie_a_little_behind_the_z_buffer(gap_mm: float, seen: bool) -> None:
    back, back_faces = plate(60.0, 0.0, 7)
    front, front_faces = plate(80.0, gap_mm)
    vertices = torch.cat((back, front))
    mesh_faces = torch.cat((back_faces, front_faces + len(back)))
    for scale in (0.005, 0.02):
        at = Pose(torch.eye(3), torch.tensor(scale), torch.zeros(2))
        frames = frame(vertices, torch.zeros(1, 3, 32, 32), at)
        assert bool((visible_vertices(frames, mesh_faces)[0, : len(back)] == seen).all())


# light


def smooth_images(seed: int = 0, count: int = 2, side: int = 32) -> Tensor:
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, side, mode="bicubic").clamp(0, 1)


def dome(side: int = 32) -> Tensor:
    """Unit normals (1, 3, side, side) of a flat dome."""
    steps = torch.linspace(-0.6, 0.6, side)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack((x, -y, (1 - x * x - y * y).sqrt()))[None]


def test_light_change_finds_the_gain_and_its_slope() -> None:
    source = smooth_images()
    mask = (smooth_images(1)[:, 0] > 0.4).float()
    gain = torch.tensor([0.6, 1.0, 1.5]).view(1, 3, 1, 1)
    found, offset = light_change(source, gain * source, mask)
    assert found.shape == (2, 3, 1, 1)
    assert torch.allclose(found, gain.expand(2, -1, -1, -1), atol=2e-3)
    assert offset.abs().max() < 2e-3
    slope = torch.tensor([[0.3, -0.1, 0.0], [0.1, 0.2, 0.0], [-0.2, 0.1, 0.0]])
    field = gain + torch.einsum("ck,bkij->bcij", slope, dome())
    relit, offset = light_change(source, field * source, mask, dome().expand(2, -1, -1, -1))
    seen = mask[:, None].expand(-1, 3, -1, -1) > 0
    assert (relit - field)[seen].abs().mean() < 0.02
    assert (relit * source + offset - field * source)[seen].abs().mean() < 0.01


def test_light_change_is_the_minimum_of_its_cost() -> None:
    """Against numbers: no step of gain or offset lowers residuals plus ridges."""
    source, target = smooth_images(4, 1).double(), smooth_images(5, 1).double() * 0.5 + 0.3
    mask = torch.ones(1, 32, 32, dtype=torch.float64)

    def cost(gain: Tensor, offset: Tensor) -> float:
        apart = (gain * source + offset - target).square().mean((2, 3), keepdim=True)
        return float((apart + 1e-5 * (gain - 1).square() + 0.3 * offset.square()).sum())

    gain, offset = light_change(source, target, mask)
    least = cost(gain, offset)
    for step in (1e-3, -1e-3):
        assert cost(gain + step, offset) > least and cost(gain, offset + step) > least


def test_misfits_do_not_lose_their_contrast() -> None:
    """Unrelated pictures of one brightness: the gain stays near 1, whatever least squares say."""
    source, target = 0.3 + 0.4 * smooth_images(6), 0.3 + 0.4 * smooth_images(7)
    gain, _ = light_change(source, target, torch.ones(2, 32, 32))
    assert float(gain.min()) > 0.75 and float(gain.max()) < 1.25


def test_light_change_is_nothing_where_it_cannot_be_known() -> None:
    source, target = smooth_images(2), smooth_images(3)
    mask = torch.zeros(2, 32, 32)
    mask[1, :2, :2] = 1.0
    gain, offset = light_change(source, target, mask, dome().expand(2, -1, -1, -1))
    assert torch.equal(gain, torch.ones_like(gain)) and torch.equal(offset, torch.zeros(2, 3, 1, 1))
    gain, _ = light_change(source, 10 * source, torch.ones(2, 32, 32))
    assert torch.equal(gain, torch.full((2, 3, 1, 1), 3.0))
    flat = torch.full((1, 3, 32, 32), 0.5)
    gain, offset = light_change(flat, flat + 0.2, torch.ones(1, 32, 32))
    assert torch.allclose(gain * flat + offset, flat + 0.2, atol=2e-3)


@pytest.mark.parametrize("light", ["normal", "constant"])
def test_a_global_light_change_drops_out(pair, faces, counted, light) -> None:
    source, target = pair
    gain = torch.tensor([0.5, 0.6, 0.8]).view(1, 3, 1, 1)
    for offset, left in ((0.0, 0.01), (0.1, 0.25)):
        other = replace(source, crops=gain * source.crops + offset)
        plain, relit = (swap(s, target, faces, 64, counted, light) for s in (source, other))
        raw = swap(other, target, faces, 64, counted, "none")
        change = (raw.image - plain.image).abs().mean()
        assert change > 0.02
        assert (plain.image - relit.image).abs().mean() < left * change


def test_light_on_a_turned_head_needs_the_normals(pair, faces, counted) -> None:
    def error(light) -> float:
        swapped = swap(pair[0], pair[1], faces, 64, counted, light)
        apart = (swapped.image - swapped.reference).abs().mean(1)
        return float((swapped.mask * apart).sum() / swapped.mask.sum())

    assert error("normal") < 0.3 * error("constant") < 0.3 * error("none")


# gradients


@pytest.mark.parametrize("which", ["source", "target"])
def test_gradients_match_finite_differences(model, faces, counted, which) -> None:
    """Not of two heads turned about the vertical alone: there samples sit on bilinear kinks."""
    frames = {
        "source": double(seen_frame(model, 1, pose(-12.0, 7.0))),
        "target": double(seen_frame(model, 1, RIGHT)),
    }
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(1, 3, 64, 64, generator=generator, dtype=torch.float64)
    direction = torch.randn(frames[which].vertices.shape, generator=generator).double()

    def value(amount: Tensor) -> Tensor:
        moved = dict(frames)
        moved[which] = replace(frames[which], vertices=frames[which].vertices + amount * direction)
        swapped = swap(moved["source"], moved["target"], faces, 64, counted, light="none")
        return (swapped.image * weight).sum()

    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    gradient = float(torch.autograd.grad(value(zero), zero)[0])
    step = 1e-6
    numeric = float((value(zero.detach() + step) - value(zero.detach() - step)) / (2 * step))
    assert abs(gradient) > 1
    assert gradient == pytest.approx(numeric, rel=2e-2)


def test_gradients_of_both_geometries_are_finite(model, pair, faces, counted) -> None:
    vertices = [f.vertices.clone().requires_grad_() for f in pair]
    source, target = (replace(f, vertices=v) for f, v in zip(pair, vertices, strict=True))
    swapped = swap(source, target, faces, 64, counted)
    (swapped.image - swapped.reference).square().sum().backward()
    for grown in vertices:
        assert grown.grad is not None
        assert bool(grown.grad.isfinite().all())
        assert int((grown.grad[0, counted, :2].abs().sum(-1) > 0).sum()) > 500
        assert float(grown.grad[..., 2].abs().max()) == 0


def test_a_submesh_will_do(model, pair, faces, counted) -> None:
    """Without what lies inside the head, a face looks the same."""
    outer = faces[model.topology.face_part == 0]
    whole, part = (swap(pair[0], pair[1], f, 64, counted) for f in (faces, outer))
    assert ((whole.mask - part.mask).abs() > 0).float().mean() < 0.02


def test_texture_and_pose_of_the_helper_agree(model) -> None:
    """The rendered crop lies where the posed vertices say."""
    vertices = person(model, 1)
    crop = photograph(model, vertices, look(1), LEFT)
    wall = photograph(model, vertices - 1e4, look(1), LEFT)
    drawn = (crop - wall).abs().sum((0, 1)) > 0.05
    rows, columns = drawn.any(1).nonzero()[:, 0], drawn.any(0).nonzero()[:, 0]
    place = (posed(vertices, LEFT)[0, :, :2] + 1) * 56 - 0.5
    inside = place.clamp(0, 111)
    assert abs(float(rows[0]) - float(inside[:, 1].min())) < 1.6
    assert abs(float(columns[0]) - float(inside[:, 0].min())) < 1.6
    assert abs(float(columns[-1]) - float(inside[:, 0].max())) < 1.6
