"""The landmark map: sub-pixel peaks, a naive twin, gradients, single pixels, one face's sets."""

import dataclasses
import itertools
import math

import pytest
import torch

from helpers.dasl_heads import SIZE, half_crops, points_px, random_labels
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import convert, flip_table, map18
from lifemask.graphics.camera import rotation_from_euler_deg
from lifemask.graphics.rasterize import rasterize
from lifemask.methods._targets import HeadLabels
from lifemask.nn.landmark_map import draw_map, facing, map18_normals


def spread_points(count: int = 18, size: int = SIZE, seed: int = 0, batch: int = 1):
    """Points on a jittered grid, (b, n, 2) px: no two blobs meet."""
    generator = torch.Generator().manual_seed(seed)
    side = math.ceil(count**0.5)
    cell = size / side
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))[:count].double()
    jitter = torch.rand(batch, count, 2, generator=generator, dtype=torch.float64) - 0.5
    return (grid + 0.5 + 0.3 * jitter) * cell - 0.5


def all_drawn(points):
    return torch.ones(points.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("size", [112, 120])
def test_a_blob_peaks_at_its_point_between_the_pixels(size):
    px = spread_points(9, size)
    drawn = draw_map(half_crops(px, size), all_drawn(px), size)[0, 0] / 2 + 0.5
    v, u = torch.meshgrid(*(torch.arange(size).double(),) * 2, indexing="ij")
    for point in px[0]:
        near = drawn * (((u - point[0]) ** 2 + (v - point[1]) ** 2).sqrt() < 9 * size / 120)
        centre = torch.stack(((near * u).sum(), (near * v).sum())) / near.sum()
        torch.testing.assert_close(centre, point, atol=2e-3, rtol=0)
        spread = (near * (u - point[0]) ** 2).sum() / near.sum()
        assert abs(spread.sqrt() - 1.5 * size / 120) < 0.01


def test_on_a_pixel_the_map_is_one_and_far_away_minus_one():
    px = torch.tensor([[[40.0, 70.0]]], dtype=torch.float64)
    drawn = draw_map(half_crops(px), all_drawn(px), SIZE)
    assert drawn.shape == (1, 1, SIZE, SIZE)
    torch.testing.assert_close(drawn[0, 0, 70, 40], torch.ones((), dtype=torch.float64))
    assert (drawn[0, 0, 70, 55:] + 1).abs().max() < 1e-12
    assert drawn[0, 0, 40, 70] < -0.999  # row 40, column 70 is another place


def test_blobs_equal_a_naive_sum_over_pixels():
    torch.manual_seed(1)
    size, sigma = 24, 4.0
    px = torch.rand(2, 5, 2, dtype=torch.float64) * (size + 6) - 3  # overlap, and some outside
    chosen = torch.tensor([[True, False, True, True, True], [True, True, False, False, True]])
    got = draw_map(half_crops(px, size), chosen, size, "gaussian", sigma)
    width = sigma * size / 120
    for b in range(2):
        for row in range(size):
            for column in range(size):
                total = 0.0
                for k in range(5):
                    if chosen[b, k]:
                        du, dv = column - float(px[b, k, 0]), row - float(px[b, k, 1])
                        total += math.exp(-(du * du + dv * dv) / (2 * width**2))
                assert abs(float(got[b, 0, row, column]) - (2 * min(total, 1.0) - 1)) < 1e-9


@pytest.mark.parametrize("kind", ["gaussian", "points"])
def test_nothing_drawn_is_minus_one_everywhere_whatever_the_points_hold(kind):
    points = torch.tensor([[[0.1, 0.2], [math.nan, 0.0], [math.inf, -1e30]]])
    empty = draw_map(points, torch.zeros(1, 3, dtype=torch.bool), 32, kind)
    assert (empty == -1).all()
    one = torch.tensor([[True, False, False]])
    alone = draw_map(points[:, :1], torch.ones(1, 1, dtype=torch.bool), 32, kind)
    assert torch.equal(draw_map(points, one, 32, kind), alone)


@pytest.mark.parametrize("kind", ["gaussian", "points"])
def test_faces_of_a_batch_do_not_mix(kind):
    px = spread_points(18, batch=3)
    chosen = torch.rand(3, 18, generator=torch.Generator().manual_seed(2)) < 0.5
    points = half_crops(px)
    together = draw_map(points, chosen, SIZE, kind)
    alone = [draw_map(points[i : i + 1], chosen[i : i + 1], SIZE, kind) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert (together.amax((1, 2, 3)) > 0.5).all()


def test_single_pixels_are_the_nearest_ones():
    px = torch.tensor([[[10.4, 20.0], [30.6, 49.6], [60.0, 80.49]]])
    marks = draw_map(half_crops(px), all_drawn(px), SIZE, "points")[0, 0]
    found = {(int(v), int(u)) for v, u in (marks == 1).nonzero()}
    assert found == {(20, 10), (50, 31), (80, 60)}
    assert ((marks == 1) | (marks == -1)).all()


def test_pixels_outside_are_clipped_to_the_crop():
    px = torch.tensor([[[-30.0, 5.0], [500.0, 60.0], [7.0, 119.7], [200.0, -9.0]]])
    marks = draw_map(half_crops(px), all_drawn(px), SIZE, "points")[0, 0]
    found = {(int(v), int(u)) for v, u in (marks == 1).nonzero()}
    assert found == {(5, 0), (60, 119), (119, 7), (0, 119)}


def test_points_that_fall_on_one_pixel_mark_it_once_and_undrawn_ones_do_not_erase_it():
    px = torch.tensor([[[10.0, 20.0], [10.2, 19.9], [10.1, 20.1]]])
    for chosen in ([True, True, True], [True, False, False], [False, True, False]):
        marks = draw_map(half_crops(px), torch.tensor([chosen]), SIZE, "points")[0, 0]
        assert marks[20, 10] == 1 and (marks == 1).sum() == 1


def test_blobs_pass_gradcheck_and_pixels_have_no_gradient():
    points = half_crops(spread_points(4, 16), 16).requires_grad_()
    chosen = torch.tensor([[True, True, False, True]])
    weights = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).double()

    def drawn(p):
        return (draw_map(p, chosen, 16, "gaussian", 8.0) * weights).sum()

    assert torch.autograd.gradcheck(drawn, (points,))
    (slope,) = torch.autograd.grad(drawn(points), points)
    assert (slope[0, [0, 1, 3]].abs().amax(1) > 0).all() and (slope[0, 2] == 0).all()
    assert not draw_map(points, chosen, 16, "points").requires_grad


def test_sets_of_one_face_fill_the_map_alike():
    """Map-18 from AFLW-21, from 68 and from MediaPipe's 478 within 3 px of a 120 px crop.

    By point, on average over faces that look anywhere; the sets define the nose's tip and the
    brows' inner ends differently by 3 to 5 mm on our head, and that is all that comes near 3 px.
    """
    model = load_face_model()
    labels = random_labels(model, 40, yaw_deg=70.0)
    in68 = points_px(model, labels, "ict68")[..., :2]
    filled = {
        "68": map18(in68, "ict68"),
        "21": map18(convert(in68, "ict68", "aflw21"), "aflw21"),
        "478": map18(points_px(model, labels, "mediapipe478")[..., :2], "mediapipe478"),
    }
    for first, second in itertools.combinations(filled, 2):
        apart = (filled[first] - filled[second]).norm(dim=-1)
        assert apart.mean() < 1, (first, second)
        assert apart.mean(0).max() < 3, (first, second, apart.mean(0))
        assert apart.mean(1).max() < 1.5, (first, second, apart.mean(1))


@pytest.mark.parametrize("name", ["aflw21", "ibug68-3d-bfm"])
def test_other_embeddings_of_the_head_fill_it_nearly_alike(name):
    """On neutral faces; the centres of AFLW's eyes and mouth lie on the surface, which moves."""
    model = load_face_model()
    labels = random_labels(model, 40, yaw_deg=70.0)
    labels = dataclasses.replace(labels, expression=torch.zeros_like(labels.expression))
    one = map18(points_px(model, labels, "ict68")[..., :2], "ict68")
    other = map18(points_px(model, labels, name)[..., :2], name)
    apart = (one - other).norm(dim=-1)
    assert apart.mean() < 1 and apart.mean(0).max() < 3.5, apart.mean(0)


def test_points_of_the_other_side_are_told_apart():
    """What the agreement above does not forgive."""
    model = load_face_model()
    labels = random_labels(model, 8, yaw_deg=10.0)
    points = points_px(model, labels, "ict68")[..., :2]
    swapped = map18(points[:, flip_table("ict68")], "ict68")
    assert (map18(points, "ict68") - swapped).norm(dim=-1).mean() > 10


@pytest.mark.parametrize("name", ["ict68", "ibug68-3d-bfm"])
def test_the_frontal_face_shows_every_map_point_and_the_back_of_the_head_none(name):
    normals = map18_normals(load_face_model(), name)
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(18))
    angles = torch.tensor([[0.0, 0.0, 0.0], [0.0, 180.0, 0.0]])
    seen = facing(rotation_from_euler_deg(angles), normals)
    assert seen[0].all() and not seen[1].any()


@pytest.mark.parametrize("name", ["ict68", "ibug68-3d-bfm"])
def test_normals_of_both_sides_mirror_each_other_and_point_outwards(name):
    normals = map18_normals(load_face_model(), name)
    mirrored = normals[flip_table("map18")] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(normals, mirrored, atol=0.01, rtol=0)
    outwards = torch.tensor([-1.0, -1, -1, 1, 1, 1, -1, -1, -1, 1, 1, 1, -1, 0, 1, -1, 0, 1])
    sides = outwards != 0
    assert (normals[:, 0] * outwards)[sides].min() > 0.1
    assert (normals[:, 2] > 0).all()


def test_what_faces_the_camera_is_what_a_depth_buffer_shows():
    """Over yaw and pitch; the nose also hides what faces the camera, which normals cannot know."""
    model = load_face_model()
    angles = torch.cartesian_prod(
        torch.tensor([-20.0, 0.0, 20.0]), torch.arange(-90.0, 91.0, 20.0), torch.zeros(1)
    )
    count, size = len(angles), 300
    labels = HeadLabels(
        rotation_from_euler_deg(angles),
        torch.full((count,), 0.7),
        torch.zeros(count, 2),
        torch.zeros(count, model.identity_size),
        torch.zeros(count, len(model.expression_names)),
    )
    surface = points_px(model, labels, None, size)
    nearest = rasterize(surface, model.topology.faces, size, size).depth
    points = map18(points_px(model, labels, "ibug68-3d-bfm", size), "ibug68-3d-bfm")
    u, v = points[..., 0].round().long(), points[..., 1].round().long()
    behind = nearest[torch.arange(count)[:, None], v, u] - points[..., 2]
    shown = behind / (0.7 * size / 2) * 100 < 4.0  # mm
    normals = map18_normals(model, "ibug68-3d-bfm")
    faces = facing(labels.rotation, normals)
    # seen from the side, points of the middle line lie exactly between facing and not
    tied = (labels.rotation[:, 2] @ normals.T).abs() < 1e-6
    assert tied.float().mean() < 0.03
    faces = torch.where(tied, shown, faces)
    assert (faces == shown).float().mean() > 0.92
    assert (shown & ~faces).float().mean() < 0.03
    per_point = (faces == shown).float().mean(0)
    assert per_point.min() > 0.7, per_point
