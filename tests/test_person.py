"""Several photos of one person through the pipeline, with fake stages."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import lifemask
import lifemask.api as api_module
from fake_stages import EggLandmarker, no_face, one_face, textures
from lifemask.assets import AssetError, UserError
from lifemask.faces.choice import NoFaceError
from lifemask.graphics.lighting import studio_light
from lifemask.head import Head
from lifemask.outputs import write_heads
from lifemask.pipeline import Pipeline, PipelineConfig
from lifemask.types import Appearance, Face

PHOTOS = [np.full((200, 300, 3), 120, np.uint8), np.full((260, 240, 3), 90, np.uint8)]
POSES = {200: (5.0, 20.0, -4.0), 260: (-3.0, -30.0, 6.0)}  # by the photo's height


class Landmarker(EggLandmarker):
    """The egg is turned differently in each photo."""

    def __call__(self, image, face):
        self.pose_deg = POSES[image.shape[0]]
        return super().__call__(image, face)


def person_pipeline(detector=one_face, landmarker=None, **options) -> Pipeline:
    landmarker = landmarker or Landmarker()
    config = PipelineConfig(**({"refine": False, "texture": "none", "method": "fit"} | options))
    stages = {"detector": detector, "landmarker": landmarker, "model": landmarker.model}
    return Pipeline(config, **stages)


def identity_of(head: Head) -> torch.Tensor:
    assert head.geometry.params is not None
    return head.geometry.params.identity


def test_one_identity_and_each_photos_own_pose():
    heads = person_pipeline().reconstruct_person(PHOTOS)
    assert torch.equal(identity_of(heads[0]), identity_of(heads[1]))
    for head, photo in zip(heads, PHOTOS, strict=True):
        pose = POSES[photo.shape[0]]
        assert tuple(head.pose_deg.values()) == pytest.approx(pose, abs=0.3)
        assert head.image_size == (photo.shape[1], photo.shape[0])
        assert head.person == ("", "") and head.face == one_face(photo)[0]
        assert head.method is not None and head.method.name == "fit"


def test_faces_are_the_largest_or_those_of_the_given_boxes():
    def two_faces(image):
        return [Face((10, 20, 60, 80), 0.9), Face((100, 40, 220, 180), 0.8)]

    pipeline = person_pipeline(two_faces, faces="all")
    boxes = [None, (20.0, 30.0, 90.0, 110.0)]
    heads = pipeline.reconstruct_person(PHOTOS, boxes=boxes)
    assert [h.face.box for h in heads] == [(100, 40, 220, 180), boxes[1]]


def test_given_landmarks_replace_detector_and_landmarker():
    points = EggLandmarker((0.0, 10.0, 0.0))(PHOTOS[1], (60, 50, 180, 200)).points[:, :2].numpy()
    pipeline = person_pipeline()
    heads = pipeline.reconstruct_person(PHOTOS, landmarks=[None, points])
    assert len(pipeline.landmarker.calls) == 1
    assert np.abs(heads[1].landmarks68_px - points).mean() < 3


def test_refinement_and_texture_are_each_photos_own_and_identity_stays(monkeypatch):
    asked = []

    def refine_photometric(image, geometry, landmarks, model, config, regions=None):
        asked.append((image.shape, config.hold_identity))
        return SimpleNamespace(geometry=geometry)

    def dress(self, image, geometry, regions=None):
        skin, cap = textures()
        return Appearance(skin * image.mean() / 255, studio_light("soft"), None, {"cap": cap})

    monkeypatch.setattr("lifemask.methods.photometric.refine_photometric", refine_photometric)
    monkeypatch.setattr(Pipeline, "dress", dress)
    pipeline = person_pipeline(refine=True, regions=False, texture="photo")
    heads = pipeline.reconstruct_person(PHOTOS)
    assert asked == [(photo.shape, True) for photo in PHOTOS]
    albedo = [head.appearance.albedo for head in heads if head.appearance is not None]
    assert len(albedo) == 2 and not torch.equal(*albedo)
    assert all(head.method is not None and head.method.refined for head in heads)
    pipeline(PHOTOS[0])
    assert asked[2:] == [(PHOTOS[0].shape, False)]


def test_the_photos_are_recorded(tmp_path):
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for photo, file in zip(PHOTOS, files, strict=True):
        Image.fromarray(photo).save(file)
    records = []
    for head in person_pipeline().reconstruct_person([files[0], str(files[1])]):
        write_heads([head], tmp_path / "out", formats=("json",), overwrite=True)
        records.append(json.loads((tmp_path / "out" / "params.json").read_text())["faces"][0])
    person = {"photos": ["a.png", "b.png"], "shared_identity": True}
    assert [r["person"] for r in records] == [person, person]
    assert records[0]["identity"] == records[1]["identity"]
    (named, _) = person_pipeline().reconstruct_person(PHOTOS, names=["left", "right"])
    assert named.person == ("left", "right")
    (alone,) = person_pipeline()(PHOTOS[0])
    assert alone.person == ()


def test_a_photo_that_cannot_be_used_is_named(tmp_path):
    def first_only(image):
        return one_face(image) if image.shape[0] == 200 else no_face(image)

    Image.fromarray(PHOTOS[1]).save(tmp_path / "b.png")
    with pytest.raises(NoFaceError, match=r"^photo 2: no face found"):
        person_pipeline(first_only).reconstruct_person(PHOTOS)
    with pytest.raises(NoFaceError, match=r"^b.png: no face found"):
        person_pipeline(first_only).reconstruct_person([PHOTOS[0], tmp_path / "b.png"])
    with pytest.raises(UserError, match=r"missing.png") as caught:
        person_pipeline().reconstruct_person([PHOTOS[0], tmp_path / "missing.png"])
    assert str(caught.value).count("missing.png") == 1
    with pytest.raises(UserError, match=r"^photo 1: box .* is empty"):
        person_pipeline().reconstruct_person(PHOTOS, boxes=[(9, 9, 5, 50), None])


def test_missing_weights_are_not_a_photos_fault():
    def missing(image):
        raise AssetError("weights are not installed")

    with pytest.raises(AssetError, match="^weights"):
        person_pipeline(missing).reconstruct_person(PHOTOS)


def test_one_entry_per_photo():
    pipeline = person_pipeline()
    with pytest.raises(UserError, match="no photo given"):
        pipeline.reconstruct_person([])
    with pytest.raises(UserError, match="2 photos but 1 boxes"):
        pipeline.reconstruct_person(PHOTOS, boxes=[None])
    with pytest.raises(UserError, match="2 photos but 3 landmarks"):
        pipeline.reconstruct_person(PHOTOS, landmarks=[None] * 3)
    with pytest.raises(UserError, match="2 photos but 1 names"):
        pipeline.reconstruct_person(PHOTOS, names=["a"])


def test_the_public_function(monkeypatch):
    made = []

    def make(config):
        made.append(config)
        return person_pipeline(faces=config.faces)

    api_module._pipeline.cache_clear()
    monkeypatch.setattr(api_module, "Pipeline", make)
    config = PipelineConfig(refine=False, faces="all")
    heads = lifemask.reconstruct_person(PHOTOS, config, boxes=[None, (20, 30, 90, 110)])
    assert [c.faces for c in made] == ["largest"]
    assert heads[1].face.box == (20, 30, 90, 110)
    assert torch.equal(identity_of(heads[0]), identity_of(heads[1]))
    api_module._pipeline.cache_clear()


@pytest.mark.slow
def test_a_portrait_and_a_part_of_its_mirror_image():
    from skimage.data import astronaut

    photo = astronaut()
    mirrored = np.ascontiguousarray(photo[:, ::-1][:400, 100:])
    heads = lifemask.reconstruct_person([photo, mirrored], PipelineConfig(texture="none"))
    assert torch.equal(identity_of(heads[0]), identity_of(heads[1]))
    left, right = (head.pose_deg for head in heads)
    assert left["roll"] == pytest.approx(-right["roll"], abs=3)
    assert all(head.geometry.residual_px < 3 for head in heads)
