"""Random views of pictures with region maps: maps follow pictures, occluders are labelled."""

from dataclasses import replace

import numpy as np
import pytest

from lifemask.data.augment import NO_AUGMENTATION, draw_views
from lifemask.data.region_augment import (
    BACKGROUND,
    NO_REGION_AUGMENTATION,
    SKIN,
    RegionAugmentConfig,
    compress,
    draw_batch,
    lower_resolution,
    occlude,
    warp_regions,
)
from lifemask.data.regions import GLASSES, IGNORE, RegionSet, split_glasses

SIZE = 32


def blocks(count=4, size=40, seed=0):
    """Pictures whose red value tells the class: 25 x id, on 8 px blocks."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 9, (count, size // 8, size // 8)).astype(np.uint8)
    regions = coarse.repeat(8, 1).repeat(8, 2)
    images = np.stack((regions * 25, regions * 25, regions * 25), -1).astype(np.uint8)
    return RegionSet("blocks", (images,), (regions,), size / 1.25)


def test_without_strength_the_view_is_the_nominal_square():
    source = blocks()
    source = replace(source, view_side_px=40.0)
    ids = np.array([2, 0])
    crops, maps = draw_batch(np.random.default_rng(0), source, ids, NO_REGION_AUGMENTATION, 40)
    images, regions = source.gather(ids)
    assert np.abs(crops * 255 - images).max() < 0.01
    assert np.array_equal(maps, regions)


def test_a_batch_is_a_function_of_the_generator():
    source, ids = blocks(), np.arange(4).repeat(4)
    config = RegionAugmentConfig(occluder=0.9, low_resolution=0.9, jpeg=0.9)
    first, again, other = (
        draw_batch(np.random.default_rng(seed), source, ids, config, SIZE) for seed in (1, 1, 2)
    )
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    assert first[0].dtype == np.float32 and first[0].min() >= 0 and first[0].max() <= 1


def test_maps_follow_pictures_through_any_view():
    source = blocks(8)
    view = replace(RegionAugmentConfig().view, gain=0, bias=0, gamma=0, grey=0, noise=0, blur=0)
    config = RegionAugmentConfig(view, 1.0, 0.0, 0.0, 0.0)
    rng = np.random.default_rng(3)
    crops, maps = draw_batch(rng, source, np.arange(8).repeat(4), config, 64)
    known = maps != IGNORE
    told = np.round(crops[..., 0] * 255 / 25)
    # Bilinear values mix classes at borders only; in between picture and map say the same.
    assert (told[known] == maps[known]).mean() > 0.85
    solid = known.copy()
    for shift, axis in ((1, 1), (-1, 1), (1, 2), (-1, 2)):
        solid &= np.roll(maps, shift, axis) == maps
    for shift, axis in ((2, 1), (-2, 1), (2, 2), (-2, 2)):
        solid &= np.roll(maps, shift, axis) == maps
    assert (told[solid] == maps[solid]).mean() > 0.995


def test_outside_of_the_picture_is_not_labelled_and_the_mirror_is_a_mirror():
    regions = blocks(2).regions[0]
    rng = np.random.default_rng(0)
    wide = draw_views(rng, NO_AUGMENTATION, 2, 40, 80.0, 40)  # twice the picture
    found = warp_regions(regions, wide, 40)
    inside = np.zeros((40, 40), bool)
    inside[10:30, 10:30] = True
    assert (found[:, inside] != IGNORE).all() and (found[:, ~inside] == IGNORE).all()
    flipped = draw_views(rng, replace(NO_AUGMENTATION, flip=1.0), 2, 40, 40.0, 40)
    assert np.array_equal(warp_regions(regions, flipped, 40), regions[:, :, ::-1])


def test_the_class_with_the_largest_weight_wins():
    rng = np.random.default_rng(0)
    regions = rng.integers(0, 4, (1, 12, 12)).astype(np.uint8)
    view = draw_views(rng, replace(NO_AUGMENTATION, rotation_deg=20.0), 1, 12, 6.0, 24)
    found = warp_regions(regions, view, 24)[0]
    inverse = np.linalg.inv(view.matrix[0])
    v, u = np.mgrid[:24, :24]
    place = (np.stack((u, v), -1) - view.offset[0]) @ inverse.T
    low = np.floor(place).astype(int)
    frac = place - low
    votes = np.zeros((24, 24, 4))
    for dv in (0, 1):
        for du in (0, 1):
            weight = np.abs(1 - du - frac[..., 0]) * np.abs(1 - dv - frac[..., 1])
            ids = regions[0, np.clip(low[..., 1] + dv, 0, 11), np.clip(low[..., 0] + du, 0, 11)]
            np.add.at(votes, (v, u, ids), weight)
    best = np.sort(votes, -1)
    clear = best[..., -1] - best[..., -2] > 1e-3
    assert clear.mean() > 0.9 and np.array_equal(found[clear], votes.argmax(-1)[clear])


def test_glasses_are_told_where_they_have_half_of_the_weight_whatever_the_class():
    rng = np.random.default_rng(1)
    regions = rng.integers(0, 3, (1, 12, 12)).astype(np.uint8)
    worn = rng.random((1, 12, 12)) < 0.5
    view = draw_views(rng, replace(NO_AUGMENTATION, rotation_deg=20.0), 1, 12, 6.0, 24)
    found = warp_regions(regions + GLASSES * worn.astype(np.uint8), view, 24)
    classes, told = split_glasses(found)
    assert np.array_equal(classes, warp_regions(regions, view, 24))
    share = warp_regions(worn.astype(np.uint8), view, 24)  # of two classes the heavier wins
    assert 0.3 < told.mean() < 0.7 and (told == (share == 1)).mean() > 0.99
    outside = np.full((1, 12, 12), IGNORE, np.uint8)
    assert (warp_regions(outside, view, 24) == IGNORE).all()


def test_occluders_are_background_and_nothing_else_changes():
    crops = np.full((30, SIZE, SIZE, 3), 100, np.float32)
    maps = np.full((30, SIZE, SIZE), SKIN, np.uint8)
    before = crops.copy()
    occlude(np.random.default_rng(0), 1.0, crops, maps)
    hidden = maps == BACKGROUND
    share = hidden.mean((1, 2))
    assert (share > 0).mean() > 0.8 and share.max() < 0.9
    assert np.array_equal(crops[~hidden], before[~hidden])
    assert np.abs(crops[hidden] - 100).mean() > 5
    occlude(np.random.default_rng(0), 0.0, before, maps)
    assert (before == 100).all()


@pytest.mark.parametrize("fault", [lower_resolution, compress])
def test_camera_faults_keep_the_mean_and_remove_detail(fault):
    rng = np.random.default_rng(0)
    scale = 255 if fault is lower_resolution else 1
    crops = rng.random((6, SIZE, SIZE, 3)).astype(np.float32) * scale
    before = crops.copy()
    fault(rng, 0.0, crops)
    assert np.array_equal(crops, before)
    fault(rng, 1.0, crops)
    assert np.abs(crops.mean((1, 2)) - before.mean((1, 2))).max() < 0.03 * scale
    assert (crops.std((1, 2)) < before.std((1, 2))).all()
