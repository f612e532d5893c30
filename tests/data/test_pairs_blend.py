"""Membranes, Poisson blending and colour statistics against dense twins and known cases."""

import numpy as np
import pytest

from lifemask.data._pairs_blend import harmonic_fill, match_lab, membrane, poisson_blend
from lifemask.data._pairs_masks import from_nearest, grown, parts_of, shrunk


@pytest.fixture
def blob():
    """A ragged mask of two parts that keeps away from the picture's edge."""
    rng = np.random.default_rng(0)
    mask = np.zeros((17, 15), bool)
    mask[3:11, 2:9] = rng.random((8, 7)) < 0.8
    mask[13:15, 11:13] = True
    return mask


def perez(base, over, inside):
    """Equation 7 of Perez et al. 2003, as a dense system over the pixels inside."""
    place = {tuple(p): k for k, p in enumerate(np.argwhere(inside))}
    matrix, right = np.zeros((len(place),) * 2), np.zeros((len(place), base.shape[-1]))
    for (y, x), k in place.items():
        for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            matrix[k, k] += 1
            right[k] += over[y, x] - over[b, a]
            if (b, a) in place:
                matrix[k, place[b, a]] -= 1
            else:
                right[k] += base[b, a]
    out = base.copy()
    out[inside] = np.linalg.solve(matrix, right)
    return out


def test_blending_is_poissons_equation(blob):
    rng = np.random.default_rng(1)
    base, over = rng.random((2, *blob.shape, 3))
    out = poisson_blend(base, over, blob, np.ones_like(blob))
    assert np.allclose(out, perez(base, over, blob), atol=1e-10)
    assert np.array_equal(out[~blob], base[~blob]), "the border stays, to the bit"
    y, x = np.argwhere(blob & shrunk(blob, 1))[0]
    lap = [f[y - 1, x] + f[y + 1, x] + f[y, x - 1] + f[y, x + 1] - 4 * f[y, x] for f in (out, over)]
    assert np.allclose(*lap, atol=1e-10)


def test_a_constant_difference_goes_away(blob):
    over = np.random.default_rng(2).random((*blob.shape, 3))
    out = poisson_blend(over + 0.3, over, blob, np.ones_like(blob))
    assert np.allclose(out, over + 0.3)


def test_borders_that_are_not_held_do_not_bleed():
    """Black hair to the right of a face: held to the left alone, the face keeps its colour."""
    face = np.zeros((9, 12), bool)
    face[2:7, 2:9] = True
    base, over = np.full((9, 12, 3), 0.5), np.full((9, 12, 3), 0.5)
    base[:, 9:] = 0
    everywhere = poisson_blend(base, over, face, np.ones_like(face))
    left = np.zeros_like(face)
    left[:, :2] = True
    mixed = poisson_blend(base, over, face, left)
    assert everywhere[4, 8, 0] < 0.4 and np.allclose(mixed[face], 0.5)


def test_pull_solves_the_screened_equation(blob):
    values = np.random.default_rng(3).random((*blob.shape, 2))
    pull = 0.3
    e = membrane(blob, values, np.ones_like(blob), pull)
    whole = np.where(blob[..., None], e, values)
    for y, x in np.argwhere(blob):
        around = whole[y - 1, x] + whole[y + 1, x] + whole[y, x - 1] + whole[y, x + 1]
        assert np.allclose(around - 4 * e[y, x], pull * e[y, x], atol=1e-10)


def test_reach_limits_what_the_border_does(blob):
    base, over = np.ones((*blob.shape, 3)), np.zeros((*blob.shape, 3))
    out = poisson_blend(base, over, blob, np.ones_like(blob), reach=0.2)
    assert np.allclose(out[blob], 0.2) and np.allclose(out[~blob], 1)


def test_a_filled_hole_is_the_mean_of_its_surroundings():
    rng = np.random.default_rng(4)
    image = rng.random((9, 9, 3))
    hole = np.zeros((9, 9), bool)
    hole[4, 4] = True
    out = harmonic_fill(image, hole, ~hole)
    around = image[3, 4] + image[5, 4] + image[4, 3] + image[4, 5]
    assert np.allclose(out[4, 4], around / 4) and np.array_equal(out[~hole], image[~hole])


def test_harmonic_functions_are_filled_exactly():
    y, x = np.mgrid[:16, :16].astype(float)
    image = np.stack([x, x * x - y * y, x * y], -1)
    hole = np.zeros((16, 16), bool)
    hole[4:11, 5:13] = True
    scratched = np.where(hole[..., None], 99.0, image)
    assert np.allclose(harmonic_fill(scratched, hole, ~hole), image)


def test_a_hole_that_touches_nothing_known_takes_the_nearest_colour():
    image = np.zeros((8, 8, 3))
    image[:, :2] = 0.7
    hole, known = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    hole[3:5, 5:7], known[:, :2] = True, True
    assert np.allclose(harmonic_fill(image, hole, known)[hole], 0.7)


def test_nothing_to_solve():
    nothing = np.zeros((5, 5), bool)
    image = np.random.default_rng(5).random((5, 5, 3))
    assert not membrane(nothing, image, ~nothing).any()
    assert np.array_equal(harmonic_fill(image, nothing, ~nothing), image)
    assert np.array_equal(harmonic_fill(image, ~nothing, nothing), image)


def test_matched_colours_have_the_others_middle():
    from skimage.color import rgb2lab

    rng = np.random.default_rng(6)
    image, target = rng.uniform(0.2, 0.4, (30, 30, 3)), rng.uniform(0.5, 0.75, (30, 30, 3))
    every = np.ones((30, 30), bool)
    lab, wanted = rgb2lab(match_lab(image, every, target, every)), rgb2lab(target)
    assert np.allclose(np.median(lab[every], 0), np.median(wanted[every], 0), atol=0.5)
    few = np.zeros_like(every)
    few[0, :5] = True
    assert np.array_equal(match_lab(image, few, target, every), image), "too few to tell"


def test_masks_grow_shrink_and_fall_apart(blob):
    one = np.zeros((7, 7), bool)
    one[3, 3] = True
    y, x = np.mgrid[-3:4, -3:4]
    assert np.array_equal(grown(one, 2), abs(y) + abs(x) <= 2)
    assert np.array_equal(shrunk(grown(one, 2), 1), abs(y) + abs(x) <= 1)
    assert np.array_equal(grown(one, 2, within=x >= 0), (abs(y) + abs(x) <= 2) & (x >= 0))
    parts = parts_of(blob)
    assert parts.areas().sum() == blob.sum() and parts.areas()[parts.number[13, 11]] == 4
    assert parts.only(parts.areas() == 4).sum() == 4
    assert np.array_equal(from_nearest(np.arange(49).reshape(7, 7), one), np.full((7, 7), 24))
