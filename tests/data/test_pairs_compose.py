"""Which pixels a swapped head takes, and that the rest of the photo stays as it was."""

import numpy as np
import pytest
import torch

from helpers.pair_solids import ball_photo
from lifemask.data._pairs_compose import choose_layers, compose, occluders, own_face
from lifemask.data._pairs_fit import BACKGROUND, HAIR, NECK, Fitted, residual_nme
from lifemask.data._pairs_light import fit_light, positive_light
from lifemask.data._pairs_render import Shot
from lifemask.data._synthetic_regions import SCALP, SKIN
from lifemask.graphics.lighting import linear_to_srgb, shading
from lifemask.types import Landmarks

SIZE = 64
Y, X = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2


def disc(radius: float, x: float = 0, y: float = 0):
    return (X - x) ** 2 + (Y - y) ** 2 < radius**2


def photo(**given) -> Fitted:
    return Fitted(**ball_photo(SIZE, **given))


def shot(face, neck=None, region=SKIN) -> Shot:
    """A head of even grey: its face, and a neck or skull beside it."""
    classes = np.where(face, np.uint8(region), np.uint8(BACKGROUND))
    if neck is not None:
        classes = np.where(neck & ~face, np.uint8(NECK), classes)
    cover = (classes != BACKGROUND).astype(np.float32)
    return Shot(classes, cover, 0.2 * cover[..., None] * np.ones(3, np.float32))


def test_a_larger_face_covers_background_and_a_smaller_one_leaves_a_gap():
    fitted = photo()
    old = disc(0.6 * SIZE / 2)
    larger = choose_layers(fitted, shot(disc(25)), SKIN)
    assert np.array_equal(larger.swapped, disc(25)) and not larger.gap.any()
    assert (larger.region[disc(25)] == SKIN).all()
    smaller = choose_layers(fitted, shot(disc(12)), SKIN)
    assert np.array_equal(smaller.swapped, disc(12))
    assert (smaller.gap >= (old & ~disc(12))).all() and smaller.gap.sum() < 1.3 * old.sum()
    assert (smaller.region[smaller.gap] == BACKGROUND).all()


def test_where_the_new_face_ends_the_old_face_becomes_its_neck_and_skull():
    fitted, old = photo(), disc(0.6 * SIZE / 2)
    layers = choose_layers(fitted, shot(disc(12), neck=disc(30)), SKIN)
    assert np.array_equal(layers.swapped, old), "the neck itself goes over nothing else"
    assert (layers.region[old & ~disc(12)] == NECK).all() and not layers.gap.any()
    bald = choose_layers(fitted, shot(disc(30), region=SCALP), SKIN)
    assert np.array_equal(bald.swapped, old) and (bald.region[old] == SKIN).all()
    cropped = choose_layers(fitted, shot(disc(30), region=SCALP), HAIR)
    assert (cropped.region[old] == HAIR).all()


def test_hair_and_hands_stay_in_front():
    region = ball_photo(SIZE)["region"].copy()
    region[:20] = HAIR
    region[34:44, 26:64] = BACKGROUND  # a hand that reaches in from the right
    fitted = photo(region=region)
    layers = choose_layers(fitted, shot(disc(25)), SKIN)
    assert not layers.swapped[:20].any()
    hand = (region == BACKGROUND) & disc(19)
    assert not layers.swapped[hand].any() and occluders(fitted)[hand].all()
    assert layers.swapped[disc(25) & (Y > 14)].all(), "the background beside the old face does not"
    assert (layers.region[~layers.swapped & ~layers.gap] ==
            region[~layers.swapped & ~layers.gap]).all()  # fmt: skip


def test_other_faces_of_the_photo_are_left_alone():
    region = ball_photo(SIZE)["region"].copy()
    region[:8, :8] = SKIN
    fitted = photo(region=region)
    assert not own_face(fitted)[:8, :8].any() and own_face(fitted)[32, 32]
    assert not choose_layers(fitted, shot(disc(25)), SKIN).swapped[:8, :8].any()


@pytest.mark.parametrize("blend", ["poisson", "paste"])
def test_the_rest_of_the_photo_keeps_its_bytes(blend):
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    fitted = photo(image=image)
    new = shot(disc(14), neck=disc(17))
    layers = choose_layers(fitted, new, SKIN)
    out = compose(fitted, new, layers, blend)
    changed = layers.swapped | layers.gap
    assert np.array_equal(out[~changed], image[~changed]) and out.dtype == np.uint8
    assert (out[changed] != image[changed]).any(-1).mean() > 0.9


def test_a_gap_takes_the_background_and_not_the_head():
    image = np.full((SIZE, SIZE, 3), 30, np.uint8)
    image[disc(19)] = (200, 150, 120)
    fitted, new = photo(image=image), shot(disc(10))
    layers = choose_layers(fitted, new, SKIN)
    out = compose(fitted, new, layers, "poisson")
    assert layers.gap[disc(19) & ~disc(10)].all() and np.abs(out[layers.gap] - 30.0).max() <= 1


def test_light_of_a_ball_is_found():
    sh = np.zeros((9, 3), np.float32)
    sh[0], sh[1], sh[3] = 2.6, 0.5, -0.8  # from above and the left
    facts = ball_photo(SIZE)
    normals = torch.from_numpy(facts["maps"].normals)
    shade = shading(normals, torch.from_numpy(sh)).clamp(min=0)
    tone = torch.tensor([0.35, 0.22, 0.16])
    image = (linear_to_srgb(shade * tone).clamp(0, 1) * 255).round().byte().numpy()
    tones = np.log(np.array([[0.5, 0.35, 0.28], [0.35, 0.22, 0.16], [0.12, 0.07, 0.05]]))
    found = fit_light(photo(image=image), tones.astype(np.float32))
    there = torch.from_numpy(facts["maps"].face) & (normals[..., 2] > 0.3)
    shown = shading(normals, torch.from_numpy(found.light.sh))[there].mean(1).numpy()
    true = shade[there].mean(1).numpy()
    assert np.corrcoef(shown, true)[0, 1] > 0.98
    product = (shown * found.tone.mean()) / (true * float(tone.mean()))
    assert 0.85 < np.median(product) < 1.15
    assert not found.light.key_colour.any()


def test_a_photo_without_skin_gets_even_light():
    dark = photo(region=np.full((SIZE, SIZE), HAIR, np.uint8))
    sh = fit_light(dark, np.log(np.full((3, 3), 0.3, np.float32))).light.sh
    assert (sh[0] > 0).all() and np.abs(sh[1:]).max() < 1e-6


def test_light_stays_positive_and_even_light_is_kept():
    hard = np.zeros((9, 3), np.float32)
    hard[0], hard[2], hard[6] = 1.0, 3.0, 2.0
    directions = torch.nn.functional.normalize(
        torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    safe = positive_light(hard, darkest=0.1)
    shade = shading(directions, torch.from_numpy(safe)).numpy()
    assert shade.min() > 0.08 * shade.mean() and np.allclose(safe[0], hard[0])
    mild = np.zeros((9, 3), np.float32)
    mild[0], mild[1] = 3.0, 0.3
    assert np.allclose(positive_light(mild), mild)


def test_photos_are_turned_away_for_a_reason():
    limits = (4.0, 75.0, 0.6)
    assert photo().rejected(*limits) is None
    assert photo(residual=4.1).rejected(*limits) == "residual"
    assert photo(residual=float("nan")).rejected(*limits) == "residual"
    assert photo(yaw_deg=-76.0).rejected(*limits) == "yaw"
    assert photo(cover=0.59).rejected(*limits) == "cover"


def test_the_residual_is_the_nme_of_the_landmarks_box():
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(0, 100, (68, 3))).float()
    points[0, :2], points[1, :2] = torch.tensor([0.0, 0.0]), torch.tensor([100.0, 400.0])
    given = Landmarks(points, torch.ones(68), "ibug68-3d-bfm")
    moved = points + torch.tensor([3.0, 4.0, 50.0])
    box = 100 * (points[:, 1].max() - points[:, 1].min())
    assert residual_nme(moved, given) == pytest.approx(100 * 5 / float(box) ** 0.5, rel=1e-3)
