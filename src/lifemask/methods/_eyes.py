"""Puts what the eye reader saw into a head: lids and gaze become blendshapes.

The opening of the lids is a length on the mesh, so it is reached by moving the lids until the mesh
has it: whoever made the head, and whatever identity and other expressions do to its eyes.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.gaze import SIDES, look_activations
from lifemask.faces.eyes import LIDS, EyeReader, EyeReading, lid_opening
from lifemask.faces.parsing import GLASSES, Regions
from lifemask.graphics.camera import project
from lifemask.methods._mouth import with_expression
from lifemask.types import Geometry

OWN_OPENING, OWN_GAZE_DEG = 0.12, 12.0
"""Standard deviation of the opening and the gaze that a head has before the reader is asked."""
SHUT, AJAR = 0.085, 0.14
"""Openings below the first count as shut; between the two they are stretched to meet it: a slit
that is left of a shut eye looks wrong, and nobody holds the lids like that."""
MOST_OVERLAP = 0.05
"""How far lids that press on each other may overlap; a blink with the eyes cast down would more."""
BLINK_STEPS = 17
MOSTLY = 0.5
"""Mean probability of glass over the points of an eye from which on nothing of it is seen: a frame
of clear glasses crosses some of them."""
WIDE_MARGIN = 0.5
"""Standard deviations by which an eye must be opener than at rest before it counts as wide."""


def has_lids(model: FaceModel) -> bool:
    """Whether a model has what this stage moves: ARKit's lids, and "ict68" to measure them by."""
    lids = {f"eye{shape}{side}" for shape in ("Blink", "Wide", "Squint") for side in SIDES}
    return lids <= set(model.expression_names) and "ict68" in model.landmark_embeddings


def read_eyes(
    image: UInt8[ndarray, "h w 3"],
    geometry: Geometry,
    model: FaceModel,
    reader: EyeReader,
    lids: bool = True,
    regions: Regions | None = None,
) -> Geometry:
    """The head with lids and gaze as close-ups of its eyes show them; see `with_eyes`.

    A head without a finite place in the photo stays as it is. Eyes that the regions say to be
    behind dark glass are open and look ahead.
    """
    points = project(model.landmarks(geometry.vertices_mm, "ict68"), geometry.camera).cpu()
    if not bool(torch.isfinite(points).all()):
        return geometry
    hidden = (False, False) if regions is None else behind_glass(points, regions)
    return with_eyes(geometry, model, reader(image, points), lids, hidden)


def behind_glass(points_px: Float[Tensor, "68 3"], regions: Regions) -> tuple[bool, bool]:
    """Whether dark glass is before the eye at +x, and before the one at -x.

    Args:
        points_px: "ict68" in px of the photo that the regions describe.
        regions: of the photo.
    """
    left, right = (
        bool(regions.sample(points_px[part, :2], GLASSES, outside=0.0).mean() > MOSTLY)
        for part in LIDS
    )
    return left, right


def with_eyes(
    geometry: Geometry,
    model: FaceModel,
    reading: EyeReading,
    lids: bool = True,
    hidden: tuple[bool, bool] = (False, False),
) -> Geometry:
    """The head with the lids and the gaze of a reading.

    Args:
        geometry: a head of the model, with its parameters.
        model: on the geometry's device; see `has_lids`.
        reading: of the photo.
        lids: move the lids; else only the eyes.
        hidden: eyes of which nothing is seen, the one at +x first: they are open and look ahead.
    """
    assert geometry.params is not None
    before = geometry.params.expression
    one = EyeReading(**{name: value[None] for name, value in vars(reading).items()})
    points = model.landmarks(geometry.vertices_mm, "ict68").detach().cpu().double().numpy()
    given = np.zeros(len(model.expression_names), np.float64)
    given[: len(before)] = before.detach().cpu().double().numpy()
    identity = geometry.params.identity
    moved = moved_expressions(one, points[None], given[None], model, identity, lids)[0]
    for side, unseen in zip(SIDES, hidden, strict=True):
        shapes = ("eye",) if lids else ("eyeLook",)
        at_rest = [
            name.startswith(shapes) and name.endswith(side) for name in model.expression_names
        ]
        moved[np.array(at_rest) & unseen] = 0
    return with_expression(geometry, model, given, moved)


def moved_expressions(
    readings: EyeReading,
    points_mm: Float[ndarray, "t 68 3"],
    expression: Float[ndarray, "t e"],
    model: FaceModel,
    identity: Float[Tensor, " i"],
    lids: bool = True,
) -> Float[ndarray, "t e"]:
    """Expressions whose lids are as open, and whose eyes look, as they were read.

    Args:
        readings: of t frames.
        points_mm: "ict68" of the heads with the given expressions.
        expression: activations that methods found.
        model: linear in its expressions.
        identity: of all the frames.
        lids: move the lids; else only the eyes.
    """
    names = model.expression_names
    deltas = _deltas(model, identity)
    given, result = expression, expression.astype(np.float64).copy()
    gaze = _joined(
        readings.gaze_deg, readings.gaze_sigma_deg, gaze_of(expression, names), OWN_GAZE_DEG
    )
    own = lid_opening(torch.from_numpy(points_mm)).numpy()
    wanted = _joined(readings.opening, readings.opening_sigma, own, OWN_OPENING)
    awake = np.clip((wanted - SHUT) / (AJAR - SHUT), 0, 1)
    for index, value in look_activations(gaze, names).items():
        seen = awake[:, SIDES.index("Right" if names[index].endswith("Right") else "Left")]
        result[:, index] = value * (seen if lids else 1.0)
    if not lids:
        return result
    for k, side in enumerate(SIDES):
        blink, squint, wide = (
            names.index(f"eye{shape}{side}") for shape in ("Blink", "Squint", "Wide")
        )
        path = lid_path(result[:, squint])  # (t, n, 3): blink, squint, wide
        tried = np.repeat(result[:, None], path.shape[1], 1)
        tried[..., [blink, squint, wide]] = path
        points = points_mm[:, None] + np.einsum("tne,elc->tnlc", tried - given[:, None], deltas)
        openings = _signed_opening(points)[..., k]
        rest = openings[:, BLINK_STEPS - 1]
        margin = WIDE_MARGIN * readings.opening_sigma[:, k]
        aim = np.where(wanted[:, k] > rest, np.maximum(wanted[:, k] - margin, rest), wanted[:, k])
        tightest = np.maximum(openings[:, 0], -MOST_OVERLAP)
        pulled = tightest + (aim - SHUT) * (AJAR - tightest) / (AJAR - SHUT)
        aim = np.where(aim < AJAR, np.maximum(pulled, tightest), aim)
        result[:, [blink, squint, wide]] = _reached(path, openings, aim)
    return result


def lid_path(squint: Float[ndarray, " t"]) -> Float[ndarray, "t n 3"]:
    """Activations of blink, squint and wide from a shut eye to one that is wide open.

    First the blink opens, then the squint relaxes, then the eye gets wide.
    """
    count = len(squint)
    shut = np.linspace(1, 0, BLINK_STEPS)
    relaxed = np.linspace(1, 0, 4)[1:]
    wide = np.linspace(0, 1, 6)[1:]
    steps = np.zeros((count, BLINK_STEPS + len(relaxed) + len(wide), 3))
    steps[:, :BLINK_STEPS, 0] = shut
    steps[:, :BLINK_STEPS, 1] = squint[:, None]
    steps[:, BLINK_STEPS : BLINK_STEPS + len(relaxed), 1] = squint[:, None] * relaxed
    steps[:, BLINK_STEPS + len(relaxed) :, 2] = wide
    return steps


def _signed_opening(points_mm: Float[ndarray, "*t 68 3"]) -> Float[ndarray, "*t 2"]:
    """`lid_opening`, below 0 where the upper lid has passed the lower one."""
    unsigned = lid_opening(torch.from_numpy(points_mm)).numpy()
    up = [points_mm[..., part, 1] for part in LIDS]
    rise = [y[..., 1] + y[..., 2] - y[..., 4] - y[..., 5] for y in up]
    return unsigned * np.sign(np.stack(rise, -1))


def _reached(path: ndarray, openings: ndarray, aim: ndarray) -> Float[ndarray, "t 3"]:
    """The place of each path (t, n, 3) whose opening (t, n) is the one aimed at (t,)."""
    rising = np.maximum.accumulate(openings, 1)
    last = rising.shape[1] - 1
    after = np.clip((rising < aim[:, None]).sum(1), 1, last)
    rows = np.arange(len(path))
    low, high = rising[rows, after - 1], rising[rows, after]
    share = np.clip((aim - low) / np.maximum(high - low, 1e-9), 0, 1)[:, None]
    return path[rows, after - 1] * (1 - share) + path[rows, after] * share


def _joined(read: ndarray, sigma: ndarray, own: ndarray, own_sigma: float) -> ndarray:
    """What was read and what the head had, weighed by their certainties."""
    certain = sigma**-2.0
    return (certain * read + own_sigma**-2 * own) / (certain + own_sigma**-2)


def gaze_of(expression: ndarray, names: tuple[str, ...]) -> Float[ndarray, "t 2 2"]:
    """Pitch and yaw behind the eyeLook activations of expressions (t, e)."""
    unit = np.array([[[1.0, 0.0], [1.0, 0.0]], [[-1.0, 0.0], [-1.0, 0.0]],
                     [[0.0, 1.0], [0.0, 1.0]], [[0.0, -1.0], [0.0, -1.0]]])  # fmt: skip
    gaze = np.zeros((len(expression), 2, 2))
    for direction in unit:
        for index, full in look_activations(direction, names).items():  # 1 degree's activation
            side = int(names[index].endswith("Right"))
            if full > 0:
                gaze[:, side] += expression[:, index, None] / full * direction[side]
    return gaze


def _deltas(model: FaceModel, identity: Float[Tensor, " i"]) -> Float[ndarray, "e 68 3"]:
    """How each expression of the eyes moves the "ict68" points of a person; 0 for the others."""
    moving = [k for k, name in enumerate(model.expression_names) if name.startswith("eye")]
    expression = identity.new_zeros(len(moving) + 1, len(model.expression_names))
    expression[range(1, len(moving) + 1), moving] = 1.0
    with torch.no_grad():
        heads = model(identity.expand(len(expression), -1), expression)
        points = model.landmarks(heads, "ict68").double().cpu().numpy()
    deltas = np.zeros((len(model.expression_names), 68, 3))
    deltas[moving] = points[1:] - points[0]
    return deltas
