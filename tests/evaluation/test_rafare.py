"""Scores of detailed surfaces: closed forms, what alignments forgive, paired intervals."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("igl")
pytest.importorskip("scipy")

from helpers.rafare_fronts import (  # noqa: E402
    HALF_MM,
    RADIUS_MM,
    SIZE,
    ball,
    crop_of,
    pixel_grid,
    relief,
    sheet,
    smooth_relief,
    wrinkles,
)
from lifemask.evaluation._rafare_front import front_of, grid_mesh, true_front  # noqa: E402
from lifemask.evaluation.rafare import (  # noqa: E402
    HeadCase,
    case_of,
    cube_to_mm,
    difference,
    entry,
    head_values,
    pixels_to_mm,
    score,
    score_surface,
)
from lifemask.evaluation.surface import Similarity  # noqa: E402
from lifemask.graphics.camera import rotation_from_euler_deg  # noqa: E402

TRUTH = true_front(*crop_of(relief), HALF_MM)
BALL = true_front(*crop_of(ball), HALF_MM)
MESH = sheet(relief, step=1.5)
OWN = score_surface(TRUTH, MESH).values


def scored(mesh, truth=TRUTH, how="z"):
    return score_surface(truth, mesh).values[how]


def turned(mesh, pose_deg, scale=1.0):
    import torch

    rotation = rotation_from_euler_deg(torch.tensor(pose_deg, dtype=torch.float64)).numpy()
    return Similarity(scale, rotation, np.zeros(3)).apply(mesh[0]), mesh[1]


def test_samples_stand_for_the_area_of_the_face():
    """The cap of a ball over an ellipse: the integral of 1 / n_z."""
    x, y = pixel_grid(960)
    inside = (x / 62) ** 2 + (y / 72) ** 2 < 1
    area = (RADIUS_MM / ball(x, y))[inside].sum() * (2 * HALF_MM / 960) ** 2
    assert BALL.areas.sum() == pytest.approx(area, rel=5e-3)
    np.testing.assert_allclose(np.linalg.norm(BALL.points, axis=1), RADIUS_MM)
    fine = true_front(*crop_of(ball, 4 * SIZE), HALF_MM)
    assert len(fine.pixels) == pytest.approx(len(BALL.pixels) * (2.5 / 1.875) ** 2, rel=0.02)
    assert fine.areas.sum() == pytest.approx(area, rel=5e-3)


def test_the_truth_itself_is_perfect():
    own = scored((TRUTH.tree.vertices, TRUTH.tree.faces))
    assert own["cd_mm"] < 1e-4
    assert own["cover_percent"] > 94  # a rasteriser leaves out two of four borders
    assert own["normal_angle_deg"] < 4  # the samples have exact normals, this coarse mesh has not
    assert own["detail_r"] == pytest.approx(1, abs=1e-4)
    assert own["detail_energy_ratio"] == pytest.approx(1, abs=1e-3)
    finer = OWN["z"]
    assert finer["cd_mm"] < 0.1 and finer["normal_angle_deg"] < 2.5
    assert finer["cover_percent"] > 99.9 and finer["detail_r"] > 0.99


@pytest.mark.parametrize("how", ["z", "similarity"])
def test_depth_has_no_origin(how):
    moved = MESH[0] + [0, 0, 250.0], MESH[1]
    found = scored(moved, how=how)
    for key, value in OWN[how].items():
        assert found[key] == pytest.approx(value, abs=2e-3)


def test_a_ball_beside_costs_what_geometry_says():
    """The distance to a ball is exact: how far a point lies from its centre, minus the radius."""
    center = np.array([7.0, 0.0, 0.0])
    mesh = sheet(lambda x, y: ball(x, y, center=center), step=0.5)
    depth = ball(*pixel_grid(), center=center)
    center[2] = np.nanmedian(BALL.depth_mm - depth)
    far = np.abs(np.linalg.norm(BALL.points - center, axis=1) - RADIUS_MM)
    expected = far @ BALL.areas / BALL.areas.sum()
    found = scored(mesh, BALL)
    assert found["truth_to_surface_mm"] == pytest.approx(expected, abs=0.02) and expected > 2
    assert found["surface_to_truth_mm"] == pytest.approx(expected, abs=0.15)
    assert found["cd_mm"] == (found["truth_to_surface_mm"] + found["surface_to_truth_mm"]) / 2
    tilt = np.degrees(2 * np.arcsin(np.linalg.norm(center) / 2 / RADIUS_MM))
    assert 0.5 * tilt < found["normal_angle_deg"] < 1.1 * tilt
    assert scored(mesh, BALL, "similarity")["cd_mm"] < 0.05


def test_similarity_forgives_size_and_pose_and_z_does_not():
    other = turned(MESH, [4.0, -6.0, 3.0], 1.1)
    assert scored(other)["cd_mm"] > 1.0
    laid = scored(other, how="similarity")
    assert laid["cd_mm"] < 0.1 and laid["detail_r"] > 0.97 and laid["normal_angle_deg"] < 2.5


def test_noise_has_energy_and_no_agreement():
    truth = true_front(*crop_of(lambda x, y: ball(x, y) + wrinkles(x, y)), HALF_MM)
    strength = np.std(wrinkles(*pixel_grid())) * np.random.default_rng(3).normal(0, 1, (81, 81))

    def noisy(x, y):
        column, row = (np.clip((p + 80) / 2, 0, 80).astype(int) for p in (x, y))
        return ball(x, y) + strength[row, column]

    found = scored(sheet(noisy, step=2.0), truth)
    assert abs(found["detail_r"]) < 0.1
    assert 0.4 < found["detail_energy_ratio"] < 1.6


def test_a_smoother_surface_has_less_energy_and_a_stronger_one_more():
    flat, strong = (
        scored(sheet(lambda x, y, k=k: smooth_relief(x, y) + k * wrinkles(x, y))) for k in (0, 2)
    )
    half = scored(sheet(lambda x, y: smooth_relief(x, y) + 0.5 * wrinkles(x, y)))
    assert flat["detail_energy_ratio"] < half["detail_energy_ratio"] < 1
    assert strong["detail_energy_ratio"] > 2
    assert flat["detail_r"] < half["detail_r"]
    assert half["cd_mm"] < 0.3


def test_a_mirrored_surface_is_caught():
    mirror = np.array([-1.0, 1.0, 1.0])
    unturned = score_surface(TRUTH, (MESH[0] * mirror, MESH[1]))
    assert unturned.inside_out and unturned.values["z"]["normal_angle_deg"] > 90
    whole = score_surface(TRUTH, (MESH[0] * mirror, MESH[1][:, ::-1]))
    assert not whole.inside_out
    for how in ("z", "similarity"):
        assert whole.values[how]["cd_mm"] > 10 * OWN[how]["cd_mm"]
        assert whole.values[how]["detail_r"] < 0.8 < OWN[how]["detail_r"]


def test_what_the_crop_cannot_show_does_not_count():
    """A back of the head, and a bag behind the mouth, as head models have."""
    back = MESH[0] * [1, 1, -1], MESH[1][:, ::-1]
    bag = sheet(lambda x, y: 0 * x + 30.0, (15.0, 10.0))
    pieces = (MESH, back, bag)
    offsets = np.cumsum([0, *(len(v) for v, _ in pieces)])
    faces = np.concatenate([f + k for (_, f), k in zip(pieces, offsets, strict=False)])
    mesh = np.concatenate([v for v, _ in pieces]), faces
    front = front_of(mesh, SIZE, HALF_MM)
    assert 0.99 * len(MESH[1]) < len(front.faces) and front.faces.max() < len(MESH[0])
    found = scored(mesh)
    for key, value in OWN["z"].items():
        assert found[key] == pytest.approx(value, abs=1e-6)


def test_half_a_face_is_half_covered_and_fair_where_it_is():
    left = MESH[1][(MESH[0][MESH[1]][..., 0] < 0).all(1)]
    found = scored((MESH[0], left))
    assert found["cover_percent"] == pytest.approx(50, abs=3)
    assert found["cd_mm"] < 0.1
    assert score_surface(TRUTH, (MESH[0] + [500.0, 0, 0], MESH[1])) is None


def test_a_step_is_no_surface():
    depth = np.where(pixel_grid()[0] < 0, 0.0, 40.0)
    vertices, faces = grid_mesh(depth, HALF_MM)
    assert np.ptp(vertices[faces][..., 2], axis=1).max() == 0
    assert len(faces) == 2 * (SIZE - 1) * (SIZE - 2)
    cross = np.cross(
        vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    )
    assert (cross[:, 2] > 0).all()
    assert len(grid_mesh(np.full((4, 4), np.nan), HALF_MM)[1]) == 0


def test_regions_are_measured_apart():
    """A dent over the lips turns the normals there and leaves the eyes as they are."""

    def dented(x, y):
        return relief(x, y) - 4 * np.exp(-((x / 14) ** 2) - ((y + 40) / 6) ** 2)

    plain, found = OWN["z"], scored(sheet(dented, step=1.5))
    assert found["normal_angle_lips_deg"] > plain["normal_angle_lips_deg"] + 5
    assert found["normal_angle_eyes_deg"] == pytest.approx(plain["normal_angle_eyes_deg"], abs=0.2)


def test_steps_at_lids_and_teeth_are_no_detail():
    """Eyes 3 mm too deep, with a sharp edge, cost distance and leave the detail of the skin."""
    depth, normals, region = crop_of(relief)
    x, y = pixel_grid()
    region[((x - 30) / 12) ** 2 + ((y + 10) / 6) ** 2 < 1] = 5
    truth = true_front(depth, normals, region, HALF_MM)

    def sunken(x, y):
        eyes = ((x + 28) / 12) ** 2 + ((y - 25) / 6) ** 2 < 1
        mouth = ((x - 30) / 12) ** 2 + ((y + 10) / 6) ** 2 < 1
        return relief(x, y) - 3.0 * (eyes | mouth)

    found = scored(sheet(sunken), truth)
    assert found["detail_r"] > 0.95 and found["detail_energy_ratio"] < 1.3
    assert found["normal_angle_eyes_deg"] > OWN["z"]["normal_angle_eyes_deg"] + 5


def pair_of(yaw_deg=40.0, person=7):
    import torch

    depth, normals, region = crop_of(relief)
    pose = torch.tensor([0.0, yaw_deg, 0.0], dtype=torch.float64)
    return SimpleNamespace(
        depth=(depth / HALF_MM).astype(np.float32), normals=normals.astype(np.float32),
        region=region, rotation=rotation_from_euler_deg(pose).numpy(), scale=SIZE / 2 / HALF_MM,
        person=person,
    )  # fmt: skip


def test_a_pair_is_read_in_millimetres():
    case = case_of(pair_of(), "a")
    assert case.yaw_deg == pytest.approx(40) and case.person == 7
    np.testing.assert_allclose(case.truth.points, TRUTH.points, atol=1e-4)
    cube = MESH[0] / HALF_MM
    np.testing.assert_allclose(cube_to_mm(cube, HALF_MM), MESH[0])
    scale = SIZE / 2
    pixels = np.stack(
        ((cube[:, 0] + 1) * scale - 0.5, (1 - cube[:, 1]) * scale - 0.5, cube[:, 2] * scale), 1
    )
    np.testing.assert_allclose(pixels_to_mm(pixels, SIZE, HALF_MM), MESH[0], atol=1e-9)
    bare = pair_of()
    bare.region = np.full_like(bare.region, 8)
    assert case_of(bare, "a") is None


def test_result_counts_misses_by_bin_and_is_json():
    cases = [HeadCase(f"h{k}", k // 2, yaw, TRUTH) for k, yaw in enumerate((0.0, -20.0, 45.0, 80))]
    smooth = sheet(smooth_relief)
    result = score(cases, {"all": lambda k: MESH, "some": lambda k: smooth if k < 3 else None})
    assert result["heads"] == 4 and result["people"] == [0, 0, 1, 1]
    some = result["systems"]["some"]
    assert some["misses"] == {"total": 1, "by_bin": {"0-30": 0, "30-60": 0, "60-90": 1}}
    assert result["systems"]["all"]["z"]["cd_mm"]["count"] == 4
    assert some["z"]["cd_mm"]["count"] == 3 and some["z"]["cd_mm"]["bins"]["60-90"] is None
    assert np.isnan(head_values(result, "some", "cd_mm")[3])
    gap = difference(result, "all", "some", "detail_r")
    assert gap["mean"] > 0 and gap["count"] == 3 and gap["significant"]
    assert not difference(result, "all", "all", "detail_r")["significant"]
    ratio = difference(result, "some", "all", "detail_energy_ratio")
    assert ratio["mean"] < 1 and ratio["significant"]
    json.dumps(result, allow_nan=False)


def test_intervals_are_over_people():
    """Ten heads each of two people say as much about people as one head each."""
    values = np.array([1.0] * 10 + [3.0] * 10)
    many = entry("cd_mm", values, [0] * 10 + [1] * 10)
    assert many["mean"] == 2 and many["ci95"] == [1.0, 3.0] and many["count"] == 20
    uneven = entry("cd_mm", values[:11], [0] * 10 + [1])
    assert uneven["mean"] == 2
    ratio = entry("detail_energy_ratio", np.array([0.25, 4.0, np.nan]), [0, 1, 2])
    assert ratio["mean"] == pytest.approx(1) and ratio["count"] == 2


def test_pairs_of_values_tell_what_means_hide():
    """A constant gain on heads that differ widely is certain when heads are paired."""
    rng = np.random.default_rng(0)
    first = rng.normal(5, 3, 40)
    rows = {"a": first, "b": first + 0.2 + rng.normal(0, 0.1, 40)}
    result = {
        "heads": 40, "people": list(range(40)),
        "systems": {n: {"z": {"cd_mm": {"heads": v.tolist()}}} for n, v in rows.items()},
    }  # fmt: skip
    gap = difference(result, "b", "a", "cd_mm")
    assert gap["significant"] and gap["ci95"][0] > 0.1 and gap["ci95"][1] < 0.3
    alone = [entry("cd_mm", v, result["people"])["ci95"] for v in rows.values()]
    assert alone[0][1] > alone[1][0]


def test_a_truth_without_a_depth_hit_is_left_out():
    shifted = replace(TRUTH, base_mm=np.full_like(TRUTH.base_mm, np.nan))
    found = scored(MESH, shifted)
    assert np.isnan(found["detail_r"]) and found["detail_cover_percent"] == 0
