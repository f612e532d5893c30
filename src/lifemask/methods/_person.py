"""Several photos of one person by any method: together where it can, else made to agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.assets import UserError
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.camera import project
from lifemask.graphics.pose import procrustes_camera
from lifemask.methods._given_landmarks import with_distance
from lifemask.methods._stage import FaceInput, GeometryStage, PersonStage, moved
from lifemask.types import Geometry, ModelParams

FULL_FACE_PX = 120.0
"""Height of a face in px from which a photo counts fully: what a network's crop holds."""
_LEAST_FRONTAL = 0.2


def stage_together(
    stage: GeometryStage, seen: Sequence[FaceInput], model: FaceModel, device: str = "cpu"
) -> list[Geometry]:
    """Heads of one person in several photos, with one identity.

    A `PersonStage` finds it itself; the heads of another method are made to agree by
    `agreed_heads`.

    Args:
        stage: the method.
        seen: one face of each photo.
        model: the face model, on that device.
        device: of the geometries.

    Returns:
        Geometries in the photos' order; their `params.identity` are equal to the bit.

    Raises:
        UserError: a face cannot be reconstructed, or the method has no identity to share.
    """
    if isinstance(stage, PersonStage):
        return [moved(head, device) for head in stage.together(seen)]
    heads = agreed_heads([moved(stage(one), device) for one in seen], model)
    return [with_distance(h, one.landmarks, model) for h, one in zip(heads, seen, strict=True)]


def agreed_heads(heads: Sequence[Geometry], model: FaceModel) -> list[Geometry]:
    """Heads found one by one, with their mean identity in place of their own.

    The mean is weighted by `identity_weights`. Every head keeps its expression; its camera is
    solved again, so that the face stays where the method saw it (Procrustes on all its vertices).

    Args:
        heads: of the face model, orthographic, on its device.
        model: the face model.

    Raises:
        UserError: a head without parameters of this model, or another camera.
    """
    identities = []
    for head in heads:
        if head.params is None or head.model != model.name or head.camera.model != "orthographic":
            raise UserError(
                "several photos of one person need a method that finds parameters of the face"
                " model and an orthographic camera, or sees them together: fit, dasl or pgn"
            )
        identities.append(head.params.identity)
    weights = identity_weights(heads, model)
    identity = (weights[:, None] * torch.stack(identities)).sum(0) / weights.sum()
    return [_with_identity(head, identity, model) for head in heads]


def identity_weights(heads: Sequence[Geometry], model: FaceModel) -> Float[Tensor, " n"]:
    """How much each photo is believed about the identity, in (0, 1].

    The share that its face's height in px has of `FULL_FACE_PX`, at most 1, times the cosine of
    the angle between face and view, at least 0.2.
    """
    found = []
    for head in heads:
        height_mm = _face(head.vertices_mm, model)[:, 1]
        height_px = head.camera.scale * (height_mm.amax() - height_mm.amin())
        frontal = head.camera.rotation[2, 2].clamp_min(_LEAST_FRONTAL)
        found.append((height_px / FULL_FACE_PX).clamp_max(1.0) * frontal)
    return torch.stack(found)


def _with_identity(head: Geometry, identity: Tensor, model: FaceModel) -> Geometry:
    assert head.params is not None
    with torch.no_grad():
        vertices = model(identity, head.params.expression)
    before = project(_face(head.vertices_mm, model), head.camera)
    has68 = "ict68" in model.landmark_embeddings
    return replace(
        head,
        vertices_mm=vertices,
        camera=procrustes_camera(_face(vertices, model), before),
        params=ModelParams(identity, head.params.expression),
        landmarks68_mm=model.landmarks(vertices, "ict68") if has68 else None,
        residual_px=float("nan"),
    )


def _face(vertices_mm: Tensor, model: FaceModel) -> Tensor:
    """The face's vertices; all of a model that does not tell them."""
    region = model.topology.regions.get("face")
    return vertices_mm if region is None else vertices_mm[region]
