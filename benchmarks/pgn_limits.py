"""What limits a system: errors of its heads when parts of them are replaced by the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.graphics.camera import project
from lifemask.training.dasl_labels import landmark_function
from pgn_cases import SCORED, Answers, Cases
from pgn_parts import BATCH, angle_deg, interval, rigid_distance

PARTS: dict[str, tuple[str, ...]] = {
    "as predicted": (),
    "true pose": ("camera",),
    "true identity": ("identity",),
    "true expression": ("expression",),
    "true shape": ("identity", "expression"),
    "all true": ("camera", "identity", "expression"),
}
"""What is replaced in each row; "all true" is what an orthographic camera cannot say."""

Errors = dict[str, ndarray]


def bottleneck(cases: Cases, answers: Answers) -> dict[str, Any]:
    """Errors with their intervals over people, for every row of `PARTS`."""
    rows = {name: errors_of(cases, with_truth(answers, cases.truth, name)) for name in PARTS}
    return {
        name: {metric: interval(values, cases.person) for metric, values in errors.items()}
        for name, errors in rows.items()
    } | {
        f"{name} - as predicted": {
            metric: interval(values - rows["as predicted"][metric], cases.person)
            for metric, values in errors.items()
        }
        for name, errors in rows.items()
        if name != "as predicted"
    }


def with_truth(answers: Answers, truth: Answers, row: str) -> Answers:
    """The answers with the parts of a row from the truth."""
    return replace(answers, **{part: getattr(truth, part) for part in PARTS[row]})


def errors_of(cases: Cases, answers: Answers) -> Errors:
    """Errors (n,) of each picture.

    nme_68, nme_51: % of sqrt(w h) of the true 68 points' box. landmarks_px, and landmarks_mm in
    3D, w along the line of sight with its mean taken out, over the true scale. shape_mm: the
    face's vertices as in the picture, after a rigid motion.
    """
    points = posed_landmarks(cases.model, answers)
    return landmark_errors(points, cases.points(), cases.truth.camera.scale) | {
        "shape_mm": shape_errors_mm(cases.model, answers, cases.truth)
    }


def posed_landmarks(model: FaceModel, answers: Answers, convention: str = SCORED) -> Tensor:
    """(n, k, 3) in px (u, v, w)."""
    shape = landmark_function(model, convention)(answers.identity, answers.expression)
    return project(shape, answers.camera)


def landmark_errors(points: Tensor, true: Tensor, px_per_mm: Tensor) -> Errors:
    """Errors of 68 landmarks (n, 68, 3) in px against the true ones."""
    size = (true[..., :2].amax(1) - true[..., :2].amin(1)).prod(-1).sqrt()
    flat = (points - true)[..., :2].norm(dim=-1)
    apart = points - true
    apart[..., 2] -= apart[..., 2].mean(1, keepdim=True)
    errors = {
        "nme_68": 100 * flat.mean(1) / size,
        "nme_51": 100 * flat[:, 17:].mean(1) / size,
        "landmarks_px": flat.mean(1),
        "landmarks_mm": apart.norm(dim=-1).mean(1) / px_per_mm,
    }
    return {name: values.double().numpy() for name, values in errors.items()}


@torch.no_grad()
def shape_errors_mm(model: FaceModel, found: Answers, true: Answers) -> ndarray:
    """Mean distance (n,) of the face's vertices with expression, after a rigid motion."""
    face = model.topology.regions["face"]
    errors = []
    for start in range(0, len(found.identity), BATCH):
        rows = slice(start, start + BATCH)
        ours, theirs = (model(x.identity[rows], x.expression[rows])[:, face] for x in (found, true))
        errors.append(rigid_distance(ours, theirs).mean(1))
    return torch.cat(errors).numpy()


def pose_errors(cases: Cases, answers: Answers) -> dict[str, Any]:
    """Angles between rotations and landmark px, with intervals.

    rotation_deg: against the line of sight, as a crop shows the head. camera_deg: against the
    camera of the whole picture, whose axis may point elsewhere.
    """
    angle = angle_deg(answers.camera.rotation, cases.rotation_seen)
    values = {
        "rotation_deg": angle,
        "camera_deg": angle_deg(answers.camera.rotation, cases.rotation),
        "landmarks_px": errors_of(cases, answers)["landmarks_px"],
    }
    out: dict[str, Any] = {k: interval(v, cases.person) for k, v in values.items()}
    return out | {"rotation_deg_median": round(float(np.median(angle)), 3)}


def differences(cases: Cases, first: Answers, second: Answers) -> dict[str, Any]:
    """First minus second on the same pictures: rotation, NME and shape."""
    angle = [angle_deg(x.camera.rotation, cases.rotation_seen) for x in (first, second)]
    errors = [errors_of(cases, x) for x in (first, second)]
    out = {"rotation_deg": interval(angle[0] - angle[1], cases.person)}
    for metric in ("nme_68", "nme_51", "landmarks_mm", "shape_mm"):
        out[metric] = interval(errors[0][metric] - errors[1][metric], cases.person)
    return out
