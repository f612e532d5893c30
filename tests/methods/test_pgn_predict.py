"""PGN at run time: what the network says of crops becomes heads in photos."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lifemask.facemodel import load_face_model
from lifemask.facemodel.chart import create_chart
from lifemask.graphics.camera import (
    default_focal_px,
    pinhole_camera,
    project,
    rotation_from_euler_deg,
)
from lifemask.methods._coefficients import project_points
from lifemask.methods._pgn_predict import (
    FrameView,
    PgnPredictConfig,
    PgnPredictor,
    mirrored_mean,
    on_the_map,
    unpacked,
)
from lifemask.methods.pgn import PgnConfig, create_pgn
from lifemask.types import Face

SIZE = 48
BARE = PgnPredictConfig(flip=False)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    sizes = PgnConfig("tiny", SIZE, widths=(16, 16, 16, 16), hidden=32)  # a cell for each texel
    return create_pgn(sizes, load_face_model()).eval()


def packed(net, position_map: torch.Tensor, expression: torch.Tensor) -> np.ndarray:
    """What an exported network says: the map as a change of the mean face's, no features."""
    change = position_map - net.get_buffer("mean_map")
    features = torch.zeros(net.to_identity_features[0].out_features)
    return torch.cat((change.flatten(), features, expression)).numpy()


class Saying:
    """A network that says the same heads whatever it sees: a position map of posed heads."""

    def __init__(self, net, expression, pose_deg, scale=1.1, identity=None, mirrored=False) -> None:
        model = load_face_model()
        chart = create_chart(model, net.config.map_size)
        self.identity = torch.zeros(80) if identity is None else identity
        self.expression = torch.full((52,), 0.0) if expression is None else expression
        rotation = rotation_from_euler_deg(torch.tensor(pose_deg))
        with torch.no_grad():
            shape = model(self.identity, self.expression) / 100
        self.matrix = scale * rotation
        self.shift = torch.tensor([0.02, 0.3])
        posed = project_points(chart.texels(shape)[None], self.matrix[None], self.shift[None])
        grid = torch.cat((posed, torch.full_like(posed[..., :1], -4.0)), -1)
        size = net.config.map_size
        self.position_map = grid.transpose(1, 2).unflatten(2, (size, size))
        self.packed = packed(net, self.position_map, self.expression)
        self.asked: list[np.ndarray] = []

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        self.asked.append(crops)
        return np.stack([self.packed] * len(crops))

    def vertices(self) -> torch.Tensor:
        with torch.no_grad():
            shape = load_face_model()(self.identity, self.expression) / 100
        return project_points(shape[None], self.matrix[None], self.shift[None])[0]


def predictor(net, said) -> PgnPredictor:
    return PgnPredictor(said, net, load_face_model(), "open")


def silent(net) -> None:
    """Let the identity head say the mean face."""
    with torch.no_grad():
        net.to_identity[-1].weight.zero_()


PHOTO = np.zeros((200, 300, 3), np.uint8)
BOX = (60.0, 40.0, 180.0, 160.0)


def in_photo(points: torch.Tensor) -> torch.Tensor:
    """Half-crops of the square BOX, whose edges are in photo px, to photo px."""
    return torch.stack(((points[:, 0] + 1) * 60 + 60, (points[:, 1] + 1) * 60 + 40), 1)


def test_the_head_lies_where_the_map_says(net) -> None:
    silent(net)
    said = Saying(net, None, [5.0, 25.0, -8.0])
    geometry = predictor(net, said)(PHOTO, BOX, config=BARE)
    own = project(geometry.vertices_mm, geometry.camera)[:, :2]
    shown = geometry.map_vertices_px.isfinite().all(1)
    wanted = in_photo(said.vertices())
    assert (own - wanted).norm(dim=1).mean() < 0.3
    assert (geometry.map_vertices_px[shown][:, :2] - wanted[shown]).norm(dim=1).mean() < 0.3
    assert geometry.camera.model == "orthographic"
    angle = torch.rad2deg(
        (((geometry.camera.rotation * (said.matrix / 1.1)).sum() - 1) / 2).clamp(-1, 1).acos()
    )
    assert angle < 0.5


def test_photos_of_one_person_share_an_identity_and_keep_their_poses(net) -> None:
    silent(net)
    said = Saying(net, None, [0.0, 30.0, 0.0])
    shifted = (80.0, 40.0, 200.0, 160.0)
    views = [FrameView(PHOTO, BOX), FrameView(PHOTO, shifted)]
    one, other = predictor(net, said).together(views, BARE)
    assert torch.equal(one.params.identity, other.params.identity)
    apart = project(other.vertices_mm, other.camera) - project(one.vertices_mm, one.camera)
    torch.testing.assert_close(apart[:, :2].mean(0), torch.tensor([20.0, 0.0]), atol=0.05, rtol=0)
    assert len(said.asked) == 1
    assert said.asked[0].shape == (2, 3, SIZE, SIZE)


def test_a_detected_face_is_looked_at_twice_and_a_square_once(net) -> None:
    silent(net)
    said = Saying(net, None, [0.0, 0.0, 0.0])
    predictor(net, said)(PHOTO, Face(BOX, 0.9), config=BARE)
    assert len(said.asked) == 2
    said.asked.clear()
    predictor(net, said)(PHOTO, Face(BOX, 0.9), config=PgnPredictConfig(passes=1, flip=False))
    assert len(said.asked) == 1


def test_a_lying_face_is_turned_upright_and_back(net) -> None:
    silent(net)
    said = Saying(net, None, [0.0, 0.0, 0.0])
    points5 = torch.tensor([[100.0, 80], [100, 120], [120, 100], [140, 85], [140, 115]])
    geometry = predictor(net, said)(
        PHOTO, Face(BOX, 0.9, points5), config=PgnPredictConfig(passes=1, flip=False)
    )
    marks = project(geometry.landmarks68_mm, geometry.camera)
    eyes, chin = marks[36:48, :2].mean(0), marks[8, :2]
    assert chin[0] > eyes[0] + 15  # the chin to the right, as the mouth of the five points
    assert abs(chin[1] - eyes[1]) < 3
    shown = geometry.map_vertices_px.isfinite().all(1)
    own = project(geometry.vertices_mm, geometry.camera)
    assert (geometry.map_vertices_px - own)[shown].norm(dim=1).mean() < 0.5


def test_the_mean_with_the_mirrored_map_is_the_map_of_a_symmetric_answer(net) -> None:
    said = Saying(net, None, [3.0, 20.0, 4.0])
    other = Saying(net, None, [3.0, -20.0, -4.0])
    other.shift = said.shift
    frames, mirrored = (
        net.whole(unpacked(torch.from_numpy(s.packed)[None], net)) for s in (said, other)
    )
    inside = net.get_buffer("inside")
    both = mirrored_mean(frames, mirrored, net, None)
    apart = (both.position_map - frames.position_map)[0, :3, inside]
    wrong = mirrored_mean(frames, frames, net, None)
    far = (wrong.position_map - frames.position_map)[0, :3, inside]
    # u of both heads is shifted alike before one is mirrored, which moves the mean by that shift
    assert (apart.mean(1) - torch.tensor([-0.02, 0.0, 0.0])).abs().max() < 0.01
    assert (apart - apart.mean(1, keepdim=True)).abs().mean() < 0.01
    assert far.abs().mean() > 0.05
    assert torch.equal(both.expression, frames.expression)


class Mirroring:
    """A network that says one thing of a crop and the mirrored thing of its mirror image."""

    def __init__(self, plain: Saying, mirrored: Saying) -> None:
        self.answers = plain.packed, mirrored.packed

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        left = crops[..., : crops.shape[-1] // 2].mean((1, 2, 3))
        right = crops[..., crops.shape[-1] // 2 :].mean((1, 2, 3))
        return np.stack([self.answers[int(r > a)] for a, r in zip(left, right, strict=True)])


def test_the_mirrored_crop_s_answer_is_mirrored_back(net) -> None:
    silent(net)
    model = load_face_model()
    wink = torch.zeros(52)
    wink[model.expression_names.index("eyeBlinkLeft")] = 0.8
    other = torch.zeros(52)
    other[model.expression_names.index("eyeBlinkRight")] = 0.8
    plain = Saying(net, wink, [0.0, 20.0, 4.0])
    mirrored = Saying(net, other, [0.0, -20.0, -4.0])
    photo = PHOTO.copy()
    photo[:, :120] = 200  # bright on the left: the network tells the mirrored crop by it
    asked = predictor(net, Mirroring(plain, mirrored))
    geometry = asked(photo, BOX, config=PgnPredictConfig())
    alone = asked(photo, BOX, config=BARE)
    torch.testing.assert_close(geometry.params.expression, wink, atol=1e-4, rtol=0)
    angle = ((geometry.camera.rotation * alone.camera.rotation).sum() - 1) / 2
    assert torch.rad2deg(angle.clamp(-1, 1).acos()) < 0.5


def test_the_map_s_mesh_replaces_the_model_s_where_it_shows_the_head(net) -> None:
    silent(net)
    identity = torch.zeros(80)
    identity[:2] = torch.tensor([2.0, -2.0])
    said = Saying(net, None, [0.0, 10.0, 0.0], identity=identity)
    model_mesh = predictor(net, said)(PHOTO, BOX, config=BARE)
    map_mesh = on_the_map(model_mesh)
    shown = model_mesh.map_vertices_px.isfinite().all(1)
    own = project(map_mesh.vertices_mm, map_mesh.camera)
    assert (own - model_mesh.map_vertices_px)[shown].abs().max() < 0.01
    assert map_mesh.params is None
    moved = (map_mesh.vertices_mm - model_mesh.vertices_mm).norm(dim=1)
    assert moved[~shown].max() < 1.5 * moved[shown].max()
    by_option = predictor(net, said)(PHOTO, BOX, config=replace(BARE, shape="map"))
    torch.testing.assert_close(by_option.vertices_mm, map_mesh.vertices_mm)


def test_uncertainty_grows_where_the_meshes_disagree_and_where_the_map_doubts(net) -> None:
    silent(net)
    said = Saying(net, None, [0.0, 0.0, 0.0])
    found = predictor(net, said).predict_crops(torch.zeros(1, 3, SIZE, SIZE), config=BARE)
    plain = found.uncertainty()[0]
    columns = net.config.map_size
    maps = said.position_map.clone()
    maps[:, 3, : columns // 2] += 2.0
    said.packed = packed(net, maps, said.expression)
    doubted = predictor(net, said).predict_crops(torch.zeros(1, 3, SIZE, SIZE), config=BARE)
    upper = net.get_buffer("skin_texels").float().mean(1) < columns**2 * 0.4
    lower = net.get_buffer("skin_texels").float().mean(1) > columns**2 * 0.6
    shown = plain.isfinite()
    ratio = doubted.uncertainty()[0] / plain
    assert ratio[shown & upper].median() > 3
    assert abs(ratio[shown & lower].median() - 1) < 0.05
    assert not shown.all()


def test_a_close_pinhole_camera_is_told_from_the_map(net) -> None:
    silent(net)
    model, size = load_face_model(), net.config.map_size
    said = Saying(net, None, [0.0, 0.0, 0.0])
    rotation = rotation_from_euler_deg(torch.tensor([4.0, 30.0, 5.0]))
    f_px = default_focal_px(300)
    true = pinhole_camera(
        rotation, torch.tensor([-30.0, 5.0, -450.0]), f_px, torch.tensor([149.5, 99.5])
    )
    seen = project(create_chart(model, size).texels(model.mean), true)
    middle = seen.mean(0)[:2]
    half = 0.9 * (seen[:, :2] - middle).abs().max()
    box = (*(middle - half).tolist(), *(middle + half).tolist())
    flat = torch.cat(((seen[:, :2] - middle) / half, seen[:, 2:] / half), 1)
    flat = torch.cat((flat, torch.full_like(flat[:, :1], -4.0)), 1)
    said.packed = packed(net, flat.T.unflatten(1, (size, size)), said.expression)
    found = [
        predictor(net, said)(PHOTO, box, config=replace(BARE, camera=camera)).camera
        for camera in ("orthographic", "pinhole")
    ]
    angle = [
        torch.rad2deg((((c.rotation * rotation).sum() - 1) / 2).clamp(-1, 1).acos()) for c in found
    ]
    assert angle[0] > 0.3
    assert angle[1] < 0.1
    assert found[1].model == "pinhole"
    torch.testing.assert_close(found[1].translation, true.translation, atol=3.0, rtol=0)


@pytest.mark.parametrize(("settings", "words"), [
    ({"camera": "fisheye"}, "unknown camera"),
    ({"shape": "mesh"}, "unknown shape"), ({"passes": 0}, "passes must be"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        PgnPredictConfig(**settings)
