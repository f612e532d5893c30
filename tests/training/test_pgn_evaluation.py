"""Metrics of PGN: perfect answers are perfect, known errors have known sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import pgn_faces as toy
from helpers import pgn_terms as terms
from helpers.dasl_faces import rotations
from lifemask.methods._pgn_net import Frames, PgnNet
from lifemask.methods._targets import HeadLabels
from lifemask.methods.pgn import create_pgn
from lifemask.nn.parametric import LENGTH_MM
from lifemask.training.dasl_data import FaceSet, crop_labels
from lifemask.training.pgn_data import load_photos
from lifemask.training.pgn_evaluation import (
    _in_twos,
    evaluate,
    nominal_crops,
    predictions,
    shape_error_mm,
    subset,
)

NAME = "renders-open"
MASK = terms.face()


def told(labels: HeadLabels, identity: torch.Tensor | None = None) -> PgnNet:
    """A network that answers with a true map and coefficients; people's identities are averaged.

    Args:
        labels: of the faces in the order in which they are asked for.
        identity: what each photo says; None: the truth.
    """
    network = create_pgn(terms.SMALL, MASK)
    known = labels.identity if identity is None else identity
    nothing = torch.zeros(len(known), 0)
    answers = Frames(terms.true_map(labels), known, labels.expression, nothing, nothing[..., None]
                     .expand(-1, -1, 4))  # fmt: skip
    place = [0]

    def frames(crops):
        rows = slice(place[0], place[0] + len(crops))
        place[0] = rows.stop % len(known)
        return Frames(*(part[rows] for part in answers))

    def identity_of(features, person=None):
        if person is None:
            return features
        same = (person[:, None] == person).float()
        return (same / same.sum(1, keepdim=True)) @ features

    network.frames, network.identity_of = frames, identity_of  # type: ignore[method-assign]
    return network


def test_perfect_answers_are_perfect():
    """Up to what reading a coarse map of a coarse mask leaves."""
    faces = toy.faces_of(MASK, 5, 2)
    labels = crop_labels(faces.faces)
    network = told(labels)
    network.train()
    metrics = evaluate(network, {NAME: faces})
    assert not network.training
    assert metrics[NAME] < 0.15 and metrics[f"{NAME}_all"] < 0.15
    assert metrics[f"{NAME}_depth"] < 0.15 and metrics[f"{NAME}_map"] < 0.6
    assert metrics[f"{NAME}_angle_deg"] < 0.15
    for name in ("shape_mm", "two_mm"):
        assert metrics[f"{NAME}_{name}"] == pytest.approx(0, abs=1e-3)
    spread = float(labels.identity.square().mean().sqrt())
    assert metrics[f"{NAME}_identity"] == pytest.approx(spread, rel=1e-4)
    assert metrics[f"{NAME}_ratio"] > 1e6


def test_two_photos_of_a_person_are_heard_together():
    """What one says too much and the other too little is right between them."""
    faces = toy.faces_of(MASK, 4, 2)
    labels = crop_labels(faces.faces)
    error = torch.tensor([1.0, -1.0]).repeat(4)[:, None] * torch.eye(4)[0]
    metrics = evaluate(told(labels, labels.identity + error), {NAME: faces})
    network = create_pgn(terms.SMALL, MASK)
    mode = network.head.get_buffer("basis").unflatten(1, (-1, 3))[0] * LENGTH_MM
    wanted = float((mode - mode.mean(0)).norm(dim=-1).mean())
    assert metrics[f"{NAME}_shape_mm"] == pytest.approx(wanted, rel=1e-3)
    assert metrics[f"{NAME}_two_mm"] == pytest.approx(0, abs=1e-3)
    same = labels.identity + torch.eye(4)[0]
    metrics = evaluate(told(labels, same), {NAME: faces})
    assert metrics[f"{NAME}_two_mm"] == pytest.approx(wanted, rel=1e-3)


def test_known_errors_have_known_sizes():
    faces = toy.faces_of(MASK, 6, 1, yaw_deg=8)  # one bin of yaw
    true = crop_labels(faces.faces)
    points = faces.crops.points[..., :2]
    box = np.sqrt(np.prod(np.ptp(points, 1), -1)) / (toy.NOMINAL / 2)
    wanted = float((100 * 0.05 / box).mean())
    shifted = replace(true, shift=true.shift + torch.tensor([0.03, 0.04]))
    metrics = evaluate(told(shifted), {NAME: faces})
    assert metrics[NAME] == pytest.approx(wanted, rel=0.03)
    assert metrics[f"{NAME}_map"] == pytest.approx(wanted, rel=0.1)
    assert f"{NAME}_two_mm" not in metrics, "no two photos of anyone"
    assert np.isnan(metrics[f"{NAME}_ratio"])
    turn = rotations(*(np.array([x]) for x in (0.0, 0.0, 7.0)))
    metrics = evaluate(told(replace(true, rotation=turn @ true.rotation)), {NAME: faces})
    assert metrics[f"{NAME}_angle_deg"] == pytest.approx(7, abs=0.1)
    assert metrics[f"{NAME}_shape_mm"] == pytest.approx(0, abs=1e-3)


def test_photos_are_scored_by_their_marks_and_have_no_shape():
    faces = {n: load_photos(toy.photos_of(MASK, n), MASK) for n in ("aflw21", "ytf68")}
    renders = toy.faces_of(MASK, 4, 3, seed=9)
    for name, photos in faces.items():
        metrics = evaluate(told(crop_labels(renders.faces)), {name: photos})
        assert metrics[name] < 0.3 and metrics[f"{name}_map"] < 1
        assert not {f"{name}_shape_mm", f"{name}_angle_deg"} & set(metrics)
        assert (f"{name}_ratio" in metrics) == (name == "ytf68")


def test_the_networks_own_identity_is_scored():
    """The same numbers by its own fusion: two copies of a photo say what one says."""
    torch.manual_seed(0)
    network = create_pgn(terms.SMALL, MASK)
    faces = toy.faces_of(MASK, 3, 2)
    twice = faces.subset(np.array([0, 0, 2, 2, 4, 4]))
    metrics = evaluate(network, {NAME: twice})
    assert metrics[f"{NAME}_two_mm"] == pytest.approx(metrics[f"{NAME}_shape_mm"], rel=1e-4)
    found, _ = predictions(network, faces)
    apart = shape_error_mm(network, faces, found, found.identity)
    assert apart == pytest.approx(evaluate(network, {NAME: faces})[f"{NAME}_shape_mm"], rel=1e-5)
    assert 0.5 < apart < 20


def test_nominal_crops_have_the_labels_of_the_pictures():
    faces = toy.faces_of(MASK, 2, 2)
    for size in (48, 112):
        crops, wanted = nominal_crops(faces, np.array([3, 1]), size)
        assert crops.shape == (2, 3, size, size) and 0 <= crops.min() and crops.max() <= 1
        by_hand = (faces.crops.points[[3, 1], :, :2] + 0.5 - toy.SIZE / 2) / (toy.NOMINAL / 2)
        np.testing.assert_allclose(wanted[..., :2], by_hand, atol=1e-5)


# people


def test_a_part_of_a_set_has_whole_people():
    faces = toy.faces_of(MASK, 12, 3)
    few = subset(faces, 10)
    assert few.crops.person is not None
    names, counts = np.unique(few.crops.person, return_counts=True)
    assert len(few) == 9 and (counts == 3).all()
    assert names.tolist() == [0, 4, 8], "spread over the set"
    assert subset(faces, 36) is faces
    assert len(subset(faces, 1)) == 3
    crops = replace(faces.crops, person=None)
    nobody = replace(faces, faces=FaceSet(crops, faces.faces.labels))
    some = subset(nobody, 5)
    np.testing.assert_array_equal(some.crops.points, faces.crops.points[[0, 7, 14, 21, 28]])


def test_photos_of_a_person_are_taken_two_by_two():
    person = np.array([4, 4, 4, 7, 9, 9, 4])
    assert _in_twos(person).tolist() == [0, 0, 1, 2, 3, 3, 1]
