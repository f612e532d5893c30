"""2DASL's coefficients: an independent path to the points, round trips, gradients, own maps."""

import dataclasses

import pytest
import torch

from helpers import face_model_files as toy
from helpers.dasl_heads import (
    SIZE,
    camera_of,
    crop_px,
    mask_model,
    points_px,
    random_labels,
    whitened_head,
)
from lifemask.evaluation.metrics import geodesic_deg
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import convert
from lifemask.facemodel.linear import GAIN_RANGE
from lifemask.graphics.camera import project, rotation_from_euler_deg
from lifemask.methods._coefficients import CoefficientHead, project_points
from lifemask.methods._targets import HeadLabels
from lifemask.methods.dasl import DaslConfig, create_dasl

POSES = ["rot6d", "affine12"]


@pytest.fixture(scope="module", params=POSES)
def head(request):
    return whitened_head(request.param)


@pytest.fixture(scope="module")
def model():
    return load_face_model()


def frontal(model, yaw_deg):
    """Mean faces with given yaw."""
    angles = torch.tensor([[0.0, yaw, 0.0] for yaw in yaw_deg])
    n = len(angles)
    empty = torch.zeros(n, model.identity_size), torch.zeros(n, len(model.expression_names))
    return HeadLabels(rotation_from_euler_deg(angles), torch.ones(n), torch.zeros(n, 2), *empty)


def test_sizes(head, model):
    assert head.size == (9 if head.pose == "rot6d" else 12) + 80 + 52
    assert head.label_set == "lifemask392" and head.scored == "ibug68-3d-bfm"
    assert {n: r.start for n, r in head.sets68.items()} == {"ict68": 0, "ibug68-3d-bfm": 68}
    assert set(head.state_dict()) == {"white_mean", "white_std"}


def test_points_equal_those_of_the_face_model_and_the_camera(head, model):
    """Gains of expressions, pivot and whitening included; to 1e-4 px."""
    labels = random_labels(model, 12, seed=3, spread=1.5)
    factors = 1 + labels.identity @ model.expression_gain.T
    assert (factors < GAIN_RANGE[0]).any() or (factors - 1).abs().max() > 0.3
    got = crop_px(head(head.whitened(head.pack(labels))).points.double())
    vertices = model(labels.identity, labels.expression)
    camera = camera_of(labels)
    for name in (*head.sets68, head.label_set):
        wanted = project(model.landmarks(vertices, name), camera).double()
        rows = head.sets68.get(name, slice(0, 392))
        _same(got[:, rows], wanted, head, labels)
    free = got[:, 392:]
    assert free.shape[1] == 132
    places = project(vertices, camera).double()
    trail, trails = (x[..., :2].transpose(0, 1).flatten(1) for x in (free, places))  # by point
    nearest = torch.cdist(trail, trails).argmin(1)
    assert model.topology.regions["face"][nearest].all() and len(nearest.unique()) == 132
    _same(free, places[:, nearest], head, labels)


def _same(got, wanted, head, labels):
    """Equal in u and v; in w against the pivot, whose nearness is 0 by definition."""
    torch.testing.assert_close(got[..., :2], wanted[..., :2], atol=1e-4, rtol=0)
    pivot = head.get_buffer("pivot").double() * 100
    depth = (camera_of(labels).scale.double() * (labels.rotation.double() @ pivot)[:, 2])[:, None]
    torch.testing.assert_close(got[..., 2], wanted[..., 2] - depth, atol=1e-4, rtol=0)


def test_gains_are_clamped_as_the_model_clamps_them(model):
    head = whitened_head()
    identity = 8 * torch.randn(20, model.identity_size, generator=torch.Generator().manual_seed(0))
    factors = head.gains(identity)
    assert (factors == GAIN_RANGE[0]).any() and (factors == GAIN_RANGE[1]).any()
    torch.testing.assert_close(factors, model.gains(identity))


def test_labels_survive_packing_and_unpacking(head, model):
    labels = random_labels(model, 20, seed=4, yaw_deg=90.0)
    raw = head.pack(labels)
    back = head.unpack(raw)
    for name in HeadLabels.__dataclass_fields__:
        torch.testing.assert_close(getattr(back, name), getattr(labels, name), atol=1e-5, rtol=0)
    torch.testing.assert_close(head.pack(back), raw, atol=1e-5, rtol=0)


def test_a_free_matrix_gives_its_nearest_rotation_and_scale(model):
    head = whitened_head("affine12")
    raw = head.pack(random_labels(model, 6, seed=5))
    generator = torch.Generator().manual_seed(0)
    raw[:, :9] += 0.1 * torch.randn(6, 9, generator=generator)
    labels = head.unpack(raw)
    eye = torch.eye(3).expand(6, 3, 3)
    torch.testing.assert_close(labels.rotation @ labels.rotation.mT, eye, atol=1e-5, rtol=0)
    assert (torch.linalg.det(labels.rotation) > 0).all()
    matrix = raw[:, :9].view(6, 3, 3)

    def misfit(rotation, scale):
        return (matrix - scale[:, None, None] * rotation).square().sum((1, 2))

    best = misfit(labels.rotation, labels.scale)
    for seed in range(20):
        angles = torch.randn(6, 3, generator=generator.manual_seed(seed)) * 3
        near = rotation_from_euler_deg(angles) @ labels.rotation
        assert (misfit(near, labels.scale) >= best - 1e-6).all()
    assert (misfit(labels.rotation, 1.02 * labels.scale) > best).all()
    assert (misfit(labels.rotation, 0.98 * labels.scale) > best).all()


def test_a_wrong_rotation_turns_the_face_about_its_middle(model):
    """The pivot: a wrong rotation does not shift the face, unlike one about the model's origin."""
    head = whitened_head()
    labels = random_labels(model, 8, seed=6)
    raw = head.pack(labels)
    wrong = raw.clone()
    turn = rotation_from_euler_deg(torch.tensor([[0.0, 20.0, 0.0]]))
    wrong[:, :6] = (turn @ labels.rotation)[..., :2].transpose(1, 2).flatten(1)
    middle = [head(head.whitened(r)).points[:, :392].mean(1) for r in (raw, wrong)]
    assert (middle[0] - middle[1])[:, :2].norm(dim=1).max() < 0.03
    off = dataclasses.replace(labels, rotation=turn @ labels.rotation)
    apart = points_px(model, off) - points_px(model, labels)
    assert apart[..., :2].mean(1).norm(dim=1).min() / (SIZE / 2) > 0.03


def test_whitened_labels_have_mean_zero_and_deviation_one(head, model):
    raw = head.pack(random_labels(model, 400, seed=99))  # those that the head was whitened with
    white = head.whitened(raw)
    torch.testing.assert_close(head.raw(white), raw, atol=1e-5, rtol=1e-5)
    start = 6 if head.pose == "rot6d" else 0
    assert white[:, start:].mean(0).abs().max() < 1e-4
    spread = raw.std(0)[start:] > 0.051
    torch.testing.assert_close(
        white[:, start:].std(0)[spread], torch.ones(int(spread.sum())), atol=1e-4, rtol=0
    )
    # coefficients that hardly change are not blown up
    assert white[:, start:].std(0).max() < 1 + 1e-4
    if head.pose == "rot6d":  # a rotation is not whitened
        upright = white.new_tensor([1.0, 0, 0, 0, 1, 0])
        torch.testing.assert_close(white[:, :6], raw[:, :6] - upright)


def test_zero_is_an_upright_head_before_and_after_whitening(model):
    for head in (CoefficientHead(model), whitened_head()):
        labels = head.unpack(head.raw(torch.zeros(1, head.size)))
        torch.testing.assert_close(labels.rotation, torch.eye(3)[None], atol=1e-6, rtol=0)


def test_several_heads_are_as_many_single_ones(head, model):
    p = head.whitened(head.pack(random_labels(model, 5, seed=7)))
    together = head(p)
    for i in range(5):
        for whole, one in zip(together, head(p[i : i + 1]), strict=True):
            torch.testing.assert_close(whole[i : i + 1], one, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("pose", POSES)
def test_forward_passes_gradcheck(pose):
    model = mask_model()
    model.expression_gain[:] = 0.05 * torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    head = whitened_head(pose, model)
    p = head.whitened(head.pack(random_labels(model, 2, seed=8))).double().requires_grad_()
    head = head.double()
    assert head(p).points.dtype == torch.float64

    def few(x):
        return head(x).points[:, ::17], head.own_map(head(x))[0]

    assert torch.autograd.gradcheck(few, (p,))


def test_half_precision_does_not_coarsen_the_head(model):
    head = whitened_head()
    p = head.whitened(head.pack(random_labels(model, 4, seed=9)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posed = head(p)
        own = head.own_map(posed)[0]
        coarse = head(p.bfloat16()).points
    assert posed.points.dtype == own.dtype == coarse.dtype == torch.float32
    torch.testing.assert_close(posed.points, head(p).points)
    torch.testing.assert_close(own, head.own_map(head(p))[0])


def test_own_map_is_that_of_the_posed_68_points(head, model):
    labels = random_labels(model, 6, seed=10)
    posed = head(head.whitened(head.pack(labels)))
    wanted = convert(points_px(model, labels, "ibug68-3d-bfm"), "ibug68-3d-bfm", "map18")
    torch.testing.assert_close(crop_px(head.own_map(posed)[0]), wanted[..., :2], atol=1e-4, rtol=0)


def test_the_far_eye_of_a_turned_head_is_not_drawn(head, model):
    """Yaw > 0: the nose points to image right, and the eye at image left is the near one."""
    labels = frontal(model, [0.0, 80.0, -80.0])
    drawn = head.own_map(head(head.whitened(head.pack(labels))))[1]
    left_eye, right_eye = [6, 7], [10, 11]  # outer corner and centre
    left_side, right_side = [0, 1, 2, 12, 15], [3, 4, 5, 14, 17]  # brows, nose, mouth
    assert drawn[0].all()
    assert drawn[1, left_eye].all() and not drawn[1, right_eye].any()
    assert drawn[2, right_eye].all() and not drawn[2, left_eye].any()
    assert drawn[1, left_side].float().mean() > 0.7 and not drawn[1, right_side].any()
    assert drawn[2, right_side].float().mean() > 0.7 and not drawn[2, left_side].any()
    assert drawn[:, 13].all()  # the tip of the nose


def test_project_points_is_the_camera_of_the_conventions():
    """u = (A X)_x + t_u, v = -(A X)_y + t_v: up in the model is up in the picture."""
    shape = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    got = project_points(shape, 2 * torch.eye(3)[None], torch.tensor([[0.1, 0.2]]))
    wanted = torch.tensor([[[2.1, 0.2, 0], [0.1, -1.8, 0], [0.1, 0.2, 2]]])
    torch.testing.assert_close(got, wanted)


def test_the_head_knows_the_range_of_expressions(model):
    for chosen, low, high in ((model, 0.0, 1.0), (mask_model(), -3.0, 3.0)):
        head = CoefficientHead(chosen)
        assert (head.get_buffer("lowest") == low).all()
        assert (head.get_buffer("highest") == high).all()
        assert len(head.get_buffer("lowest")) == head.expression_size


@pytest.mark.parametrize("pose", POSES)
def test_a_face_model_in_the_published_shape(pose):
    """BFM has signed expressions, one set of 68, no gains and other sizes."""
    model = mask_model()
    head = whitened_head(pose, model)
    assert head.size == head.pose_size + 6 and head.label_set == "ibug68-3d-bfm"
    assert not head.clamps_gain
    labels = random_labels(model, 5, seed=1)
    p = head.whitened(head.pack(labels))
    got = crop_px(head(p).points)[:, :68]
    wanted = points_px(model, labels, "ibug68-3d-bfm")
    torch.testing.assert_close(got[..., :2], wanted[..., :2], atol=1e-4, rtol=0)
    back = head.unpack(head.raw(p))
    apart = geodesic_deg(back.rotation.double().numpy(), labels.rotation.double().numpy())
    assert apart.max() < 0.01


def test_a_model_with_fewer_vertices_than_are_asked_for():
    model = mask_model()
    assert CoefficientHead(model).get_buffer("mean").shape == (68 + 132, 3)
    regions = {"face": torch.arange(143) < 50}
    model.topology = dataclasses.replace(model.topology, regions=regions)
    assert CoefficientHead(model).get_buffer("mean").shape == (68 + 50, 3)
    model.topology = dataclasses.replace(model.topology, regions={})
    assert CoefficientHead(model).get_buffer("mean").shape == (68 + 132, 3)


def test_models_from_the_real_files(tmp_path):
    """3DDFA's BFM goes through its converter into a head; without its landmarks it cannot."""
    pytest.importorskip("scipy")
    from lifemask.facemodel.convert import convert as convert_model

    truth = toy.write_bfm2009(tmp_path)
    alone = tmp_path / "01_MorphableModel.mat"
    plain = load_face_model("bfm2009", convert_model("bfm2009", [alone], tmp_path / "a.npz"))
    with pytest.raises(ValueError, match=r"needs one of the landmark sets.*'bfm2009' has"):
        create_dasl(DaslConfig("tiny", 48, "affine12"), plain)
    toy.write_3ddfa(tmp_path, truth["points"], truth["faces"])
    model = load_face_model("bfm2009", convert_model("bfm2009", [tmp_path], tmp_path / "b.npz"))
    network = create_dasl(DaslConfig("tiny", 48, "affine12"), model).eval()
    assert network.head.size == 12 + 4 + 2
    none = torch.zeros(2, 18, dtype=torch.bool)
    output = network(torch.rand(2, 3, 48, 48), torch.zeros(2, 18, 2), none)
    count = output.posed_hat.points.shape[1]
    assert 68 < count <= 68 + 132
