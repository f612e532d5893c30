"""Painted brows and beards: shape, colour, and what the label says of them."""

import numpy as np
import pytest

from helpers.small_generator import small_generator
from lifemask.data._synthetic_facial_hair import drawn_brows, facial_hair
from lifemask.facemodel import load_face_model


@pytest.fixture(scope="module")
def masks():
    return small_generator(load_face_model("lifemask")).masks


def painted(masks, seed, skin, age=0.2):
    """Linear colour (rows, columns, 3) of one skin with brows, and where they are (bool)."""
    flat = np.full((*masks.left.shape, 3), np.log(skin), np.float32)
    rng = np.random.default_rng(seed)
    log, brows = facial_hair(flat, masks, rng, age, 1.0)
    return np.exp(log), brows > 0.5


def test_a_brow_has_its_height_at_any_softness_and_no_round_ends(masks):
    sharp, soft = (drawn_brows(masks, 4.0, 0.0, soft=s) > 0.5 for s in (0.3, 1.8))
    assert np.array_equal(sharp, soft)
    middle = np.abs(masks.brow_along - 30) < 4
    assert np.abs(masks.brow_across[sharp & middle]).max() == pytest.approx(3.9, abs=1.5)
    along = masks.brow_along[sharp]
    assert along.min() > -3
    assert along.max() < masks.brow_length + 3


def test_a_long_tail_thins_out_towards_the_temple(masks):
    temple = masks.brow_along < 12
    short, long = (drawn_brows(masks, 4.0, 0.0, tail=t) > 0.5 for t in (5.0, 28.0))
    assert (long & temple).sum() < 0.8 * (short & temple).sum()
    assert np.array_equal(long & ~temple & (masks.brow_along > 28),
                          short & ~temple & (masks.brow_along > 28))  # fmt: skip


@pytest.mark.parametrize("skin", [(0.6, 0.4, 0.3), (0.06, 0.03, 0.02)])
def test_young_brows_are_darker_than_the_skin_and_differ_in_height_and_colour(masks, skin):
    heights, shades = [], []
    for seed in range(30):
        colour, brow = painted(masks, seed, skin)
        inside = colour[brow].mean(0)
        assert (inside <= np.array(skin) * 1.001).all()
        heights.append(brow.sum())
        shades.append(inside[0] / skin[0])
    assert max(heights) > 2 * min(heights)
    assert min(shades) < 0.5
    assert max(shades) > 0.7


def test_age_greys_and_half_of_a_brow_may_be_paler_than_dark_skin(masks):
    pale = [painted(masks, seed, (0.06, 0.03, 0.02), age=1.0) for seed in range(12)]
    lighter = [colour[brow].mean() > 0.04 for colour, brow in pale]
    assert any(lighter)


def test_hairs_thin_out_towards_the_nose_in_some_brows(masks):
    inner = masks.brow_along > 0.9 * masks.brow_length
    middle = np.abs(masks.brow_along - 25) < 5
    ratio = []
    for seed in range(30):
        colour, brow = painted(masks, seed, (0.6, 0.4, 0.3))
        change = np.log(0.6 / colour[..., 0])
        ratio.append(change[brow & inner].mean() / change[brow & middle].mean())
    assert min(ratio) < 0.75
    assert max(ratio) > 0.9


def test_few_brows_meet_above_the_nose(masks):
    apart, met = (drawn_brows(masks, 4.0, 0.0, meeting=m) > 0.5 for m in (False, True))
    beyond = masks.brow_along > masks.brow_length + 4
    assert not (apart & beyond).any()
    assert (met & beyond).sum() > 10
    assert np.array_equal(met & ~beyond & (masks.brow_along < masks.brow_length - 3),
                          apart & (masks.brow_along < masks.brow_length - 3))  # fmt: skip
