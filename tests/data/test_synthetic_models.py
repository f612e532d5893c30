"""The generator with other face models: an egg without eyes, teeth or UVs, and ICT-FaceKit."""

import numpy as np
import pytest
import torch

from helpers.small_generator import egg_model, small_generator
from lifemask.assets import UserError
from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_parts import (
    NOT_DRAWN,
    borrow_texels,
    part_materials,
    sphere_corners,
)
from lifemask.data._synthetic_rig import (
    BORROWED,
    _borrowed_vertices,
    choose_sets,
    create_rig,
)
from lifemask.data._synthetic_sample import random_face
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import project


@pytest.fixture(scope="module")
def egg():
    return small_generator(egg_model(), camera="both", size=48)


def test_any_linear_model_is_rendered_and_labelled(egg):
    samples = egg.render(range(6), "maps", ["ibug68", "aflw21", "vertices"])
    model = egg.rig.model
    for s in samples:
        assert s.identity.shape == (3,) and s.expression.shape == (4,)
        assert s.points.shape == (68, 3) and s.image.std() > 3
        vertices = model(torch.from_numpy(s.identity), torch.from_numpy(s.expression))
        expected = project(model.landmarks(vertices, "ibug68"), s.camera).numpy()
        assert np.abs(s.points - expected).max() < 0.01
        assert s.landmarks["aflw21"].image_px.shape == (21, 3)
        assert s.landmarks["vertices"].image_px.shape == (48 * 64, 3)
        assert s.maps is not None and s.maps.model.any()
        assert np.isnan(s.maps.uv).all(), "the egg has no texture coordinates"
        assert not np.isin(s.maps.material, (kernels.EYE, kernels.TEETH)).any()
    assert np.concatenate([s.visible for s in samples]).any()


def test_regions_are_guessed_from_landmarks(egg):
    assert set(np.unique(egg.texel_region)) >= {0, 1, 2, 4}, "nose, lips, eyes, skin"
    assert (egg.banks(0).marks[:, 0] > 127).any((1, 2)).all()
    frontal = [s for s in egg.render(range(12)) if abs(s.view.rotation[0, 2]) < 0.6]
    assert frontal
    assert np.mean([(s.region == 4).mean() for s in frontal]) > 0.1


def test_a_model_without_68_landmarks_is_refused():
    with pytest.raises(UserError, match="landmark sets ict68.*egg has: elbows"):
        create_rig(egg_model(landmark_set="elbows"))


@pytest.mark.parametrize("partial", ["sfm50", "bfm15"])
def test_missing_landmarks_are_borrowed_from_the_default_head(partial):
    whole, part = egg_model(landmark_set="ict68"), egg_model(landmark_set=partial)
    assert choose_sets(part) == (partial, BORROWED, BORROWED)
    wanted = whole.landmarks(whole.mean, "ict68").numpy()
    found = part.mean.numpy()[_borrowed_vertices(part, part.mean, partial)]
    away = np.linalg.norm(found - wanted, axis=1)
    assert np.median(away[17:]) < 8 and np.median(away[:17]) < 30, "mm; the jaw is a guess"


def test_the_best_landmark_sets_are_chosen():
    assert choose_sets(load_face_model("lifemask")) == ("lifemask392", "ibug68-3d-bfm", "ict68")
    assert choose_sets(egg_model()) == ("ibug68", "ibug68", "ibug68")


def test_names_of_parts_say_what_they_are_made_of():
    names = ("M_Face", "M_EyeLashes", "M_IrisLeft", "M_ScleraLeft", "M_GumsTongue", "M_Teeth")
    wanted = [kernels.SKIN, NOT_DRAWN, NOT_DRAWN, kernels.EYE, kernels.MOUTH, kernels.TEETH]
    assert part_materials(names).tolist() == wanted
    assert part_materials(("skin", "eyes")).tolist() == [kernels.SKIN, kernels.EYE]
    assert part_materials(("head",)).tolist() == [kernels.SKIN]


def test_the_sphere_keeps_triangles_whole(egg):
    rig = egg.rig
    corners = sphere_corners(rig.mean_mm, rig.faces, rig.landmarks68_mm)
    assert corners.min() >= 0 and corners[..., 1].max() <= 1
    assert np.quantile(np.ptp(corners[..., 0], axis=1), 0.9) < 0.06, "none spans the texture"
    assert np.isfinite(rig.texel_mm[..., 0]).mean() > 0.9


def test_borrowed_colours_come_from_the_same_place_of_the_face():
    default = small_generator(load_face_model("lifemask")).rig
    rig = create_rig(egg_model(landmark_set="ict68"))
    borrowed = borrow_texels(rig, default)
    rows, columns = default.texture_shape
    height = np.nan_to_num(default.texel_mm[..., 1:2])
    lent = borrowed.dress(np.repeat(height, 3, -1)[None])[0, ..., 0]
    assert lent.shape == rig.texture_shape and borrowed.row.max() < rows
    assert borrowed.column.max() < columns
    near = np.isfinite(rig.texel_mm[..., 2]) & (rig.texel_mm[..., 2] > 60)
    gap = np.abs(lent[near] - rig.texel_mm[near][:, 1])
    assert np.median(gap) < 8, "mm of height between a texel and the one it borrows from"


def test_signed_expressions_are_normal_within_their_range():
    ranges = tuple([(-3.0, 3.0)] * 5 + [(0.0, 0.5)])
    rng = np.random.default_rng(0)
    names = ("e0", "e1", "e2", "e3", "e4", "jaw")
    draws = np.stack([random_face(names, rng, ranges).expression for _ in range(800)])
    assert np.abs(draws[:, :5]).max() <= 3 and 0.4 < draws[:, :5].std() < 1.0
    assert abs(draws[:, :5].mean()) < 0.1
    assert draws[:, 5].min() >= 0 and 0.2 < draws[:, 5].max() <= 0.5


@pytest.mark.slow
def test_ict_facekit_is_rendered(shared_data):
    path = shared_data / "ict" / "ict.npz"
    if not path.is_file():
        pytest.skip("ICT-FaceKit is absent")
    generator = small_generator(load_face_model("ict", path), size=64)
    rig = generator.rig
    drawn = np.bincount(rig.face_material, minlength=13)
    assert drawn[[kernels.SKIN, kernels.EYE, kernels.TEETH, kernels.MOUTH]].min() > 500
    assert all(len(eye.vertices) > 300 for eye in rig.eyes)
    samples = generator.render(range(8), "maps")
    assert np.mean([np.isfinite(s.maps.uv[..., 0]).mean() for s in samples if s.maps]) > 0.05
    assert samples[0].points.shape == (68, 3)
