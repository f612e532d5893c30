"""Predicting free surfaces and detailed heads: FaceScape's photos, MICC's videos, frames, units."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.facescape_files import (
    LAB_ITEMS,
    WILD_ITEMS,
    face,
    lab_name,
    sheet,
    write_lab,
    write_wild,
)
from helpers.scan_files import SUBJECTS, write_micc
from lifemask.assets import UserError
from lifemask.data._video_frames import read_frames
from lifemask.data.facescape import load_facescape_wild
from lifemask.data.micc import load_micc
from lifemask.evaluation._prediction_writer import (
    detailed_mesh,
    neutral_vertices,
    write_fitted_head,
    write_in_photo,
)
from lifemask.evaluation.meshes import load_mesh_predictions
from lifemask.evaluation.predict_meshes import mean_head, predict_meshes
from lifemask.evaluation.score import score
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.graphics.mesh import vertex_normals
from lifemask.pipeline import Pipeline
from lifemask.types import Face, FreeSurface, ShapeDetail

SIZE = 256
BOX = (40.0, 40.0, 216.0, 216.0)
HEAD = sheet(face, half_x=35.0, y_range=(-45.0, 45.0))


@pytest.fixture(scope="module")
def model():
    return load_face_model()


@pytest.fixture(scope="module")
def head(model):
    """A mean head looking aside, with its own front as free surface, 3 mm nearer."""
    plain = mean_head(model, BOX, (SIZE, SIZE))
    turn = rotation_from_euler_deg(torch.tensor([0.0, 20.0, 0.0]))
    seen = plain.geometry.camera
    camera = orthographic_camera(turn, seen.scale, seen.translation[:2])
    shape = plain.geometry.vertices_mm
    faces = plain.geometry.faces.long()
    inside = model.topology.regions["face"][faces].all(1) & (model.topology.face_part == 0)
    facing = (vertex_normals(shape, faces) @ turn.T)[faces][..., 2].amin(1) > 0.1
    ids, own = torch.unique(faces[inside & facing], return_inverse=True)
    nearer = torch.tensor([0.0, 0.0, 3.0]) * seen.scale
    surface = FreeSurface(project(shape[ids], camera) + nearer, own)
    geometry = replace(plain.geometry, camera=camera, surface=surface)
    return replace(plain, geometry=geometry)


def photo(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (90, 120, 60)).save(path)


def test_in_the_photo_a_head_lies_where_it_is_seen(head, tmp_path):
    for mesh in ("head", "detailed", "surface"):
        write_in_photo(tmp_path / mesh, "x", head, mesh)
    vertices, faces = load_mesh_predictions(tmp_path / "head").mesh("x")
    points = project(head.geometry.vertices_mm, head.geometry.camera).double().numpy()
    np.testing.assert_allclose((vertices[:, 0] + 1) * SIZE / 2 - 0.5, points[:, 0], atol=1e-3)
    np.testing.assert_allclose((1 - vertices[:, 1]) * SIZE / 2 - 0.5, points[:, 1], atol=1e-3)
    np.testing.assert_allclose(vertices[:, 2] * SIZE / 2, points[:, 2], atol=1e-3)
    assert (faces == head.geometry.faces.numpy()).all()
    surface, own = load_mesh_predictions(tmp_path / "surface").mesh("x")
    expected = head.geometry.surface.vertices_px.double().numpy()
    np.testing.assert_allclose((surface[:, 0] + 1) * SIZE / 2 - 0.5, expected[:, 0], atol=1e-3)
    depth = surface[:, 2] * SIZE / 2 - expected[:, 2]
    assert np.ptp(depth) < 1e-3  # the depth has no origin
    assert len(load_mesh_predictions(tmp_path / "detailed").mesh("x")[1]) > 10 * len(faces)
    with pytest.raises(UserError, match="square"):
        write_in_photo(tmp_path, "x", replace(head, image_size=(SIZE, 200)))


def test_a_surface_is_written_in_mm_with_landmarks_on_it(head, model, tmp_path):
    write_fitted_head(tmp_path, "x", head, "photo", views=False, mesh="surface")
    found = load_mesh_predictions(tmp_path)
    vertices, faces = found.mesh("x")
    assert len(faces) == len(head.geometry.surface.faces)
    assert 0.9 < np.ptp(vertices[:, 1]) / 150 < 1.6
    whole = head.geometry.vertices_mm.numpy()
    to_head = np.linalg.norm(vertices[:, None] - whole[None, ::1], axis=-1).min(1)
    assert np.median(to_head) < 1.0  # shifted back onto the head
    seven = found.landmarks("x", "now7")
    nearest = np.linalg.norm(seven[:, None] - vertices[None], axis=-1).min(1)
    assert seven.shape == (7, 3) and np.median(nearest) < 3
    assert found.landmarks("x", "ibug51").shape == (51, 3)
    assert found.landmarks("x", "ibug68-3d-bfm") is None
    with pytest.raises(UserError, match="no free surface"):
        bare = replace(head, geometry=replace(head.geometry, surface=None))
        write_fitted_head(tmp_path, "y", bare, "photo", views=False, mesh="surface")


def test_detail_moves_the_skin_along_its_normals(head, model):
    shape = head.geometry.vertices_mm
    size = 64
    detail = ShapeDetail(
        torch.zeros_like(shape), torch.full((size, size), 0.7), torch.ones(size, size)
    )
    plain = detailed_mesh(head.geometry, model, shape)
    moved = detailed_mesh(replace(head.geometry, detail=detail), model, shape)
    assert (plain[1] == moved[1]).all()
    length = np.linalg.norm(moved[0] - plain[0], axis=1)
    on_skin = length > 0
    np.testing.assert_allclose(length[on_skin], 0.7, atol=1e-4)
    assert on_skin.mean() > 0.5 and not on_skin.all()  # eyes and teeth have no map
    normals = vertex_normals(*(torch.from_numpy(part) for part in plain)).numpy()
    along = ((moved[0] - plain[0]) * normals).sum(1)[on_skin]
    assert np.median(along) > 0.69
    np.testing.assert_array_equal(plain[0][: len(shape)], shape.numpy())


def test_what_a_surface_added_stays_without_expression(head, model):
    offsets = torch.randn(len(head.vertices_mm), 3)
    nothing = torch.zeros(4, 4)
    carried = replace(head.geometry, detail=ShapeDetail(offsets, nothing, nothing))
    plain = neutral_vertices(head.geometry, model)
    torch.testing.assert_close(neutral_vertices(carried, model), plain + offsets)


def test_only_rafare_has_surfaces_and_only_some_protocols_take_them(tmp_path):
    with pytest.raises(UserError, match="belongs to rafare"):
        predict_meshes("scans", tmp_path, tmp_path / "p", method="pgn", mesh="surface")
    with pytest.raises(UserError, match="all over a head"):
        predict_meshes("now", tmp_path, tmp_path / "p", method="rafare", mesh="surface")
    with pytest.raises(UserError, match="valid: head, detailed, surface"):
        predict_meshes("scans", tmp_path, tmp_path / "p", method="rafare", mesh="cloud")  # pyright: ignore


def test_facescape_is_predicted_and_scored(tmp_path):
    wild = write_wild(tmp_path / "benchmark", *HEAD)
    with pytest.raises(UserError, match="photos of facescape_wild are not in"):
        predict_meshes("facescape_wild", wild, tmp_path / "p", method="mean")
    for k in WILD_ITEMS:
        photo(wild / "data" / "wild_img" / f"{k:03d}.png")
    assert len(load_facescape_wild(wild).image_paths) == len(WILD_ITEMS)
    out = predict_meshes("facescape_wild", wild, tmp_path / "p", method="mean")
    found = load_mesh_predictions(out)
    assert set(found.files) == {f"{k:03d}" for k in WILD_ITEMS}
    vertices, _ = found.mesh("000")
    assert 0.5 < np.abs(vertices[:, :2]).max() < 2.0  # a face that fills the photo
    pytest.importorskip("igl")
    result = score("facescape_wild", wild, out)
    assert result["misses"]["total"] == 0 and result["numbers"][0]["value"] > 0


def test_facescape_lab_takes_the_same_frame(tmp_path):
    lab = write_lab(tmp_path / "benchmark", *HEAD)
    for item in LAB_ITEMS:
        photo(lab / "data" / "lab_img" / f"{lab_name(item)}.png")
    out = predict_meshes("facescape_lab", lab, tmp_path / "p", method="mean")
    pytest.importorskip("igl")
    assert score("facescape_lab", lab, out)["misses"]["total"] == 0


def jpegs(count):
    """Motion JPEG with frames of growing brightness."""
    stream = io.BytesIO()
    for k in range(count):
        Image.new("RGB", (64, 64), (20 * k, 20 * k, 20 * k)).save(stream, "JPEG")
    return stream.getvalue()


def test_frames_come_from_motion_jpeg_and_from_folders(tmp_path):
    video = tmp_path / "a.mjpg"
    video.write_bytes(b"RIFF header" + jpegs(12))
    brightness = [int(frame.mean()) for frame in read_frames(video, 3)]
    np.testing.assert_allclose(brightness, [40, 120, 200], atol=3)
    assert len(read_frames(video, 50)) == 12
    for k in range(4):
        Image.new("RGB", (64, 64), (k, k, k)).save(tmp_path / f"{k:02d}.png")
    assert [int(f[0, 0, 0]) for f in read_frames(tmp_path, 2)] == [1, 3]
    video.write_bytes(b"\x00\x00\x00\x18ftypmp42")
    with pytest.raises(UserError, match="ffmpeg"):
        read_frames(video, 3)
    video.write_bytes(b"")
    with pytest.raises(UserError, match="empty"):
        read_frames(video, 3)


@pytest.fixture
def micc(tmp_path):
    root = write_micc(tmp_path / "micc")
    for subject in SUBJECTS:
        (root / subject / "Video" / "Indoor-Cooperative.mjpg").write_bytes(jpegs(5))
    return root


def test_micc_is_predicted_from_its_videos(micc, tmp_path):
    assert len(load_micc(micc).image_paths) == len(SUBJECTS)
    out = predict_meshes("micc", micc, tmp_path / "p", method="mean")
    found = load_mesh_predictions(out)
    assert set(found.files) == {f"{s}/Indoor-Cooperative" for s in SUBJECTS}
    pytest.importorskip("igl")
    for protocol in ("micc_deep3d", "micc_genova"):
        result = score(protocol, micc, out)
        assert result["misses"]["total"] == 0 and result["starts"] == {"landmarks": 2}


class Seen:
    """Stands for the pipeline's stages: a face in all frames but the darkest one."""

    def __init__(self, monkeypatch, head):
        self.people, self.single, self.head = [], [], head
        monkeypatch.setattr(Pipeline, "geometry_stage", None)
        monkeypatch.setattr(Pipeline, "find_faces", lambda _, image, boxes=None: self.faces(image))
        monkeypatch.setattr(Pipeline, "reconstruct_face", self.one)
        monkeypatch.setattr(Pipeline, "reconstruct_person", self.person)

    def faces(self, image):
        if image.mean() < 10:
            return []
        turned = abs(float(image.mean()) - 40) / 5  # the frame of brightness 40 looks ahead
        points = torch.tensor([[-10.0, 0], [10, 0], [turned, 8], [-7, 16], [7, 16]])
        return [Face((8.0, 8.0, 56.0, 56.0), 0.9, points + 32)]

    def one(self, image, face):
        self.single.append(int(image.mean()))
        return self.head

    def person(self, photos, boxes):
        self.people.append([int(image.mean()) for image in photos])
        return [self.head] * len(photos)


def test_a_video_gives_one_person_and_a_surface_its_frontal_frame(
    micc, head, tmp_path, monkeypatch
):
    seen = Seen(monkeypatch, head)
    predict_meshes("micc", micc, tmp_path / "pgn", method="pgn")
    assert len(seen.people) == 2 and len(seen.people[0]) == 4 and not seen.single
    options = {"method": "rafare", "mesh": "surface"}
    out = predict_meshes("micc", micc, tmp_path / "s", **options)
    assert np.allclose(seen.single, 40, atol=3) and len(seen.people) == 2
    assert json.loads((out / "meta.json").read_text())["mesh"] == "surface"
    found = load_mesh_predictions(out)
    assert len(found.mesh("subject_01/Indoor-Cooperative")[1]) == len(head.geometry.surface.faces)
    assert found.landmarks("subject_01/Indoor-Cooperative", "ibug51") is not None

    def nothing(*_):
        raise UserError("the field has no surface")

    monkeypatch.setattr(Pipeline, "reconstruct_face", nothing)
    empty = predict_meshes("micc", micc, tmp_path / "empty", **options)
    assert not list(empty.rglob("*.ply"))  # no surface is a miss
    monkeypatch.setattr(Pipeline, "find_faces", lambda *_: [])
    with pytest.raises(UserError, match="no mesh"):
        load_mesh_predictions(predict_meshes("micc", micc, tmp_path / "none", method="pgn"))
