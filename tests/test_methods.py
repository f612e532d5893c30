"""Methods in the pipeline: 2DASL from its files, a fake one, and a mesh without a face model."""

import json
import math
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fake_stages import EggLandmarker, one_face
from helpers.dasl_weights import write_untrained_dasl
from lifemask.apps.cli import main
from lifemask.assets import AssetError, UserError
from lifemask.evaluation.predict import load_system, map_meta
from lifemask.faces.landmarker import turned_back
from lifemask.methods._dasl_stage import DaslStage
from lifemask.methods.dasl import DaslPredictConfig
from lifemask.methods.fitting import FitConfig, fit_landmarks
from lifemask.outputs import write_heads
from lifemask.pipeline import (
    LEARNED_IDENTITY_SIGMA,
    METHODS,
    Pipeline,
    PipelineConfig,
    dasl_settings,
)
from lifemask.types import Face

PHOTO = np.full((200, 300, 3), 120, np.uint8)


class Predictor:
    """Fits an egg to where it is told that the face is."""

    def __init__(self, landmarker, **changes):
        self.landmarker = landmarker
        self.changes = changes
        self.calls = []

    def __call__(self, image, face, landmarks=None, config=None):
        self.calls.append((face, landmarks, config.landmarks))
        points = EggLandmarker()(image, face)
        geometry = fit_landmarks(points, self.landmarker.model)
        return replace(geometry, residual_px=math.nan, **self.changes)


def egg_dasl(settings=None, changes=None, **options) -> Pipeline:
    landmarker = EggLandmarker()
    options = {"refine": False, "texture": "none"} | options
    config = PipelineConfig(method="dasl", dasl=settings, **options)
    predictor = Predictor(landmarker, **(changes or {}))
    stage = DaslStage(predictor, landmarker.model, settings)
    return Pipeline(
        config,
        detector=one_face,
        landmarker=landmarker,
        model=landmarker.model,
        geometry_stage=stage,
    )


def test_every_method_has_a_factory_and_settings():
    for name, entry in METHODS.items():
        module, function = entry.split(":")
        assert callable(getattr(import_module(module), function))
        assert hasattr(PipelineConfig(), name)
        config = PipelineConfig(method=name, dasl=DaslPredictConfig())
        assert config == replace(config) and isinstance(hash(config), int)  # pipelines are cached


@pytest.mark.parametrize(
    ("source", "refine", "asked"),
    [("self", False, 0), ("none", False, 0), ("detector", False, 1), ("self", True, 1)],
)
def test_the_landmarker_runs_only_where_it_is_needed(monkeypatch, source, refine, asked):
    refined = []

    def refine_photometric(image, geometry, landmarks, model, config, regions=None):
        refined.append(landmarks)
        return SimpleNamespace(geometry=geometry)

    monkeypatch.setattr("lifemask.methods.photometric.refine_photometric", refine_photometric)
    pipeline = egg_dasl(DaslPredictConfig(landmarks=source), refine=refine, regions=False)
    (head,) = pipeline(PHOTO)
    assert len(pipeline.landmarker.calls) == asked and len(refined) == refine
    assert head.method is not None and head.method.name == "dasl"
    assert head.method.options == {"map": source} and head.method.refined == refine
    assert math.isnan(head.geometry.residual_px) == (asked == 0)
    assert head.warnings == ()
    assert tuple(head.pose_deg.values()) == pytest.approx((5, 20, -4), abs=0.2)


@pytest.mark.parametrize(("given", "mapped"), [(False, True), (False, False), (True, True)])
def test_colours_refine_what_a_network_told_and_hold_it(monkeypatch, given, mapped):
    """A position map's points count in place of the landmarker's, not in place of the user's."""
    asked = []

    def refine_photometric(image, geometry, landmarks, model, config, regions=None):
        asked.append((landmarks, config.identity_sigma))
        return SimpleNamespace(geometry=replace(geometry, map_vertices_px=None))

    monkeypatch.setattr("lifemask.methods.photometric.refine_photometric", refine_photometric)
    model = EggLandmarker().model
    shown = torch.arange(len(model.topology.mirror), dtype=torch.float32)[:, None] * torch.ones(3)
    changes = {"map_vertices_px": shown, "uncertainty_px": shown[:, 0] + 1} if mapped else {}
    pipeline = egg_dasl(DaslPredictConfig("self"), changes, refine=True, regions=False)
    points = EggLandmarker()(PHOTO, (80, 30, 200, 170)).points[:, :2].numpy()
    (head,) = pipeline(PHOTO, landmarks=points if given else None)
    ((landmarks, sigma),) = asked
    assert sigma == LEARNED_IDENTITY_SIGMA < 1
    if given:
        np.testing.assert_allclose(landmarks.points[:, :2], points, atol=1e-4)
    elif mapped:
        embedding = model.landmark_embeddings[landmarks.convention]
        own = (embedding.vertex_ids * embedding.barycentric).sum(1)
        torch.testing.assert_close(landmarks.points[:, 0], own)
        torch.testing.assert_close(landmarks.sigma_px, own + 1)
    else:
        (face,) = pipeline.landmarker.calls
        torch.testing.assert_close(landmarks.points, EggLandmarker()(PHOTO, face).points)
    kept = head.geometry.map_vertices_px
    assert (kept is not None and torch.equal(kept, shown)) if mapped else kept is None
    assert head.geometry.residual_px >= 0


def test_an_unneeded_landmarker_is_not_even_loaded(monkeypatch):
    def fail(*args, **options):
        raise AssertionError("loaded")

    monkeypatch.setattr("lifemask.faces.landmarker.load_landmarker", fail)
    pipeline = egg_dasl(DaslPredictConfig("self"), refine=False)
    del vars(pipeline)["landmarker"]
    assert len(pipeline(PHOTO)) == 1


def test_a_users_landmarks_become_the_map(tmp_path):
    points = EggLandmarker()(PHOTO, (80, 30, 200, 170)).points[:, :2].numpy()
    pipeline = egg_dasl()
    (head,) = pipeline(PHOTO, landmarks=points)
    ((face, drawn, source),) = pipeline.geometry_stage.predictor.calls
    assert source == "detector" and pipeline.landmarker.calls == []
    np.testing.assert_allclose(drawn.points[:, :2], points, atol=1e-4)
    assert head.method is not None and head.method.options == {"map": "detector"}
    assert head.geometry.residual_px >= 0
    write_heads([head], tmp_path / "out", formats=("json",))
    record = json.loads((tmp_path / "out" / "params.json").read_text())
    assert record["faces"][0]["method"] == {
        "name": "dasl", "weights": "open", "refined": False, "options": {"map": "detector"},
    }  # fmt: skip


def test_a_head_far_from_its_landmarks_is_warned_of():
    pipeline = egg_dasl(DaslPredictConfig(landmarks="detector"))
    right = pipeline.landmarker

    def wrong(image, face):
        found = right(image, face)
        return replace(found, points=found.points + torch.tensor([30.0, 0, 0]))

    vars(pipeline)["landmarker"] = wrong
    (head,) = pipeline(PHOTO)
    assert head.geometry.residual_px == pytest.approx(30, abs=1)
    assert head.warnings == ("the landmarks fit no head well; check the preview",)


def test_a_mesh_without_a_face_model_goes_through(tmp_path):
    """What RAFaRe returns: vertices and a camera; neither refined nor dressed, but written."""
    free = {"model": "", "params": None, "landmarks68_mm": None}
    pipeline = egg_dasl(changes=free, refine=True, texture="photo")
    (head,) = pipeline(PHOTO)
    assert head.model is None and head.appearance is None and head.expression == {}
    assert head.method is not None and not head.method.refined
    files = write_heads([head], tmp_path / "out", formats=("glb", "obj", "json"))
    assert {"head.glb", "head.obj", "params.json"} <= {f.name for f in files}


def test_a_regressed_head_has_no_pinhole():
    with pytest.raises(UserError, match="orthographic"):
        PipelineConfig(method="dasl", fit=FitConfig(camera="pinhole"))


def test_map_sources_by_name():
    assert dasl_settings("fit", None) is None and dasl_settings("dasl", None) is None
    assert dasl_settings("dasl", "none") == DaslPredictConfig(landmarks="none")
    with pytest.raises(UserError, match="valid: detector, self, none"):
        dasl_settings("dasl", "best")
    for method in ("fit", "landmarker", "mean"):
        with pytest.raises(UserError, match="--map belongs to --method dasl"):
            dasl_settings(method, "self")
    assert map_meta("fit", None) == {}
    assert map_meta("dasl", None) == {"map": DaslPredictConfig().landmarks}
    assert map_meta("dasl", "detector") == {"map": "detector"}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A weights folder with an untrained 2DASL of each family."""
    folder = tmp_path_factory.mktemp("weights")
    return write_untrained_dasl(folder)


@pytest.fixture
def weights(untrained, monkeypatch):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(untrained))
    return untrained


def smooth_photo(size: int) -> np.ndarray:
    """Colours that change slowly, so that crops of it turn with it."""
    v, u = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    waves = [np.sin(3 * u + v), np.cos(2 * v * u + 1), np.sin(4 * v - u * u)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


def test_a_turned_photo_gives_the_turned_head(weights):
    """Shape equal, landmarks and pose turned: with any weights, for they see the same crop."""
    size = 240
    photo = smooth_photo(size)
    five = torch.tensor([[90.0, 90], [140, 90], [115, 115], [95, 145], [135, 145]])
    own_map = DaslPredictConfig("self")
    pipeline = Pipeline(PipelineConfig(method="dasl", dasl=own_map, refine=False, texture="none"))
    upright = pipeline.reconstruct_face(photo, Face((70.0, 60, 160, 170), 0.9, five))
    for turns in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(photo, -turns))  # clockwise
        points5 = turned_back(five, turns, size)
        corners = turned_back(torch.tensor([[70.0, 60], [160, 170]]), turns, size)
        box = (*corners.amin(0).tolist(), *corners.amax(0).tolist())
        head = pipeline.reconstruct_face(turned, Face(box, 0.9, points5))
        expected = turned_back(torch.from_numpy(upright.landmarks68_px), turns, size)
        np.testing.assert_allclose(head.landmarks68_px, expected, atol=0.5)
        np.testing.assert_allclose(head.vertices_mm, upright.vertices_mm, atol=0.2)
    assert "landmarker" not in vars(pipeline)


@pytest.mark.parametrize("name", ["aflw21", "lifemask392"])
def test_a_users_landmarks_of_any_set_in_a_turned_photo(weights, name):
    size, turns = 240, 1
    photo = smooth_photo(size)
    pipeline = Pipeline(PipelineConfig(method="dasl", refine=False, texture="none"))
    model = pipeline.model
    neutral = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    points = model.landmarks(neutral, name)[:, :2] * torch.tensor([0.7, -0.7]) + 118
    heads = []
    for picture, given in (
        (photo, points),
        (np.ascontiguousarray(np.rot90(photo, -turns)), turned_back(points, turns, size)),
    ):
        (head,) = pipeline(picture, landmarks=given.numpy())
        assert head.method is not None and head.method.options == {"map": "detector"}
        assert np.isfinite(head.geometry.residual_px)
        heads.append(torch.from_numpy(head.landmarks68_px))
    expected = turned_back(heads[0], turns, size)
    np.testing.assert_allclose(heads[1], expected, atol=1.0)


def test_each_map_source_changes_the_head(weights):
    photo, box = smooth_photo(240), (60.0, 50.0, 170.0, 160.0)
    found = {}
    for source in ("self", "none", "detector"):
        system = load_system("dasl", "open", convention="ibug68-3d-bfm", map_source=source)
        points, pose_deg = system(photo, box)
        assert points.shape == (68, 3) and pose_deg.shape == (3,)
        assert np.isfinite(points).all() and np.isfinite(pose_deg).all()
        found[source] = points
    default, _ = load_system("dasl", "open", convention="ibug68-3d-bfm")(photo, box)
    np.testing.assert_array_equal(default, found["detector"])
    assert np.abs(found["self"] - found["none"]).max() > 1e-3
    assert np.abs(found["self"] - found["detector"]).max() > 1e-3


def test_unknown_systems_and_missing_weights():
    with pytest.raises(
        UserError, match="unknown method 'magic'; valid: dasl, fit, pgn, rafare, landmarker"
    ):
        load_system("magic")  # pyright: ignore[reportArgumentType]


def test_missing_weights_are_told_before_the_first_photo(monkeypatch, untrained):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(untrained))
    with pytest.raises(AssetError, match="dasl weights are not installed: dasl-research"):
        load_system("dasl", "research")


def test_the_command_line_with_real_files(weights, tmp_path, capsys):
    out = tmp_path / "out"
    words = (
        "reconstruct --sample --method dasl --map none --no-refine --texture none --formats json"
    )
    main_status(*words.split(), "-o", str(out))
    (face,) = json.loads((out / "astronaut" / "params.json").read_text())["faces"]
    assert face["method"]["options"] == {"map": "none"} and face["residual_px"] is None
    assert all(0 <= value <= 1 for value in face["expression"].values())
    assert "1 head" in capsys.readouterr().out


def main_status(*arguments: str) -> int:
    """Exit status of a command."""
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method dasl --map best", "unknown map source 'best'; valid: detector, self, none"),
        ("--method fit --map self", "method fit draws no landmark map"),
        ("--method fit --shape map", "--shape belongs to --method pgn"),
        ("--method pgn --shape mesh", "unknown shape 'mesh'; valid: model, map"),
        ("--method dasl --camera pinhole", "orthographic camera"),
        ("--method dasl --weights research", "dasl weights are not installed: dasl-research"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(weights, tmp_path, capsys, options, message):
    for command in ("reconstruct --sample", "fit photo.jpg"):
        if command.startswith("fit") and "research" in options:
            continue  # the photo is missed first
        if command.startswith("fit") and "--shape" in options:
            continue
        words = [*command.split(), *options.split(), "-o", str(tmp_path / "out")]
        assert main_status(*words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()
