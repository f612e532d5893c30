"""PGN's network: shapes, one identity for several frames, the pose solved inside, its start."""

import copy
import json
from dataclasses import asdict, replace

import pytest
import torch

from helpers import pgn_terms as toy
from helpers.dasl_heads import random_labels
from helpers.pgn_terms import SMALL
from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.methods._pgn_net import UNPOSED_UNIT
from lifemask.methods._pgn_pairs import PairConfig
from lifemask.methods.pgn import (
    LandmarkTrunk,
    PgnLoss,
    PgnLossConfig,
    PgnNet,
    config_from_dict,
    create_pgn,
)
from lifemask.nn.position_map import LOG_BETA_RANGE
from lifemask.training.pgn import create_network
from lifemask.training.pgn_recipes import PGN
from lifemask.training.start import shipped_weights

SIZES = {"tiny": 48, "mobile": 48, "resnet18_half": 48, "resnet50": 97}
MOBILE = replace(SMALL, encoder="mobile")
FUSIONS = ("both", "mean", "max", "first", "none")


def crops_of(count, size=48, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def lively(config=SMALL):
    """A network whose heads answer differently to different crops."""
    torch.manual_seed(1)
    net = create_pgn(config, toy.face()).eval().requires_grad_(False)
    for layer in (net.to_identity[-1], net.to_expression, net.decoder.leave):
        layer.weight.mul_(20)
    return net


@pytest.mark.parametrize(
    "changes",
    [{}, {"encoder": "mobile"}, {"pose": "regressed"}, {"unposed": False}, {"points": 68}],
    ids=str,
)
def test_what_is_exported_is_what_the_network_says(changes):
    """The heads read their points from anchors and cells, without the map."""
    net = lively(replace(SMALL, **changes))
    crops = crops_of(3)
    frames = net.frames(crops)
    again = net.whole(net.glimpse(crops, net.point_reader()))
    for name in frames._fields:
        torch.testing.assert_close(
            getattr(again, name), getattr(frames, name), atol=2e-5, rtol=1e-4
        )
    assert frames.features.std(0).max() > 1e-4


@pytest.mark.parametrize("encoder", SIZES)
def test_shapes_and_where_an_untrained_face_is(encoder):
    config = replace(SMALL, encoder=encoder, size=SIZES[encoder])
    net = toy.network(config)
    count = 1 if encoder == "resnet50" else 3
    output = net(crops_of(count, config.size))
    anchors = 68 if encoder == "mobile" else 0
    shapes = {
        "position_map": (4, 32, 32), "landmarks": (68, 4), "matrix": (3, 3), "shift": (2,),
        "identity": (4,), "alone": (4,), "expression": (2,), "anchors": (anchors, 4),
    }  # fmt: skip
    for name, shape in shapes.items():
        value = getattr(output, name)
        assert value.shape == (count, *shape) and value.dtype == torch.float32
        assert value.isfinite().all()
    assert output.points.shape == (count, *net.head.get_buffer("mean").shape)
    assert net.read_vertices(output.position_map).shape == (count, 143, 4)
    low, high = net.head.get_buffer("lowest"), net.head.get_buffer("highest")
    assert (output.expression > low).all() and (output.expression < high).all()
    if encoder != "mobile":  # the mean face, frontal, filling the crop
        scale = output.matrix.norm(dim=-1)
        torch.testing.assert_close(scale, torch.full_like(scale, 1.1), atol=0.3, rtol=0)
        assert output.shift.abs().max() < 0.2 and output.matrix[:, 2, 2].min() > 0.8


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_single_frame_is_what_everybody_alone_is(fusion):
    net = lively(replace(SMALL, fusion=fusion))
    crops = crops_of(3)
    together = net(crops)
    numbered = net(crops, torch.arange(3))
    alone = [net(crops[k : k + 1]) for k in range(3)]
    for name, value in together._asdict().items():
        torch.testing.assert_close(getattr(numbered, name), value)
        single = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(single, value, atol=1e-4, rtol=1e-4)
    assert (together.identity[0] - together.identity[1]).abs().max() > 1e-3
    torch.testing.assert_close(together.identity, together.alone)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_frames_of_a_person_share_an_identity(fusion):
    net = lively(replace(SMALL, fusion=fusion))
    crops = crops_of(6)
    person = torch.tensor([0, 0, 0, 1, 2, 2])
    output = net(crops, person)
    alone = net(crops)
    if fusion == "none":
        torch.testing.assert_close(output.identity, alone.identity)
        return
    for rows in ([0, 1, 2], [4, 5]):
        first = output.identity[rows[:1]]
        assert torch.equal(output.identity[rows], first.expand(len(rows), -1))
    torch.testing.assert_close(output.identity[3], alone.identity[3])
    torch.testing.assert_close(output.alone, alone.identity)
    assert not torch.allclose(output.identity[1], alone.identity[1], atol=1e-3)
    # pose and expression stay each frame's own
    torch.testing.assert_close(output.expression, alone.expression)
    torch.testing.assert_close(output.position_map, alone.position_map)
    if fusion == "first":
        torch.testing.assert_close(output.identity[:3], alone.identity[:1].expand(3, -1))
        torch.testing.assert_close(output.identity[4:], alone.identity[4:5].expand(2, -1))


@pytest.mark.parametrize("fusion", ["both", "mean", "max"])
def test_the_order_of_frames_means_nothing(fusion):
    net = lively(replace(SMALL, fusion=fusion))
    features = net.frames(crops_of(5)).features
    person = torch.tensor([0, 0, 0, 1, 1])
    plain = net.identity_of(features, person)
    order = torch.tensor([4, 2, 0, 3, 1])
    mixed = net.identity_of(features[order], person[order])
    torch.testing.assert_close(mixed, plain[order])
    renamed = net.identity_of(features, 1 - person)
    torch.testing.assert_close(renamed, plain)
    twice = net.identity_of(features[[0, 0, 0]], torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(twice, net.identity_of(features[[0, 0, 0]]))


def test_the_first_frame_is_the_first_in_the_batch():
    net = lively(replace(SMALL, fusion="first"))
    features = net.frames(crops_of(5)).features
    person = torch.tensor([1, 0, 1, 0, 1])
    found = net.identity_of(features, person)
    alone = net.identity_of(features)
    torch.testing.assert_close(found, alone[[0, 1, 0, 1, 0]])


def test_a_regressed_pose_has_a_head_and_a_solved_one_none():
    solved, regressed = toy.network(), toy.network(replace(SMALL, pose="regressed"))
    names = {name.split(".")[0] for name, _ in regressed.named_parameters()}
    assert "to_pose" in names
    assert names - {"to_pose"} == {name.split(".")[0] for name, _ in solved.named_parameters()}
    crops = crops_of(3)
    frames = regressed.frames(crops)
    assert frames.pose.shape == (3, 9) and solved.frames(crops).pose.shape == (3, 0)
    output = regressed(crops)
    scale = output.matrix.norm(dim=-1)
    turn = output.matrix / scale[..., None]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scale, 1.1 * frames.pose[:, 6:7].exp().expand(3, 3))
    torch.testing.assert_close(output.shift, frames.pose[:, 7:9])
    # the map has no part in it
    other = frames._replace(position_map=frames.position_map + 1)
    torch.testing.assert_close(regressed.pose_of(other, output.landmarks, output.points)[0], turn)


@pytest.fixture(scope="module")
def true():
    return random_labels(toy.face(), 3, seed=4, yaw_deg=20)


@pytest.mark.parametrize("weights", ["learned", "uniform"])
def test_the_pose_follows_beta_if_it_may(true, weights):
    net = toy.network(replace(SMALL, weights=weights))
    found = toy.true_map(true) + toy.bumps(true, 0.1)
    poses = []
    for seed in (0, 1):
        found[:, 3] = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(seed))
        output = toy.answer(found, true.identity, true.expression, net=net)
        poses.append(output.matrix)
    assert torch.equal(*poses) == (weights == "uniform")


def test_the_solved_pose_is_the_heads_own(true):
    output = toy.true_answer(true)
    assert toy.angle_deg(output, true) < 0.1
    scale = output.matrix.norm(dim=-1)[:, 0]
    torch.testing.assert_close(scale, true.scale, rtol=2e-3, atol=0)


def test_the_gradient_of_the_pose_reaches_the_encoder():
    """By way of the position map alone: shape and anchors are held."""
    torch.manual_seed(0)
    for config in (SMALL, MOBILE):
        net = create_pgn(config, toy.face())
        frames = net.frames(crops_of(2))
        shape = net.head.shape(torch.zeros(2, 4), torch.zeros(2, 2))
        pose = net.pose_of(frames, net.read_landmarks(frames.position_map), shape)
        (pose.rotation[:, 0, 2].sum() + pose.shift.sum()).backward()
        for part in (net.trunk, net.decoder):
            grads = [p.grad for p in part.parameters() if p.grad is not None]
            assert grads and any(g.abs().max() > 0 for g in grads)
            assert all(g.isfinite().all() for g in grads)
        assert all(p.grad is None for p in net.to_identity.parameters())


def test_beta_stays_in_its_range():
    net = lively()
    net.decoder.leave.weight.mul_(1e3)
    log_beta = net(crops_of(4)).position_map[:, 3]
    assert log_beta.min() == LOG_BETA_RANGE[0] and log_beta.max() == LOG_BETA_RANGE[1]


def test_heads_read_the_map_only_if_told_to():
    with_map, without = toy.network(), toy.network(replace(SMALL, unposed=False))
    assert with_map.mix[0].in_features - without.mix[0].in_features == 3 * 68
    changed = lively()
    plain = changed(crops_of(2)).expression
    changed.decoder.leave.bias[0] += 0.5  # a map that is shifted is turned back all the same
    torch.testing.assert_close(changed(crops_of(2)).expression, plain, atol=1e-3, rtol=0)
    changed.decoder.leave.weight.mul_(0.5)
    assert not torch.allclose(changed(crops_of(2)).expression, plain, atol=1e-3)
    assert UNPOSED_UNIT > 0


def test_without_a_second_look_the_anchors_are_the_landmarkers():
    plain, again = (toy.network(replace(MOBILE, second_look=n)) for n in (0, 68))
    crops = crops_of(2)
    for net in (plain, again):
        assert isinstance(net.trunk, LandmarkTrunk)
        found = net.trunk.net(crops)
        anchors = torch.cat((found.points, found.log_b[..., None]), -1)
        torch.testing.assert_close(net(crops).anchors, anchors)
    assert plain.trunk.features + again.trunk.again.width == again.trunk.features


def test_mixed_precision_changes_little():
    """Positions are told in single precision: bfloat16 knows them to a third of a pixel."""
    for config in (SMALL, MOBILE):
        net = toy.network(config)
        crops = crops_of(2)
        plain = net(crops)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = net(crops)
        for name in ("position_map", "landmarks", "points", "identity", "expression", "anchors"):
            assert getattr(mixed, name).dtype == torch.float32
        apart = (mixed.landmarks - plain.landmarks)[..., :2].norm(dim=-1) * 60
        assert apart.mean() < 0.5
        assert mixed.position_map[:, :2].unique().numel() > 1000


@pytest.mark.parametrize("config", [SMALL, MOBILE], ids=["tiny", "mobile"])
@pytest.mark.parametrize("sources", [("renders",), ("renders", "aflw21", "ytf68")])
def test_every_parameter_learns_from_every_batch(true, config, sources):
    """Otherwise several processes would need to look for unused ones."""
    torch.manual_seed(0)
    net = create_pgn(config, toy.face())
    loss = PgnLoss(net, toy.face(), PgnLossConfig(pairs=PairConfig(1.0, 1.0, 0.0, size=32)))
    labels = random_labels(toy.face(), 2, seed=4)
    batch = toy.batch_of(labels, *sources)
    for progress in (0.0, 1.0):
        net.zero_grad()
        loss.zero_grad()
        total, _ = loss(net(batch.crops, batch.person), batch, progress)
        total.backward()
        modules = (("network", net), ("loss", loss))
        unused = [
            f"{k}.{name}" for k, m in modules for name, p in m.named_parameters() if p.grad is None
        ]
        assert not unused


def test_settings_survive_a_card():
    config = replace(MOBILE, widths=(8, 8), fusion="max", points=68)
    assert config_from_dict(json.loads(json.dumps(asdict(config)))) == config
    with pytest.raises(TypeError, match="nonsense"):
        config_from_dict({"nonsense": 1})


def test_tables_of_the_chart_can_come_with_the_weights():
    made = lively(MOBILE)
    empty = PgnNet(MOBILE, toy.face(), chart=False).eval()
    empty.load_state_dict(made.state_dict())
    crops = crops_of(2)
    for one, other in zip(empty(crops), made(crops), strict=True):
        assert torch.equal(one, other)
    halved = copy.deepcopy(made)
    for name in ("mark_weights", "skin_weights"):
        table = halved.get_buffer(name)
        table.copy_(table.half().float())
    found = made.frames(crops).position_map
    for read in ("read_landmarks", "read_vertices"):
        one, other = (getattr(net, read)(found + 5) for net in (halved, made))
        torch.testing.assert_close(one, other, atol=5e-3, rtol=0)  # 5: far from the origin


def test_what_cannot_be_made_is_told():
    with pytest.raises(UserError, match="unknown backbone 'vgg'; valid: tiny"):
        create_pgn(replace(SMALL, encoder="vgg"), toy.face())
    with pytest.raises(UserError, match="97 to 128"):
        create_pgn(replace(SMALL, encoder="resnet50", size=48), toy.face())


# ------------------------------------------------------------------------------- our head model


@pytest.fixture(scope="module")
def shipped():
    """The network of the cpu recipe before training: its encoder is the shipped landmarker."""
    net = create_network(PGN["cpu"]("open"), load_face_model())
    return net.eval().requires_grad_(False)


def test_the_encoder_starts_as_the_shipped_landmarker(shipped):
    weights = shipped_weights("landmarker-open")
    for name, value in shipped.trunk.net.state_dict().items():
        assert torch.equal(value, weights[name])


def astronaut():
    """(1, 3, 112, 112) a face, as the landmarker wants it."""
    from skimage.data import astronaut as picture

    face = torch.from_numpy(picture()[25:205, 130:310].copy()).permute(2, 0, 1)[None] / 255
    return torch.nn.functional.interpolate(face, (112, 112), mode="bilinear", antialias=True)


def test_before_training_the_map_shows_the_landmarkers_points(shipped):
    """But for what the random decoder adds."""
    crops = torch.cat((astronaut(), astronaut().flip(3)))
    net = copy.deepcopy(shipped)
    net.decoder.leave.weight.zero_()
    own = net.trunk.net(crops).points
    output = net(crops)
    apart = (output.landmarks[..., :2] - own[..., :2]).norm(dim=-1) * 60
    assert apart.mean() < 0.5 and apart.quantile(0.95) < 1.0
    depth = output.landmarks[..., 2] - own[..., 2]
    assert ((depth - depth.mean(1, keepdim=True)).abs().mean() * 60) < 1.0
    for landmarks in output.landmarks:  # which is a face in the picture
        eyes, mouth = landmarks[36:48, :2].mean(0), landmarks[48:68, :2].mean(0)
        assert 0.2 < mouth[1] - eyes[1] < 1.2 and (mouth - eyes)[0].abs() < 0.3
    assert output.matrix[:, 2, 2].min() > 0.5
    added = shipped(crops).landmarks - output.landmarks
    assert added[..., :2].norm(dim=-1).mean() * 60 < 10


def test_the_pose_of_our_model_is_solved_from_324_points(shipped):
    ids = shipped.get_buffer("pose_ids")
    assert len(ids) == 324 and ids[:68].tolist() == list(range(68, 136))
    assert ids[68:].tolist() == list(range(136, 392))


def test_the_mesh_without_a_model_ends_where_the_chart_does(shipped):
    vertices = shipped.read_vertices(shipped.frames(astronaut()).position_map)
    known = vertices[0].isfinite().all(-1)
    regions = load_face_model().topology.regions
    assert known[regions["face"]].all() and not known[regions["eyeballs"]].any()
    assert 0.2 < known.float().mean() < 0.9
    face = vertices[0][regions["face"]][:, :2]
    assert face.abs().max() < 2
