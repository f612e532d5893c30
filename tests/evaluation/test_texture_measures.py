"""Measures of textures and pictures on values known beforehand, and against naive twins."""

import math

import pytest
import torch

from lifemask.evaluation._albedo_errors import MAX_PSNR_DB
from lifemask.evaluation._picture_measures import WINDOW, box_of, psnr_db, ssim
from lifemask.evaluation._texture_measures import (
    border_steps,
    completeness,
    gaussian_window,
    high_pass_ratio,
    hue_error_deg,
    light_spread,
    mirror_steps,
    seam_ratio,
)

N = 64
MASK = torch.zeros(N, N, dtype=torch.bool)
MASK[2:-2, 2:-2] = True
LEFT = torch.zeros(N, N, dtype=torch.bool)
LEFT[:, : N // 2] = True


def noise(seed=0, n=N):
    return torch.rand(3, n, n, generator=torch.Generator().manual_seed(seed))


def test_completeness_counts_only_whole_texels_of_the_mask():
    albedo = torch.full((3, N, N), 0.5)
    assert completeness(albedo, MASK) == 1.0
    albedo[0, 10, 10], albedo[2, 10, 13] = math.nan, 0.0
    albedo[:, 10, 11], albedo[:, 10, 12] = 1.0, 0.0
    albedo[:, 0, 0] = 0.0
    assert completeness(albedo, MASK) == pytest.approx(1 - 3 / int(MASK.sum()))


def test_high_pass_tells_how_much_smoother_the_hidden_half_is():
    even = 0.4 + 0.05 * noise()
    assert high_pass_ratio(even, MASK, LEFT) == pytest.approx(1.0, abs=0.15)
    half = torch.where(LEFT, even, 0.425 + (even - 0.425) / 2)
    assert high_pass_ratio(half, MASK, LEFT) == pytest.approx(0.25, rel=0.15)
    brighter = high_pass_ratio(3 * half, MASK, LEFT)
    assert brighter == pytest.approx(high_pass_ratio(half, MASK, LEFT), rel=1e-4)
    seam = torch.where(LEFT, even, even + 0.3)
    assert high_pass_ratio(seam, MASK, LEFT) < 1.5
    assert math.isnan(high_pass_ratio(even, MASK, torch.ones_like(LEFT)))


def test_light_spread_ignores_exposure_and_sees_light():
    albedo = 0.2 + 0.5 * noise()
    exposures = torch.stack([albedo * g for g in (0.5, 1.0, 2.0)])
    assert light_spread(exposures, MASK) == pytest.approx(0, abs=1e-6)
    side = torch.linspace(0.5, 1.5, N)
    lit = torch.stack([albedo * side, albedo * side.flip(0)])
    weaker = torch.stack([albedo * side**0.5, albedo * side.flip(0) ** 0.5])
    assert 0 < light_spread(weaker, MASK) < light_spread(lit, MASK)
    values = lit[:, :, MASK].double()
    values = values / values.mean((1, 2), keepdim=True)
    naive = (values.std(0, unbiased=False) / values.mean(0)).mean()
    assert light_spread(lit, MASK) == pytest.approx(float(naive))
    assert math.isnan(light_spread(lit[:1], MASK))


def test_hue_is_an_angle_and_blind_to_brightness():
    red, green = (torch.zeros(3, N, N) for _ in range(2))
    red[0], green[1] = 0.3, 0.6
    assert hue_error_deg(red, green, MASK) == pytest.approx(90.0)
    assert hue_error_deg(red + green, green, MASK) == pytest.approx(math.degrees(math.atan(0.5)))
    colors = noise(1) + 0.1
    assert hue_error_deg(colors * 0.4, colors, MASK) == pytest.approx(0, abs=1e-4)


def test_a_seam_shows_where_it_is():
    plain = 0.3 + 0.02 * noise()
    cut = torch.where(LEFT, plain, plain + 0.1)
    for steps in (mirror_steps(N), border_steps(LEFT)):
        assert seam_ratio(plain, MASK, steps) == pytest.approx(1.0, abs=0.2)
        assert seam_ratio(cut, MASK, steps) > 5
    other = border_steps(LEFT.T)
    assert seam_ratio(cut.mT, MASK, other) == pytest.approx(
        seam_ratio(cut, MASK, border_steps(LEFT)), rel=1e-5
    )
    assert math.isnan(seam_ratio(plain, MASK, border_steps(torch.ones_like(LEFT))))


def test_psnr_and_boxes():
    picture = noise(2)
    assert psnr_db(picture, picture) == MAX_PSNR_DB
    assert psnr_db(picture, picture + 0.1) == pytest.approx(20.0, abs=1e-4)
    rows, columns = box_of(MASK)
    assert (rows, columns) == (slice(2, N - 2), slice(2, N - 2))
    assert picture[(slice(None), *box_of(torch.zeros_like(MASK)))].numel() == 0


def test_ssim_is_its_definition_window_by_window():
    first, second = noise(3, 14), (noise(3, 14) + 0.2 * noise(4, 14)).clamp(0, 1)
    line = gaussian_window(WINDOW, 1.5).double()
    window, scores = line[:, None] * line, []
    for c in range(3):
        for y in range(14 - WINDOW + 1):
            for x in range(14 - WINDOW + 1):
                a, b = (p[c, y : y + WINDOW, x : x + WINDOW].double() for p in (first, second))
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                both = (window * (a - ma) * (b - mb)).sum()
                top = (2 * ma * mb + 1e-4) * (2 * both + 9e-4)
                scores.append(top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert ssim(first, second) == pytest.approx(float(torch.stack(scores).mean()), abs=1e-6)
    assert ssim(first, first) == pytest.approx(1.0)
    assert math.isnan(ssim(first[:, :5], second[:, :5]))
