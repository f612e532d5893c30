"""2DASL's terms: each mends what it guards, by a measure of its own, and can be switched off."""

import copy
import dataclasses
import functools

import pytest
import torch

from helpers.dasl_heads import SIZE, half_crops, mask_model, points_px, random_labels, turned
from helpers.dasl_heads import whitened_head as make_head
from helpers.dasl_terms import (
    TERMS,
    angle_deg,
    depth_mm,
    descend,
    labels_of,
    learn,
    mesh_mm,
    nme,
    only,
    target,
    two_passes,
)
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import flip_table
from lifemask.methods._dasl_loss import DaslLoss, DaslLossConfig
from lifemask.nn.critic import Critic

COUNT = 4


@pytest.fixture(scope="module")
def model():
    return load_face_model()


@pytest.fixture(scope="module")
def head():
    return make_head()


@pytest.fixture(scope="module")
def true(model):
    return random_labels(model, COUNT, seed=21, yaw_deg=15.0)


def noise(head, seed=0, count=COUNT):
    return torch.randn(count, head.size, generator=torch.Generator().manual_seed(seed))


def whitened(head, labels):
    return head.whitened(head.pack(labels))


# what each term mends


@pytest.mark.parametrize("pose", ["rot6d", "affine12"])
@pytest.mark.parametrize("kind", ["wpdc", "mse", "vertex"])
def test_coefficients_bring_the_mesh_to_its_place(model, true, kind, pose):
    head = make_head(pose)
    loss = DaslLoss(head, only(coef=kind, coefficients=1.0))
    start = whitened(head, true) + 0.2 * noise(head)
    end = learn(loss, start, [target(model, true, "renders")])
    before, after = (mesh_mm(model, head, p, true) for p in (start, end))
    assert after < 0.4 * before, (before, after)
    seen = loss(two_passes(head, whitened(head, true)), [target(model, true, "renders")])[0]
    assert seen < 1e-6


@pytest.mark.parametrize("source", ["renders", "found", "aflw21", "ytf68"])
def test_2d_landmarks_mend_a_pose_that_is_wrong_by_10_degrees(model, head, true, source):
    loss = DaslLoss(head, only(l2d=0.05))
    labels = target(model, true, source)
    start = whitened(head, turned(true, (0.0, 10.0, 0.0)))
    assert angle_deg(labels_of(head, start), true) > 9.9
    end = learn(loss, start, [labels], steps=60, rate=0.01)
    before, after = (nme(model, head, p, true) for p in (start, end))
    # real sets define some points differently from the scored ones: NME cannot reach 0
    assert after < (0.25 if labels.source == "renders" else 0.5) * before, (before, after)
    assert angle_deg(labels_of(head, end), true) < 5


def test_3d_landmarks_bring_the_passes_together_in_depth_too(model, head, true):
    """Held by 2D landmarks, a second pass with another depth comes to the first one's."""
    labels = [target(model, true, "renders")]
    first = whitened(head, true)
    second = whitened(head, turned(true, (0.0, 8.0, 0.0)))
    loss = DaslLoss(head, only(l2d=0.05, l3d=0.02))
    pair = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    descend(lambda: loss(two_passes(head, *pair), labels)[0], pair, rate=0.01)
    start, end = depth_mm(model, head, second, true), depth_mm(model, head, pair[1], true)
    assert end < 0.3 * start, (start, end)
    apart = angle_deg(labels_of(head, pair[0]), labels_of(head, pair[1]))
    assert apart < 2.5
    assert nme(model, head, pair[0], true) < 0.5  # the first pass stays with the picture


def test_3d_landmarks_alone_make_the_passes_agree(model, head, true):
    loss = DaslLoss(head, only(l3d=0.02))
    pair = [(whitened(head, true) + 0.2 * noise(head, k)).requires_grad_() for k in range(2)]
    start = mesh_mm(model, head, pair[0], labels_of(head, pair[1]))
    descend(lambda: loss(two_passes(head, *pair), [])[0], pair, rate=0.01)
    end = mesh_mm(model, head, pair[0], labels_of(head, pair[1]))
    assert end < 0.3 * start, (start, end)


@pytest.mark.parametrize("source", ["renders", "ytf68"])
def test_the_cycle_mends_the_second_pass_and_only_it(model, head, true, source):
    loss = DaslLoss(head, only(cyc=0.02))
    start = whitened(head, turned(true, (0.0, 10.0, 0.0)))
    first, second = start.clone().requires_grad_(), start.clone().requires_grad_()
    labels = [target(model, true, source)]
    descend(lambda: loss(two_passes(head, first, second), labels)[0], [first, second], rate=0.01)
    assert torch.equal(first, start)
    before, after = (nme(model, head, p, true) for p in (start, second))
    assert after < 0.5 * before, (before, after)


def test_the_prior_makes_heads_plausible(model, head, true):
    labels = dataclasses.replace(
        true,
        identity=3 * torch.sign(true.identity),
        expression=torch.where(noise(head)[:, -52:] < 0, -0.3, 1.3),
    )
    start = whitened(head, labels)
    end = learn(DaslLoss(head, only(reg=1e-3)), start, [], steps=80, rate=0.05)
    found = labels_of(head, end)
    assert found.identity.square().mean().sqrt() < 1.2
    inside = (found.expression > -0.02) & (found.expression < 1.02)
    assert inside.float().mean() > 0.95
    for name in ("rotation", "scale", "shift"):
        torch.testing.assert_close(getattr(found, name), getattr(labels, name))


def test_the_prior_of_a_model_with_signed_expressions():
    """BFM's are normal about 0: half of them is negative, and that is no fault."""
    model = mask_model()
    head = make_head("affine12", model)
    loss = DaslLoss(head, only(reg=1.0))
    labels = random_labels(model, 2, spread=0.0)
    for sign in (-1.0, 1.0):
        bent = dataclasses.replace(labels, expression=torch.full((2, 2), sign))
        value = loss.reg(head(whitened(head, bent)))
        torch.testing.assert_close(value, torch.ones(2), atol=1e-5, rtol=0)
    far = dataclasses.replace(labels, expression=torch.tensor([[-3.0, 3.0], [2.5, -2.0]]))
    end = labels_of(head, learn(loss, whitened(head, far), [], rate=0.3))
    assert end.expression.abs().max() < 0.5


def test_the_prior_of_a_model_without_expressions_is_that_of_its_identity():
    model = mask_model(expressions=0)
    head = make_head("rot6d", model)
    labels = random_labels(model, 3)
    value = DaslLoss(head, only(reg=1.0)).reg(head(whitened(head, labels)))
    torch.testing.assert_close(value, labels.identity.square().mean(1))


# learned offsets


def test_offsets_shrink(head):
    loss = DaslLoss(head, only(offset=0.2))
    with torch.no_grad():
        for offset in loss.clicks.offsets.values():
            offset.fill_(0.1)  # 10 mm
    p = torch.zeros(1, head.size)
    descend(lambda: loss(two_passes(head, p), [])[0], list(loss.parameters()), steps=100)
    left = torch.cat([offset.detach() for offset in loss.clicks.offsets.values()])
    assert left.abs().max() * 100 < 1.0  # mm


def shifted_clicks(model, offset_mm):
    """Heads at many angles, and clicks beside their landmarks by a vector that turns with them."""
    heads = random_labels(model, 24, seed=5, yaw_deg=20.0)
    clicks = target(model, heads, "ytf68")
    moved = (offset_mm / 100) @ (heads.scale[:, None, None] * heads.rotation).mT
    points = clicks.points + moved[..., :2] * torch.tensor([1.0, -1.0])
    return heads, dataclasses.replace(clicks, points=points)


def test_offsets_learn_how_a_data_set_clicks(model, head):
    """A symmetric displacement of some landmarks on the head, to a millimetre."""
    wanted = torch.zeros(68, 3)
    wanted[17:27, 1] = 5.0  # brows clicked 5 mm higher
    wanted[[48, 54], 0] = torch.tensor([-4.0, 4.0])  # mouth corners further out
    heads, clicks = shifted_clicks(model, wanted)
    loss = DaslLoss(head, only(l2d=0.05))
    start = nme_of_clicks(loss, head, heads, clicks)
    p = whitened(head, heads)
    descend(
        lambda: loss(two_passes(head, p), [clicks])[0],
        list(loss.clicks.offsets.values()),
        100,
        2e-3,
    )
    raw = loss.clicks.offsets["ytf68_ict68"].detach() * 100
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    learned = (raw + raw[flip_table("ict68")] * mirror) / 2
    assert (learned - wanted)[17:, :2].abs().max() < 1.0
    assert nme_of_clicks(loss, head, heads, clicks) < 0.2 * start


def nme_of_clicks(loss, head, heads, clicks):
    """Mean distance in px between clicks and the landmarks with their offsets."""
    shown = two_passes(head, whitened(head, heads)).posed
    moved = shown.points[:, :68, :2] + loss.clicks.offset("ytf68", "ict68", shown.matrix).detach()
    return float((moved - clicks.points)[:, 17:].norm(dim=-1).mean()) * SIZE / 2


def test_offsets_cannot_imitate_a_shift_to_the_side(model, head):
    """It is no symmetric vector of the head: pose has to explain it."""
    wanted = torch.zeros(68, 3)
    wanted[:, 0] = 6.0
    heads, clicks = shifted_clicks(model, wanted)
    loss = DaslLoss(head, only(l2d=0.05))
    p = whitened(head, heads)

    def value():
        return float(loss(two_passes(head, p), [clicks])[0].detach())

    start = value()
    descend(
        lambda: loss(two_passes(head, p), [clicks])[0], list(loss.clicks.offsets.values()), 60, 2e-3
    )
    assert value() > 0.6 * start


# switches and accounts


@functools.cache
def judging(size):
    """A small critic; shared, since evaluation changes nothing in it."""
    torch.manual_seed(0)
    return Critic(size, (4, 4, 4, 4, 4, 4))


def everything(model, head, true, **changes):
    """A loss with all terms on and a batch of every source, in evaluation mode."""
    config = dataclasses.replace(DaslLossConfig(), **changes)
    loss = DaslLoss(head, config, judging(head.size)).eval()
    with torch.no_grad():
        for offset in loss.clicks.offsets.values():
            offset.fill_(0.01)
    sources = ("renders", "found", "aflw21", "ytf68")
    targets = [target(model, true, s, k * COUNT) for k, s in enumerate(sources)]
    p = whitened(head, true).repeat(len(sources), 1)
    p_hat = p + 0.1 * noise(head, 2, len(p))
    p = p + 0.1 * noise(head, 1, len(p))
    crops = torch.rand(len(p), 3, 32, 32, generator=torch.Generator().manual_seed(3))
    return loss, two_passes(head, p, p_hat, crops), targets


def test_the_total_is_the_sum_of_its_parts(model, head, true):
    loss, passes, targets = everything(model, head, true)
    total, parts = loss(passes, targets)
    assert set(parts) == {*TERMS, "judge"}
    torch.testing.assert_close(total, torch.stack(list(parts.values())).sum())
    assert all(not value.requires_grad and value > 0 for value in parts.values())


@pytest.mark.parametrize("term", TERMS)
def test_a_switch_takes_its_term_and_nothing_else_from_the_total(model, head, true, term):
    loss, passes, targets = everything(model, head, true)
    total, parts = loss(passes, targets)
    without, passes, targets = everything(model, head, true, **{term: 0.0})
    less, rest = without(passes, targets)
    gone = {term, "judge"} if term == "critic" else {term}
    assert set(rest) == set(parts) - gone
    torch.testing.assert_close(less, total - sum(parts[name] for name in gone))
    assert (without.critic is None) == (term == "critic")


def test_the_kinds_of_coefficient_loss_differ(model, head, true):
    values = []
    for kind in ("wpdc", "mse", "vertex"):
        loss, passes, targets = everything(model, head, true, coef=kind)
        values.append(float(loss(passes, targets)[1]["coefficients"]))
    assert len({round(v, 5) for v in values}) == 3
    assert values[0] < values[1]  # weights are at most 1


def test_sources_share_a_batch_by_their_rows(model, head, true):
    """Every face counts alike, whichever source it comes from and in whichever order."""
    loss, passes, targets = everything(model, head, true, critic=0.0)
    _, parts = loss(passes, targets)
    single = [loss.l2d(_one(passes.posed, k), _row(targets, k)) for k in range(4 * COUNT)]
    torch.testing.assert_close(parts["l2d"], 0.05 * torch.cat(single).mean())
    _, shuffled = loss(passes, targets[::-1])
    for name, value in parts.items():
        torch.testing.assert_close(value, shuffled[name])


def _one(posed, k):
    return type(posed)(*(part[k : k + 1] for part in posed))


def _row(targets, k):
    rows = targets[k // COUNT]
    one = slice(k % COUNT, k % COUNT + 1)
    return dataclasses.replace(rows, points=rows.points[one], visible=rows.visible[one])


@pytest.mark.parametrize("apart_px", [1.0, 12.0])
def test_a_known_shift_costs_what_huber_says(model, head, true, apart_px):
    """In px of a crop of 120 px; the middle of the parabola and of the line."""
    labels = target(model, true, "renders")
    moved = dataclasses.replace(true, shift=true.shift + torch.tensor([apart_px / 60, 0.0]))
    loss = DaslLoss(head, DaslLossConfig())
    value = loss.l2d(head(whitened(head, moved)), labels)
    wanted = apart_px**2 / 6 if apart_px < 3 else apart_px - 1.5
    torch.testing.assert_close(value, torch.full((COUNT,), wanted), atol=2e-3, rtol=0)
    both = head(whitened(head, true)), head(whitened(head, moved))
    torch.testing.assert_close(loss.l3d(*both), value, atol=2e-3, rtol=0)


def test_2d_landmarks_do_not_see_depth_and_3d_ones_do(model, head, true):
    posed = head(whitened(head, true))
    deep = posed._replace(points=posed.points + torch.tensor([0.0, 0.0, 0.2]))
    loss = DaslLoss(head, DaslLossConfig())
    labels = target(model, true, "renders")
    torch.testing.assert_close(loss.l2d(deep, labels), loss.l2d(posed, labels))
    torch.testing.assert_close(loss.l3d(posed, deep), torch.full((COUNT,), 12 - 1.5), atol=1e-3,
                               rtol=0)  # fmt: skip


@pytest.mark.parametrize("source", ["found", "aflw21", "ytf68"])
def test_what_is_not_visible_does_not_count(model, head, true, source):
    rows = target(model, true, source)
    hidden = rows.visible.clone()
    hidden[:, 3::4] = False
    garbage = torch.where(hidden[..., None], rows.points, 1e3)
    loss = DaslLoss(head, DaslLossConfig())
    posed = head(whitened(head, true))
    first = loss.l2d(posed, dataclasses.replace(rows, visible=hidden))
    second = loss.l2d(posed, dataclasses.replace(rows, visible=hidden, points=garbage))
    torch.testing.assert_close(first, second)
    none = dataclasses.replace(rows, visible=torch.zeros_like(hidden))
    assert (loss.l2d(posed, none) == 0).all()


def test_ears_and_chin_of_aflw_count_less(model, head, true):
    rows = target(model, true, "aflw21")
    posed = head(whitened(head, true))
    for weight in (0.0, 0.3, 1.0):
        loss = DaslLoss(head, dataclasses.replace(DaslLossConfig(), loose=weight))
        base = loss.l2d(posed, rows)
        costs = []
        for k in (12, 16, 20, 14):
            points = rows.points.clone()
            points[:, k] += 10.0  # 600 px: what the point cost before is small beside it
            far = loss.l2d(posed, dataclasses.replace(rows, points=points)) - base
            costs.append(far.mean())
        shares = torch.stack(costs[:3]) / costs[3]
        torch.testing.assert_close(shares, torch.full((3,), weight), atol=0.02, rtol=0)


def test_the_jaw_of_a_turned_face_does_not_count(model, head):
    """Automatic landmarks see the picture's outline there; our jaw is a place on the head."""
    labels = random_labels(model, 2, seed=1)
    sides = [dataclasses.replace(labels, rotation=torch.eye(3).repeat(2, 1, 1))]
    sides += [turned(sides[0], (0.0, yaw, 0.0)) for yaw in (15.0, 25.0, -25.0)]
    loss = DaslLoss(head, DaslLossConfig())
    found = []
    for view in sides:
        rows = target(model, view, "ytf68")
        posed = head(whitened(head, view))
        jaw, nose = rows.points.clone(), rows.points.clone()
        jaw[:, 8] += 10.0
        nose[:, 30] += 10.0
        base = loss.l2d(posed, rows)
        cost = [loss.l2d(posed, dataclasses.replace(rows, points=x)) - base for x in (jaw, nose)]
        found.append((cost[0] / cost[1]).mean())
    torch.testing.assert_close(
        torch.stack(found), torch.tensor([0.4, 0.4, 0, 0]), atol=0.02, rtol=0
    )


def test_terms_of_a_model_in_the_published_shape():
    """BFM's shape and pose: another label set, other sizes; the terms still find the head."""
    model = mask_model()
    head = make_head("affine12", model)
    true = random_labels(model, COUNT, yaw_deg=20.0)
    labels = [target(model, true, "renders")]
    loss = DaslLoss(head, DaslLossConfig(critic=0.0))
    start = whitened(head, true) + 0.3 * noise(head)
    end = learn(loss, start, labels)
    assert mesh_mm(model, head, end, true) < 0.4 * mesh_mm(model, head, start, true)


def test_the_loss_keeps_its_own_head(model, true):
    """The averaged network's whitening and the loss's cannot drift apart through sharing."""
    head = make_head()
    loss = DaslLoss(head, DaslLossConfig())
    before = copy.deepcopy(loss.head.state_dict())
    head.set_whitening(torch.randn(9, head.size))
    for name, value in loss.head.state_dict().items():
        assert torch.equal(value, before[name])
    assert not [n for n, _ in loss.named_parameters() if n.startswith("head")]


def test_points_are_where_the_types_say(model, head, true):
    """Half-crops of (px + 0.5) / 60 - 1, w against the pivot: labels and heads meet."""
    posed = head(whitened(head, true))
    labels = target(model, true, "renders")
    apart = posed.points[:, :392, :2] - labels.points[..., :2]
    assert apart.abs().max() * SIZE / 2 < 1e-3
    assert half_crops(points_px(model, true, "ict68")).shape == (COUNT, 68, 3)
