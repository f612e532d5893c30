"""Importance of coefficients: equal to posing one mesh per coefficient, for any linear model."""

import copy

import pytest
import torch

from helpers.dasl_heads import mask_model, random_labels, whitened_head
from lifemask.facemodel import load_face_model
from lifemask.facemodel.linear import GAIN_RANGE
from lifemask.methods._coefficients import _free_vertices
from lifemask.methods._dasl_wpdc import Importance

POSES = ["rot6d", "affine12"]
MODELS = ["lifemask", "mask", "mask with gains"]


def face_model(name):
    if name == "lifemask":
        return load_face_model()
    model = mask_model()
    if name == "mask with gains":
        generator = torch.Generator().manual_seed(3)
        model.expression_gain[:] = 0.3 * torch.randn(2, 4, generator=generator)
    return model


def setting(pose, name, dtype=torch.float64, heads=3, spread=1.5):
    """Model, head, weights and coefficients: true ones and predictions wrong in every entry."""
    model = face_model(name)
    head = whitened_head(pose, model).to(dtype)
    labels = random_labels(model, heads, seed=11, spread=spread)
    true = whitened_head(pose, model).pack(labels).to(dtype)
    generator = torch.Generator().manual_seed(12)
    raw = true + 0.4 * torch.randn(true.shape, generator=generator, dtype=dtype)
    i = head.identity_size
    raw[:, head.pose_size : head.pose_size + i] *= 2
    return model, head, Importance(head), raw, true


def brute_force(model, head, raw, true):
    """`|H(p* with entry i from p) - H(p*)|` of every entry (b, D), one posed mesh each."""
    model = copy.deepcopy(model).double()
    ids = _free_vertices(model)
    pivot = model.landmarks(model.mean, head.label_set).mean(0)

    def posed(p):
        matrix, shift = pose_of(head.pose, p)
        n, i = head.pose_size, head.identity_size
        vertices = model(p[:, n : n + i], p[:, n + i :])
        points = torch.cat((model.landmarks(vertices, head.scored), vertices[:, ids]), 1)
        moved = ((points - pivot) / 100) @ matrix.mT
        return moved * moved.new_tensor([1, -1, 1]) + shift[:, None]

    rows = []
    for one, two in zip(raw.double(), true.double(), strict=True):
        mixed = torch.where(torch.eye(len(one), dtype=torch.bool), one, two.expand(len(one), -1))
        rows.append((posed(mixed) - posed(two[None])).flatten(1).norm(dim=1))
    return torch.stack(rows)


def pose_of(pose, p):
    """Matrix (n, 3, 3) and shift (n, 3) of raw coefficients; Gram-Schmidt by hand."""
    if pose == "affine12":
        matrix, shift = p[:, :9].view(-1, 3, 3), p[:, 9:12].clone()
        shift[:, 2] = 0  # depth has no origin: a translation in z moves nothing that is seen
        return matrix, shift
    x = p[:, :3] / p[:, :3].norm(dim=1, keepdim=True)
    y = p[:, 3:6] - (p[:, 3:6] * x).sum(1, keepdim=True) * x
    y = y / y.norm(dim=1, keepdim=True)
    rotation = torch.stack((x, y, torch.linalg.cross(x, y)), 2)
    shift = torch.cat((p[:, 7:9], torch.zeros_like(p[:, :1])), 1)
    return p[:, 6].exp()[:, None, None] * rotation, shift


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pose", POSES)
def test_weights_equal_brute_force(pose, name):
    model, head, importance, raw, true = setting(pose, name)
    if name != "mask":  # the gains matter, and some are clamped
        identity = raw[:, head.pose_size : head.pose_size + head.identity_size]
        gain = head.get_buffer("gain")
        factor = 1 + identity @ gain.T
        assert head.clamps_gain and (factor - 1).abs().max() > 0.1
        if name != "lifemask":
            assert ((factor < GAIN_RANGE[0]) | (factor > GAIN_RANGE[1])).any()
    slow = brute_force(model, head, raw, true)
    torch.testing.assert_close(importance.errors(head, raw, true), slow, atol=1e-6, rtol=1e-5)
    wanted = (slow + 1e-6) / (slow + 1e-6).amax(1, keepdim=True)
    if pose == "affine12":
        wanted[:, 11] = 0
    got = importance(head, raw, true)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pose", POSES)
def test_single_precision_is_enough(pose):
    """The closed forms subtract; what is left must not be rounding, for close predictions too."""
    for near in (1.0, 0.02):
        model, head, importance, raw, true = setting(pose, "lifemask", torch.float32)
        raw = true + near * (raw - true)
        slow = brute_force(model, head, raw, true)
        wanted = slow / slow.amax(1, keepdim=True)
        got = importance(head, raw, true)
        if pose == "affine12":
            wanted[:, 11] = 0
        torch.testing.assert_close(got.double(), wanted, atol=3e-5, rtol=0)


@pytest.mark.parametrize("pose", POSES)
def test_weights_are_at_most_one_positive_and_detached(pose):
    _, head, importance, raw, true = setting(pose, "mask", torch.float32)
    weights = importance(head, raw.requires_grad_(), true.requires_grad_())
    assert not weights.requires_grad
    torch.testing.assert_close(weights.amax(1), torch.ones(len(weights)))
    seen = torch.ones(head.size, dtype=torch.bool)
    seen[11] = pose != "affine12"
    assert (weights[:, seen] > 0).all()


def test_a_depth_translation_weighs_nothing():
    """Also where all else is right, and a tiny share of the largest error would be much."""
    _, head, importance, raw, true = setting("affine12", "mask", torch.float32)
    raw[:, 11] = true[:, 11] + 5
    assert (importance(head, raw, true)[:, 11] == 0).all()
    right = true.clone()
    right[:, 11] += 5
    weights = importance(head, right, true)
    assert (weights[:, 11] == 0).all() and weights.isfinite().all()


def test_perfect_predictions_give_finite_weights():
    for pose in POSES:
        _, head, importance, _, true = setting(pose, "lifemask", torch.float32)
        weights = importance(head, true, true)
        assert weights.isfinite().all() and (weights <= 1).all()


def test_what_moves_much_weighs_much():
    """The first modes of identity move the face more than the last."""
    _, head, importance, _, true = setting("rot6d", "lifemask", torch.float32)
    weights = importance(head, true + 1, true)
    identity = weights[:, head.pose_size : head.pose_size + head.identity_size].mean(0)
    assert identity[:8].mean() > 3 * identity[-8:].mean()
    lids = [k for k, n in enumerate(load_face_model().expression_names) if n.startswith("eyeLook")]
    names = load_face_model().expression_names
    jaw = names.index("jawOpen")
    bends = weights[:, head.pose_size + head.identity_size :].mean(0)
    assert bends[jaw] > 3 * bends[lids].mean()


@pytest.mark.parametrize("pose", POSES)
def test_a_batch_is_as_many_single_heads(pose):
    _, head, importance, raw, true = setting(pose, "lifemask")
    together = importance(head, raw, true)
    alone = [importance(head, raw[k : k + 1], true[k : k + 1]) for k in range(len(raw))]
    torch.testing.assert_close(together, torch.cat(alone))


def test_buffers_stay_out_of_checkpoints():
    _, head, importance, _, _ = setting("rot6d", "mask")
    assert not importance.state_dict() and not list(importance.parameters())
    assert not any(module is head for module in importance.modules())
