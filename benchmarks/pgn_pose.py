"""PGN's pose: from which points, with which weights, under which camera; and which mesh is closer.

Everything here is solved from what the network said of the crops once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from lifemask.graphics.pose import perspective_camera, procrustes_camera
from lifemask.methods._coefficients import CoefficientHead
from lifemask.methods._pgn_pose import HeadPose, solve_pose
from lifemask.methods._pgn_predict import FoundHeads
from lifemask.methods._targets import HeadLabels
from lifemask.methods.pgn import PgnNet
from lifemask.nn.parametric import LENGTH_MM
from lifemask.training.landmarker import face_errors
from pgn_cases import Answers, Cases, camera_of_labels, square_of, turn_to_sight
from pgn_limits import landmark_errors, pose_errors
from pgn_parts import Looked, Seen, angle_deg, head_points, heads_of, interval

FOCAL_BINS = (3.0, 5.0)  # image widths; below the first perspective should pay


class Solved(NamedTuple):
    """Angles (n,) in degrees to the true rotation of a pinhole camera.

    Attributes:
        orthographic: of the scaled orthographic solution as it is.
        turned: of the same, turned from the optical axis to where the face appears.
        perspective: of the perspective solution.
    """

    orthographic: ndarray
    turned: ndarray
    perspective: ndarray


def poses(net: PgnNet, cases: Cases, seen: Seen) -> dict[str, Any]:
    """Rotation error and landmark px with the map's weights and with equal ones."""
    alone = heads_of(net, seen)
    ways = {
        "solved, weights of the map": resolved(net, alone, seen, True),
        "solved, equal weights": resolved(net, alone, seen, False),
        "true shape, weights of the map": resolved(net, true_heads(alone, cases), seen, True),
        "true shape, equal weights": resolved(net, true_heads(alone, cases), seen, False),
    }
    out = {name: pose_errors(cases, answers_of(net, h, cases)) for name, h in ways.items()}
    angles = [
        angle_deg(ways[name].pose.rotation, cases.rotation_seen)
        for name in ("solved, weights of the map", "solved, equal weights")
    ]
    return out | {"weights of the map - equal": interval(angles[0] - angles[1], cases.person)}


def resolved(net: PgnNet, heads: FoundHeads, seen: Seen, weighted: bool) -> FoundHeads:
    """The heads with their pose solved again from the map's points."""
    ids = net.get_buffer("pose_ids")
    landmarks = net.read_landmarks(seen.frames.position_map)[:, ids]
    shape = net.head.shape(heads.identity, heads.expression)[:, ids]
    log_beta = landmarks[..., 3] if weighted else None
    return heads._replace(pose=solve_pose(shape, landmarks[..., :3], log_beta))


def true_heads(heads: FoundHeads, cases: Cases) -> FoundHeads:
    """The heads with their true coefficients."""
    return heads._replace(identity=cases.truth.identity, expression=cases.truth.expression)


def answers_of(net: PgnNet, heads: FoundHeads, cases: Cases) -> Answers:
    """Heads in crops as heads in the pictures."""
    labels = HeadLabels(*about_origin(net.head, heads.pose), heads.identity, heads.expression)
    return Answers(heads.identity, heads.expression, camera_of_labels(labels, cases.box))


def about_origin(head: CoefficientHead, pose: HeadPose) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation, scale and where the model's origin appears, of a pose about the pivot."""
    turned = pose.scale[:, None] * (pose.rotation @ head.get_buffer("pivot"))
    return pose.rotation, pose.scale, pose.shift - torch.stack((turned[:, 0], -turned[:, 1]), 1)


def perspective(net: PgnNet, cases: Cases, seen: Seen, truth: bool = False) -> dict[str, Any]:
    """Rotation error of pinhole pictures under both cameras, by focal length in image widths.

    Args:
        net: for what the map says at the landmarks.
        cases: pictures; orthographic ones are left out.
        seen: what the network said.
        truth: use the true shape in place of the predicted one.
    """
    rows = np.nonzero(np.isfinite(cases.focal_widths))[0]
    heads = heads_of(net, seen)
    if truth:
        heads = true_heads(heads, cases)
    found = both_cameras(net, cases, seen, heads, rows)
    edges = (0.0, *FOCAL_BINS, np.inf)
    widths, person = cases.focal_widths[rows], cases.person[rows]
    out = {}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        own = (widths >= low) & (widths < high)
        if not own.any():
            continue
        gain = found.perspective[own] - found.turned[own]
        out[f"{low:g}-{high:g}"] = {
            name: interval(values[own], person[own]) for name, values in found._asdict().items()
        } | {"perspective - turned": interval(gain, person[own])}
    return out


def both_cameras(net: PgnNet, cases: Cases, seen: Seen, heads: FoundHeads, rows: ndarray) -> Solved:
    """Both closed forms from the same points, the focal length and principal point known."""
    kind, index = torch.float64, torch.from_numpy(rows)
    head, ids = net.head, net.get_buffer("pose_ids")
    landmarks = net.read_landmarks(seen.frames.position_map)[index][:, ids].to(kind)
    shape = head.shape(heads.identity[index], heads.expression[index])[:, ids].to(kind)
    points_mm = LENGTH_MM * (shape + head.get_buffer("pivot").to(kind))
    (u, v), side = square_of(cases.box)
    points_px = landmarks[..., :3] * (side / 2) + landmarks.new_tensor([u, v, 0.0])
    weights = (-landmarks[..., 3]).exp()
    cameras = [cases.cameras[k] for k in rows]
    focal = torch.stack([c.scale for c in cameras]).to(kind)
    center = torch.stack([c.center for c in cameras]).to(kind)
    true = cases.rotation[index].to(kind)
    flat = procrustes_camera(points_mm, points_px, weights)
    place = (flat.scale[:, None] * (flat.rotation @ points_mm.mean(1)[..., None])[..., 0])[:, :2]
    offset = (flat.translation[:, :2] - center) * center.new_tensor([1.0, -1.0]) + place
    turn = turn_to_sight(torch.cat((offset, -focal[:, None]), 1))
    deep = perspective_camera(points_mm, points_px, focal, center, weights, nearness="sight")
    rotations = (flat.rotation, turn @ flat.rotation, deep.rotation)
    return Solved(*(angle_deg(rotation, true) for rotation in rotations))


def both_meshes(net: PgnNet, cases: Cases, seen: Seen) -> dict[str, Any]:
    """NME in % and 3D error in mm of the map's own landmarks and of the posed model's."""
    heads = heads_of(net, seen)
    scored = net.head.sets68[net.head.scored]
    (u, v), side = square_of(cases.box)
    true = cases.points(net.head.scored)
    on_map = net.read_landmarks(seen.frames.position_map)[:, scored, :3]
    posed = head_points(net, heads)[:, scored]
    errors = {
        name: landmark_errors(
            points * (side / 2) + points.new_tensor([u, v, 0.0]), true, cases.truth.camera.scale
        )
        for name, points in (("model", posed), ("map", on_map))
    }
    return _compared(errors, cases.person)


def both_meshes_of_photos(net: PgnNet, looked: Looked) -> dict[str, Any]:
    """NME in % of both meshes at the marks of held-out photos."""
    crops = looked.faces.crops
    scored = net.head.sets68[net.head.scored]
    posed = head_points(net, heads_of(net, looked.seen))[:, : net.head.landmarks]
    on_map = net.read_landmarks(looked.seen.frames.position_map)[..., :3]
    errors = {
        name: {"nme": face_errors(points.numpy(), looked.wanted, crops, scored)}
        for name, points in (("model", posed), ("map", on_map))
    }
    return _compared(errors, crops.person)


def _compared(errors: dict[str, dict[str, ndarray]], person: ndarray | None) -> dict[str, Any]:
    out: dict[str, Any] = {
        name: {metric: interval(values, person) for metric, values in own.items()}
        for name, own in errors.items()
    }
    model, on_map = errors["model"], errors["map"]
    return out | {"map - model": {m: interval(on_map[m] - model[m], person) for m in model}}
