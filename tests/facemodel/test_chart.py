"""The chart of the face: nothing folds, both sides mirror, landmarks can be read from a map."""

import copy
from dataclasses import replace

import pytest
import torch

from helpers.dasl_faces import mask_model as flat_mask
from helpers.dasl_heads import mask_model
from lifemask.facemodel import chart as charts
from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import LandmarkEmbedding
from lifemask.facemodel.chart import HIDDEN, boundary_loops, create_chart, map_weights

SIZES = {"lifemask": 64, "mask": 32}
SETS = ("ict68", "ibug68-3d-bfm", "lifemask392")
UNSEEN = 12345  # a seed that no sampler was fitted to


@pytest.fixture(scope="module")
def mask():
    return mask_model()


@pytest.fixture(scope="module", params=SIZES)
def charted(request, mask):
    """A model and its chart."""
    model = mask if request.param == "mask" else load_face_model()
    return model, create_chart(model, SIZES[request.param])


@pytest.fixture(scope="module")
def ours():
    model = load_face_model()
    return model, create_chart(model, SIZES["lifemask"])


def unseen_heads(model, count=24):
    generator = torch.Generator().manual_seed(UNSEEN)
    identity = torch.randn(count, model.identity_size, generator=generator)
    active = torch.rand(count, len(model.expression_names), generator=generator)
    with torch.no_grad():
        return model(identity, (active - 0.8).clamp_min(0) * 5)


def as_map(chart, vertices):
    """(h, 3, n, n) position maps of heads."""
    texels = chart.texels(vertices)
    return texels.transpose(1, 2).unflatten(2, (chart.size, chart.size))


def area(uv, faces):
    a, b, c = uv.double()[faces].unbind(1)
    return (b - a)[:, 0] * (c - a)[:, 1] - (c - a)[:, 0] * (b - a)[:, 1]


def test_nothing_folds(charted):
    """All triangles turn the same way: seen from the front, v down, so the area is negative."""
    _, chart = charted
    areas = area(chart.vertex_uv, chart.faces)
    assert areas.isfinite().all() and (areas < 0).all()
    assert chart.vertex_uv[chart.faces.unique()].abs().max() <= 1


def test_the_chart_is_upright(charted):
    """Left is left and up is up, as in a picture of the face."""
    model, chart = charted
    mean = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    used = chart.faces.unique()
    for axis, sign in ((0, 1.0), (1, -1.0)):
        both = torch.stack((chart.vertex_uv[used, axis], sign * mean[used, axis]))
        assert torch.corrcoef(both)[0, 1] > 0.7


def test_both_sides_of_the_face_mirror_in_the_chart(charted):
    model, chart = charted
    uv = chart.vertex_uv
    known = uv.isfinite().all(1)
    assert torch.equal(known, known[model.topology.mirror])
    mirrored = uv[model.topology.mirror] * torch.tensor([-1.0, 1.0])
    apart = (mirrored - uv)[known].norm(dim=1)
    assert apart.max() < 3 / chart.size and apart.mean() < 1 / chart.size  # a texel is 2 / size


def test_texels_are_points_of_the_surface_and_outside_ones_the_nearest(charted):
    _, chart = charted
    torch.testing.assert_close(chart.texel_weights.sum(1), torch.ones(chart.size**2))
    inside = chart.inside
    assert (chart.texel_weights[inside] > -1e-4).all()
    assert 0.5 < inside.float().mean() < 1
    line = (torch.arange(chart.size) + 0.5) / chart.size * 2 - 1
    v, u = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack((u, v), -1).view(-1, 2)
    corners = chart.vertex_uv[chart.texel_ids]
    shown = (corners * chart.texel_weights[..., None]).sum(1)
    torch.testing.assert_close(shown[inside], places[inside], atol=1e-4, rtol=0)
    gap = torch.cdist(places[~inside], places[inside]).amin(1)
    away = (shown[~inside] - places[~inside]).norm(dim=1)
    torch.testing.assert_close(away, gap, atol=1e-4, rtol=0)


def test_the_same_chart_every_time(mask):
    first = create_chart(mask, 32)
    assert create_chart(mask, 32) is first
    again = charts._create(mask, 32)
    assert torch.equal(again.texel_ids, first.texel_ids)
    assert torch.equal(again.vertex_uv.nan_to_num(9), first.vertex_uv.nan_to_num(9))
    assert create_chart(mask, 16).size == 16


@pytest.fixture(scope="module")
def samplers(ours):
    model, chart = ours
    return {name: chart.sampler(model, name) for name in SETS}


@pytest.mark.parametrize("name", SETS)
def test_landmarks_of_unseen_heads_are_read_to_a_third_of_a_millimetre(ours, samplers, name):
    model, chart = ours
    heads = unseen_heads(model)
    found = samplers[name](as_map(chart, heads))
    apart = (found - model.landmarks(heads, name)).norm(dim=-1)
    assert apart.mean() < 0.3
    worst = apart.mean(0)  # two points in the corner between the lips are off by 2.5 mm
    assert (worst < 0.6).float().mean() > 0.98 and worst.max() < (3 if len(worst) > 68 else 0.6)


@pytest.mark.parametrize("name", ["ict68", "lifemask392"])
def test_samplers_commute_with_rotation_scale_and_shift(ours, samplers, name):
    model, chart = ours
    sampler = samplers[name]
    torch.testing.assert_close(sampler.weights.sum(1), torch.ones(len(sampler.weights)))
    heads = unseen_heads(model, 3)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    moved = 0.7 * heads @ turn + torch.tensor([200.0, -50.0, 30.0])
    expected = 0.7 * sampler(as_map(chart, heads)) @ turn + torch.tensor([200.0, -50.0, 30.0])
    torch.testing.assert_close(sampler(as_map(chart, moved)), expected, atol=2e-3, rtol=0)


def test_the_mesh_is_read_from_the_map_with_nothing_where_there_is_no_surface(mask):
    chart = create_chart(mask, 32)
    sampler = chart.sampler(mask)
    heads = unseen_heads(mask)
    found = sampler(as_map(chart, heads))
    assert found.shape == heads.shape
    assert torch.equal(found.isfinite().all(-1)[0], chart.vertex_uv.isfinite().all(1))
    assert (found - heads).norm(dim=-1).nanmean() < 1.0
    four = torch.cat((as_map(chart, heads), torch.ones(len(heads), 1, 32, 32)), 1)
    torch.testing.assert_close(sampler(four)[..., :3], found, equal_nan=True)
    ones = sampler(four)[..., 3]
    torch.testing.assert_close(ones[ones.isfinite()], torch.ones(int(ones.isfinite().sum())))


def test_the_lips_lie_apart(ours):
    """A closed mouth is one line in space and an opening in the chart."""
    model, chart = ours
    for name, upper, lower in (
        ("ict68", [61, 62, 63], [67, 66, 65]),
        ("ibug68-3d-bfm", [61, 62, 63], [67, 66, 65]),
    ):
        padded = torch.nn.functional.pad(chart.vertex_uv, (0, 1))
        uv = model.landmarks(padded, name)[:, :2]
        opening = uv[lower] - uv[upper]
        assert (opening[:, 1] * chart.size / 2 > 2).all(), "two texels at least"


def test_face_and_landmarks_lie_in_the_chart_and_what_is_hidden_does_not(ours):
    model, chart = ours
    known = chart.vertex_uv.isfinite().all(1)
    regions = model.topology.regions
    assert known[regions["face"]].float().mean() > 0.99
    hidden = torch.zeros_like(known)
    for name in HIDDEN:
        hidden |= regions.get(name, torch.zeros_like(known))
    assert hidden.any() and not known[hidden].any()


@pytest.mark.parametrize("name", ["lifemask392"])
def test_texels_follow_from_landmarks(ours, name):
    model, chart = ours
    weights = map_weights(chart, model, name)
    assert weights.shape == (chart.size**2, 392)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)), atol=1e-4, rtol=0)
    heads = unseen_heads(model)
    found = weights @ model.landmarks(heads, name)
    apart = (found - chart.texels(heads)).norm(dim=-1)
    assert apart.mean() < 1.0, apart.mean()
    assert weights.square().sum(1).mean() < 1, "noise of the landmarks is not blown up"


def test_landmarks_outside_the_chart_are_told(ours):
    model, chart = ours
    back = int(model.mean[:, 2].argmin())
    ids = torch.full((68, 3), back)
    beyond = LandmarkEmbedding(ids, torch.full((68, 3), 1 / 3), torch.arange(68))
    other = copy.copy(model)
    other.landmark_embeddings = {**model.landmark_embeddings, "ibug68": beyond}
    with pytest.raises(ValueError, match="landmarks of 'ibug68' lie outside the chart"):
        chart.sampler(other, "ibug68")


def test_rims_that_touch_are_told():
    grid = torch.tensor([[0, 1, 2], [0, 3, 4]])  # two triangles that share a vertex alone
    with pytest.raises(ValueError, match="two rims of the mesh touch in a vertex"):
        boundary_loops(grid)


def test_rims_are_closed_and_in_order():
    ring = torch.tensor([[0, 1, 4], [1, 5, 4], [1, 2, 5], [2, 6, 5], [2, 3, 6], [3, 7, 6],
                         [3, 0, 7], [0, 4, 7]])  # fmt: skip
    loops = boundary_loops(ring)
    assert sorted(map(len, loops)) == [4, 4]
    found = {tuple(sorted(loop.tolist())) for loop in loops}
    assert found == {(0, 1, 2, 3), (4, 5, 6, 7)}
    for loop in loops:
        steps = zip(loop.tolist(), loop.roll(-1).tolist(), strict=True)
        assert all(abs(a - b) in (1, 3) for a, b in steps)
    closed = torch.tensor([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]])
    assert boundary_loops(closed) == []


def test_a_model_without_regions_is_charted_whole():
    model = flat_mask()
    assert not model.topology.regions
    chart = create_chart(model, 32)
    assert chart.vertex_uv.isfinite().all() and len(chart.faces) == len(model.topology.faces)
    assert (area(chart.vertex_uv, chart.faces) < 0).all()


def test_a_face_of_several_pieces_keeps_the_largest(mask):
    """An island of triangles, as eyelashes are, gets no part of the chart."""
    count = len(mask.topology.mirror)
    faces = torch.cat((mask.topology.faces, torch.tensor([[count, count + 1, count + 2]])))
    regions = {"face": torch.ones(count + 3, dtype=torch.bool)}
    mirror = torch.arange(count + 3)
    topology = replace(mask.topology, faces=faces, regions=regions, mirror=mirror)
    kept = charts._disc(topology.faces, regions["face"])
    assert torch.equal(kept, mask.topology.faces)
