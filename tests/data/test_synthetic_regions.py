"""Region maps of the generator: brows lie where the skin shows them; cells refine texels."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.small_generator import small_generator
from lifemask.data._synthetic_facial_hair import drawn_brows, seen_brows
from lifemask.data._synthetic_regions import BROWS, FINER, LIPS, NOSE, SKIN, texel_regions
from lifemask.data._synthetic_render import render_scene
from lifemask.data._synthetic_skins import vary_skin
from lifemask.data.torch_engine import TorchEngine
from lifemask.facemodel import load_face_model


@pytest.fixture(scope="module")
def generator():
    return small_generator(load_face_model("lifemask"))


def overlap(one, other):
    return (one & other).sum() / max((one | other).sum(), 1)


@pytest.mark.parametrize("contrast", [-0.8, 0.6])
def test_a_brow_is_found_where_it_stands_out(generator, contrast):
    """Dark or light, above its usual place, on skin with a gradient and noise."""
    masks, rng = generator.masks, np.random.default_rng(0)
    there = drawn_brows(masks, 2.5, 3.0)
    plain = -1 + 0.002 * np.arange(masks.left.shape[1]) + rng.normal(0, 0.02, masks.left.shape)
    log = np.repeat((plain + contrast * there)[..., None], 3, 2).astype(np.float32)
    found, usual = seen_brows(log, masks) > 0.5, drawn_brows(masks, 3.3, 0.5) > 0.5
    assert overlap(found, there > 0.5) > 0.6
    assert overlap(found, there > 0.5) > 1.5 * overlap(usual, there > 0.5)


def test_without_contrast_a_brow_is_at_its_usual_place(generator):
    masks = generator.masks
    log = np.full((*masks.left.shape, 3), -1.0, np.float32)
    assert np.array_equal(seen_brows(log, masks), drawn_brows(masks, 3.3, 0.5))
    one = masks.left & (drawn_brows(masks, 2.5, 3.0) > 0.5)
    found = seen_brows(log - 0.8 * one[..., None], masks) > 0.5
    usual = drawn_brows(masks, 3.3, 0.5) > 0.5
    assert np.array_equal(found & ~masks.left, usual & ~masks.left), "each side for itself"
    assert overlap(found & masks.left, one) > 0.6


def test_a_skins_brows_are_what_was_drawn(generator):
    """On skins of one colour, texels called brow are darker than those around, and few others."""
    skins = np.full((1, *generator.rig.texture_shape, 3), 0.8, np.float32)
    darker, places = [], []
    for seed in range(12):
        skin = vary_skin(skins, generator.masks, np.random.default_rng(seed), 0.2)
        brow = skin.marks[0] > 127
        around = (generator.masks.brow_away < 9) & (generator.masks.brow_across > 6)
        luminance = skin.srgb.astype(float).mean(-1)
        darker.append(luminance[brow].mean() < luminance[around].mean() - 2)
        places.append(brow)
    assert np.mean(darker) > 0.9
    assert min(brow.sum() for brow in places) > 20
    assert np.mean([overlap(a, b) for a, b in zip(places, places[1:], strict=False)]) < 0.8


def test_the_map_shows_the_skins_marks_on_skin_alone(generator):
    frontal = next(
        pair for pair in generator.scenes(range(40)) if pair[0].view.rotation[2, 2] > 0.9
    )
    scene, banks = frontal

    def regions(brows, lips):
        marks = np.empty_like(banks.marks)
        marks[:, 0], marks[:, 1] = brows, lips
        changed = replace(banks, marks=marks)
        picture = render_scene(generator, changed, scene)[0].region
        twin = TorchEngine(generator).render([scene], [changed]).region[0].numpy()
        assert (picture != twin).mean() < 0.005
        return picture

    bare, all_brow, all_lip = regions(0, 0), regions(255, 0), regions(0, 255)
    assert not (bare == BROWS).any() and (bare == SKIN).any() and (bare == LIPS).any()
    assert np.array_equal(all_brow == BROWS, bare == SKIN)
    assert np.array_equal(all_brow[bare != SKIN], bare[bare != SKIN])
    assert ((all_lip == LIPS) >= ((bare == SKIN) | (bare == LIPS))).all()
    assert (all_lip == LIPS).sum() < 1.01 * ((bare == SKIN) | (bare == LIPS)).sum(), "joint votes"
    assert np.array_equal(regions(255, 255), all_lip)


def test_the_nose_is_one_round_piece_with_its_nostrils(generator):
    from scipy.ndimage import binary_fill_holes, binary_opening, label

    nose = generator.texel_region == NOSE
    assert label(nose)[1] == 1
    assert np.array_equal(binary_fill_holes(nose), nose)
    disc = np.hypot(*np.mgrid[-6:7, -6:7]) <= 6
    assert binary_opening(nose, disc).sum() > 0.99 * nose.sum(), "no teeth along triangles"


def test_cells_of_the_class_map_refine_the_texels(generator):
    rows, columns = generator.rig.texture_shape
    fine = generator.texel_region
    assert fine.shape == (FINER * rows, FINER * columns)
    assert np.array_equal(fine, texel_regions(generator.rig, generator.masks))
    for region in (NOSE, LIPS):
        cells = (fine == region).reshape(rows, FINER, columns, FINER).mean((1, 3))
        border = (cells > 0) & (cells < 1)
        assert border.any() and 4 * border.sum() < 6 * (cells == 1).sum(), "a thin border"
