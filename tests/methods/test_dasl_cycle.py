"""2DASL's two passes: the drawn map carries the gradient of the second pass to the first."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch

from helpers.dasl_heads import half_crops, mask_model, points_px, random_labels, whitened_head
from helpers.dasl_terms import SCORED, only, target
from lifemask.assets import UserError
from lifemask.facemodel.landmarks import map18
from lifemask.methods._dasl_loss import DaslLoss, TwoPasses
from lifemask.methods.dasl import DaslConfig, config_from_dict, create_dasl, normalised
from lifemask.nn.landmark_map import draw_map

SIZE, COUNT = 48, 3


@pytest.fixture(params=itertools.product(["gaussian", "points"], [0, 16]), ids=str)
def setting(request):
    """A network with the tiny backbone, by the map alone or with a correction by its points."""
    torch.manual_seed(0)
    model = mask_model()
    kind, correction = request.param
    config = DaslConfig("tiny", SIZE, map=kind, correction=correction)
    network = create_dasl(config, model).eval()
    network.head.load_state_dict(whitened_head("rot6d", model).state_dict())
    for weight in network.correction.parameters() if network.correction else ():
        torch.nn.init.normal_(weight, std=0.01)  # a fresh one changes nothing
    labels = random_labels(model, COUNT, seed=1)
    given = map18(half_crops(points_px(model, labels, SCORED)[..., :2]), SCORED)
    crops = torch.rand(COUNT, 3, SIZE, SIZE)
    drawn = torch.ones(COUNT, 18, dtype=torch.bool)
    loss = DaslLoss(network.head, only(cyc=0.02))
    return network, loss, (crops, given, drawn), [target(model, labels, "renders")]


def cycle(loss, inputs, output, targets):
    return loss(TwoPasses(normalised(inputs[0]), *output), targets)[0]


def test_the_cycle_reaches_the_first_pass_through_blobs_and_not_through_pixels(setting):
    """The first pass's coefficients enter the second pass by what it draws, in no other way."""
    network, loss, inputs, targets = setting
    output = network(*inputs)
    (slope,) = torch.autograd.grad(
        cycle(loss, inputs, output, targets), output.p, allow_unused=True
    )
    if network.config.map == "points":
        assert slope is None
    else:
        assert slope.isfinite().all() and (slope.abs().amax(1) > 0).all()


def test_weights_of_a_first_pass_that_only_feeds_the_map(setting):
    network, loss, inputs, targets = setting
    crops, points, drawn = inputs
    second = copy.deepcopy(network).requires_grad_(False)
    p = network.regress(crops, points, drawn)
    posed = network.head(p)
    p_hat = second.regress(crops, *second.head.own_map(posed))
    total = cycle(loss, inputs, (p, posed, p_hat, second.head(p_hat)), targets)
    assert total > 0
    if network.config.map == "points":
        assert not total.requires_grad
        return
    total.backward()
    trained = {n: w.grad for n, w in network.named_parameters() if n.endswith("weight")}
    assert all(g is not None and g.abs().max() > 0 for g in trained.values()), trained.keys()
    assert all(w.grad is None for w in second.parameters())


def test_that_gradient_is_the_slope_of_the_second_passes_error(setting):
    """Against finite differences of what the second pass says of slightly moved maps."""
    network, loss, inputs, targets = setting
    output = network(*inputs)
    if network.config.map == "points":
        moved = network.draw(*network.head.own_map(network.head(output.p + 1e-6)))
        assert torch.equal(moved, network.draw(*network.head.own_map(output.posed)))
        return
    with torch.no_grad():  # the second pass answers loudly to its map
        network.backbone.get_parameter("stem.0.weight")[:, 3] *= 5
    output = network(*inputs)
    (slope,) = torch.autograd.grad(cycle(loss, inputs, output, targets), output.p)
    direction = slope / slope.norm()

    @torch.no_grad()
    def error(step):
        p = output.p + step * direction
        posed = network.head(p)
        p_hat = network.regress(inputs[0], *network.head.own_map(posed))
        return float(cycle(loss, inputs, (p, posed, p_hat, network.head(p_hat)), targets))

    step = 5e-3
    slope_found = (error(step) - error(-step)) / (2 * step)
    assert abs(slope_found - float(slope.norm())) < 0.1 * float(slope.norm())


def test_the_forward_pass_is_the_figure(setting):
    """Crop and given map to p; crop and the map of p's own visible points to p^."""
    network, _, (crops, points, drawn), _ = setting
    with torch.no_grad():
        output = network(crops, points, drawn)
        kind = network.config.map
        picture = (crops * 255 - 127.5) / 128

        def answer(points, drawn):
            x = torch.cat((picture, draw_map(points, drawn, SIZE, kind)), 1)
            features = network.backbone(x)
            p = network.regressor(features)
            if network.correction is not None:
                own, _ = network.head.own_map(network.head(p))
                p = p + network.correction(features, points - own, drawn)
            return p

        p = answer(points, drawn)
        own = network.head.own_map(network.head(p))
        p_hat = answer(own[0], own[1])
    torch.testing.assert_close(output.p, p)
    torch.testing.assert_close(output.p_hat, p_hat)
    torch.testing.assert_close(output.posed.points, network.head(p).points)
    torch.testing.assert_close(output.posed_hat.points, network.head(p_hat).points)
    assert not torch.allclose(p, p_hat)


def test_points_that_are_not_drawn_do_not_count(setting):
    """Whatever they hold: AFLW's hidden points are garbage."""
    network, _, (crops, points, drawn), _ = setting
    hidden = drawn.clone()
    hidden[:, ::3] = False
    garbage = torch.where(hidden[..., None], points, torch.tensor([math.nan, 1e20]))
    with torch.no_grad():
        plain = network(crops, points, hidden)
        torch.testing.assert_close(network(crops, garbage, hidden).p, plain.p)
        assert not torch.allclose(plain.p, network(crops, points, drawn).p)


def test_channels_last_crops_give_the_same(setting):
    network, _, (crops, points, drawn), _ = setting
    with torch.no_grad():
        plain = network(crops, points, drawn)
        fast = network(crops.to(memory_format=torch.channels_last), points, drawn)
    torch.testing.assert_close(plain.p_hat, fast.p_hat, atol=1e-5, rtol=1e-4)


def test_settings_from_a_card():
    config = DaslConfig("tiny", 64, "affine12", "points", 2.0)
    values = dataclasses.asdict(config)
    assert config_from_dict(values) == config
    with pytest.raises(TypeError):
        config_from_dict({**values, "colour": "red"})
    with pytest.raises(UserError, match="unknown backbone"):
        create_dasl(DaslConfig("huge"), mask_model())  # pyright: ignore[reportArgumentType]
