"""Painted lips: outline, colour, what the label says of them, and lips that a texture brings."""

import numpy as np
import pytest

from helpers.small_generator import small_generator
from lifemask.data._synthetic_lips import drawn_lips, paint_lips, usual_lips
from lifemask.data._synthetic_skins import vary_skin
from lifemask.facemodel import load_face_model

SKIN = np.log(np.array([0.5, 0.3, 0.2]))


@pytest.fixture(scope="module")
def masks():
    return small_generator(load_face_model("lifemask")).masks


def texture(masks, lips, differs=(-0.1, -0.6, -0.5)):
    """Plain skin with lips (soft mask) of another colour."""
    return (SKIN + lips[..., None] * np.array(differs)).astype(np.float32)


def overlap(one, other):
    return (one & other).sum() / max((one | other).sum(), 1)


def test_the_depth_grows_inwards_from_the_contour(masks):
    usual = masks.lip_depth > 0
    assert 100 < usual.sum() < 4000
    assert 4 < masks.lip_depth.max() < 15
    assert np.array_equal(usual, usual_lips(masks) > 0.5)
    areas = [(drawn_lips(masks, grow, 1.0) > 0.5).sum() for grow in (-1.5, 0.0, 1.5)]
    assert areas[0] < 0.85 * areas[1] < 0.72 * areas[2]
    sharp, soft = (drawn_lips(masks, 0.0, border) > 0.5 for border in (0.7, 3.5))
    assert np.array_equal(sharp, soft), "a border's middle is where lips end"


def test_painted_lips_are_where_the_mask_says_and_differ_from_skin(masks):
    own = texture(masks, drawn_lips(masks, 2.0, 1.0))
    sizes, contrasts = [], []
    for seed in range(20):
        log, mask = paint_lips(own, masks, np.random.default_rng(seed))
        lip = mask > 0.95
        beyond = (mask == 0) & (masks.lip_depth > -9)
        assert np.abs(log[beyond] - SKIN).max() < 0.3, "the texture's own lips are taken away"
        assert np.median(np.abs(log[beyond] - SKIN)) < 0.01
        sizes.append((mask > 0.5).sum())
        contrasts.append(np.abs(log[lip].mean(0) - SKIN).max())
    assert max(sizes) > 1.25 * min(sizes)
    assert min(contrasts) > 0.05
    assert np.median(contrasts) > 0.3


def test_skin_without_lips_gets_some_and_keeps_its_grain(masks):
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 0.05, (*masks.left.shape, 1)).astype(np.float32)
    log, mask = paint_lips(texture(masks, 0 * masks.lip_depth) + grain, masks, rng)
    lip, far = mask > 0.95, masks.lip_depth < -10
    assert (log[lip].mean(0) - SKIN)[1] < -0.04, "redder: less green"
    assert np.array_equal(log[far], (texture(masks, 0 * masks.lip_depth) + grain)[far])
    assert np.corrcoef(log[lip].mean(-1), grain[lip][:, 0])[0, 1] > 0.5


def test_a_skin_tells_its_lips_whatever_it_is_made_from(masks):
    srgb = np.exp(texture(masks, drawn_lips(masks, 1.5, 1.0)))[None] ** (1 / 2.2)
    photo = vary_skin(srgb, masks, np.random.default_rng(1), 0.2, strength=0.25)
    assert np.array_equal(photo.marks[1] > 127, usual_lips(masks) > 0.5), "laid out by landmarks"
    plain = vary_skin(srgb, masks, np.random.default_rng(1), 0.2)
    assert plain.marks.shape == (2, *masks.left.shape)
    lip = plain.marks[1] > 127
    around = (plain.marks[1] == 0) & (masks.lip_depth > -6)
    assert abs(plain.srgb[lip].mean(0) - plain.srgb[around].mean(0)).max() > 8
