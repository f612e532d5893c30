"""Batches of 2DASL: determinism, exact labels under views and mirrors, the noise of the map."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.data.augment import NO_AUGMENTATION
from lifemask.data.base import load_render_cache
from lifemask.facemodel import load_face_model
from lifemask.facemodel.landmarks import convert
from lifemask.methods._dasl_types import DaslBatch
from lifemask.methods._targets import HeadLabels
from lifemask.training.dasl_batches import DaslBatchConfig, DaslBatchMaker, map18_truth
from lifemask.training.dasl_data import DaslCorpus, DetectedMaps, FaceSet
from lifemask.training.dasl_labels import landmark_function, pose_labels
from training import dasl_toy as toy
from training.landmark_toy import toy_real

STRONG = replace(NO_AUGMENTATION, rotation_deg=40.0, scale=0.2, shift=0.1)
CLEAN = DaslBatchConfig(
    64, 32, NO_AUGMENTATION, detected=0.0, jitter_px=0.0, drop=0.0, empty=0.0, foreign=0.0
)
FOUND_AT = 5.0  # stored px: where the toy detector puts all its points


def with_detected(faces: FaceSet) -> FaceSet:
    """Faces on which a detector found every point at one place."""
    n = len(faces)
    points = np.full((n, 86, 2), FOUND_AT, np.float32)
    found = DetectedMaps(points[:, :18], np.ones((n, 18), bool), points[:, 18:])
    return replace(faces, detected=found)


@pytest.fixture(scope="module")
def renders(tmp_path_factory) -> FaceSet:
    """Orthographic renders of all whose points are seen."""
    folder = toy.make_cache(tmp_path_factory.mktemp("renders") / "cache", shards=2)
    crops = load_render_cache(folder)
    crops = replace(crops, visible=np.ones_like(crops.visible))
    return with_detected(FaceSet(crops, pose_labels(folder, load_face_model())))


@pytest.fixture(scope="module")
def corpus(renders) -> DaslCorpus:
    real = {name: with_detected(FaceSet(toy_real(name))) for name in ("aflw21", "ytf68")}
    return DaslCorpus([renders, renders.subset(np.arange(6))], real, {})


def maker(corpus: DaslCorpus, config: DaslBatchConfig, **changes) -> DaslBatchMaker:
    return DaslBatchMaker(corpus, replace(config, **changes), load_face_model())


def labels_of(batch: DaslBatch) -> HeadLabels:
    labels = batch.targets[0].labels
    assert labels is not None
    return labels


def project(labels: HeadLabels) -> torch.Tensor:
    """Landmarks (b, 392, 3) of labels by the formula of `HeadLabels`."""
    points_of = landmark_function(load_face_model(), "lifemask392")
    points = points_of(labels.identity, labels.expression) / 100
    turned = labels.scale[:, None, None] * (points @ labels.rotation.transpose(1, 2))
    shift = labels.shift[:, None]
    uv = (shift[..., :1] + turned[..., :1], shift[..., 1:] - turned[..., 1:2])
    return torch.cat((*uv, turned[..., 2:]), -1)


@pytest.mark.parametrize(("flip", "tolerance"), [(0.0, 2e-4), (1.0, 5e-3)])
def test_labels_follow_the_view_exactly(corpus, flip, tolerance):
    """Mirrored heads are as exact as the head model is symmetric."""
    batch = maker(corpus, CLEAN, augment=replace(STRONG, flip=flip))(0)
    labels, target = labels_of(batch), batch.targets[0]
    found = project(labels)
    assert (found[..., :2] - target.points[..., :2]).norm(dim=-1).max() < tolerance
    near = target.points[..., 2] - target.points[..., 2].mean(1, keepdim=True)
    apart = found[..., 2] - found[..., 2].mean(1, keepdim=True) - near
    assert apart.abs().max() < tolerance
    eye = torch.eye(3).expand(len(near), 3, 3)
    torch.testing.assert_close(
        labels.rotation @ labels.rotation.transpose(1, 2), eye, atol=1e-5, rtol=0
    )
    assert (torch.linalg.det(labels.rotation) > 0).all()


def test_mirroring_is_seen_in_the_labels(corpus):
    plain, mirrored = (
        labels_of(maker(corpus, CLEAN, augment=replace(NO_AUGMENTATION, flip=f))(0))
        for f in (0.0, 1.0)
    )
    torch.testing.assert_close(mirrored.shift, plain.shift * torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(mirrored.scale, plain.scale)
    sign = torch.tensor([[1.0, -1, -1], [-1, 1, 1], [-1, 1, 1]])
    torch.testing.assert_close(mirrored.rotation, plain.rotation * sign)
    names = load_face_model().expression_names
    left, right = names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")
    torch.testing.assert_close(mirrored.expression[:, left], plain.expression[:, right])
    odd = load_face_model().antisymmetric
    torch.testing.assert_close(mirrored.identity[:, odd], -plain.identity[:, odd])
    torch.testing.assert_close(mirrored.identity[:, ~odd], plain.identity[:, ~odd])


def test_the_map_shows_the_head_of_the_labels(corpus):
    """Map points come by their own flip table; the labels' own landmarks must agree."""
    batch = maker(corpus, CLEAN, augment=replace(STRONG, flip=0.5), input_map="oracle")(1)
    points = convert(project(labels_of(batch))[..., :2], "lifemask392", "ibug68-3d-bfm")
    wanted = convert(points, "ibug68-3d-bfm", "map18")
    assert (batch.map.points - wanted).norm(dim=-1).max() < 5e-3
    assert batch.map.drawn.all()


def test_heads_that_cannot_be_mirrored_are_not(corpus):
    model = copy.copy(load_face_model())
    model.antisymmetric = None
    config = replace(CLEAN, augment=replace(STRONG, flip=1.0), unlabelled=0.5)
    batch = DaslBatchMaker(corpus, config, model)(0)
    never = maker(corpus, config, augment=STRONG)(0)
    torch.testing.assert_close(labels_of(batch).rotation, labels_of(never).rotation)
    torch.testing.assert_close(batch.crops[:32], never.crops[:32])
    assert not torch.allclose(batch.crops[32:], never.crops[32:]), "photos are mirrored"


def equal(a: DaslBatch, b: DaslBatch) -> bool:
    return torch.equal(a.crops, b.crops) and torch.equal(a.map.points, b.map.points)


def test_batches_depend_on_seed_step_and_rank_alone(corpus):
    config = DaslBatchConfig(16, 32, unlabelled=0.5)
    first, again = (maker(corpus, config) for _ in range(2))
    first(7)
    assert equal(first(3), again(3)) and torch.equal(first(3).map.drawn, again(3).map.drawn)
    assert not equal(first(3), first(4))
    assert not equal(first(3), maker(corpus, config, seed=1)(3))
    share, other = (first(3, rank, 2) for rank in (0, 1))
    assert len(share.crops) == len(other.crops) == 8 and not equal(share, other)


def test_a_batch_is_labelled_first_then_unlabelled_by_source(corpus):
    batch = maker(corpus, DaslBatchConfig(40, 32, unlabelled=0.5, real_mix=(0.6, 0.4)))(0)
    assert [(t.source, t.rows.start, t.rows.stop) for t in batch.targets] == [
        ("renders", 0, 20), ("aflw21", 20, 32), ("ytf68", 32, 40)
    ]  # fmt: skip
    shapes = [tuple(t.points.shape) for t in batch.targets]
    assert shapes == [(20, 392, 3), (12, 21, 2), (8, 68, 2)]
    assert [t.labels is None for t in batch.targets] == [False, True, True]
    assert all(t.visible.shape == t.points.shape[:2] for t in batch.targets)
    assert batch.crops.shape == (40, 3, 32, 32) and batch.map.points.shape == (40, 18, 2)
    assert batch.crops.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= batch.crops.min() and batch.crops.max() <= 1
    stage1 = maker(corpus, DaslBatchConfig(40, 32))(0)
    assert [t.source for t in stage1.targets] == ["renders"]
    for name in (f.name for f in fields(HeadLabels)):
        assert len(getattr(labels_of(batch), name)) == 20


def test_all_points_of_renders_count_but_hidden_ones_are_not_drawn(corpus, renders):
    visible = np.zeros_like(renders.crops.visible)
    hidden = replace(renders, crops=replace(renders.crops, visible=visible))
    batch = maker(DaslCorpus([hidden], {}, {}), CLEAN, input_map="oracle")(0)
    assert batch.targets[0].visible.all() and not batch.map.drawn.any()


def test_stage_2_needs_unlabelled_faces(renders):
    with pytest.raises(UserError, match="without labels"):
        maker(DaslCorpus([renders], {}, {}), CLEAN, unlabelled=0.5)


def noisy(corpus: DaslCorpus, **changes) -> tuple[DaslBatch, DaslBatch]:
    """A batch with a noise and the same without."""
    config = replace(CLEAN, batch=512, unlabelled=0.5)
    return maker(corpus, config, **changes)(0), maker(corpus, config, input_map="oracle")(0)


def test_jitter_has_its_size(corpus):
    batch, clean = noisy(corpus, jitter_px=1.5)
    apart = (batch.map.points - clean.map.points).flatten()
    assert apart.std() == pytest.approx(1.5 * 2 / 120, rel=0.03)
    assert apart.mean().abs() < 1e-3
    pairs = (batch.map.points - clean.map.points).flatten(0, 1).T
    assert torch.corrcoef(pairs)[0, 1].abs() < 0.05, "u and v are disturbed on their own"
    torch.testing.assert_close(batch.map.drawn, clean.map.drawn)


def test_points_are_dropped_one_by_one_and_maps_emptied_as_a_whole(corpus):
    batch, clean = noisy(corpus, drop=0.1)
    assert (~batch.map.drawn)[clean.map.drawn].float().mean() == pytest.approx(0.1, abs=0.015)
    batch, clean = noisy(corpus, empty=0.3)
    kept = batch.map.drawn.any(1)
    assert 1 - kept.float().mean() == pytest.approx(0.3, abs=0.06)
    torch.testing.assert_close(batch.map.drawn[kept], clean.map.drawn[kept])


def test_another_faces_map_is_rare_and_another_faces(corpus):
    batch, clean = noisy(corpus, foreign=0.2)
    other = (batch.map.points != clean.map.points).any(2).any(1)
    assert other.float().mean() == pytest.approx(0.2, abs=0.06)
    theirs = clean.map.points.flatten(1).double()
    ours = batch.map.points[other].flatten(1).double()
    assert (ours[:, None] - theirs).abs().amax(2).amin(1).max() == 0
    everyone, _ = noisy(corpus, foreign=1.0)
    assert (everyone.map.points != clean.map.points).any(2).any(1).float().mean() > 0.9


def test_half_of_the_maps_start_from_what_was_found(corpus):
    batch, clean = noisy(corpus, detected=0.5)
    rows = batch.targets[0].rows
    found = (batch.map.points[rows] != clean.map.points[rows]).any(2).any(1)
    assert found.float().mean() == pytest.approx(0.5, abs=0.1)
    at = (FOUND_AT + 0.5 - toy.SIZE / 2) / (toy.NOMINAL / 2)
    wanted = torch.full_like(batch.map.points[rows][found], at)
    torch.testing.assert_close(batch.map.points[rows][found], wanted)
    blind = [replace(faces, detected=None) for faces in corpus.labelled]
    config = replace(CLEAN, detected=1.0)
    first = maker(DaslCorpus(blind, {}, {}), config)(0)
    truth = maker(DaslCorpus(blind, {}, {}), config, input_map="oracle")(0)
    torch.testing.assert_close(first.map.points, truth.map.points)


@pytest.mark.parametrize("source", ["off", "self"])
def test_some_networks_start_without_a_map(corpus, source):
    batch = maker(corpus, DaslBatchConfig(16, 32), input_map=source)(0)
    assert not batch.map.drawn.any()


def test_noise_never_touches_crops_and_targets(corpus):
    config = DaslBatchConfig(32, 32, unlabelled=0.5)
    loud = maker(corpus, config, jitter_px=9.0, drop=0.5, foreign=0.5)(2)
    quiet = maker(corpus, config, input_map="oracle")(2)
    assert not torch.equal(loud.map.points, quiet.map.points)
    torch.testing.assert_close(loud.crops, quiet.crops, rtol=0, atol=0)
    for a, b in zip(loud.targets, quiet.targets, strict=True):
        torch.testing.assert_close(a.points, b.points, rtol=0, atol=0)
        assert torch.equal(a.visible, b.visible)
    for name in (f.name for f in fields(HeadLabels)):
        assert torch.equal(getattr(labels_of(loud), name), getattr(labels_of(quiet), name))


@pytest.mark.parametrize(
    ("convention", "hidden", "lost"),
    [
        ("aflw21", 7, [7]),  # an eye
        ("aflw21", 12, []),  # an ear
        ("ict68", 37, [7]),  # one of an eye's two parents
        ("ict68", 8, []),  # the chin
        ("lifemask392", 68 + 30, [13]),  # the nose of ibug68-3d-bfm
        ("lifemask392", 30, []),  # and of ict68, which is not drawn
    ],
)
def test_a_map_point_needs_all_its_parents(convention, hidden, lost):
    count = {"aflw21": 21, "ict68": 68, "lifemask392": 392}[convention]
    points = np.random.default_rng(0).normal(size=(2, count, 2))
    visible = np.ones((2, count), bool)
    visible[1, hidden] = False
    moved, drawn = map18_truth(points, visible, convention)
    assert moved.shape == (2, 18, 2) and drawn[0].all()
    assert np.nonzero(~drawn[1])[0].tolist() == lost
