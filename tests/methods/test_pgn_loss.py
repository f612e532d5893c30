"""PGN's terms: each mends what it guards, by a measure of its own, and can be switched off."""

import math
from dataclasses import replace

import pytest
import torch

from helpers import pgn_terms as toy
from helpers.dasl_heads import half_crops, points_px, random_labels
from helpers.dasl_terms import descend
from helpers.pgn_terms import SMALL, TERMS, batch_of, loss_of, only
from lifemask.methods._clicks import ClickConfig, Clicks
from lifemask.methods._pgn_loss import SURE_RANGE
from lifemask.methods._pgn_pairs import PairConfig
from lifemask.methods.pgn import PgnLossConfig
from lifemask.nn.position_map import LOG_BETA_RANGE

COUNT = 4
MOBILE = replace(SMALL, encoder="mobile", second_look=0)
MARKED = ("found", "aflw21", "ytf68")
SCORED = "ibug68-3d-bfm"


@pytest.fixture(scope="module")
def true():
    return random_labels(toy.face(), COUNT, seed=21, yaw_deg=15.0)


@pytest.fixture(scope="module")
def position_map(true):
    return toy.true_map(true)


def free(*values):
    return [value.clone().requires_grad_() for value in values]


def noise(like, size, seed=0):
    return size * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def test_the_truth_costs_nothing_but_its_beta(true):
    """Pose, map, posed points and labels agree with each other and with the face model."""
    output = toy.true_answer(true)
    assert toy.angle_deg(output, true) < 0.1
    assert toy.distance_px(output.points[:, :68], true, SCORED) < 0.1
    assert toy.distance_px(output.landmarks, true, SCORED) < 0.3
    for source, config in (
        ("renders", only(landmarks=1.0)),
        ("renders", only(param=1.0)),
        ("found", only(landmarks=1.0)),
        ("found", only(pgn2d=1.0)),
    ):
        assert loss_of(config)(output, batch_of(true, source), 0.0)[0] < 0.02
    total, _ = loss_of(only(pgn3d=1.0))(output, batch_of(true, "renders"), 0.0)
    assert float(total) == pytest.approx(3 * toy.LOG_BETA, abs=0.01)


# what each term mends


def test_the_map_loss_brings_the_mesh_without_a_model_to_its_place(true, position_map):
    loss, batch, net = loss_of(only(pgn3d=1.0)), batch_of(true, "renders"), toy.network()
    start = position_map + toy.bumps(true, 0.1)
    (found,) = free(start)
    same = (true.identity, true.expression)
    descend(lambda: loss(toy.answer(found, *same), batch, 0.0)[0], [found], 80, 0.01)
    before, after = (net.read_vertices(x) for x in (start, found))
    assert toy.distance_px(after, true) < 0.3 * toy.distance_px(before, true)
    assert toy.depth_px(after, true) < 0.3 * toy.depth_px(before, true)


def test_beta_becomes_the_logarithm_of_the_error(true, position_map):
    """`d / e^beta + 3 beta` is least at `log (d / 3)`, a third of the distance per coordinate."""
    loss, batch = loss_of(only(pgn3d=1.0)), batch_of(true, "renders")
    inside = loss.texels.get_buffer("inside").view(SMALL.map_size, -1)
    wrong = position_map.clone()
    size = torch.linspace(0.03, 0.3, SMALL.map_size)[:, None].expand(-1, SMALL.map_size)
    wrong[:, 0] += size
    (log_beta,) = free(wrong[:, 3:])

    def total():
        found = torch.cat((wrong[:, :3], log_beta), 1)
        return loss(toy.answer(found, true.identity, true.expression), batch, 0.0)[0]

    descend(total, [log_beta], 100, 0.05)
    apart = log_beta.detach()[:, 0] - (size / 3).log()
    assert apart[:, inside].abs().max() < 0.02


@pytest.mark.parametrize("source", MARKED)
def test_2d_points_mend_the_maps_landmarks(true, position_map, source):
    loss, batch = loss_of(only(pgn2d=1.0)), batch_of(true, source)
    start = position_map + toy.bumps(true, 0.1)
    (found,) = free(start)
    same = (true.identity, true.expression)
    descend(lambda: loss(toy.answer(found, *same), batch, 0.0)[0], [found], 80, 0.01)
    net = toy.network()
    before, after = (net.read_landmarks(x) for x in (start, found))
    seen = slice(17, 68)  # a jaw of a turned face does not count, nor are all of it in AFLW's set
    wanted = points_px(toy.face(), true, SCORED)[:, seen, :2]
    errors = [
        (((x[:, seen, :2].detach() + 1) * 60 - 0.5) - wanted).norm(dim=-1) for x in (before, after)
    ]
    limit = 0.7 if source == "aflw21" else 0.25
    assert errors[1].mean() < limit * errors[0].mean()
    assert torch.equal(found[:, 2:], start[:, 2:]), "neither depth nor beta is told by 2D points"


@pytest.mark.parametrize("source", ["renders", *MARKED])
def test_the_encoders_own_points_are_mended(true, source):
    net = toy.network(MOBILE)
    loss, batch = loss_of(only(anchors=1.0, pgn2d=1.0), net), batch_of(true, source)
    points = half_crops(points_px(toy.face(), true, SCORED))
    start = torch.cat((points + noise(points, 0.05), torch.full_like(points[..., :1], -3.0)), -1)
    (anchors,) = free(start)
    output = toy.true_answer(true)

    descend(lambda: loss(output._replace(anchors=anchors), batch, 0.0)[0], [anchors], 80, 5e-3)
    before, after = (toy.distance_px(x, true, SCORED) for x in (start, anchors))
    assert after < (0.75 if source == "aflw21" else 0.4) * before, (before, after)
    if source == "renders":
        assert toy.depth_px(anchors, true, SCORED) < 0.3 * toy.depth_px(start, true, SCORED)


def test_3d_landmarks_mend_the_pose_through_the_solver(true):
    """The map is the only thing that can move: the gradient passes the singular values."""
    loss, batch = loss_of(only(landmarks=1.0)), batch_of(true, "renders")
    start = toy.turned_map(true, (0.0, 10.0, 0.0))
    same = (true.identity, true.expression)
    assert toy.angle_deg(toy.answer(start, *same), true) > 9.5
    (found,) = free(start)
    descend(lambda: loss(toy.answer(found, *same), batch, 0.0)[0], [found], 80, 5e-3)
    output = toy.answer(found, *same)
    assert toy.angle_deg(output, true) < 1.0
    assert toy.distance_px(output.points[:, :68], true, SCORED) < 0.5


def test_3d_landmarks_mend_shape(true, position_map):
    loss, batch = loss_of(only(landmarks=1.0)), batch_of(true, "renders")
    start = true.identity + noise(true.identity, 1.0), true.expression + noise(true.expression, 0.3)
    found = free(*start)
    descend(lambda: loss(toy.answer(position_map, *found), batch, 0.0)[0], found, 100, 0.05)
    before, after = toy.shape_mm(*start, true), toy.shape_mm(*found, true)
    assert after < 0.3 * before, (before, after)


@pytest.mark.parametrize("source", MARKED)
def test_2d_landmarks_mend_a_pose_that_is_wrong_by_10_degrees(true, source):
    loss, batch = loss_of(only(landmarks=1.0)), batch_of(true, source)
    start = toy.turned_map(true, (0.0, 10.0, 0.0))
    same = (true.identity, true.expression)
    (found,) = free(start)
    descend(lambda: loss(toy.answer(found, *same), batch, 0.0)[0], [found], 80, 5e-3)
    output = toy.answer(found, *same)
    before = toy.distance_px(toy.answer(start, *same).points[:, :68], true, SCORED)
    after = toy.distance_px(output.points[:, :68], true, SCORED)
    assert after < 0.4 * before, (before, after)
    assert toy.angle_deg(output, true) < 5


def test_without_any_mark_the_model_follows_the_map(true, position_map):
    """The other half of the unlabelled term: posed landmarks to the map's own, which stay put."""
    loss = loss_of(only(landmarks=1.0))
    batch = batch_of(true, "ytf68")
    target = batch.targets[0]
    blind = replace(target, visible=torch.zeros_like(target.visible))
    batch = replace(batch, targets=[blind])
    start = true.identity + noise(true.identity, 1.0), true.expression + noise(true.expression, 0.3)
    found = free(*start)
    descend(lambda: loss(toy.answer(position_map, *found), batch, 0.0)[0], found, 100, 0.05)
    assert toy.shape_mm(*found, true) < 0.3 * toy.shape_mm(*start, true)
    (moved,) = free(position_map)
    output = toy.answer(moved, *start)
    assert not loss.to_map(output.points.detach(), output.landmarks).requires_grad


def test_coefficients_come_to_the_truth(true, position_map):
    """Of the fused frames and of each frame by itself alike."""
    loss, batch = loss_of(only(param=0.1)), batch_of(true, "renders")
    start = (
        true.identity + noise(true.identity, 1.0),
        true.identity + noise(true.identity, 1.0, 1),
        true.expression + noise(true.expression, 0.5),
    )
    identity, alone, expression = found = free(*start)

    def total():
        output = toy.answer(position_map, identity, expression, alone=alone)
        return loss(output, batch, 0.0)[0]

    descend(total, found, 100, 0.05)
    for own in (identity, alone):
        assert toy.shape_mm(own, expression, true) < 0.1 * toy.shape_mm(start[0], start[2], true)


def test_the_prior_makes_heads_plausible(true, position_map):
    loss, batch = loss_of(only(reg=1e-3)), batch_of(true, "found")
    start = 3 * torch.sign(true.identity), torch.full_like(true.expression, 1.5)
    found = free(*start)
    descend(lambda: loss(toy.answer(position_map, *found), batch, 0.0)[0], found, 100, 0.05)
    identity, expression = (x.detach() for x in found)
    assert identity.square().mean().sqrt() < 0.5 and expression.abs().max() < 0.1
    assert identity.norm() < 0.3 * start[0].norm()


@pytest.mark.parametrize("source", MARKED)
def test_heads_of_photos_are_held_nearer_to_the_mean(true, position_map, source):
    """Renders know better; nothing but points in the picture is known of a photo."""
    loss, batch = loss_of(only(prior=1.0)), batch_of(true, source)
    start = 2 * torch.sign(true.identity), torch.full_like(true.expression, 1.0)
    found = free(*start)
    descend(lambda: loss(toy.answer(position_map, *found), batch, 0.0)[0], found, 100, 0.05)
    assert found[0].norm() < 0.3 * start[0].norm() and found[1].abs().max() < 0.1
    far = toy.repeated(toy.answer(position_map, *start), 2)
    value, parts = loss(far, batch_of(true, "renders", source), 0.0)
    assert set(parts) == {"prior"}
    assert float(value) == pytest.approx((4 + 2 * 1) / 2)  # of half of the faces
    of_renders = loss_of(only(prior=1.0, reg=1e-3))(far, batch_of(true, "renders"), 0.0)[1]
    assert set(of_renders) == {"reg"}


def test_offsets_shrink(true):
    loss, batch = loss_of(only(offset=0.2)), batch_of(true, "ytf68")
    with torch.no_grad():
        for offset in loss.clicks.offsets.values():
            offset.fill_(0.1)  # 10 mm
    output = toy.true_answer(true)
    descend(lambda: loss(output, batch, 0.0)[0], list(loss.parameters()), 100)
    left = torch.cat([offset.detach() for offset in loss.clicks.offsets.values()])
    assert left.abs().max() * 100 < 1.0  # mm


# switches and accounts


def everything(true, progress=0.0, sources=("renders", *MARKED), **changes):
    """A mobile network's answers to every source, and a loss with all terms on."""
    net = toy.network(MOBILE)
    config = PgnLossConfig(pairs=PairConfig(1.0, 1.0, 0.0, size=32))
    loss = loss_of(replace(config, **changes), net)
    with torch.no_grad():
        for offset in loss.clicks.offsets.values():
            offset.fill_(0.01)
    points = half_crops(points_px(toy.face(), true, SCORED))
    anchors = torch.cat((points, torch.full_like(points[..., :1], -2.5)), -1)
    wrong = toy.true_map(true) + toy.bumps(true, 0.05)
    output = toy.answer(
        wrong, true.identity + 0.1, true.expression, anchors + noise(anchors, 0.01), true.identity
    )
    batch = batch_of(true, *sources)
    return loss, toy.repeated(output, len(sources)), batch, progress


PAIRED = ("photometric", "flow")


def test_the_total_is_the_sum_of_its_parts(true):
    loss, *seen = everything(true, 1.0)
    total, parts = loss(*seen)
    assert set(parts) == {*TERMS, *PAIRED}
    torch.testing.assert_close(total, torch.stack(list(parts.values())).sum())
    assert not any(value.requires_grad for value in parts.values())


@pytest.mark.parametrize("term", [t for t in TERMS if t != "pgn2d"])
def test_a_switch_takes_its_term_and_nothing_else_from_the_total(true, term):
    loss, *seen = everything(true)
    total, parts = loss(*seen)
    without, *seen = everything(true, **{term: 0.0})
    less, rest = without(*seen)
    assert set(rest) == set(parts) - {term}
    assert parts[term].abs() > 1e-5
    torch.testing.assert_close(less, total - parts[term])
    for name, value in rest.items():
        torch.testing.assert_close(value, parts[name])


def test_without_2d_points_neither_map_nor_encoder_sees_marks(true):
    loss, *seen = everything(true)
    total, parts = loss(*seen)
    without, *seen = everything(true, pgn2d=0.0)
    less, rest = without(*seen)
    labelled, *seen = everything(true, sources=("renders",))
    own = labelled(*seen)[1]["anchors"] / 4  # a quarter of the faces
    torch.testing.assert_close(rest["anchors"], own)
    gone = parts["pgn2d"] + parts["anchors"] - own
    torch.testing.assert_close(less, total - gone)
    assert set(rest) == set(parts) - {"pgn2d"}


@pytest.mark.parametrize("term", PAIRED)
def test_pair_terms_have_switches(true, term):
    config = PairConfig(1.0, 1.0, 0.0, size=32)
    loss, *seen = everything(true, 1.0)
    total, parts = loss(*seen)
    without, *seen = everything(true, 1.0, pairs=replace(config, **{term: 0.0}))
    less, rest = without(*seen)
    assert set(rest) == set(parts) - {term} and parts[term] > 1e-5
    torch.testing.assert_close(less, total - parts[term])


def test_pair_terms_grow_between_two_shares_of_the_steps(true):
    def at(progress, **changes):
        loss, *seen = everything(true, progress, **changes)
        return loss(*seen)[1]

    full = at(1.0)
    for progress in (0.0, 0.15, 0.3):
        assert not {*PAIRED} & set(at(progress))
    for progress, share in ((0.35, 0.25), (0.4, 0.5), (0.5, 1.0), (0.7, 1.0)):
        parts = at(progress)
        for name in PAIRED:
            torch.testing.assert_close(parts[name], share * full[name], rtol=1e-4, atol=1e-6)
    early = at(0.1, ramp=(0.0, 0.1))
    torch.testing.assert_close(early["photometric"], full["photometric"])
    at_once = at(0.2, ramp=(0.1, 0.1))
    torch.testing.assert_close(at_once["photometric"], full["photometric"])


def test_only_the_first_pairs_are_compared(true):
    loss, output, batch, _ = everything(true, most_pairs=1)
    first = loss(output, batch, 1.0)[1]["photometric"]
    garbage = torch.cat((batch.pairs[:1], batch.pairs[3:5], batch.pairs[2:3]))
    torch.testing.assert_close(
        loss(output, replace(batch, pairs=garbage), 1.0)[1]["photometric"], first
    )
    other = loss(output, replace(batch, pairs=batch.pairs[1:]), 1.0)[1]["photometric"]
    assert not torch.equal(other, first)
    backwards = loss(output, replace(batch, pairs=batch.pairs.flip(1)), 1.0)[1]["photometric"]
    torch.testing.assert_close(backwards, first)  # both ways anyway
    for none in (replace(loss.config, most_pairs=0), loss.config):
        loss.config = none
        nobody = batch if not none.most_pairs else replace(batch, pairs=batch.pairs[:0])
        assert "photometric" not in loss(output, nobody, 1.0)[1]


def test_every_face_counts_alike_whichever_source_it_is_from(true):
    loss, output, batch, _ = everything(true)
    parts = loss(output, batch, 0.0)[1]
    alone = []
    for source in ("renders", *MARKED):
        own, *seen = everything(true, sources=(source,))
        alone.append(own(*seen)[1])
    for name in ("pgn3d", "pgn2d", "anchors", "landmarks", "param"):
        mean = sum(one.get(name, torch.tensor(0.0)) for one in alone) / 4
        torch.testing.assert_close(parts[name], mean)
    shuffled = replace(batch, targets=batch.targets[::-1])
    for name, value in loss(output, shuffled, 0.0)[1].items():
        torch.testing.assert_close(value, parts[name])


# what counts and what does not


def test_the_origin_of_depth_is_free_and_a_shift_is_not(true, position_map):
    output = toy.true_answer(true)
    batch = batch_of(true, "renders")
    configs = (only(pgn3d=1.0), only(landmarks=1.0))
    losses = [loss_of(c) for c in configs]
    before = [float(loss(output, batch, 0.0)[0]) for loss in losses]
    for axis, same in ((2, True), (0, False), (1, False)):
        step = torch.zeros(4)
        step[axis] = 0.2
        moved = position_map + step[:, None, None]
        shifted = toy.answer(moved, true.identity, true.expression)
        after = [float(loss(shifted, batch, 0.0)[0]) for loss in losses]
        if same:
            assert after == pytest.approx(before, abs=1e-3)
            torch.testing.assert_close(shifted.shift, output.shift, atol=1e-5, rtol=0)
        else:
            assert all(b > a + 1 for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("apart_px", [1.0, 12.0])
def test_a_known_shift_costs_what_huber_says(true, position_map, apart_px):
    """In px of a crop of 120 px; the middle of the parabola and of the line."""
    step = torch.zeros(4, 1, 1)
    step[0] = apart_px / 60
    output = toy.answer(position_map + step, true.identity, true.expression)
    wanted = apart_px**2 / 6 if apart_px < 3 else apart_px - 1.5
    for source in ("renders", "found"):
        value = loss_of(only(landmarks=1.0))(output, batch_of(true, source), 0.0)[0]
        assert float(value) == pytest.approx(wanted, abs=0.02)
    value = loss_of(only(pgn2d=1.0))(output, batch_of(true, "found"), 0.0)[0]
    linear = apart_px - 0.25  # beyond half a px; the map's landmarks are near the true ones
    assert float(value) == pytest.approx(linear, abs=0.3)


@pytest.mark.parametrize("source", MARKED)
def test_what_is_not_visible_does_not_count(true, source):
    config = only(pgn2d=1.0, landmarks=1.0, anchors=1.0)
    net = toy.network(MOBILE)
    loss, batch = loss_of(config, net), batch_of(true, source)
    rows = batch.targets[0]
    hidden = rows.visible.clone()
    hidden[:, 3::4] = False
    garbage = torch.where(hidden[..., None], rows.points, 1e3)
    points = half_crops(points_px(toy.face(), true, SCORED))
    output = toy.true_answer(true, torch.cat((points, points[..., :1] * 0 - 3), -1))
    first, second = (
        loss(output, replace(batch, targets=[replace(rows, visible=hidden, points=p)]), 0.0)[0]
        for p in (rows.points, garbage)
    )
    torch.testing.assert_close(first, second)


def test_points_that_the_map_is_unsure_of_count_less(true, position_map):
    """A wrong landmark costs less if its beta is large, but never below a fifth of the mean."""
    batch, net = batch_of(true, "found"), toy.network()
    loss, follow = loss_of(only(pgn2d=1.0)), loss_of(only(landmarks=1.0))
    read = net.read_landmarks(position_map)
    off = torch.zeros_like(read)
    off[:, 30, 0] = 0.5  # the tip of the nose is wrong

    def cost(log_beta):
        unsure = read.clone()
        unsure[:, 30, 3] = log_beta
        output = toy.true_answer(true)._replace(landmarks=unsure + off)
        return (
            float(loss(output, batch, 0.0)[0]),
            float(follow.to_map(output.points, output.landmarks).mean()),
        )

    sure, alike, unsure, hopeless = (cost(toy.LOG_BETA + d) for d in (-1.0, 0.0, 1.0, 20.0))
    for k in range(2):
        assert sure[k] > 1.5 * alike[k] and unsure[k] < 0.6 * alike[k]
        assert hopeless[k] == pytest.approx(SURE_RANGE[0] * alike[k], rel=0.15)
    apart = 0.5 * 60 - PgnLossConfig().map_huber_px / 2
    assert alike[0] == pytest.approx(apart / 68, rel=0.15)
    most = cost(-20.0)
    assert most[0] < SURE_RANGE[1] / SURE_RANGE[0] * alike[0]


def test_beta_learns_nothing_from_2d_points(true, position_map):
    (found,) = free(position_map + toy.bumps(true, 0.05))
    output = toy.answer(found, true.identity, true.expression)
    loss = loss_of(only(pgn2d=1.0, landmarks=1.0))
    loss(output, batch_of(true, *MARKED[1:2]), 0.0)[0].backward()
    assert found.grad is not None
    assert found.grad[:, :2].abs().max() > 0 and (found.grad[:, 3] == 0).all()


@pytest.mark.parametrize("source", MARKED)
def test_weights_of_marks_are_ones_if_none_are_given(true, source):
    head = toy.network().head
    clicks = Clicks(head.sets68, head.scored, ClickConfig())
    output, rows = toy.true_answer(true), toy.target(true, source)
    points = output.points + noise(output.points, 0.05)
    plain = clicks(points, output.matrix, rows)
    ones = torch.ones_like(points[..., 0])
    torch.testing.assert_close(clicks(points, output.matrix, rows, ones), plain)
    torch.testing.assert_close(clicks(points, output.matrix, rows, 7 * ones), plain)
    half = ones.clone()
    half[:, :34] = 0
    assert not torch.allclose(clicks(points, output.matrix, rows, half), plain)


def test_marks_of_several_points_take_their_mean_weight(true):
    """AFLW's mark 7, an eye's centre, is the mean of landmarks 36 to 41."""
    head = toy.network().head
    clicks = Clicks(head.sets68, head.scored, ClickConfig())
    output, rows = toy.true_answer(true), toy.target(true, "aflw21")
    points = rows.points.clone()
    points[:, 7, 0] += 0.5
    wrong = replace(rows, points=points)
    sure = torch.ones(COUNT, output.points.shape[1])
    costs = []
    for weight in (1.0, 0.5):
        sure[:, 36:42] = weight
        sure[:, [36, 39]] = 1.0  # the corners are marks 6 and 8 themselves
        costs.append(clicks(output.points, output.matrix, wrong, sure))
    share = (4 * 0.5 + 2) / 6
    total = 18 + 3 * 0.3
    expected = share * total / (total - (1 - share))
    torch.testing.assert_close(
        costs[1] / costs[0], torch.full((COUNT,), expected), atol=0.02, rtol=0
    )


# what the terms are computed from


def test_the_skin_of_a_frame_is_the_posed_model(true):
    loss, output = loss_of(only()), toy.true_answer(true)
    batch = batch_of(true, "renders")
    frames = loss._posed(output, batch, torch.tensor([2, 0]))
    wanted = points_px(toy.face(), true)[[2, 0]]
    pixels = (frames.vertices[..., :2] + 1) * 60 - 0.5
    assert (pixels - wanted[..., :2]).norm(dim=-1).max() < 0.4
    depth = frames.vertices[..., 2] * 60 - wanted[..., 2]
    assert (depth - depth.mean(1, keepdim=True)).abs().max() < 0.4
    torch.testing.assert_close(
        frames.half_crops_per_mm, true.scale[[2, 0]] / 100, rtol=5e-3, atol=0
    )
    torch.testing.assert_close(frames.crops, batch.crops[[2, 0]])


def test_texels_follow_the_face_model(true):
    loss = loss_of(only())
    found = loss.texels(true.identity, true.expression)
    chart = toy.create_chart(toy.face(), SMALL.map_size)
    wanted = chart.texels(toy.face()(true.identity, true.expression))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


def test_losses_of_random_answers_are_finite():
    """Also where the map is a single point and the pose means nothing."""
    labels = random_labels(toy.face(), COUNT, seed=3)
    loss = loss_of(PgnLossConfig(pairs=PairConfig(1.0, 1.0, 0.0, size=32)))
    for spread in (0.0, 1e-6, 1.0, 30.0):
        wild = noise(toy.true_map(labels), spread)
        wild[:, 3] = wild[:, 3].clamp(*LOG_BETA_RANGE)
        (found,) = free(wild)
        output = toy.answer(found, labels.identity, labels.expression)
        total, _ = loss(output, batch_of(labels, "renders"), 1.0)
        total.backward()
        assert math.isfinite(float(total.detach()))
        assert found.grad is not None and found.grad.isfinite().all()
