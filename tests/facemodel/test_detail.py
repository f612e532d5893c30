"""Displacement detail: tied to expressions, age and person, in range, off lips and lids."""

import numpy as np
import pytest
import torch

from lifemask.facemodel import load_face_model
from lifemask.facemodel.detail import DetailConfig, create_detail, displace, value_noise
from lifemask.graphics.mesh import boundary_edges, vertex_normals

SMOOTH = DetailConfig(grain_mm=0.0, skin_mm=0.0)


@pytest.fixture(scope="module")
def detail():
    return create_detail(load_face_model("lifemask"), SMOOTH, size=384)


def activations(detail, **values):
    return np.array([values.get(n, 0.0) for n in detail.model.expression_names], np.float32)


def near(detail, landmark_mm, radius):
    """Mask of the map's texels within a radius of a point on the mean head."""
    mask = np.zeros((detail.atlas.size,) * 2, bool)
    close = np.linalg.norm(detail.points_mm - landmark_mm, axis=1) < radius
    mask[detail.atlas.rows.numpy(), detail.atlas.columns.numpy()] = close
    return mask


@pytest.mark.parametrize(
    ("expression", "landmarks"),
    [
        ({"browInnerUp": 1.0}, (19, 24, 42.0)),
        ({"eyeSquintLeft": 1.0}, (45, 46, 26.0)),
        ({"mouthSmileRight": 1.0}, (31, 48, 26.0)),
        ({"mouthPucker": 1.0}, (51, 57, 30.0)),
        ({"mouthShrugLower": 1.0}, (8, 57, 30.0)),
    ],
)
def test_wrinkles_lie_where_the_expression_folds_the_skin(detail, expression, landmarks):
    a, b, radius = landmarks
    mean = detail.model(torch.zeros(80), torch.zeros(52))
    lm = detail.model.landmarks(mean, "ict68").numpy()
    change = np.abs(
        detail.displacement_mm(activations(detail, **expression), 0.3, 1)
        - detail.displacement_mm(activations(detail), 0.3, 1)
    )
    inside = near(detail, lm[a], radius) | near(detail, lm[b], radius)
    assert change.max() > 0.15
    assert change[inside].sum() > 0.6 * change.sum()


def test_depth_grows_with_activation_and_age_within_the_stated_range(detail):
    smile = [
        np.abs(
            detail.displacement_mm(
                activations(detail, mouthSmileLeft=b, mouthSmileRight=b), age, person=4
            )
        ).max()
        for b, age in ((0.0, 0.0), (0.5, 0.3), (1.0, 0.3), (1.0, 1.0))
    ]
    assert smile == sorted(smile) and smile[0] < 1e-6
    assert 0.2 < smile[2] < 1.3 and smile[3] < 2.0


def test_switches_remove_their_part():
    model = load_face_model("lifemask")
    none = DetailConfig(wrinkle_mm=0, fold_mm=0, grain_mm=0, skin_mm=0)
    for config, quiet in ((none, True), (DetailConfig(0, 0, 0.1, 0), False)):
        made = create_detail(model, config, size=192)
        height = made.displacement_mm(activations(made, browInnerUp=1.0, mouthPucker=1.0), 0.8)
        assert (np.abs(height).max() < 1e-9) == quiet
    assert np.abs(height).max() <= 0.2


def test_a_person_keeps_their_wrinkles_and_others_have_their_own(detail):
    b = activations(detail, browInnerUp=1.0, mouthSmileLeft=0.7)
    first, again = (detail.displacement_mm(b, 0.5, 7) for _ in range(2))
    assert np.array_equal(first, again)
    other = detail.displacement_mm(b, 0.5, 8)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] < 0.9


def test_lips_lids_and_everything_off_the_face_stay_smooth(detail):
    height = detail.displacement_mm(np.ones(52, np.float32), 1.0)
    fine = displace(detail, detail.model.mean, height, times=1)
    flat = displace(detail, detail.model.mean, 0 * height, times=1)
    moved = (fine.vertices - flat.vertices).norm(dim=1)[: len(detail.model.mean)]
    regions = detail.model.topology.regions
    for name in ("lips", "eyeballs", "teeth", "scalp"):
        # a texel of this small map is 2 mm wide, so its samples reach over the border
        assert moved[regions[name]].max() < 0.2 and moved[regions[name]].mean() < 0.01, name
    assert moved[regions["forehead"]].max() > 0.05


def test_displacement_moves_along_the_normal_by_the_map(detail):
    mean = detail.model.mean
    constant = np.full((384, 384), 0.5, np.float32)
    fine, flat = (displace(detail, mean, k * constant, times=1) for k in (1, 0))
    offset = fine.vertices - flat.vertices
    normals = vertex_normals(flat.vertices, flat.faces)
    skin = detail.model.topology.face_part[flat.parent] == 0
    on_skin = torch.zeros(len(offset), dtype=torch.bool)
    on_skin[flat.faces[skin].long().ravel()] = True
    torch.testing.assert_close(offset[on_skin], 0.5 * normals[on_skin], atol=1e-3, rtol=0)
    assert offset[~on_skin].abs().max() == 0
    before = len(boundary_edges(detail.model.topology.faces))
    assert len(boundary_edges(fine.faces)) == 2 * before  # no new holes


def test_normals_tilt_down_a_slope(detail):
    """A ramp of 0.1 mm per mm to the right on the face tilts normals to the left by 0.1."""
    rows, columns = detail.atlas.rows.numpy(), detail.atlas.columns.numpy()
    height = np.zeros((384, 384), np.float32)
    step = np.median(detail.texel_mm[:, 0])
    height[:] = 0.1 * step * np.arange(384)[None]
    normal = detail.normal_map(height)[rows, columns]
    typical = np.abs(detail.texel_mm[:, 0] / step - 1) < 0.05
    np.testing.assert_allclose(normal[typical, 0] / normal[typical, 2], -0.1, rtol=0.06)
    np.testing.assert_allclose(normal[:, 1], 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)


def test_dark_skin_structure_becomes_deep(detail):
    made = create_detail(detail.model, DetailConfig(0, 0, 0, skin_mm=0.2), size=192)
    luminance = np.full((192, 192), 0.4)
    luminance[::8] = 0.1
    height = made.displacement_mm(activations(made), 0.0, luminance=luminance)
    rows = made.atlas.rows.numpy() % 8 == 0
    values = height[made.atlas.rows.numpy(), made.atlas.columns.numpy()]
    open_skin = made.fade > 0.9
    assert values[rows & open_skin].max() < 0 < values[~rows & open_skin].mean()
    assert np.abs(values).max() <= 0.2


def test_noise_is_smooth_bounded_and_seeded():
    points = np.random.default_rng(0).uniform(-50, 50, (4000, 3))
    a = value_noise(points, 3)
    assert a.min() >= 0 and a.max() <= 1 and 0.1 < a.std() < 0.3
    assert np.array_equal(a, value_noise(points, 3))
    assert np.abs(value_noise(points + 1e-4, 3) - a).max() < 1e-3
    assert abs(np.corrcoef(a, value_noise(points, 4))[0, 1]) < 0.1


def test_bad_input_is_refused(detail):
    with pytest.raises(ValueError, match="age"):
        detail.displacement_mm(activations(detail), 1.5)
    with pytest.raises(ValueError, match="activations"):
        detail.displacement_mm(np.zeros(3, np.float32))
