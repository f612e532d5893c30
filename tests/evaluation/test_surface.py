"""Exact distances and ICP: known motions come back, reflections do not, failures are said."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifemask.evaluation.surface import (
    Similarity,
    SurfaceTree,
    closest_on_surface,
    icp,
    similarity_from_points,
    vertex_to_surface,
)
from lifemask.graphics.camera import rotation_from_euler_deg

pytest.importorskip("igl")


def turn(*angles_deg: float) -> np.ndarray:
    return rotation_from_euler_deg(torch.tensor(angles_deg, dtype=torch.float64)).numpy()


def bumpy(n: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An asymmetric height field about 100 mm wide, n x n vertices."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-50, 50, n)
    x, y = np.meshgrid(axis, axis)
    z = 30 * np.exp(-(((x - 8) / 25) ** 2) - ((y + 5) / 15) ** 2) - 0.006 * (x**2 + y**2)
    z = z + sum(
        rng.uniform(1, 3) * np.sin(x / rng.uniform(8, 20) + y / rng.uniform(8, 20))
        for _ in range(4)
    )
    vertices = np.stack([x, y, z], -1).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(n - 1), np.arange(n - 1), indexing="ij")
    a = (row * n + column).reshape(-1)
    faces = np.concatenate([np.stack([a, a + 1, a + n], 1), np.stack([a + 1, a + n + 1, a + n], 1)])
    return vertices, faces


def segment_distance(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distances (f,) to segments."""
    along = ((point - start) * (end - start)).sum(1) / ((end - start) ** 2).sum(1)
    return np.linalg.norm(start + np.clip(along, 0, 1)[:, None] * (end - start) - point, axis=1)


def naive_distance(point: np.ndarray, corners: np.ndarray) -> float:
    """Distance to triangles (f, 3, 3): of the projection where it falls inside, else of edges."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    height = ((point - a) * normal).sum(1)
    foot = point - height[:, None] * normal
    sides = [(np.cross(q - p, foot - p) * normal).sum(1) for p, q in ((a, b), (b, c), (c, a))]
    inside = np.min(sides, axis=0) >= 0
    edges = [segment_distance(point, p, q) for p, q in ((a, b), (b, c), (c, a))]
    return float(min(np.min(edges), np.abs(height[inside]).min(initial=np.inf)))


def test_closest_point_agrees_with_a_naive_twin_and_lies_on_its_face():
    vertices, faces = bumpy(8)
    points = np.random.default_rng(1).uniform(-60, 60, (60, 3))
    found = closest_on_surface(points, vertices, faces)
    corners = vertices[faces]
    naive = [naive_distance(point, corners) for point in points]
    np.testing.assert_allclose(found.distance, naive, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found.point - points, axis=1), found.distance)
    on_face = [
        naive_distance(p, corners[[f]]) for p, f in zip(found.point, found.face, strict=True)
    ]
    np.testing.assert_allclose(on_face, 0, atol=1e-7)


def test_distance_above_a_plane_and_beyond_its_edge():
    vertices = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0.0]])
    faces = np.array([[0, 1, 2]])
    found = closest_on_surface([[2, 2, 3], [-3, 4, -4], [2, 2, 0]], vertices, faces)
    np.testing.assert_allclose(found.distance, [3, 5, 0])


def test_vertex_to_surface_ignores_unused_vertices():
    vertices, faces = bumpy(10)
    lifted = np.concatenate([vertices + [0, 0, 1000.0], [[9e5, 0, 0]]])
    both = vertex_to_surface(vertices, faces, lifted, faces)
    assert both.shape == (200,)
    assert both.max() <= 1000
    assert vertex_to_surface(vertices, faces, vertices, faces).max() < 1e-9


@given(
    st.floats(0.3, 3.0),
    st.tuples(*[st.floats(-80, 80)] * 3),
    st.tuples(*[st.floats(-100, 100)] * 3),
)
def test_similarity_composes_inverts_and_is_recovered(scale, angles, shift):
    points = np.random.default_rng(3).normal(size=(20, 3)) * 40
    motion = Similarity(scale, turn(*angles), np.array(shift))
    moved = motion.apply(points)
    np.testing.assert_allclose(motion.inverse().apply(moved), points, atol=1e-9)
    np.testing.assert_allclose(motion.compose(motion).apply(points), motion.apply(moved), atol=1e-8)
    found = similarity_from_points(points, moved)
    assert found.scale == pytest.approx(scale)
    np.testing.assert_allclose(found.apply(points), moved, atol=1e-7)


def test_rigid_fit_keeps_the_size_and_matches_weighted_means():
    points = np.random.default_rng(4).normal(size=(30, 3)) * 40
    weights = np.random.default_rng(5).uniform(0, 1, 30)
    moved = Similarity(2.0, turn(10, -20, 5), np.array([1.0, 2, 3])).apply(points)
    found = similarity_from_points(points, moved, scale=False, weights=weights)
    assert found.scale == 1.0
    np.testing.assert_allclose(found.rotation, turn(10, -20, 5), atol=1e-6)
    np.testing.assert_allclose(weights @ found.apply(points), weights @ moved)


def test_weight_zero_removes_an_outlier():
    points = np.random.default_rng(6).normal(size=(10, 3))
    moved = points + [1, 0, 0]
    moved[0] += 500
    found = similarity_from_points(points, moved, weights=np.r_[0.0, np.ones(9)])
    np.testing.assert_allclose(found.apply(points)[1:], moved[1:], atol=1e-9)


def test_a_reflection_is_never_returned():
    points = np.random.default_rng(7).normal(size=(30, 3)) * 40
    for scale in (True, False):
        found = similarity_from_points(points, points * [-1, 1, 1], scale=scale)
        assert np.linalg.det(found.rotation) == pytest.approx(1)
        assert found.scale > 0
        assert np.abs(found.apply(points) - points * [-1, 1, 1]).max() > 10


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((2, 3)),
        np.zeros((5, 3)),
        np.outer(np.arange(5.0), [1, 2, 3]),
        np.full((4, 3), np.nan),
    ],
)
def test_open_rotations_are_refused(points):
    with pytest.raises(ValueError, match="rotation|finite|infinite"):
        similarity_from_points(points, points)


@pytest.mark.parametrize("metric", ["point", "plane"])
@pytest.mark.parametrize("scale", [False, True])
def test_icp_recovers_a_known_motion(metric, scale):
    vertices, faces = bumpy()
    inner = vertices[(np.abs(vertices[:, :2]) < 40).all(1)]
    motion = Similarity(1.06 if scale else 1.0, turn(6, -5, 4), np.array([3.0, -2, 4]))
    source = motion.inverse().apply(inner)
    found = icp(source, vertices, faces, scale=scale, metric=metric, iterations=400, tolerance=1e-8)
    assert found.converged
    np.testing.assert_allclose(found.similarity.rotation, motion.rotation, atol=2e-4)
    assert found.similarity.scale == pytest.approx(motion.scale, abs=2e-4)
    np.testing.assert_allclose(found.similarity.apply(source), inner, atol=0.02)
    assert np.linalg.det(found.similarity.rotation) == pytest.approx(1)


def test_plane_needs_fewer_iterations_than_point():
    vertices, faces = bumpy()
    source = Similarity(1.0, turn(5, 4, -3), np.array([2.0, 1, 3])).apply(vertices)
    counts = [
        icp(source, vertices, faces, metric=m, iterations=500, tolerance=1e-7).iterations
        for m in ("plane", "point")
    ]
    assert counts[0] < counts[1]


@pytest.mark.parametrize("metric", ["point", "plane"])
def test_identity_gives_zero(metric):
    vertices, faces = bumpy()
    found = icp(vertices, vertices, faces, scale=True, metric=metric)
    assert found.converged and found.rmse < 1e-9
    np.testing.assert_allclose(found.similarity.apply(vertices), vertices, atol=1e-9)


def test_result_includes_the_start():
    vertices, faces = bumpy()
    start = Similarity(1.1, turn(120, 10, -60), np.array([400.0, 20, -90]))
    source = start.inverse().apply(vertices)
    found = icp(source, vertices, faces, scale=True, start=start)
    np.testing.assert_allclose(found.similarity.apply(source), vertices, atol=1e-6)


def test_trimming_ignores_what_the_surface_lacks():
    vertices, faces = bumpy()
    extra = np.random.default_rng(8).uniform(-50, 50, (90, 3)) + [0, 0, 150]
    moved = Similarity(1.0, turn(4, -3, 2), np.array([2.0, 1, -2])).apply(vertices)
    source = np.concatenate([moved, extra])
    plain = icp(source, vertices, faces, metric="plane")
    robust = icp(source, vertices, faces, metric="plane", tolerance=1e-8, trim=0.8)
    error = [np.abs(r.similarity.apply(moved) - vertices).max() for r in (plain, robust)]
    assert error[1] < 0.05 < 5 < error[0]


def test_a_start_out_of_reach_is_reported():
    vertices, faces = bumpy()
    far = icp(vertices + [1e6, 0, 0], vertices, faces, scale=True)
    assert far.status == "collapsed" and not far.converged
    short = icp(vertices @ turn(20, 20, 0).T, vertices, faces, iterations=2)
    assert short.status == "iterations" and short.iterations == 2


def test_mirrored_source_keeps_an_error():
    vertices, faces = bumpy()
    found = icp(vertices * [-1, 1, 1], vertices, faces, scale=True)
    assert found.rmse > 1


def test_bad_input_is_named():
    vertices, faces = bumpy(5)
    with pytest.raises(ValueError, match="trim"):
        icp(vertices, vertices, faces, trim=0)
    with pytest.raises(ValueError, match="metric"):
        icp(vertices, vertices, faces, metric="planes")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="outside"):
        SurfaceTree(vertices, faces + len(vertices))
    with pytest.raises(ValueError, match="infinite"):
        SurfaceTree(vertices * np.nan, faces)
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        SurfaceTree(vertices, faces).closest(np.zeros((3, 2)))
