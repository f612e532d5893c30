"""Evaluation of 2DASL: perfect coefficients, and what each source of maps uses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import dasl_faces as toy
from lifemask.data.base import CropSet
from lifemask.methods.dasl import DaslConfig, DaslNet, create_dasl
from lifemask.nn.parametric import LENGTH_MM
from lifemask.training.dasl_data import FaceSet, crop_labels
from lifemask.training.dasl_evaluation import evaluate, nominal_crops, predictions, subset

SIZE = 48
MASK = toy.mask_model()
CONFIG = DaslConfig("tiny", SIZE)


def answer_by(network: DaslNet, regress) -> None:
    vars(network)["regress"] = regress


def use_map_reader(network: DaslNet) -> "MapReader":
    reader = MapReader(network)
    answer_by(network, reader)
    return reader


def told(answers: torch.Tensor, network: DaslNet | None = None) -> DaslNet:
    """A network that says these raw coefficients (n, D), row by row, again and again."""
    network = network or create_dasl(CONFIG, MASK)
    given = network.head.whitened(answers)
    place = [0]

    def regress(crops, points, drawn):
        rows = given[place[0] : place[0] + len(crops)]
        place[0] = (place[0] + len(crops)) % len(given)
        return rows

    answer_by(network, regress)
    return network


class MapReader:
    """A network that puts the head where the middle of the map's points lies."""

    def __init__(self, network: DaslNet) -> None:
        self.seen: list[torch.Tensor] = []
        self.head = network.head

    def __call__(self, crops, points, drawn):
        known = drawn[..., None].float()
        self.seen.append(torch.cat((points * known, known), -1))
        raw = self.head.raw(torch.zeros(len(crops), self.head.size))
        raw[:, 7:9] = (points * known).sum(1) / known.sum(1).clamp_min(1)
        return self.head.whitened(raw)


@pytest.mark.parametrize("pose", ["rot6d", "affine12"])
def test_perfect_coefficients_are_perfect(pose):
    faces = toy.faces_of(MASK, 7)
    network = create_dasl(replace(CONFIG, pose=pose), MASK)
    network = told(network.head.pack(crop_labels(faces)), network)
    metrics = evaluate(network, {"renders-open": faces}, sources=("detector",))
    for name in ("", "_all", "_depth", "_shape_mm", "_bin0"):
        assert metrics[f"renders-open{name}"] == pytest.approx(0, abs=1e-3)
    assert metrics["renders-open_angle_deg"] == pytest.approx(0, abs=0.05)
    assert faces.labels is not None
    spread = np.sqrt((faces.labels.identity**2).mean())
    assert metrics["renders-open_identity"] == pytest.approx(spread, rel=1e-4)


def test_what_an_orthographic_camera_cannot_say_is_left_over():
    faces = toy.faces_of(MASK, 7, yaw_deg=8)  # one bin of yaw
    rng = np.random.default_rng(0)
    away = rng.normal(0, 1, (7, 68, 2)).astype(np.float32)
    points = faces.crops.points.copy()
    points[..., :2] += away
    moved = FaceSet(replace(faces.crops, points=points), faces.labels, faces.detected)
    network = create_dasl(CONFIG, MASK)
    network = told(network.head.pack(crop_labels(faces)), network)
    metrics = evaluate(network, {"renders-open": moved}, sources=("detector",))
    box = np.sqrt(np.prod(np.ptp(points[..., :2], 1), -1))
    residual = 100 * (np.linalg.norm(away, axis=-1).mean(1) / box).mean()
    assert metrics["renders-open"] == pytest.approx(residual, rel=1e-3)
    assert metrics["renders-open_shape_mm"] == pytest.approx(0, abs=1e-3)


def test_known_errors_have_known_sizes():
    faces = toy.faces_of(MASK, 5, yaw_deg=8)
    true = crop_labels(faces)
    network = create_dasl(CONFIG, MASK)
    turn = toy.rotations(*(np.array([x]) for x in (0.0, 0.0, 7.0)))
    shifted = replace(true, shift=true.shift + torch.tensor([0.03, 0.04]))
    metrics = evaluate(
        told(network.head.pack(shifted)), {"renders-open": faces}, sources=("detector",)
    )
    points = faces.crops.points[..., :2]
    box = np.sqrt(np.prod(np.ptp(points, 1), -1)) / (toy.NOMINAL / 2)
    assert metrics["renders-open"] == pytest.approx((100 * 0.05 / box).mean(), rel=1e-3)
    turned = replace(true, rotation=turn @ true.rotation)
    metrics = evaluate(
        told(network.head.pack(turned)), {"renders-open": faces}, sources=("detector",)
    )
    assert metrics["renders-open_angle_deg"] == pytest.approx(7, abs=0.05)
    assert metrics["renders-open_shape_mm"] == pytest.approx(0, abs=1e-3)
    other = replace(true, identity=true.identity + torch.eye(MASK.identity_size)[0] * 2)
    metrics = evaluate(
        told(network.head.pack(other)), {"renders-open": faces}, sources=("detector",)
    )
    mode = network.head.get_buffer("basis").unflatten(1, (-1, 3))[0] * 2 * LENGTH_MM
    wanted = (mode - mode.mean(0)).norm(dim=-1).mean()
    assert metrics["renders-open_shape_mm"] == pytest.approx(float(wanted), rel=1e-3)


def test_labels_of_nominal_crops_reproduce_their_points():
    for size in (48, 112):
        faces = toy.faces_of(MASK, 4)
        head = create_dasl(CONFIG, MASK).head
        labels = crop_labels(faces)
        found = head(head.whitened(head.pack(labels))).points[:, :68]
        ids = np.arange(4)
        _, wanted = nominal_crops(faces, ids, size)
        np.testing.assert_allclose(found[..., :2], wanted[..., :2], atol=1e-5)
        depths = (x - x.mean(1, keepdims=True) for x in (found[..., 2].numpy(), wanted[..., 2]))
        np.testing.assert_allclose(*depths, atol=1e-5)
        by_hand = (faces.crops.points[..., :2] + 0.5 - toy.SIZE / 2) / (toy.NOMINAL / 2)
        np.testing.assert_allclose(wanted[..., :2], by_hand, atol=1e-5)
    with pytest.raises(ValueError, match="wild-renders has no coefficients"):
        crop_labels(toy.wild_faces(MASK))


def shifted_sets() -> FaceSet:
    """Faces whose detected points lie 10 px to the right of their labels."""
    faces = toy.faces_of(MASK, 4)
    assert faces.detected is not None
    moved = faces.detected.points + np.float32([10, 0])
    return FaceSet(faces.crops, faces.labels, replace(faces.detected, points=moved))


def test_each_source_uses_the_map_it_names():
    faces = shifted_sets()
    network = create_dasl(CONFIG, MASK)
    reader = use_map_reader(network)
    u = {}
    for source, found, _ in predictions(network, faces):
        u[source] = float(found.coefficients[:, 7].mean())
    assert u["none"] == pytest.approx(0, abs=1e-4)
    assert u["detector"] - u["oracle"] == pytest.approx(10 / (toy.NOMINAL / 2), rel=0.05)
    count = [int(m[..., 2].any()) for m in reader.seen]
    # per batch: none; self, first empty and then three of its own; detector; oracle
    assert count == [0, 0, 1, 1, 1, 1, 1]
    head = network.head
    points, drawn = head.own_map(head(head.whitened(head.raw(torch.zeros(4, head.size)))))
    torch.testing.assert_close(reader.seen[2][..., :2], points * drawn[..., None])


def test_hidden_and_missing_points_are_not_drawn():
    faces = shifted_sets()
    visible = faces.crops.visible.copy()
    visible[:, 36] = False  # a corner of an eye, a map point of its own
    faces = FaceSet(replace(faces.crops, visible=visible), faces.labels, None)
    network = create_dasl(CONFIG, MASK)
    reader = use_map_reader(network)
    list(predictions(network, faces, ("oracle", "detector")))
    oracle, detector = reader.seen
    assert not detector.any()  # no landmarker was asked
    assert oracle[..., 2].sum(1).eq(17).all()
    points = faces.crops.points[:, 48, :2]  # a corner of the mouth, likewise
    at = (points + 0.5 - toy.SIZE / 2) / (toy.NOMINAL / 2)
    apart = (oracle[:, :, :2] - torch.tensor(at)[:, None]).norm(dim=-1)
    torch.testing.assert_close(apart.amin(1), torch.zeros(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("input_map", "main"),
    [("on", "detector"), ("oracle", "detector"), ("off", "none"), ("self", "self")],
)
def test_the_main_metric_is_that_of_the_map_the_network_was_made_for(input_map, main):
    faces = shifted_sets()
    network = create_dasl(CONFIG, MASK)
    use_map_reader(network)
    metrics = evaluate(network, {"renders-open": faces}, input_map)
    names = {s for s in ("none", "self", "detector", "oracle") if f"renders-open_{s}" in metrics}
    assert names == {"none", "self", "detector", "oracle"} - {main}
    alone = evaluate(network, {"renders-open": faces}, input_map, sources=(main,))
    assert alone["renders-open"] == metrics["renders-open"]


def test_photos_are_scored_in_their_own_sets(tmp_path):
    from lifemask.facemodel import load_face_model
    from lifemask.training.crop_sources import real_crops

    model = load_face_model()
    toy.write_prepared(tmp_path, model, 5)
    renders = toy.faces_of(model, 5, seed=21)
    network = create_dasl(CONFIG, model)
    answers = network.head.pack(crop_labels(renders))
    for name in ("aflw21", "ytf68"):
        crops: CropSet = real_crops(name, None, tmp_path)[1]
        metrics = evaluate(told(answers, network), {name: FaceSet(crops)})
        # our 68 points are not those that YouTube Faces was labelled with
        assert metrics[name] == pytest.approx(0, abs=1e-3 if name == "aflw21" else 6)
        assert metrics[f"{name}_identity"] > 0.5
        assert f"{name}_shape_mm" not in metrics


def test_evaluation_takes_crops_evenly_and_in_any_batches():
    faces = toy.faces_of(MASK, 12)
    few = subset(faces, 5)
    np.testing.assert_array_equal(few.crops.points, faces.crops.points[[0, 2, 4, 7, 9]])
    assert subset(faces, 12) is faces
    network = create_dasl(CONFIG, MASK)
    network.train()
    answers = network.head.pack(crop_labels(faces))
    (whole,) = predictions(told(answers, network), faces, ("oracle",), batch=12)
    (parts,) = predictions(told(answers, network), faces, ("oracle",), batch=5)
    np.testing.assert_allclose(whole[1].points, parts[1].points, atol=1e-6)
    np.testing.assert_array_equal(whole[2], parts[2])
    evaluate(network, {"renders-open": few}, sources=("none",))
    assert not network.training
