"""Colour errors with and without a gain, and the relight score, on values known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lifemask.evaluation._albedo_errors import (
    MAX_PSNR_DB,
    albedo_errors,
    albedo_gain,
    mean_luminance,
    relight_psnr_db,
    resized,
    tone_terciles,
)
from lifemask.graphics.lighting import ambient_light, linear_to_srgb

TRUE = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.1
MASK = torch.zeros(16, 16, dtype=torch.bool)
MASK[2:14, 2:14] = True
SEEN = torch.zeros_like(MASK)
SEEN[:, :8] = True


def test_a_brighter_copy_is_perfect_once_a_gain_is_allowed():
    errors = albedo_errors(TRUE * 1.5, TRUE, MASK, SEEN)
    assert errors[True, "all"].rmse == pytest.approx(0.0, abs=1e-6)
    expected = 0.5 * TRUE[:, MASK].double()
    assert errors[False, "all"].rmse == pytest.approx(float(expected.pow(2).mean().sqrt()))
    assert errors[False, "all"].l1 == pytest.approx(float(expected.mean()))


def test_a_shift_of_the_hidden_half_is_charged_to_it():
    guess = TRUE + 0.1 * (~SEEN)
    errors = albedo_errors(guess, TRUE, MASK, SEEN)
    assert errors[False, "visible"].rmse == pytest.approx(0.0, abs=1e-6)
    assert errors[False, "invisible"].rmse == pytest.approx(0.1, abs=1e-5)
    assert errors[False, "all"].rmse == pytest.approx(0.1 / math.sqrt(2), rel=1e-4)
    nothing = albedo_errors(guess, TRUE, MASK, torch.ones_like(SEEN))[True, "invisible"]
    assert math.isnan(nothing.rmse)


def test_the_gain_is_the_least_squares_one():
    guess = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    truth = torch.rand(50, 3, generator=torch.Generator().manual_seed(2))
    gain = albedo_gain(guess, truth)
    errors = [float(((guess * g - truth) ** 2).sum()) for g in (gain - 0.01, gain, gain + 0.01)]
    assert errors[1] == min(errors)
    assert albedo_gain(torch.zeros(3, 3), truth[:3]) == 0.0


def test_relighting_equal_and_shifted_colours():
    truth = torch.full((30, 3), 0.2)
    truth[::2] = 0.4
    normals = torch.tensor([[0.0, 0.0, 1.0]]).expand(30, 3)
    light = ambient_light(1.0)
    assert relight_psnr_db(truth * 0.3, truth, normals, light) == pytest.approx(MAX_PSNR_DB)
    flat = torch.full_like(truth, 0.3)
    gain = albedo_gain(flat, truth)
    shown = [linear_to_srgb(torch.tensor(v)) for v in (0.3 * gain, 0.2, 0.4)]
    mse = float(((shown[0] - shown[1]) ** 2 + (shown[0] - shown[2]) ** 2) / 2)
    expected = -10 * math.log10(mse)
    assert relight_psnr_db(flat, truth, normals, light) == pytest.approx(expected, abs=1e-3)
    assert math.isnan(relight_psnr_db(flat[:0], truth[:0], normals[:0], light))


def test_tones_and_sizes():
    values = np.array([0.1, 0.5, 0.3, 0.2, 0.6, 0.4])
    assert tone_terciles(values) == ("dark", "light", "medium", "dark", "light", "medium")
    assert mean_luminance(torch.full((3, 4, 4), 0.25), torch.ones(4, 4, dtype=torch.bool)) == 0.25
    assert resized(TRUE, 8).shape == (3, 8, 8)
    assert float(resized(torch.full((3, 16, 16), 0.3), 8).std()) == pytest.approx(0.0, abs=1e-7)
