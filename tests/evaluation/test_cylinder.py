"""The cylinder map and its scores: exact rays, closed-form distances and angles."""

import numpy as np
import pytest

from helpers.facescape_files import face, rotation, sheet
from lifemask.evaluation._cylinder import (
    HALF_HEIGHT_MM,
    SIZE,
    cylinder_map,
    cylinder_mesh,
    overlap_scores,
)
from lifemask.evaluation.surface import unit_face_normals

pytest.importorskip("igl")


def tube(radius: float, n: int = 720) -> tuple[np.ndarray, np.ndarray]:
    """A closed prism about the axis, 2 x 100 mm high, seen from outside."""
    angle = np.arange(n) * 2 * np.pi / n
    ring = np.stack([radius * np.sin(angle), np.zeros(n), radius * np.cos(angle)], 1)
    vertices = np.concatenate([ring + [0, -100, 0], ring + [0, 100, 0]])
    a, b = np.arange(n), (np.arange(n) + 1) % n
    return vertices, np.concatenate([np.stack([a, b, a + n], 1), np.stack([b, b + n, a + n], 1)])


def naive_radius(vertices, faces, row: int, column: int) -> float:
    """Farthest hit of one ray with all triangles, one 3 x 3 system each."""
    phi = column * 2 * np.pi / (SIZE - 1)
    direction = np.array([-np.sin(phi), 0, -np.cos(phi)])
    origin = np.array([0, HALF_HEIGHT_MM - row * 2 * HALF_HEIGHT_MM / (SIZE - 1), 0])
    best = 0.0
    for a, b, c in vertices[faces]:
        matrix = np.stack([direction, a - b, a - c], 1)
        if abs(np.linalg.det(matrix)) < 1e-12:
            continue
        distance, u, v = np.linalg.solve(matrix, a - origin)
        if u >= -1e-9 and v >= -1e-9 and u + v <= 1 + 1e-9 and distance > best:
            best = distance
    return best


def test_rays_agree_with_a_naive_twin():
    vertices, faces = sheet(face, n=9)
    vertices = vertices @ rotation(35, 10).T
    found = cylinder_map(vertices, faces)
    rng = np.random.default_rng(0)
    rows, columns = np.nonzero(found.mask)
    pick = rng.choice(len(rows), 60, replace=False)
    places = [*zip(rows[pick], columns[pick], strict=True), *rng.integers(0, SIZE, (60, 2))]
    for row, column in places:
        naive = naive_radius(vertices, faces, row, column)
        assert found.radius_mm[row, column] == pytest.approx(naive, abs=1e-7)


def test_radius_of_a_tube_and_no_holes():
    found = cylinder_map(*tube(90.0))
    height = HALF_HEIGHT_MM - np.arange(SIZE) * 2 * HALF_HEIGHT_MM / (SIZE - 1)
    np.testing.assert_array_equal(found.mask, np.repeat(np.abs(height)[:, None] <= 100, SIZE, 1))
    assert found.radius_mm[found.mask].min() > 90 * np.cos(np.pi / 720) - 1e-9
    assert found.radius_mm.max() <= 90 + 1e-9
    np.testing.assert_array_equal(found.radius_mm[:, 0], found.radius_mm[:, -1])


def test_the_outermost_of_two_layers_counts_in_any_order():
    inner, outer = tube(70.0), tube(90.0)
    faces = np.concatenate([outer[1] + len(inner[0]), inner[1]])
    both = cylinder_map(np.concatenate([inner[0], outer[0]]), faces)
    np.testing.assert_allclose(both.radius_mm, cylinder_map(*outer).radius_mm)


def test_concentric_tubes_are_as_far_apart_as_their_radii():
    scores = overlap_scores(cylinder_map(*tube(80.0)), cylinder_map(*tube(87.0)))
    assert scores.cd_mm == pytest.approx(7.0, abs=0.02)
    assert scores.normal_angle_deg < 0.1  # rays on an edge may choose either facet
    assert scores.completeness == 1.0


def test_cap_over_the_axis_is_hit_from_below():
    """A roof whose face contains the axis: every ray of the rows it spans can meet it."""
    vertices = np.array([[0, 120, 100.0], [87, 90, -50], [-87, 90, -50]])
    found = cylinder_map(vertices, np.array([[0, 1, 2]]))
    rows, columns = np.nonzero(found.mask)
    assert len(rows) > 500
    for k in range(0, len(rows), 97):
        naive = naive_radius(vertices, np.array([[0, 1, 2]]), rows[k], columns[k])
        assert found.radius_mm[rows[k], columns[k]] == pytest.approx(naive, abs=1e-7)


def test_mesh_of_a_map_lies_on_the_surface_and_skips_gaps():
    vertices, faces = cylinder_mesh(cylinder_map(*tube(80.0)).radius_mm)
    np.testing.assert_allclose(np.hypot(vertices[:, 0], vertices[:, 2]), 80, atol=1e-3)
    assert len(np.unique(faces)) == len(vertices)
    outward = vertices[faces].mean(1) * [1, 0, 1]
    assert ((unit_face_normals(vertices, faces) * outward).sum(1) > 0).all()
    radius = np.zeros((SIZE, SIZE))
    radius[100:104, 50:60] = 80
    radius[100:104, 55:60] = 80 + 15.5
    assert len(cylinder_mesh(radius)[1]) == 2 * 3 * (4 + 4)
    radius[radius == 95.5] = 94.5
    assert len(cylinder_mesh(radius)[1]) == 2 * 3 * 9


def test_tilted_plane_has_the_angle_and_the_distance_of_the_formula():
    tilt = np.radians(6.0)
    flat = sheet(n=5)
    tilted = sheet(lambda x, y: 80.0 + np.tan(tilt) * x, half_x=60, y_range=(-70, 70), n=5)
    scores = overlap_scores(cylinder_map(*flat), cylinder_map(*tilted))
    assert scores.normal_angle_deg == pytest.approx(6.0, abs=1e-6)
    a, b = np.array([1, 1, 2.0]), np.array([1 - np.sin(tilt), 1, 1 + np.cos(tilt)])
    shifted = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert scores.mne_facescape_rad == pytest.approx(shifted, abs=1e-9)
    step = 2 * np.pi / (SIZE - 1)
    phi = np.arange(SIZE) * step - np.pi
    x = 80 * np.tan(phi[np.abs(phi) < np.arctan(50 / 80)])
    assert scores.cd_mm == pytest.approx(np.sin(tilt) * np.abs(x).mean(), rel=0.02)
    assert scores.completeness == 1.0


def test_half_a_face_is_half_complete_and_apart_is_not_scored():
    whole = cylinder_map(*sheet(n=5))
    upper = cylinder_map(*sheet(y_range=(0.0, 60.0), n=5))
    half = overlap_scores(whole, upper)
    assert half.completeness == pytest.approx(0.5, abs=0.01) and half.cd_mm < 1e-9
    assert overlap_scores(upper, whole).completeness == 1.0
    behind = cylinder_map(sheet(n=5)[0] * [1, 1, -1], sheet(n=5)[1])
    apart = overlap_scores(whole, behind)
    assert not apart.found and apart.completeness == 0.0


def test_identity_is_zero_and_a_mirrored_mesh_is_inside_out():
    vertices, faces = sheet(face)
    truth = cylinder_map(vertices, faces)
    same = overlap_scores(truth, truth)
    assert (same.cd_mm, same.normal_angle_deg, same.mne_facescape_rad) == (0.0, 0.0, 0.0)
    mirrored = overlap_scores(truth, cylinder_map(vertices * [-1, 1, 1], faces))
    assert mirrored.inside_out and mirrored.normal_angle_deg > 120
    assert not same.inside_out
