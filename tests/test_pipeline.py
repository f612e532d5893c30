"""The pipeline, with fake detector, landmarker and head model where the real ones do not matter."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lifemask.api as api_module
from fake_stages import EggLandmarker, no_face, one_face, textures
from lifemask.assets import UserError
from lifemask.faces.choice import NoFaceError
from lifemask.graphics.lighting import studio_light
from lifemask.methods.texture import TextureConfig
from lifemask.outputs import write_heads
from lifemask.pipeline import Pipeline, PipelineConfig
from lifemask.types import Appearance, Face, Landmarks

PHOTO = np.full((200, 300, 3), 120, np.uint8)


def egg_pipeline(detector=one_face, **options) -> Pipeline:
    """A pipeline of fakes without refinement; dressed in stripes unless texture is "none"."""
    landmarker = EggLandmarker()
    config = PipelineConfig(**({"refine": False, "method": "fit"} | options))
    return Pipeline(config, detector=detector, landmarker=landmarker, model=landmarker.model)


@pytest.fixture(autouse=True)
def stripes(monkeypatch):
    """The texture stage replaced by stripes."""

    def dress(self, image, geometry, regions=None):
        skin, cap = textures()
        return Appearance(skin, studio_light("soft"), None, {"cap": cap})

    def maybe(self, image, geometry, regions=None):
        return None if self.config.texture == "none" else dress(self, image, geometry)

    monkeypatch.setattr(Pipeline, "dress", maybe)


def two_faces(image):
    return [Face((10, 20, 60, 80), 0.9), Face((100, 40, 220, 180), 0.8), Face((0, 0, 20, 20), 0.7)]


def test_pose_and_place_come_out_as_they_went_in():
    (head,) = egg_pipeline()(PHOTO)
    assert tuple(head.pose_deg.values()) == pytest.approx((5, 20, -4), abs=0.2)
    assert head.image_size == (300, 200) and head.weights == "open"
    low, high = head.landmarks68_px.min(0), head.landmarks68_px.max(0)
    np.testing.assert_allclose((low + high) / 2, [149.5, 99.5], atol=12)
    assert head.geometry.residual_px < 0.1


def test_landmarker_gets_the_face_once():
    pipeline = egg_pipeline()
    pipeline(PHOTO)
    (face,) = pipeline.landmarker.calls
    assert face == one_face(PHOTO)[0]


def test_largest_or_all_faces():
    (largest,) = egg_pipeline(two_faces)(PHOTO)
    assert largest.face.box == (100, 40, 220, 180)
    heads = egg_pipeline(two_faces, faces="all")(PHOTO)  # the third is too small
    assert [h.face.box for h in heads] == [(100, 40, 220, 180), (10, 20, 60, 80)]


def test_given_boxes_replace_the_detector():
    boxes = [(10, 20, 60, 80), (100, 40, 220, 180)]
    heads = egg_pipeline(no_face)(PHOTO, boxes=boxes)
    assert [h.face.box for h in heads] == boxes
    for wrong in ([(1, 2, 3)], [(10, 10, 5, 50)], [(0, 0, float("nan"), 9)]):
        with pytest.raises(UserError, match="box"):
            egg_pipeline()(PHOTO, boxes=wrong)


def test_given_landmarks_replace_detector_and_landmarker(tmp_path):
    points = EggLandmarker()(PHOTO, (80, 30, 200, 170)).points[:, :2].numpy()
    given = Landmarks(
        torch.nn.functional.pad(torch.from_numpy(points), (0, 1), value=float("nan")),
        torch.ones(68),
        "ict68",
    )
    file = tmp_path / "points.json"
    file.write_text(json.dumps(points.tolist()))
    for landmarks in (points, file, given):
        pipeline = egg_pipeline(no_face)
        (head,) = pipeline(PHOTO, landmarks=landmarks)
        assert pipeline.landmarker.calls == []
        assert np.abs(head.landmarks68_px - points).mean() < 3
        assert head.face.score == 1
    with pytest.raises(UserError, match="landmark"):
        egg_pipeline()(PHOTO, landmarks=np.zeros((5, 2)))


def test_no_face_and_tiny_faces_are_user_errors():
    with pytest.raises(NoFaceError, match="no face found"):
        egg_pipeline(no_face)(PHOTO)
    with pytest.raises(NoFaceError, match="only 20 px"):
        egg_pipeline(lambda image: [Face((0, 0, 20, 20), 0.9)])(PHOTO)


def test_warnings_tell_what_to_doubt():
    (small,) = egg_pipeline(lambda image: [Face((50, 50, 90, 90), 0.9)])(PHOTO)
    assert any("40 px wide" in w for w in small.warnings)
    (cut,) = egg_pipeline(lambda image: [Face((-0.5, 50, 149, 190), 0.9)])(PHOTO)
    assert any("edge" in w for w in cut.warnings)
    (good,) = egg_pipeline()(PHOTO)
    assert good.warnings == ()


def test_pinhole_camera():
    from lifemask.methods.fitting import FitConfig

    (head,) = egg_pipeline(fit=FitConfig(camera="pinhole"))(PHOTO)
    assert head.geometry.camera.model == "pinhole"
    assert tuple(head.pose_deg.values()) == pytest.approx((5, 20, -4), abs=6)


@pytest.mark.parametrize(
    "options",
    [{"weights": "stolen"}, {"method": "magic"}, {"texture": "paint"}, {"faces": "some"}],
)
def test_unknown_choices_list_the_valid_ones(options):
    with pytest.raises(UserError, match="valid: "):
        PipelineConfig(**options)


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("lifemask", {}, "retexture"),
        ("lifemask", {"texture": "photo"}, "photo"),
        ("lifemask", {"appearance": TextureConfig(size=256)}, "photo"),
        ("egg", {}, "photo"),
        ("egg", {"texture": "retexture"}, "retexture"),
    ],
)
def test_the_texture_that_fits_the_head_model(name, options, kind):
    """Without a choice the network, for the model it knows and unless the other has settings."""
    pipeline = Pipeline(PipelineConfig(**options), model=SimpleNamespace(name=name))
    assert pipeline.texture == kind


def test_unknown_device():
    with pytest.raises(UserError, match="device"):
        PipelineConfig(device="abacus")


def test_reconstruct_reuses_the_networks(monkeypatch):
    made = []

    def make(config):
        made.append(config)
        return egg_pipeline(two_faces, faces=config.faces)

    api_module._pipeline.cache_clear()
    monkeypatch.setattr(api_module, "Pipeline", make)
    config = PipelineConfig(refine=False)
    for _ in range(2):
        head = api_module.reconstruct(PHOTO, config)
    assert head.face.box == (100, 40, 220, 180)
    assert len(api_module.reconstruct_all(PHOTO, config)) == 2
    assert len(made) == 2  # one for the largest face, one for all
    api_module._pipeline.cache_clear()


def test_files_of_one_and_of_several_heads(tmp_path):
    heads = egg_pipeline(two_faces, faces="all")(PHOTO)
    files = write_heads(heads, tmp_path / "many", photo=PHOTO, photo_name="a.jpg", numbered=True)
    names = {f.name for f in files}
    assert {"head-1.glb", "head-2.glb", "preview-1.png", "preview-2.png", "params.json"} <= names
    record = json.loads((tmp_path / "many" / "params.json").read_text())
    assert {n for face in record["faces"] for n in face["files"]} == names - {"params.json"}
    one = write_heads(heads[:1], tmp_path / "one", formats=("ply", "json"))
    assert [f.name for f in one] == ["head.ply", "params.json"]
