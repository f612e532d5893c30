"""What PGN reads: people in one part only, cameras beside labels, yaw and stretch of photos."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import pgn_faces as toy
from helpers.dasl_faces import mask_model, rotations
from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.training.pgn_data import (
    MOST_ASPECT,
    load_pgn_corpus,
    load_photos,
    yaw_and_aspect,
)
from lifemask.training.recipes import Family


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A cache of two shards and prepared photos."""
    folder, model = tmp_path_factory.mktemp("data"), load_face_model()
    toy.write_renders(folder / "cache", model, shards=3)
    toy.write_prepared(folder / "prepared", model)
    return folder


def corpus(places, family: Family = "open", held_out=1):
    paths = ([places / "cache"], places / "prepared")
    return load_pgn_corpus(family, None, *paths, held_out, load_face_model())


@pytest.mark.parametrize("family", ["open", "research"])
def test_nobody_is_in_two_parts(places, family):
    found = corpus(places, family)
    names = {"aflw21", "ytf68"} if family == "research" else set()
    assert set(found.photos) == names and set(found.held_out) == {"renders-open", *names}
    (training,) = found.labelled
    kept = found.held_out["renders-open"]
    assert len(training) == 12 and len(kept) == 6
    assert training.crops.person is not None and kept.crops.person is not None
    assert not set(training.crops.person) & set(kept.crops.person)
    for faces in (training, kept):
        assert faces.cameras is not None and len(faces.cameras) == len(faces)
        assert faces.usable.all() and np.isfinite(faces.yaw_deg).all()


def test_smoke_runs_may_evaluate_on_what_they_train_on(places):
    found = corpus(places, held_out=0)
    assert len(found.labelled[0]) == 18 and len(found.held_out["renders-open"]) == 6


def test_a_subset_keeps_cameras_labels_and_people_together(places):
    whole = corpus(places, held_out=0).labelled[0]
    ids = np.array([13, 2, 7])
    some = whole.subset(ids)
    assert some.crops.person is not None and whole.crops.person is not None
    np.testing.assert_array_equal(some.crops.person, whole.crops.person[ids])
    assert some.cameras is not None and whole.cameras is not None
    np.testing.assert_array_equal(some.cameras.zoom, whole.cameras.zoom[ids])
    assert some.faces.labels is not None and whole.faces.labels is not None
    np.testing.assert_array_equal(some.faces.labels.identity, whole.faces.labels.identity[ids])
    np.testing.assert_array_equal(some.yaw_deg, whole.yaw_deg[ids])


def test_research_needs_its_photos(places):
    with pytest.raises(UserError, match="needs --data with aflw21 and ytf68"):
        load_pgn_corpus("research", None, [places / "cache"], None, 1, load_face_model())


def marks(model, yaw_deg, stretch=1.0):
    """Photos of the mean face of a model at some yaws, wider than they should be."""
    yaw = np.array(yaw_deg, float)
    turn = rotations(yaw, 0 * yaw, 0 * yaw)
    with torch.no_grad():
        mean = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
        name = "ict68" if "ict68" in model.landmark_embeddings else "ibug68-3d-bfm"
        shown = (model.landmarks(mean, name) @ turn.mT)[..., :2] * torch.tensor([stretch, -1.0])
    crops = toy.photos_of(model, "ytf68", len(yaw), 1)
    points = 32 + 0.3 * shown.numpy()
    return replace(crops, points=points, convention=name, visible=np.ones(points.shape[:2], bool))


@pytest.mark.parametrize("model", [load_face_model(), mask_model()], ids=["lifemask", "mask"])
def test_yaw_and_stretch_of_the_mean_face_are_exact(model):
    wanted = [-60.0, -20.0, 0.0, 15.0, 45.0]
    yaw, aspect = yaw_and_aspect(marks(model, wanted), model)
    np.testing.assert_allclose(yaw, wanted, atol=0.01)
    np.testing.assert_allclose(aspect, 1, atol=1e-4)
    for stretch in (1.3, 1 / 1.3):
        _, aspect = yaw_and_aspect(marks(model, wanted, stretch), model)
        np.testing.assert_allclose(aspect, 1.3, atol=1e-3)


def test_only_stretched_frames_are_kept_out_of_pairs():
    model = load_face_model()
    for stretch, usable in ((1.0, True), (MOST_ASPECT - 0.02, True), (MOST_ASPECT + 0.02, False)):
        photos = load_photos(marks(model, [-20.0, 0.0, 30.0], stretch), model)
        assert (photos.usable == usable).all()
        assert photos.cameras is None and photos.faces.labels is None


def test_photos_of_unknown_people_stand_in_no_pair():
    photos = load_photos(toy.photos_of(load_face_model(), "aflw21"), load_face_model())
    assert not photos.usable.any() and photos.crops.person is None


def test_other_marks_tell_no_yaw():
    model = load_face_model()
    with pytest.raises(UserError, match="aflw21 has no 68 points: its frames cannot be paired"):
        yaw_and_aspect(toy.photos_of(model, "aflw21"), model)
