"""Landmarks on their way into a network that crops by them, and against what it answers."""

from __future__ import annotations

from dataclasses import replace

import torch

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import LANDMARK_SETS, convert, map18
from lifemask.faces.crop import Box
from lifemask.graphics.camera import project
from lifemask.methods._coefficients import LABEL_SETS
from lifemask.methods._fitting_task import seen_points
from lifemask.methods.fitting import fit_landmarks
from lifemask.types import Face, Geometry, Landmarks

SETS_68 = ("ibug68-3d-bfm", "ict68", "ibug68")
"""Sets of 68 that a face model may have; the first of them makes the crop, and 2DASL's map."""
POINTS5_FROM_MAP18 = ((6, 7, 8), (9, 10, 11), (13,), (15,), (17,))
"""Eyes, nose and mouth corners, as a detector gives them, in the set "map18"."""


def completed(landmarks: Landmarks, model: FaceModel) -> Landmarks:
    """All points of the set of 68 that a network's crop (and 2DASL's map) is made from, on the CPU.

    Points of other sets, or with some of them unseen, are carried there by the landmark fitter:
    the square is about all 68, and the map needs to know which points face the camera.

    Raises:
        UserError: landmarks that the fitter cannot take either.
    """
    target = next((name for name in SETS_68 if name in model.landmark_embeddings), "")
    if not target:
        raise UserError(f"face model {model.name!r} has none of the sets {', '.join(SETS_68)}")
    convention, points, sigma = landmarks.convention, landmarks.points, landmarks.sigma_px
    if bool(seen_points(landmarks).all()) and _converts(convention, target, len(points)):
        both = convert(torch.cat((points, sigma[:, None]), 1), convention, target).cpu()
        return Landmarks(both[:, :3], both[:, 3], target)
    geometry = fit_landmarks(landmarks, model)
    own = project(model.landmarks(geometry.vertices_mm, target), geometry.camera).cpu()
    spread = float(sigma[seen_points(landmarks)].median())
    return Landmarks(own, torch.full((len(own),), spread), target)


def landmark_distance_px(geometry: Geometry, landmarks: Landmarks, model: FaceModel) -> float:
    """Root mean square distance in (u, v) of seen landmarks and the geometry's own; NaN if unknown.

    Args:
        geometry: of any kind.
        landmarks: photo px.
        model: embeds their set, if the geometry is one of its heads.
    """
    name = landmarks.convention
    if geometry.model == model.name and name in model.landmark_embeddings:
        own = model.landmarks(geometry.vertices_mm, name)
    elif geometry.landmarks68_mm is not None and _converts("ict68", name, 68):
        own = convert(geometry.landmarks68_mm, "ict68", name)
    else:
        return float("nan")
    image, count = project(own, geometry.camera), min(len(own), len(landmarks.points))
    seen = seen_points(landmarks)[:count].to(image.device)
    offset = (image[:count, :2] - landmarks.points[:count, :2].to(image))[seen]
    return float(offset.square().sum(-1).mean().sqrt())


def with_distance(geometry: Geometry, landmarks: Landmarks | None, model: FaceModel) -> Geometry:
    """The geometry with its `landmark_distance_px` as residual; as it is without landmarks."""
    if landmarks is None:
        return geometry
    return replace(geometry, residual_px=landmark_distance_px(geometry, landmarks, model))


def map_landmarks(geometry: Geometry, model: FaceModel) -> Landmarks | None:
    """What a position map says of the model's landmarks, as if they had been looked for.

    Returns:
        Photo px, NaN where the map shows nothing, the method's own doubt as their spread; None for
        a geometry without such a map.
    """
    name = next((n for n in LABEL_SETS if n in model.landmark_embeddings), "")
    seen, doubt = geometry.map_vertices_px, geometry.uncertainty_px
    if seen is None or doubt is None or not name:
        return None
    embedding = model.landmark_embeddings[name]
    ids, weights = embedding.vertex_ids.to(seen.device), embedding.barycentric.to(seen)
    points = (seen[ids] * weights[..., None]).sum(1)
    spread = (doubt[ids] * weights).sum(1)
    return Landmarks(points, spread, name)


def upright_face(face: Face | Box, landmarks: Landmarks) -> Face:
    """The face with the five points that tell how it lies, from all 68 landmarks."""
    eighteen = map18(landmarks.points, landmarks.convention)
    points5 = torch.stack([eighteen[list(ids), :2].mean(0) for ids in POINTS5_FROM_MAP18])
    return Face(face.box if isinstance(face, Face) else face, 1.0, points5)


def _converts(source: str, target: str, count: int) -> bool:
    known = source in LANDMARK_SETS and LANDMARK_SETS[source].count == count
    if not known:
        return False
    try:
        convert(torch.zeros(count, 2), source, target)
    except KeyError:
        return False
    return True
