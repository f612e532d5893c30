"""Lids and gaze in a head: reached exactly, side by side, and left alone where nothing is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.expressive import activation, geometry
from lifemask.facemodel import load_face_model
from lifemask.facemodel.gaze import look_activations
from lifemask.faces.eyes import EyeReading, lid_opening
from lifemask.faces.parsing import Regions
from lifemask.methods._eyes import has_lids, moved_expressions, read_eyes, with_eyes


@pytest.fixture(scope="module")
def model():
    return load_face_model()


def reading(opening=(0.3, 0.3), gaze=((0.0, 0.0), (0.0, 0.0)), sigma=1e-4, degrees=1e-3):
    return EyeReading(
        np.array(opening), np.array(gaze), np.full(2, sigma), np.full((2, 2), degrees)
    )


@given(
    left=st.floats(0.14, 0.26), right=st.floats(0.14, 0.26), seed=st.integers(0, 20),
    squint=st.floats(0, 0.3),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_the_mesh_gets_the_opening_that_was_read(left, right, seed, squint):
    model = load_face_model()
    before = geometry(model, seed, jawOpen=0.4, eyeSquintLeft=squint)
    after = with_eyes(before, model, reading((left, right)))
    assert after.landmarks68_mm is not None
    np.testing.assert_allclose(lid_opening(after.landmarks68_mm), [left, right], atol=4e-3)
    assert activation(after, model, "jawOpen") == pytest.approx(0.4)
    vertices = model(after.params.identity, after.params.expression)  # type: ignore[union-attr]
    torch.testing.assert_close(after.vertices_mm, vertices, atol=2e-3, rtol=0)


def test_shut_eyes_are_shut_and_winks_are_one_sided(model):
    after = with_eyes(geometry(model), model, reading((0.08, 0.3)))
    assert activation(after, model, "eyeBlinkLeft") > 0.9
    assert activation(after, model, "eyeBlinkRight") < 0.25


def test_lids_close_without_a_jump(model):
    """Blink falls steadily as the opening that was read grows."""
    levels = np.linspace(0.04, 0.26, 23)
    blinks = [
        activation(with_eyes(geometry(model), model, reading((x, x))), model, "eyeBlinkLeft")
        for x in levels
    ]
    steps = np.diff(blinks)
    assert blinks[0] > 0.9 and (steps <= 1e-6).all() and steps.min() > -0.25


def test_eyes_beyond_their_rest_relax_the_squint_then_widen(model):
    before = geometry(model, eyeSquintLeft=0.8, eyeSquintRight=0.8)
    rest = float(lid_opening(geometry(model).landmarks68_mm)[0])
    some = with_eyes(before, model, reading((rest, rest)))
    assert activation(some, model, "eyeSquintLeft") < 0.1
    assert activation(some, model, "eyeWideLeft") < 0.05
    wide = with_eyes(before, model, reading((rest + 0.07, rest + 0.07)))
    assert activation(wide, model, "eyeWideLeft") > 0.4


@given(st.floats(-25, 25), st.floats(-30, 30))
@settings(max_examples=10, deadline=None)
def test_the_eyes_turn_to_where_they_look(pitch, yaw):
    """The eyeballs of the mesh turn by the angles that were read."""
    model = load_face_model()
    after = with_eyes(
        geometry(model), model, reading(gaze=((pitch, yaw), (pitch, yaw)), degrees=1e-6)
    )
    rest = with_eyes(geometry(model), model, reading(degrees=1e-6))
    part = model.topology.part_names.index("eyes")
    ids = torch.unique(model.topology.faces[model.topology.face_part == part])
    ball = ids[after.vertices_mm[ids, 0] > 0]
    first, second = rest.vertices_mm[ball], after.vertices_mm[ball]
    u, _, vt = torch.linalg.svd((first - first.mean(0)).T @ (second - second.mean(0)))
    turn = vt.T @ u.T
    ahead = turn @ torch.tensor([0.0, 0.0, 1.0])
    expected = torch.tensor([
        math.sin(math.radians(yaw)) * math.cos(math.radians(pitch)),
        math.sin(math.radians(pitch)),
        math.cos(math.radians(yaw)) * math.cos(math.radians(pitch)),
    ])  # fmt: skip
    angle = math.degrees(math.acos(min(1.0, float(ahead @ expected))))
    assert angle < 6.0, "blendshapes are linear: a few degrees of a turn of thirty"


def test_a_reading_without_certainty_changes_next_to_nothing(model):
    before = geometry(model, eyeBlinkLeft=0.4, eyeBlinkRight=0.4, eyeLookUpLeft=0.3)
    lost = reading((0.05, 0.05), ((20.0, 20.0), (20.0, 20.0)), sigma=10.0, degrees=1000.0)
    after = with_eyes(before, model, lost)
    assert activation(after, model, "eyeBlinkLeft") == pytest.approx(0.4, abs=0.02)
    assert activation(after, model, "eyeLookUpLeft") == pytest.approx(0.3, abs=0.02)


def test_lids_of_the_user_stay(model):
    before = geometry(model)
    after = with_eyes(before, model, reading((0.03, 0.03), ((0, 18.0), (0, 18.0))), lids=False)
    assert activation(after, model, "eyeBlinkLeft") == 0
    assert activation(after, model, "eyeLookOutLeft") == pytest.approx(0.5, abs=0.01)


def test_frames_are_moved_one_by_one(model):
    """Many frames at once give what each gives alone."""
    heads = [geometry(model, 0, eyeBlinkLeft=0.1 * k) for k in range(4)]
    points = np.stack([h.landmarks68_mm.double().numpy() for h in heads])  # type: ignore
    given_ = np.stack([h.params.expression.double().numpy() for h in heads])  # type: ignore
    rng = np.random.default_rng(0)
    rows = np.hstack([rng.uniform(0.05, 0.3, (4, 2)), rng.normal(0, 10, (4, 4)),
                      np.full((4, 2), 0.02), np.full((4, 4), 2.0)])  # fmt: skip
    identity = heads[0].params.identity  # type: ignore
    every = moved_expressions(EyeReading.of_rows(rows), points, given_, model, identity)
    for k in range(4):
        alone = slice(k, k + 1)
        readings = EyeReading.of_rows(rows[alone])
        one = moved_expressions(readings, points[alone], given_[alone], model, identity)
        np.testing.assert_allclose(every[k], one[0], atol=1e-12)
    assert every.min() >= 0 and every.max() <= 1


def test_the_gaze_of_activations_is_read_back(model):
    gaze = np.array([[[12.0, -20.0], [12.0, -17.0]]])
    activations = look_activations(gaze, model.expression_names)
    assert len(activations) == 8
    by_name = {model.expression_names[k]: float(v[0]) for k, v in activations.items()}
    assert by_name["eyeLookInLeft"] > 0 and by_name["eyeLookOutLeft"] == 0
    assert by_name["eyeLookOutRight"] > 0 and by_name["eyeLookUpRight"] > 0


def test_a_head_that_is_nowhere_and_a_model_without_lids_stay(model):
    from dataclasses import replace

    from fake_stages import EggModel

    assert has_lids(model) and not has_lids(EggModel())
    lost = geometry(model)
    nowhere = replace(lost.camera, scale=torch.tensor(float("nan")))
    lost = replace(lost, camera=nowhere)
    image = np.zeros((50, 50, 3), np.uint8)
    assert read_eyes(image, lost, model, None) is lost  # type: ignore[arg-type]


class ShutEyes:
    """A reader who sees shut eyes that look down, whatever it is shown."""

    def __init__(self):
        self.points = []

    def __call__(self, image, points):
        self.points.append(points)
        return reading((0.04, 0.04), ((-12.0, 0.0), (-12.0, 0.0)))


def test_the_pipeline_reads_the_eyes_of_its_head(model):
    from lifemask.pipeline import Pipeline, PipelineConfig

    pipeline = Pipeline(PipelineConfig(), model=model)
    reader = vars(pipeline)["eye_reader"] = ShutEyes()
    before, image = geometry(model), np.zeros((400, 600, 3), np.uint8)
    after = pipeline.read_eyes(image, before)
    assert activation(after, model, "eyeBlinkLeft") > 0.9
    assert activation(after, model, "eyeLookDownRight") == 0, "behind shut lids"
    kept = pipeline.read_eyes(image, before, lids=False)
    assert activation(kept, model, "eyeBlinkLeft") == 0
    assert activation(kept, model, "eyeLookDownRight") == pytest.approx(0.4, abs=0.01)
    # the points are those of the head that was handed in
    assert float(reader.points[0][36:48, :2].mean(0)[0]) == pytest.approx(300, abs=3)


@pytest.mark.parametrize("worn", ["no", "left", "frame", "both"])
def test_eyes_behind_dark_glass_are_open_and_look_ahead(model, worn):
    """Left is the person's: on the right of the picture. A frame leaves an eye to be seen."""
    from lifemask.pipeline import Pipeline, PipelineConfig

    before = geometry(model, eyeSquintLeft=0.3, jawOpen=0.2)
    glasses = torch.zeros(64, 64)
    if worn in ("left", "both"):
        glasses[:, 32:] = 1
    if worn == "both":
        glasses[:] = 1
    if worn == "frame":
        glasses[::4] = 1
    regions = Regions(torch.ones(9, 64, 64) / 9, (300.0, 150.0), 400.0, glasses)
    pipeline = Pipeline(PipelineConfig(), model=model)
    vars(pipeline)["eye_reader"] = ShutEyes()
    after = pipeline.read_eyes(np.zeros((400, 600, 3), np.uint8), before, regions=regions)
    unseen = {"Left": worn in ("left", "both"), "Right": worn == "both"}
    for side, hidden in unseen.items():
        assert (activation(after, model, f"eyeBlink{side}") == 0) == hidden
    assert (activation(after, model, "eyeSquintLeft") == 0) == unseen["Left"]
    assert activation(after, model, "jawOpen") == pytest.approx(0.2)


def test_switched_off_nothing_is_read_and_the_record_says_so(model):
    from lifemask.pipeline import Pipeline, PipelineConfig
    from lifemask.pipeline_config import used_options

    pipeline = Pipeline(PipelineConfig(eyes=False), model=model)
    before = geometry(model)
    assert pipeline.read_eyes(np.zeros((40, 60, 3), np.uint8), before) is before
    assert used_options(pipeline.config, {"map": "self"}, before) == {"map": "self", "eyes": "off"}
    assert "eyes" not in used_options(PipelineConfig(), {}, before)
