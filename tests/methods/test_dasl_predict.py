"""2DASL on photos: what coefficients mean in photo px, quarter turns, maps, passes, batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import dasl_faces as toy
from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.faces.crop import crop_square, photo_to_crop, square_box
from lifemask.graphics.camera import project
from lifemask.methods._coefficients import CoefficientHead
from lifemask.methods._dasl_predict import map_points
from lifemask.methods._dasl_types import MapPoints
from lifemask.methods._targets import HeadLabels
from lifemask.methods.dasl import (
    DaslConfig,
    DaslPredictConfig,
    DaslPredictor,
    ExportNet,
    create_dasl,
)
from lifemask.nn.parametric import LENGTH_MM
from lifemask.nn.shipped import TorchNetwork
from lifemask.types import Face, Landmarks

CONFIG = DaslConfig("tiny", 48)
MODELS = {"mask": toy.mask_model, "lifemask": load_face_model}
HEADS: dict[str, tuple] = {}


def model_and_head(name="mask"):
    if name not in HEADS:
        model = MODELS[name]()
        HEADS[name] = (model, CoefficientHead(model))
    return HEADS[name]


class Told:
    """A network that says what it is told, whatever it sees, and remembers what it saw."""

    def __init__(self, *raw):
        self.raw = raw
        self.crops, self.maps = [], []

    def __call__(self, crops, landmarks):
        assert landmarks.shape == (len(crops), 18, 3)
        self.crops.append(crops)
        self.maps.append(drawn_points(landmarks))
        raw = self.raw[min(len(self.maps), len(self.raw)) - 1]
        return raw.expand(len(crops), -1).numpy().copy()


def some_labels(head, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    yaw, pitch, roll = (np.array([x]) for x in (25.0 - 9 * seed, 10.0, -8.0))
    return HeadLabels(
        toy.rotations(yaw, pitch, roll),
        torch.tensor([0.8]),
        torch.tensor([[0.07, -0.11]]),
        torch.randn(1, head.identity_size, generator=generator) * spread,
        torch.rand(1, head.expression_size, generator=generator),
    )


def drawn_points(landmarks):
    """(b, 18, 3) with what is not drawn at 0."""
    return landmarks * landmarks[..., 2:]


def own_points(head, labels):
    """The map that these labels draw, as `ExportNet` takes it."""
    points, drawn = head.own_map(head(head.whitened(head.pack(labels))))
    known = drawn[..., None].float()
    return drawn_points(torch.cat((points, known), -1).numpy())


def told(name="mask", seed=0):
    model, head = model_and_head(name)
    labels = some_labels(head, seed)
    network = Told(head.pack(labels))
    return DaslPredictor(network, CONFIG, head, model, "open"), network, labels


def photo(height=160, width=200, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def in_photo(model, labels, center, side):
    """Where the labels' 68 points lie in the photo: by hand, (68, 3)."""
    with torch.no_grad():
        vertices = model(labels.identity, labels.expression)
        points = model.landmarks(vertices, "ibug68-3d-bfm")[0] / LENGTH_MM
    turned = labels.scale * points @ labels.rotation[0].T
    u = turned[:, 0] + labels.shift[0, 0]
    v = labels.shift[0, 1] - turned[:, 1]
    return torch.stack((u, v, turned[:, 2]), 1) * side / 2 + torch.tensor([*center, 0.0])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("box", [(40.0, 30, 120, 110), (-31.5, 7.25, 42.75, 81.5), (3, 2, 150, 61)])
def test_coefficients_are_lengths_of_the_square(name, box):
    predictor, _, labels = told(name)
    geometry = predictor(photo(), box)
    model = predictor.model
    center, side = (
        ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2),
        max(box[2] - box[0], box[3] - box[1]),
    )
    found = project(model.landmarks(geometry.vertices_mm, "ibug68-3d-bfm"), geometry.camera)
    torch.testing.assert_close(found, in_photo(model, labels, center, side), atol=2e-3, rtol=0)
    assert geometry.camera.model == "orthographic" and geometry.model == model.name
    assert geometry.params is not None
    torch.testing.assert_close(geometry.params.identity, labels.identity[0])
    torch.testing.assert_close(geometry.params.expression, labels.expression[0])
    assert (geometry.landmarks68_mm is None) == (name == "mask")


def test_the_network_sees_the_square_of_a_box_once():
    predictor, network, _ = told()
    image = photo()
    predictor(image, (40, 30, 120, 110))
    wanted = crop_square(image, (80.0, 70.0), 80.0, 48).image
    assert len(network.crops) == 4  # the empty map, then three of its own
    for seen in network.crops:
        np.testing.assert_array_equal(seen[0], wanted.numpy())


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("source", ["self", "detector"])
def test_a_face_on_its_side_comes_out_on_its_side(turns, source):
    upright, seen_upright, labels = told()
    lying, seen_lying, _ = told()
    image = photo(160, 160)
    face = Face((50.0, 40.0, 110.0, 120.0), 0.9, torch.tensor(
        [[65.0, 70], [95, 70], [80, 85], [68, 100], [92, 100]]))  # fmt: skip
    points = in_photo(upright.model, some_labels(upright.head, 3), (80, 80), 90.0)
    landmarks = Landmarks(points, torch.ones(68), "ibug68-3d-bfm") if source == "detector" else None

    def turn(p):  # where np.rot90(-turns) takes (u, v) of a picture of 160 px
        for _ in range(turns):
            p = torch.cat((159 - p[..., 1:2], p[..., :1], p[..., 2:]), -1)
        return p

    box = turn(torch.tensor(face.box).view(2, 2))
    low, high = box.amin(0).tolist(), box.amax(0).tolist()
    turned = Face((*low, *high), 0.9, turn(face.points5))
    config = DaslPredictConfig(source)
    first = upright(image, face, landmarks, config)
    if landmarks is not None:
        landmarks = replace(landmarks, points=turn(landmarks.points))
    second = lying(np.ascontiguousarray(np.rot90(image, -turns)), turned, landmarks, config)
    torch.testing.assert_close(first.vertices_mm, second.vertices_mm)
    found, wanted = (project(g.vertices_mm, g.camera) for g in (second, first))
    torch.testing.assert_close(found, turn(wanted), atol=2e-3, rtol=0)
    assert torch.linalg.det(second.camera.rotation) > 0.999
    for a, b in zip(seen_upright.crops, seen_lying.crops, strict=True):
        np.testing.assert_allclose(a, b, atol=0.02)
    for a, b in zip(seen_upright.maps, seen_lying.maps, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_a_face_without_points_is_taken_as_upright():
    predictor, network, labels = told()
    geometry = predictor(photo(), Face((40, 30, 120, 110), 0.9))
    assert len(network.crops) == 8  # two squares, four maps each
    torch.testing.assert_close(geometry.camera.rotation, labels.rotation[0])


def test_later_passes_cut_the_square_of_the_head_before():
    predictor, network, labels = told()
    image = photo()
    face = Face((60.0, 40.0, 120.0, 120.0), 0.9, None)
    config = DaslPredictConfig("none")
    once = predictor(image, face, config=replace(config, passes=1))
    assert len(network.crops) == 1
    points = project(predictor.model.landmarks(once.vertices_mm, "ibug68-3d-bfm"), once.camera)
    center, side = square_box(points)
    twice = predictor(image, face, config=config)
    assert len(network.crops) == 3
    np.testing.assert_array_equal(network.crops[2][0], crop_square(image, center, side, 48).image)
    found = project(predictor.model.landmarks(twice.vertices_mm, "ibug68-3d-bfm"), twice.camera)
    torch.testing.assert_close(
        found, in_photo(predictor.model, labels, center, side), atol=2e-3, rtol=0
    )
    predictor(image, (60, 40, 120, 100), config=replace(config, passes=3))
    assert len(network.crops) == 6


def test_landmarks_place_the_crop_of_a_detected_face_and_leave_a_given_square():
    predictor, network, labels = told()
    image = photo()
    points = in_photo(predictor.model, labels, (90, 80), 70.0)
    landmarks = Landmarks(points, torch.ones(68), "ibug68-3d-bfm")
    config = DaslPredictConfig("none")
    predictor(image, Face((10, 10, 30, 40), 0.9, None), landmarks, config)
    wanted = crop_square(image, *square_box(points), 48)
    assert len(network.crops) == 1
    np.testing.assert_array_equal(network.crops[0][0], wanted.image)
    predictor(image, (40, 30, 120, 110), landmarks, config)
    np.testing.assert_array_equal(network.crops[1][0], crop_square(image, (80, 70), 80, 48).image)


def test_sources_of_the_map():
    predictor, network, labels = told()
    model, head = predictor.model, predictor.head
    box, center, side = (40.0, 30.0, 120.0, 110.0), (80.0, 70.0), 80.0
    points = in_photo(model, some_labels(head, 4), center, side)
    landmarks = Landmarks(points, torch.ones(68), "ibug68-3d-bfm")
    empty = np.zeros((1, 18, 3), np.float32)

    def maps(source, **rest):
        network.maps.clear()
        predictor(photo(), box, landmarks, DaslPredictConfig(source, **rest))
        return list(network.maps)

    (none,) = maps("none")
    np.testing.assert_array_equal(none, empty)
    first, *own = maps("self", repeats=2)
    np.testing.assert_array_equal(first, empty)
    expected = own_points(head, labels)
    assert len(own) == 2 and expected[..., 2].sum() > 9
    for map_ in own:
        np.testing.assert_allclose(map_, expected, atol=1e-5)
    assert len(maps("self", repeats=0)) == 1
    (given,) = maps("detector")
    np.testing.assert_allclose(given, own_points(head, some_labels(head, 4)), atol=1e-4)
    assert np.abs(given - expected).max() > 0.1


def test_a_detector_may_give_any_set_that_the_map_follows_from():
    predictor, network, labels = told("lifemask")
    model = predictor.model
    with torch.no_grad():
        vertices = model(labels.identity, labels.expression)[0]
    geometry = predictor(photo(), (40, 30, 120, 110))
    sets = {}
    for name in ("lifemask392", "ibug68-3d-bfm", "ict68"):
        points = project(model.landmarks(vertices, name), geometry.camera)
        flat = torch.cat((points[:, :2], torch.full_like(points[:, :1], torch.nan)), 1)
        for columns, given in ((2, flat), (3, points)):
            network.maps.clear()
            landmarks = Landmarks(given, torch.ones(len(points)), name)
            predictor(photo(), (40, 30, 120, 110), landmarks, DaslPredictConfig("detector"))
            sets[name, columns] = network.maps[0]
    reference = sets["lifemask392", 3]
    assert reference[..., 2].sum() > 9
    np.testing.assert_allclose(sets["ibug68-3d-bfm", 3], reference, atol=1e-5)
    for (name, _), map_ in sets.items():
        both = (map_ * reference)[..., 2] == 1
        apart = np.abs(map_ - reference)[both].max()
        assert both.sum() >= 9
        assert apart < (0.1 if name == "ict68" else 1e-4), name  # that set differs in places


def test_a_detector_without_usable_landmarks_is_told():
    predictor, network, _ = told()
    config = DaslPredictConfig("detector")
    few = Landmarks(torch.rand(5, 3), torch.ones(5), "points5")
    for landmarks in (None, few):
        with pytest.raises(UserError, match="use 'self' or 'none'"):
            predictor(photo(), (40, 30, 120, 110), landmarks, config)
    assert network.crops == []
    predictor(photo(), (40, 30, 120, 110), few)  # not needed, not in the way


@pytest.mark.parametrize("settings", [
    {"landmarks": "oracle"}, {"repeats": -1}, {"passes": 0},
])  # fmt: skip
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match="valid: detector, self, none|at least"):
        DaslPredictConfig(**settings)


@pytest.mark.parametrize("signed", [False, True])
def test_expressions_stay_in_the_models_range(signed):
    model = toy.mask_model(signed)
    head = CoefficientHead(model)
    labels = replace(some_labels(head), expression=torch.tensor([[-4.0, 2.5]]))
    predictor = DaslPredictor(Told(head.pack(labels)), CONFIG, head, model, "open")
    geometry = predictor(photo(), (40, 30, 120, 110))
    wanted = torch.tensor([-3.0, 2.5] if signed else [0.0, 1.0])
    assert geometry.params is not None
    torch.testing.assert_close(geometry.params.expression, wanted)
    with torch.no_grad():
        torch.testing.assert_close(geometry.vertices_mm, model(labels.identity[0], wanted))


@pytest.mark.parametrize("pose", ["rot6d", "affine12"])
def test_a_batch_of_crops_equals_single_ones(pose):
    model = model_and_head()[0]
    torch.manual_seed(0)
    network = create_dasl(replace(CONFIG, pose=pose), model).eval()
    network.regressor.weight.data.mul_(30)
    predictor = DaslPredictor(
        TorchNetwork(ExportNet(network)), network.config, network.head, model, "open"
    )
    crops = torch.rand(5, 3, 48, 48)
    given = MapPoints(torch.rand(5, 18, 2) - 0.5, torch.rand(5, 18) > 0.2)
    for points, repeats in ((None, 0), (None, 3), (given, 0), (given, 1)):
        whole = predictor.predict_crops(crops, points, repeats)
        again = predictor.predict_crops(crops, points, repeats)
        assert torch.equal(whole.identity, again.identity)
        assert whole.identity.std(0).max() > 1e-3
        for i in range(5):
            own = points and MapPoints(points.points[i : i + 1], points.drawn[i : i + 1])
            one = predictor.predict_crops(crops[i : i + 1], own, repeats)
            for field in HeadLabels.__dataclass_fields__:
                a, b = getattr(whole, field)[i], getattr(one, field)[0]
                torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


def test_the_same_photo_gives_the_same_head():
    model = model_and_head()[0]
    torch.manual_seed(0)
    network = create_dasl(CONFIG, model).eval()
    predictor = DaslPredictor(TorchNetwork(ExportNet(network)), CONFIG, network.head, model, "open")
    face = Face((60.0, 40.0, 120.0, 120.0), 0.9, None)
    one, other = predictor(photo(), face), predictor(photo(), face)
    assert torch.equal(one.vertices_mm, other.vertices_mm)
    assert torch.equal(one.camera.rotation, other.camera.rotation)


def test_points_turned_away_are_not_drawn():
    model, head = model_and_head("lifemask")
    drawn = {}
    for yaw in (-60.0, 0.0, 60.0):
        labels = replace(
            some_labels(head, spread=0.0),
            rotation=toy.rotations(*(np.array([a]) for a in (yaw, 0, 0))),
        )
        points = photo_points(model, labels)
        for columns in (2, 3):
            drawn[yaw, columns] = map_points(points[None, :, :columns], 48, head).drawn[0]
    assert drawn[0.0, 3].all()
    for columns in (2, 3):
        left, right = drawn[-60.0, columns], drawn[60.0, columns]
        assert 9 <= left.sum() < 18 and 9 <= right.sum() < 18
        assert not torch.equal(left, right)


def photo_points(model, labels):
    """The labels' points in px of a crop of 48 px."""
    crop = crop_square(photo(), (80.0, 70.0), 80.0, 48)
    return photo_to_crop(in_photo(model, labels, crop.center_px, crop.side_px), crop)
