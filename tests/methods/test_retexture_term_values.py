"""Values of the re-renderable texture's terms by hand."""

import math

import pytest
import torch
from torch.nn import functional

from lifemask.graphics.lighting import linear_to_srgb
from lifemask.methods import _retexture_terms as terms


def test_a_masked_mean_knows_weight_and_channels_alone():
    values = torch.arange(24.0).view(1, 2, 3, 4)
    mask = torch.zeros(1, 1, 3, 4)
    assert float(terms.masked_mean(values, mask)) == 0
    mask[..., 1, 2] = 1
    assert float(terms.masked_mean(values, mask)) == pytest.approx((6 + 18) / 2)
    mask[..., 0, 0] = 0.5
    assert float(terms.masked_mean(values, mask)) == pytest.approx((24 + 0.5 * 12) / 3)
    tall = functional.interpolate(values, scale_factor=4)
    wide = functional.interpolate(mask, scale_factor=4)
    torch.testing.assert_close(terms.masked_mean(tall, wide), terms.masked_mean(values, mask))


def test_photo_is_the_rgb_distance_inside_the_mask():
    photo = torch.zeros(1, 3, 4, 4)
    render = photo.clone()
    render[:, :, 1, 1] = torch.tensor([0.2, 0.3, 0.6])
    render[:, :, 3, 3] = 1.0
    mask = torch.ones(1, 1, 4, 4)
    mask[..., 3, 3] = 0
    wanted = (0.7 + 14 * 1e-3) / 15
    assert float(terms.photo_term(render, photo, mask)) == pytest.approx(wanted, rel=1e-3)


def test_gradients_are_compared_along_diagonals_and_only_inside():
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    mask = torch.ones(1, 1, 8, 8)
    assert float(terms.gradient_term(ramp, torch.zeros_like(ramp), mask)) == pytest.approx(1.0)
    assert float(terms.gradient_term(ramp + 5, ramp, mask)) == 0  # brightness is no edge
    diagonal = ramp + ramp.mT
    assert float(terms.gradient_term(diagonal, 0 * ramp, mask)) == pytest.approx(1.0)  # 2 and 0
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 9.0
    half = mask.clone()
    half[..., 4:] = 0
    assert float(terms.gradient_term(edge, 0 * ramp, half)) == 0


def test_angles_and_grams_by_hand():
    a, b = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [6.0, 8.0]])
    assert float(terms.perceptual_term(a, b)) == pytest.approx(0.5)
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (1, 2, 1, 2)
    gram = torch.tensor([[[5.0, 11.0], [11.0, 25.0]]]) / 4
    torch.testing.assert_close(terms.gram(features), gram)
    assert float(terms.style_term(features, 0 * features)) == pytest.approx(
        float(gram.square().sum())
    )
    shuffled = features.flip(-1)
    assert float(terms.style_term(shuffled, features)) == 0  # where things are does not matter


def test_no_gradient_reaches_what_is_only_compared_with():
    a, b = torch.rand(2, 4, requires_grad=True), torch.rand(2, 4, requires_grad=True)
    terms.perceptual_term(a, b).backward()
    x, y = (torch.rand(1, 2, 3, 3, requires_grad=True) for _ in range(2))
    terms.style_term(x, y).backward()
    albedo, texture = (torch.rand(1, 3, 4, 4, requires_grad=True) for _ in range(2))
    terms.chroma_term(albedo, texture, torch.ones(1, 1, 4, 4)).backward()
    for learns, fixed in ((a, b), (x, y), (albedo, texture)):
        assert learns.grad is not None and fixed.grad is None


@pytest.mark.parametrize("sigma", [2.0, 4.0, 8.0])
def test_the_low_band_keeps_what_is_wide_and_drops_what_is_fine(sigma):
    n = 64
    assert float(terms.low_band(torch.full((1, 1, n, n), 0.7), sigma).std()) < 1e-6
    x = torch.arange(n) * 2 * math.pi
    for wave, low, high in ((sigma, 0.0, 0.05), (2 * sigma, 0.0, 0.2), (8 * sigma, 0.6, 1.0)):
        maps = torch.sin(x / wave + 0.8).expand(1, 1, n, n)
        if wave > n:
            continue
        kept = float(terms.low_band(maps, sigma).std() / maps.std())
        assert low <= kept <= high, (wave, kept)


def test_symmetry_by_hand_and_its_floor():
    maps = torch.full((1, 3, 4, 4), 0.5)
    ones = torch.ones(1, 1, 4, 4)
    assert float(terms.symmetry_term(maps, ones)) == pytest.approx(0, abs=1e-6)
    maps[0, :, 1, 0] += torch.tensor([0.32, 0.0, 0.42])  # beyond the floor: 0.3, 0, 0.4
    wanted = 2 * (math.sqrt(0.25 + 1e-6) - 1e-3) / (16 * 1)
    assert float(terms.symmetry_term(maps, ones)) == pytest.approx(wanted, rel=1e-3)
    mole = torch.full((1, 3, 4, 4), 0.5)
    mole[0, :, 1, 0] -= 0.019
    assert float(terms.symmetry_term(mole, ones)) == pytest.approx(0, abs=1e-6)
    covered = ones.clone()
    covered[..., 1, 3] = 0  # its mirror image does not count, so neither does it
    assert float(terms.symmetry_term(maps, covered)) == pytest.approx(0, abs=1e-6)


def test_chroma_by_hand():
    grey = torch.full((1, 3, 2, 2), 0.4)
    albedo = torch.full((1, 3, 2, 2), 0.4)
    albedo[..., 1] = 0.2
    ones = torch.ones(1, 1, 2, 2)
    one_step = math.log(2) * math.sqrt(3)
    assert float(terms.chroma_term(albedo, grey, ones)) == pytest.approx(one_step / 2, rel=1e-3)
    colour = grey.clone()
    colour[:, 0, :, 1] = 0.3
    c = [torch.tensor(v) / (sum(v) + 1e-3) for v in ([0.4] * 3, [0.3, 0.4, 0.4])]
    kept = math.exp(-80 * float((c[0] - c[1]).norm()))
    assert float(terms.chroma_term(albedo, colour, ones)) == pytest.approx(
        kept * one_step / 2, rel=1e-3
    )
    hidden = ones.clone()
    hidden[..., 1] = 0
    assert float(terms.chroma_term(albedo, grey, hidden)) < 1e-5
    # chromaticity does not know intensity
    bright = torch.tensor([0.6, 0.3, 0.2]).view(1, 3, 1, 1)
    torch.testing.assert_close(
        terms.chromaticity(bright), terms.chromaticity(bright / 3), atol=2e-3, rtol=0
    )


def test_light_terms_by_hand():
    detail = torch.zeros(1, 27, 2, 2)
    one = torch.ones(1)
    assert float(terms.white_term(detail, one)) == 0
    assert float(terms.variation_term(detail)) == 0
    detail[:, 0] = 3.0  # red's first
    assert float(terms.white_term(detail, one)) == pytest.approx((2 + 1 + 1) / 27)
    assert float(terms.white_term(detail, 0 * one)) == 0
    detail[:, 9], detail[:, 18] = 3.0, 3.0
    assert float(terms.white_term(detail, one)) == 0
    assert float(terms.light_term(detail, 0 * detail)) == pytest.approx(9 / 27)
    assert float(terms.variation_term(detail)) == 0
    detail[:, 5, 0, 1] = 1.0
    # one of two steps to the right and one of two downwards, each in 1 of 27 numbers
    assert float(terms.variation_term(detail)) == pytest.approx(0.5 / 27)
    assert float(terms.variation_term(detail[..., :1, :1])) == 0


def test_truth_by_hand():
    """Up to the best gain of each picture, and by its weight without."""
    truth = torch.full((1, 3, 4, 4), 0.3)
    albedo, known = torch.full_like(truth, 0.5), torch.ones(1, 1, 4, 4)
    coded = [float(linear_to_srgb(x)[0, 0, 0, 0]) for x in (albedo, truth)]

    def cost(level=0.0, steps=True):
        return float(terms.supervised_term(albedo, truth, known, level, steps))

    assert cost() == pytest.approx(0, abs=1e-6)
    assert cost(1.0) == pytest.approx(coded[0] - coded[1], rel=1e-4)
    assert cost(0.25) == pytest.approx(0.25 * cost(1.0), rel=1e-4)
    albedo[..., 2] = 0.9
    assert cost() > cost(steps=False) > 0.01
    known[..., 2] = 0
    assert cost() == pytest.approx(0, abs=1e-6)
    known[:] = 0
    assert cost(1.0) == 0
    assert float(terms.supervised_term(0 * truth, truth, 1 + known, 1.0)) > 0.3  # black is finite


def test_shading_by_hand():
    true, ones = torch.full((1, 3, 2, 2), 0.8), torch.ones(1, 1, 2, 2)
    own = 2 * true
    assert float(terms.shading_term(own, true, ones, 0.0)) == pytest.approx(0, abs=1e-6)
    assert float(terms.shading_term(own, true, ones, 0.5)) == pytest.approx(0.5 * math.log(2))
    own[..., 1] = 0.8
    half = math.log(2) / 2
    assert float(terms.shading_term(own, true, ones, 0.0)) == pytest.approx(half)
    assert float(terms.shading_term(own, true, ones, 1.0)) == pytest.approx(2 * half)
    assert float(terms.shading_term(-own, 0 * true, 0 * ones, 1.0)) == 0
