"""Lips in a head: reached by the nearest mouth, shut where they are, left alone where covered."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.expressive import activation, geometry
from lifemask.facemodel import load_face_model
from lifemask.faces.mouth import GAPS, MouthReading, mouth_opening
from lifemask.faces.parsing import Regions
from lifemask.methods._mouth import (
    OWN_OPENING,
    SHUT,
    STEPS,
    has_mouth,
    mesh_opening,
    mouth_path,
    moved_mouths,
    with_mouth,
)
from lifemask.pipeline import Pipeline, PipelineConfig
from lifemask.pipeline_config import used_options
from lifemask.types import REGION_NAMES, Geometry

PHOTO = np.zeros((400, 600, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return load_face_model()


def reading(opening, sigma=1e-4) -> MouthReading:
    return MouthReading(np.array(opening), np.array(sigma))


def opening_of(head: Geometry) -> float:
    assert head.landmarks68_mm is not None
    return float(mesh_opening(head.landmarks68_mm.double().numpy()))


@given(
    opening=st.floats(0.1, 0.5), jaw=st.floats(0, 0.7), seed=st.integers(0, 20),
    smile=st.floats(0, 0.8),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_the_mesh_gets_the_opening_that_was_read(opening, jaw, seed, smile):
    model = load_face_model()
    before = geometry(
        model, seed, jawOpen=jaw, mouthSmileLeft=smile, mouthSmileRight=smile, eyeBlinkLeft=0.4
    )
    after = with_mouth(before, model, reading(opening))
    assert opening_of(after) == pytest.approx(opening, abs=0.012)
    assert activation(after, model, "mouthSmileLeft") == pytest.approx(smile)
    assert activation(after, model, "eyeBlinkLeft") == pytest.approx(0.4)
    vertices = model(after.params.identity, after.params.expression)  # type: ignore[union-attr]
    torch.testing.assert_close(after.vertices_mm, vertices, atol=2e-3, rtol=0)
    assert after.params is not None
    assert 0 <= float(after.params.expression.min()) and float(after.params.expression.max()) <= 1


def test_lips_that_meet_are_shut_wherever_the_jaw_is(model):
    """In length the lower lip is away from the upper one, behind it; in height it is not."""
    met = geometry(model, jawOpen=0.3, mouthClose=0.24)
    assert met.landmarks68_mm is not None
    assert float(mouth_opening(met.landmarks68_mm)) > 0.04 and opening_of(met) < 0.01
    gaping = geometry(model, jawOpen=0.3)
    assert gaping.landmarks68_mm is not None
    assert opening_of(gaping) == pytest.approx(float(mouth_opening(gaping.landmarks68_mm)))


def test_shut_lips_meet_and_leave_the_chin_where_it_is(model):
    before = geometry(model, jawOpen=0.25)
    assert opening_of(before) > 0.12
    after = with_mouth(before, model, reading(0.02))
    assert opening_of(after) < 0.01
    assert activation(after, model, "jawOpen") == pytest.approx(0.25)
    assert 0.1 < activation(after, model, "mouthClose") < 0.25
    points = after.landmarks68_mm.numpy()  # type: ignore[union-attr]
    assert all(points[a, 1] - points[b, 1] > -1.0 for a, b in GAPS), "lips do not pass each other"
    assert before.landmarks68_mm is not None and after.landmarks68_mm is not None
    moved = (after.landmarks68_mm - before.landmarks68_mm).norm(dim=-1)
    assert moved[8] < 1.0 < 2.0 < moved[66], "the lower lip moves, the chin hardly does"


def test_a_little_more_is_lips_and_much_more_is_jaw(model):
    before = geometry(model, jawOpen=0.1)
    smile = with_mouth(before, model, reading(0.14))
    assert activation(smile, model, "jawOpen") == pytest.approx(0.1)
    assert activation(smile, model, "mouthUpperUpLeft") > 0.1
    wide = with_mouth(before, model, reading(0.5))
    assert activation(wide, model, "jawOpen") > 0.4
    most = with_mouth(before, model, reading(3.0))
    assert activation(most, model, "jawOpen") == pytest.approx(1.0), "no further than it goes"


def test_the_mouth_opens_without_a_jump(model):
    levels = np.linspace(0.0, 0.4, 41)
    before = geometry(model, jawOpen=0.15)
    found = np.array([opening_of(with_mouth(before, model, reading(x))) for x in levels])
    assert found[0] < 0.04 and (np.diff(found) > -0.01).all() and np.diff(found).max() < 0.06


def test_a_doubtful_reading_leaves_what_the_method_saw(model):
    before = geometry(model, jawOpen=0.3)
    own = opening_of(before)
    blind = with_mouth(before, model, reading(0.5, sigma=50.0))
    assert opening_of(blind) == pytest.approx(own, abs=1e-3)
    as_sure = with_mouth(before, model, reading(own + 0.1, sigma=OWN_OPENING))
    assert opening_of(as_sure) == pytest.approx(own + 0.05, abs=0.01)


def test_a_reading_below_the_threshold_is_shut(model):
    """Of slightly parted lips that were read as such nothing is closed; of shut ones all is."""
    before = geometry(model, mouthLowerDownLeft=0.5, mouthLowerDownRight=0.5, jawOpen=0.03)
    shut = with_mouth(before, model, reading(SHUT - 0.005))
    assert opening_of(shut) < 0.03
    parted = with_mouth(before, model, reading(0.11))
    assert opening_of(parted) == pytest.approx(0.11, abs=0.01)


@given(values=st.lists(st.floats(0, 1), min_size=8, max_size=8))
@settings(max_examples=30, deadline=None)
def test_the_path_leads_through_what_was_given(values):
    given_ = np.array([values])
    path, own = mouth_path(given_)
    np.testing.assert_allclose(path[:, own], given_)
    np.testing.assert_allclose(path[:, 0], 0, atol=1e-12)
    assert path[0, -1, 0] == 1.0 and path.min() >= 0 and path.max() <= 1
    assert path.shape[1] == 5 * STEPS + 1
    assert np.abs(np.diff(path, axis=1)).max() <= 1 / STEPS + 1e-9, "no jumps"


def test_frames_are_moved_as_each_alone(model):
    heads = [geometry(model, jawOpen=x) for x in (0.0, 0.2, 0.5)]
    wanted = np.array([0.2, 0.02, 0.1])
    assert heads[0].params is not None
    expression = np.stack([h.params.expression.double().numpy() for h in heads])  # type: ignore[union-attr]
    points = np.stack([h.landmarks68_mm.double().numpy() for h in heads])  # type: ignore[union-attr]
    sigma = np.full(3, 1e-3)
    moved = moved_mouths(
        MouthReading(wanted, sigma), points, expression, model, heads[0].params.identity
    )
    for head, row, goal in zip(heads, moved, wanted, strict=True):
        alone = with_mouth(head, model, reading(goal, 1e-3))
        assert alone.params is not None
        np.testing.assert_allclose(row, alone.params.expression, atol=1e-5)


class Shut:
    """A reader that sees a shut mouth everywhere."""

    def __call__(self, image, points):
        assert points.shape == (68, 3) and points.isfinite().all()
        return reading(0.02, 0.01)


@pytest.mark.parametrize("hidden", ["", "background", "hair"])
def test_a_covered_mouth_is_not_asked(model, hidden):
    before = geometry(model, jawOpen=0.25)
    regions = torch.zeros(9, 64, 64)
    regions[REGION_NAMES.index(hidden or "lips")] = 1.0
    pipeline = Pipeline(PipelineConfig(), model=model)
    vars(pipeline)["mouth_reader"] = Shut()
    given_ = Regions(regions, (300.0, 200.0), 600.0, torch.zeros(64, 64))
    after = pipeline.read_mouth(PHOTO, before, given_)
    assert (opening_of(after) < 0.05) == (not hidden)
    assert opening_of(pipeline.read_mouth(PHOTO, before)) < 0.05


def test_switched_off_nothing_is_read_and_the_record_says_so(model):
    pipeline = Pipeline(PipelineConfig(mouth=False), model=model)
    before = geometry(model)
    assert pipeline.read_mouth(PHOTO, before) is before
    assert used_options(pipeline.config, {}, before) == {"mouth": "off"}
    assert used_options(PipelineConfig(), {}, before) == {}


def test_a_head_that_cannot_be_placed_stays(model):
    from dataclasses import replace

    before = geometry(model, jawOpen=0.25)
    lost = replace(before, vertices_mm=torch.full_like(before.vertices_mm, float("nan")))
    pipeline = Pipeline(PipelineConfig(), model=model)
    vars(pipeline)["mouth_reader"] = Shut()
    assert pipeline.read_mouth(PHOTO, lost) is lost


def test_only_models_with_a_mouth_have_one(model):
    from types import SimpleNamespace

    assert has_mouth(model)
    bare = SimpleNamespace(expression_names=("jawOpen",), landmark_embeddings={"ict68": None})
    assert not has_mouth(bare)  # type: ignore[arg-type]


@pytest.mark.parametrize("given_", [False, True])
def test_a_carried_surface_does_not_leave_the_lips_ajar(model, monkeypatch, given_):
    """What a surface does to the lips is read again; the user's own landmarks are not overruled."""
    from types import SimpleNamespace

    pipeline = Pipeline(PipelineConfig(eyes=False, refine=False, texture="none"), model=model)
    vars(pipeline)["mouth_reader"] = Shut()
    closed, parted = geometry(model), geometry(model, jawOpen=0.2)
    monkeypatch.setattr(pipeline, "find_regions", lambda *_: None)
    monkeypatch.setattr(pipeline, "add_detail", lambda *_: parted)
    monkeypatch.setattr(pipeline, "dress", lambda *_: None)
    monkeypatch.setattr(pipeline, "_method_use", lambda *_: None)
    seen = SimpleNamespace(
        image=PHOTO, face=(0, 0, 400, 400), landmarks=None, given=given_, image_size=(600, 400)
    )
    head = pipeline.finish(seen, closed)  # type: ignore[arg-type]
    assert (opening_of(head.geometry) > 0.1) == given_
