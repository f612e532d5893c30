"""Region errors, normals and alignment against hand-made changes, for both kinds of topology."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.scan_shapes import lopsided_head, rotation, sphere

pytest.importorskip("igl")
pytest.importorskip("scipy")

from lifemask.evaluation._shape_errors import (  # noqa: E402
    TrueShape,
    align,
    angles_deg,
    detail_of,
    face_base,
    normal_angle_deg,
    region_errors,
)
from lifemask.evaluation.surface import Similarity  # noqa: E402

VERTICES, FACES = lopsided_head(24)
FRONT = VERTICES[:, 2] > 20
NOSE = np.linalg.norm(VERTICES - [0, 0, 100], axis=1) < 25
rng = np.random.default_rng(1)
LANDMARKS = VERTICES[rng.choice(np.flatnonzero(FRONT), 68)]
TRUTH = TrueShape(
    VERTICES, FACES, np.ones(len(FACES), bool), {"face": FRONT, "nose": NOSE}, LANDMARKS
)
MOTION = Similarity(1.1, rotation([10, 25, -5]), np.array([3.0, 5.0, 400.0]))
ORDER = rng.permutation(len(VERTICES))
FOREIGN = (VERTICES[ORDER], np.argsort(ORDER)[FACES])


@pytest.mark.parametrize("foreign", [False, True])
def test_a_moved_copy_has_no_error(foreign):
    vertices, faces = FOREIGN if foreign else (VERTICES, FACES)
    mesh = (MOTION.apply(vertices), faces)
    found = align(TRUTH, mesh, MOTION.apply(LANDMARKS), "similarity")
    assert found is not None and found.same != foreign
    assert max(region_errors(TRUTH, found).values()) < 1e-6
    assert normal_angle_deg(TRUTH, found) < 1e-3
    detail = detail_of(TRUTH, *face_base(TRUTH), found)
    assert detail.r == pytest.approx(1.0, abs=1e-6)
    assert detail.energy_ratio == pytest.approx(1.0, abs=1e-5)


def test_rigid_alignment_sees_the_size():
    found = align(TRUTH, (1.1 * VERTICES, FACES), None, "rigid")
    errors = region_errors(TRUTH, found)
    offset = 0.1 * (VERTICES[FRONT] - VERTICES[FRONT].mean(axis=0))
    assert errors["face", "vertex"] == pytest.approx(
        np.linalg.norm(offset, axis=1).mean(), rel=0.02
    )
    assert errors["face", "surface"] < errors["face", "vertex"]


def test_a_swollen_nose_is_charged_to_the_nose():
    swollen = VERTICES + 2.0 * NOSE[:, None] * np.array([0.0, 0.0, 1.0])
    errors = region_errors(TRUTH, align(TRUTH, (swollen, FACES), None, "rigid"))
    assert errors["nose", "vertex"] > 4 * errors["face", "vertex"]
    assert 1.0 < errors["nose", "vertex"] < 2.0


def test_a_mirrored_mesh_is_caught():
    mirror = np.array([-1.0, 1.0, 1.0])
    for mesh in ((VERTICES * mirror, FACES), (FOREIGN[0] * mirror, FOREIGN[1][:, ::-1])):
        errors = region_errors(TRUTH, align(TRUTH, mesh, LANDMARKS * mirror, "similarity"))
        assert errors["face", "surface"] > 0.5


def test_another_topology_needs_landmarks():
    assert align(TRUTH, FOREIGN, None, "rigid") is None


def test_angles_between_normals():
    turned = np.array([[0.0, np.sin(np.radians(7)), np.cos(np.radians(7))]])
    assert angles_deg(np.array([[0.0, 0.0, 1.0]]), turned)[0] == pytest.approx(7.0)
    assert angles_deg(turned, -turned)[0] == pytest.approx(180.0)


def test_normals_of_a_sphere_against_a_stretched_one():
    vertices, faces = sphere(50.0, 40)
    truth = TrueShape(
        vertices, faces, np.ones(len(faces), bool), {"face": np.ones(len(vertices), bool)},
        vertices[:68],
    )  # fmt: skip
    stretched = vertices * np.array([1.2, 1.0, 1.0])
    found = align(truth, (stretched, faces), None, "similarity")
    assert found is not None
    n = vertices / 50.0
    m = n / np.array([1.2, 1.0, 1.0])
    m /= np.linalg.norm(m, axis=1, keepdims=True)
    assert normal_angle_deg(truth, found) == pytest.approx(angles_deg(n, m).mean(), rel=0.03)
