"""From the solver's state to `Geometry`."""

from __future__ import annotations

import torch

from lifemask.facemodel.base import FaceModel
from lifemask.graphics.pose import project_with_jacobian
from lifemask.methods._fitting_solver import State
from lifemask.methods._fitting_task import FitTask
from lifemask.types import Camera, Geometry, ModelParams


def geometry_of(state: State, model: FaceModel, residual_px: float, dtype: torch.dtype) -> Geometry:
    """The head of a state as `Geometry` of the given dtype."""
    coefficients = state.coefficients.to(dtype)
    identity, expression = coefficients.split((model.identity_size, len(model.expression_names)))
    camera = Camera(
        state.camera.model,
        state.camera.rotation.to(dtype),
        state.camera.translation.to(dtype),
        state.camera.scale.to(dtype),
        state.camera.center.to(dtype),
    )
    with torch.no_grad():
        vertices = model(identity, expression).to(dtype)
    has68 = "ict68" in model.landmark_embeddings
    return Geometry(
        vertices_mm=vertices,
        faces=model.topology.faces,
        camera=camera,
        model=model.name,
        params=ModelParams(identity, expression),
        landmarks68_mm=model.landmarks(vertices, "ict68") if has68 else None,
        residual_px=residual_px,
    )


def residual_px_of(state: State, task: FitTask) -> float:
    """Root mean square distance in (u, v); across the outline for sliding points."""
    observation = task.observe(state)
    image, _, _ = project_with_jacobian(observation.points.at(state.coefficients), state.camera)
    difference = (image - observation.target)[:, :2]
    squared = difference.square().sum(-1)
    if task.jaw is not None:
        normal = task.jaw.normals[task.jaw.seen]
        squared[: len(normal)] = (difference[: len(normal)] * normal).sum(-1) ** 2
    return float(squared.mean().sqrt())
