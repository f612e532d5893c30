"""Puts what the mouth reader saw into a head: the lips come as close, or as far, as they are.

The opening is a length on the mesh, so it is reached by moving the lips until the mesh has it. The
nearest mouth with that opening is taken: lips meet before the jaw rises, and show teeth before it
falls, for the chin is where the method saw it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.faces.mouth import GAPS, MOUTH, MouthReader, MouthReading, mouth_opening
from lifemask.faces.parsing import Regions
from lifemask.graphics.camera import project
from lifemask.types import Geometry

OWN_OPENING = 0.1
"""Standard deviation of the opening that a head has before the reader is asked."""
SHUT, AJAR = 0.05, 0.09
"""Openings below the first count as shut; between the two they are stretched to meet it."""
CLOSE_SHARE = 0.8
"""Of `jawOpen`, how much `mouthClose` surely makes the lips meet."""
MET_MM = 2.0
MORE_LIPS = 0.5
"""Activation of `LIPS` up to which lips part before the jaw falls."""
COVERED = 0.5
"""Mean probability of hands, things or hair over the mouth's points from which on it is not
asked."""
LIPS = tuple(
    f"mouth{part}{side}" for part in ("LowerDown", "UpperUp") for side in ("Left", "Right")
)
PARTING = (*LIPS, "mouthFunnel", "mouthShrugUpper")
"""Shapes that part the lips without the jaw."""
STEPS = 12


def has_mouth(model: FaceModel) -> bool:
    """Whether a model has what this stage moves: ARKit's mouth, and "ict68" to measure it by."""
    shapes = {"jawOpen", "mouthClose", *PARTING}
    return shapes <= set(model.expression_names) and "ict68" in model.landmark_embeddings


def read_mouth(
    image: UInt8[ndarray, "h w 3"],
    geometry: Geometry,
    model: FaceModel,
    reader: MouthReader,
    regions: Regions | None = None,
) -> Geometry:
    """The head with its lips as a close-up of the mouth shows them; see `with_mouth`.

    A head without a finite place in the photo stays as it is, and so does one whose mouth the
    regions say to be covered.
    """
    points = project(model.landmarks(geometry.vertices_mm, "ict68"), geometry.camera).cpu()
    if not bool(torch.isfinite(points).all()) or (regions is not None and covered(points, regions)):
        return geometry
    return with_mouth(geometry, model, reader(image, points))


def covered(points_px: Float[Tensor, "68 3"], regions: Regions) -> bool:
    """Whether something is before most of the mouth.

    Args:
        points_px: "ict68" in px of the photo that the regions describe.
        regions: of the photo.
    """
    hides = regions.sample(points_px[MOUTH, :2], "hair", "background", outside=1.0)
    return bool(hides.mean() > COVERED)


def with_mouth(geometry: Geometry, model: FaceModel, reading: MouthReading) -> Geometry:
    """The head with the mouth of a reading.

    Args:
        geometry: a head of the model, with its parameters.
        model: on the geometry's device; see `has_mouth`.
        reading: of the photo.
    """
    assert geometry.params is not None
    before = geometry.params.expression
    one = MouthReading(np.atleast_1d(reading.opening), np.atleast_1d(reading.sigma))
    points = model.landmarks(geometry.vertices_mm, "ict68").detach().cpu().double().numpy()
    given = np.zeros(len(model.expression_names), np.float64)
    given[: len(before)] = before.detach().cpu().double().numpy()
    identity = geometry.params.identity
    moved = moved_mouths(one, points[None], given[None], model, identity)[0]
    return with_expression(geometry, model, given, moved)


def with_expression(
    geometry: Geometry, model: FaceModel, given: Float[ndarray, " e"], moved: Float[ndarray, " e"]
) -> Geometry:
    """The head moved from one expression to another one; whatever else shaped it stays."""
    assert geometry.params is not None
    identity, before = geometry.params.identity, geometry.params.expression
    expression = torch.from_numpy(moved).to(before)
    with torch.no_grad():
        heads = model(
            identity.expand(2, -1), torch.stack((expression, torch.from_numpy(given).to(before)))
        )
    vertices = geometry.vertices_mm + (heads[0] - heads[1])
    return replace(
        geometry,
        vertices_mm=vertices,
        params=replace(geometry.params, expression=expression),
        landmarks68_mm=model.landmarks(vertices, "ict68"),
    )


def moved_mouths(
    readings: MouthReading,
    points_mm: Float[ndarray, "t 68 3"],
    expression: Float[ndarray, "t e"],
    model: FaceModel,
    identity: Float[Tensor, " i"],
) -> Float[ndarray, "t e"]:
    """Expressions whose lips are as far apart as they were read.

    Args:
        readings: of t frames.
        points_mm: "ict68" of the heads with the given expressions.
        expression: activations that methods found.
        model: linear in its expressions.
        identity: of all the frames.
    """
    names = model.expression_names
    ids = [names.index(name) for name in ("jawOpen", "mouthClose", *PARTING)]
    path, own = mouth_path(expression[:, ids])
    moves = np.einsum("tne,elc->tnlc", path - path[:, own, None], _deltas(model, identity, ids))
    openings = mesh_opening(points_mm[:, None] + moves)
    certain = readings.sigma**-2.0
    had = openings[:, own]
    wanted = (certain * readings.opening + OWN_OPENING**-2 * had) / (certain + OWN_OPENING**-2)
    tightest = np.minimum(openings[:, : own + 1].min(1), SHUT)
    pulled = tightest + (wanted - SHUT) * (AJAR - tightest) / (AJAR - SHUT)
    aim = np.where(wanted < AJAR, np.maximum(pulled, tightest), wanted)
    result = expression.astype(np.float64).copy()
    result[:, ids] = nearest_on_path(path, openings, own, aim)
    return result


def mouth_path(given: Float[ndarray, "t k"]) -> tuple[Float[ndarray, "t n k"], int]:
    """Activations from lips and jaw shut, through those given, to a mouth wide open.

    From the given ones down: the lips meet over the jaw (`mouthClose`), what parts them relaxes,
    the jaw rises. Up: the lips part further, then the jaw falls.

    Args:
        given: of `jawOpen`, `mouthClose` and `PARTING`.

    Returns:
        The path, and which step of it is the given one.
    """
    jaw, close, parting = given[:, 0], given[:, 1], given[:, 2:]
    met = np.maximum(close, CLOSE_SHARE * jaw)
    more = parting.copy()
    more[:, : len(LIPS)] = np.maximum(parting[:, : len(LIPS)], MORE_LIPS)
    corners = np.stack([
        np.column_stack((0 * jaw, 0 * close, 0 * parting)),
        np.column_stack((jaw, met, 0 * parting)),
        np.column_stack((jaw, met, parting)),
        np.column_stack((jaw, close, parting)),
        np.column_stack((jaw, np.minimum(close, 0.0), more)),
        np.column_stack((np.maximum(jaw, 1.0), np.minimum(close, 0.0), more)),
    ], 1)  # fmt: skip
    share = np.linspace(0, 1, STEPS, endpoint=False)[:, None]
    legs = [
        a[:, None] * (1 - share) + b[:, None] * share
        for a, b in zip(corners[:, :-1].swapaxes(0, 1), corners[:, 1:].swapaxes(0, 1), strict=True)
    ]
    return np.concatenate([*legs, corners[:, -1:]], 1), 3 * STEPS


def mesh_opening(points_mm: Float[ndarray, "*t 68 3"]) -> Float[ndarray, "*t"]:
    """`mouth_opening` of a mesh, 0 where the lips meet.

    Under a jaw that is down the lower lip lies behind the upper one and not below it: lips that
    touch in height are shut, and one gap is as wide as its length from `MET_MM` of height on.
    """
    height = sum(points_mm[..., a, 1] - points_mm[..., b, 1] for a, b in GAPS) / len(GAPS)
    share = np.clip(height / MET_MM, 0, 1)
    return mouth_opening(torch.from_numpy(points_mm)).numpy() * share


def nearest_on_path(
    path: Float[ndarray, "t n k"],
    openings: Float[ndarray, "t n"],
    own: int,
    aim: Float[ndarray, "t"],
) -> Float[ndarray, "t k"]:
    """The place of each path that has the opening aimed at and is nearest to the step `own`.

    Where no place has it, the one that comes closest.
    """
    result = path[:, own].copy()
    for row, (values, goal) in enumerate(zip(openings, aim, strict=True)):
        down = goal < values[own]
        order = np.arange(own, -1, -1) if down else np.arange(own, len(values))
        reached = values[order] <= goal if down else values[order] >= goal
        if not reached.any():
            result[row] = path[row, order[np.abs(values[order] - goal).argmin()]]
            continue
        after = int(reached.argmax())
        if after == 0:
            continue
        i, j = order[after - 1], order[after]
        share = (goal - values[i]) / (values[j] - values[i])
        result[row] = path[row, i] * (1 - share) + path[row, j] * share
    return result


def _deltas(
    model: FaceModel, identity: Float[Tensor, " i"], ids: list[int]
) -> Float[ndarray, "k 68 3"]:
    """How some expressions move the "ict68" points of a person."""
    expression = identity.new_zeros(len(ids) + 1, len(model.expression_names))
    expression[range(1, len(ids) + 1), ids] = 1.0
    with torch.no_grad():
        heads = model(identity.expand(len(expression), -1), expression)
        points = model.landmarks(heads, "ict68").double().cpu().numpy()
    return points[1:] - points[0]
