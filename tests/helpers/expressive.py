"""Heads of the default model with some expression, and what their activations are."""

import torch

from lifemask.graphics.camera import orthographic_camera
from lifemask.types import Geometry, ModelParams


def expression_of(model, **activations: float) -> torch.Tensor:
    """All activations (e,), those that are not named 0."""
    expression = torch.zeros(len(model.expression_names))
    for name, value in activations.items():
        expression[model.expression_names.index(name)] = value
    return expression


def points_of(model, **activations: float) -> torch.Tensor:
    """The "ict68" points (68, 3) mm of the mean head with an expression."""
    head = model(torch.zeros(model.identity_size), expression_of(model, **activations))
    return model.landmarks(head, "ict68")


def geometry(model, seed=0, **activations: float) -> Geometry:
    """A head of some identity with an expression, seen from the front at 2 px a mm."""
    generator = torch.Generator().manual_seed(seed)
    identity = torch.randn(model.identity_size, generator=generator) * 0.7
    expression = expression_of(model, **activations)
    vertices = model(identity, expression)
    camera = orthographic_camera(torch.eye(3), 2.0, torch.tensor([300.0, 200.0]))
    return Geometry(
        vertices, model.topology.faces, camera, model.name, ModelParams(identity, expression),
        model.landmarks(vertices, "ict68"),
    )  # fmt: skip


def activation(head: Geometry, model, name: str) -> float:
    """How far an expression of a head is on."""
    assert head.params is not None
    return float(head.params.expression[model.expression_names.index(name)])
