"""What 2DASL trains on: labels of renders, detected landmarks, splits and refusals."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import lifemask.training.dasl_detect as detect
from lifemask.assets import UserError
from lifemask.data.base import load_render_cache, save_crops
from lifemask.data.synthetic import HELD_OUT_SEED
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import convert
from lifemask.facemodel.symmetry import head_symmetry
from lifemask.graphics.pose import procrustes_camera
from lifemask.training.dasl_batches import true_map
from lifemask.training.dasl_data import FaceSet, crop_labels, crop_maps, load_dasl_corpus
from lifemask.training.dasl_labels import (
    fit_orthographic,
    landmark_function,
    pose_labels,
)
from training import dasl_toy as toy
from training.landmark_toy import toy_real


@pytest.fixture
def landmarker(monkeypatch):
    fixed = toy.FixedLandmarker()
    monkeypatch.setattr(detect, "load_landmarker", lambda *_, **__: fixed)
    return fixed


@pytest.fixture
def prepared(tmp_path):
    for name in ("aflw21", "ytf68"):
        for part in ("training", "held-out"):
            save_crops(toy_real(name), tmp_path / "prepared" / f"{name}-{part}")
    return tmp_path / "prepared"


def images_of(faces: FaceSet) -> set[bytes]:
    return {image.tobytes() for shard in faces.crops.images for image in shard}


def test_labels_of_orthographic_renders_are_exact(tmp_path):
    folder = toy.make_cache(tmp_path / "cache", shards=2)
    model = load_face_model()
    for weight in (1.0, 0.1):
        labels = pose_labels(folder, model, nearness_weight=weight)
        stored = dict(np.load(folder / "labels-0001.npz"))
        assert labels.residual_px.max() < 1e-3
        ours = labels.subset(slice(toy.PER_SHARD, None))
        np.testing.assert_allclose(ours.rotation, stored["rotation"], atol=1e-4)
        np.testing.assert_allclose(ours.scale_px_per_mm, stored["scale_px_per_mm"], rtol=1e-4)
        np.testing.assert_array_equal(ours.identity, stored["identity"])
        np.testing.assert_array_equal(ours.expression, stored["expression"])


def test_labels_say_where_the_landmarks_are(tmp_path):
    folder = toy.make_cache(tmp_path / "cache", shards=1)
    model = load_face_model()
    faces = FaceSet(load_render_cache(folder), pose_labels(folder, model))
    head = crop_labels(faces)
    points = landmark_function(model, "lifemask392")(head.identity, head.expression) / 100
    turned = head.scale[:, None, None] * points @ head.rotation.transpose(1, 2)
    u, v = head.shift[:, :1] + turned[..., 0], head.shift[:, 1:] - turned[..., 1]
    stored = torch.from_numpy(faces.crops.points[..., :2])
    wanted = (stored + 0.5 - toy.SIZE / 2) / (toy.NOMINAL / 2)
    torch.testing.assert_close(torch.stack((u, v), -1), wanted, atol=2e-4, rtol=0)


def test_the_reduced_landmarks_equal_those_of_the_whole_head():
    model = load_face_model()
    identity, expression, _ = toy.draw_heads(np.random.default_rng(0), 2)
    pair = [torch.from_numpy(x.astype(np.float32)) for x in (identity, expression)]
    whole = model.landmarks(model(*pair), "lifemask392")
    reduced = landmark_function(model, "lifemask392")(*pair)
    torch.testing.assert_close(reduced, whole, atol=1e-3, rtol=0)


def test_of_perspective_renders_the_picture_is_explained_best(tmp_path):
    folder = toy.make_cache(tmp_path / "cache", shards=1, distance_mm=500)
    model = load_face_model()
    mean = [pose_labels(folder, model, nearness_weight=w).residual_px.mean() for w in (1, 0.3, 0.1)]
    assert mean[0] > 1.1 * mean[1] > 1.1 * mean[2] > 0.01
    shown = load_render_cache(folder)
    labels = pose_labels(folder, model, nearness_weight=1e-3)
    pair = torch.from_numpy(labels.identity), torch.from_numpy(labels.expression)
    points = landmark_function(model, "lifemask392")(*pair)
    image = torch.from_numpy(shown.points)

    def error(rotation, scale, shift):
        turned = scale[:, None, None] * (points @ rotation.transpose(1, 2))[..., :2]
        moved = turned * torch.tensor([1.0, -1.0]) + shift[:, None]
        return (moved - image[..., :2]).square().sum((1, 2))

    ours = (torch.from_numpy(x) for x in (labels.rotation, labels.scale_px_per_mm, labels.shift_px))
    best = error(*ours)
    start = procrustes_camera(points, image)
    for factor in (0.98, 1.0, 1.02):
        other = error(start.rotation, factor * start.scale, start.translation[:, :2])
        assert (best < other).all()


def test_the_fit_is_a_minimum():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(4, 30, 3, generator=generator, dtype=torch.float64) * 50
    image = points * 0.5 + torch.randn(4, 30, 3, generator=generator, dtype=torch.float64) * 5
    image[..., 1] *= -1
    first, more = (fit_orthographic(points, image, 0.2, steps=n) for n in (6, 12))
    torch.testing.assert_close(first.rotation, more.rotation, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.scale, more.scale, atol=1e-6, rtol=0)


def test_other_head_models_are_refused(tmp_path):
    folder = toy.make_cache(tmp_path / "cache", shards=1)
    changed = copy.copy(load_face_model())
    changed.expression_names = tuple(f"other{k}" for k in range(52))
    with pytest.raises(UserError, match="not of"):
        pose_labels(folder, changed)
    arrays = dict(np.load(folder / "labels-0000.npz"))
    arrays["identity"] = arrays["identity"][::-1]
    np.savez(folder / "labels-0000.npz", **arrays)
    with pytest.raises(UserError, match="another version"):
        pose_labels(folder, load_face_model())


def test_symmetry_of_the_head_model():
    model = load_face_model()
    symmetry = head_symmetry(model)
    assert symmetry is not None
    partner = symmetry.expression_partner
    assert (partner[partner] == np.arange(52)).all() and (partner != np.arange(52)).sum() == 40
    identity, expression, _ = toy.draw_heads(np.random.default_rng(0), 4)
    pair = [torch.from_numpy(x.astype(np.float32)) for x in (identity, expression)]
    points_of = landmark_function(model, "lifemask392")
    flip = model.landmark_embeddings["lifemask392"].mirror
    mirrored = points_of(pair[0] * torch.from_numpy(symmetry.identity_sign), pair[1][:, partner])
    expected = points_of(*pair)[:, flip] * torch.tensor([-1.0, 1.0, 1.0])
    assert (mirrored - expected).norm(dim=-1).max() < 0.25  # mm: fp16 modes, sparse expressions
    unknown = copy.copy(model)
    unknown.antisymmetric = None
    assert head_symmetry(unknown) is None
    one_sided = copy.copy(model)
    one_sided.expression_names = tuple(
        "wink" if n == "mouthLeft" else n for n in model.expression_names
    )
    assert head_symmetry(one_sided) is None


def test_detected_points_are_in_stored_px_and_know_what_faces_away(tmp_path, landmarker):
    crops = load_render_cache(toy.make_cache(tmp_path / "cache", shards=1))
    found = detect.run_landmarker(crops, landmarker)
    flat = landmarker.points()
    stored = (flat[:, :2] + 0.5) * toy.NOMINAL / 48 + (toy.SIZE - toy.NOMINAL) / 2 - 0.5
    wanted = convert(stored, "lifemask392", "ibug68-3d-bfm")
    np.testing.assert_allclose(found.points68, wanted.expand(12, 68, 2).numpy(), atol=1e-4)
    np.testing.assert_allclose(
        found.points[3], convert(wanted, "ibug68-3d-bfm", "map18").numpy(), atol=1e-4
    )
    assert found.drawn.all(), "a frontal face shows all of Map-18"
    landmarker.yaw_deg = 75.0
    turned = detect.run_landmarker(crops, landmarker).drawn
    assert turned[:, [0, 6]].all() and not turned[:, [5, 11]].any()
    landmarker.yaw_deg = -75.0
    turned = detect.run_landmarker(crops, landmarker).drawn
    assert turned[:, [5, 11]].all() and not turned[:, [0, 6]].any()
    maps = crop_maps(FaceSet(crops, None, found), np.arange(2))
    in_crop = convert(convert(flat, "lifemask392", "ibug68-3d-bfm"), "ibug68-3d-bfm", "map18")
    torch.testing.assert_close(maps.points[0], (in_crop[:, :2] + 0.5) / 24 - 1, atol=1e-4, rtol=0)


def test_detected_points_are_kept_and_not_mixed_up(tmp_path, landmarker):
    crops = load_render_cache(toy.make_cache(tmp_path / "cache", shards=2))
    first = detect.detected_maps(crops, "open", tmp_path / "kept")
    again = detect.detected_maps(crops, "open", tmp_path / "kept")
    assert landmarker.seen == len(crops)
    np.testing.assert_array_equal(first.points68, again.points68)
    np.testing.assert_array_equal(first.drawn, again.drawn)
    other = replace(crops, points=crops.points + 1)
    detect.detected_maps(other, "open", tmp_path / "kept")
    detect.detected_maps(crops, "research", tmp_path / "kept")
    assert landmarker.seen == 3 * len(crops)
    names = sorted(p.name for p in (tmp_path / "kept").iterdir())
    assert len(names) == 3 and all(n.startswith("detected-") for n in names)


def test_open_corpus_hides_the_truth_of_half_its_renders(tmp_path, landmarker):
    folder = toy.make_cache(tmp_path / "cache", shards=5)
    corpus = load_dasl_corpus("open", None, [folder], tmp_path / "prepared")
    wild, (labelled,), held = corpus.unlabelled["renders"], corpus.labelled, corpus.held_out
    assert list(held) == ["renders-open"] and len(held["renders-open"]) == toy.PER_SHARD
    assert len(labelled) == len(wild) == 2 * toy.PER_SHARD
    assert labelled.labels is not None and len(labelled.labels) == len(labelled)
    assert wild.labels is None and wild.crops.convention == "ibug68-3d-bfm"
    assert wild.detected is not None and np.isnan(wild.crops.yaw_deg).all()
    np.testing.assert_array_equal(wild.crops.points, wild.detected.points68)
    parts = [images_of(x) for x in (labelled, wild, held["renders-open"])]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 5 * toy.PER_SHARD


def test_a_single_shard_is_shared_out_by_crops(tmp_path, landmarker):
    folder = toy.make_cache(tmp_path / "cache", shards=1)
    corpus = load_dasl_corpus("open", None, [folder], held_out_renders=0)
    labelled, wild = corpus.labelled[0], corpus.unlabelled["renders"]
    assert len(labelled) == len(wild) == toy.PER_SHARD // 2
    assert not images_of(labelled) & images_of(wild)
    assert labelled.labels is not None and len(labelled.labels) == len(labelled)
    blind = load_dasl_corpus("open", None, [folder], held_out_renders=0, detect=False)
    assert blind.unlabelled == {} and len(blind.labelled[0]) == toy.PER_SHARD
    assert blind.labelled[0].detected is None


def test_research_corpus_has_photos_and_keeps_all_labels(tmp_path, landmarker, prepared):
    caches = [
        toy.make_cache(tmp_path / "a", shards=3, seed=1),
        toy.make_cache(tmp_path / "b", shards=2, seed=2, licence="research only"),
    ]
    corpus = load_dasl_corpus("research", None, caches, prepared)
    assert [len(x) for x in corpus.labelled] == [2 * toy.PER_SHARD, toy.PER_SHARD]
    assert list(corpus.unlabelled) == ["aflw21", "ytf68"]
    assert sorted(corpus.held_out) == ["aflw21", "renders-open", "renders-research", "ytf68"]
    for faces in (*corpus.unlabelled.values(), *corpus.held_out.values()):
        assert faces.detected is not None and len(faces.detected) == len(faces)
    with pytest.raises(UserError, match="--data"):
        load_dasl_corpus("research", None, caches, tmp_path / "empty")


def test_what_a_family_may_not_see_is_refused(tmp_path, landmarker):
    bound = toy.make_cache(tmp_path / "bound", licence="research only")
    with pytest.raises(UserError, match="open family"):
        load_dasl_corpus("open", None, [bound])
    header = json.loads((bound / "header.json").read_text())
    header |= {"seed": HELD_OUT_SEED, "licence": "open"}
    (bound / "header.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="test people"):
        load_dasl_corpus("open", None, [bound])
    assert landmarker.seen == 0


def test_caches_of_different_crops_are_not_thrown_together(tmp_path, landmarker):
    folders = [toy.make_cache(tmp_path / name, seed=k) for k, name in enumerate("ab")]
    header = json.loads((folders[1] / "header.json").read_text())
    (folders[1] / "header.json").write_text(json.dumps(header | {"nominal_side_px": 20.0}))
    with pytest.raises(UserError, match="differ"):
        load_dasl_corpus("open", None, folders)


def test_nothing_is_made_up_where_it_is_not_known(tmp_path):
    faces = FaceSet(toy_real("aflw21"))
    with pytest.raises(ValueError, match="no coefficients"):
        crop_labels(faces)
    with pytest.raises(ValueError, match="no landmarks"):
        crop_maps(faces)
    hidden = faces.crops.visible.copy()
    hidden[:, 0] = False
    shown = true_map(FaceSet(replace(faces.crops, visible=hidden)))
    assert not shown.drawn[:, 0].any() and shown.drawn[:, 1:].all()
