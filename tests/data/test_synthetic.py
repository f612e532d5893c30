"""The generator: deterministic, labels on the model's landmarks, resumable caches."""

import json

import numpy as np
import pytest
import torch

from helpers.small_generator import small_generator
from lifemask.assets import UserError
from lifemask.data._synthetic_sample import (
    frame_face,
    random_angles_deg,
    random_expression,
    random_face,
    random_gaze_deg,
    random_identity,
    rotation_from_angles,
)
from lifemask.data.regions import load_region_cache, split_glasses
from lifemask.data.synthetic import (
    HELD_OUT_SEED,
    SyntheticConfig,
    create_generator,
    write_cache,
)
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import euler_deg_from_rotation, project


@pytest.fixture(scope="module")
def generator():
    return small_generator(load_face_model("lifemask"), camera="both")


@pytest.fixture(scope="module")
def samples(generator):
    return generator.render(list(range(12)))


def test_same_seed_and_index_give_the_same_image_in_any_company(generator, samples):
    again = generator.render([6, 5])
    for sample, index in zip(again, (6, 5), strict=True):
        assert np.array_equal(sample.identity, samples[index].identity)
        # the batch decides how matrix products round: a pixel on an edge may differ
        np.testing.assert_allclose(sample.points, samples[index].points, atol=1e-3)
        difference = np.abs(sample.image.astype(int) - samples[index].image)
        assert np.quantile(difference, 0.98) <= 2 and difference.mean() < 0.3


def test_the_same_call_gives_the_same_bytes(generator, samples):
    for sample, first in zip(generator.render(list(range(12))), samples, strict=True):
        assert np.array_equal(sample.image, first.image)
        assert np.array_equal(sample.points, first.points)
        assert np.array_equal(sample.visible, first.visible)


def test_indices_give_different_people_and_pictures(samples):
    assert len({s.image.tobytes() for s in samples}) == len(samples)
    assert len({s.identity.tobytes() for s in samples}) == len(samples)


def test_labels_are_the_projected_landmarks_of_the_model(generator, samples):
    model = generator.rig.model
    assert {s.view.orthographic for s in samples} == {True, False}
    for s in samples:
        vertices = model(torch.from_numpy(s.identity), torch.from_numpy(s.expression))
        expected = project(model.landmarks(vertices, "lifemask392"), s.camera)
        assert np.abs(s.points - expected.numpy()).max() < 0.01


def test_nominal_crop_is_the_centred_3ddfa_square(generator, samples):
    config = generator.config
    for s in samples:
        box = s.points[68:136, :2]
        low, high = box.min(0), box.max(0)
        np.testing.assert_allclose((low + high) / 2, (config.size - 1) / 2, atol=0.01)
        side = np.sqrt(2) * (high - low).max()
        np.testing.assert_allclose(side, config.nominal_side_px, atol=0.01)


def test_values_have_their_ranges(samples):
    for s in samples:
        assert s.image.dtype == np.uint8
        assert np.abs(s.identity).max() <= 3
        assert s.expression.min() >= 0 and s.expression.max() <= 1
        if s.view.orthographic:
            assert s.f_px == 0 and not s.translation_mm.any()
        else:
            assert s.translation_mm[2] <= -450 + 1e-3
        np.testing.assert_allclose(s.rotation @ s.rotation.T, np.eye(3), atol=1e-6)
    yaw = euler_deg_from_rotation(torch.from_numpy(np.stack([s.rotation for s in samples])))[:, 1]
    assert yaw.abs().max() > 40


def test_expressions_couple_both_sides():
    names = load_face_model("lifemask").expression_names
    rng = np.random.default_rng(0)
    draws = np.stack([random_expression(names, rng) for _ in range(2000)])
    for left, right in (("eyeBlinkLeft", "eyeBlinkRight"), ("mouthSmileLeft", "mouthSmileRight")):
        pair = draws[:, [names.index(left), names.index(right)]]
        assert np.corrcoef(pair[:, 0], pair[:, 1]).min() > 0.7
    assert 0.1 < (draws == 0).all(1).mean() < 0.25
    faces = np.stack([random_face(names, rng).expression for _ in range(500)])
    assert (np.concatenate([draws, faces]) > 0).any(0).all(), "every shape is drawn"
    assert faces.min() >= 0 and faces.max() <= 1
    identity = np.stack([random_identity(80, rng) for _ in range(500)])
    assert abs(identity.std() - 1) < 0.02


def test_lids_follow_the_eyes_and_eyes_converge():
    names = load_face_model("lifemask").expression_names
    rng = np.random.default_rng(1)
    for _ in range(200):
        face = random_face(names, rng)
        (pitch, yaw), (_, other) = face.gaze_deg
        assert yaw <= other, "both eyes look at one point before the face"
        value = dict(zip(names, face.expression, strict=True))
        assert (value["eyeLookUpLeft"] > 0) == (pitch > 0)
        assert value["eyeLookUpLeft"] == value["eyeLookUpRight"]
        assert value["eyeLookDownLeft"] == value["eyeLookDownRight"]
        assert (value["eyeLookOutLeft"] > 0) == (yaw > 0)
        assert (value["eyeLookInRight"] > 0) == (other > 0)
        assert value["eyeLookInLeft"] * value["eyeLookOutLeft"] == 0


def test_half_of_the_gazes_meet_the_camera():
    rng = np.random.default_rng(2)
    angles = np.array([5, -20, 10], np.float32)
    target = rotation_from_angles(angles)[2]
    off = []
    for _ in range(400):
        pitch, yaw = random_gaze_deg(angles, rng).mean(0)
        gaze = rotation_from_angles(np.array([pitch, yaw, 0], np.float32))[:, 2]
        off.append(np.rad2deg(np.arccos(np.clip(gaze @ target, -1, 1))))
    assert 0.4 < (np.array(off) < 6).mean() < 0.7


def test_poses_are_the_projects_angles():
    rng = np.random.default_rng(3)
    drawn = np.stack([random_angles_deg(rng) for _ in range(50)])
    rotations = torch.from_numpy(np.stack([rotation_from_angles(a) for a in drawn]))
    np.testing.assert_allclose(
        euler_deg_from_rotation(rotations.double()).numpy()[:, 0], drawn[:, 0], atol=0.01
    )
    nose = rotations[:, :, 2].numpy()
    np.testing.assert_allclose(np.rad2deg(np.arcsin(nose[:, 1])), drawn[:, 0], atol=0.02)


def test_held_out_runs_are_marked_and_show_other_people(generator):
    assert SyntheticConfig(seed=HELD_OUT_SEED).held_out and not SyntheticConfig(seed=5).held_out
    draws = [
        random_identity(80, np.random.default_rng([seed, 0, 7])) for seed in (3, HELD_OUT_SEED)
    ]
    assert np.abs(draws[0] - draws[1]).max() > 0.5


def test_frame_face_centres_any_points():
    points = np.random.default_rng(1).normal(0, 60, (68, 3)) + [30, -20, -900]
    f_px, center = frame_face(points.astype(np.float32), 128, 1.25)
    u = center[0] + f_px * points[:, 0] / -points[:, 2]
    v = center[1] - f_px * points[:, 1] / -points[:, 2]
    assert (u.max() + u.min()) / 2 == pytest.approx(63.5, abs=1e-3)
    assert (v.max() + v.min()) / 2 == pytest.approx(63.5, abs=1e-3)
    assert np.sqrt(2) * max(np.ptp(u), np.ptp(v)) == pytest.approx(128 / 1.25, abs=1e-3)


def test_cache_is_complete_resumable_and_of_one_run(generator, tmp_path):
    write_cache(generator, tmp_path, 6)
    header = json.loads((tmp_path / "header.json").read_text())
    assert [s["labels"] for s in header["shards"]] == ["labels-0000.npz", "labels-0001.npz"]
    images = np.load(tmp_path / "images-0001.npy", mmap_mode="r")
    assert images.shape == (2, 64, 64, 3)
    with np.load(tmp_path / "labels-0001.npz") as labels:
        assert labels["points"].shape == (2, 392, 3) and labels["points"].dtype == np.float32
        assert labels["visible"].dtype == np.bool_ and labels["orthographic"].dtype == np.bool_
        assert labels["light_sh"].shape == (2, 9, 3) and labels["gaze_deg"].shape == (2, 2, 2)
        assert labels["identity"].shape == (2, 80) and labels["expression"].shape == (2, 52)
        assert labels["nominal_side_px"] == np.float32(generator.config.nominal_side_px)
    kept = (tmp_path / "images-0000.npy").stat().st_mtime_ns
    lost = images.tobytes()
    (tmp_path / "labels-0001.npz").unlink()
    write_cache(generator, tmp_path, 6)
    assert np.load(tmp_path / "images-0001.npy").tobytes() == lost
    assert (tmp_path / "images-0000.npy").stat().st_mtime_ns == kept
    assert not list(tmp_path.glob(".*")), "no temporary files stay"
    (tmp_path / "header.json").write_text(json.dumps(header | {"seed": 99}))
    with pytest.raises(UserError, match="another run"):
        write_cache(generator, tmp_path, 6)


def test_glasses_are_marked_in_pictures_that_show_them_and_in_the_cache(generator, tmp_path):
    write_cache(generator, tmp_path, 24)
    told = load_region_cache(tmp_path)
    maps = np.concatenate(told.regions)
    classes, worn = split_glasses(maps)
    with_glasses = np.zeros(24, bool)
    for k, sample in enumerate(generator.render(list(range(24)))):
        with_glasses[k] = sample.flags[0]
        assert sample.glasses.any() <= sample.flags[0]
        assert (worn[k] != sample.glasses).mean() < 1e-3  # rounding differs by batch
        assert (classes[k] != sample.region).mean() < 0.01
    assert told.glasses and 0 < with_glasses.sum() < 24
    shown = worn.sum((1, 2))
    assert (shown[with_glasses] > 10).mean() > 0.5 and shown[~with_glasses].sum() == 0


def test_photo_textures_belong_to_research_only(tmp_path):
    with pytest.raises(UserError, match="research"):
        create_generator(SyntheticConfig(family="research"), tmp_path)
    with pytest.raises(UserError, match="research"):
        create_generator(SyntheticConfig(), tmp_path, photo_skins=tmp_path / "t.npz")
