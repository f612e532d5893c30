"""Gloss: blurred panoramas and the share of light that is mirrored."""

import math

import numpy as np
import pytest
import torch

from lifemask.graphics.gloss import DIELECTRIC, blur_for_gloss, mirrored, reflectance
from lifemask.graphics.panoramas import panorama_directions


def directions(count: int, seed: int = 0) -> torch.Tensor:
    raw = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(raw, dim=-1)


@pytest.fixture(scope="module")
def sky():
    """A panorama whose red is x + 1, green y + 1, blue z + 1, prepared."""
    towards, _ = panorama_directions(64)
    return blur_for_gloss(towards.float() + 1)


def test_even_light_is_even_in_any_mirror():
    gloss = blur_for_gloss(torch.full((32, 64, 3), 0.7))
    seen = mirrored(gloss, directions(200), torch.rand(200))
    torch.testing.assert_close(seen, torch.full_like(seen, 0.7), atol=1e-5, rtol=0)


def test_a_smooth_mirror_shows_the_panorama_also_across_its_seam(sky):
    towards = directions(500)
    towards = torch.cat((towards, torch.tensor([[1e-4, 0.1, 0.99], [-1e-4, 0.1, 0.99]])))
    towards = torch.nn.functional.normalize(towards, dim=-1)
    seen = mirrored(sky, towards, torch.full((len(towards),), 0.05))
    inside = towards[:, 1].abs() < 0.99
    torch.testing.assert_close(seen[inside], towards[inside] + 1, atol=0.02, rtol=0)
    torch.testing.assert_close(seen[-1], seen[-2], atol=1e-3, rtol=0)


def test_rougher_mirrors_are_flatter_and_keep_the_mean(sky):
    towards = directions(2000)
    spread, mean = [], []
    for roughness in (0.1, 0.3, 0.5, 0.7, 1.0):
        seen = mirrored(sky, towards, torch.full((2000,), roughness))
        spread.append(float(seen.std(0).mean()))
        mean.append(seen.mean(0))
    assert all(a > b for a, b in zip(spread[:-1], spread[1:], strict=True)), spread
    for value in mean[1:]:
        torch.testing.assert_close(value, mean[0], atol=0.03, rtol=0)


def test_a_rough_mirror_of_a_slope_is_the_lobe_s_first_moment(sky):
    """The mean of x over the lobe, by quadrature in the angle, against the map."""
    alpha = 0.55**2
    theta = np.linspace(0, np.pi / 2, 4000)
    half = np.cos(theta / 2) ** 2
    weight = np.cos(theta) / (half * (alpha**2 - 1) + 1) ** 2 * np.sin(theta)
    moment = (weight * np.cos(theta)).sum() / weight.sum()
    seen = mirrored(sky, torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), torch.full((2,), 0.55))
    assert float(seen[0, 0]) == pytest.approx(1 + moment, abs=0.01)
    assert float(seen[1, 2]) == pytest.approx(1 + moment, abs=0.01)


def numeric_reflectance(roughness: float, cosine: float) -> float:
    """Directional albedo of GGX with Schlick's Fresnel and Smith's shadowing, summed up."""
    alpha = roughness**2
    view = np.array([math.sqrt(1 - cosine**2), 0, cosine])
    z = (np.arange(400) + 0.5) / 400
    phi = (np.arange(800) + 0.5) / 800 * 2 * np.pi
    z, phi = np.meshgrid(z, phi, indexing="ij")
    ring = np.sqrt(1 - z * z)
    light = np.stack([ring * np.cos(phi), ring * np.sin(phi), z], -1)
    half = light + view
    half /= np.linalg.norm(half, axis=-1, keepdims=True)
    d = alpha**2 / (np.pi * (half[..., 2] ** 2 * (alpha**2 - 1) + 1) ** 2)
    fresnel = DIELECTRIC + (1 - DIELECTRIC) * (1 - half @ view) ** 5
    k = alpha / 2

    def smith(c):
        return c / (c * (1 - k) + k)

    value = d * fresnel * smith(z) * smith(cosine) / (4 * cosine)
    return float(value.mean() * 2 * np.pi)


@pytest.mark.parametrize("roughness", [0.3, 0.55, 0.8])
@pytest.mark.parametrize("cosine", [0.3, 0.7, 0.98])
def test_reflectance_agrees_with_the_integral(roughness, cosine):
    ours = reflectance(torch.tensor([roughness]), torch.tensor([cosine]))
    assert float(ours) == pytest.approx(numeric_reflectance(roughness, cosine), abs=0.015)


def test_reflectance_is_a_share_and_rises_to_the_rim():
    cosine = torch.linspace(0.1, 1, 50)  # nearer to the rim shadowing wins
    smooth = reflectance(torch.full((50,), 0.1), cosine)
    assert float(smooth[-1]) == pytest.approx(DIELECTRIC, abs=0.005)
    assert bool((smooth.diff() <= 1e-4).all()) and float(smooth[0]) > 0.4
    every = reflectance(*torch.rand(2, 1000, generator=torch.Generator().manual_seed(0)))
    assert 0 <= float(every.min()) and float(every.max()) <= 1
